/* jinja_call.c: binding arguments, calling, and the functions and variables a chat template is given. */
#include "jinja.h"

/* ---- arguments ---- */

/* Index of the parameter `name` in "a b? c?", or -1. */
static int call_param(const char *params, const struct text *name)
{
    int i = 0;
    if (*params == '/') return -1; /* positional only */
    while (*params) {
        size_t n = strcspn(params, " "), word = n && params[n - 1] == '?' ? n - 1 : n;
        if (word == name->n && memcmp(params, name->p, word) == 0) return i;
        params += n;
        params += strspn(params, " ");
        i++;
    }
    return -1;
}

static bool call_bind(struct jinja *j, const struct builtin *fn, struct args *a)
{
    const char *p;
    size_t i, n = a->pos ? a->pos->n : 0;
    int count = 0;
    for (i = 0; i < sizeof a->v / sizeof *a->v; i++) a->v[i] = jinja_missing();
    if (*fn->params == '*') return true;
    for (i = 0; i < n && i < sizeof a->v / sizeof *a->v; i++) a->v[i] = a->pos->p[i];
    for (i = 0; a->kw && i < a->kw->n; i++) {
        const struct text *name = a->kw->p[i].k.s;
        int at = call_param(fn->params, name);
        if (at < 0) return jinja_fail(j, "%s: no keyword argument '%.100s'", fn->name, name->p), false;
        if (a->v[at].type != VAL_MISSING) return jinja_fail(j, "%s: the argument '%.100s' twice", fn->name, name->p), false;
        a->v[at] = a->kw->p[i].v;
    }
    for (p = fn->params + (*fn->params == '/'); *p; count++) {
        size_t word = strcspn(p, " ");
        if (p[word - 1] != '?' && a->v[count].type == VAL_MISSING)
            return jinja_fail(j, "%s: the argument '%.*s' is missing", fn->name, (int)word, p), false;
        p += word;
        p += strspn(p, " ");
    }
    if (n > (size_t)count) return jinja_fail(j, "%s: too many arguments", fn->name), false;
    return true;
}

struct val jinja_call_builtin(struct jinja *j, const struct builtin *fn, struct args *a, const char *kind)
{
    if (j->failed) return a->self;
    if (!fn->fn) return jinja_unsupported(j, "the %s '%s'", kind, fn->name);
    a->name = fn->name;
    if (!call_bind(j, fn, a)) return a->self;
    return fn->fn(j, a);
}

bool jinja_arg_int(struct jinja *j, const struct args *a, int i, int64_t *out)
{
    if (!jinja_is_int(a->v[i])) {
        jinja_fail(j, "%s: a %s where an integer is needed", a->name, jinja_type(a->v[i]));
        return false;
    }
    *out = a->v[i].i;
    return true;
}

const struct text *jinja_arg_text(struct jinja *j, const struct args *a, int i)
{
    if (a->v[i].type == VAL_STR) return a->v[i].s;
    if (a->v[i].type == VAL_MARKUP)
        jinja_unsupported(j, "%s with a text marked safe", a->name);
    else
        jinja_fail(j, "%s: a %s where a text is needed", a->name, jinja_type(a->v[i]));
    return NULL;
}

struct val jinja_call(struct jinja *j, struct val fn, struct list *pos, struct dict *kw)
{
    struct args a = {.pos = pos, .kw = kw};
    if (j->failed) return fn;
    switch (fn.type) {
    case VAL_FUNC: return jinja_call_builtin(j, fn.fn, &a, "function");
    case VAL_METHOD: a.self = fn.method->self; return jinja_call_builtin(j, fn.method->fn, &a, "method");
    case VAL_MACRO: return jinja_call_macro(j, fn.macro, pos, kw);
    case VAL_UNDEFINED: return jinja_fail(j, "%s", jinja_why_undefined(j, fn));
    case VAL_OBJECT:
        if (!fn.object->joiner || pos->n || kw->n) break;
        if (fn.object->pos++ == 0) return jinja_cstr(j, "");
        return jinja_to_str(j, fn.object->sep);
    default: break;
    }
    return jinja_fail(j, "a %s cannot be called", jinja_type(fn));
}

/* ---- global functions ---- */

static struct val call_range(struct jinja *j, struct args *a)
{
    struct range *r = jinja_alloc(j, sizeof *r);
    int64_t first;
    uint64_t distance, step;
    r->step = 1;
    if (!jinja_arg_int(j, a, 0, &first)) return a->self;
    r->stop = first;
    if (a->v[1].type != VAL_MISSING) {
        r->start = first;
        if (!jinja_arg_int(j, a, 1, &r->stop)) return a->self;
    }
    if (a->v[2].type != VAL_MISSING && !jinja_arg_int(j, a, 2, &r->step)) return a->self;
    if (r->step == 0) return jinja_fail(j, "range() with step 0");
    distance = r->step > 0 ? (uint64_t)r->stop - (uint64_t)r->start : (uint64_t)r->start - (uint64_t)r->stop;
    if (r->step > 0 ? r->start >= r->stop : r->start <= r->stop) distance = 0;
    step = r->step > 0 ? (uint64_t)r->step : 0 - (uint64_t)r->step;
    if (distance && (distance - 1) / step >= JINJA_MAX_RANGE)
        return jinja_fail(j, "range() of more than %d items", JINJA_MAX_RANGE);
    r->n = distance ? (int64_t)((distance - 1) / step + 1) : 0;
    return (struct val){.type = VAL_RANGE, .range = r};
}

static void call_update(struct jinja *j, struct dict *d, struct val from)
{
    struct iter *it;
    struct val item;
    size_t i;
    if (from.type == VAL_DICT) {
        for (i = 0; i < from.d->n && !j->failed; i++) jinja_dict_set(j, d, from.d->p[i].k, from.d->p[i].v);
        return;
    }
    if (from.type == VAL_UNDEFINED) jinja_fail(j, "%s", jinja_why_undefined(j, from));
    it = j->failed ? NULL : jinja_iter(j, from);
    while (it && jinja_next(j, it, &item)) {
        struct val pair = jinja_to_list(j, item, VAL_TUPLE);
        if (j->failed) return;
        if (pair.l->n != 2)
            jinja_fail(j, "dict() of something that is not pairs");
        else if (!jinja_hashable(pair.l->p[0]))
            jinja_fail(j, "a %s cannot be a key", jinja_type(pair.l->p[0]));
        else
            jinja_dict_set(j, d, pair.l->p[0], pair.l->p[1]);
    }
}

static struct val call_dict(struct jinja *j, struct args *a)
{
    struct val d = jinja_dict(j);
    size_t i;
    if (a->pos->n > 1) return jinja_fail(j, "%s: too many arguments", a->name);
    if (a->pos->n) call_update(j, d.d, a->pos->p[0]);
    for (i = 0; i < a->kw->n && !j->failed; i++) jinja_dict_set(j, d.d, a->kw->p[i].k, a->kw->p[i].v);
    return d;
}

static struct val call_namespace(struct jinja *j, struct args *a)
{
    struct val d = call_dict(j, a);
    size_t i;
    if (j->failed) return d;
    for (i = 0; i < d.d->n; i++)
        if (jinja_is_str(d.d->p[i].k) && d.d->p[i].k.s->n && d.d->p[i].k.s->p[0] == '_')
            return jinja_unsupported(j, "a namespace attribute that starts with '_'");
    d.type = VAL_NAMESPACE;
    return d;
}

static struct val call_raise(struct jinja *j, struct args *a)
{
    struct val s = jinja_to_str(j, a->v[0]);
    size_t n = s.s->n < 600 ? s.s->n : 600;
    return jinja_fail(j, "%.*s", (int)utf8_valid(s.s->p, n), s.s->p);
}

static struct val call_object(struct jinja *j, struct args *a)
{
    struct object *o = jinja_alloc(j, sizeof *o);
    o->joiner = a->name[0] == 'j';
    o->sep = a->v[0].type == VAL_MISSING ? jinja_cstr(j, ", ") : a->v[0];
    o->items = a->pos;
    if (!o->joiner && (a->pos->n == 0 || a->kw->n)) return jinja_fail(j, "cycler() needs items");
    if (o->joiner && o->sep.type != VAL_STR) return jinja_unsupported(j, "joiner() of a %s", jinja_type(o->sep));
    return (struct val){.type = VAL_OBJECT, .object = o};
}

static const struct builtin functions[] = {
    {"range", call_range, "/start stop? step?"},
    {"dict", call_dict, "*"},
    {"namespace", call_namespace, "*"},
    {"raise_exception", call_raise, "message"},
    {"strftime_now", jinja_strftime, "format"},
    {"joiner", call_object, "sep?"},
    {"cycler", call_object, "*"},
    {"lipsum", NULL, "*"},
    {NULL, NULL, NULL},
};

static const char *const variables[] = {"messages", "add_generation_prompt", "bos_token", "eos_token", NULL};

static int call_variable(const struct text *name)
{
    int i;
    for (i = 0; variables[i]; i++)
        if (jinja_text_is(name, variables[i])) return i;
    return -1;
}

bool jinja_is_given(const struct text *name)
{
    return call_variable(name) >= 0 || jinja_find_builtin(functions, name);
}

struct val jinja_global(struct jinja *j, const struct text *name)
{
    const struct builtin *fn;
    switch (call_variable(name)) {
    case 0: return j->messages;
    case 1: return jinja_bool(j->env->add_generation_prompt);
    case 2: return jinja_cstr(j, j->env->bos_token);
    case 3: return jinja_cstr(j, j->env->eos_token);
    default: break;
    }
    fn = jinja_find_builtin(functions, name);
    if (fn) return (struct val){.type = VAL_FUNC, .fn = fn};
    return jinja_missing();
}
