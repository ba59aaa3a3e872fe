/* batch.c: prompts are prefilled once, each job forks its prompt's cache and edits the fork, a batch of jobs is decoded
 * together, and the writer stores finished jobs while the next batch runs.
 */
#include "batch.h"

#include "signals.h"

#include <stdlib.h>
#include <string.h>

/* ---- how many at once ---- */

/* What jobs hold by themselves, which keeps the default run under 500 MB beside the mapped weights. */
static const int64_t budget = (int64_t)256 << 20;

/* Bytes of activations that a job to run may hold until it is stored. */
static int64_t most_recorded(const struct loop *l)
{
    int64_t most = 0;
    int i;
    for (i = 0; i < l->n_pending; i++) {
        int64_t bytes = job_record_bytes(l->r->en, l->r->jobs, &l->r->jobs->jobs[l->pending[i]]);
        if (bytes > most) most = bytes;
    }
    return most;
}

int batch_writer_room(const struct loop *l)
{
    int64_t bytes = most_recorded(l);
    return bytes > budget ? 1 : bytes > budget / 32 ? (int)(budget / bytes) : 32;
}

/* Pages that a job may own in each layer. Those of the prompt it shares with the other jobs on it, but for the one that an edit
   writes; a job that is edited or recorded in flight feeds its prompt by itself. */
static int64_t most_pages(const struct loop *l)
{
    const struct run *r = l->r;
    int64_t most = 0;
    int *users = mem_array((size_t)r->jobs->n_prompts, sizeof *users), i;
    for (i = 0; i < l->n_pending; i++) users[r->jobs->jobs[l->pending[i]].prompt]++;
    for (i = 0; i < l->n_pending; i++) {
        const struct job *j = &r->jobs->jobs[l->pending[i]];
        int64_t prompt = r->jobs->prompts[j->prompt].n_tokens, shared = family_watched(j) ? 0 : prompt / 64;
        int64_t pages = (prompt + r->spec->decode.max_tokens + 63) / 64 - shared + 1;
        pages += shared / users[j->prompt];
        if (pages > most) most = pages;
    }
    free(users);
    return most;
}

/* Rows whose private pages and activations fit the budget. A GPU has its own memory for pages, of which a third is for the
   batch and the rest for prompts and for what waits to be stored; it takes 64 rows at little more than the price of one. */
static int batch_rows(const struct loop *l)
{
    const struct run *r = l->r;
    const struct engine_info *i = engine_info(r->en);
    int64_t pages = most_pages(l) * 64 * i->kv_bytes_per_token, room = i->gpu_free ? i->gpu_free / 3 : budget,
            recorded = most_recorded(l);
    /* without decoding a pass is what feeds prompts */
    int rows = i->gpu_free || r->spec->decode.max_tokens == 1 ? 64 : 32, batches;
    if (r->o->batch) return r->o->batch;
    if (!i->gpu_free) pages += recorded; /* both are in the host's memory */
    if (pages > 0 && room / pages < rows) rows = (int)(room / pages);
    if (recorded > 0 && budget / recorded < rows) rows = (int)(budget / recorded);
    if (rows < 1) rows = 1;
    if (l->n_pending == 0) return rows;
    batches = (l->n_pending + rows - 1) / rows; /* even batches: the last one is not a small one */
    return (l->n_pending + batches - 1) / batches;
}

/* ---- one job ---- */

/* The new tokens as text. Special tokens are written out, since "<|im_end|>" is what the model said; only the stop token that
   ended the text is left out. */
static char *row_text(const struct run *r, const struct gen_row *row, size_t *len)
{
    struct buf b = {0};
    int i, n = row->stop == GEN_STOP_EOS ? row->n - 1 : row->n;
    for (i = 0; i < n; i++) {
        size_t bytes;
        const char *p = engine_token_bytes(r->en, row->picks[i].token, &bytes);
        if (p) buf_add(&b, p, bytes);
    }
    *len = b.n;
    return buf_take(&b);
}

/* What the logits behind the prompt say of the tokens that metrics ask for; the logits themselves are not kept. */
static void read_answers(const struct run *r, struct finished *f)
{
    const struct job_asked *asked = &r->jobs->asked[r->jobs->jobs[f->result.job].prompt];
    int V = engine_info(r->en)->n_vocab, i;
    double sum;
    if (!f->logits) return;
    sum = logits_sum(f->logits, V);
    f->answers = mem_array((size_t)asked->n, sizeof *f->answers);
    for (i = 0; i < asked->n; i++) f->answers[i] = logits_answer(f->logits, V, sum, asked->ids[i]);
    f->result.answers = f->answers;
    f->result.n_answers = asked->n;
    free(f->logits);
    f->logits = NULL;
}

static void job_finish(struct loop *l, struct finished *f, int64_t decode_us)
{
    const struct job *j = &l->r->jobs->jobs[f->result.job];
    struct result *res = &f->result;
    struct gen_row *row = &f->row;
    bool failed = row->stop == GEN_STOP_FAILED;
    f->text = row_text(l->r, row, &res->text_len);
    res->text = f->text;
    res->picks = row->picks;
    res->n = row->n;
    res->stop = row->stop;
    res->decode_us = decode_us;
    if (!failed) read_answers(l->r, f);
    if (failed) {
        f->error = row->error;
        res->failed = &f->error;
        progress_say(&l->progress, "error  %s: %s", j->label, f->error.msg);
        l->n_failed++;
    } else if (j->moments & MOMENT_END) {
        cache *end = cache_fork(row->cache);
        f->caches[res->n_snapshots] = end;
        res->snapshots[res->n_snapshots++] = (struct snapshot){MOMENT_END, end, cache_len(end)};
    }
    cache_free(row->cache);
    row->cache = NULL;
    progress_jobs(&l->progress, 1, failed, j->label);
}

struct step_arg {
    struct loop *l;
    int rows, told; /* rows of the batch, tokens that the progress was told of */
};

static void on_step(void *arg, int step)
{
    struct step_arg *a = arg;
    (void)step;
    a->told += a->rows;
    progress_tokens(&a->l->progress, a->rows);
}

static void job_fail(struct loop *l, struct finished *f, const err *why)
{
    f->row.stop = GEN_STOP_FAILED;
    f->row.error = *why;
    if (why->code == ERR_MEMORY) f->row.error.code = ERR_FAIL;
    family_done(l->fam, f);
    job_finish(l, f, 0);
    writer_put(l->w, f);
}

/* ---- a batch ---- */

/* Jobs that are computed together. Those with an answer, or with a failure of their own, leave it. */
struct batch {
    int *jobs;           /* (n) indices of jobs */
    struct finished **f; /* (n) and their caches; NULL: not made yet */
    int n;
};

/* One that will be computed again, or never. */
static void drop(struct finished *f)
{
    if (f) family_forget(f);
    writer_drop(f);
}

/* The i-th job leaves the batch. */
static void leave(struct batch *b, int i)
{
    memmove(b->jobs + i, b->jobs + i + 1, (size_t)(b->n - i - 1) * sizeof *b->jobs);
    memmove(b->f + i, b->f + i + 1, (size_t)(b->n - i - 1) * sizeof(struct finished *));
    b->n--;
}

/* Makes the caches. A job whose cache cannot be made leaves; want of memory and a lost device stop it here. */
static int prepare(struct loop *l, struct batch *b, err *e)
{
    int i;
    for (i = 0; i < b->n; i++) b->f[i] = mem_alloc(sizeof *b->f[i]);
    family_fork_all(l->fam, b->jobs, b->n, b->f);
    for (i = 0; i < b->n; i++)
        if (b->f[i]->error.code == ERR_MEMORY || b->f[i]->error.code == ERR_ENV) return *e = b->f[i]->error, -1;
    for (i = 0; i < b->n;) {
        if (!b->f[i]->error.code) {
            i++;
            continue;
        }
        job_fail(l, b->f[i], &b->f[i]->error);
        leave(b, i);
    }
    return 0;
}

/* Decodes what was prepared. Jobs that are done leave; one that found no memory stays, and e says so. */
static int decode(struct loop *l, struct batch *b, err *e)
{
    struct run *r = l->r;
    struct step_arg arg = {l, b->n, 0};
    struct gen_opts go = {.max_tokens = r->spec->decode.max_tokens, .on_step = on_step, .arg = &arg, .cancel = signals_flag()};
    struct gen_row *rows = mem_array((size_t)b->n, sizeof *rows);
    int64_t before = progress_now_ms();
    int i, n = b->n, kept = 0, made = 0, rc;
    if (r->spec->decode.stop_eos) {
        go.stop = engine_info(r->en)->stop;
        go.n_stop = engine_info(r->en)->n_stop;
    }
    for (i = 0; i < n; i++) rows[i] = b->f[i]->row;
    rc = generate(r->en, rows, n, &go, e);
    for (i = 0; i < n; i++) {
        b->f[i]->row = rows[i];
        made += rows[i].n;
    }
    progress_tokens(&l->progress, made - arg.told); /* rows ended early, and the first token may come without a step */
    free(rows);
    for (i = 0; !rc && i < n; i++) {
        struct finished *f = b->f[kept];
        if (f->row.stop == GEN_STOP_FAILED && f->row.error.code == ERR_MEMORY) {
            *e = f->row.error;
            kept++;
            continue;
        }
        job_finish(l, f, (progress_now_ms() - before) * 1000 / n);
        family_done(l->fam, f);
        writer_put(l->w, f);
        leave(b, kept);
    }
    return rc || e->code ? -1 : 0;
}

/* The device is gone: nothing of the batch has an answer, and nothing else will. What is stored stays. */
static int batch_lost(struct loop *l, struct batch *b, err *e)
{
    const char *label = b->n ? l->r->jobs->jobs[b->jobs[0]].label : "";
    int i;
    for (i = 0; i < b->n; i++) {
        struct finished *f = b->f[i] ? b->f[i] : mem_alloc(sizeof *f);
        f->result.job = b->jobs[i];
        job_fail(l, f, e);
    }
    return b->n > 1 ? err_in(e, "job '%s' and %d computed with it", label, b->n - 1) : err_in(e, "job '%s'", label);
}

static int run_list(struct loop *l, const int *list, int n, err *e);

/* Memory ran out: the same jobs again, half as many at once, when the writer has given back what it holds. */
static int batch_halved(struct loop *l, struct batch *b, const err *why, err *e)
{
    int i, half = (b->n + 1) / 2;
    if (b->n == 1) l->tried = 1 + b->jobs[0];
    if (l->rows > half) l->rows = half;
    progress_say(&l->progress, "note   %d jobs at once: %s; trying %d", b->n, why->msg, half);
    for (i = 0; i < b->n; i++) drop(b->f[i]);
    writer_wait(l->w);
    return run_list(l, b->jobs, b->n, e);
}

/* One batch: forks and edits, decoding, hand-over to the writer. */
static int run_batch(struct loop *l, const int *list, int n, err *e)
{
    struct batch b = {mem_array((size_t)n, sizeof *b.jobs), mem_array((size_t)n, sizeof(struct finished *)), n};
    err why = {0};
    int i, rc = 0;
    memcpy(b.jobs, list, (size_t)n * sizeof *b.jobs);
    if (prepare(l, &b, &why) == 0 && b.n > 0) decode(l, &b, &why);
    if (why.code == ERR_ENV) {
        *e = why;
        rc = batch_lost(l, &b, e);
    } else if (why.code == ERR_MEMORY && (b.n > 1 || l->tried != 1 + b.jobs[0])) {
        rc = batch_halved(l, &b, &why, e);
    } else if (why.code == ERR_MEMORY) {
        job_fail(l, b.f[0], &why);
    } else if (why.code) {
        *e = why;
        rc = -1;
        for (i = 0; i < b.n; i++) drop(b.f[i]);
    }
    free(b.jobs);
    free(b.f);
    return rc;
}

static int run_list(struct loop *l, const int *list, int n, err *e)
{
    int i, rows;
    for (i = 0; i < n; i += rows) {
        rows = n - i < l->rows ? n - i : l->rows;
        if (*signals_flag() || writer_failed(l->w)) return -1;
        if (run_batch(l, list + i, rows, e)) return -1;
    }
    return 0;
}

int batch_run(struct loop *l, err *e)
{
    l->rows = batch_rows(l);
    return run_list(l, l->pending, l->n_pending, e);
}
