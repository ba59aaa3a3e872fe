/* metric_pass.c: see metric_pass.h. */
#include "metric_pass.h"

#include "signals.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 32,             /* tokens of one pass */
    LOGITS_MAX = 128 << 20, /* bytes of logits held at once */
    QUIET_MS = 2000,        /* passes that take less are not worth a line */
};

/* One job that is fed. */
struct fed {
    struct finished *f;
    int next; /* step whose logits come next */
};

/* ---- feeding ---- */

/* Whether the job changes its cache right before new token `number` is fed. */
static bool changes(const struct gen_row *row, int number)
{
    int i;
    for (i = 0; i < row->n_steps; i++)
        if (row->steps[i].first <= number && number <= row->steps[i].last) return true;
    return false;
}

/* n tokens, of which those from `behind` on are to tell their logits, to out (n - behind, V). */
static int feed(struct gen_row *row, const int *tokens, int n, int behind, float *out, err *e)
{
    const int layer = 0;
    int first = cache_len(row->cache), *at = mem_array((size_t)n, sizeof *at), i, rc;
    struct record record = {SITE_LOGITS, &layer, at, 1, 0, 0, out};
    struct watch w = {.edits = row->watch ? row->watch->edits : NULL,
                      .records = &record,
                      .n_edits = row->watch ? row->watch->n_edits : 0,
                      .n_records = 1};
    for (i = behind; i < n; i++) at[record.n_at++] = first + i;
    rc = cache_feed_watched(row->cache, tokens, n, &w, NULL, e);
    free(at);
    return rc;
}

/* New tokens number..number+n-1, in blocks. out: (n, V) */
static int feed_new(struct gen_row *row, const int *tokens, int number, int n, int V, float *out, err *e)
{
    int i, k, len;
    for (i = 0; i < n; i += len) {
        for (k = 0; k < row->n_steps; k++)
            if (row->steps[k].first <= number + i && number + i <= row->steps[k].last &&
                cache_edit(row->cache, &row->steps[k].edit, e))
                return -1;
        for (len = 1; i + len < n && !changes(row, number + i + len);) len++;
        if (feed(row, tokens + i, len, 0, out + (size_t)i * (size_t)V, e)) return -1;
    }
    return 0;
}

/* Logits of the job's next n steps to out (n, V); tokens: of all steps. */
static int next_steps(struct fed *x, const int *tokens, int n, int V, float *out, err *e)
{
    struct gen_row *row = &x->f->row;
    int step = x->next;
    x->next += n;
    if (step == 0) {
        if (row->n_feed == 0)
            memcpy(out, x->f->logits, (size_t)V * sizeof *out);
        else if (feed(row, row->feed, row->n_feed, row->n_feed - 1, out, e))
            return -1;
        step++, n--, out += V;
    }
    return n ? feed_new(row, tokens + step - 1, step - 1, n, V, out, e) : 0;
}

/* ---- a feed ---- */

static int fork_job(struct pass_feeder *p, int job, struct fed *out, err *e)
{
    out->f = mem_alloc(sizeof *out->f);
    if (family_fork(p->families, job, out->f, e)) return err_in(e, "'%s', made again", p->jobs->jobs[job].label);
    return 0;
}

/* Logits of the reference for a block of steps, then those of each job, which are told at once. */
static int feed_block(struct pass_feeder *p, const struct forced *f, struct fed *fed, int n, float *ref, float *rows, err *e)
{
    size_t V = (size_t)engine_info(p->en)->n_vocab;
    int step = f->reference >= 0 ? fed[f->n].next : fed[0].next, k, i;
    if (f->reference >= 0 && next_steps(&fed[f->n], f->tokens, n, (int)V, ref, e)) return -1;
    for (k = 0; k < f->n; k++) {
        if (next_steps(&fed[k], f->tokens, n, (int)V, rows, e)) return -1;
        for (i = 0; i < n; i++)
            if (f->visit(f->arg, k, step + i, f->reference >= 0 ? ref + (size_t)i * V : NULL, rows + (size_t)i * V, e))
                return -1;
    }
    return 0;
}

static int feed_forced(void *arg, const struct forced *f, err *e)
{
    struct pass_feeder *p = arg;
    size_t V = (size_t)engine_info(p->en)->n_vocab, most = LOGITS_MAX / (2 * V * sizeof(float));
    int block = most > BLOCK ? BLOCK : most > 1 ? (int)most : 1, all = f->n + (f->reference >= 0), i, n, rc = 0;
    struct fed *fed = mem_array((size_t)all, sizeof *fed);
    float *ref = f->reference >= 0 ? mem_array((size_t)block * V, sizeof *ref) : NULL;
    float *rows = mem_array((size_t)block * V, sizeof *rows);
    for (i = 0; i < all && !rc; i++) rc = fork_job(p, i < f->n ? f->jobs[i] : f->reference, &fed[i], e);
    for (i = 0; i < f->n_steps && !rc; i += n) {
        n = f->n_steps - i < block ? f->n_steps - i : block;
        rc = *signals_flag() ? 1 : feed_block(p, f, fed, n, ref, rows, e);
    }
    for (i = 0; i < all; i++) {
        if (fed[i].f) family_done(p->families, fed[i].f);
        writer_drop(fed[i].f);
    }
    free(fed);
    free(ref);
    free(rows);
    return rc;
}

static int open_families(void *arg, const int *jobs, int n, err *e)
{
    struct pass_feeder *p = arg;
    (void)e;
    p->families = family_open(p->spec, p->en, p->jobs, jobs, n);
    family_keep_logits(p->families);
    return 0;
}

static void close_families(void *arg)
{
    struct pass_feeder *p = arg;
    family_close(p->families);
    p->families = NULL;
}

/* ---- telling ---- */

static void tell(void *arg, const char *what, int done, int all)
{
    struct pass_feeder *p = arg;
    if (p->how == PROGRESS_NONE) return;
    if (!what) {
        if (p->telling) progress_end(&p->progress);
        p->telling = false;
        p->since_ms = 0;
        return;
    }
    if (!p->since_ms) p->since_ms = progress_now_ms();
    if (!p->telling && progress_now_ms() - p->since_ms > QUIET_MS) {
        progress_start(&p->progress, "metrics", all, 1, p->how);
        p->progress.started_ms = p->since_ms;
        p->telling = true;
    }
    if (p->telling && done > p->progress.done) progress_jobs(&p->progress, done - p->progress.done, 0, what);
}

struct metric_passes metric_pass_with(struct pass_feeder *f)
{
    return (struct metric_passes){f, open_families, feed_forced, close_families, tell};
}
