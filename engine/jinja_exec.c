/* jinja_exec.c: statements, scopes, loops and macros. */
#include "jinja.h"

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

static enum flow exec_body(struct jinja *j, const struct nodes *body);

/* ---- scopes ---- */

static bool exec_same_name(const struct text *a, const struct text *b)
{
    return a == b || (a->n == b->n && memcmp(a->p, b->p, a->n) == 0);
}

static void exec_bind(struct jinja *j, const struct text *name, struct val v)
{
    struct binding *b;
    size_t looked_at = 0;
    for (b = j->scope->vars; b; b = b->next, looked_at += 8) {
        if (!exec_same_name(b->name, name)) continue;
        b->v = v;
        return;
    }
    jinja_charge(j, looked_at);
    b = j->free_bindings;
    if (b)
        j->free_bindings = b->next;
    else
        b = jinja_alloc(j, sizeof *b);
    *b = (struct binding){name, v, j->scope->vars};
    j->scope->vars = b;
}

/* Makes a new scope the current one; gives the one that was, for exec_leave. */
static struct scope *exec_enter(struct jinja *j, struct scope *parent, const struct names *hidden)
{
    struct scope *old = j->scope, *s = j->free_scopes;
    int i;
    if (s)
        j->free_scopes = s->parent;
    else
        s = jinja_alloc(j, sizeof *s);
    *s = (struct scope){.parent = parent};
    j->scope = s;
    for (i = 0; hidden && i < hidden->n; i++) exec_bind(j, hidden->p[i], jinja_missing());
    return old;
}

/* Scopes of loops come and go by the thousand: unless something still looks into it, a scope is used again. */
static void exec_leave(struct jinja *j, struct scope *old)
{
    struct scope *s = j->scope;
    j->scope = old;
    if (s->captured) return;
    while (s->vars) {
        struct binding *b = s->vars;
        s->vars = b->next;
        b->next = j->free_bindings;
        j->free_bindings = b;
    }
    s->parent = j->free_scopes;
    j->free_scopes = s;
}

static void exec_capture_scope(struct jinja *j)
{
    struct scope *s;
    for (s = j->scope; s && !s->captured; s = s->parent) s->captured = true;
}

struct val jinja_lookup(struct jinja *j, const struct text *name)
{
    const struct scope *s;
    const struct binding *b;
    struct val v = jinja_missing();
    size_t looked_at = 0;
    for (s = j->scope; s; s = s->parent)
        for (b = s->vars; b; b = b->next, looked_at += 8)
            if (exec_same_name(b->name, name)) goto found;
    v = jinja_global(j, name);
    if (v.type == VAL_MISSING && jinja_text_is(name, "self")) return jinja_unsupported(j, "the variable 'self'");
    return v.type == VAL_MISSING ? jinja_undefined(j, name, "") : v;
found:
    jinja_charge(j, looked_at);
    return b->v.type == VAL_MISSING ? jinja_undefined(j, name, "") : b->v;
}

static void exec_assign(struct jinja *j, const struct node *target, struct val v)
{
    struct val l;
    int i;
    if (j->failed) return;
    if (target->kind == NODE_NAME) {
        exec_bind(j, target->name, v);
    } else if (target->kind == NODE_NSREF) {
        l = jinja_lookup(j, target->name);
        if (l.type != VAL_NAMESPACE)
            jinja_fail(j, "an attribute of something that is not a namespace cannot be set");
        else if (target->text->p[0] == '_')
            jinja_unsupported(j, "a namespace attribute that starts with '_'");
        else
            jinja_dict_set(j, l.d, (struct val){.type = VAL_STR, .s = target->text}, v);
    } else {
        l = jinja_to_list(j, v, VAL_TUPLE);
        if (!j->failed && l.l->n != (size_t)target->list.n)
            jinja_fail(j, "%d values are needed here, there are %zu", target->list.n, l.l->n);
        for (i = 0; i < target->list.n && !j->failed; i++) exec_assign(j, target->list.p[i], l.l->p[i]);
    }
}

/* ---- loops ---- */

/* Items that pass the loop's condition, each tested when it is drawn. */
static bool exec_filtered(struct jinja *j, struct iter *it, struct val *out)
{
    bool pass = false;
    while (!pass && jinja_next(j, it->src, out)) {
        struct scope *old = exec_enter(j, it->scope, NULL);
        exec_assign(j, it->node->a, *out);
        pass = jinja_true(j, jinja_eval(j, it->node->c));
        if (pass) *out = jinja_eval(j, it->node->a);
        exec_leave(j, old);
    }
    return pass;
}

static struct loop *exec_new_loop(struct jinja *j, const struct node *x)
{
    struct loop *l = jinja_alloc(j, sizeof *l);
    struct iter *it;
    l->iterable = jinja_eval(j, x->b);
    l->index0 = -1;
    l->length = -1;
    l->current = l->before = l->after = l->changed = jinja_missing();
    if (j->failed || !(l->it = jinja_iter(j, l->iterable))) return NULL;
    if (!x->c) return l;
    exec_capture_scope(j);
    it = jinja_iter_new(j, exec_filtered);
    it->src = l->it;
    it->node = x;
    it->scope = j->scope;
    l->it = it;
    l->iterable = (struct val){.type = VAL_ITER, .it = it};
    return l;
}

static bool exec_step(struct jinja *j, struct loop *l)
{
    struct val v = l->after;
    if (v.type == VAL_MISSING && !jinja_next(j, l->it, &v)) return false;
    l->after = jinja_missing();
    l->index0++;
    l->before = l->current;
    l->current = v;
    return !j->failed;
}

static enum flow exec_for(struct jinja *j, const struct node *x)
{
    static const struct text name = {"loop", 4, true};
    struct loop *l = exec_new_loop(j, x);
    enum flow flow = FLOW_ON;
    bool whole = false; /* some pass got to its end: that is what Jinja's `else` asks for */
    struct scope *old;
    while (l && flow != FLOW_BREAK && exec_step(j, l)) {
        old = exec_enter(j, j->scope, &x->hidden);
        exec_bind(j, &name, (struct val){.type = VAL_LOOP, .loop = l});
        exec_assign(j, x->a, l->current);
        flow = exec_body(j, &x->list);
        exec_leave(j, old);
        whole = whole || flow == FLOW_ON;
    }
    if (whole || !x->more.n || j->failed) return FLOW_ON;
    old = exec_enter(j, j->scope, &x->hidden_else);
    flow = exec_body(j, &x->more);
    exec_leave(j, old);
    return flow;
}

static int64_t loop_length(struct jinja *j, struct loop *l)
{
    struct val rest;
    if (l->length >= 0) return l->length;
    if (jinja_sized(l->iterable)) return l->length = jinja_len(j, l->iterable);
    rest = jinja_to_list(j, (struct val){.type = VAL_ITER, .it = l->it}, VAL_LIST);
    l->it = jinja_iter(j, rest);
    return l->length = (int64_t)rest.l->n + l->index0 + 1 + (l->after.type != VAL_MISSING);
}

static bool loop_peek(struct jinja *j, struct loop *l)
{
    if (l->after.type == VAL_MISSING && !jinja_next(j, l->it, &l->after)) l->after = jinja_missing();
    return l->after.type != VAL_MISSING;
}

static struct loop *loop_of(const struct args *a)
{
    return a->self.loop;
}

static struct val loop_cycle(struct jinja *j, struct args *a)
{
    if (a->kw->n || a->pos->n == 0) return jinja_fail(j, "loop.cycle() needs items");
    return a->pos->p[(size_t)loop_of(a)->index0 % a->pos->n];
}

static struct val loop_changed(struct jinja *j, struct args *a)
{
    struct loop *l = loop_of(a);
    struct val now = {.type = VAL_TUPLE, .l = a->pos};
    if (a->kw->n) return jinja_fail(j, "loop.changed() takes no keyword arguments");
    if (l->changed.type != VAL_MISSING && jinja_eq(j, l->changed, now)) return jinja_bool(false);
    l->changed = now;
    return jinja_bool(true);
}

struct val jinja_loop_attr(struct jinja *j, struct loop *l, const struct text *name)
{
    static const struct builtin methods[] = {{"cycle", loop_cycle, "*"}, {"changed", loop_changed, "*"}, {NULL, NULL, NULL}};
    const struct builtin *fn = jinja_find_builtin(methods, name);
    struct method *m;
    if (jinja_text_is(name, "index")) return jinja_int(l->index0 + 1);
    if (jinja_text_is(name, "index0")) return jinja_int(l->index0);
    if (jinja_text_is(name, "first")) return jinja_bool(l->index0 == 0);
    if (jinja_text_is(name, "last")) return jinja_bool(!loop_peek(j, l));
    if (jinja_text_is(name, "length")) return jinja_int(loop_length(j, l));
    if (jinja_text_is(name, "revindex")) return jinja_int(loop_length(j, l) - l->index0);
    if (jinja_text_is(name, "revindex0")) return jinja_int(loop_length(j, l) - l->index0 - 1);
    if (jinja_text_is(name, "depth")) return jinja_int(1);
    if (jinja_text_is(name, "depth0")) return jinja_int(0);
    if (jinja_text_is(name, "previtem"))
        return l->index0 > 0 ? l->before : jinja_undefined_hint(j, "there is no previous item");
    if (jinja_text_is(name, "nextitem")) return loop_peek(j, l) ? l->after : jinja_undefined_hint(j, "there is no next item");
    if (!fn) return jinja_missing();
    m = jinja_alloc(j, sizeof *m);
    m->self = (struct val){.type = VAL_LOOP, .loop = l};
    m->fn = fn;
    return (struct val){.type = VAL_METHOD, .method = m};
}

/* ---- macros ---- */

static struct val exec_new_macro(struct jinja *j, const struct node *x)
{
    struct macro *m = jinja_alloc(j, sizeof *m);
    exec_capture_scope(j);
    m->node = x;
    m->scope = j->scope;
    return (struct val){.type = VAL_MACRO, .macro = m};
}

/* Takes k out of kw; missing: not there. */
static struct val exec_pop(struct jinja *j, struct dict *kw, const struct text *k)
{
    size_t i;
    struct val v;
    for (i = 0; i < kw->n && jinja_charge(j, 0); i++) {
        if (!exec_same_name(kw->p[i].k.s, k)) continue;
        v = kw->p[i].v;
        memmove(&kw->p[i], &kw->p[i + 1], (kw->n - i - 1) * sizeof *kw->p);
        kw->n--;
        return v;
    }
    return jinja_missing();
}

static void exec_bind_special(struct jinja *j, const struct node *x, struct list *pos, struct dict *kw)
{
    static const struct text caller = {"caller", 6, true}, kwargs = {"kwargs", 6, true}, varargs = {"varargs", 7, true};
    struct val v;
    size_t i;
    if (x->uses & USES_CALLER) {
        v = exec_pop(j, kw, &caller);
        if (v.type == VAL_MISSING || v.type == VAL_NONE) v = jinja_undefined_hint(j, "no caller defined");
        exec_bind(j, &caller, v);
    }
    if (x->uses & USES_KWARGS)
        exec_bind(j, &kwargs, (struct val){.type = VAL_DICT, .d = kw});
    else if (kw->n)
        jinja_fail(j, "the macro takes no keyword argument '%.100s'", kw->p[0].k.s->p);
    if (x->uses & USES_VARARGS) {
        v = jinja_list(j, VAL_TUPLE);
        for (i = (size_t)x->more.n; i < pos->n; i++) jinja_push(j, v.l, pos->p[i]);
        exec_bind(j, &varargs, v);
    } else if (pos->n > (size_t)x->more.n) {
        jinja_fail(j, "the macro takes not more than %d arguments", x->more.n);
    }
}

struct val jinja_call_macro(struct jinja *j, const struct macro *m, struct list *pos, struct dict *kw)
{
    const struct node *x = m->node;
    struct scope *old = exec_enter(j, m->scope, &x->hidden);
    struct buf out = {0}, *outer = j->out;
    int i;
    for (i = 0; i < x->more.n && jinja_charge(j, 0); i++)
        exec_bind(j, x->more.p[i]->name, (size_t)i < pos->n ? pos->p[i] : exec_pop(j, kw, x->more.p[i]->name));
    exec_bind_special(j, x, pos, kw);
    for (i = 0; i < x->more.n && !j->failed; i++) { /* defaults may use the parameters in front of them */
        const struct node *k = x->more.p[i];
        const struct binding *b = j->scope->vars;
        while (!exec_same_name(b->name, k->name)) b = b->next;
        if (b->v.type != VAL_MISSING) continue;
        exec_bind(j, k->name, k->a ? jinja_eval(j, k->a) : jinja_undefined_hint(j, "a parameter was not provided"));
    }
    j->out = &out;
    if (!j->failed) exec_body(j, &x->list);
    j->out = outer;
    exec_leave(j, old);
    return jinja_take(j, &out);
}

static void exec_call_block(struct jinja *j, const struct node *x)
{
    static const struct text caller = {"caller", 6, true};
    struct val fn, key = {.type = VAL_STR, .s = &caller};
    struct scope *old;
    struct list *pos;
    struct dict *kw;
    if (!x->b) { /* generation */
        old = exec_enter(j, j->scope, &x->hidden);
        exec_body(j, &x->list);
        exec_leave(j, old);
        return;
    }
    fn = jinja_eval(j, x->b->a);
    jinja_eval_args(j, x->b, &pos, &kw);
    if (jinja_dict_get(j, kw, key)) jinja_fail(j, "the argument 'caller' twice");
    jinja_dict_set(j, kw, key, exec_new_macro(j, x));
    fn = jinja_call(j, fn, pos, kw);
    if (!j->failed) jinja_put_str(j, j->out, fn);
}

/* ---- the other statements ---- */

/* The text of a block, through its filters, to its target or to the output. */
static enum flow exec_text_block(struct jinja *j, const struct node *x)
{
    struct scope *old = exec_enter(j, j->scope, &x->hidden);
    struct buf b = {0}, *outer = j->out;
    struct val v, captured = j->captured;
    enum flow flow;
    j->out = &b;
    flow = exec_body(j, &x->list);
    j->out = outer;
    v = jinja_take(j, &b);
    if (flow == FLOW_ON && x->b && !j->failed) {
        j->captured = v;
        v = jinja_eval(j, x->b);
        j->captured = captured;
    }
    exec_leave(j, old);
    if (flow != FLOW_ON || j->failed) return flow;
    if (x->kind == NODE_SET_BLOCK)
        exec_assign(j, x->a, v);
    else
        jinja_put_str(j, j->out, v);
    return FLOW_ON;
}

static enum flow exec_if(struct jinja *j, const struct node *x)
{
    int i;
    for (i = 0; i < x->list.n && !j->failed; i++) {
        const struct node *branch = x->list.p[i];
        if (!branch->a || jinja_true(j, jinja_eval(j, branch->a))) return exec_body(j, &branch->list);
    }
    return FLOW_ON;
}

static enum flow exec_with(struct jinja *j, const struct node *x)
{
    struct scope *outer = j->scope, *inner;
    enum flow flow;
    int i;
    exec_enter(j, outer, &x->hidden);
    inner = j->scope;
    for (i = 0; i < x->more.n && !j->failed; i++) { /* the values do not see the new names */
        struct val v;
        j->scope = outer;
        v = jinja_eval(j, x->more.p[i]->b);
        j->scope = inner;
        exec_assign(j, x->more.p[i]->a, v);
    }
    flow = j->failed ? FLOW_ON : exec_body(j, &x->list);
    exec_leave(j, outer);
    return flow;
}

static enum flow exec_node(struct jinja *j, const struct node *x)
{
    struct val v;
    switch (x->kind) {
    case NODE_DATA: jinja_put(j, j->out, x->value.s->p, x->value.s->n); return FLOW_ON;
    case NODE_PRINT:
        v = jinja_eval(j, x->a);
        if (!j->failed) jinja_put_str(j, j->out, v);
        return FLOW_ON;
    case NODE_SET: exec_assign(j, x->a, jinja_eval(j, x->b)); return FLOW_ON;
    case NODE_IF: return exec_if(j, x);
    case NODE_FOR: return exec_for(j, x);
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK: return exec_text_block(j, x);
    case NODE_MACRO: exec_bind(j, x->name, exec_new_macro(j, x)); return FLOW_ON;
    case NODE_CALL_BLOCK: exec_call_block(j, x); return FLOW_ON;
    case NODE_WITH: return exec_with(j, x);
    case NODE_BREAK: return FLOW_BREAK;
    case NODE_CONTINUE: return FLOW_CONTINUE;
    default: jinja_fail(j, "not a statement"); return FLOW_ON;
    }
}

static enum flow exec_body(struct jinja *j, const struct nodes *body)
{
    enum flow flow = FLOW_ON;
    int i;
    if (++j->depth > JINJA_MAX_CALLS) jinja_fail(j, "calls nested deeper than %d levels", JINJA_MAX_CALLS);
    for (i = 0; i < body->n && flow == FLOW_ON && !j->failed; i++) {
        j->line = body->p[i]->line;
        if (jinja_charge(j, 0)) flow = exec_node(j, body->p[i]);
    }
    j->depth--;
    return flow;
}

void jinja_run(struct jinja *j, const struct chat *c)
{
    exec_enter(j, NULL, &c->hidden);
    exec_body(j, &c->body);
}
