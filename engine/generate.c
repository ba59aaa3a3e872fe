/* generate.c: greedy decoding of many caches together. One pass per step serves every row that still runs; a row that ends
 * leaves the batch, and nobody's bits change by that (the arithmetic contract).
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static bool is_stop(const struct gen_opts *o, int token)
{
    int i;
    for (i = 0; i < o->n_stop; i++)
        if (o->stop[i] == token) return true;
    return false;
}

static void row_fail(struct gen_row *r, const err *why)
{
    r->stop = GEN_STOP_FAILED;
    if (why) r->error = *why;
}

/* Adds a pick; true when the row goes on. */
static bool row_add(struct gen_row *r, const struct gen_opts *o, struct gen_pick p)
{
    if (p.token < 0) {
        err why = {0};
        err_set(&why, ERR_FAIL, "step %d: a logit is not a finite number", r->n);
        row_fail(r, &why);
        return false;
    }
    r->picks[r->n++] = p;
    if (is_stop(o, p.token)) {
        r->stop = GEN_STOP_EOS;
        return false;
    }
    r->stop = GEN_STOP_LENGTH;
    if (r->n >= o->max_tokens) return false;
    if (r->cache->n >= r->cache->en->model.n_ctx) {
        r->stop = GEN_STOP_CONTEXT;
        return false;
    }
    return true;
}

/* The rows that still run: their pass rows, and which row of the call each belongs to. */
struct batch {
    int n;
    struct pass_row pass[LOGIT_ROWS];
    int row[LOGIT_ROWS], want[LOGIT_ROWS];
};

static int check_start(const struct gen_row *r, err *e)
{
    const engine *en = r->cache->en;
    int last = r->n_feed > 0 ? r->feed[r->n_feed - 1] : 0;
    if (last < 0 || last >= en->model.V) return err_set(e, ERR_INPUT, "token id %d is outside 0..%d", last, en->model.V - 1);
    if (watch_check(en, r->watch, 0, r->cache->n, 1, e)) return -1;
    watch_begin(en, r->watch);
    return 0;
}

/* Makes room for what a row will feed, which in the end is all but its last token. */
static int reserve(struct gen_row *r, const struct gen_opts *o, err *e)
{
    int room = r->cache->en->model.n_ctx - r->cache->n, more = o->max_tokens - r->n;
    if (room < 1)
        return err_set(e, ERR_INPUT, "the prompt leaves no room in the model's context of %d", r->cache->en->model.n_ctx);
    return cache_reserve(r->cache, room < more ? room : more, e);
}

/* Feeds all rows but their last prompt token, all together, and lists those that run. */
static int batch_start(engine *en, struct gen_row *rows, int n_rows, const struct gen_opts *o, struct batch *b, err *e)
{
    struct feed *feeds = mem_array((size_t)n_rows, sizeof *feeds);
    int *fed = mem_array((size_t)n_rows, sizeof *fed), n = 0, i, rc;
    for (i = 0; i < n_rows; i++) {
        struct gen_row *r = &rows[i];
        err why = {0};
        if (r->stop == GEN_STOP_FAILED) continue;
        if (check_start(r, &why)) {
            row_fail(r, &why);
        } else if (r->n_feed > 1) {
            feeds[n] = (struct feed){
                .cache = r->cache, .tokens = r->feed, .n = r->n_feed - 1, .first = r->cache->n, .watch = r->watch};
            fed[n++] = i;
        }
    }
    rc = feed_all(en, feeds, n, true, e);
    for (i = 0; i < n; i++)
        if (feeds[i].error.code) row_fail(&rows[fed[i]], &feeds[i].error);
    for (i = 0; !rc && i < n_rows; i++) {
        struct gen_row *r = &rows[i];
        err why = {0};
        if (r->stop == GEN_STOP_FAILED || (r->n_feed == 0 && !row_add(r, o, r->first))) continue;
        if (reserve(r, o, &why)) {
            row_fail(r, &why);
            continue;
        }
        b->pass[b->n] = (struct pass_row){.cache = r->cache,
                                          .token = r->n_feed ? r->feed[r->n_feed - 1] : r->first.token,
                                          .pos = r->cache->n,
                                          .watch = r->watch};
        b->row[b->n++] = i;
    }
    free(feeds);
    free(fed);
    return rc;
}

/* Makes the changes due before the row's newest token is fed. */
static int row_edit(struct gen_row *r, const struct gen_opts *o, err *e)
{
    int i, step = r->n - 1;
    bool edited = false;
    for (i = 0; step >= 0 && i < r->n_steps; i++) {
        const struct step_edit *s = &r->steps[i];
        if (step < s->first || step > s->last) continue;
        if (s->edit.donor && s->edit.donor != r->cache && s->edit.donor->busy)
            return err_set(e, ERR_INPUT, "step %d: a donor is fed in the same call; transplant from a fork of it", step);
        if (cache_edit(r->cache, &s->edit, e)) return err_in(e, "step %d", step);
        edited = true;
    }
    return edited ? reserve(r, o, e) : 0; /* what was reserved may have gone with the tokens behind */
}

static void batch_edit(struct gen_row *rows, const struct gen_opts *o, struct batch *b)
{
    int i, kept = 0;
    for (i = 0; i < b->n; i++) {
        struct gen_row *r = &rows[b->row[i]];
        err why = {0};
        if (r->n_steps > 0 && row_edit(r, o, &why)) {
            row_fail(r, &why);
            continue;
        }
        b->pass[kept] = b->pass[i];
        b->pass[kept].pos = r->cache->n;
        b->row[kept++] = b->row[i];
    }
    b->n = kept;
}

static int batch_step(engine *en, struct gen_row *rows, const struct gen_opts *o, struct batch *b, err *e)
{
    int i, kept = 0;
    batch_edit(rows, o, b);
    if (b->n == 0) return 0;
    for (i = 0; i < b->n; i++) b->want[i] = i;
    if (watch_pass(en, b->pass, b->n, b->want, b->n, e)) return -1;
    for (i = 0; i < b->n; i++) {
        struct gen_row *r = &rows[b->row[i]];
        const struct pick *p = &en->s.host_picks[i];
        r->cache->n++;
        if (!row_add(r, o, (struct gen_pick){p->token, p->logprob, p->margin})) continue;
        b->pass[kept] = b->pass[i];
        b->pass[kept].token = p->token;
        b->row[kept++] = b->row[i];
    }
    b->n = kept;
    return 0;
}

static int batch_run(engine *en, struct gen_row *rows, int n_rows, const struct gen_opts *o, err *e)
{
    struct batch b = {0};
    int step;
    if (batch_start(en, rows, n_rows, o, &b, e)) return -1;
    for (step = 0; b.n > 0; step++) {
        if (o->cancel && *o->cancel) return err_set(e, ERR_INTERNAL, "cancelled");
        if (batch_step(en, rows, o, &b, e)) return -1;
        if (o->on_step) o->on_step(o->arg, step);
    }
    return 0;
}

int generate(engine *en, struct gen_row *rows, int n_rows, const struct gen_opts *o, err *e)
{
    int i, rc = 0, width = en->s.rows < LOGIT_ROWS ? en->s.rows : LOGIT_ROWS;
    if (o->max_tokens < 1) return err_set(e, ERR_INPUT, "max_tokens must be at least 1");
    for (i = 0; i < n_rows; i++) {
        struct gen_row *r = &rows[i];
        r->picks = mem_array((size_t)o->max_tokens, sizeof *r->picks);
        r->n = 0;
        r->stop = GEN_STOP_LENGTH;
        r->error = (err){0};
        if (r->cache->busy) {
            err why = {0};
            err_set(&why, ERR_INTERNAL, "a cache is in two rows");
            row_fail(r, &why);
        }
        r->cache->busy = true;
    }
    for (i = 0; !rc && i < n_rows; i += width) rc = batch_run(en, rows + i, n_rows - i < width ? n_rows - i : width, o, e);
    for (i = 0; i < n_rows; i++) rows[i].cache->busy = false;
    return rc;
}

void gen_row_clear(struct gen_row *r)
{
    free(r->picks);
    r->picks = NULL;
    r->n = 0;
}
