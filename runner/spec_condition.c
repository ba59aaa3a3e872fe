/* spec_condition.c: conditions, and a trial reading of all operations so that their errors show at load. */
#include "spec_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    TRIES_MAX = 4096,    /* combinations of axis values tried per condition */
    NODES_TRIED = 500000 /* nodes read in all trials together: a hostile file may not buy hours with a few bytes */
};

/* ---- conditions ---- */

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
    qsort(c->over, (size_t)c->n_over, sizeof *c->over, order_ints);
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
    spec_over_prompts(r, o);
}

/* ---- trial ---- */

static int count_nodes(const struct node *v)
{
    int n = 1;
    for (int i = 0; i < v->n; i++) n += count_nodes(v->items[i]);
    return n;
}

/* The next combination, last axis fastest. False after the last one. */
static bool next_values(const struct spec *s, const struct condition *c, int *at, struct axis_value *values)
{
    for (int k = c->n_over - 1; k >= 0; k--) {
        at[k] = at[k] + 1 < spec_axis_count(&s->axes[c->over[k]]) ? at[k] + 1 : 0;
        values[k] = spec_axis_value(s, c->over[k], at[k]);
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
    for (int k = 0; k < c->n_over; k++) values[k] = spec_axis_value(s, c->over[k], 0);
    do {
        spec_put_values(&t, values, c->n_over);
        spec_read_ops(&t, c->apply, &ops, &n);
    } while (--tries > 0 && next_values(s, c, at, values));
    r->wrong = t.wrong;
    arena_free(t.mem);
    free(values);
    free(at);
}

/* W109: an axis that nothing uses, and one in the over of a condition that does not use it: its jobs along such an axis are
   one job with many labels. used: (n_conditions, n_axes). */
static void warn_idle_axes(struct reader *r, const struct spec_own *o, const bool *used)
{
    const struct spec *s = &o->s;
    bool *ever = mem_array((size_t)s->n_axes, sizeof *ever);
    for (int i = 0; i < s->n_axes; i++) {
        ever[i] = o->prompt_uses[i];
        for (int c = 0; c < s->n_conditions; c++) ever[i] |= used[c * s->n_axes + i];
        if (!ever[i])
            spec_warn(r, 109, s->axes[i].at, (int)strlen(s->axes[i].name), "axis '%s' is declared and never used as $%s",
                      s->axes[i].name, s->axes[i].name);
    }
    for (int i = 0; i < s->n_conditions; i++) {
        const struct condition *c = &s->conditions[i];
        struct buf b = {0};
        int n = 0;
        for (int k = 0; k < c->n_over; k++)
            if (ever[c->over[k]] && !o->prompt_uses[c->over[k]] && !used[i * s->n_axes + c->over[k]])
                buf_printf(&b, "%s$%s", n++ ? ", " : "", s->axes[c->over[k]].name);
        if (n && spec_warn(r, 109, c->at, (int)strlen(c->name), "condition '%s' has %s in over and never uses %s", c->name, b.p,
                           n > 1 ? "them" : "it"))
            diag_help(r->d, "its jobs along %s are equal: they run once and have many labels", n > 1 ? "them" : "it");
        buf_free(&b);
    }
    free(ever);
}

/* Every list of operations that stands in the file is read once, and as many combinations of axis values as there is time for:
   first what the first conditions say. What is not reached shows when the jobs are expanded, still before anything runs. */
void spec_try_ops(struct reader *r, struct spec_own *o)
{
    const struct spec *s = &o->s;
    size_t n = (size_t)s->n_axes;
    bool *used = mem_array((size_t)s->n_conditions, n * sizeof *used);
    int left = NODES_TRIED;
    for (int i = 0; i < s->n_conditions; i++) {
        const struct condition *c = &s->conditions[i];
        int nodes, tries;
        r->axis_used = used + (size_t)i * n;
        if (!c->apply) continue;
        if (left <= 0 && o->inherits[i]) {
            memset(r->axis_used, 1, n); /* nobody knows */
            continue;
        }
        nodes = left > 0 ? count_nodes(c->apply) : 1;
        tries = left / nodes < TRIES_MAX ? left / nodes : TRIES_MAX;
        if (tries < 1) tries = 1;
        try_condition(r, s, c, tries);
        left = left > tries * nodes ? left - tries * nodes : 0;
    }
    r->axis_used = NULL;
    if (!diag_errors(r->d)) warn_idle_axes(r, o, used);
    free(used);
}
