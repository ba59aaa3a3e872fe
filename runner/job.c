/* job.c: prompts x conditions x axes become jobs, then the controls; see job.h. */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

enum { SCRATCH_JOBS = 256 };

/* ---- how many ---- */

/* The jobs there can be at most: before exclude, with all that include adds and two controls per prompt. */
static int count_jobs(const struct expand *x, int *out)
{
    int64_t all = 2 * (int64_t)x->s->n_prompts;
    int i, k, p;
    for (i = 0; i < x->s->n_conditions; i++) {
        for (p = 0; p < x->s->n_prompts && all <= JOBS_MAX; p++) all += job_grid_size(x, p, i, JOBS_MAX);
        if (all <= JOBS_MAX) continue;
        diag_add(x->d, DIAG_ERROR, "E351", x->s->conditions[i].at, (int)strlen(x->s->conditions[i].name),
                 "with condition '%s' there are more than %d jobs", x->s->conditions[i].name, JOBS_MAX);
        return -1;
    }
    for (i = 0; i < x->s->n_includes; i++) {
        const struct sweep *sw = &x->s->includes[i];
        for (k = 0; k < sw->n_conditions; k++) all += sw->prompts ? sw->n_prompts : x->s->n_prompts;
    }
    *out = (int)all;
    return 0;
}

/* ---- one job ---- */

static const char *make_label(arena *mem, const struct spec *s, const struct job *j)
{
    const struct prompt *p = &s->prompts[j->prompt];
    const struct axis_value *v = j->n_values ? j->values : p->values; /* a control has those of its prompt */
    struct buf b = {0};
    const char *label;
    int i, n = j->n_values ? j->n_values : p->n_values;
    buf_printf(&b, "%s/%s", p->name, j->condition_name);
    for (i = 0; i < n; i++) buf_printf(&b, "/%s=%s", s->axes[v[i].axis].name, v[i].text);
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
    x->job = j;
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
                      .values = x->s->prompts[prompt].values,
                      .n_values = x->s->prompts[prompt].n_values,
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

/* The jobs of one condition on one prompt. */
static int add_grid(struct expand *x, struct jobs *all, int prompt, int condition)
{
    struct combinations grid;
    arena *scratch = arena_new();
    int i, rc = 0;
    if (job_combinations(x, prompt, condition, &grid)) {
        arena_free(scratch);
        return -1;
    }
    for (i = 0; i < grid.n && diag_errors(x->d) <= DIAG_MAX; i++) {
        struct job *j = &all->jobs[all->n++];
        j->prompt = prompt;
        j->condition = condition;
        j->against = j->control_of = -1;
        j->n_values = grid.n_over;
        j->values = grid.values[i];
        if (make_job(x, scratch, j)) rc = -1;
        if (i % SCRATCH_JOBS == SCRATCH_JOBS - 1) { /* what spec_ops makes is needed for one job only */
            arena_free(scratch);
            scratch = arena_new();
        }
    }
    free(grid.values);
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
    int i, w, k, n, next = x->s->n_written, rc = 0;
    if (job_axes(x) || count_jobs(x, &n)) return -1;
    job_sums_start(x);
    all->sums = x->sums;
    all->jobs = arena_array(x->mem, (size_t)n, sizeof *all->jobs);
    for (w = 0; w < x->s->n_written; w++)
        for (i = w;; i = next++) { /* the prompts of a name, one behind the other */
            int first = all->n;
            for (k = 0; k < x->s->n_conditions; k++)
                if (add_grid(x, all, i, k)) rc = -1;
            if (rc == 0 && add_controls(x, all, i, first)) rc = -1;
            if (next == x->s->n_prompts || x->s->prompts[next].first != w) break;
        }
    if (rc == 0) rc = job_rules_check(x);
    if (rc == 0 && all->n == 0) {
        diag_add(x->d, DIAG_ERROR, "E374", x->s->excludes[0].at, x->s->excludes[0].width, "exclude leaves no job at all");
        rc = -1;
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

int job_spec_prompt(const struct spec *s, const struct jobs *jobs, int job)
{
    int i = jobs->jobs[job].prompt, p;
    if (i < s->n_prompts) return s->prompts[i].first;
    for (p = 0; p < s->n_written && strcmp(s->prompts[p].name, jobs->prompts[i].prompt->name) != 0;) p++;
    return p < s->n_written ? p : 0;
}
