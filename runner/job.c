/* job.c: prompts x conditions x axes become jobs, then the controls; see job.h. */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

enum { JOBS_MAX = 1000000, SCRATCH_JOBS = 256 };

/* ---- axes ---- */

/* All values of all axes, with a layers axis resolved. */
static int axis_values(struct expand *x, struct axis_value **values, int *counts)
{
    int i, j;
    for (i = 0; i < x->s->n_axes; i++) {
        const struct axis *a = &x->s->axes[i];
        int *layers, n = a->n;
        if (a->kind == AXIS_LAYERS && bind_ranges(&a->layers, x->info->n_layer, "layer", x->model, x->mem, x->d, &layers, &n))
            return -1;
        counts[i] = n;
        values[i] = arena_array(x->mem, (size_t)n, sizeof **values);
        for (j = 0; j < n; j++)
            values[i][j] = a->kind == AXIS_LAYERS ? (struct axis_value){i, arena_printf(x->mem, "%d", layers[j]), a->layers.at}
                                                  : (struct axis_value){i, a->values[j]->text, a->values[j]->at};
    }
    return 0;
}

/* Number of jobs of a condition on one prompt, or JOBS_MAX + 1 when it is larger. */
static int64_t grid_size(const struct condition *c, const int *counts)
{
    int64_t n = 1;
    int i;
    for (i = 0; i < c->n_over; i++) {
        n *= counts[c->over[i]];
        if (n > JOBS_MAX) return JOBS_MAX + 1;
    }
    return n;
}

static int count_jobs(const struct expand *x, const int *counts, int *out)
{
    int64_t per_prompt = 2, n; /* two controls */
    int i;
    for (i = 0; i < x->s->n_conditions; i++) {
        n = grid_size(&x->s->conditions[i], counts);
        per_prompt += n;
        if (n <= JOBS_MAX && per_prompt * x->s->n_prompts <= JOBS_MAX) continue;
        diag_add(x->d, DIAG_ERROR, "E351", x->s->conditions[i].at, (int)strlen(x->s->conditions[i].name),
                 "with condition '%s' there are more than %d jobs", x->s->conditions[i].name, JOBS_MAX);
        return -1;
    }
    *out = (int)(per_prompt * x->s->n_prompts);
    return 0;
}

/* ---- one job ---- */

static const char *make_label(arena *mem, const struct spec *s, const struct job *j)
{
    struct buf b = {0};
    const char *label;
    int i;
    buf_printf(&b, "%s/%s", s->prompts[j->prompt].name, j->condition_name);
    for (i = 0; i < j->n_values; i++) buf_printf(&b, "/%s=%s", s->axes[j->values[i].axis].name, j->values[i].text);
    label = arena_strndup(mem, b.p, b.n);
    buf_free(&b);
    return label;
}

/* A capture that names no conditions is for every job, controls too: what they store shows that it equals the baseline. The
   moment after the edit of a job without one is the moment before it; its chunks are stored once for both. */
static int wanted_moments(const struct spec *s, const struct job *j)
{
    int i, k, m = 0;
    for (i = 0; i < s->n_captures; i++) {
        const struct capture *c = &s->captures[i];
        if (!c->conditions) m |= c->moments;
        for (k = 0; c->conditions && k < c->n; k++)
            if (c->conditions[k] == j->condition) m |= c->moments;
    }
    return m;
}

/* Only an edit of the finished cache leaves open what the first new token sees. */
static enum after_edit after_ops(const struct spec *s, const struct job *j)
{
    int i;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when == WHEN_FINISHED_CACHE) return s->decode.after_edit;
    return AFTER_NONE;
}

static int make_job(struct expand *x, arena *scratch, struct job *j)
{
    const struct condition *c = &x->s->conditions[j->condition];
    struct op *ops = NULL;
    int i, n = 0, rc = 0;
    j->condition_name = c->name;
    j->label = make_label(x->mem, x->s, j);
    if (c->apply && spec_ops(x->s, c, j->values, j->n_values, scratch, x->d, &ops, &n)) return -1;
    j->n_ops = n;
    j->ops = arena_array(x->mem, (size_t)n, sizeof *j->ops);
    for (i = 0; i < n; i++)
        if (job_op_resolve(x, j->prompt, &ops[i], &j->ops[i])) rc = -1;
    if (rc) return -1;
    j->after = after_ops(x->s, j);
    j->moments = wanted_moments(x->s, j);
    return job_records(x, j);
}

/* ---- controls ---- */

static void add_ints(struct buf *b, const int *v, int n)
{
    buf_add(b, &n, sizeof n);
    buf_add(b, v, (size_t)n * sizeof *v);
}

/* The operations of jobs first..n-1 with doubles left out: what the controls of a prompt must touch. */
static struct job_op *edits_of(const struct jobs *all, int first, arena *mem, int *n)
{
    struct map *seen = map_new();
    struct job_op *ops;
    int total = 0, i, k;
    for (i = first; i < all->n; i++) total += all->jobs[i].n_ops;
    ops = arena_array(mem, (size_t)total, sizeof *ops);
    for (i = first, *n = 0; i < all->n; i++)
        for (k = 0; k < all->jobs[i].n_ops; k++) {
            const struct job_op *op = &all->jobs[i].ops[k];
            struct buf key = {0};
            add_ints(&key, &op->tensors, 1);
            add_ints(&key, (const int[]){op->when == WHEN_PREFILL}, 1);
            add_ints(&key, op->layers, op->n_layers);
            add_ints(&key, op->heads, op->n_heads);
            add_ints(&key, op->at, op->n_at);
            if (map_put(seen, key.p, key.n, 0) < 0) ops[(*n)++] = *op;
            buf_free(&key);
        }
    map_free(seen);
    return ops;
}

static int add_control(struct expand *x, struct jobs *all, int prompt, const struct job_op *edits, int n, enum edit_op op)
{
    struct job *j = &all->jobs[all->n++];
    int i;
    *j = (struct job){.condition_name = op == EDIT_NOOP ? "noop" : "self_transplant",
                      .prompt = prompt,
                      .condition = -1,
                      .against = -1,
                      .control_of = -1,
                      .n_ops = n};
    j->label = make_label(all->mem, x->s, j);
    j->ops = arena_array(all->mem, (size_t)n, sizeof *j->ops);
    for (i = 0; i < n; i++) {
        j->ops[i] = edits[i];
        j->ops[i].op = op;
        j->ops[i].donor_prompt = op == EDIT_TRANSPLANT ? prompt : -1;
        j->ops[i].donor_at = op == EDIT_TRANSPLANT ? edits[i].at : NULL;
        j->ops[i].rerotate = false;
        j->ops[i].vector = NULL;
    }
    j->after = after_ops(x->s, j);
    j->moments = wanted_moments(x->s, j);
    return job_records(x, j);
}

static int add_controls(struct expand *x, struct jobs *all, int prompt, int first)
{
    const struct spec *s = x->s;
    struct job_op *edits;
    int n, rc = 0;
    if (!s->control_noop && !s->control_self_transplant) return 0;
    edits = edits_of(all, first, all->mem, &n);
    if (n == 0) return 0;
    if (s->control_noop && add_control(x, all, prompt, edits, n, EDIT_NOOP)) rc = -1;
    if (s->control_self_transplant && add_control(x, all, prompt, edits, n, EDIT_TRANSPLANT)) rc = -1;
    return rc;
}

/* ---- all jobs ---- */

/* The jobs of one condition on one prompt: an odometer over its axes, the last one fastest. */
static int add_grid(struct expand *x, struct jobs *all, int prompt, int condition, struct axis_value *const *values,
                    const int *counts)
{
    const struct condition *c = &x->s->conditions[condition];
    int *digit = arena_array(x->mem, (size_t)c->n_over, sizeof *digit), i, left = (int)grid_size(c, counts), rc = 0;
    arena *scratch = arena_new();
    for (; left > 0 && diag_errors(x->d) <= DIAG_MAX; left--) {
        struct job *j = &all->jobs[all->n++];
        j->prompt = prompt;
        j->condition = condition;
        j->against = j->control_of = -1;
        j->n_values = c->n_over;
        j->values = arena_array(x->mem, (size_t)c->n_over, sizeof *j->values);
        for (i = 0; i < c->n_over; i++) j->values[i] = values[c->over[i]][digit[i]];
        if (make_job(x, scratch, j)) rc = -1;
        for (i = c->n_over - 1; i >= 0 && ++digit[i] == counts[c->over[i]]; i--) digit[i] = 0;
        if (left % SCRATCH_JOBS == 0) { /* what spec_ops makes is needed for one job only */
            arena_free(scratch);
            scratch = arena_new();
        }
    }
    arena_free(scratch);
    return rc;
}

/* Baselines, keys and what is equal. -1: d tells of doubled labels, or e. */
static int finish(struct expand *x, struct jobs *all, err *e)
{
    struct map *labels = map_new(), *keys = map_new();
    int *baseline = arena_array(x->mem, (size_t)x->s->n_prompts, sizeof *baseline), i, rc = -1;
    for (i = 0; i < x->s->n_prompts; i++) baseline[i] = -1;
    for (i = 0; i < all->n; i++)
        if (all->jobs[i].n_ops == 0 && baseline[all->jobs[i].prompt] < 0) baseline[all->jobs[i].prompt] = i;
    if (job_key_start(x, e)) goto out;
    for (i = 0; i < all->n; i++) {
        struct job *j = &all->jobs[i];
        j->baseline = baseline[j->prompt];
        if (map_put(labels, j->label, strlen(j->label), i) >= 0) {
            struct mark at = j->condition >= 0 ? x->s->conditions[j->condition].at : x->s->prompts[j->prompt].at;
            diag_add(x->d, DIAG_ERROR, "E350", at, (int)strlen(j->condition_name), "two jobs would be called '%s'", j->label);
            goto out;
        }
        if (job_key(x, j, e)) goto out;
        j->same_as = map_put(keys, j->key, sizeof j->key, i);
        if (j->same_as < 0) continue;
        all->jobs[j->same_as].moments |= j->moments; /* that one runs, for both labels */
        job_records_join(x, &all->jobs[j->same_as], j);
    }
    rc = 0;
out:
    map_free(labels);
    map_free(keys);
    return rc;
}

static int expand_all(struct expand *x, struct jobs *all, err *e)
{
    struct axis_value **values = arena_array(x->mem, (size_t)x->s->n_axes, sizeof *values);
    int *counts = arena_array(x->mem, (size_t)x->s->n_axes, sizeof *counts), i, k, n, first, rc = 0;
    if (axis_values(x, values, counts) || count_jobs(x, counts, &n)) return -1;
    all->jobs = arena_array(x->mem, (size_t)n, sizeof *all->jobs);
    for (i = 0; i < x->s->n_prompts; i++) {
        first = all->n;
        for (k = 0; k < x->s->n_conditions; k++)
            if (add_grid(x, all, i, k, values, counts)) rc = -1;
        if (rc == 0 && add_controls(x, all, i, first)) rc = -1;
    }
    return rc ? -1 : finish(x, all, e);
}

int job_expand(struct jobs **out, const struct spec *s, const engine *en, struct bound_prompt *prompts, struct diag *d, err *e)
{
    const struct engine_info *info = engine_info(en);
    arena *mem = arena_new();
    struct jobs *all = arena_alloc(mem, sizeof *all);
    struct expand x = {
        .s = s, .en = en, .info = info, .prompts = prompts, .d = d, .mem = mem, .selects = map_new(), .files = map_new()};
    int rc;
    x.model = info->name && *info->name ? info->name : info->arch;
    *all = (struct jobs){.mem = mem, .prompts = prompts, .n_prompts = s->n_prompts};
    rc = expand_all(&x, all, e);
    map_free(x.selects);
    map_free(x.files);
    free(x.vectors);
    free(x.chosen);
    if (rc)
        job_free(all);
    else
        *out = all;
    return rc;
}

void job_free(struct jobs *j)
{
    if (j) arena_free(j->mem); /* which holds j itself */
}
