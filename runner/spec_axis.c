/* spec_axis.c: axes: lists, numeric ranges, layers and windows of them, positions, and lists that travel together. */
#include "spec_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AXES_MAX = 64, RANGE_MAX = 100000, SCALE_MAX = 12, WINDOW_MAX = 100000 };

static const char one_kind[] = "[a, b], { layers: all }, { from: 0, to: 100, step: 25 }, { windows: { size: 10 } }, "
                               "{ positions: { slot: NAME } } or { zip: { a: [..], b: [..] } }";

static struct node *scalar_node(struct reader *r, const struct node *at, const char *text)
{
    struct node *v = arena_alloc(r->mem, sizeof *v);
    *v = (struct node){
        .kind = NODE_SCALAR, .style = NODE_DOUBLE, .at = at->at, .width = at->width, .text = text, .len = strlen(text)};
    return v;
}

/* The scalars of a list, in mem; NULL: said why. */
static struct node **read_values(struct reader *r, const struct node *v, const char *name, int *n)
{
    struct node **values;
    const char *text;
    int wrong = r->wrong;
    *n = 0;
    if (!spec_list(r, v, name)) return NULL;
    values = arena_array(r->mem, (size_t)v->n, sizeof *values);
    for (int i = 0; i < v->n; i++)
        if (spec_text(r, v->items[i], name, &text)) values[(*n)++] = v->items[i];
    if (r->wrong == wrong) return values;
    *n = 0;
    return NULL;
}

static void no_doubles(struct reader *r, struct node *const *values, int n, const char *what)
{
    struct names names = {0};
    for (int i = 0; i < n; i++) names_add(&names, values[i]->text, i, values[i]);
    names_sort(&names, r, what);
}

/* ---- numeric ranges: exact decimals, so that ten steps of 0.1 are 1 ---- */

struct decimal {
    int64_t v; /* times 10^-scale */
    int scale;
};

/* -?digits[.digits] */
static bool parse_decimal(const char *s, struct decimal *out)
{
    struct decimal d = {0, 0};
    bool minus = *s == '-', point = false;
    const char *p = s + minus;
    if (*p < '0' || *p > '9') return false;
    for (; *p; p++) {
        if (*p == '.' && !point && p[1]) {
            point = true;
            continue;
        }
        if (*p < '0' || *p > '9' || (point && ++d.scale > SCALE_MAX)) return false;
        if (__builtin_mul_overflow(d.v, 10, &d.v) || __builtin_add_overflow(d.v, *p - '0', &d.v)) return false;
    }
    if (minus) d.v = -d.v;
    *out = d;
    return true;
}

static bool rescale(struct decimal *d, int scale)
{
    for (; d->scale < scale; d->scale++)
        if (__builtin_mul_overflow(d->v, 10, &d->v)) return false;
    return true;
}

static bool read_decimal(struct reader *r, const struct node *v, const char *name, struct decimal *out)
{
    const char *text;
    if (!spec_text(r, v, name, &text)) return false;
    if (parse_decimal(text, out)) return true;
    spec_wrong(r, v, "E211", "%s: %s is not a number that is counted exactly", name, spec_shown(r, v));
    spec_help(r, "help: write 25 or 0.05, with at most %d digits behind the point and no exponent", SCALE_MAX);
    return false;
}

/* As short as it can be written. */
static const char *decimal_text(arena *mem, int64_t v, int scale)
{
    char digits[32], *s;
    int n, whole;
    n = snprintf(digits, sizeof digits, "%0*lld", scale + 1, (long long)(v < 0 ? -v : v));
    whole = n - scale;
    while (n > whole && digits[n - 1] == '0') n--;
    s = arena_printf(mem, "%s%.*s.%.*s", v < 0 ? "-" : "", whole, digits, n - whole, digits + whole);
    if (n == whole) s[strlen(s) - 1] = 0;
    return s;
}

static void read_range(struct reader *r, const struct field *f, const struct node *v, struct axis *a)
{
    const struct node *from = spec_field(f, "from"), *to = spec_field(f, "to"), *step = spec_field(f, "step");
    struct decimal x, y, z = {1, 0};
    int64_t span;
    int scale;
    if (!from || !to) {
        spec_wrong(r, v, "E202", "a range of numbers needs the keys 'from' and 'to'");
        spec_help(r, "help: { from: 0, to: 100, step: 25 }");
        return;
    }
    if (!read_decimal(r, from, "from", &x) || !read_decimal(r, to, "to", &y)) return;
    if (step && !read_decimal(r, step, "step", &z)) return;
    scale = x.scale > y.scale ? x.scale : y.scale;
    if (z.scale > scale) scale = z.scale;
    if (!rescale(&x, scale) || !rescale(&y, scale) || !rescale(&z, scale) || __builtin_sub_overflow(y.v, x.v, &span)) {
        spec_wrong(r, v, "E212", "the numbers have too many digits to be counted exactly");
        return;
    }
    if (z.v == 0 || (span > 0) != (z.v > 0 || span == 0)) {
        spec_wrong(r, step ? step : to, z.v == 0 ? "E212" : "E228", "a step of %s does not lead from %s to %s",
                   step ? step->text : "1", from->text, to->text);
        return;
    }
    if (span / z.v >= RANGE_MAX) {
        spec_wrong(r, v, "E212", "the range has more than %d values", RANGE_MAX);
        return;
    }
    a->n = (int)(span / z.v) + 1;
    a->values = arena_array(r->mem, (size_t)a->n, sizeof *a->values);
    for (int i = 0; i < a->n; i++) a->values[i] = scalar_node(r, v, decimal_text(r->mem, x.v + i * z.v, scale));
}

/* ---- windows of layers ---- */

static void read_windows(struct reader *r, const struct node *v, struct axis *a)
{
    struct field f[] = {NEEDED("size", "windows: { size: 10, centres: all }"), MAY("centres"), {0}};
    a->kind = AXIS_WINDOWS;
    a->size = 1;
    a->layers = (struct ranges){.all = true, .at = v->at, .width = v->width};
    if (!spec_map(r, v, "windows", f)) return;
    if (spec_field(f, "size")) spec_int(r, spec_field(f, "size"), "size", 1, WINDOW_MAX, &a->size);
    if (spec_field(f, "centres")) spec_ranges(r, spec_field(f, "centres"), "centres", true, &a->layers);
}

/* ---- zip ---- */

/* The values joined, as labels show them when the zip has no names. */
static void join(struct reader *r, struct axis *a, const struct node *at)
{
    a->values = arena_array(r->mem, (size_t)a->n, sizeof *a->values);
    for (int i = 0; i < a->n; i++) {
        struct buf b = {0};
        for (int m = 0; m < a->n_members; m++) buf_printf(&b, m ? "+%s" : "%s", a->members[m].values[i]->text);
        a->values[i] = scalar_node(r, a->n_members ? a->members[0].values[i] : at, arena_strndup(r->mem, b.p, b.n));
        buf_free(&b);
    }
}

static void read_zip(struct reader *r, struct spec_own *o, const struct node *v, const struct node *names, int self)
{
    struct axis *a = &o->s.axes[self];
    int wrong = r->wrong, n = 0, named = 0;
    struct node **values = NULL;
    a->kind = AXIS_ZIP;
    if (v->kind != NODE_MAP || v->n == 0 || v->n > ZIP_MEMBERS) {
        spec_wrong(r, v, "E203", "zip: a map of 1 to %d lists is wanted, this is %s", ZIP_MEMBERS,
                   v->kind != NODE_MAP ? spec_shown(r, v)
                   : v->n              ? "larger"
                                       : "empty");
        spec_help(r, "help: zip: { op: [zero, mask], when: [prefill, finished_cache] }");
        return;
    }
    a->members = arena_array(r->mem, (size_t)v->n, sizeof *a->members);
    for (int m = 0; m < v->n; m++) {
        struct axis_member *one = &a->members[a->n_members++];
        one->name = "";
        one->at = v->keys[m]->at;
        spec_name(r, v->keys[m], "zip", false, NULL, &one->name);
        one->full = arena_printf(r->mem, "%s.%s", a->name, one->name);
        names_add(&o->members, one->full, ZIP_MEMBERS * self + m, v->keys[m]);
        one->values = read_values(r, v->items[m], v->keys[m]->text, &n);
        if (!one->values) continue;
        if (a->n && n != a->n)
            spec_wrong(r, v->items[m], "E240",
                       "zip: '%s' has %d value%s and '%s' has %d; lists that travel together are equally long", one->name, n,
                       n == 1 ? "" : "s", a->members[0].name, a->n);
        else
            a->n = n;
    }
    if (names) values = read_values(r, names, "names", &named);
    if (values && r->wrong == wrong && named != a->n)
        spec_wrong(r, names, "E240", "names: %d name%s for %d values", named, named == 1 ? "" : "s", a->n);
    if (r->wrong > wrong) {
        a->n = 0;
        return;
    }
    a->values = values;
    if (!values) join(r, a, v);
    no_doubles(r, a->values, a->n, "value");
}

/* ---- one axis, all axes ---- */

static void read_axis(struct reader *r, struct spec_own *o, const struct node *k, const struct node *v, int self)
{
    struct axis *a = &o->s.axes[self];
    struct field f[] = {MAY("layers"), MAY("windows"), MAY("positions"), MAY("zip"), MAY("names"),
                        MAY("from"),   MAY("to"),      MAY("step"),      {0}};
    int wrong = r->wrong, kinds;
    const struct node *zip;
    a->at = k->at;
    if (v->kind == NODE_LIST) {
        a->values = read_values(r, v, a->name, &a->n);
        no_doubles(r, a->values, a->n, "value");
        return;
    }
    if (v->kind != NODE_MAP || v->n == 0) {
        spec_wrong(r, v, v->kind == NODE_MAP ? "E202" : "E203", "an axis needs values%s%s",
                   v->kind == NODE_MAP ? "" : ", this is ", v->kind == NODE_MAP ? "" : spec_shown(r, v));
        spec_help(r, "help: %s", one_kind);
        return;
    }
    a->kind = AXIS_LAYERS; /* not a list, whatever is wrong below */
    if (!spec_map(r, v, "an axis", f) || r->wrong > wrong) return;
    zip = spec_field(f, "zip");
    kinds = !!spec_field(f, "layers") + !!spec_field(f, "windows") + !!spec_field(f, "positions") + !!zip +
            (spec_field(f, "from") || spec_field(f, "to") || spec_field(f, "step"));
    if (kinds != 1 || (spec_field(f, "names") && !zip)) {
        spec_wrong(r, v, "E223",
                   kinds != 1 ? "an axis is one of these" : "names belong to a zip: other values are their own names");
        if (kinds != 1) spec_help(r, "%s", one_kind);
        return;
    }
    if (spec_field(f, "layers"))
        spec_ranges(r, spec_field(f, "layers"), "layers", true, &a->layers);
    else if (spec_field(f, "windows"))
        read_windows(r, spec_field(f, "windows"), a);
    else if (zip)
        read_zip(r, o, zip, spec_field(f, "names"), self);
    else if (spec_field(f, "positions")) {
        a->kind = AXIS_POSITIONS;
        o->at_nodes[self] = spec_field(f, "positions");
    } else {
        a->kind = AXIS_LIST;
        read_range(r, f, v, a);
    }
}

void spec_axes(struct reader *r, struct spec_own *o, const struct node *v)
{
    static const char *const reserved[] = {"label", "job", "text", "prompt", "condition", "attempt_id", NULL};
    if (v->kind != NODE_MAP || v->n == 0) {
        spec_wrong(r, v, "E203", "axes: a map of names and values is wanted, this is %s",
                   v->kind == NODE_MAP ? "empty" : spec_shown(r, v));
        spec_help(r, "help: axes: { tensor: [kv, k, v], layer: { layers: all } }");
        return;
    }
    if (v->n > AXES_MAX) {
        spec_wrong(r, v, "E212", "%d axes are more than %d", v->n, AXES_MAX);
        return;
    }
    o->s.axes = arena_array(r->mem, (size_t)v->n, sizeof *o->s.axes);
    o->at_nodes = arena_array(r->mem, (size_t)v->n, sizeof *o->at_nodes);
    o->prompt_uses = arena_array(r->mem, (size_t)v->n, sizeof *o->prompt_uses);
    for (int i = 0; i < v->n; i++) {
        struct axis *a = &o->s.axes[o->s.n_axes++];
        a->name = "";
        spec_name(r, v->keys[i], "axis", false, reserved, &a->name);
        names_add(&o->axes, a->name, i, v->keys[i]);
        read_axis(r, o, v->keys[i], v->items[i], i);
    }
    names_sort(&o->axes, r, NULL);
    names_sort(&o->members, r, NULL);
}

void spec_axis_positions(struct reader *r, struct spec_own *o)
{
    for (int i = 0; i < o->s.n_axes; i++)
        if (o->at_nodes[i]) spec_select(r, o->at_nodes[i], -1, "axis", &o->s.axes[i].select);
}

/* ---- what an axis stands for ---- */

int spec_axis_count(const struct axis *a)
{
    return a->n ? a->n : 1;
}

struct axis_value spec_axis_value(const struct spec *s, int axis, int i)
{
    const struct axis *a = &s->axes[axis];
    if (i >= a->n) return (struct axis_value){.axis = axis, .text = "0", .at = a->at};
    return (struct axis_value){.axis = axis, .text = a->values[i]->text, .at = a->values[i]->at, .choice = i};
}

bool spec_axis_find(const struct spec_own *o, const char *dollar, int *axis, int *member)
{
    const char *dot;
    int i;
    *member = -1;
    *axis = -1;
    if (dollar[0] != '$') return false;
    *axis = names_find(&o->axes, dollar + 1);
    if (*axis >= 0) return true;
    dot = strchr(dollar, '.');
    if (!dot) return false;
    i = names_find(&o->members, dollar + 1);
    if (i >= 0) {
        *axis = i / ZIP_MEMBERS;
        *member = i % ZIP_MEMBERS;
        return true;
    }
    for (i = 0; i < o->s.n_axes && *axis < 0; i++) /* "$edit.oops" is a slip and not a text */
        if (o->s.axes[i].kind == AXIS_ZIP && strlen(o->s.axes[i].name) == (size_t)(dot - dollar - 1) &&
            !memcmp(o->s.axes[i].name, dollar + 1, (size_t)(dot - dollar - 1)))
            *axis = i;
    return *axis >= 0;
}

struct node **spec_axis_texts(const struct spec_own *o, const char *dollar, int *n)
{
    const struct axis *a;
    int axis, member;
    *n = 0;
    if (!spec_axis_find(o, dollar, &axis, &member)) return NULL;
    a = &o->s.axes[axis];
    *n = a->n;
    return a->kind == AXIS_ZIP && member >= 0 ? a->members[member].values : a->values;
}

bool spec_same_value(const char *value, const char *written)
{
    char *end, *end_written;
    double x, y;
    if (!strcmp(value, written)) return true;
    if (!strchr("0123456789-.", *value) || !strchr("0123456789-.", *written)) return false;
    x = strtod(value, &end);
    y = strtod(written, &end_written);
    return x == y && end != value && end_written != written && !*end && !*end_written;
}
