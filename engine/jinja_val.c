/* jinja_val.c: values: making them, truth, equality, order, length, membership; as Python has them. */
#include "jinja.h"

#include <math.h>
#include <stdio.h>

/* ---- errors and limits ---- */

struct val jinja_fail(struct jinja *j, const char *fmt, ...)
{
    char msg[768];
    va_list ap;
    if (!j->failed) {
        va_start(ap, fmt);
        vsnprintf(msg, sizeof msg, fmt, ap);
        va_end(ap);
        err_set(j->e, ERR_INPUT, "line %d: %s", j->line, msg);
        j->failed = true;
    }
    return (struct val){.type = VAL_UNDEFINED};
}

struct val jinja_unsupported(struct jinja *j, const char *fmt, ...)
{
    char msg[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return jinja_fail(j, "%s is not supported", msg);
}

bool jinja_charge(struct jinja *j, size_t bytes)
{
    int64_t cost = 1 + (int64_t)(bytes / 64);
    if (j->failed) return false;
    if (j->steps >= cost) {
        j->steps -= cost;
        return true;
    }
    jinja_fail(j, "the template does not end within %d steps", JINJA_MAX_STEPS);
    return false;
}

void *jinja_alloc(struct jinja *j, size_t n)
{
    j->used += n;
    if (j->used > JINJA_MAX_MEMORY) jinja_fail(j, "the template needs more than %d MiB of memory", JINJA_MAX_MEMORY >> 20);
    return arena_alloc(j->mem, n);
}

void *jinja_array(struct jinja *j, size_t n, size_t size)
{
    if (n > JINJA_MAX_MEMORY / size || j->used > JINJA_MAX_MEMORY - n * size) {
        jinja_fail(j, "the template needs more than %d MiB of memory", JINJA_MAX_MEMORY >> 20);
        return NULL;
    }
    return jinja_alloc(j, n * size);
}

/* ---- making ---- */

struct val jinja_int(int64_t i)
{
    return (struct val){.type = VAL_INT, .i = i};
}

struct val jinja_bool(bool b)
{
    return (struct val){.type = VAL_BOOL, .i = b};
}

struct val jinja_float(double f)
{
    return (struct val){.type = VAL_FLOAT, .f = f};
}

struct val jinja_none(void)
{
    return (struct val){.type = VAL_NONE};
}

struct val jinja_missing(void)
{
    return (struct val){.type = VAL_MISSING};
}

struct val jinja_undefined(struct jinja *j, const struct text *name, const char *of)
{
    struct absent *u = jinja_alloc(j, sizeof *u);
    u->name = name;
    u->of = of;
    return (struct val){.type = VAL_UNDEFINED, .absent = u};
}

struct val jinja_undefined_hint(struct jinja *j, const char *hint)
{
    struct absent *u = jinja_alloc(j, sizeof *u);
    u->hint = hint;
    return (struct val){.type = VAL_UNDEFINED, .absent = u};
}

const char *jinja_why_undefined(struct jinja *j, struct val v)
{
    const struct absent *u = v.absent;
    if (!u) return "a value is undefined";
    if (u->hint) return u->hint;
    if (!*u->of) return arena_printf(j->mem, "'%.200s' is undefined", u->name->p);
    return arena_printf(j->mem, "'%s%s' has no attribute '%.*s'", u->of, strcmp(u->of, "None") == 0 ? "" : " object",
                        (int)(u->name->n < 200 ? u->name->n : 200), u->name->p);
}

static bool val_ascii(const char *p, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++)
        if ((unsigned char)p[i] >= 0x80) return false;
    return true;
}

static struct val val_text(struct jinja *j, const char *p, size_t n)
{
    struct text *t = jinja_alloc(j, sizeof *t);
    t->p = p;
    t->n = n;
    t->ascii = val_ascii(p, n);
    return (struct val){.type = VAL_STR, .s = t};
}

struct val jinja_str(struct jinja *j, const char *p, size_t n)
{
    char *copy = jinja_charge(j, n) ? jinja_array(j, n + 1, 1) : NULL;
    if (!copy) return val_text(j, "", 0);
    if (n) memcpy(copy, p, n);
    return val_text(j, copy, n);
}

struct val jinja_cstr(struct jinja *j, const char *s)
{
    return val_text(j, s, strlen(s));
}

struct val jinja_sub(struct jinja *j, const struct text *t, size_t start, size_t end)
{
    if (start == 0 && end == t->n) return (struct val){.type = VAL_STR, .s = t};
    jinja_charge(j, end - start);
    return val_text(j, t->p + start, end - start);
}

void jinja_put(struct jinja *j, struct buf *b, const void *p, size_t n)
{
    if (j->failed) return;
    if (n > JINJA_MAX_TEXT || b->n > JINJA_MAX_TEXT - n) {
        jinja_fail(j, "a text of more than %d MiB", JINJA_MAX_TEXT >> 20);
        return;
    }
    buf_add(b, p, n);
}

struct val jinja_take(struct jinja *j, struct buf *b)
{
    struct val v = jinja_str(j, b->p ? b->p : "", b->n);
    buf_free(b);
    return v;
}

struct val jinja_list(struct jinja *j, enum val_type type)
{
    return (struct val){.type = type, .l = jinja_alloc(j, sizeof(struct list))};
}

void jinja_push(struct jinja *j, struct list *l, struct val v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        struct val *p = jinja_array(j, cap, sizeof *p);
        if (!p) return;
        if (l->n) memcpy(p, l->p, l->n * sizeof *p);
        l->p = p;
        l->cap = cap;
    }
    l->p[l->n++] = v;
}

struct val jinja_pair(struct jinja *j, struct val a, struct val b)
{
    struct val t = jinja_list(j, VAL_TUPLE);
    jinja_push(j, t.l, a);
    jinja_push(j, t.l, b);
    return t;
}

struct val jinja_dict(struct jinja *j)
{
    return (struct val){.type = VAL_DICT, .d = jinja_alloc(j, sizeof(struct dict))};
}

struct val *jinja_dict_get(struct jinja *j, const struct dict *d, struct val k)
{
    size_t i;
    for (i = 0; i < d->n && !j->failed; i++)
        if (jinja_eq(j, d->p[i].k, k)) return &d->p[i].v;
    return NULL;
}

void jinja_dict_set(struct jinja *j, struct dict *d, struct val k, struct val v)
{
    struct val *old = jinja_dict_get(j, d, k);
    if (old) {
        *old = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 4;
        struct pair *p = jinja_array(j, cap, sizeof *p);
        if (!p) return;
        if (d->n) memcpy(p, d->p, d->n * sizeof *p);
        d->p = p;
        d->cap = cap;
    }
    d->p[d->n++] = (struct pair){k, v};
}

/* ---- kinds ---- */

bool jinja_is_str(struct val v)
{
    return v.type == VAL_STR || v.type == VAL_MARKUP;
}

bool jinja_is_int(struct val v)
{
    return v.type == VAL_INT || v.type == VAL_BOOL;
}

bool jinja_is_number(struct val v)
{
    return jinja_is_int(v) || v.type == VAL_FLOAT;
}

bool jinja_text_is(const struct text *t, const char *s)
{
    return strlen(s) == t->n && memcmp(t->p, s, t->n) == 0;
}

const char *jinja_type(struct val v)
{
    static const char *const names[] = {"missing",   "Undefined", "None",  "bool",     "int",       "float", "str",
                                        "Markup",    "list",      "tuple", "dict",     "dict view", "range", "generator",
                                        "namespace", "loop",      "macro", "function", "method",    "object"};
    return names[v.type];
}

bool jinja_hashable(struct val v)
{
    size_t i;
    if (v.type == VAL_TUPLE) {
        for (i = 0; i < v.l->n; i++)
            if (!jinja_hashable(v.l->p[i])) return false;
        return true;
    }
    return v.type != VAL_LIST && v.type != VAL_DICT && v.type != VAL_VIEW;
}

bool jinja_true(struct jinja *j, struct val v)
{
    switch (v.type) {
    case VAL_MISSING:
    case VAL_UNDEFINED:
    case VAL_NONE: return false;
    case VAL_BOOL:
    case VAL_INT: return v.i != 0;
    case VAL_FLOAT: return v.f != 0;
    case VAL_LOOP: return jinja_len(j, v) > 0;
    default: return !jinja_sized(v) || jinja_len(j, v) > 0;
    }
}

bool jinja_sized(struct val v)
{
    switch (v.type) {
    case VAL_UNDEFINED:
    case VAL_STR:
    case VAL_MARKUP:
    case VAL_LIST:
    case VAL_TUPLE:
    case VAL_DICT:
    case VAL_VIEW:
    case VAL_RANGE:
    case VAL_LOOP: return true;
    default: return false;
    }
}

int64_t jinja_len(struct jinja *j, struct val v)
{
    switch (v.type) {
    case VAL_UNDEFINED: return 0;
    case VAL_STR:
    case VAL_MARKUP:
        if (!v.s->ascii) jinja_charge(j, v.s->n * 8); /* decoding is slow */
        return (int64_t)jinja_chars(v.s);
    case VAL_LIST:
    case VAL_TUPLE: return (int64_t)v.l->n;
    case VAL_DICT: return (int64_t)v.d->n;
    case VAL_VIEW: return (int64_t)v.view->d->n;
    case VAL_RANGE: return v.range->n;
    case VAL_LOOP: {
        static const struct text length = {"length", 6, true};
        struct val n = jinja_loop_attr(j, v.loop, &length);
        return n.type == VAL_INT ? n.i : -1;
    }
    default: jinja_fail(j, "a %s has no length", jinja_type(v)); return -1;
    }
}

/* ---- equality and order ---- */

/* Exact, as Python compares them: no rounding of the integer. */
static int val_cmp_int_float(int64_t i, double f)
{
    double whole;
    if (isnan(f)) return 2;
    if (f >= 9223372036854775808.0) return -1;
    if (f < -9223372036854775808.0) return 1;
    whole = floor(f);
    if (i != (int64_t)whole) return i < (int64_t)whole ? -1 : 1;
    return f > whole ? -1 : 0;
}

static int val_cmp_number(struct val a, struct val b)
{
    int c;
    if (a.type == VAL_FLOAT && b.type == VAL_FLOAT) {
        if (isnan(a.f) || isnan(b.f)) return 2;
        return a.f < b.f ? -1 : a.f > b.f;
    }
    if (b.type == VAL_FLOAT) return val_cmp_int_float(a.i, b.f);
    if (a.type == VAL_FLOAT) return (c = val_cmp_int_float(b.i, a.f)) == 2 ? 2 : -c;
    return a.i < b.i ? -1 : a.i > b.i;
}

/* Code points sort as their UTF-8 bytes do. */
static int val_cmp_text(const struct text *a, const struct text *b)
{
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (c) return c < 0 ? -1 : 1;
    return a->n < b->n ? -1 : a->n > b->n;
}

static bool val_eq_lists(struct jinja *j, const struct list *a, const struct list *b)
{
    size_t i;
    if (a->n != b->n) return false;
    for (i = 0; i < a->n && !j->failed; i++)
        if (!jinja_eq(j, a->p[i], b->p[i])) return false;
    return true;
}

static bool val_eq_dicts(struct jinja *j, const struct dict *a, const struct dict *b)
{
    size_t i;
    if (a->n != b->n) return false;
    for (i = 0; i < a->n && !j->failed; i++) {
        const struct val *v = jinja_dict_get(j, b, a->p[i].k);
        if (!v || !jinja_eq(j, a->p[i].v, *v)) return false;
    }
    return true;
}

static bool val_eq_containers(struct jinja *j, struct val a, struct val b)
{
    bool same;
    if (++j->depth > JINJA_MAX_CALLS) {
        jinja_fail(j, "values nested too deep");
        j->depth--;
        return false;
    }
    same = a.type == VAL_DICT ? val_eq_dicts(j, a.d, b.d) : val_eq_lists(j, a.l, b.l);
    j->depth--;
    return same;
}

bool jinja_eq(struct jinja *j, struct val a, struct val b)
{
    if (!jinja_charge(j, 0)) return false;
    if (jinja_is_number(a) && jinja_is_number(b)) return val_cmp_number(a, b) == 0;
    if (jinja_is_str(a) && jinja_is_str(b)) {
        if (a.s->n != b.s->n) return false;
        if (a.s->n >= 64) jinja_charge(j, a.s->n);
        return a.s == b.s || memcmp(a.s->p, b.s->p, a.s->n) == 0;
    }
    if (a.type != b.type) return false;
    switch (a.type) {
    case VAL_UNDEFINED:
    case VAL_NONE: return true;
    case VAL_LIST:
    case VAL_TUPLE: return a.l == b.l || val_eq_containers(j, a, b);
    case VAL_DICT: return a.d == b.d || val_eq_containers(j, a, b);
    case VAL_RANGE:
        if (a.range->n != b.range->n) return false;
        if (a.range->n == 0) return true;
        return a.range->start == b.range->start && (a.range->n == 1 || a.range->step == b.range->step);
    case VAL_VIEW:
        if (a.view != b.view) jinja_unsupported(j, "comparing dict views");
        return true;
    case VAL_METHOD: jinja_unsupported(j, "comparing methods"); return false;
    default: return a.l == b.l; /* the same object */
    }
}

static int val_cmp_lists(struct jinja *j, const struct list *a, const struct list *b, const char *op)
{
    size_t i;
    int c;
    for (i = 0; i < a->n && i < b->n && !j->failed; i++) {
        if (jinja_eq(j, a->p[i], b->p[i])) continue;
        if (++j->depth > JINJA_MAX_CALLS) jinja_fail(j, "values nested too deep");
        c = j->failed ? 0 : jinja_cmp(j, a->p[i], b->p[i], op);
        j->depth--;
        return c;
    }
    return a->n < b->n ? -1 : a->n > b->n;
}

int jinja_cmp(struct jinja *j, struct val a, struct val b, const char *op)
{
    if (!jinja_charge(j, 0)) return 0;
    if (a.type == VAL_UNDEFINED || b.type == VAL_UNDEFINED) {
        jinja_fail(j, "%s", jinja_why_undefined(j, a.type == VAL_UNDEFINED ? a : b));
        return 0;
    }
    if (jinja_is_number(a) && jinja_is_number(b)) return val_cmp_number(a, b);
    if (jinja_is_str(a) && jinja_is_str(b)) {
        jinja_charge(j, a.s->n < b.s->n ? a.s->n : b.s->n);
        return val_cmp_text(a.s, b.s);
    }
    if (a.type == b.type && (a.type == VAL_LIST || a.type == VAL_TUPLE)) return val_cmp_lists(j, a.l, b.l, op);
    if (a.type == VAL_VIEW && b.type == VAL_VIEW)
        jinja_unsupported(j, "comparing dict views");
    else
        jinja_fail(j, "'%s' cannot be used between a %s and a %s", op, jinja_type(a), jinja_type(b));
    return 0;
}

/* ---- membership ---- */

static bool val_in_range(struct jinja *j, struct val x, const struct range *r)
{
    int64_t i;
    for (i = 0; i < r->n && !j->failed; i++)
        if (jinja_eq(j, x, jinja_int(r->start + i * r->step))) return true;
    return false;
}

bool jinja_in(struct jinja *j, struct val x, struct val in)
{
    struct iter *it;
    struct val v;
    if (in.type == VAL_STR || in.type == VAL_MARKUP) {
        if (!jinja_is_str(x)) {
            jinja_fail(j, "'in' a text needs a text at its left, not a %s", jinja_type(x));
            return false;
        }
        return jinja_charge(j, in.s->n) && jinja_find(in.s->p, in.s->n, x.s);
    }
    if (in.type == VAL_DICT) {
        if (jinja_hashable(x)) return jinja_dict_get(j, in.d, x) != NULL;
        jinja_fail(j, "a %s cannot be a key", jinja_type(x));
        return false;
    }
    if (in.type == VAL_RANGE) return val_in_range(j, x, in.range);
    it = jinja_iter(j, in);
    while (it && jinja_next(j, it, &v))
        if (jinja_eq(j, x, v)) return true;
    return false;
}
