/* family.c: what jobs share, counted; forks and edits per job; see family.h. */
#include "family_in.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { KEPT = CACHE_K | CACHE_V };

/* ---- who needs what ---- */

static void count_job(struct families *f, const struct job *j, int by, bool want);

/* A base with edits needs what its own job needs, as long as somebody needs it. */
static void count_base(struct families *f, int base, int by, bool want)
{
    int before = f->bases[base].users;
    f->bases[base].users += by;
    if (f->bases[base].of && f->bases[base].n_ops < 0 && (before == 0 || before + by == 0))
        count_job(f, f->bases[base].of, by, want);
}

static void count_source(struct families *f, const struct job_op *op, int prompt, int job, const int *at, int n, int by,
                         bool want)
{
    int base = family_donor(f, prompt, job);
    count_base(f, base, by, want);
    if (want && (op->tensors & ~KEPT || op->op == EDIT_ADD))
        family_want(f, base, op->tensors, false, op->layers, op->n_layers, at, n);
}

/* Adds `by` to the users of all that an operation takes values from. */
static void count_op(struct families *f, const struct job_op *op, int by, bool want)
{
    const struct job_vector *v = op->vector;
    int i, n;
    job_op_places(op, &n);
    if (op->op == EDIT_TRANSPLANT && op->donor_prompt >= 0)
        count_source(f, op, op->donor_prompt, op->donor_job, op->donor_at, n, by, want);
    if (op->op == EDIT_ADD && !v->rows) {
        count_source(f, op, v->from.prompt, -1, &v->from.at, 1, by, want);
        count_source(f, op, v->minus.prompt, -1, &v->minus.at, 1, by, want);
    }
    for (i = 0; op->op == EDIT_MEAN && i < v->n_sets; i++)
        count_source(f, op, v->sets[i].prompt, v->sets[i].job, v->sets[i].at, v->sets[i].n, by, want);
}

static void count_job(struct families *f, const struct job *j, int by, bool want)
{
    int i, prefix = f->prefix[j - f->jobs->jobs];
    count_base(f, j->prompt, by, want);
    if (prefix >= 0) f->bases[prefix].users += by;
    for (i = 0; i < j->n_ops; i++) count_op(f, &j->ops[i], by, want);
}

/* ---- what is shared of passes ---- */

/* Operations that a base can have made for a job: all but the last, when they are all in flight. */
static int leading(const struct job *j)
{
    int i;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when != WHEN_PREFILL || j->ops[i].score) return 0;
    return j->n_ops - 1;
}

/* Jobs that begin with the same edits start from a pass with these, when there are several of them. */
static void find_prefixes(struct families *f, const int *pending, int n)
{
    int *of = mem_array((size_t)n, sizeof *of), *count, i;
    for (i = 0; i < n; i++) {
        const struct job *j = &f->jobs->jobs[pending[i]];
        of[i] = leading(j) > 0 ? family_of_ops(f, j, leading(j)) : -1;
    }
    count = mem_array((size_t)f->n_bases, sizeof *count);
    for (i = 0; i < n; i++)
        if (of[i] >= 0) count[of[i]]++;
    for (i = 0; i < n; i++)
        if (of[i] >= 0 && count[of[i]] > 1) f->prefix[pending[i]] = of[i];
    free(count);
    free(of);
}

/* The base that a job's own pass starts from, and how many of its operations that has made. */
static int base_of(const struct families *f, const struct job *j, int *made)
{
    int prefix = f->prefix[j - f->jobs->jobs];
    *made = prefix >= 0 ? leading(j) : 0;
    return prefix >= 0 ? prefix : j->prompt;
}

/* What a job's own pass wants of its base: what enters the layer where it begins; with a shared beginning also what its last
   operation would replace. */
static void want_of_base(struct families *f, const struct job *j, int *wanted)
{
    int made, base = base_of(f, j, &made), n = f->jobs->prompts[j->prompt].n_tokens, first = n - 1, layer = f->n_layer - 1, i,
              below;
    const struct job_op *last = j->n_ops ? &j->ops[j->n_ops - 1] : NULL;
    int *at;
    bool flies = false;
    for (i = 0; i < j->n_ops; i++) {
        if (j->ops[i].when != WHEN_PREFILL) {
            if (j->ops[i].when == WHEN_FINISHED_CACHE) return;
            continue;
        }
        flies = true;
        if (i >= made) family_reach(f, &j->ops[i], &first, &layer);
    }
    if (!flies) return;
    if (made && last->op == EDIT_TRANSPLANT && !last->vector && last->tensors & ~KEPT)
        family_want(f, base, last->tensors, false, last->layers, last->n_layers, last->at, last->n_at);
    if (made && family_wants_logits(f, j)) f->bases[base].want_logits = true;
    if (layer <= 0 || ++wanted[base] < 3) return; /* a base that is recorded for one or two costs more than it saves */
    below = layer - 1;
    at = mem_array((size_t)(n - first), sizeof *at);
    for (i = first; i < n; i++) at[i - first] = i;
    family_want(f, base, SITE_RESID, true, &below, 1, at, n - first);
    free(at);
}

/* ---- life ---- */

struct families *family_open(const struct spec *s, engine *en, const struct jobs *jobs, const int *pending, int n)
{
    struct families *f = mem_alloc(sizeof *f);
    int *wanted, i;
    f->spec = s;
    f->jobs = jobs;
    f->en = en;
    f->n_layer = engine_info(en)->n_layer;
    f->n_bases = jobs->n_prompts;
    f->bases = mem_array((size_t)f->n_bases + 1, sizeof *f->bases);
    for (i = 0; i < f->n_bases; i++) f->bases[i].prompt = i;
    f->known = map_new();
    f->sites = map_new();
    f->scores = mem_array(2 * (size_t)jobs->n_prompts, sizeof *f->scores);
    f->prefix = mem_array((size_t)jobs->n, sizeof *f->prefix);
    for (i = 0; i < jobs->n; i++) f->prefix[i] = -1;
    find_prefixes(f, pending, n);
    for (i = 0; i < n; i++) count_job(f, &jobs->jobs[pending[i]], 1, true);
    wanted = mem_array((size_t)f->n_bases + 1, sizeof *wanted);
    for (i = 0; i < n; i++) want_of_base(f, &jobs->jobs[pending[i]], wanted);
    free(wanted);
    family_plan_recordings(f);
    return f;
}

void family_keep_logits(struct families *f)
{
    f->logits = true;
}

void family_close(struct families *f)
{
    int i;
    if (!f) return;
    for (i = 0; i < f->n_bases; i++) family_base_clear(f, i);
    for (i = 0; i < f->n_recordings; i++) {
        free(f->recordings[i].on);
        free(f->recordings[i].layers);
        free(f->recordings[i].at);
        free(f->recordings[i].row);
        free(f->recordings[i].col);
    }
    for (i = 0; i < 2 * f->jobs->n_prompts; i++) free(f->scores[i]);
    map_free(f->known);
    map_free(f->sites);
    free(f->recordings);
    free(f->scores);
    free(f->prefix);
    free(f->bases);
    free(f);
}

/* ---- one job ---- */

/* Room for what the job records, in out, and what the engine is told of it; and for the logits behind the prompt. */
static void make_records(struct families *f, struct flight *fl)
{
    static const int layer = 0;
    const struct job *j = fl->j;
    struct finished *out = fl->out;
    int i, n_tokens = f->jobs->prompts[j->prompt].n_tokens;
    fl->records = mem_array((size_t)j->n_records + 1, sizeof *fl->records);
    out->activations = mem_array((size_t)j->n_records, sizeof *out->activations);
    out->result.activations = out->activations;
    for (i = 0; i < j->n_records; i++) {
        const struct job_record *r = &j->records[i];
        struct activation *a = &out->activations[out->result.n_activations++];
        a->record = r;
        a->width = engine_site_width(f->en, r->site, n_tokens);
        a->values = mem_array((size_t)r->n_layers * (size_t)r->n_at, (size_t)a->width * sizeof *a->values);
        fl->records[fl->n_records++] = (struct record){r->site, r->layers, r->at, r->n_layers, r->n_at, n_tokens, a->values};
    }
    if (!family_wants_logits(f, j)) return;
    out->logits = mem_array((size_t)engine_info(f->en)->n_vocab, sizeof *out->logits);
    fl->last = n_tokens - 1;
    fl->records[fl->n_records++] = (struct record){SITE_LOGITS, &layer, &fl->last, 1, 1, n_tokens, out->logits};
}

/* A job that does not feed its prompt by itself: the family's cache, edited. */
static int fork_finished(struct families *f, struct flight *fl, err *e)
{
    const struct job *j = fl->j;
    const struct bound_prompt *p = &f->jobs->prompts[j->prompt];
    struct finished *out = fl->out;
    struct base *b;
    int held = family_held(f, j->prompt);
    if (family_cache(f, j->prompt, &b, e)) return -1;
    out->result.prefill_us = b->us;
    out->row.cache = cache_fork(b->cache);
    out->row.first = b->first;
    if (family_finish(f, j, &fl->done, out->row.cache, out, e)) return -1;
    out->row.feed = p->ids + held;
    out->row.n_feed = p->n_tokens - held;
    return 0;
}

static void set_flight(struct families *f, struct flight *fl, int job, struct finished *out)
{
    const struct job *j = &f->jobs->jobs[job];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->result.job = job;
    out->result.started_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    *fl = (struct flight){.j = j, .prompt = j->prompt, .n_ops = j->n_ops, .finish = true, .out = out};
    fl->base = base_of(f, j, &fl->made);
}

/* Hands the flight over to its job, which keeps what new tokens need. */
static int land(struct families *f, struct flight *fl, bool flown, err *e)
{
    struct finished *out = fl->out;
    if (flown) {
        out->row.cache = fl->cache;
        out->row.first = fl->pick;
        out->result.prefill_us = fl->us;
        fl->cache = NULL;
    }
    family_edits_free(&fl->flying);
    out->flight = mem_alloc(sizeof *out->flight);
    *out->flight = *fl;
    *fl = (struct flight){0};
    return family_decode(f, out->flight->j, cache_len(out->row.cache) + out->row.n_feed, out->flight, e);
}

void family_fork_all(struct families *f, const int *list, int n, struct finished **out)
{
    struct flight *fl = mem_array((size_t)n, sizeof *fl);
    int *whose = mem_array((size_t)n, sizeof *whose), i, k = 0;
    err all = {0};
    for (i = 0; i < n; i++) {
        const struct job *j = &f->jobs->jobs[list[i]];
        set_flight(f, &fl[k], list[i], out[i]);
        if (family_watched(j) || family_wants_logits(f, j)) {
            make_records(f, &fl[k]);
            whose[k++] = i;
        } else {
            struct flight one = fl[k];
            if (fork_finished(f, &one, &out[i]->error) || land(f, &one, false, &out[i]->error)) family_flight_clear(&one);
        }
    }
    if (k && family_fly(f, fl, k, &all))
        for (i = 0; i < k; i++)
            if (!fl[i].error.code) fl[i].error = all;
    for (i = 0; i < k; i++) {
        struct finished *o = out[whose[i]];
        if (fl[i].error.code) {
            o->error = fl[i].error;
            err_in(&o->error, "prompt '%s'", f->jobs->prompts[fl[i].prompt].prompt->name);
        } else {
            land(f, &fl[i], true, &o->error);
        }
        family_flight_clear(&fl[i]);
    }
    free(fl);
    free(whose);
}

int family_fork(struct families *f, int job, struct finished *out, err *e)
{
    family_fork_all(f, &job, 1, &out);
    return out->error.code ? err_set(e, out->error.code, "%s", out->error.msg) : 0;
}

void family_done(struct families *f, struct finished *out)
{
    int i;
    count_job(f, &f->jobs->jobs[out->result.job], -1, false);
    for (i = 0; i < f->n_bases; i++)
        if (f->bases[i].users == 0) family_base_clear(f, i);
    if (out->flight) {
        family_flight_clear(out->flight);
        free(out->flight);
    }
    out->flight = NULL;
    out->row.watch = NULL;
    out->row.steps = NULL;
    out->row.n_steps = 0;
}
