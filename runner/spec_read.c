/* spec_read.c: typed readers. Types come from the key, never from the look of a scalar. */
#include "spec_internal.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- saying what is wrong ---- */

bool spec_quiet(const struct reader *r)
{
    return diag_errors(r->d) >= DIAG_MAX;
}

/* "9:12", or the argument. */
void spec_where(const struct reader *r, struct mark at, struct buf *out)
{
    if (at.line < 0)
        diag_where(r->d, at, out);
    else
        buf_printf(out, "%d:%d", at.line, at.col);
}

void spec_wrong(struct reader *r, const struct node *v, const char *code, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    r->wrong++;
    diag_add(r->d, DIAG_ERROR, code, v->at, v->width, "%s", b.p ? b.p : "");
    buf_free(&b);
    for (int i = 0; i < r->n_values; i++)
        if (v == r->puts[i].node) {
            struct buf where = {0};
            spec_where(r, r->puts[i].where->at, &where);
            diag_help(r->d, "put in for %s at %s", r->puts[i].where->text, where.p);
            buf_free(&where);
        }
}

void spec_help(struct reader *r, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    diag_help(r->d, "%s", b.p ? b.p : "");
    buf_free(&b);
}

const char *spec_shown(struct reader *r, const struct node *v)
{
    enum { MAX = 60 };
    size_t n = 0;
    if (v->kind != NODE_SCALAR) return node_kind_name(v);
    if (spec_quiet(r)) return "";
    if (v->len <= MAX) return arena_printf(r->mem, "'%s'", v->text);
    while (n < MAX) n += (size_t)utf8_len(v->text + n, v->len - n);
    return arena_printf(r->mem, "'%.*s…'", (int)n, v->text);
}

/* "; did you mean 'x'?" or nothing. */
static const char *did_you_mean(struct reader *r, const struct node *v, const char *const *words)
{
    const char *near = spec_quiet(r) || v->len < 3 || v->len > 64 ? NULL : nearest_word(v->text, words);
    return near ? arena_printf(r->mem, "; did you mean '%s'?", near) : "";
}

/* ---- $axis ---- */

/* A zip alone stands for no one value. */
static void name_a_list(struct reader *r, const struct node *v, const struct axis *a)
{
    const char *dot = strchr(v->text, '.');
    struct buf b = {0};
    for (int i = 0; i < a->n_members; i++) buf_printf(&b, " $%s.%s", a->name, a->members[i].name);
    if (dot)
        spec_wrong(r, v, "E241", "zip '%s' has no list '%s'", a->name, dot + 1);
    else
        spec_wrong(r, v, "E241", "axis '%s' is a zip: say which of its lists", a->name);
    if (b.n) spec_help(r, "allowed here:%s", b.p);
    buf_free(&b);
}

const struct node *spec_put(struct reader *r, const struct node *v)
{
    const struct axis *a;
    int axis, member;
    if (!r->condition || v->kind != NODE_SCALAR || v->text[0] != '$') return v;
    if (!spec_axis_find(r->o, v->text, &axis, &member)) return v;
    a = &r->o->s.axes[axis];
    if (r->axis_used) r->axis_used[axis] = true;
    if (a->kind == AXIS_ZIP && member < 0) return name_a_list(r, v, a), NULL;
    if (a->kind == AXIS_ZIP && a->n == 0) return NULL; /* wrong, which has been said */
    for (int i = 0; i < r->n_values; i++) {
        if (r->values[i].axis != axis) continue;
        r->puts[i].where = v;
        r->puts[i].node = member < 0 ? &r->puts[i].value : a->members[member].values[r->values[i].choice];
        return r->puts[i].node;
    }
    spec_wrong(r, v, "E227", "axis '%s' is not in `over` of condition '%s'", a->name, r->condition->name);
    spec_help(r, "help: over: [%s]", a->name);
    return NULL;
}

/* ---- maps and lists ---- */

static void help_allowed(struct reader *r, const struct field *f)
{
    struct buf b = {0};
    for (; f->key; f++)
        if (!(f->flags & FIELD_LATER)) buf_printf(&b, " %s", f->key);
    if (b.n) spec_help(r, "allowed here:%s", b.p);
    buf_free(&b);
}

static void unknown_key(struct reader *r, const struct node *k, const char *what, const struct field *f)
{
    enum { WORDS = 32 };
    const char *words[WORDS + 1] = {0};
    int n = 0;
    for (const struct field *g = f; g->key && n < WORDS; g++)
        if (!(g->flags & FIELD_LATER)) words[n++] = g->key;
    spec_wrong(r, k, "E201", "unknown key %s in %s%s", spec_shown(r, k), what, did_you_mean(r, k, words));
    help_allowed(r, f);
}

/* In one error: a second one of the same kind at the same place would be dropped. */
static void missing_keys(struct reader *r, const struct node *v, const char *what, const struct field *f)
{
    struct buf b = {0};
    int n = 0;
    for (const struct field *g = f; g->key; g++)
        if ((g->flags & FIELD_NEEDED) && !g->v) buf_printf(&b, "%s'%s'", n++ ? ", " : "", g->key);
    if (n) spec_wrong(r, v, "E202", "%s needs the key%s %s", what, n > 1 ? "s" : "", b.p);
    for (const struct field *g = f; n && g->key; g++)
        if ((g->flags & FIELD_NEEDED) && !g->v && g->note) spec_help(r, "help: %s", g->note);
    buf_free(&b);
}

bool spec_map(struct reader *r, const struct node *v, const char *what, struct field *f)
{
    if (v->kind != NODE_MAP) {
        spec_wrong(r, v, "E203", "%s: a map of keys and values is wanted, this is %s", what, spec_shown(r, v));
        help_allowed(r, f);
        return false;
    }
    for (int i = 0; i < v->n; i++) {
        const struct node *k = v->keys[i];
        struct field *g = f;
        while (g->key && (g->key[0] != k->text[0] || strcmp(g->key, k->text))) g++;
        if (!g->key) {
            unknown_key(r, k, what, f);
        } else if (g->flags & FIELD_LATER) {
            spec_wrong(r, k, "E206", "'%s' in %s is not supported yet", k->text, what);
            help_allowed(r, f);
        } else {
            g->v = v->items[i];
            g->k = k;
        }
    }
    missing_keys(r, v, what, f);
    return true;
}

const struct node *spec_field(const struct field *f, const char *key)
{
    while (f->key[0] != key[0] || strcmp(f->key, key)) f++;
    return f->v;
}

bool spec_list(struct reader *r, const struct node *v, const char *name)
{
    if (v->kind != NODE_LIST) {
        spec_wrong(r, v, "E203", "%s: a list is wanted, this is %s", name, spec_shown(r, v));
        return false;
    }
    if (v->n == 0) spec_wrong(r, v, "E215", "%s is an empty list; leave the key out or fill it", name);
    return v->n > 0;
}

bool spec_words(struct reader *r, const struct node *v, const char *name)
{
    if (spec_list(r, v, name)) return true;
    if (v->kind == NODE_SCALAR && v->len && v->len < 40) spec_help(r, "help: %s: [%s]", name, v->text);
    return false;
}

/* ---- scalars ---- */

/* The scalar behind v, with $axis put in; NULL: said why. A plain empty scalar is a value that was left out. */
static const struct node *scalar(struct reader *r, const struct node *v, const char *name, const char *wanted)
{
    v = spec_put(r, v);
    if (!v) return NULL;
    if (v->kind != NODE_SCALAR) {
        spec_wrong(r, v, "E203", "%s: %s is wanted, this is %s", name, wanted, node_kind_name(v));
        return NULL;
    }
    if (v->len == 0 && v->style == NODE_PLAIN) {
        spec_wrong(r, v, "E215", "%s: %s is wanted, there is nothing", name, wanted);
        return NULL;
    }
    if (memchr(v->text, 0, v->len)) {
        spec_wrong(r, v, "E216", "%s holds a NUL character", name);
        return NULL;
    }
    return v;
}

bool spec_text_or_empty(struct reader *r, const struct node *v, const char *name, const char **out)
{
    v = scalar(r, v, name, "a text");
    if (v) *out = v->text;
    return v != NULL;
}

bool spec_text(struct reader *r, const struct node *v, const char *name, const char **out)
{
    v = scalar(r, v, name, "a text");
    if (!v) return false;
    if (v->len == 0) {
        spec_wrong(r, v, "E215", "%s is empty", name);
        return false;
    }
    *out = v->text;
    return true;
}

bool spec_bool(struct reader *r, const struct node *v, const char *name, bool *out)
{
    v = scalar(r, v, name, "true or false");
    if (!v) return false;
    if (!strcmp(v->text, "true") || !strcmp(v->text, "false")) {
        *out = v->text[0] == 't';
        return true;
    }
    spec_wrong(r, v, "E210", "%s: %s is not a boolean; write true or false", name, spec_shown(r, v));
    return false;
}

enum whole { WHOLE_OK, WHOLE_NOT, WHOLE_TOO_LARGE };

/* -?(0|[1-9][0-9]*) in the n bytes at s. */
static enum whole parse_whole(const char *s, size_t n, int *out)
{
    size_t i = 0;
    int64_t x = 0;
    bool minus = n && s[0] == '-';
    if (minus) i++;
    if (i == n || (s[i] == '0' && (n > i + 1 || minus))) return WHOLE_NOT;
    for (size_t k = i; k < n; k++)
        if (s[k] < '0' || s[k] > '9') return WHOLE_NOT;
    for (; i < n; i++) {
        x = 10 * x + (s[i] - '0');
        if (x > INT_MAX) return WHOLE_TOO_LARGE;
    }
    *out = (int)(minus ? -x : x);
    return WHOLE_OK;
}

static void not_whole(struct reader *r, const struct node *v, const char *name, const char *wanted, const char *example)
{
    const char *s = v->text;
    bool digit = s[0] >= '0' && s[0] <= '9';
    spec_wrong(r, v, "E211", "%s: %s is not %s", name, spec_shown(r, v), wanted);
    if (s[0] == '0' && s[1] && strchr("xXob", s[1]))
        spec_help(r, "help: numbers are decimal here");
    else if (s[0] == '0' && s[1] >= '0' && s[1] <= '9')
        spec_help(r, "help: no leading zeros (YAML 1.1 would read an octal number)");
    else if (digit && (strchr(s, '_') || strchr(s, ',')))
        spec_help(r, "help: digits only, without separators");
    else if (digit && strpbrk(s, "OolI"))
        spec_help(r, "help: there is a letter among the digits");
    else
        spec_help(r, "help: %s", example);
}

bool spec_int(struct reader *r, const struct node *v, const char *name, int lo, int hi, int *out)
{
    int x = 0;
    enum whole ok;
    v = scalar(r, v, name, "a whole number");
    if (!v) return false;
    ok = parse_whole(v->text, v->len, &x);
    if (ok == WHOLE_NOT) {
        not_whole(r, v, name, "a whole number", "write decimal digits only, e.g. 100");
        return false;
    }
    if (ok == WHOLE_TOO_LARGE || x < lo || x > hi) {
        spec_wrong(r, v, "E212", "%s: %s is outside %d..%d", name, spec_shown(r, v), lo, hi);
        return false;
    }
    *out = x;
    return true;
}

/* -?digits[.digits][e[+-]digits]: what every language writes for a number. */
static bool is_number(const char *s)
{
    size_t n;
    if (*s == '-') s++;
    n = strspn(s, "0123456789");
    if (n == 0) return false;
    s += n;
    if (*s == '.') {
        n = strspn(s + 1, "0123456789");
        if (n == 0) return false;
        s += 1 + n;
    }
    if (*s == 'e' || *s == 'E') {
        s += s[1] == '-' || s[1] == '+' ? 2 : 1;
        n = strspn(s, "0123456789");
        if (n == 0) return false;
        s += n;
    }
    return !*s;
}

bool spec_number(struct reader *r, const struct node *v, const char *name, float *out)
{
    float x;
    v = scalar(r, v, name, "a number");
    if (!v) return false;
    if (!is_number(v->text)) {
        spec_wrong(r, v, "E211", "%s: %s is not a number", name, spec_shown(r, v));
        spec_help(r, "help: write 0.5, -2 or 1e-3");
        return false;
    }
    x = strtof(v->text, NULL);
    if (!isfinite(x)) {
        spec_wrong(r, v, "E212", "%s: %s is too large", name, spec_shown(r, v));
        return false;
    }
    *out = x;
    return true;
}

static int word_in(const char *s, const char *const *words)
{
    for (int i = 0; words && words[i]; i++)
        if (!strcmp(words[i], s)) return i;
    return -1;
}

int spec_word(struct reader *r, const struct node *v, const char *name, const char *const *words, const char *const *later)
{
    struct buf b = {0};
    int i;
    if (v->kind != NODE_SCALAR) {
        spec_wrong(r, v, "E203", "%s: one word is wanted, this is %s", name, node_kind_name(v));
        i = -1;
    } else {
        v = scalar(r, v, name, "one word");
        if (!v) return -1;
        i = word_in(v->text, words);
        if (i >= 0) return i;
        if (word_in(v->text, later) >= 0)
            spec_wrong(r, v, "E206", "%s: '%s' is not supported yet", name, v->text);
        else
            spec_wrong(r, v, "E205", "%s cannot be %s%s", name, spec_shown(r, v), did_you_mean(r, v, words));
    }
    for (int k = 0; words[k]; k++) buf_printf(&b, " %s", words[k]);
    spec_help(r, "allowed here:%s", b.p ? b.p : "");
    buf_free(&b);
    return i;
}

bool spec_name(struct reader *r, const struct node *v, const char *name, bool wide, const char *const *reserved,
               const char **out)
{
    const char *s = NULL;
    if (!spec_text(r, v, name, &s)) return false;
    *out = s;
    for (const char *p = s; *p; p++) {
        if ((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || (*p == '_' && (wide || p > s))) continue;
        if (wide && ((*p >= 'A' && *p <= 'Z') || *p == '.' || *p == '-')) continue;
        spec_wrong(r, v, "E213", "%s: %s cannot be a name", name, spec_shown(r, v));
        spec_help(r, wide ? "help: a name is made of A-Z a-z 0-9 _ . -"
                          : "help: a name is made of a-z 0-9 _ and starts with a "
                            "letter or digit");
        return false;
    }
    if (word_in(s, reserved) < 0) return true;
    spec_wrong(r, v, "E213", "%s: '%s' has a meaning of its own here and cannot be a name", name, s);
    return false;
}

/* ---- ranges ---- */

static bool one_range(struct reader *r, const struct node *v, const char *name, bool all, struct range *out)
{
    const char *wanted = all ? "a whole number, a range or all" : "a whole number or a range", *dots;
    enum whole a, b;
    v = scalar(r, v, name, wanted);
    if (!v) return false;
    out->at = v->at;
    dots = strstr(v->text, "..");
    a = parse_whole(v->text, dots ? (size_t)(dots - v->text) : v->len, &out->first);
    b = dots ? parse_whole(dots + 2, strlen(dots + 2), &out->last) : WHOLE_OK;
    if (!dots) out->last = out->first;
    if (a == WHOLE_NOT || b == WHOLE_NOT) {
        not_whole(r, v, name, wanted, "write 7, or \"0..9\" with both ends included; negatives count from the end: \"-4..-1\"");
        return false;
    }
    if (a == WHOLE_TOO_LARGE || b == WHOLE_TOO_LARGE) {
        spec_wrong(r, v, "E212", "%s: %s is too large", name, spec_shown(r, v));
        return false;
    }
    if (out->first > out->last && (out->first < 0) == (out->last < 0)) {
        spec_wrong(r, v, "E228", "%s: range %s runs backwards", name, spec_shown(r, v));
        spec_help(r, "help: \"%d..%d\"", out->last, out->first);
        return false;
    }
    return true;
}

/* { window: 10, centre: 15 }: ten layers, five of them below the centre. */
static bool read_window(struct reader *r, const struct node *v, const char *name, struct ranges *out)
{
    enum { MOST = 100000 };
    struct field f[] = {NEEDED("window", "layers: { window: 10, centre: 15 }"), NEEDED("centre", "centre: 15"), {0}};
    int wrong = r->wrong;
    if (!spec_map(r, v, name, f) || r->wrong > wrong) return false;
    out->n = 1;
    out->r = arena_array(r->mem, 1, sizeof *out->r);
    if (!spec_int(r, spec_field(f, "window"), "window", 1, MOST, &out->window)) return false;
    if (!spec_int(r, spec_field(f, "centre"), "centre", -MOST, MOST, &out->r->first)) return false;
    out->r->last = out->r->first;
    out->r->at = spec_field(f, "centre")->at;
    return true;
}

bool spec_ranges(struct reader *r, const struct node *v, const char *name, bool all, struct ranges *out)
{
    struct ranges x = {.at = v->at, .width = v->width};
    bool ok = true;
    const struct node *put = spec_put(r, v);
    if (!put) return false;
    if (put->kind == NODE_MAP && !strcmp(name, "layers") && node_get(put, "window")) {
        ok = read_window(r, put, name, &x);
        if (ok) *out = x;
        return ok;
    }
    if (put->kind == NODE_SCALAR && all && !strcmp(put->text, "all")) {
        x.all = true;
        *out = x;
        return true;
    }
    if (put->kind == NODE_MAP) {
        spec_wrong(r, put, "E203", "%s: a whole number, a range%s or a list of them is wanted, this is a map", name,
                   all ? ", all" : "");
        return false;
    }
    if (put->kind == NODE_LIST && !spec_list(r, put, name)) return false;
    x.n = put->kind == NODE_LIST ? put->n : 1;
    x.r = arena_array(r->mem, (size_t)x.n, sizeof *x.r);
    for (int i = 0; i < x.n; i++)
        if (!one_range(r, put->kind == NODE_LIST ? put->items[i] : v, name, all && put->kind == NODE_SCALAR, &x.r[i]))
            ok = false;
    if (ok) *out = x;
    return ok;
}
