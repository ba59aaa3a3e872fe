/* jinja_repr.c: values as text: str, repr and JSON, byte for byte as Python writes them. */
#include "jinja.h"

#include <math.h>
#include <stdio.h>

static void repr_cstr(struct jinja *j, struct buf *b, const char *s)
{
    jinja_put(j, b, s, strlen(s));
}

/* ---- numbers ---- */

static void repr_int(struct jinja *j, struct buf *b, int64_t i)
{
    char s[24];
    snprintf(s, sizeof s, "%lld", (long long)i);
    repr_cstr(j, b, s);
}

/* The shortest digits that read back as f; with an exponent when that is below -4 or above 15. */
static void repr_float(struct jinja *j, struct buf *b, double f)
{
    char s[32], digits[24], *e;
    int precision, exponent, n = 0, i;
    if (isnan(f) || isinf(f)) {
        repr_cstr(j, b, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    for (precision = 0; precision < 17; precision++) {
        snprintf(s, sizeof s, "%.*e", precision, f);
        if (strtod(s, NULL) == f) break;
    }
    if (signbit(f)) jinja_put(j, b, "-", 1);
    e = strchr(s, 'e');
    exponent = atoi(e + 1);
    for (i = 0; s + i < e; i++)
        if (s[i] >= '0' && s[i] <= '9') digits[n++] = s[i];
    if (exponent < -4 || exponent > 15) {
        jinja_put(j, b, digits, 1);
        if (n > 1) jinja_put(j, b, ".", 1);
        jinja_put(j, b, digits + 1, (size_t)n - 1);
        snprintf(s, sizeof s, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        repr_cstr(j, b, s);
        return;
    }
    if (exponent < 0) repr_cstr(j, b, "0.");
    for (i = exponent; i < -1; i++) jinja_put(j, b, "0", 1);
    for (i = 0; i < n || i <= exponent; i++) {
        if (exponent >= 0 && i == exponent + 1) jinja_put(j, b, ".", 1);
        jinja_put(j, b, i < n ? &digits[i] : "0", 1);
    }
    if (exponent >= 0 && n <= exponent + 1) repr_cstr(j, b, ".0");
}

/* ---- repr ---- */

static void repr_text(struct jinja *j, struct buf *b, const struct text *t)
{
    bool twice = memchr(t->p, '\'', t->n) && !memchr(t->p, '"', t->n);
    char quote = twice ? '"' : '\'', s[16];
    size_t i, n;
    int32_t c;
    jinja_put(j, b, &quote, 1);
    for (i = 0; i < t->n && !j->failed; i += n) {
        n = jinja_char(t->p + i, t->n - i, &c);
        if (c == quote || c == '\\')
            snprintf(s, sizeof s, "\\%c", (char)c);
        else if (c == '\n')
            strcpy(s, "\\n");
        else if (c == '\r')
            strcpy(s, "\\r");
        else if (c == '\t')
            strcpy(s, "\\t");
        else if (c < 0)
            snprintf(s, sizeof s, "\\udc%02x", (unsigned char)t->p[i]);
        else if (jinja_printable(c))
            s[0] = 0;
        else
            snprintf(s, sizeof s, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        if (s[0])
            repr_cstr(j, b, s);
        else
            jinja_put(j, b, t->p + i, n);
        s[0] = 0;
    }
    jinja_put(j, b, &quote, 1);
}

static void repr_list(struct jinja *j, struct buf *b, struct val v)
{
    bool tuple = v.type == VAL_TUPLE;
    size_t i;
    jinja_put(j, b, tuple ? "(" : "[", 1);
    for (i = 0; i < v.l->n && !j->failed; i++) {
        if (i) repr_cstr(j, b, ", ");
        jinja_put_repr(j, b, v.l->p[i]);
    }
    repr_cstr(j, b, tuple ? v.l->n == 1 ? ",)" : ")" : "]");
}

static void repr_dict(struct jinja *j, struct buf *b, const struct dict *d)
{
    size_t i;
    jinja_put(j, b, "{", 1);
    for (i = 0; i < d->n && !j->failed; i++) {
        if (i) repr_cstr(j, b, ", ");
        jinja_put_repr(j, b, d->p[i].k);
        repr_cstr(j, b, ": ");
        jinja_put_repr(j, b, d->p[i].v);
    }
    jinja_put(j, b, "}", 1);
}

static void repr_view(struct jinja *j, struct buf *b, struct val v)
{
    static const char *const names[] = {"dict_keys([", "dict_values([", "dict_items(["};
    struct iter *it = jinja_iter(j, v);
    struct val x;
    bool first = true;
    repr_cstr(j, b, names[v.view->kind]);
    while (it && jinja_next(j, it, &x)) {
        if (!first) repr_cstr(j, b, ", ");
        first = false;
        jinja_put_repr(j, b, x);
    }
    repr_cstr(j, b, "])");
}

static void repr_other(struct jinja *j, struct buf *b, struct val v)
{
    switch (v.type) {
    case VAL_RANGE:
        repr_cstr(j, b, "range(");
        repr_int(j, b, v.range->start);
        repr_cstr(j, b, ", ");
        repr_int(j, b, v.range->stop);
        if (v.range->step != 1) {
            repr_cstr(j, b, ", ");
            repr_int(j, b, v.range->step);
        }
        repr_cstr(j, b, ")");
        break;
    case VAL_NAMESPACE:
        repr_cstr(j, b, "<Namespace ");
        repr_dict(j, b, v.d);
        repr_cstr(j, b, ">");
        break;
    case VAL_LOOP:
        repr_cstr(j, b, "<LoopContext ");
        repr_int(j, b, v.loop->index0 + 1);
        repr_cstr(j, b, "/");
        repr_int(j, b, jinja_len(j, v));
        repr_cstr(j, b, ">");
        break;
    case VAL_MARKUP:
        repr_cstr(j, b, "Markup(");
        repr_text(j, b, v.s);
        repr_cstr(j, b, ")");
        break;
    default: jinja_unsupported(j, "printing a %s", jinja_type(v)); break;
    }
}

void jinja_put_repr(struct jinja *j, struct buf *b, struct val v)
{
    if (!jinja_charge(j, 0)) return;
    if (++j->depth > JINJA_MAX_CALLS) jinja_fail(j, "values nested too deep");
    switch (j->failed ? VAL_MISSING : v.type) {
    case VAL_MISSING: break;
    case VAL_UNDEFINED: repr_cstr(j, b, "Undefined"); break;
    case VAL_NONE: repr_cstr(j, b, "None"); break;
    case VAL_BOOL: repr_cstr(j, b, v.i ? "True" : "False"); break;
    case VAL_INT: repr_int(j, b, v.i); break;
    case VAL_FLOAT: repr_float(j, b, v.f); break;
    case VAL_STR: repr_text(j, b, v.s); break;
    case VAL_LIST:
    case VAL_TUPLE: repr_list(j, b, v); break;
    case VAL_DICT: repr_dict(j, b, v.d); break;
    case VAL_VIEW: repr_view(j, b, v); break;
    default: repr_other(j, b, v); break;
    }
    j->depth--;
}

void jinja_put_str(struct jinja *j, struct buf *b, struct val v)
{
    if (jinja_is_str(v)) {
        if (jinja_charge(j, v.s->n)) jinja_put(j, b, v.s->p, v.s->n);
    } else if (v.type == VAL_MACRO) {
        const struct text *name = v.macro->node->name;
        repr_cstr(j, b, name ? "<Macro '" : "<Macro anonymous>");
        if (!name) return;
        jinja_put(j, b, name->p, name->n);
        repr_cstr(j, b, "'>");
    } else if (v.type != VAL_UNDEFINED) {
        jinja_put_repr(j, b, v);
    }
}

struct val jinja_to_str(struct jinja *j, struct val v)
{
    struct buf b = {0};
    if (jinja_is_str(v)) return (struct val){.type = VAL_STR, .s = v.s};
    jinja_put_str(j, &b, v);
    return jinja_take(j, &b);
}

/* ---- JSON, as json.dumps(ensure_ascii=False) ---- */

struct json {
    struct buf b;
    struct val indent;             /* none, int or str */
    const struct text *item, *key; /* separators */
    bool sort;
    int depth;
};

static void json_text(struct jinja *j, struct buf *b, const struct text *t)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    size_t i, start = 0;
    char s[8];
    jinja_put(j, b, "\"", 1);
    for (i = 0; i < t->n && !j->failed; i++) {
        unsigned char c = (unsigned char)t->p[i];
        const char *k = c ? strchr(from, c) : NULL;
        if (!k && c >= 0x20) continue;
        jinja_put(j, b, t->p + start, i - start);
        start = i + 1;
        if (k)
            snprintf(s, sizeof s, "\\%c", to[k - from]);
        else
            snprintf(s, sizeof s, "\\u%04x", c);
        repr_cstr(j, b, s);
    }
    jinja_put(j, b, t->p + start, t->n - start);
    jinja_put(j, b, "\"", 1);
}

static void json_newline(struct jinja *j, struct json *o)
{
    int64_t i, k;
    if (o->indent.type == VAL_NONE) return;
    jinja_put(j, &o->b, "\n", 1);
    for (i = 0; i < o->depth && !j->failed; i++) {
        if (jinja_is_str(o->indent))
            jinja_put(j, &o->b, o->indent.s->p, o->indent.s->n);
        else
            for (k = 0; k < o->indent.i && !j->failed; k++) jinja_put(j, &o->b, " ", 1);
    }
}

static void json_scalar(struct jinja *j, struct buf *b, struct val v)
{
    switch (v.type) {
    case VAL_NONE: repr_cstr(j, b, "null"); break;
    case VAL_BOOL: repr_cstr(j, b, v.i ? "true" : "false"); break;
    case VAL_INT: repr_int(j, b, v.i); break;
    case VAL_FLOAT:
        if (isnan(v.f) || isinf(v.f))
            repr_cstr(j, b, isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
        else
            repr_float(j, b, v.f);
        break;
    case VAL_UNDEFINED: jinja_fail(j, "%s", jinja_why_undefined(j, v)); break;
    default: jinja_fail(j, "a %s cannot be written as JSON", jinja_type(v)); break;
    }
}

static void json_value(struct jinja *j, struct json *o, struct val v);

static void json_key(struct jinja *j, struct json *o, struct val k)
{
    if (jinja_is_str(k)) {
        json_text(j, &o->b, k.s);
        return;
    }
    if (k.type == VAL_TUPLE) jinja_fail(j, "a tuple cannot be a key in JSON");
    jinja_put(j, &o->b, "\"", 1);
    json_scalar(j, &o->b, k);
    jinja_put(j, &o->b, "\"", 1);
}

/* Insertion sort: stable, and JSON with sorted keys is small. */
static struct dict json_sorted(struct jinja *j, const struct dict *d)
{
    struct dict s = {.p = jinja_array(j, d->n + 1, sizeof *s.p), .n = 0};
    size_t i, k;
    for (i = 0; i < d->n && !j->failed; i++) {
        for (k = s.n; k > 0 && jinja_cmp(j, d->p[i].k, s.p[k - 1].k, "<") == -1; k--) s.p[k] = s.p[k - 1];
        s.p[k] = d->p[i];
        s.n++;
    }
    return s;
}

static void json_container(struct jinja *j, struct json *o, struct val v)
{
    bool dict = v.type == VAL_DICT;
    struct dict d = dict ? *v.d : (struct dict){0};
    size_t n = dict ? d.n : v.l->n, i;
    if (dict && o->sort) d = json_sorted(j, &d);
    jinja_put(j, &o->b, dict ? "{" : "[", 1);
    o->depth++;
    for (i = 0; i < n && !j->failed; i++) {
        if (i) jinja_put(j, &o->b, o->item->p, o->item->n);
        json_newline(j, o);
        if (dict) {
            json_key(j, o, d.p[i].k);
            jinja_put(j, &o->b, o->key->p, o->key->n);
        }
        json_value(j, o, dict ? d.p[i].v : v.l->p[i]);
    }
    o->depth--;
    if (n) json_newline(j, o);
    jinja_put(j, &o->b, dict ? "}" : "]", 1);
}

static void json_value(struct jinja *j, struct json *o, struct val v)
{
    if (!jinja_charge(j, 0)) return;
    if (o->depth > JINJA_MAX_DEPTH)
        jinja_fail(j, "values nested too deep");
    else if (jinja_is_str(v))
        json_text(j, &o->b, v.s);
    else if (v.type == VAL_LIST || v.type == VAL_TUPLE || v.type == VAL_DICT)
        json_container(j, o, v);
    else
        json_scalar(j, &o->b, v);
}

/* tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
struct val jinja_json(struct jinja *j, struct args *a)
{
    static const struct text comma = {",", 1, true}, comma_space = {", ", 2, true}, colon = {": ", 2, true};
    struct json o = {.indent = jinja_none(), .item = &comma_space, .key = &colon};
    if (a->v[0].type != VAL_MISSING && jinja_true(j, a->v[0])) return jinja_unsupported(j, "tojson with ensure_ascii");
    if (a->v[1].type != VAL_MISSING && a->v[1].type != VAL_NONE) {
        o.indent = a->v[1];
        o.item = &comma;
        if (!jinja_is_int(o.indent) && !jinja_is_str(o.indent))
            return jinja_fail(j, "tojson: indent is a %s", jinja_type(o.indent));
    }
    if (a->v[2].type != VAL_MISSING && a->v[2].type != VAL_NONE) {
        struct val s = jinja_to_list(j, a->v[2], VAL_TUPLE);
        if (j->failed) return s;
        if (s.l->n != 2 || !jinja_is_str(s.l->p[0]) || !jinja_is_str(s.l->p[1]))
            return jinja_fail(j, "tojson: separators are not two texts");
        o.item = s.l->p[0].s;
        o.key = s.l->p[1].s;
    }
    o.sort = a->v[3].type != VAL_MISSING && jinja_true(j, a->v[3]);
    json_value(j, &o, a->self);
    return jinja_take(j, &o.b);
}
