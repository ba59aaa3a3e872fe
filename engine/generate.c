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

/* Feeds all but the last prompt token and makes room for the rest; true when the row runs. *next: the token to feed. */
static bool row_start(struct gen_row *r, const struct gen_opts *o, int *next)
{
    err why = {0};
    int room;
    r->picks = mem_array((size_t)o->max_tokens, sizeof *r->picks);
    r->n = 0;
    if (r->n_feed == 0) {
        *next = r->first.token;
        if (!row_add(r, o, r->first)) return false;
    } else {
        *next = r->feed[r->n_feed - 1];
        if (*next < 0 || *next >= r->cache->en->model.V) {
            err_set(&why, ERR_INPUT, "token id %d is outside 0..%d", *next, r->cache->en->model.V - 1);
            row_fail(r, &why);
            return false;
        }
        if (cache_feed(r->cache, r->feed, r->n_feed - 1, NULL, &why)) {
            row_fail(r, &why);
            return false;
        }
    }
    room = r->cache->en->model.n_ctx - r->cache->n;
    if (room < 1) err_set(&why, ERR_INPUT, "the prompt leaves no room in the model's context of %d", r->cache->en->model.n_ctx);
    if (room < 1 || cache_reserve(r->cache, room < o->max_tokens ? room : o->max_tokens, &why)) {
        row_fail(r, &why);
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

static int batch_step(engine *en, struct gen_row *rows, const struct gen_opts *o, struct batch *b, err *e)
{
    int i, kept = 0;
    for (i = 0; i < b->n; i++) b->want[i] = i;
    if (forward(en, b->pass, b->n, b->want, b->n, e)) return -1;
    for (i = 0; i < b->n; i++) {
        struct gen_row *r = &rows[b->row[i]];
        const struct pick *p = &en->s.host_picks[i];
        r->cache->n++;
        if (!row_add(r, o, (struct gen_pick){p->token, p->logprob, p->margin})) continue;
        b->pass[kept] = (struct pass_row){r->cache, p->token, r->cache->n};
        b->row[kept++] = b->row[i];
    }
    b->n = kept;
    return 0;
}

static int batch_run(engine *en, struct gen_row *rows, int n_rows, const struct gen_opts *o, err *e)
{
    struct batch b = {0};
    int i, next, step;
    for (i = 0; i < n_rows; i++) {
        if (!row_start(&rows[i], o, &next)) {
            if (rows[i].stop == GEN_STOP_FAILED && rows[i].error.code == ERR_ENV) /* the device is lost for all of them */
                return err_set(e, ERR_ENV, "%s", rows[i].error.msg);
            continue;
        }
        b.pass[b.n] = (struct pass_row){rows[i].cache, next, rows[i].cache->n};
        b.row[b.n++] = i;
    }
    for (step = 0; b.n > 0; step++) {
        if (o->cancel && *o->cancel) return err_set(e, ERR_INTERNAL, "cancelled");
        if (batch_step(en, rows, o, &b, e)) return -1;
        if (o->on_step) o->on_step(o->arg, step);
    }
    return 0;
}

int generate(engine *en, struct gen_row *rows, int n_rows, const struct gen_opts *o, err *e)
{
    int i, width = en->s.rows < LOGIT_ROWS ? en->s.rows : LOGIT_ROWS;
    if (o->max_tokens < 1) return err_set(e, ERR_INPUT, "max_tokens must be at least 1");
    for (i = 0; i < n_rows; i += width)
        if (batch_run(en, rows + i, n_rows - i < width ? n_rows - i : width, o, e)) return -1;
    return 0;
}

void gen_row_clear(struct gen_row *r)
{
    free(r->picks);
    r->picks = NULL;
    r->n = 0;
}
