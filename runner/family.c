/* family.c: one prefill per prompt, forks and edits per job; see family.h. */
#include "family_in.h"

#include "progress.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Adds `by` to the users of every cache and recording that the job needs. */
static void count_users(struct families *f, const struct job *j, int by)
{
    int i;
    f->bases[j->prompt].users += by;
    for (i = 0; i < j->n_ops; i++) {
        const struct job_op *op = &j->ops[i];
        if (op->donor_prompt >= 0) f->bases[op->donor_prompt].users += by;
        if (op->vector && !op->vector->rows) {
            f->bases[op->vector->from.prompt].users += by;
            f->bases[op->vector->minus.prompt].users += by;
        }
        family_count_recordings(f, op, by);
    }
}

struct families *family_open(const struct spec *s, engine *en, const struct jobs *jobs, const int *pending, int n)
{
    struct families *f = mem_alloc(sizeof *f);
    int i;
    f->spec = s;
    f->jobs = jobs;
    f->en = en;
    f->bases = mem_array((size_t)s->n_prompts, sizeof *f->bases);
    f->known = map_new();
    for (i = 0; i < n; i++) count_users(f, &jobs->jobs[pending[i]], 1);
    return f;
}

void family_keep_logits(struct families *f)
{
    f->logits = true;
}

bool family_wants_logits(const struct families *f, const struct job *j)
{
    return f->logits || (f->jobs->asked && f->jobs->asked[j->prompt].n > 0);
}

static void base_clear(struct base *b)
{
    cache_free(b->cache);
    cache_free(b->whole);
    b->cache = b->whole = NULL;
}

void family_close(struct families *f)
{
    int i;
    if (!f) return;
    for (i = 0; i < f->spec->n_prompts; i++) base_clear(&f->bases[i]);
    for (i = 0; i < f->n_recordings; i++) free(f->recordings[i].values);
    map_free(f->known);
    free(f->recordings);
    free(f->bases);
    free(f);
}

/* With reuse_logits the finished cache holds the whole prompt and the first token is picked before any edit; else all but the
   last token, which is fed after the edit. */
int family_base(struct families *f, int prompt, struct base **out, err *e)
{
    struct base *b = &f->bases[prompt];
    const struct bound_prompt *p = &f->jobs->prompts[prompt];
    bool reuse = f->spec->decode.after_edit == AFTER_REUSE_LOGITS;
    int64_t before = progress_now_ms();
    *out = b;
    if (b->cache) return 0;
    if (cache_new(&b->cache, f->en, e)) return -1;
    if (cache_feed(b->cache, p->ids, reuse ? p->n_tokens : p->n_tokens - 1, reuse ? &b->first : NULL, e)) {
        cache_free(b->cache);
        b->cache = NULL;
        return err_in(e, "prompt '%s'", p->prompt->name);
    }
    b->us = (progress_now_ms() - before) * 1000;
    return 0;
}

/* The donor's cache; in flight its last token may be asked for, too, which a finished cache need not hold. */
static int donor_of(struct families *f, const struct job_op *op, const cache **out, err *e)
{
    const struct bound_prompt *p = &f->jobs->prompts[op->donor_prompt];
    struct base *b;
    int last = p->n_tokens - 1;
    if (family_base(f, op->donor_prompt, &b, e)) return -1;
    *out = b->cache;
    if (cache_len(b->cache) > last || op->donor_at[op->n_at - 1] < last) return 0;
    if (!b->whole) {
        b->whole = cache_fork(b->cache);
        if (cache_feed(b->whole, p->ids + last, 1, NULL, e)) {
            cache_free(b->whole);
            b->whole = NULL;
            return err_in(e, "prompt '%s'", p->prompt->name);
        }
    }
    *out = b->whole;
    return 0;
}

void family_snapshot(struct finished *out, int moment, cache *c, int n_tok)
{
    struct result *r = &out->result;
    cache *copy = cache_fork(c);
    out->caches[r->n_snapshots] = copy;
    r->snapshots[r->n_snapshots++] = (struct snapshot){moment, copy, n_tok};
}

int family_edit(struct families *f, const struct job_op *op, struct edit *ed, float **made, err *e)
{
    *made = NULL;
    *ed = (struct edit){.op = op->op,
                        .tensors = op->tensors,
                        .layers = op->layers,
                        .heads = op->heads,
                        .at = op->at,
                        .n_layers = op->n_layers,
                        .n_heads = op->n_heads,
                        .n_at = op->n_at,
                        .donor_at = op->donor_at,
                        .rerotate = op->rerotate,
                        .by = op->by};
    if (op->op == EDIT_TRANSPLANT)
        return op->tensors & ~(CACHE_K | CACHE_V) ? family_recorded(f, op, &ed->vector, e) : donor_of(f, op, &ed->donor, e);
    if (op->op == EDIT_ADD) {
        if (family_vector(f, op, made, e)) return -1;
        ed->vector = *made;
    }
    return 0;
}

int family_finish(struct families *f, const struct job *j, struct finished *out, err *e)
{
    int i, n_tok = f->jobs->prompts[j->prompt].n_tokens - 1;
    struct edit ed;
    float *made;
    if (j->moments & MOMENT_PREFILL) family_snapshot(out, MOMENT_PREFILL, out->row.cache, n_tok);
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when == WHEN_FINISHED_CACHE &&
            (family_edit(f, &j->ops[i], &ed, &made, e) || cache_edit(out->row.cache, &ed, e)))
            return -1;
    if (j->moments & MOMENT_EDITED) family_snapshot(out, MOMENT_EDITED, out->row.cache, n_tok);
    return 0;
}

int family_fork(struct families *f, int job, struct finished *out, err *e)
{
    const struct job *j = &f->jobs->jobs[job];
    const struct bound_prompt *p = &f->jobs->prompts[j->prompt];
    struct timespec now;
    struct base *b;
    clock_gettime(CLOCK_REALTIME, &now);
    out->result.job = job;
    out->result.started_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (family_watched(j) || family_wants_logits(f, j)) return family_pass(f, j, out, e);
    if (family_base(f, j->prompt, &b, e)) return -1;
    out->result.prefill_us = b->us;
    out->row.cache = cache_fork(b->cache);
    if (family_finish(f, j, out, e)) return -1;
    if (f->spec->decode.after_edit == AFTER_REUSE_LOGITS) {
        out->row.first = b->first;
    } else {
        out->row.feed = p->ids + p->n_tokens - 1;
        out->row.n_feed = 1;
    }
    return 0;
}

void family_done(struct families *f, int job)
{
    const struct job *j = &f->jobs->jobs[job];
    int i;
    count_users(f, j, -1);
    for (i = 0; i < f->spec->n_prompts; i++)
        if (f->bases[i].users == 0) base_clear(&f->bases[i]);
}
