/* jinja_strmeth.c: methods of str. Positions count characters, as in Python. */
#include "jinja.h"

static struct val str_val(const struct text *t)
{
    return (struct val){.type = VAL_STR, .s = t};
}

/* NULL when the argument is not given or None. */
static const struct text *str_optional(struct jinja *j, struct args *a, int i)
{
    if (a->v[i].type == VAL_MISSING || a->v[i].type == VAL_NONE) return NULL;
    return jinja_arg_text(j, a, i);
}

/* ---- strip, case ---- */

static struct val str_strip(struct jinja *j, struct args *a)
{
    const struct text *chars = str_optional(j, a, 0);
    return jinja_strip(j, a->self.s, chars, a->name[0] != 'r', a->name[0] != 'l');
}

static struct val str_upper(struct jinja *j, struct args *a)
{
    return jinja_case(j, a->self.s, CASE_UPPER);
}

static struct val str_lower(struct jinja *j, struct args *a)
{
    return jinja_case(j, a->self.s, CASE_LOWER);
}

static struct val str_title(struct jinja *j, struct args *a)
{
    return jinja_case(j, a->self.s, CASE_TITLE);
}

static struct val str_capitalize(struct jinja *j, struct args *a)
{
    return jinja_case(j, a->self.s, CASE_CAPITALIZE);
}

static struct val str_swapcase(struct jinja *j, struct args *a)
{
    return jinja_case(j, a->self.s, CASE_SWAP);
}

static struct val str_casefold(struct jinja *j, struct args *a)
{
    if (!a->self.s->ascii) return jinja_unsupported(j, "casefold of a text outside ASCII");
    return jinja_case(j, a->self.s, CASE_LOWER);
}

/* ---- classes ---- */

static struct val str_is(struct jinja *j, struct args *a)
{
    static const char *const names[] = {"isalpha", "isdigit", "isdecimal", "isnumeric", "isalnum",     "isspace",
                                        "islower", "isupper", "istitle",   "isascii",   "isprintable", "isidentifier"};
    int i = 0;
    while (strcmp(names[i], a->name) != 0) i++;
    return jinja_bool(jinja_class(j, a->self.s, (enum class_kind)i));
}

/* ---- split ---- */

static bool str_limit(struct jinja *j, struct args *a, int i, int64_t *max)
{
    *max = -1;
    return a->v[i].type == VAL_MISSING || jinja_arg_int(j, a, i, max);
}

/* Words between white space; the rest after `max` of them stays as it is. */
static struct val str_split_words(struct jinja *j, const struct text *t, int64_t max)
{
    struct val l = jinja_list(j, VAL_LIST);
    size_t i = jinja_space(t->p, t->n);
    while (i < t->n && !j->failed) {
        size_t start = i;
        int32_t c;
        if (max == 0) {
            jinja_push(j, l.l, jinja_sub(j, t, start, t->n));
            break;
        }
        while (i < t->n) {
            size_t n = jinja_char(t->p + i, t->n - i, &c);
            if (jinja_is_space(c)) break;
            i += n;
        }
        jinja_push(j, l.l, jinja_sub(j, t, start, i));
        i += jinja_space(t->p + i, t->n - i);
        if (max > 0) max--;
    }
    return l;
}

static struct val str_split(struct jinja *j, struct args *a)
{
    const struct text *t = a->self.s, *sep = str_optional(j, a, 0);
    struct val l = jinja_list(j, VAL_LIST);
    size_t i = 0;
    int64_t max;
    const char *at;
    if (!str_limit(j, a, 1, &max) || j->failed) return l;
    jinja_charge(j, t->n);
    if (!sep) return str_split_words(j, t, max);
    if (sep->n == 0) return jinja_fail(j, "split: empty separator");
    while (max != 0 && !j->failed && (at = jinja_find(t->p + i, t->n - i, sep)) != NULL) {
        jinja_push(j, l.l, jinja_sub(j, t, i, (size_t)(at - t->p)));
        i = (size_t)(at - t->p) + sep->n;
        if (max > 0) max--;
    }
    jinja_push(j, l.l, jinja_sub(j, t, i, t->n));
    return l;
}

/* Last place of `what` that ends at or before `end`; NULL: none. */
static const char *str_find_last(struct jinja *j, const struct text *t, size_t start, size_t end, const struct text *what)
{
    size_t i;
    if (what->n > end - start) return NULL;
    for (i = end - what->n + 1; i-- > start;) {
        if (i % 8 == 0 && !jinja_charge(j, what->n)) return NULL;
        if (memcmp(t->p + i, what->p, what->n) == 0) return t->p + i;
    }
    return NULL;
}

static size_t str_space_before(const struct text *t, size_t end)
{
    struct text part = {t->p, end, t->ascii};
    while (part.n) {
        size_t at = part.n - 1;
        while (at > 0 && part.n - at < 4 && ((unsigned char)part.p[at] & 0xc0) == 0x80) at--;
        if (jinja_space(part.p + at, part.n - at) != part.n - at) break;
        part.n = at;
    }
    return part.n;
}

static void str_reverse(struct list *l)
{
    size_t i;
    for (i = 0; i < l->n / 2; i++) {
        struct val v = l->p[i];
        l->p[i] = l->p[l->n - 1 - i];
        l->p[l->n - 1 - i] = v;
    }
}

static struct val str_rsplit_words(struct jinja *j, const struct text *t, int64_t max)
{
    struct val l = jinja_list(j, VAL_LIST);
    size_t end = str_space_before(t, t->n);
    while (end > 0 && !j->failed) {
        size_t start = end;
        if (max == 0) {
            jinja_push(j, l.l, jinja_sub(j, t, 0, end));
            break;
        }
        while (start > 0 && str_space_before(t, start) == start) start--;
        jinja_push(j, l.l, jinja_sub(j, t, start, end));
        end = str_space_before(t, start);
        if (max > 0) max--;
    }
    str_reverse(l.l);
    return l;
}

static struct val str_rsplit(struct jinja *j, struct args *a)
{
    const struct text *t = a->self.s, *sep = str_optional(j, a, 0);
    struct val l = jinja_list(j, VAL_LIST);
    size_t end = t->n;
    int64_t max;
    const char *at;
    if (!str_limit(j, a, 1, &max) || j->failed) return l;
    jinja_charge(j, t->n);
    if (!sep) return str_rsplit_words(j, t, max);
    if (sep->n == 0) return jinja_fail(j, "rsplit: empty separator");
    while (max != 0 && !j->failed && (at = str_find_last(j, t, 0, end, sep)) != NULL) {
        jinja_push(j, l.l, jinja_sub(j, t, (size_t)(at - t->p) + sep->n, end));
        end = (size_t)(at - t->p);
        if (max > 0) max--;
    }
    jinja_push(j, l.l, jinja_sub(j, t, 0, end));
    str_reverse(l.l);
    return l;
}

static struct val str_splitlines(struct jinja *j, struct args *a)
{
    int64_t keep = 0;
    if (a->v[0].type != VAL_MISSING && !jinja_arg_int(j, a, 0, &keep)) return a->self;
    return jinja_splitlines(j, a->self.s, keep != 0);
}

static struct val str_partition(struct jinja *j, struct args *a)
{
    const struct text *t = a->self.s, *sep = jinja_arg_text(j, a, 0);
    bool last = a->name[0] == 'r';
    struct val r = jinja_list(j, VAL_TUPLE);
    const char *at;
    if (!sep) return r;
    if (sep->n == 0) return jinja_fail(j, "%s: empty separator", a->name);
    jinja_charge(j, t->n);
    at = last ? str_find_last(j, t, 0, t->n, sep) : jinja_find(t->p, t->n, sep);
    if (at) {
        jinja_push(j, r.l, jinja_sub(j, t, 0, (size_t)(at - t->p)));
        jinja_push(j, r.l, str_val(sep));
        jinja_push(j, r.l, jinja_sub(j, t, (size_t)(at - t->p) + sep->n, t->n));
        return r;
    }
    if (!last) jinja_push(j, r.l, a->self);
    jinja_push(j, r.l, jinja_cstr(j, ""));
    jinja_push(j, r.l, jinja_cstr(j, ""));
    if (last) jinja_push(j, r.l, a->self);
    return r;
}

/* ---- find, count, startswith ---- */

/* The part of self between the arguments `first` and the next one, in bytes; false: nothing can be found there. */
static bool str_window(struct jinja *j, struct args *a, int first, size_t *start, size_t *end)
{
    const struct text *t = a->self.s;
    int64_t n = jinja_len(j, a->self), bound[2] = {0, n};
    int i;
    for (i = 0; i < 2; i++) {
        const struct val *v = &a->v[first + i];
        if (v->type == VAL_MISSING || v->type == VAL_NONE) continue;
        if (!jinja_arg_int(j, a, first + i, &bound[i])) return false;
        if (bound[i] < 0) bound[i] = bound[i] + n < 0 ? 0 : bound[i] + n;
    }
    if (bound[1] > n) bound[1] = n;
    if (bound[0] > bound[1]) return false;
    *start = jinja_offset(t, (size_t)bound[0]);
    *end = jinja_offset(t, (size_t)bound[1]);
    return jinja_charge(j, t->n);
}

static struct val str_find(struct jinja *j, struct args *a)
{
    const struct text *t = a->self.s, *what = jinja_arg_text(j, a, 0);
    bool last = a->name[0] == 'r', must = strstr(a->name, "index") != NULL;
    const char *at = NULL;
    size_t start, end;
    if (what && str_window(j, a, 1, &start, &end))
        at = last ? str_find_last(j, t, start, end, what) : jinja_find(t->p + start, end - start, what);
    if (at) {
        struct text before = {t->p, (size_t)(at - t->p), t->ascii};
        return jinja_int((int64_t)jinja_chars(&before));
    }
    return must ? jinja_fail(j, "%s: not found", a->name) : jinja_int(-1);
}

static struct val str_count(struct jinja *j, struct args *a)
{
    const struct text *what = jinja_arg_text(j, a, 0);
    size_t start, end;
    int64_t n = 0;
    if (!what || !str_window(j, a, 1, &start, &end)) return jinja_int(0);
    if (what->n == 0) {
        struct text part = {a->self.s->p + start, end - start, a->self.s->ascii};
        return jinja_int((int64_t)jinja_chars(&part) + 1);
    }
    for (;; n++) {
        const char *at = jinja_find(a->self.s->p + start, end - start, what);
        if (!at || !jinja_charge(j, 0)) return jinja_int(n);
        start = (size_t)(at - a->self.s->p) + what->n;
    }
}

static bool str_has_at(struct jinja *j, struct args *a, struct val what, bool at_end, size_t start, size_t end)
{
    const char *p = a->self.s->p;
    if (what.type != VAL_STR) {
        jinja_fail(j, "%s: a %s where a text is needed", a->name, jinja_type(what));
        return false;
    }
    if (what.s->n > end - start) return false;
    return memcmp(at_end ? p + end - what.s->n : p + start, what.s->p, what.s->n) == 0;
}

static struct val str_startswith(struct jinja *j, struct args *a)
{
    bool at_end = a->name[0] == 'e';
    struct val what = a->v[0];
    size_t start = 0, end = 0, i;
    bool window = str_window(j, a, 1, &start, &end);
    if (what.type != VAL_TUPLE) {
        bool is = str_has_at(j, a, what, at_end, start, end);
        return jinja_bool(window && is);
    }
    for (i = 0; i < what.l->n && !j->failed; i++)
        if (str_has_at(j, a, what.l->p[i], at_end, start, end) && window) return jinja_bool(true);
    return jinja_bool(false);
}

static struct val str_removeprefix(struct jinja *j, struct args *a)
{
    const struct text *t = a->self.s, *what = jinja_arg_text(j, a, 0);
    bool suffix = strcmp(a->name, "removesuffix") == 0;
    if (!what || what->n > t->n || memcmp(suffix ? t->p + t->n - what->n : t->p, what->p, what->n) != 0) return a->self;
    return suffix ? jinja_sub(j, t, 0, t->n - what->n) : jinja_sub(j, t, what->n, t->n);
}

/* ---- replace, join, fill ---- */

static struct val str_replace(struct jinja *j, struct args *a)
{
    const struct text *old = jinja_arg_text(j, a, 0), *with = old ? jinja_arg_text(j, a, 1) : NULL;
    int64_t max;
    if (!with || !str_limit(j, a, 2, &max)) return a->self;
    return jinja_replace(j, a->self.s, old, with, max);
}

static struct val str_join(struct jinja *j, struct args *a)
{
    struct iter *it = jinja_iter(j, a->v[0]);
    struct buf b = {0};
    struct val v;
    bool first = true;
    while (it && jinja_next(j, it, &v)) {
        if (v.type != VAL_STR) jinja_fail(j, "join: an item is a %s", jinja_type(v));
        if (j->failed) break;
        if (!first) jinja_put(j, &b, a->self.s->p, a->self.s->n);
        first = false;
        jinja_put(j, &b, v.s->p, v.s->n);
    }
    return jinja_take(j, &b);
}

static void str_fill(struct jinja *j, struct buf *b, const struct text *fill, int64_t n)
{
    for (; n > 0 && !j->failed; n--) jinja_put(j, b, fill->p, fill->n);
}

static struct val str_justify(struct jinja *j, struct args *a)
{
    static const struct text space = {" ", 1, true};
    const struct text *fill = a->v[1].type == VAL_MISSING ? &space : jinja_arg_text(j, a, 1);
    struct buf b = {0};
    int64_t width, pad, left;
    if (!fill || !jinja_arg_int(j, a, 0, &width)) return a->self;
    if (jinja_chars(fill) != 1) return jinja_fail(j, "%s: the fill is not one character", a->name);
    if (width > JINJA_MAX_TEXT) return jinja_fail(j, "%s: too wide", a->name);
    pad = width - jinja_len(j, a->self);
    if (pad <= 0) return a->self;
    left = a->name[0] == 'l' ? 0 : a->name[0] == 'r' ? pad : pad / 2 + (pad & width & 1);
    str_fill(j, &b, fill, left);
    jinja_put(j, &b, a->self.s->p, a->self.s->n);
    str_fill(j, &b, fill, pad - left);
    return jinja_take(j, &b);
}

static struct val str_zfill(struct jinja *j, struct args *a)
{
    static const struct text zero = {"0", 1, true};
    const struct text *t = a->self.s;
    struct buf b = {0};
    size_t sign = t->n && (t->p[0] == '-' || t->p[0] == '+');
    int64_t width;
    if (!jinja_arg_int(j, a, 0, &width)) return a->self;
    if (width > JINJA_MAX_TEXT) return jinja_fail(j, "zfill: too wide");
    jinja_put(j, &b, t->p, sign);
    str_fill(j, &b, &zero, width - jinja_len(j, a->self));
    jinja_put(j, &b, t->p + sign, t->n - sign);
    return jinja_take(j, &b);
}

const struct builtin jinja_str_methods[] = {
    {"strip", str_strip, "/chars?"},
    {"lstrip", str_strip, "/chars?"},
    {"rstrip", str_strip, "/chars?"},
    {"split", str_split, "sep? maxsplit?"},
    {"rsplit", str_rsplit, "sep? maxsplit?"},
    {"splitlines", str_splitlines, "keepends?"},
    {"partition", str_partition, "/sep"},
    {"rpartition", str_partition, "/sep"},
    {"upper", str_upper, ""},
    {"lower", str_lower, ""},
    {"title", str_title, ""},
    {"capitalize", str_capitalize, ""},
    {"swapcase", str_swapcase, ""},
    {"casefold", str_casefold, ""},
    {"startswith", str_startswith, "/prefix start? end?"},
    {"endswith", str_startswith, "/suffix start? end?"},
    {"removeprefix", str_removeprefix, "/prefix"},
    {"removesuffix", str_removeprefix, "/suffix"},
    {"replace", str_replace, "/old new count?"},
    {"join", str_join, "/items"},
    {"find", str_find, "/sub start? end?"},
    {"rfind", str_find, "/sub start? end?"},
    {"index", str_find, "/sub start? end?"},
    {"rindex", str_find, "/sub start? end?"},
    {"count", str_count, "/sub start? end?"},
    {"format", jinja_format_braces, "*"},
    {"isalpha", str_is, ""},
    {"isdigit", str_is, ""},
    {"isdecimal", str_is, ""},
    {"isnumeric", str_is, ""},
    {"isalnum", str_is, ""},
    {"isspace", str_is, ""},
    {"islower", str_is, ""},
    {"isupper", str_is, ""},
    {"istitle", str_is, ""},
    {"isascii", str_is, ""},
    {"isprintable", str_is, ""},
    {"isidentifier", str_is, ""},
    {"center", str_justify, "/width fill?"},
    {"ljust", str_justify, "/width fill?"},
    {"rjust", str_justify, "/width fill?"},
    {"zfill", str_zfill, "/width"},
    {"expandtabs", NULL, "*"},
    {"encode", NULL, "*"},
    {"translate", NULL, "*"},
    {"maketrans", NULL, "*"},
    {"format_map", NULL, "*"},
    {NULL, NULL, NULL},
};
