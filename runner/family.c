/* family.c: one prefill per prompt, forks and edits per job; see family.h. */
#include "family.h"

#include "progress.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct base {
    cache *cache;          /* the finished cache, or NULL: not computed yet, or no longer needed */
    struct gen_pick first; /* with reuse_logits: the pick before any edit */
    int64_t us;
    int users; /* jobs to run that need it, as prompt or as donor */
};

struct families {
    const struct spec *spec;
    const struct jobs *jobs;
    engine *en;
    struct base *bases; /* (n_prompts) */
};

/* Adds `by` to the users of every cache that the job needs. */
static void count_users(struct families *f, const struct job *j, int by)
{
    int i;
    f->bases[j->prompt].users += by;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].donor_prompt >= 0) f->bases[j->ops[i].donor_prompt].users += by;
}

struct families *family_open(const struct spec *s, engine *en, const struct jobs *jobs, const int *pending, int n)
{
    struct families *f = mem_alloc(sizeof *f);
    int i;
    f->spec = s;
    f->jobs = jobs;
    f->en = en;
    f->bases = mem_array((size_t)s->n_prompts, sizeof *f->bases);
    for (i = 0; i < n; i++) count_users(f, &jobs->jobs[pending[i]], 1);
    return f;
}

void family_close(struct families *f)
{
    int i;
    if (!f) return;
    for (i = 0; i < f->spec->n_prompts; i++) cache_free(f->bases[i].cache);
    free(f->bases);
    free(f);
}

/* With reuse_logits the finished cache holds the whole prompt and the first token is picked before any edit; else all but the
   last token, which is fed after the edit. */
static int base_get(struct families *f, int prompt, struct base **out, err *e)
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

static void snapshot(struct finished *out, int moment, cache *c, int n_tok)
{
    struct result *r = &out->result;
    cache *copy = cache_fork(c);
    out->caches[r->n_snapshots] = copy;
    r->snapshots[r->n_snapshots++] = (struct snapshot){moment, copy, n_tok};
}

static int apply(struct families *f, cache *c, const struct job_op *op, err *e)
{
    struct edit ed = {.op = op->op,
                      .tensors = op->tensors,
                      .layers = op->layers,
                      .heads = op->heads,
                      .at = op->at,
                      .n_layers = op->n_layers,
                      .n_heads = op->n_heads,
                      .n_at = op->n_at,
                      .donor_at = op->donor_at,
                      .rerotate = op->rerotate};
    struct base *donor;
    if (op->donor_prompt >= 0) {
        if (base_get(f, op->donor_prompt, &donor, e)) return -1;
        ed.donor = donor->cache;
    }
    return cache_edit(c, &ed, e);
}

int family_fork(struct families *f, int job, struct finished *out, err *e)
{
    const struct job *j = &f->jobs->jobs[job];
    const struct bound_prompt *p = &f->jobs->prompts[j->prompt];
    struct timespec now;
    struct base *b;
    cache *c;
    int i;
    clock_gettime(CLOCK_REALTIME, &now);
    out->result.job = job;
    out->result.started_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (base_get(f, j->prompt, &b, e)) return -1;
    out->result.prefill_us = b->us;
    c = cache_fork(b->cache);
    out->row.cache = c;
    if (j->moments & MOMENT_PREFILL) snapshot(out, MOMENT_PREFILL, c, p->n_tokens - 1);
    for (i = 0; i < j->n_ops; i++)
        if (apply(f, c, &j->ops[i], e)) return -1;
    if (j->moments & MOMENT_EDITED) snapshot(out, MOMENT_EDITED, c, p->n_tokens - 1);
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
        if (f->bases[i].users == 0) {
            cache_free(f->bases[i].cache);
            f->bases[i].cache = NULL;
        }
}
