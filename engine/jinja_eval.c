/* jinja_eval.c: expressions to values. */
#include "jinja.h"

static struct val eval_undefined(void)
{
    return (struct val){.type = VAL_UNDEFINED};
}

static struct val eval_list(struct jinja *j, const struct node *x, enum val_type type)
{
    struct val l = jinja_list(j, type);
    int i;
    for (i = 0; i < x->list.n && !j->failed; i++) jinja_push(j, l.l, jinja_eval(j, x->list.p[i]));
    return l;
}

static struct val eval_dict(struct jinja *j, const struct node *x)
{
    struct val d = jinja_dict(j);
    int i;
    for (i = 0; i + 1 < x->list.n && !j->failed; i += 2) {
        struct val k = jinja_eval(j, x->list.p[i]), v = jinja_eval(j, x->list.p[i + 1]);
        if (!jinja_hashable(k)) jinja_fail(j, "a %s cannot be a key", jinja_type(k));
        if (!j->failed) jinja_dict_set(j, d.d, k, v);
    }
    return d;
}

static struct val eval_concat(struct jinja *j, const struct node *x)
{
    struct buf b = {0};
    int i;
    for (i = 0; i < x->list.n && !j->failed; i++) {
        struct val v = jinja_eval(j, x->list.p[i]);
        if (!j->failed) jinja_put_str(j, &b, v);
    }
    return jinja_take(j, &b);
}

/* a < b < c: each operand once, and only as far as needed */
static struct val eval_compare(struct jinja *j, const struct node *x)
{
    struct val a = jinja_eval(j, x->a), b;
    int i;
    for (i = 0; i < x->list.n && !j->failed; i++) {
        b = jinja_eval(j, x->list.p[i]->a);
        if (!jinja_compare(j, x->list.p[i]->op, a, b)) return jinja_bool(false);
        a = b;
    }
    return jinja_bool(true);
}

void jinja_eval_args(struct jinja *j, const struct node *x, struct list **pos, struct dict **kw)
{
    struct val v;
    struct iter *it;
    size_t k;
    int i;
    *pos = jinja_list(j, VAL_LIST).l;
    *kw = jinja_dict(j).d;
    for (i = 0; i < x->list.n && !j->failed; i++) jinja_push(j, *pos, jinja_eval(j, x->list.p[i]));
    if (x->b && !j->failed) {
        it = jinja_iter(j, jinja_eval(j, x->b));
        while (it && jinja_next(j, it, &v)) jinja_push(j, *pos, v);
    }
    for (i = 0; i < x->more.n && !j->failed; i++)
        jinja_dict_set(j, *kw, (struct val){.type = VAL_STR, .s = x->more.p[i]->name}, jinja_eval(j, x->more.p[i]->a));
    if (!x->c || j->failed) return;
    v = jinja_eval(j, x->c);
    if (v.type != VAL_DICT) jinja_fail(j, "** needs a dict, not a %s", jinja_type(v));
    for (k = 0; !j->failed && k < v.d->n; k++) {
        if (v.d->p[k].k.type != VAL_STR)
            jinja_fail(j, "** with a key that is not a text");
        else if (jinja_dict_get(j, *kw, v.d->p[k].k))
            jinja_fail(j, "a keyword argument twice");
        else
            jinja_dict_set(j, *kw, v.d->p[k].k, v.d->p[k].v);
    }
}

static struct val eval_call(struct jinja *j, const struct node *x)
{
    struct val fn = jinja_eval(j, x->a);
    struct list *pos;
    struct dict *kw;
    jinja_eval_args(j, x, &pos, &kw);
    return jinja_call(j, fn, pos, kw);
}

/* A filter or a test. */
static struct val eval_builtin(struct jinja *j, const struct node *x)
{
    const char *kind = x->kind == NODE_FILTER ? "filter" : "test";
    struct args a = {.self = x->a ? jinja_eval(j, x->a) : j->captured};
    jinja_eval_args(j, x, &a.pos, &a.kw);
    if (!x->fn) return jinja_fail(j, "no %s named '%.60s'", kind, x->name->p);
    return jinja_call_builtin(j, x->fn, &a, kind);
}

static struct val eval_optional(struct jinja *j, const struct node *x)
{
    return x ? jinja_eval(j, x) : jinja_none();
}

static struct val eval_slice(struct jinja *j, const struct node *x)
{
    struct val of = jinja_eval(j, x->a), start = eval_optional(j, x->b), stop = eval_optional(j, x->c);
    return jinja_slice(j, of, start, stop, eval_optional(j, x->d));
}

static struct val eval_cond(struct jinja *j, const struct node *x)
{
    struct val v = jinja_eval(j, x->b);
    if (j->failed) return v;
    if (jinja_true(j, v)) return jinja_eval(j, x->a);
    return x->c ? jinja_eval(j, x->c) : jinja_undefined_hint(j, "an inline 'if' without 'else' gave no value");
}

static struct val eval_node(struct jinja *j, const struct node *x)
{
    struct val a;
    switch (x->kind) {
    case NODE_CONST: return x->value;
    case NODE_NAME: return jinja_lookup(j, x->name);
    case NODE_TUPLE: return eval_list(j, x, VAL_TUPLE);
    case NODE_LIST: return eval_list(j, x, VAL_LIST);
    case NODE_DICT: return eval_dict(j, x);
    case NODE_NEG:
    case NODE_POS: a = jinja_eval(j, x->a); return j->failed ? a : jinja_negate(j, a, x->kind == NODE_NEG);
    case NODE_NOT: return jinja_bool(!jinja_true(j, jinja_eval(j, x->a)));
    case NODE_BINARY: a = jinja_eval(j, x->a); return jinja_binary(j, x->op, a, jinja_eval(j, x->b));
    case NODE_AND: a = jinja_eval(j, x->a); return jinja_true(j, a) ? jinja_eval(j, x->b) : a;
    case NODE_OR: a = jinja_eval(j, x->a); return jinja_true(j, a) ? a : jinja_eval(j, x->b);
    case NODE_CONCAT: return eval_concat(j, x);
    case NODE_COMPARE: return eval_compare(j, x);
    case NODE_COND: return eval_cond(j, x);
    case NODE_ATTR: return jinja_attr(j, jinja_eval(j, x->a), x->name);
    case NODE_ITEM: a = jinja_eval(j, x->a); return jinja_item(j, a, jinja_eval(j, x->b));
    case NODE_SLICE: return eval_slice(j, x);
    case NODE_CALL: return eval_call(j, x);
    case NODE_FILTER:
    case NODE_TEST: return eval_builtin(j, x);
    default: return jinja_fail(j, "not an expression");
    }
}

struct val jinja_eval(struct jinja *j, const struct node *x)
{
    int line = j->line;
    struct val v = eval_undefined();
    if (!jinja_charge(j, 0)) return v;
    j->line = x->line;
    if (++j->depth > JINJA_MAX_CALLS)
        jinja_fail(j, "calls nested deeper than %d levels", JINJA_MAX_CALLS);
    else
        v = eval_node(j, x);
    j->depth--;
    j->line = line;
    return j->failed ? eval_undefined() : v;
}
