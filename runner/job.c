/* job.c: prompts x conditions x axes become jobs, then the controls; see job.h. */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

enum { SCRATCH_JOBS = 256 };

/* ---- how many ---- */

/* The jobs there can be at most: before exclude, with all that include adds and two controls per prompt. */
static int count_jobs(const struct expand *x, int *out)
{
    int64_t all;
    int i, k, p, controls, prompts;
    job_control_room(x->s, &controls, &prompts);
    all = (int64_t)controls * x->s->n_prompts;
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

const char *job_label(arena *mem, const struct spec *s, const struct job *j)
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

void job_finish_parts(struct expand *x, struct job *j)
{
    j->after = after_ops(x->s, j);
    j->moments = wanted_moments(x->s, j);
}

/* Behind an evict that closes up, the tokens of a finished cache stand elsewhere than the spec says. */
static int check_order(const struct expand *x, const struct job *j, const struct condition *c)
{
    const struct job_op *moved = NULL;
    int i;
    for (i = 0; i < j->n_ops; i++) {
        const struct job_op *op = &j->ops[i];
        bool late = op->when == WHEN_FINISHED_CACHE || (op->when == WHEN_STEPS && op->n_at > 0);
        if (moved && late) {
            diag_add(x->d, DIAG_ERROR, "E389", c->at, (int)strlen(c->name),
                     "'%s' edits a finished cache behind an evict that closes up: the tokens have moved", j->label);
            diag_help(x->d, "help: put the evict last, or position_policy: keep_holes");
            return -1;
        }
        if (op->op == EDIT_EVICT && op->compact && op->when == WHEN_FINISHED_CACHE) moved = op;
    }
    return 0;
}

static int make_job(struct expand *x, arena *scratch, struct job *j)
{
    const struct condition *c = &x->s->conditions[j->condition];
    struct op *ops = NULL;
    int i, n = 0, rc = 0;
    x->job = j;
    j->condition_name = c->name;
    j->label = job_label(x->mem, x->s, j);
    if (c->apply && spec_ops(x->s, c, j->values, j->n_values, scratch, x->d, &ops, &n)) return -1;
    j->n_ops = n;
    j->ops = arena_array(x->mem, (size_t)n, sizeof *j->ops);
    for (i = 0; i < n; i++)
        if (job_op_resolve(x, j->prompt, &ops[i], &j->ops[i])) rc = -1;
    if (rc) return -1;
    if (check_order(x, j, c)) return -1;
    job_finish_parts(x, j);
    return job_records(x, j);
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

/* The key of a job, and before it those of its donors, which it holds. Circles have been refused. */
static int key_of(struct expand *x, struct jobs *all, int i, bool *done, err *e)
{
    const struct job *j = &all->jobs[i];
    int k, s;
    if (done[i]) return 0;
    for (k = 0; k < j->n_ops; k++) {
        const struct job_vector *v = j->ops[k].vector;
        if (j->ops[k].donor_job >= 0 && key_of(x, all, j->ops[k].donor_job, done, e)) return -1;
        for (s = 0; v && s < v->n_sets; s++)
            if (v->sets[s].job >= 0 && key_of(x, all, v->sets[s].job, done, e)) return -1;
    }
    done[i] = true;
    return job_key(x, all, &all->jobs[i], e);
}

/* Baselines, keys and what is equal. -1: d tells of doubled labels, or e. */
static int finish(struct expand *x, struct jobs *all, err *e)
{
    struct map *labels = map_new(), *keys = map_new();
    int *baseline = arena_array(x->mem, (size_t)x->n_prompts, sizeof *baseline), i, rc = -1;
    bool *done = arena_array(x->mem, (size_t)all->n, sizeof *done);
    for (i = 0; i < x->n_prompts; i++) baseline[i] = -1;
    for (i = 0; i < all->n; i++)
        if (all->jobs[i].n_ops == 0 && baseline[all->jobs[i].prompt] < 0) baseline[all->jobs[i].prompt] = i;
    if (job_key_start(x, e)) goto out;
    for (i = 0; i < all->n; i++) {
        struct job *j = &all->jobs[i];
        j->baseline = baseline[j->prompt];
        if (j->control == CONTROL_SAME) j->against = j->baseline;
        if (map_put(labels, j->label, strlen(j->label), i) >= 0) {
            struct mark at = j->condition >= 0 ? x->s->conditions[j->condition].at : x->s->prompts[j->prompt].at;
            diag_add(x->d, DIAG_ERROR, "E350", at, (int)strlen(j->condition_name), "two jobs would be called '%s'", j->label);
            goto out;
        }
        if (key_of(x, all, i, done, e)) goto out;
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
    if (job_feeds(x) || job_axes(x) || count_jobs(x, &n)) return -1;
    job_sums_start(x);
    all->sums = x->sums;
    all->jobs = arena_array(x->mem, (size_t)n, sizeof *all->jobs);
    for (w = 0; w < x->s->n_written; w++)
        for (i = w;; i = next++) { /* the prompts of a name, one behind the other */
            int first = all->n;
            for (k = 0; k < x->s->n_conditions; k++)
                if (add_grid(x, all, i, k)) rc = -1;
            if (rc == 0 && job_controls(x, all, i, first)) rc = -1;
            if (next == x->s->n_prompts || x->s->prompts[next].first != w) break;
        }
    if (rc == 0) rc = job_rules_check(x);
    if (rc == 0 && all->n == 0) {
        diag_add(x->d, DIAG_ERROR, "E356", x->s->excludes[0].at, x->s->excludes[0].width, "exclude leaves no job at all");
        rc = -1;
    }
    if (rc || job_controls_end(x, all) || job_donors_find(x, all)) return -1;
    all->n_prompts = x->n_prompts;
    return finish(x, all, e) || job_metrics(x, all) ? -1 : 0;
}

/* The spec's prompts, with room for those that controls make. */
static void set_prompts(struct expand *x, const struct bound_prompt *prompts)
{
    int jobs, more, n = x->s->n_prompts;
    job_control_room(x->s, &jobs, &more);
    x->prompts = arena_array(x->mem, (size_t)n * (size_t)(more + 1), sizeof *x->prompts);
    memcpy(x->prompts, prompts, (size_t)n * sizeof *prompts);
    x->feed = arena_array(x->mem, (size_t)n * (size_t)(more + 1), sizeof *x->feed);
    x->absent_of = arena_array(x->mem, (size_t)n * (size_t)more, sizeof *x->absent_of);
    x->n_prompts = n;
}

int job_expand(struct jobs **out, const struct spec *s, const engine *en, struct bound_prompt *prompts, struct diag *d, err *e)
{
    const struct engine_info *info = engine_info(en);
    arena *mem = arena_new();
    struct jobs *all = arena_alloc(mem, sizeof *all);
    struct expand x = {.s = s, .en = en, .info = info, .d = d, .mem = mem, .selects = map_new(), .files = map_new()};
    int rc;
    x.model = info->name && *info->name ? info->name : info->arch;
    set_prompts(&x, prompts);
    *all = (struct jobs){.mem = mem, .prompts = x.prompts, .n_prompts = s->n_prompts, .feed = x.feed};
    rc = expand_all(&x, all, e);
    map_free(x.selects);
    map_free(x.files);
    job_stored_close(x.stored);
    free(x.wishes);
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
    int i = jobs->jobs[job].prompt;
    if (i >= s->n_prompts) i = jobs->jobs[jobs->jobs[job].control_of].prompt;
    return s->prompts[i].first;
}
