/* family_pass.c: passes over prompts that are edited or recorded while they run, many together. A job starts from a base: its
 * prompt as it is, or with the edits that it shares with other jobs. It shares with it what lies before the first position and
 * below the first layer that it changes, bit for bit, and computes the rest. */
#include "family_in.h"

#include "progress.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT = CACHE_K | CACHE_V };

bool family_watched(const struct job *j)
{
    int i;
    for (i = 0; i < j->n_ops; i++)
        if (j->ops[i].when == WHEN_PREFILL) return true;
    return j->n_records > 0;
}

bool family_wants_logits(const struct families *f, const struct job *j)
{
    return f->logits || (f->jobs->asked && f->jobs->asked[j->prompt].n > 0);
}

/* ---- what is computed ---- */

void family_reach(const struct families *f, const struct job_op *op, int *first, int *layer)
{
    int from = op->at[0], lowest = op->layers[0];
    if (op->queries && op->queries[0] > from) from = op->queries[0];
    /* the output of a block is what enters the next one, where the edit can be made as well */
    if (op->tensors == SITE_RESID && op->op != EDIT_KNOCKOUT) lowest = lowest + 1 < f->n_layer ? lowest + 1 : lowest;
    if (op->op == EDIT_EVICT && op->compact) lowest = 0;
    if (from < *first) *first = from;
    if (lowest < *layer) *layer = lowest;
}

static bool has_finished(const struct flight *fl)
{
    int i;
    for (i = 0; fl->finish && i < fl->n_ops; i++)
        if (fl->j->ops[i].when == WHEN_FINISHED_CACHE) return true;
    return false;
}

/* Operations in flight that the base has not made, and records, say what must be computed. */
static void plan_reach(const struct families *f, struct flight *fl)
{
    int n = f->jobs->prompts[fl->prompt].n_tokens, i, l;
    bool closes = false;
    fl->first = n - 1;
    fl->layer = f->n_layer - 1;
    fl->before = has_finished(fl) ? family_held(f, fl->prompt) : n;
    for (i = 0; i < fl->n_ops; i++) {
        const struct job_op *op = &fl->j->ops[i];
        if (op->when != WHEN_PREFILL) continue;
        closes = closes || (op->op == EDIT_EVICT && op->compact);
        if (i >= fl->made) family_reach(f, op, &fl->first, &fl->layer);
    }
    for (i = 0; i < fl->n_records; i++) {
        const struct record *r = &fl->records[i];
        if (r->at[0] < fl->first) fl->first = r->at[0];
        for (l = 0; l < r->n_layers && r->site != SITE_LOGITS; l++)
            if (r->layers[l] < fl->layer) fl->layer = r->layers[l] < 0 ? 0 : r->layers[l];
    }
    if (closes || fl->layer < 0 || fl->before < n) fl->layer = 0; /* behind an edit of the finished cache all layers differ */
    if (fl->alone) fl->layer = 0;
    while (fl->layer > 0 && !family_holds(f, fl->base, SITE_RESID, true, fl->layer - 1, fl->first)) fl->layer--;
}

/* ---- the edits ---- */

/* Takes layers below the one where a flight begins out of an edit: what it made of them is there. An edit of a residual stream
   that the flight makes first can still be made to what enters that layer. */
static void cut_layers(const struct families *f, const struct flight *fl, bool own, struct edit *ed)
{
    bool input = own && ed->tensors == SITE_RESID && ed->op != EDIT_KNOCKOUT;
    size_t width = (size_t)engine_site_width(f->en, ed->tensors & -ed->tensors, 0);
    int l = 0;
    while (l < ed->n_layers && ed->layers[l] < (input ? fl->layer - 1 : fl->layer)) l++;
    ed->layers += l;
    ed->n_layers -= l;
    if (ed->vector) ed->vector += (size_t)l * width * (size_t)(ed->op == EDIT_TRANSPLANT ? ed->n_at : 1);
}

static int make_edits(struct families *f, struct flight *fl, err *e)
{
    int i, k, n;
    const int *at;
    for (i = 0; i < fl->n_ops; i++) {
        const struct job_op *op = &fl->j->ops[i];
        int from = fl->flying.n;
        if (op->when != WHEN_PREFILL) continue;
        if (family_places(f, fl->j, op, &fl->flying, &at, &n, e) || family_edit(f, fl->j, op, at, n, &fl->flying, e)) return -1;
        for (k = from; k < fl->flying.n && fl->layer > 0; k++) cut_layers(f, fl, i >= fl->made, &fl->flying.v[k]);
    }
    for (k = n = 0; k < fl->flying.n; k++)
        if (fl->flying.v[k].n_layers > 0) fl->flying.v[n++] = fl->flying.v[k];
    fl->flying.n = n;
    return 0;
}

/* Behind the last layer only the last position is read. */
static bool unread(const struct families *f, const struct flight *fl, const struct job_op *op)
{
    return op->when == WHEN_PREFILL && op->tensors & (SITE_RESID | SITE_ATTN_OUT | SITE_MLP_OUT | SITE_HEAD_OUT) &&
           op->op != EDIT_KNOCKOUT && op->layers[0] == f->n_layer - 1 &&
           op->at[op->n_at - 1] < f->jobs->prompts[fl->prompt].n_tokens - 1;
}

/* Whether the last operation puts in what the base has there already, bit for bit, or what nobody reads: then nothing is to be
   computed. Controls are made to show that computing changes nothing, so they compute. */
static bool changes_nothing(struct families *f, const struct flight *fl)
{
    const struct job_op *op = fl->n_ops ? &fl->j->ops[fl->n_ops - 1] : NULL;
    size_t width;
    int l, i;
    if (!fl->out || !fl->made || fl->made != fl->n_ops - 1 || fl->j->condition < 0 || fl->j->n_records) return false;
    if (unread(f, fl, op)) return true;
    if (op->op != EDIT_TRANSPLANT || op->when != WHEN_PREFILL || op->vector || !(op->tensors & ~KEPT) ||
        op->tensors == SITE_HEAD_OUT || op->tensors == SITE_K_PRE || fl->flying.n == 0)
        return false;
    width = (size_t)engine_site_width(f->en, op->tensors, 0);
    for (l = 0; l < op->n_layers; l++)
        for (i = 0; i < op->n_at; i++) {
            const float *is = family_recorded(f, fl->base, op->tensors, false, op->layers[l], op->at[i]);
            const float *put = family_recorded(f, family_donor(f, op->donor_prompt, op->donor_job), op->tensors, false,
                                               op->layers[l], op->donor_at[i]);
            if (!is || !put || memcmp(is, put, width * sizeof *is) != 0) return false;
        }
    return true;
}

/* ---- one flight ---- */

/* The cache that a flight starts from: with all tokens up to `before` when these are computed anew from a later layer on, else
   with those before `first`. */
static int start(struct families *f, struct flight *fl, err *e)
{
    struct base *b = &f->bases[fl->base];
    if (fl->alone && !b->cache) fl->first = 0;
    if (fl->first > fl->before) fl->first = fl->before;
    if (!b->of && fl->layer == 0 && fl->first == 0) return cache_new(&fl->cache, f->en, e);
    if (fl->alone) {
        if (fl->first > cache_len(b->cache)) fl->first = cache_len(b->cache);
        return cache_fork_at(&fl->cache, b->cache, fl->first, e);
    }
    if (b->of || fl->layer > 0 || fl->first > family_held(f, fl->prompt)) {
        if (family_whole(f, fl->base, &b, e)) return -1;
        fl->us = family_us(b);
        return cache_fork_at(&fl->cache, b->whole, fl->layer > 0 ? fl->before : fl->first, e);
    }
    if (family_cache(f, fl->base, &b, e)) return -1;
    fl->us = family_us(b);
    return cache_fork_at(&fl->cache, b->cache, fl->first, e);
}

/* Everything before the first feed. */
static int prepare(struct families *f, struct flight *fl, err *e)
{
    struct base *b;
    plan_reach(f, fl);
    if ((fl->made || fl->layer > 0) && family_whole(f, fl->base, &b, e)) return -1;
    if (make_edits(f, fl, e)) return -1;
    b = &f->bases[fl->base];
    if (changes_nothing(f, fl) && (!fl->out->logits || b->logits)) {
        if (fl->out->logits) memcpy(fl->out->logits, b->logits, (size_t)engine_info(f->en)->n_vocab * sizeof *b->logits);
        fl->cache = cache_fork(b->whole);
        fl->pick = b->last;
        fl->us = family_us(b);
        fl->first = fl->before = f->jobs->prompts[fl->prompt].n_tokens;
        return 0;
    }
    fl->watch = (struct watch){fl->flying.v, fl->records, fl->flying.n, fl->n_records};
    return start(f, fl, e);
}

/* ---- what stands elsewhere than in the prompt ---- */

/* Tokens behind an evict that closed up, and a watch of the places where they stand now. */
struct moved {
    struct watch watch;
    struct edit *edits;
    struct record *records;
    int *lists;   /* of both */
    int *columns; /* (n_records) the first one of each record that is fed now */
    float *values;
};

static int tail_of(const int *at, int n, int first)
{
    int i = 0;
    while (i < n && at[i] < first) i++;
    return i;
}

/* Positions from `first` on, by `by`; those before are left out. */
static struct moved *moved_watch(const struct families *f, const struct flight *fl, int by)
{
    struct moved *m = mem_alloc(sizeof *m);
    size_t room = 1, numbers = 1;
    int i, k, *list, first = fl->before;
    for (i = 0; i < fl->flying.n; i++) room += (size_t)fl->flying.v[i].n_at;
    for (i = 0; i < fl->n_records; i++) {
        const struct record *r = &fl->records[i];
        room += (size_t)r->n_at;
        numbers += (size_t)r->n_layers * (size_t)r->n_at * (size_t)engine_site_width(f->en, r->site, r->n_tokens);
    }
    m->edits = mem_array((size_t)fl->flying.n + 1, sizeof *m->edits);
    m->records = mem_array((size_t)fl->n_records + 1, sizeof *m->records);
    m->columns = mem_array((size_t)fl->n_records + 1, sizeof *m->columns);
    list = m->lists = mem_array(room, sizeof *m->lists);
    m->values = mem_array(numbers, sizeof *m->values);
    numbers = 0;
    for (i = 0; i < fl->flying.n; i++) { /* those of cached tokens are made; a late one is of a token that is fed now */
        struct edit *ed = &m->edits[m->watch.n_edits];
        int tail = tail_of(fl->flying.v[i].at, fl->flying.v[i].n_at, first);
        *ed = fl->flying.v[i];
        ed->n_at -= tail;
        if (ed->n_at == 0) continue;
        if (ed->vector && ed->op == EDIT_TRANSPLANT && tail) continue; /* rows would not fit; no spec says so */
        for (k = 0; k < ed->n_at; k++) list[k] = ed->at[tail + k] + by;
        if (ed->donor_at) ed->donor_at += tail;
        ed->at = list;
        list += ed->n_at;
        m->watch.n_edits++;
    }
    for (i = 0; i < fl->n_records; i++) {
        struct record *r = &m->records[i];
        *r = fl->records[i];
        m->columns[i] = tail_of(r->at, r->n_at, first);
        r->n_at -= m->columns[i];
        for (k = 0; k < r->n_at; k++) list[k] = r->at[m->columns[i] + k] + by;
        r->at = list;
        list += r->n_at;
        r->out = m->values + numbers;
        numbers += (size_t)r->n_layers * (size_t)r->n_at * (size_t)engine_site_width(f->en, r->site, r->n_tokens);
    }
    m->watch.edits = m->edits;
    m->watch.records = m->records;
    m->watch.n_records = fl->n_records;
    return m;
}

static void moved_free(const struct families *f, const struct flight *fl, struct moved *m)
{
    int i, l;
    if (!m) return;
    for (i = 0; i < fl->n_records; i++) {
        const struct record *to = &fl->records[i], *from = &m->records[i];
        size_t width = (size_t)engine_site_width(f->en, to->site, to->n_tokens), n = (size_t)from->n_at * width;
        for (l = 0; l < to->n_layers && n; l++)
            memcpy(to->out + ((size_t)l * (size_t)to->n_at + (size_t)m->columns[i]) * width, from->out + (size_t)l * n,
                   n * sizeof *to->out);
    }
    free(m->edits);
    free(m->records);
    free(m->lists);
    free(m->columns);
    free(m->values);
    free(m);
}

/* ---- all together ---- */

/* One round of feeds: the prompt up to the edit of the finished cache, or the rest of it. */
static int feed_round(struct families *f, struct flight *fl, int n, bool rest, err *e)
{
    struct feed *feeds = mem_array((size_t)n, sizeof *feeds);
    struct moved **moved = mem_array((size_t)n, sizeof *moved);
    int *whose = mem_array((size_t)n, sizeof *whose), k = 0, i, rc;
    int64_t since = progress_now_ms();
    for (i = 0; i < n; i++) {
        const struct bound_prompt *p = &f->jobs->prompts[fl[i].prompt];
        int first = rest ? fl[i].before : fl[i].first, end = rest ? p->n_tokens : fl[i].before;
        struct feed *x = &feeds[k];
        if (fl[i].error.code || first >= end) continue;
        *x = (struct feed){.cache = fl[i].cache,
                           .tokens = p->ids + first,
                           .n = end - first,
                           .first = first,
                           .watch = &fl[i].watch,
                           .want_last = end == p->n_tokens};
        if (!rest && fl[i].layer > 0) {
            x->layer = fl[i].layer;
            x->resid = family_recorded(f, fl[i].base, SITE_RESID, true, fl[i].layer - 1, first);
        }
        if (rest && cache_len(fl[i].cache) != first) {
            x->first = cache_len(fl[i].cache);
            moved[k] = moved_watch(f, &fl[i], x->first - first);
            x->watch = &moved[k]->watch;
        }
        whose[k++] = i;
    }
    rc = k ? cache_feed_all(f->en, feeds, k, e) : 0;
    for (i = 0; i < k; i++) {
        struct flight *w = &fl[whose[i]];
        moved_free(f, w, moved[i]);
        if (feeds[i].error.code) w->error = feeds[i].error;
        if (feeds[i].want_last) w->pick = feeds[i].last;
        w->us += (progress_now_ms() - since) * 1000 / k;
    }
    free(feeds);
    free(moved);
    free(whose);
    return rc;
}

int family_fly(struct families *f, struct flight *fl, int n, err *e)
{
    int i;
    for (i = 0; i < n; i++) prepare(f, &fl[i], &fl[i].error);
    if (feed_round(f, fl, n, false, e)) return -1;
    for (i = 0; i < n; i++)
        if (!fl[i].error.code && fl[i].finish) family_finish(f, fl[i].j, &fl[i].done, fl[i].cache, fl[i].out, &fl[i].error);
    return feed_round(f, fl, n, true, e);
}

void family_flight_clear(struct flight *fl)
{
    family_edits_free(&fl->flying);
    family_edits_free(&fl->done);
    family_edits_free(&fl->decode);
    cache_free(fl->cache);
    free(fl->records);
    free(fl->steps);
    *fl = (struct flight){0};
}

/* ---- the finished cache ---- */

void family_snapshot(struct finished *out, int moment, cache *c, int n_tok)
{
    struct result *r = &out->result;
    cache *copy = cache_fork(c);
    if (n_tok > cache_len(c)) n_tok = cache_len(c); /* an evict closed up */
    out->caches[r->n_snapshots] = copy;
    r->snapshots[r->n_snapshots++] = (struct snapshot){moment, copy, n_tok};
}

int family_finish(struct families *f, const struct job *j, struct edits *room, cache *c, struct finished *out, err *e)
{
    int i, k, n, feed = f->jobs->feed[j->prompt], n_tok = f->jobs->prompts[j->prompt].n_tokens - (feed ? feed : 1);
    const int *at;
    if (out && j->moments & MOMENT_PREFILL) family_snapshot(out, MOMENT_PREFILL, c, n_tok);
    for (i = 0; i < j->n_ops; i++) {
        if (j->ops[i].when != WHEN_FINISHED_CACHE) continue;
        k = room->n;
        if (family_places(f, j, &j->ops[i], room, &at, &n, e) || family_edit(f, j, &j->ops[i], at, n, room, e)) return -1;
        for (; k < room->n; k++)
            if (cache_edit(c, &room->v[k], e)) return -1;
    }
    if (out && j->moments & MOMENT_EDITED) family_snapshot(out, MOMENT_EDITED, c, n_tok);
    return 0;
}
