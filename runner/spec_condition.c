/* spec_condition.c: axes and conditions, and a trial reading of all operations so that their errors show at load. */
#include "spec_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    AXES_MAX = 64,
    TRIES_MAX = 4096,    /* combinations of axis values tried per condition */
    NODES_TRIED = 500000 /* nodes read in all trials together: a hostile file may not buy hours with a few bytes */
};

/* ---- axes ---- */

static void read_axis(struct reader *r, const struct node *k, const struct node *v, struct axis *a)
{
    struct field f[] = {MAY("layers"), LATER("zip"), LATER("from"), LATER("to"), LATER("step"), {0}};
    struct names values = {0};
    const char *text = NULL;
    a->at = k->at;
    if (v->kind == NODE_MAP) {
        a->kind = AXIS_LAYERS;
        if (!spec_map(r, v, "an axis", f)) return;
        if (spec_field(f, "layers"))
            spec_ranges(r, spec_field(f, "layers"), "layers", true, &a->layers);
        else if (v->n == 0)
            spec_wrong(r, v, "E202", "an axis needs values: [a, b] or { layers: all }");
        return;
    }
    if (!spec_list(r, v, "an axis")) return;
    a->values = arena_array(r->mem, (size_t)v->n, sizeof *a->values);
    for (int i = 0; i < v->n; i++) {
        if (!spec_text(r, v->items[i], a->name, &text)) continue;
        names_add(&values, text, i, v->items[i]);
        a->values[a->n++] = v->items[i];
    }
    names_sort(&values, r, "value");
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
    for (int i = 0; i < v->n; i++) {
        struct axis *a = &o->s.axes[o->s.n_axes++];
        a->name = "";
        spec_name(r, v->keys[i], "axis", false, reserved, &a->name);
        names_add(&o->axes, a->name, i, v->keys[i]);
        read_axis(r, v->keys[i], v->items[i], a);
    }
    names_sort(&o->axes, r, NULL);
}

/* ---- conditions ---- */

static int by_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static void read_over(struct reader *r, const struct spec_own *o, const struct node *v, struct condition *c)
{
    if (!spec_words(r, v, "over")) return;
    c->over = arena_array(r->mem, (size_t)v->n, sizeof *c->over);
    for (int i = 0; i < v->n; i++) {
        int axis = spec_find(r, v->items[i], "over", &o->axes, "axis"), k = 0;
        if (axis < 0 && o->s.n_axes == 0) spec_help(r, "help: declare it: axes: { NAME: [a, b] }");
        if (axis < 0) continue;
        while (k < c->n_over && c->over[k] != axis) k++;
        if (k < c->n_over)
            spec_wrong(r, v->items[i], "E214", "axis '%s' stands twice in over", o->s.axes[axis].name);
        else
            c->over[c->n_over++] = axis;
    }
    qsort(c->over, (size_t)c->n_over, sizeof *c->over, by_int);
}

/* A copy of the earlier condition's parts; keys of its own replace them. */
static void extend(struct reader *r, const struct spec_own *o, const struct node *v, int self, struct condition *c)
{
    int i = spec_find(r, v, "extends", &o->conditions, "condition");
    if (i < 0) return;
    if (i >= self) {
        spec_wrong(r, v, "E229", "extends: '%s' is %s", v->text, i == self ? "this condition itself" : "not above this one");
        return;
    }
    c->over = o->s.conditions[i].over;
    c->n_over = o->s.conditions[i].n_over;
    c->apply = o->s.conditions[i].apply;
}

static void read_condition(struct reader *r, struct spec_own *o, const struct node *v, int i)
{
    struct field f[] = {NEEDED("name", "name: baseline"), MAY("over"), MAY("apply"), MAY("extends"), {0}};
    struct condition *c = &o->s.conditions[i];
    const struct node *name = node_get(v, "name"), *over, *extends;
    c->at = name ? name->at : v->at;
    if (!spec_map(r, v, "a condition", f)) return;
    over = spec_field(f, "over");
    extends = spec_field(f, "extends");
    if (extends) extend(r, o, extends, i, c);
    if (over) {
        c->over = NULL;
        c->n_over = 0;
        read_over(r, o, over, c);
    }
    if (spec_field(f, "apply")) c->apply = node_get(v, "apply");
    if (c->apply && c->apply->kind == NODE_LIST && !spec_list(r, c->apply, "apply")) c->apply = NULL;
    o->inherits[i] = !spec_field(f, "apply");
}

/* Names first: `extends` and the sections behind look them up. */
static void read_condition_names(struct reader *r, struct spec_own *o, const struct node *v)
{
    static const char *const reserved[] = {"noop", "self_transplant", NULL};
    for (int i = 0; i < v->n; i++) {
        const struct node *name = node_get(v->items[i], "name");
        o->s.conditions[i].name = "";
        if (name) spec_name(r, name, "name", false, reserved, &o->s.conditions[i].name);
        if (name) names_add(&o->conditions, o->s.conditions[i].name, i, name);
    }
    names_sort(&o->conditions, r, "condition");
}

void spec_conditions(struct reader *r, struct spec_own *o, const struct node *v)
{
    o->first_plain = -1;
    if (!spec_list(r, v, "conditions")) return;
    o->s.n_conditions = v->n;
    o->s.conditions = arena_array(r->mem, (size_t)v->n, sizeof *o->s.conditions);
    o->inherits = arena_array(r->mem, (size_t)v->n, sizeof *o->inherits);
    read_condition_names(r, o, v);
    for (int i = 0; i < v->n; i++) {
        read_condition(r, o, v->items[i], i);
        if (o->first_plain < 0 && !o->s.conditions[i].apply) o->first_plain = i;
    }
}

/* ---- trial ---- */

static int count_nodes(const struct node *v)
{
    int n = 1;
    for (int i = 0; i < v->n; i++) n += count_nodes(v->items[i]);
    return n;
}

/* The next combination, last axis fastest. False after the last one. A layers axis is not known yet: "0" stands for it. */
static bool next_values(const struct spec *s, const struct condition *c, int *at, struct axis_value *values)
{
    for (int k = c->n_over - 1; k >= 0; k--) {
        const struct axis *a = &s->axes[c->over[k]];
        at[k] = at[k] + 1 < a->n ? at[k] + 1 : 0;
        if (a->kind == AXIS_LIST && a->n) {
            values[k].text = a->values[at[k]]->text;
            values[k].at = a->values[at[k]]->at;
        }
        if (at[k] > 0) return true;
    }
    return false;
}

static void try_condition(struct reader *r, const struct spec *s, const struct condition *c, int tries)
{
    struct axis_value *values = mem_array((size_t)c->n_over, sizeof *values);
    int *at = mem_array((size_t)c->n_over, sizeof *at), n;
    struct reader t = *r;
    struct op *ops;
    t.mem = arena_new();
    t.condition = c;
    for (int k = 0; k < c->n_over; k++) {
        const struct axis *a = &s->axes[c->over[k]];
        values[k] = (struct axis_value){c->over[k], "0", a->at};
        if (a->kind == AXIS_LIST && a->n) values[k] = (struct axis_value){c->over[k], a->values[0]->text, a->values[0]->at};
    }
    do {
        spec_put_values(&t, values, c->n_over);
        spec_read_ops(&t, c->apply, &ops, &n);
    } while (--tries > 0 && next_values(s, c, at, values));
    r->wrong = t.wrong;
    arena_free(t.mem);
    free(values);
    free(at);
}

/* Every list of operations that stands in the file is read once, and as many combinations of axis values as there is time for:
   first what the first conditions say. What is not reached shows when the jobs are expanded, still before anything runs. */
void spec_try_ops(struct reader *r, struct spec_own *o)
{
    const struct spec *s = &o->s;
    bool *used = mem_array((size_t)s->n_axes, sizeof *used);
    int left = NODES_TRIED;
    r->axis_used = used;
    for (int i = 0; i < s->n_conditions; i++) {
        const struct condition *c = &s->conditions[i];
        int nodes, tries;
        if (!c->apply || (left <= 0 && o->inherits[i])) continue;
        nodes = left > 0 ? count_nodes(c->apply) : 1;
        tries = left / nodes < TRIES_MAX ? left / nodes : TRIES_MAX;
        if (tries < 1) tries = 1;
        try_condition(r, s, c, tries);
        left = left > tries * nodes ? left - tries * nodes : 0;
    }
    r->axis_used = NULL;
    for (int i = 0; i < s->n_axes && !diag_errors(r->d); i++)
        if (!used[i])
            spec_warn(r, 109, s->axes[i].at, (int)strlen(s->axes[i].name), "axis '%s' is declared and never used as $%s",
                      s->axes[i].name, s->axes[i].name);
    free(used);
}
