/* job_axis.c: values of axes on a model and a prompt, and the combinations of them that a condition has there: the product,
 * less what exclude removes, and what include adds. */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

static struct axis_value number_value(struct expand *x, int axis, int n, struct mark at)
{
    return (struct axis_value){.axis = axis, .text = arena_printf(x->mem, "%d", n), .at = at};
}

/* `size` layers around the centre, less what the model's ends cut off: the centre has size/2 of them below it. */
static struct axis_value window_value(struct expand *x, int axis, int centre)
{
    const struct axis *a = &x->s->axes[axis];
    int first = centre - a->size / 2, last = centre + (a->size + 1) / 2 - 1;
    if (first < 0) first = 0;
    if (last >= x->info->n_layer) last = x->info->n_layer - 1;
    return (struct axis_value){.axis = axis,
                               .text = first == last ? arena_printf(x->mem, "%d", first)
                                                     : arena_printf(x->mem, "%d..%d", first, last),
                               .at = a->layers.at,
                               .has_number = true,
                               .number = centre};
}

static int window_list(struct expand *x, int axis, struct axis_list *l)
{
    const struct axis *a = &x->s->axes[axis];
    int *centres, i;
    if (bind_ranges(&a->layers, x->info->n_layer, "layer", x->model, x->mem, x->d, &centres, &l->n)) return -1;
    l->v = arena_array(x->mem, (size_t)l->n, sizeof *l->v);
    for (i = 0; i < l->n; i++) {
        l->v[i] = window_value(x, axis, centres[i]);
        if (i == 0 || strcmp(l->v[i].text, l->v[i - 1].text) != 0) continue;
        diag_add(x->d, DIAG_ERROR, "E354", a->layers.at, a->layers.width,
                 "windows of %d layers around layers %d and %d are the same: %s has layers 0..%d", a->size, centres[i - 1],
                 centres[i], x->model, x->info->n_layer - 1);
        diag_help(x->d, "help: a smaller size, or fewer centres");
        return -1;
    }
    return 0;
}

static int position_list(struct expand *x, int axis, int prompt, struct axis_list *l)
{
    struct chosen c = job_choose(x, prompt, &x->s->axes[axis].select, false);
    int i;
    if (c.n < 0) return -1;
    l->n = c.n;
    l->v = arena_array(x->mem, (size_t)c.n, sizeof *l->v);
    for (i = 0; i < c.n; i++) l->v[i] = number_value(x, axis, c.at[i], x->s->axes[axis].select.at);
    return 0;
}

static int value_list(struct expand *x, int axis, struct axis_list *l)
{
    const struct axis *a = &x->s->axes[axis];
    int *layers, i;
    if (a->kind == AXIS_WINDOWS) return window_list(x, axis, l);
    if (a->kind == AXIS_LAYERS) {
        if (bind_ranges(&a->layers, x->info->n_layer, "layer", x->model, x->mem, x->d, &layers, &l->n)) return -1;
        l->v = arena_array(x->mem, (size_t)l->n, sizeof *l->v);
        for (i = 0; i < l->n; i++) l->v[i] = number_value(x, axis, layers[i], a->layers.at);
        return 0;
    }
    l->n = a->n;
    l->v = arena_array(x->mem, (size_t)l->n, sizeof *l->v);
    for (i = 0; i < l->n; i++) l->v[i] = spec_axis_value(x->s, axis, i);
    return 0;
}

static bool is_swept(const struct spec *s, int axis)
{
    int i, k;
    for (i = 0; i < s->n_conditions; i++)
        for (k = 0; k < s->conditions[i].n_over; k++)
            if (s->conditions[i].over[k] == axis) return true;
    return false;
}

/* A prompt that depends on the axis has one value of it; none where only include has the prompt. */
static struct axis_list own_list(const struct prompt *p, int axis, struct axis_list all)
{
    int i;
    for (i = 0; i < p->n_values; i++)
        if (p->values[i].axis == axis) return (struct axis_list){&p->values[i], !p->extra};
    return all;
}

int job_axes(struct expand *x)
{
    int n = x->s->n_axes, i, p, rc = 0;
    x->axes = arena_array(x->mem, (size_t)x->s->n_prompts * (size_t)n, sizeof *x->axes);
    for (i = 0; i < n; i++) {
        struct axis_list shared = {0};
        bool own = x->s->axes[i].kind == AXIS_POSITIONS;
        if (!own && value_list(x, i, &shared)) return -1;
        for (p = 0; p < x->s->n_prompts; p++)
            if (!own)
                x->axes[p * n + i] = own_list(&x->s->prompts[p], i, shared);
            else if (!x->s->prompts[p].idle && is_swept(x->s, i) && position_list(x, i, p, &x->axes[p * n + i]))
                rc = -1;
    }
    return rc;
}

const struct axis_list *job_axis(const struct expand *x, int prompt, int axis)
{
    return &x->axes[prompt * x->s->n_axes + axis];
}

int64_t job_grid_size(const struct expand *x, int prompt, int condition, int64_t max)
{
    const struct condition *c = &x->s->conditions[condition];
    int64_t n = 1;
    int i;
    for (i = 0; i < c->n_over; i++) {
        n *= job_axis(x, prompt, c->over[i])->n;
        if (n > max) return max + 1;
    }
    return n;
}

/* ---- what a rule means ---- */

static bool in_list(const int *list, int n, int v)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] == v) return true;
    return !list;
}

static int place_of(const struct condition *c, int axis)
{
    int i;
    for (i = 0; i < c->n_over; i++)
        if (c->over[i] == axis) return i;
    return -1;
}

/* The whole number that is written, negatives counting from the end of `count`; -1: it is none of 0..count-1. */
static int index_of(const char *written, int count)
{
    char *end;
    long n = strtol(written, &end, 10);
    if (end == written || *end || n < -count || n >= count) return -1;
    return (int)(n < 0 ? n + count : n);
}

/* How many things the values of an axis are counted among. */
static int counted(const struct expand *x, const struct axis *a, int prompt)
{
    return a->kind == AXIS_POSITIONS ? x->prompts[prompt].n_tokens : x->info->n_layer;
}

static bool means(const struct expand *x, int prompt, int member, const struct axis_value *v, const char *written)
{
    const struct axis *a = &x->s->axes[v->axis];
    int n;
    if (a->kind == AXIS_ZIP)
        return member < 0 ? spec_zip_means(a, v->choice, written)
                          : spec_same_value(a->members[member].values[v->choice]->text, written);
    if (a->kind == AXIS_LIST || !strcmp(v->text, written)) return spec_same_value(v->text, written);
    n = index_of(written, counted(x, a, prompt));
    if (n < 0) return false;
    return a->kind == AXIS_WINDOWS ? (int)v->number == n : atoi(v->text) == n;
}

static bool key_means(const struct expand *x, int prompt, const struct sweep_key *k, const struct axis_value *v)
{
    int i;
    for (i = 0; i < k->n; i++)
        if (means(x, prompt, k->member, v, k->values[i]->text)) return true;
    return false;
}

/* A rule on the grid of one condition and prompt: which values of which of its axes it names. */
struct rule {
    int index;
    int n;
    struct {
        int place;   /* in the condition's over */
        bool *means; /* (values of that axis) */
    } * keys;        /* (n) */
};

struct rules {
    struct rule *r; /* (n) */
    int n;
};

static bool rule_of(struct expand *x, int prompt, int condition, int index, struct rule *r)
{
    const struct sweep *sw = &x->s->excludes[index];
    const struct condition *c = &x->s->conditions[condition];
    int k, i;
    if (!in_list(sw->conditions, sw->n_conditions, condition) ||
        !in_list(sw->prompts, sw->n_prompts, x->s->prompts[prompt].first))
        return false;
    for (k = 0; k < sw->n_keys; k++)
        if (place_of(c, sw->keys[k].axis) < 0) return false;
    *r = (struct rule){index, sw->n_keys, arena_array(x->mem, (size_t)sw->n_keys, sizeof *r->keys)};
    for (k = 0; k < r->n; k++) {
        const struct axis_list *l = job_axis(x, prompt, sw->keys[k].axis);
        r->keys[k].place = place_of(c, sw->keys[k].axis);
        r->keys[k].means = arena_array(x->mem, (size_t)l->n, sizeof(bool));
        for (i = 0; i < l->n; i++) r->keys[k].means[i] = key_means(x, prompt, &sw->keys[k], &l->v[i]);
    }
    return true;
}

static struct rules rules_of(struct expand *x, int prompt, int condition)
{
    struct rules all = {arena_array(x->mem, (size_t)x->s->n_excludes, sizeof *all.r), 0};
    int i;
    for (i = 0; i < x->s->n_excludes; i++)
        if (rule_of(x, prompt, condition, i, &all.r[all.n])) all.n++;
    return all;
}

static bool matches(const struct rule *r, const int *digit)
{
    int k;
    for (k = 0; k < r->n; k++)
        if (!r->keys[k].means[digit[r->keys[k].place]]) return false;
    return true;
}

/* The first rule that removes the combination, or -1; with matched (n_excludes), every rule that it matches is counted. */
static int removed_by(const struct rules *rules, const int *digit, int *matched)
{
    int i, first = -1;
    for (i = 0; i < rules->n && (matched || first < 0); i++) {
        if (!matches(&rules->r[i], digit)) continue;
        if (first < 0) first = rules->r[i].index;
        if (matched) matched[rules->r[i].index]++;
    }
    return first;
}

/* ---- the combinations of a condition on a prompt ---- */

static struct axis_value *add_combination(struct expand *x, struct combinations *out)
{
    if (out->n == out->cap) {
        out->cap = out->cap ? 2 * out->cap : 64;
        out->values = mem_grow(out->values, (size_t)out->cap, sizeof *out->values);
    }
    return out->values[out->n++] = arena_array(x->mem, (size_t)out->n_over, sizeof **out->values);
}

/* An odometer over the axes, the last one fastest. */
static void product(struct expand *x, int prompt, int condition, const struct rules *rules, struct combinations *out)
{
    const struct condition *c = &x->s->conditions[condition];
    int *digit = mem_array((size_t)c->n_over, sizeof *digit), i;
    int64_t left = job_grid_size(x, prompt, condition, JOBS_MAX);
    struct job_sum *sum = &x->sums[condition];
    sum->product += left;
    for (; left > 0; left--) {
        int by = removed_by(rules, digit, x->matched);
        if (by >= 0) {
            sum->removed[by]++;
        } else {
            struct axis_value *v = add_combination(x, out);
            for (i = 0; i < c->n_over; i++) v[i] = job_axis(x, prompt, c->over[i])->v[digit[i]];
        }
        for (i = c->n_over - 1; i >= 0 && ++digit[i] == job_axis(x, prompt, c->over[i])->n; i--) digit[i] = 0;
    }
    free(digit);
}

/* The value that an included combination names; *digit: its index on the axis, or -1: it is not there. -1: d tells. */
static int included_value(struct expand *x, int prompt, const struct sweep_key *k, struct axis_value *out, int *digit)
{
    const struct axis *a = &x->s->axes[k->axis];
    const struct axis_list *l = job_axis(x, prompt, k->axis);
    const struct node *v = k->values[0];
    int n;
    for (*digit = 0; *digit < l->n; ++*digit)
        if (means(x, prompt, -1, &l->v[*digit], v->text)) {
            *out = l->v[*digit];
            return 0;
        }
    *digit = -1;
    if (a->kind == AXIS_LIST) {
        *out = (struct axis_value){.axis = k->axis, .text = v->text, .at = v->at};
        return 0;
    }
    n = index_of(v->text, counted(x, a, prompt));
    if (n < 0) {
        diag_add(x->d, DIAG_ERROR, "E355", v->at, v->width, "%s: '%s' is no %s of %s, which has 0..%d", a->name, v->text,
                 a->kind == AXIS_POSITIONS ? "position"
                 : a->kind == AXIS_WINDOWS ? "centre of a window"
                                           : "layer",
                 a->kind == AXIS_POSITIONS ? x->s->prompts[prompt].name : x->model, counted(x, a, prompt) - 1);
        return -1;
    }
    *out = a->kind == AXIS_WINDOWS ? window_value(x, k->axis, n) : number_value(x, k->axis, n, v->at);
    return 0;
}

static int exists(struct expand *x, const struct sweep *sw, int prompt, int condition)
{
    diag_add(x->d, DIAG_ERROR, "E353", sw->at, sw->width, "condition '%s' has this combination already on prompt '%s'",
             x->s->conditions[condition].name, x->s->prompts[prompt].name);
    return -1;
}

static int include(struct expand *x, const struct sweep *sw, int prompt, int condition, const struct rules *rules,
                   struct map *seen, struct combinations *out)
{
    const struct condition *c = &x->s->conditions[condition];
    struct axis_value *values = add_combination(x, out);
    int *digit = arena_array(x->mem, (size_t)c->n_over, sizeof *digit), k, place;
    bool on_axes = true, doubled;
    struct buf text = {0};
    for (k = 0; k < sw->n_keys; k++) {
        place = place_of(c, sw->keys[k].axis);
        if (included_value(x, prompt, &sw->keys[k], &values[place], &digit[place])) return -1;
        on_axes = on_axes && digit[place] >= 0;
    }
    for (k = 0; k < c->n_over; k++) buf_add(&text, values[k].text, strlen(values[k].text) + 1);
    doubled = map_put(seen, text.p, text.n, 0) >= 0;
    buf_free(&text);
    if (doubled || (on_axes && removed_by(rules, digit, NULL) < 0)) return exists(x, sw, prompt, condition);
    x->sums[condition].included++;
    return 0;
}

int job_combinations(struct expand *x, int prompt, int condition, struct combinations *out)
{
    struct rules rules = rules_of(x, prompt, condition);
    struct map *seen = map_new();
    int i, rc = 0;
    *out = (struct combinations){.n_over = x->s->conditions[condition].n_over};
    product(x, prompt, condition, &rules, out);
    for (i = 0; i < x->s->n_includes; i++) {
        const struct sweep *sw = &x->s->includes[i];
        if (in_list(sw->conditions, sw->n_conditions, condition) && spec_included(x->s, sw, &x->s->prompts[prompt]))
            rc |= include(x, sw, prompt, condition, &rules, seen, out);
    }
    map_free(seen);
    if (rc) free(out->values);
    return rc;
}

/* ---- rules that do nothing ---- */

/* Combinations of all conditions that have the axis, and those of them that a key of the rule means. */
static void count_key(const struct expand *x, const struct sweep *sw, const struct sweep_key *k, int64_t *of, int64_t *meant)
{
    int p, c, i;
    *of = *meant = 0;
    for (p = 0; p < x->s->n_prompts; p++)
        for (c = 0; c < x->s->n_conditions; c++) {
            const struct axis_list *l = job_axis(x, p, k->axis);
            int64_t size = job_grid_size(x, p, c, JOBS_MAX);
            if (place_of(&x->s->conditions[c], k->axis) < 0 || l->n == 0) continue;
            if (!in_list(sw->conditions, sw->n_conditions, c) || !in_list(sw->prompts, sw->n_prompts, x->s->prompts[p].first))
                continue;
            *of += size;
            for (i = 0; i < l->n; i++)
                if (key_means(x, p, k, &l->v[i])) *meant += size / l->n;
        }
}

static void idle_rule(const struct expand *x, const struct sweep *sw, int matched)
{
    int k;
    if (matched)
        diag_add(x->d, DIAG_ERROR, "E352", sw->at, sw->width,
                 "this rule removes nothing: what it means (%d) is removed by rules above it", matched);
    else
        diag_add(x->d, DIAG_ERROR, "E352", sw->at, sw->width,
                 "this rule removes nothing: no combination is meant by all its keys");
    for (k = 0; k < sw->n_keys && !matched; k++) {
        const struct sweep_key *key = &sw->keys[k];
        const struct axis *a = &x->s->axes[key->axis];
        int64_t of, meant;
        count_key(x, sw, key, &of, &meant);
        if (of)
            diag_help(x->d, "%s alone means %lld of %lld combinations",
                      key->member >= 0 ? a->members[key->member].full : a->name, (long long)meant, (long long)of);
        else
            diag_help(x->d, "none of the conditions meant is over %s", a->name);
    }
}

int job_rules_check(const struct expand *x)
{
    int i, c, rc = 0;
    for (i = 0; i < x->s->n_excludes; i++) {
        int removed = 0;
        for (c = 0; c < x->s->n_conditions; c++) removed += x->sums[c].removed[i];
        if (removed) continue;
        idle_rule(x, &x->s->excludes[i], x->matched[i]);
        rc = -1;
    }
    return rc;
}

/* Values of an axis on all prompts of a name together. */
static int counted_on(const struct expand *x, int prompt, int axis)
{
    const struct prompt *p = &x->s->prompts[prompt];
    int i;
    for (i = 0; i < p->n_values; i++)
        if (p->values[i].axis == axis) return x->s->axes[axis].n;
    return job_axis(x, prompt, axis)->n;
}

void job_sums_start(struct expand *x)
{
    int i, p, k;
    x->sums = arena_array(x->mem, (size_t)x->s->n_conditions, sizeof *x->sums);
    x->matched = arena_array(x->mem, (size_t)x->s->n_excludes, sizeof *x->matched);
    for (i = 0; i < x->s->n_conditions; i++) {
        const struct condition *c = &x->s->conditions[i];
        struct job_sum *sum = &x->sums[i];
        sum->removed = arena_array(x->mem, (size_t)x->s->n_excludes, sizeof *sum->removed);
        sum->counts = arena_array(x->mem, (size_t)x->s->n_written * (size_t)c->n_over, sizeof *sum->counts);
        for (p = 0; p < x->s->n_written; p++)
            for (k = 0; k < c->n_over; k++) sum->counts[p * c->n_over + k] = counted_on(x, p, c->over[k]);
    }
}
