/* spec_sweep.c: which combinations of axis values are left out (exclude) and which are added (include). */
#include "spec_internal.h"

#include <string.h>

enum { RULES_MAX = 1000 };

/* ---- shared ---- */

/* The items of a list, or a scalar alone. */
static int items_of(const struct node *v, struct node *const **items, struct node *const *self)
{
    *items = v->kind == NODE_LIST ? v->items : self;
    return v->kind == NODE_LIST ? v->n : 1;
}

/* Indices of the conditions or prompts that v names, rising is not asked for. */
static void read_names(struct reader *r, struct node *v, const struct names *x, const char *what, int **out, int *n)
{
    struct node *const *items;
    int count = items_of(v, &items, &v);
    if (v->kind == NODE_LIST && !spec_list(r, v, what)) return;
    *out = arena_array(r->mem, (size_t)count, sizeof **out);
    for (int i = 0; i < count; i++) {
        int k = spec_find(r, items[i], what, x, what);
        if (k >= 0) (*out)[(*n)++] = k;
    }
}

/* The axis or list of a zip that a key names; false: said what there is. */
static bool find_key(struct reader *r, const struct spec_own *o, const struct node *k, struct sweep_key *key)
{
    struct buf b = {0};
    int i;
    key->at = k->at;
    key->member = -1;
    key->axis = names_find(&o->axes, k->text);
    if (key->axis >= 0) return true;
    i = names_find(&o->members, k->text);
    if (i >= 0) {
        key->axis = i / ZIP_MEMBERS;
        key->member = i % ZIP_MEMBERS;
        return true;
    }
    for (i = 0; i < o->s.n_axes; i++) buf_printf(&b, " %s", o->s.axes[i].name);
    for (i = 0; i < o->members.n; i++) buf_printf(&b, " %s", o->members.v[i].name);
    spec_wrong(r, k, "E220", "there is no axis %s", spec_shown(r, k));
    spec_help(r, "allowed here: condition prompt%s", b.n ? b.p : "");
    buf_free(&b);
    return false;
}

static struct node **known_values(const struct spec_own *o, const struct sweep_key *k, int *n)
{
    const struct axis *a = &o->s.axes[k->axis];
    *n = a->n;
    return k->member >= 0 ? a->members[k->member].values : a->values;
}

bool spec_zip_means(const struct axis *a, int choice, const char *written)
{
    return spec_same_value(a->values[choice]->text, written) || spec_same_value(a->members[0].values[choice]->text, written);
}

/* How many values of the axis, as far as they are known, v means. */
static int count_meant(const struct spec_own *o, const struct sweep_key *k, const char *written)
{
    const struct axis *a = &o->s.axes[k->axis];
    int n, count = 0;
    struct node **values = known_values(o, k, &n);
    for (int i = 0; i < n; i++)
        count +=
            a->kind == AXIS_ZIP && k->member < 0 ? spec_zip_means(a, i, written) : spec_same_value(values[i]->text, written);
    return count;
}

static void not_on_axis(struct reader *r, const struct spec_own *o, const struct sweep_key *k, const struct node *v,
                        const char *name)
{
    enum { SHOWN = 24 };
    struct buf b = {0};
    int n;
    struct node **values = known_values(o, k, &n);
    for (int i = 0; i < n && i < SHOWN; i++) buf_printf(&b, " %s", values[i]->text);
    spec_wrong(r, v, "E242", "%s: %s is not a value of this axis", name, spec_shown(r, v));
    spec_help(r, "values: %s%s", b.p ? b.p : "", n > SHOWN ? " ..." : "");
    buf_free(&b);
}

/* Values that a key of `exclude` names: those of a list must be on it, layers and positions are looked up later. */
static void read_key_values(struct reader *r, const struct spec_own *o, const struct node *k, struct node *v,
                            struct sweep_key *key)
{
    const struct axis *a = &o->s.axes[key->axis];
    struct node *const *items;
    const char *text;
    int count = items_of(v, &items, &v);
    if (v->kind == NODE_LIST && !spec_list(r, v, k->text)) return;
    key->values = arena_array(r->mem, (size_t)count, sizeof *key->values);
    for (int i = 0; i < count; i++) {
        if (!spec_text(r, items[i], k->text, &text)) continue;
        if ((a->kind == AXIS_LIST || a->kind == AXIS_ZIP) && a->n && !count_meant(o, key, text))
            not_on_axis(r, o, key, items[i], k->text);
        key->values[key->n++] = items[i];
    }
}

/* ---- exclude ---- */

static void read_when(struct reader *r, const struct spec_own *o, const struct node *v, struct sweep *x)
{
    if (v->kind != NODE_MAP || v->n == 0) {
        spec_wrong(r, v, "E203", "when: a map of axes and values is wanted, this is %s",
                   v->kind == NODE_MAP ? "empty" : spec_shown(r, v));
        spec_help(r, "help: when: { layer: [0, 1], tensor: k }");
        return;
    }
    x->keys = arena_array(r->mem, (size_t)v->n, sizeof *x->keys);
    for (int i = 0; i < v->n; i++) {
        const struct node *k = v->keys[i];
        struct sweep_key key = {0};
        if (!strcmp(k->text, "condition"))
            read_names(r, v->items[i], &o->conditions, "condition", &x->conditions, &x->n_conditions);
        else if (!strcmp(k->text, "prompt") && !o->prompts_wrong)
            read_names(r, v->items[i], &o->prompts, "prompt", &x->prompts, &x->n_prompts);
        else if (strcmp(k->text, "prompt") && find_key(r, o, k, &key)) {
            read_key_values(r, o, k, v->items[i], &key);
            x->keys[x->n_keys++] = key;
        }
    }
}

void spec_excludes(struct reader *r, struct spec_own *o, const struct node *v)
{
    if (!spec_list(r, v, "exclude")) return;
    if (v->n > RULES_MAX) {
        spec_wrong(r, v, "E212", "%d rules are more than %d", v->n, RULES_MAX);
        return;
    }
    o->s.excludes = arena_array(r->mem, (size_t)v->n, sizeof *o->s.excludes);
    for (int i = 0; i < v->n; i++) {
        struct field f[] = {
            NEEDED("when", "when: { layer: [0, 1], tensor: k }"), NEEDED("why", "why: too long for this machine"), {0}};
        struct sweep *x = &o->s.excludes[o->s.n_excludes++];
        x->at = v->items[i]->at;
        x->width = v->items[i]->width;
        x->why = "";
        if (!spec_map(r, v->items[i], "a rule of exclude", f)) continue;
        if (spec_field(f, "when")) read_when(r, o, spec_field(f, "when"), x);
        if (spec_field(f, "why")) spec_text(r, spec_field(f, "why"), "why", &x->why);
    }
}

/* ---- include ---- */

static bool has_axis(const struct sweep *x, int axis)
{
    for (int i = 0; i < x->n_keys; i++)
        if (x->keys[i].axis == axis) return true;
    return false;
}

static bool is_over(const struct condition *c, const struct sweep *x)
{
    for (int k = 0; k < c->n_over; k++)
        if (!has_axis(x, c->over[k])) return false;
    return c->n_over == x->n_keys;
}

static const char *over_text(struct reader *r, const struct spec *s, const struct condition *c)
{
    struct buf b = {0};
    const char *text;
    for (int k = 0; k < c->n_over; k++) buf_printf(&b, "%s%s", k ? ", " : "", s->axes[c->over[k]].name);
    text = arena_strdup(r->mem, b.n ? b.p : "");
    buf_free(&b);
    return text;
}

/* The conditions that the combination is for: those named, else all that are over just these axes. */
static void find_conditions(struct reader *r, const struct spec_own *o, const struct node *v, struct sweep *x)
{
    enum { SHOWN = 8 };
    const struct spec *s = &o->s;
    int *fit = arena_array(r->mem, (size_t)s->n_conditions, sizeof *fit), n = 0;
    for (int i = 0; i < s->n_conditions; i++)
        if (s->conditions[i].n_over && is_over(&s->conditions[i], x)) fit[n++] = i;
    for (int i = 0; i < x->n_conditions; i++) {
        const struct condition *c = &s->conditions[x->conditions[i]];
        if (c->n_over && is_over(c, x)) continue;
        spec_wrong(r, v, "E243",
                   "condition '%s' is over [%s]: an included combination has a value for each of these axes and no other",
                   c->name, over_text(r, s, c));
        return;
    }
    if (x->n_conditions) return;
    x->conditions = fit;
    x->n_conditions = n;
    if (n) return;
    spec_wrong(r, v, "E243",
               "no condition is over just these axes; an included combination has a value for each axis of its condition");
    for (int i = 0, shown = 0; i < s->n_conditions && shown < SHOWN; i++)
        if (s->conditions[i].n_over) {
            spec_help(r, "%s  over [%s]", s->conditions[i].name, over_text(r, s, &s->conditions[i]));
            shown++;
        }
}

/* One value; a zip's must be one that it has, since it stands for a value of each list. */
static bool read_included(struct reader *r, const struct spec_own *o, const struct node *k, struct node *v,
                          struct sweep_key *key)
{
    const struct axis *a = &o->s.axes[key->axis];
    const char *text;
    int meant;
    if (key->member >= 0) {
        spec_wrong(r, k, "E243", "an included combination names the zip's whole value: %s", a->name);
        return false;
    }
    if (!spec_text(r, v, k->text, &text)) return false;
    key->values = arena_array(r->mem, 1, sizeof *key->values);
    key->values[0] = v;
    key->n = 1;
    if (a->kind != AXIS_ZIP || a->n == 0) return true;
    meant = count_meant(o, key, text);
    if (meant == 0) not_on_axis(r, o, key, v, k->text);
    if (meant > 1)
        spec_wrong(r, v, "E243", "%s: %s is the beginning of %d values; write the whole one", k->text, spec_shown(r, v), meant);
    return meant == 1;
}

void spec_includes(struct reader *r, struct spec_own *o, const struct node *v)
{
    if (!spec_list(r, v, "include")) return;
    if (v->n > RULES_MAX) {
        spec_wrong(r, v, "E212", "%d combinations are more than %d", v->n, RULES_MAX);
        return;
    }
    o->s.includes = arena_array(r->mem, (size_t)v->n, sizeof *o->s.includes);
    for (int i = 0; i < v->n; i++) {
        struct node *one = v->items[i];
        struct sweep *x = &o->s.includes[o->s.n_includes++];
        int wrong = r->wrong;
        x->at = one->at;
        x->width = one->width;
        if (one->kind != NODE_MAP || one->n == 0) {
            spec_wrong(r, one, "E203", "include: a map of axes and one value of each is wanted, this is %s",
                       one->kind == NODE_MAP ? "empty" : spec_shown(r, one));
            continue;
        }
        x->keys = arena_array(r->mem, (size_t)one->n, sizeof *x->keys);
        for (int k = 0; k < one->n; k++) {
            struct sweep_key key = {0};
            if (!strcmp(one->keys[k]->text, "condition"))
                read_names(r, one->items[k], &o->conditions, "condition", &x->conditions, &x->n_conditions);
            else if (!strcmp(one->keys[k]->text, "prompt")) {
                if (!o->prompts_wrong) read_names(r, one->items[k], &o->prompts, "prompt", &x->prompts, &x->n_prompts);
            } else if (find_key(r, o, one->keys[k], &key) && read_included(r, o, one->keys[k], one->items[k], &key))
                x->keys[x->n_keys++] = key;
        }
        if (r->wrong == wrong) find_conditions(r, o, one, x);
    }
}
