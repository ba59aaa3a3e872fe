/* watch.c: passes that are edited and recorded while they run, through the taps of forward.c.
 *
 * At each site the edits come first, in their order, then the records: a record tells what the rest of the pass was given.
 * Keys and values are edited before any row attends, so the query at the edited position sees them, too.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

int engine_site_width(const engine *en, int site, int n_tokens)
{
    const struct model *m = &en->model;
    switch (site) {
    case CACHE_K:
    case CACHE_V:
    case SITE_K_PRE: return m->G * m->E;
    case SITE_RESID:
    case SITE_ATTN_OUT:
    case SITE_MLP_OUT: return m->D;
    case SITE_HEAD_OUT: return m->H * m->E;
    case SITE_ATTN: return m->H * n_tokens;
    case SITE_LOGITS: return m->V;
    default: return 0;
    }
}

/* The sites as the taps call them. TAP_Q is where attention weights are known: the keys are in the cache by then. */
static const struct {
    int site;
    enum tap_site tap;
} sites[] = {{CACHE_K, TAP_K},
             {CACHE_V, TAP_V},
             {SITE_K_PRE, TAP_K_PRE},
             {SITE_RESID, TAP_RESID},
             {SITE_RESID, TAP_EMBED},
             {SITE_ATTN_OUT, TAP_ATTN_OUT},
             {SITE_MLP_OUT, TAP_MLP_OUT},
             {SITE_HEAD_OUT, TAP_HEAD_OUT},
             {SITE_ATTN, TAP_Q},
             {SITE_LOGITS, TAP_LOGITS}};
enum {
    N_SITES = sizeof sites / sizeof *sites,
    EDITABLE = SITE_K_PRE | CACHE_K | CACHE_V | SITE_RESID | SITE_ATTN_OUT | SITE_MLP_OUT | SITE_HEAD_OUT
};

/* ---- checks ---- */

/* How many heads a site's vector has; 1: it is not cut into heads. */
static int site_heads(const struct model *m, int site)
{
    return site & (CACHE_K | CACHE_V | SITE_K_PRE) ? m->G : site == SITE_HEAD_OUT ? m->H : 1;
}

static int check_edit(const engine *en, const struct edit *ed, err *e)
{
    const struct model *m = &en->model;
    int least = ed->tensors == SITE_RESID ? -1 : 0, one = ed->tensors & -ed->tensors;
    if (ed->op > EDIT_ADD) return err_set(e, ERR_INPUT, "this edit is not supported yet");
    if (!ed->tensors || ed->tensors & ~EDITABLE)
        return err_set(e, ERR_INPUT, "an edit of a pass names a site that cannot be edited");
    if (ed->tensors != one && ed->tensors & ~(CACHE_K | CACHE_V | SITE_K_PRE))
        return err_set(e, ERR_INPUT, "an edit of a pass names several sites of different width");
    if (ed->op == EDIT_MASK) return err_set(e, ERR_INPUT, "a pass cannot be masked; a finished cache can");
    if (edit_check_list(ed->layers, ed->n_layers, least, m->n_layer, "layer", e)) return -1;
    if (edit_check_list(ed->at, ed->n_at, 0, m->n_ctx, "position", e)) return -1;
    if (site_heads(m, one) > 1 && edit_check_list(ed->heads, ed->n_heads, 0, site_heads(m, one), "head", e)) return -1;
    if (ed->op == EDIT_ADD && !ed->vector) return err_set(e, ERR_INPUT, "an edit that adds needs a vector");
    if (ed->op != EDIT_TRANSPLANT) return 0;
    if (ed->tensors & ~(CACHE_K | CACHE_V))
        return ed->vector ? 0 : err_set(e, ERR_INPUT, "a transplant at this site needs the donor's recorded vectors");
    return edit_check_donor(en, ed, e);
}

static int check_record(const engine *en, const struct record *r, err *e)
{
    const struct model *m = &en->model;
    if (engine_site_width(en, r->site, 1) == 0) return err_set(e, ERR_INPUT, "a record names no site, or several");
    if (edit_check_list(r->layers, r->n_layers, r->site == SITE_RESID ? -1 : 0, m->n_layer, "layer", e)) return -1;
    return edit_check_list(r->at, r->n_at, 0, r->site == SITE_ATTN ? r->n_tokens : m->n_ctx, "position", e);
}

static int check(const engine *en, const struct watch *w, err *e)
{
    int i;
    for (i = 0; i < w->n_edits; i++)
        if (check_edit(en, &w->edits[i], e)) return -1;
    for (i = 0; i < w->n_records; i++)
        if (check_record(en, &w->records[i], e)) return -1;
    return 0;
}

/* ---- during a pass ---- */

struct watching {
    const engine *en;
    const struct watch *w;
};

static int find(const int *list, int n, int x)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] == x) return i;
    return -1;
}

static void edit_row(const engine *en, const struct edit *ed, int l, int site, int i, float *x, int width)
{
    int heads = site_heads(&en->model, site), h, size = width / heads;
    if (heads == 1) edit_apply(en, ed, l, site, i, 0, width, x);
    for (h = 0; heads > 1 && h < ed->n_heads; h++)
        edit_apply(en, ed, l, site, i, ed->heads[h] * size, size, x + ed->heads[h] * size);
}

static void record_row(const engine *en, const struct record *r, int l, int i, const struct pass_row *row, const float *x,
                       int width)
{
    size_t wide = (size_t)engine_site_width(en, r->site, r->n_tokens);
    float *out = r->out + ((size_t)l * (size_t)r->n_at + (size_t)i) * wide, *weights;
    int h, n = row->pos + 1;
    if (r->site != SITE_ATTN) {
        memcpy(out, x, (size_t)width * sizeof *x);
        return;
    }
    weights = mem_array((size_t)en->model.H * (size_t)n, sizeof *weights);
    forward_weights(en, row, r->layers[l], x, weights);
    memset(out, 0, wide * sizeof *out);
    for (h = 0; h < en->model.H; h++)
        memcpy(out + (size_t)h * (size_t)r->n_tokens, weights + (size_t)h * (size_t)n, (size_t)n * sizeof *weights);
    free(weights);
}

static void at_site(void *arg, int layer, enum tap_site tap, float *x, const struct pass_row *rows, int n, int width)
{
    const struct watching *t = arg;
    int i, b, l, p, site = 0;
    for (i = 0; i < N_SITES; i++)
        if (sites[i].tap == tap) site = sites[i].site;
    if (site == SITE_LOGITS) layer = 0;
    for (i = 0; i < t->w->n_edits; i++) {
        const struct edit *ed = &t->w->edits[i];
        if (!(ed->tensors & site) || (l = find(ed->layers, ed->n_layers, layer)) < 0) continue;
        for (b = 0; b < n; b++)
            if ((p = find(ed->at, ed->n_at, rows[b].pos)) >= 0)
                edit_row(t->en, ed, l, site, p, x + (size_t)b * (size_t)width, width);
    }
    for (i = 0; i < t->w->n_records; i++) {
        const struct record *r = &t->w->records[i];
        if (r->site != site || (l = find(r->layers, r->n_layers, layer)) < 0) continue;
        for (b = 0; b < n; b++)
            if ((p = find(r->at, r->n_at, rows[b].pos)) >= 0)
                record_row(t->en, r, l, p, &rows[b], x + (size_t)b * (size_t)width, width);
    }
}

/* ---- the pass ---- */

static unsigned wanted_sites(const struct watch *w)
{
    unsigned taps = 0;
    int all = 0, i;
    for (i = 0; i < w->n_edits; i++) all |= w->edits[i].tensors;
    for (i = 0; i < w->n_records; i++) all |= w->records[i].site;
    for (i = 0; i < N_SITES; i++)
        if (all & sites[i].site) taps |= 1u << sites[i].tap;
    return taps;
}

/* Whether the logits behind a position are recorded. */
static bool wants_logits(const struct watch *w, int pos)
{
    int i;
    for (i = 0; i < w->n_records; i++)
        if (w->records[i].site == SITE_LOGITS && find(w->records[i].at, w->records[i].n_at, pos) >= 0) return true;
    return false;
}

int cache_feed_watched(cache *c, const int *tokens, int n, const struct watch *w, struct gen_pick *last, err *e)
{
    engine *en = c->en;
    struct watching watching = {en, w};
    struct tap tap = {at_site, &watching, wanted_sites(w)};
    int want[LOGIT_ROWS], n_want = 0, done, chunk, i, rc = 0, most = en->s.rows < LOGIT_ROWS ? en->s.rows : LOGIT_ROWS;
    struct pass_row *rows;
    if (check(en, w, e) || cache_check_feed(c, tokens, n, e) || cache_reserve(c, n, e)) return -1;
    rows = mem_array((size_t)en->s.rows, sizeof *rows);
    forward_tap(en, &tap);
    for (done = 0; !rc && done < n; done += chunk) {
        chunk = n - done < most ? n - done : most; /* so that every row of a pass may ask for its logits */
        for (i = 0, n_want = 0; i < chunk; i++)
            if (wants_logits(w, c->n + i) || (last && done + i == n - 1)) want[n_want++] = i;
        rc = cache_pass(c, rows, tokens + done, chunk, want, n_want, e);
    }
    forward_tap(en, NULL);
    free(rows);
    if (rc) return -1;
    return last ? cache_last_pick(en, n_want - 1, last, e) : 0;
}
