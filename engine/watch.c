/* watch.c: what a pass may be asked to change and record, checked before it runs. Every combination that means nothing is an
 * error that says what does; watch_pass.c relies on it.
 */
#include "internal.h"

#include <string.h>

enum { HEADED = SITE_K_PRE | CACHE_K | CACHE_V, EDITABLE = HEADED | SITE_RESID | SITE_ATTN_OUT | SITE_MLP_OUT | SITE_HEAD_OUT };

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
    case SITE_ATTN:
    case SITE_RECEIVED: return m->H * n_tokens;
    case SITE_LOGITS: return m->V;
    default: return 0;
    }
}

int watch_find(const int *list, int n, int x)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] == x) return i;
    return -1;
}

int watch_head(const struct model *m, int site, int *heads)
{
    *heads = site & HEADED ? m->G : site == SITE_HEAD_OUT ? m->H : 0;
    return *heads ? m->E : 0;
}

/* ---- one edit ---- */

/* Edits that hide tokens from queries; they ignore the tensors. Returns 1 when it is one and fine. */
static int check_hiding(const engine *en, const struct edit *ed, err *e)
{
    const struct model *m = &en->model;
    bool edges = ed->op == EDIT_KNOCKOUT;
    if (ed->op != EDIT_MASK && ed->op != EDIT_EVICT && !edges) return 0;
    if (edit_check_list(ed->layers, ed->n_layers, 0, m->n_layer, "layer", e)) return -1;
    if (edit_check_list(ed->heads, ed->n_heads, 0, edges ? m->H : m->G, edges ? "query head" : "kv head", e)) return -1;
    if (edges && ed->queries && edit_check_list(ed->queries, ed->n_queries, 0, m->n_ctx, "query position", e)) return -1;
    if (ed->op == EDIT_EVICT && ed->compact && cache_check_close_up(en, ed, e)) return -1;
    return 1;
}

static int check_site(const engine *en, const struct edit *ed, err *e)
{
    int one = ed->tensors & -ed->tensors, heads;
    if (!ed->tensors || ed->tensors & ~EDITABLE)
        return err_set(e, ERR_INPUT,
                       "an edit of a pass names a site that cannot be edited; those are k, v, k_pre, resid, attn_out, mlp_out, "
                       "head_out");
    if (ed->tensors != one && ed->tensors & ~HEADED)
        return err_set(e, ERR_INPUT, "an edit of a pass names several sites of different width; make one of each");
    if (edit_check_list(ed->layers, ed->n_layers, ed->tensors == SITE_RESID ? -1 : 0, en->model.n_layer, "layer", e)) return -1;
    watch_head(&en->model, one, &heads);
    return heads ? edit_check_list(ed->heads, ed->n_heads, 0, heads, "head", e) : 0;
}

static int check_edit(const engine *en, const struct edit *ed, err *e)
{
    int hiding;
    if (edit_check_list(ed->at, ed->n_at, 0, en->model.n_ctx, "position", e)) return -1;
    if ((hiding = check_hiding(en, ed, e))) return hiding < 0 ? -1 : 0;
    if (ed->op == EDIT_SWAP)
        return err_set(e, ERR_INPUT, "a pass does not hold both sides of a swap at once; swap in a finished cache");
    if (ed->op == EDIT_QUANTISE && ed->per_channel)
        return err_set(e, ERR_INPUT,
                       "a pass has not all positions of a channel at once; quantise per token, or a finished cache");
    if (check_site(en, ed, e) || edit_check_values(en, ed, e)) return -1;
    if (ed->op == EDIT_TRANSPLANT && ed->donor && ed->donor->busy)
        return err_set(e, ERR_INPUT, "a donor is fed in the same call; transplant from a fork of it");
    return 0;
}

/* Layers below the first one computed keep what they have, so an edit there would change nothing. */
static int check_reach(const struct edit *ed, int layer, int first, int n, err *e)
{
    bool knockout = ed->op == EDIT_KNOCKOUT;
    int least = ed->tensors == SITE_RESID && !knockout && ed->op != EDIT_MASK && ed->op != EDIT_EVICT ? layer - 1 : layer, l, i;
    for (i = 0; !knockout && i < ed->n_at && (ed->at[i] < first || ed->at[i] - first >= n); i++) continue;
    if (layer == 0 || (!knockout && i == ed->n_at)) return 0;
    if (ed->op == EDIT_EVICT && ed->compact)
        return err_set(e, ERR_INPUT, "an evict that closes up is of all layers; compute anew from layer 0");
    for (l = 0; l < ed->n_layers; l++)
        if (ed->layers[l] < least)
            return err_set(e, ERR_INPUT, "an edit of layer %d in a pass that begins at layer %d", ed->layers[l], layer);
    return 0;
}

/* ---- a watch ---- */

static int check_record(const engine *en, const struct record *r, err *e)
{
    const struct model *m = &en->model;
    bool tokens = r->site == SITE_ATTN || r->site == SITE_RECEIVED;
    if (engine_site_width(en, r->site, 1) == 0) return err_set(e, ERR_INPUT, "a record names no site, or several");
    if (tokens && (r->n_tokens < 1 || r->n_tokens > m->n_ctx))
        return err_set(e, ERR_INPUT, "a record of attention is of 1..%d tokens, not %d", m->n_ctx, r->n_tokens);
    if (edit_check_list(r->layers, r->n_layers, r->site == SITE_RESID ? -1 : 0, m->n_layer, "layer", e)) return -1;
    if (r->site == SITE_RECEIVED) return 0;
    return edit_check_list(r->at, r->n_at, 0, tokens ? r->n_tokens : m->n_ctx, "position", e);
}

int watch_check(const engine *en, const struct watch *w, int layer, int first, int n, err *e)
{
    int i;
    for (i = 0; w && i < w->n_edits; i++)
        if (check_edit(en, &w->edits[i], e) || check_reach(&w->edits[i], layer, first, n, e)) return -1;
    for (i = 0; w && i < w->n_records; i++)
        if (check_record(en, &w->records[i], e)) return -1;
    return 0;
}

void watch_begin(const engine *en, const struct watch *w)
{
    int i;
    for (i = 0; w && i < w->n_records; i++) {
        const struct record *r = &w->records[i];
        if (r->site == SITE_RECEIVED)
            memset(r->out, 0, (size_t)r->n_layers * (size_t)engine_site_width(en, r->site, r->n_tokens) * sizeof *r->out);
    }
}

bool watch_wants_logits(const struct watch *w, int pos)
{
    int i;
    for (i = 0; w && i < w->n_records; i++)
        if (w->records[i].site == SITE_LOGITS && watch_find(w->records[i].at, w->records[i].n_at, pos) >= 0) return true;
    return false;
}
