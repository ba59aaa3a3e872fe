/* jinja_attr.c: x.name and x[key]. Jinja looks at Python's attributes first for x.name, at the items first for x[key];
 * the sandbox hides what would change a list or dict. */
#include "jinja.h"

const struct builtin *jinja_find_builtin(const struct builtin *table, const struct text *name)
{
    for (; table->name; table++)
        if (jinja_text_is(name, table->name)) return table;
    return NULL;
}

/* ---- methods of dict, list, tuple ---- */

static struct val attr_unsafe(struct jinja *j, struct args *a)
{
    return jinja_fail(j, "'%s' would change a value", a->name);
}

static struct val dict_get(struct jinja *j, struct args *a)
{
    struct val *v;
    if (!jinja_hashable(a->v[0])) return jinja_fail(j, "a %s cannot be a key", jinja_type(a->v[0]));
    v = jinja_dict_get(j, a->self.d, a->v[0]);
    if (v) return *v;
    return a->v[1].type == VAL_MISSING ? jinja_none() : a->v[1];
}

static struct val dict_items(struct jinja *j, struct args *a)
{
    return jinja_dict_view(j, a->self.d, VIEW_ITEMS);
}

static struct val dict_keys(struct jinja *j, struct args *a)
{
    return jinja_dict_view(j, a->self.d, VIEW_KEYS);
}

static struct val dict_values(struct jinja *j, struct args *a)
{
    return jinja_dict_view(j, a->self.d, VIEW_VALUES);
}

static struct val dict_copy(struct jinja *j, struct args *a)
{
    struct val d = jinja_dict(j);
    size_t i;
    for (i = 0; i < a->self.d->n && !j->failed; i++) jinja_dict_set(j, d.d, a->self.d->p[i].k, a->self.d->p[i].v);
    return d;
}

static struct val list_count(struct jinja *j, struct args *a)
{
    int64_t n = 0;
    size_t i;
    for (i = 0; i < a->self.l->n && !j->failed; i++) n += jinja_eq(j, a->self.l->p[i], a->v[0]);
    return jinja_int(n);
}

static struct val list_index(struct jinja *j, struct args *a)
{
    size_t i;
    for (i = 0; i < a->self.l->n && !j->failed; i++)
        if (jinja_eq(j, a->self.l->p[i], a->v[0])) return jinja_int((int64_t)i);
    return jinja_fail(j, "index(): no such item");
}

static struct val list_copy(struct jinja *j, struct args *a)
{
    return jinja_to_list(j, a->self, VAL_LIST);
}

static const struct builtin dict_methods[] = {
    {"get", dict_get, "/key default?"}, {"items", dict_items, ""},    {"keys", dict_keys, ""},
    {"values", dict_values, ""},        {"copy", dict_copy, ""},      {"fromkeys", NULL, "*"},
    {"clear", attr_unsafe, "*"},        {"pop", attr_unsafe, "*"},    {"popitem", attr_unsafe, "*"},
    {"setdefault", attr_unsafe, "*"},   {"update", attr_unsafe, "*"}, {NULL, NULL, NULL},
};
static const struct builtin list_methods[] = {
    {"count", list_count, "/value"}, {"index", list_index, "/value"}, {"copy", list_copy, ""},
    {"append", attr_unsafe, "*"},    {"clear", attr_unsafe, "*"},     {"extend", attr_unsafe, "*"},
    {"insert", attr_unsafe, "*"},    {"pop", attr_unsafe, "*"},       {"remove", attr_unsafe, "*"},
    {"reverse", attr_unsafe, "*"},   {"sort", attr_unsafe, "*"},      {NULL, NULL, NULL},
};
static const struct builtin tuple_methods[] = {
    {"count", list_count, "/value"},
    {"index", list_index, "/value"},
    {NULL, NULL, NULL},
};

/* ---- joiner and cycler ---- */

static struct val cycler_next(struct jinja *j, struct args *a)
{
    struct object *o = a->self.object;
    struct val v = o->items->p[o->pos];
    (void)j;
    o->pos = (o->pos + 1) % o->items->n;
    return v;
}

static struct val cycler_reset(struct jinja *j, struct args *a)
{
    (void)j;
    a->self.object->pos = 0;
    return jinja_none();
}

static const struct builtin cycler_methods[] = {{"next", cycler_next, ""}, {"reset", cycler_reset, ""}, {NULL, NULL, NULL}};

/* Python has these, this file has not. */
static const char *const number_attrs[] = {"real",       "imag",       "numerator",        "denominator", "conjugate",
                                           "to_bytes",   "from_bytes", "as_integer_ratio", "bit_length",  "bit_count",
                                           "is_integer", "hex",        "fromhex",          NULL};
static const char *const macro_attrs[] = {"name", "arguments", "catch_kwargs", "catch_varargs", "caller", "explicit_caller",
                                          NULL};
static const char *const other_attrs[] = {"isdisjoint", "mapping",      "send",       "throw",        "close", "count",
                                          "index",      "gi_yieldfrom", "gi_running", "gi_suspended", NULL};

static bool attr_among(const struct text *name, const char *const *words)
{
    for (; *words; words++)
        if (jinja_text_is(name, *words)) return true;
    return false;
}

/* ---- attributes ---- */

static struct val attr_undefined(struct jinja *j, struct val of, const struct text *name)
{
    return jinja_undefined(j, name, jinja_type(of));
}

static struct val attr_method(struct jinja *j, struct val of, const struct builtin *fn)
{
    struct method *m;
    if (!fn->fn) return jinja_unsupported(j, "the method '%s' of a %s", fn->name, jinja_type(of));
    if (fn->fn == attr_unsafe) return jinja_undefined_hint(j, "a method that changes a value is not allowed");
    m = jinja_alloc(j, sizeof *m);
    m->self = of;
    m->fn = fn;
    return (struct val){.type = VAL_METHOD, .method = m};
}

static struct val attr_object(struct jinja *j, struct val of, const struct text *name)
{
    const struct builtin *fn;
    if (of.object->joiner) return jinja_unsupported(j, "an attribute of a joiner");
    if (jinja_text_is(name, "current")) return of.object->items->p[of.object->pos];
    fn = jinja_find_builtin(cycler_methods, name);
    return fn ? attr_method(j, of, fn) : jinja_unsupported(j, "this attribute of a cycler");
}

static struct val attr_range(const struct range *r, const struct text *name)
{
    if (jinja_text_is(name, "start")) return jinja_int(r->start);
    if (jinja_text_is(name, "stop")) return jinja_int(r->stop);
    if (jinja_text_is(name, "step")) return jinja_int(r->step);
    return jinja_missing();
}

/* What Python's getattr finds; missing: nothing. */
static struct val attr_own(struct jinja *j, struct val of, const struct text *name)
{
    const struct builtin *fn = NULL, *table = NULL;
    const char *const *unknown = NULL;
    struct val *v;
    if (name->n > 4 && memcmp(name->p, "__", 2) == 0 && memcmp(name->p + name->n - 2, "__", 2) == 0)
        return jinja_unsupported(j, "the attribute '%.*s'", (int)name->n, name->p);
    switch (of.type) {
    case VAL_STR: table = jinja_str_methods; break;
    case VAL_DICT: table = dict_methods; break;
    case VAL_LIST: table = list_methods; break;
    case VAL_TUPLE: table = tuple_methods; break;
    case VAL_LOOP: return jinja_loop_attr(j, of.loop, name);
    case VAL_NAMESPACE:
        v = name->p[0] == '_' ? NULL : jinja_dict_get(j, of.d, (struct val){.type = VAL_STR, .s = name});
        return v ? *v : jinja_missing();
    case VAL_OBJECT: return attr_object(j, of, name);
    case VAL_BOOL:
    case VAL_INT:
    case VAL_FLOAT: unknown = number_attrs; break;
    case VAL_MACRO: unknown = macro_attrs; break;
    case VAL_RANGE:
        if (attr_range(of.range, name).type != VAL_MISSING) return attr_range(of.range, name);
        unknown = other_attrs;
        break;
    case VAL_VIEW:
    case VAL_ITER: unknown = other_attrs; break;
    case VAL_MARKUP:
    case VAL_FUNC:
    case VAL_METHOD: return jinja_unsupported(j, "an attribute of a %s", jinja_type(of));
    default: break;
    }
    if (unknown && attr_among(name, unknown))
        return jinja_unsupported(j, "the attribute '%s' of a %s", name->p, jinja_type(of));
    if (table) fn = jinja_find_builtin(table, name);
    return fn ? attr_method(j, of, fn) : jinja_missing();
}

struct val jinja_attr(struct jinja *j, struct val of, const struct text *name)
{
    struct val v, *item;
    if (j->failed) return of;
    if (of.type == VAL_UNDEFINED) return jinja_fail(j, "%s", jinja_why_undefined(j, of));
    v = attr_own(j, of, name);
    if (v.type != VAL_MISSING) return v;
    item = of.type == VAL_DICT ? jinja_dict_get(j, of.d, (struct val){.type = VAL_STR, .s = name}) : NULL;
    return item ? *item : attr_undefined(j, of, name);
}

/* ---- items ---- */

/* Missing: not there. */
static struct val item_at(struct jinja *j, struct val of, int64_t i)
{
    int64_t n = jinja_len(j, of);
    size_t at;
    int32_t c;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return jinja_missing();
    if (of.type == VAL_RANGE) return jinja_int(of.range->start + i * of.range->step);
    if (of.type != VAL_STR) return of.l->p[i];
    at = jinja_offset(of.s, (size_t)i);
    return jinja_sub(j, of.s, at, at + jinja_char(of.s->p + at, of.s->n - at, &c));
}

struct val jinja_item(struct jinja *j, struct val of, struct val key)
{
    struct val v = jinja_missing(), *item;
    bool list = of.type == VAL_LIST || of.type == VAL_TUPLE || of.type == VAL_STR || of.type == VAL_RANGE;
    if (j->failed) return of;
    if (of.type == VAL_UNDEFINED) return jinja_fail(j, "%s", jinja_why_undefined(j, of));
    if (of.type == VAL_MARKUP && jinja_is_int(key)) {
        v = item_at(j, (struct val){.type = VAL_STR, .s = of.s}, key.i);
        if (v.type == VAL_STR) v.type = VAL_MARKUP;
    }
    if (of.type == VAL_DICT && jinja_hashable(key)) {
        item = jinja_dict_get(j, of.d, key);
        if (item) return *item;
    }
    if (list && jinja_is_int(key))
        v = item_at(j, of, key.i);
    else if (jinja_is_str(key))
        v = attr_own(j, of, key.s);
    if (v.type != VAL_MISSING) return v;
    return attr_undefined(j, of, jinja_to_str(j, key).s);
}
