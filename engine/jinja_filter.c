/* jinja_filter.c: filters of texts and numbers, and the table of all filters. */
#include "jinja.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

/* The filtered value as a text; NULL: failed. A text marked safe would have to stay so. */
static const struct text *filter_text(struct jinja *j, struct args *a)
{
    if (a->self.type == VAL_MARKUP) {
        jinja_unsupported(j, "the filter '%s' on a text marked safe", a->name);
        return NULL;
    }
    return jinja_to_str(j, a->self).s;
}

/* A text made from one that is marked safe is marked, too. */
static struct val filter_like(const struct args *a, struct val v)
{
    if (a->self.type == VAL_MARKUP) v.type = VAL_MARKUP;
    return v;
}

static struct val filter_str(const struct text *t)
{
    return (struct val){.type = VAL_STR, .s = t};
}

static bool filter_flag(struct jinja *j, const struct args *a, int i)
{
    return a->v[i].type != VAL_MISSING && jinja_true(j, a->v[i]);
}

/* ---- texts ---- */

static struct val filter_case(struct jinja *j, struct args *a)
{
    enum case_kind kind = a->name[0] == 'u' ? CASE_UPPER : a->name[0] == 'l' ? CASE_LOWER : CASE_CAPITALIZE;
    return filter_like(a, jinja_case(j, jinja_to_str(j, a->self).s, kind));
}

/* A word starts after white space or one of -({[<. */
static struct val filter_title(struct jinja *j, struct args *a)
{
    const struct text *t = filter_text(j, a);
    struct buf b = {0};
    bool start = true;
    size_t i = 0;
    while (t && i < t->n && !j->failed) {
        int32_t c;
        size_t n = jinja_char(t->p + i, t->n - i, &c);
        struct val one = jinja_sub(j, t, i, i + n);
        one = jinja_case(j, one.s, start ? CASE_UPPER : CASE_LOWER);
        jinja_put(j, &b, one.s->p, one.s->n);
        start = jinja_is_space(c) || (c > 0 && c < 0x80 && strchr("-({[<", c));
        i += n;
    }
    return jinja_take(j, &b);
}

static struct val filter_trim(struct jinja *j, struct args *a)
{
    const struct text *chars = NULL;
    if (a->v[0].type != VAL_MISSING && a->v[0].type != VAL_NONE && !(chars = jinja_arg_text(j, a, 0))) return a->self;
    return filter_like(a, jinja_strip(j, jinja_to_str(j, a->self).s, chars, true, true));
}

static struct val filter_replace(struct jinja *j, struct args *a)
{
    int64_t max = -1;
    if (a->v[2].type != VAL_MISSING && a->v[2].type != VAL_NONE && !jinja_arg_int(j, a, 2, &max)) return a->self;
    return jinja_replace(j, jinja_to_str(j, a->self).s, jinja_to_str(j, a->v[0]).s, jinja_to_str(j, a->v[1]).s, max);
}

static struct val filter_string(struct jinja *j, struct args *a)
{
    return a->self.type == VAL_MARKUP ? a->self : jinja_to_str(j, a->self);
}

static struct val filter_safe(struct jinja *j, struct args *a)
{
    struct val v = jinja_to_str(j, a->self);
    v.type = VAL_MARKUP;
    return v;
}

static struct val filter_escape(struct jinja *j, struct args *a)
{
    return jinja_escape(j, a->self);
}

static struct val filter_forceescape(struct jinja *j, struct args *a)
{
    return jinja_escape(j, jinja_to_str(j, a->self));
}

/* indent(width=4, first=False, blank=False) */
static struct val filter_indent(struct jinja *j, struct args *a)
{
    struct buf b = {0}, by = {0};
    struct val lines;
    int64_t width = 4, k;
    size_t i;
    if (!jinja_is_str(a->self)) return jinja_fail(j, "indent: a %s where a text is needed", jinja_type(a->self));
    if (a->v[0].type == VAL_STR)
        jinja_put(j, &by, a->v[0].s->p, a->v[0].s->n);
    else if (a->v[0].type != VAL_MISSING && !jinja_arg_int(j, a, 0, &width))
        return a->self;
    else
        for (k = 0; k < width && !j->failed; k++) jinja_put(j, &by, " ", 1);
    jinja_put(j, &b, a->self.s->p, a->self.s->n);
    jinja_put(j, &b, "\n", 1); /* so that a final newline leaves an empty last line */
    lines = jinja_splitlines(j, jinja_take(j, &b).s, false);
    if (filter_flag(j, a, 1)) jinja_put(j, &b, by.p ? by.p : "", by.n);
    for (i = 0; i < lines.l->n && !j->failed; i++) {
        const struct text *line = lines.l->p[i].s;
        if (i) jinja_put(j, &b, "\n", 1);
        if (i && (line->n || filter_flag(j, a, 2))) jinja_put(j, &b, by.p ? by.p : "", by.n);
        jinja_put(j, &b, line->p, line->n);
    }
    buf_free(&by);
    return filter_like(a, jinja_take(j, &b));
}

static struct val filter_wordcount(struct jinja *j, struct args *a)
{
    const struct text *t = filter_text(j, a);
    bool inside = false;
    int64_t words = 0;
    size_t i = 0;
    int32_t c;
    while (t && i < t->n && jinja_charge(j, 0)) {
        bool word;
        i += jinja_char(t->p + i, t->n - i, &c);
        word = jinja_word(c);
        words += word && !inside;
        inside = word;
    }
    return jinja_int(words);
}

static struct val filter_center(struct jinja *j, struct args *a)
{
    static const struct text name = {"center", 6, true};
    struct args m = {.name = "center", .pos = jinja_list(j, VAL_LIST).l, .kw = jinja_dict(j).d};
    const struct text *t = filter_text(j, a);
    if (!t) return a->self;
    m.self = filter_str(t);
    jinja_push(j, m.pos, a->v[0].type == VAL_MISSING ? jinja_int(80) : a->v[0]);
    return jinja_call_builtin(j, jinja_find_builtin(jinja_str_methods, &name), &m, "method");
}

/* truncate(length=255, killwords=False, end="...", leeway=5) */
static struct val filter_truncate(struct jinja *j, struct args *a)
{
    static const struct text dots = {"...", 3, true};
    const struct text *t, *end = &dots;
    int64_t length = 255, leeway = 5, keep;
    size_t cut;
    struct buf b = {0};
    if (a->v[0].type != VAL_MISSING && !jinja_arg_int(j, a, 0, &length)) return a->self;
    if (a->v[2].type != VAL_MISSING && !(end = jinja_arg_text(j, a, 2))) return a->self;
    if (a->v[3].type != VAL_MISSING && a->v[3].type != VAL_NONE && !jinja_arg_int(j, a, 3, &leeway)) return a->self;
    keep = length - (int64_t)jinja_chars(end);
    if (keep < 0 || leeway < 0) return jinja_fail(j, "truncate: the length is below that of the end");
    if (leeway > INT64_MAX - length || jinja_len(j, a->self) <= length + leeway) return a->self;
    if (a->self.type != VAL_STR) return jinja_unsupported(j, "truncate of a %s", jinja_type(a->self));
    t = a->self.s;
    cut = jinja_offset(t, (size_t)keep);
    if (!filter_flag(j, a, 1)) {
        size_t space = cut;
        while (space > 0 && t->p[space - 1] != ' ') space--;
        if (space > 0) cut = space - 1;
    }
    jinja_put(j, &b, t->p, cut);
    jinja_put(j, &b, end->p, end->n);
    return jinja_take(j, &b);
}

static struct val filter_urlencode(struct jinja *j, struct args *a)
{
    struct buf b = {0};
    const struct text *t;
    size_t i;
    char s[4];
    if (!jinja_is_str(a->self) && jinja_iterable(a->self))
        return jinja_unsupported(j, "urlencode of a %s", jinja_type(a->self));
    t = jinja_to_str(j, a->self).s;
    for (i = 0; i < t->n && !j->failed; i++) {
        unsigned char c = (unsigned char)t->p[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("_.-~/", c));
        snprintf(s, sizeof s, "%%%02X", c);
        if (plain)
            jinja_put(j, &b, t->p + i, 1);
        else
            jinja_put(j, &b, s, 3);
    }
    return jinja_take(j, &b);
}

static struct val filter_format(struct jinja *j, struct args *a)
{
    const struct text *t = filter_text(j, a);
    if (!t) return a->self;
    if (a->pos->n && a->kw->n) return jinja_fail(j, "format: positional and keyword arguments together");
    if (a->kw->n) return jinja_format_percent(j, t, (struct val){.type = VAL_DICT, .d = a->kw});
    return jinja_format_percent(j, t, (struct val){.type = VAL_TUPLE, .l = a->pos});
}

/* ---- numbers ---- */

static bool filter_digit(char c, int base)
{
    int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'z' ? (c | 32) - 'a' + 10 : 99;
    return d < base;
}

/* Copies digits, dropping single underscores between them; NULL: an underscore elsewhere. */
static char *filter_plain(struct jinja *j, const struct text *t, int base)
{
    struct val s = jinja_strip(j, t, NULL, true, true);
    char *out = arena_strndup(j->mem, s.s->p, s.s->n);
    size_t i, n = 0;
    j->used += s.s->n;
    for (i = 0; i < s.s->n; i++) {
        char c = out[i];
        if (c == '_') {
            if (i == 0 || i + 1 == s.s->n || !filter_digit(out[i - 1], base) || !filter_digit(out[i + 1], base)) return NULL;
            continue;
        }
        if (c == 0) return NULL;
        out[n++] = c;
    }
    out[n] = 0;
    return out;
}

/* Whether int(text, base) would take it. */
static bool filter_int_text(struct jinja *j, const struct text *t, int base, int64_t *out)
{
    const char *s = filter_plain(j, t, base), *p = s;
    char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : 0;
    bool negative;
    size_t i;
    if (!s) return false;
    negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    if (prefix && p[0] == '0' && (p[1] | 32) == prefix) p += 2;
    if (!*p) return false;
    for (i = 0; p[i]; i++)
        if (!filter_digit(p[i], base)) return false;
    errno = 0;
    *out = strtoll(p, NULL, base);
    if (errno) jinja_unsupported(j, "an integer of more than 64 bits");
    if (negative) *out = -*out;
    return true;
}

static bool filter_word_is(const char *s, const char *word)
{
    while (*s && (*s | 32) == *word) {
        s++;
        word++;
    }
    return !*s && !*word;
}

/* Whether float(text) would take it. */
static bool filter_float_text(struct jinja *j, const struct text *t, double *out)
{
    const char *s = filter_plain(j, t, 10), *p = s;
    size_t whole, fraction = 0;
    if (!s) return false;
    if (*p == '-' || *p == '+') p++;
    if (filter_word_is(p, "inf") || filter_word_is(p, "infinity") || filter_word_is(p, "nan")) {
        *out = (p[0] | 32) == 'n' ? NAN : *s == '-' ? -INFINITY : INFINITY;
        return true;
    }
    whole = strspn(p, "0123456789");
    p += whole;
    if (*p == '.') {
        fraction = strspn(p + 1, "0123456789");
        p += 1 + fraction;
    }
    if (whole + fraction == 0) return false;
    if ((*p | 32) == 'e') {
        p++;
        if (*p == '-' || *p == '+') p++;
        if (!strspn(p, "0123456789")) return false;
        p += strspn(p, "0123456789");
    }
    if (*p) return false;
    *out = strtod(s, NULL);
    return true;
}

static bool filter_to_float(struct jinja *j, struct val v, double *out)
{
    if (v.type == VAL_UNDEFINED) jinja_fail(j, "%s", jinja_why_undefined(j, v));
    if (jinja_is_number(v)) {
        *out = v.type == VAL_FLOAT ? v.f : (double)v.i;
        return true;
    }
    if (!jinja_is_str(v) || j->failed) return false;
    if (!v.s->ascii) jinja_unsupported(j, "a number in a text outside ASCII");
    return filter_float_text(j, v.s, out);
}

/* int(default=0, base=10); "42.23" gives 42 */
static struct val filter_int(struct jinja *j, struct args *a)
{
    struct val absent = a->v[0].type == VAL_MISSING ? jinja_int(0) : a->v[0];
    int64_t base = 10, i;
    double f;
    if (a->v[1].type != VAL_MISSING && !jinja_arg_int(j, a, 1, &base)) return a->self;
    if (base < 2 || base > 36) return jinja_unsupported(j, "int with this base");
    if (jinja_is_int(a->self)) return jinja_int(a->self.i);
    if (jinja_is_str(a->self)) {
        if (!a->self.s->ascii) return jinja_unsupported(j, "a number in a text outside ASCII");
        if (filter_int_text(j, a->self.s, (int)base, &i)) return jinja_int(i);
    }
    if (!filter_to_float(j, a->self, &f) || isnan(f)) return absent;
    if (isinf(f)) return a->self.type == VAL_FLOAT ? jinja_fail(j, "int: infinity") : absent;
    if (fabs(f) >= 9223372036854775808.0) return jinja_unsupported(j, "an integer of more than 64 bits");
    return jinja_int((int64_t)f);
}

static struct val filter_float(struct jinja *j, struct args *a)
{
    double f;
    if (filter_to_float(j, a->self, &f)) return jinja_float(f);
    return a->v[0].type == VAL_MISSING ? jinja_float(0) : a->v[0];
}

static struct val filter_abs(struct jinja *j, struct args *a)
{
    if (a->self.type == VAL_FLOAT) return jinja_float(fabs(a->self.f));
    if (!jinja_is_int(a->self)) return jinja_fail(j, "abs of a %s", jinja_type(a->self));
    return a->self.i < 0 ? jinja_negate(j, a->self, true) : jinja_int(a->self.i);
}

/* round(precision=0, method="common"): common rounds halves to even, on the exact value as printf has it. */
static struct val filter_round(struct jinja *j, struct args *a)
{
    const struct text *method = a->v[1].type == VAL_MISSING ? NULL : jinja_arg_text(j, a, 1);
    bool common = !method || jinja_text_is(method, "common"), up = method && jinja_text_is(method, "ceil");
    int64_t precision = 0;
    char s[700];
    double f, scale;
    if (a->v[1].type != VAL_MISSING && !method) return a->self;
    if (a->v[0].type != VAL_MISSING && !jinja_arg_int(j, a, 0, &precision)) return a->self;
    if (!common && !up && !jinja_text_is(method, "floor")) return jinja_fail(j, "round: unknown method");
    if (!jinja_is_number(a->self)) return jinja_fail(j, "round of a %s", jinja_type(a->self));
    if (precision < 0 || precision > 15) return jinja_unsupported(j, "round with this precision");
    f = a->self.type == VAL_FLOAT ? a->self.f : (double)a->self.i;
    if (common) {
        if (a->self.type != VAL_FLOAT) return jinja_int(a->self.i);
        if (!isfinite(f)) return a->self;
        snprintf(s, sizeof s, "%.*f", (int)precision, f);
        return jinja_float(strtod(s, NULL));
    }
    scale = pow(10, (double)precision);
    if (!isfinite(f) || fabs(f * scale) > 9007199254740992.0) return jinja_unsupported(j, "round of a number this large");
    return jinja_float((up ? ceil(f * scale) : floor(f * scale)) / scale + 0.0);
}

/* ---- any value ---- */

static struct val filter_default(struct jinja *j, struct args *a)
{
    bool use = a->self.type == VAL_UNDEFINED || (filter_flag(j, a, 1) && !jinja_true(j, a->self));
    if (!use) return a->self;
    return a->v[0].type == VAL_MISSING ? jinja_cstr(j, "") : a->v[0];
}

static struct val filter_length(struct jinja *j, struct args *a)
{
    return jinja_int(jinja_len(j, a->self));
}

static const struct builtin filters[] = {
    {"abs", filter_abs, ""},
    {"capitalize", filter_case, ""},
    {"center", filter_center, "width?"},
    {"count", filter_length, ""},
    {"d", filter_default, "default_value? boolean?"},
    {"default", filter_default, "default_value? boolean?"},
    {"e", filter_escape, ""},
    {"escape", filter_escape, ""},
    {"float", filter_float, "default?"},
    {"forceescape", filter_forceescape, ""},
    {"format", filter_format, "*"},
    {"indent", filter_indent, "width? first? blank?"},
    {"int", filter_int, "default? base?"},
    {"length", filter_length, ""},
    {"lower", filter_case, ""},
    {"replace", filter_replace, "old new count?"},
    {"round", filter_round, "precision? method?"},
    {"safe", filter_safe, ""},
    {"string", filter_string, ""},
    {"title", filter_title, ""},
    {"tojson", jinja_json, "ensure_ascii? indent? separators? sort_keys?"},
    {"trim", filter_trim, "chars?"},
    {"truncate", filter_truncate, "length? killwords? end? leeway?"},
    {"upper", filter_case, ""},
    {"urlencode", filter_urlencode, ""},
    {"wordcount", filter_wordcount, ""},
    {"attr", NULL, "*"},
    {"filesizeformat", NULL, "*"},
    {"groupby", NULL, "*"},
    {"pprint", NULL, "*"},
    {"random", NULL, "*"},
    {"striptags", NULL, "*"},
    {"urlize", NULL, "*"},
    {"wordwrap", NULL, "*"},
    {"xmlattr", NULL, "*"},
    {NULL, NULL, NULL},
};

const struct builtin *jinja_filter(const struct text *name)
{
    const struct builtin *f = jinja_find_builtin(filters, name);
    return f ? f : jinja_find_builtin(jinja_seq_filters, name);
}
