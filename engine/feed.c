/* feed.c: tokens into caches, of many caches together. The rows of all feeds stand behind each other, those with a lower first
 * layer in front, and are cut into passes wherever these are full: no row's bits depend on the cut.
 */
#include "internal.h"

#include <stdlib.h>

/* ---- checks ---- */

static int check_place(const struct feed *f, err *e)
{
    const struct model *m = &f->cache->en->model;
    int len = f->cache->n;
    if (f->n < 1) return err_set(e, ERR_INTERNAL, "a feed of %d tokens", f->n);
    if (f->first < 0 || f->first > len)
        return err_set(e, ERR_INTERNAL, "a feed at position %d of a cache of %d tokens", f->first, len);
    if (f->n > m->n_ctx - f->first)
        return err_set(e, ERR_INPUT, "%d tokens do not fit into the model's context of %d", f->first + f->n, m->n_ctx);
    if (f->first < len && f->first + f->n != len)
        return err_set(e, ERR_INTERNAL, "a feed computes positions %d..%d of a cache of %d tokens anew; it must go to its end",
                       f->first, f->first + f->n - 1, len);
    if (f->layer < 0 || f->layer >= m->n_layer)
        return err_set(e, ERR_INTERNAL, "a feed from layer %d of %d", f->layer, m->n_layer);
    if (f->layer > 0 && f->first == len)
        return err_set(e, ERR_INTERNAL, "new tokens are computed from layer 0 on, not %d", f->layer);
    if ((f->layer > 0) != (f->resid != NULL))
        return err_set(e, ERR_INTERNAL, "a feed needs what enters its first layer, unless that is layer 0");
    if (f->layer > 0 && f->cache->n_closed > 0 && f->cache->closed[f->cache->n_closed - 1] >= f->first)
        return err_set(e, ERR_INPUT, "position %d was evicted in all layers; compute anew from layer 0",
                       f->cache->closed[f->cache->n_closed - 1]);
    return 0;
}

/* Checks a feed and makes its pages ready. */
static int feed_start(const engine *en, const struct feed *f, err *e)
{
    cache *c = f->cache;
    int i;
    if (c->en != en) return err_set(e, ERR_INTERNAL, "a cache of another engine");
    if (check_place(f, e)) return -1;
    for (i = 0; i < f->n; i++)
        if (f->tokens[i] < 0 || f->tokens[i] >= en->model.V)
            return err_set(e, ERR_INPUT, "token id %d is outside 0..%d", f->tokens[i], en->model.V - 1);
    if (watch_check(en, f->watch, f->layer, f->first, f->n, e)) return -1;
    if (f->first == c->n) return cache_reserve(c, f->n, e);
    while (c->n_closed > 0 && c->closed[c->n_closed - 1] >= f->first) c->n_closed--;
    return cache_renew(c, f->layer, f->first, e);
}

/* ---- passes ---- */

/* The feeds of a call, those with a lower first layer in front. */
struct queue {
    engine *en;
    struct feed *f;
    int *order; /* (n) of the good ones */
    int n;
    int at, done; /* the feed that is next, and how many of its tokens were fed */
};

static void finish_row(struct feed *f, const struct pass_row *row, const struct pick *p)
{
    if (row->pos >= f->cache->n) f->cache->n = row->pos + 1;
    if (!p || !f->want_last || row->pos != f->first + f->n - 1) return;
    f->last = (struct gen_pick){p->token, p->logprob, p->margin};
    if (p->token < 0) err_set(&f->error, ERR_FAIL, "a logit behind the prompt is not a finite number");
}

/* One pass, as full as it can be. */
static int queue_pass(struct queue *q, err *e)
{
    const struct scratch *s = &q->en->s;
    struct pass_row *rows = s->feed_rows;
    const struct queue from = *q;
    int want[LOGIT_ROWS], n = 0, n_want = 0, i, k, w;
    while (q->at < q->n && n < s->rows && n_want < LOGIT_ROWS) {
        const struct feed *f = &q->f[q->order[q->at]];
        int pos = f->first + q->done;
        rows[n] = (struct pass_row){f->cache, f->tokens[q->done], pos, f->layer, NULL, f->watch};
        if (f->resid) rows[n].resid = f->resid + (size_t)q->done * (size_t)q->en->model.D;
        if ((f->want_last && q->done == f->n - 1) || watch_wants_logits(f->watch, pos)) want[n_want++] = n;
        n++;
        if (++q->done < f->n) continue;
        q->at++;
        q->done = 0;
    }
    if (watch_pass(q->en, rows, n, want, n_want, e)) return -1;
    for (i = w = 0, k = from.at; i < n; i++) {
        while (rows[i].cache != q->f[q->order[k]].cache) k++;
        finish_row(&q->f[q->order[k]], &rows[i], w < n_want && want[w] == i ? &s->host_picks[w] : NULL);
        w += w < n_want && want[w] == i;
    }
    return 0;
}

/* Stable: feeds of one first layer stay in the caller's order, where siblings stand together. */
static void sort_by_layer(struct queue *q, int n_layer)
{
    int *count = mem_array((size_t)n_layer + 1, sizeof *count), *sorted = mem_array((size_t)q->n, sizeof *sorted), i;
    for (i = 0; i < q->n; i++) count[q->f[q->order[i]].layer + 1]++;
    for (i = 0; i < n_layer; i++) count[i + 1] += count[i];
    for (i = 0; i < q->n; i++) sorted[count[q->f[q->order[i]].layer]++] = q->order[i];
    free(q->order);
    q->order = sorted;
    free(count);
}

int feed_all(engine *en, struct feed *f, int n, bool inside, err *e)
{
    struct queue q = {.en = en, .f = f, .order = mem_array((size_t)n, sizeof *q.order)};
    int i, rc = 0;
    for (i = 0; i < n; i++) {
        f[i].error = (err){0};
        if (!inside && f[i].cache->busy) err_set(&f[i].error, ERR_INTERNAL, "a cache is fed twice in one call");
        if (!f[i].error.code) f[i].cache->busy = true;
    }
    for (i = 0; i < n; i++) {
        if (f[i].error.code || feed_start(en, &f[i], &f[i].error)) continue;
        if (!inside) watch_begin(en, f[i].watch);
        q.order[q.n++] = i;
    }
    sort_by_layer(&q, en->model.n_layer);
    while (!rc && q.at < q.n) rc = queue_pass(&q, e);
    for (i = 0; !inside && i < n; i++) f[i].cache->busy = false;
    free(q.order);
    return rc;
}

int cache_feed_all(engine *en, struct feed *f, int n, err *e)
{
    return feed_all(en, f, n, false, e);
}

/* ---- one cache ---- */

int cache_feed_watched(cache *c, const int *tokens, int n, const struct watch *w, struct gen_pick *last, err *e)
{
    struct feed f = {.cache = c, .tokens = tokens, .n = n, .first = c->n, .watch = w, .want_last = last != NULL};
    if (n == 0 && !last) return watch_check(c->en, w, 0, c->n, 0, e);
    if (feed_all(c->en, &f, 1, false, e)) return -1;
    if (f.error.code) return err_set(e, f.error.code, "%s", f.error.msg);
    if (last) *last = f.last;
    return 0;
}

int cache_feed(cache *c, const int *tokens, int n, struct gen_pick *last, err *e)
{
    return cache_feed_watched(c, tokens, n, NULL, last, e);
}
