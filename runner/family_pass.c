/* family_pass.c: a job whose prompt is edited or recorded while it is fed, or whose logits behind it are read. It forks its
 * family's cache where the first edit or record stands and feeds the rest by itself; everything before is shared with its
 * siblings, bit for bit. */
#include "family_in.h"

#include "progress.h"

#include <stdlib.h>
#include <string.h>

bool family_watched(const struct job *j)
{
    int i;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when == WHEN_PREFILL) return true;
    return j->n_records > 0;
}

static int first_position(const struct job *j, int n_tokens)
{
    int first = n_tokens - 1, i;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when == WHEN_PREFILL && j->ops[i].at[0] < first) first = j->ops[i].at[0];
    for (i = 0; i < j->n_records; i++)
        if (j->records[i].at[0] < first) first = j->records[i].at[0];
    return first;
}

/* ---- one feed ---- */

/* What the engine is told of the whole prompt; each feed takes the positions that it has. */
struct pass {
    struct families *f;
    const struct job *j;
    struct edit *edits;     /* (n_edits) */
    float **made;           /* (n_edits) vectors to free, or NULL */
    struct record *records; /* (n_records) */
    int n_edits, n_records;
    int last; /* position of the prompt's last token */
};

static int make_edits(struct pass *p, err *e)
{
    int k;
    for (k = 0; k < p->j->n_ops; k++) {
        const struct job_op *op = &p->j->ops[k];
        if (op->when != WHEN_PREFILL) continue;
        if (family_edit(p->f, op, &p->edits[p->n_edits], &p->made[p->n_edits], e)) return -1;
        p->n_edits++;
    }
    return 0;
}

static int feed(const struct pass *p, cache *c, int end, struct gen_pick *pick, err *e)
{
    const struct bound_prompt *prompt = &p->f->jobs->prompts[p->j->prompt];
    struct watch w = {p->edits, p->records, p->n_edits, p->n_records};
    int first = cache_len(c);
    return first == end ? 0 : cache_feed_watched(c, prompt->ids + first, end - first, &w, pick, e);
}

/* ---- the job ---- */

/* Room for what the job records, in out, and what the engine is told of it. */
static void make_records(const struct pass *p, struct finished *out)
{
    const struct job *j = p->j;
    int i, n_tokens = p->f->jobs->prompts[j->prompt].n_tokens;
    out->activations = mem_array((size_t)j->n_records, sizeof *out->activations);
    out->result.activations = out->activations;
    for (i = 0; i < j->n_records; i++) {
        const struct job_record *r = &j->records[i];
        struct activation *a = &out->activations[out->result.n_activations++];
        a->record = r;
        a->width = engine_site_width(p->f->en, r->site, n_tokens);
        a->values = mem_array((size_t)r->n_layers * (size_t)r->n_at, (size_t)a->width * sizeof *a->values);
        p->records[i] = (struct record){r->site, r->layers, r->at, r->n_layers, r->n_at, n_tokens, a->values};
    }
}

/* The logits behind the prompt, beside what the spec records. */
static void make_logits(struct pass *p, struct finished *out)
{
    static const int layer = 0;
    int n_tokens = p->f->jobs->prompts[p->j->prompt].n_tokens;
    p->n_records = p->j->n_records;
    p->last = n_tokens - 1;
    if (!family_wants_logits(p->f, p->j)) return;
    out->logits = mem_array((size_t)engine_info(p->f->en)->n_vocab, sizeof *out->logits);
    p->records[p->n_records++] = (struct record){SITE_LOGITS, &layer, &p->last, 1, 1, n_tokens, out->logits};
}

/* The family's cache up to `first`, or an empty one, which needs no family. */
static int start(const struct pass *p, int first, struct finished *out, err *e)
{
    struct base *b;
    if (first == 0) return cache_new(&out->row.cache, p->f->en, e);
    if (family_base(p->f, p->j->prompt, &b, e)) return -1;
    out->result.prefill_us = b->us;
    return cache_fork_at(&out->row.cache, b->cache, first, e);
}

int family_pass(struct families *f, const struct job *j, struct finished *out, err *e)
{
    const struct bound_prompt *prompt = &f->jobs->prompts[j->prompt];
    struct pass p = {.f = f, .j = j};
    int n = prompt->n_tokens, before = j->after == AFTER_RERUN_LAST ? n - 1 : n, rc;
    int64_t from;
    p.edits = mem_array((size_t)j->n_ops, sizeof *p.edits);
    p.made = mem_array((size_t)j->n_ops, sizeof *p.made);
    p.records = mem_array((size_t)j->n_records + 1, sizeof *p.records);
    make_records(&p, out);
    make_logits(&p, out);
    rc = make_edits(&p, e);
    if (!rc) rc = start(&p, first_position(j, n), out, e);
    from = progress_now_ms();
    if (!rc) rc = feed(&p, out->row.cache, before, before == n ? &out->row.first : NULL, e);
    if (!rc) rc = family_finish(f, j, out, e);
    if (!rc && before < n) rc = feed(&p, out->row.cache, n, &out->row.first, e);
    out->result.prefill_us += (progress_now_ms() - from) * 1000;
    while (p.n_edits > 0) free(p.made[--p.n_edits]);
    free(p.edits);
    free(p.made);
    free(p.records);
    return rc ? err_in(e, "prompt '%s'", prompt->prompt->name) : 0;
}
