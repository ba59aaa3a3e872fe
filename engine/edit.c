/* edit.c: changes of a finished cache. Every index is checked before anything is written; only pages that are written are
 * copied, so what an edit does not touch stays shared with its siblings, bit for bit.
 */
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks ---- */

int edit_check_list(const int *list, int n, int first, int end, const char *what, err *e)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] < first || list[i] >= end)
            return err_set(e, ERR_INPUT, "%s %d is outside %d..%d", what, list[i], first, end - 1);
    return 0;
}

static int check_rerotate(const engine *en, err *e)
{
    return en->model.n_rot > 0 ? 0 : err_set(e, ERR_INPUT, "keys of learned positions cannot be re-rotated");
}

static int check_donor(const engine *en, const struct edit *ed, err *e)
{
    if (ed->donor->en != en) return err_set(e, ERR_INPUT, "a transplant needs a donor of the same engine");
    if (ed->tensors & ~(CACHE_K | CACHE_V))
        return err_set(e, ERR_INPUT,
                       "a donor holds k and v alone; a transplant at this site needs the donor's recorded vectors");
    if (!ed->donor_at && ed->n_at > 0) return err_set(e, ERR_INPUT, "a transplant needs the donor's positions");
    return edit_check_list(ed->donor_at, ed->n_at, 0, ed->donor->n, "donor position", e);
}

static int check_transplant(const engine *en, const struct edit *ed, bool one, err *e)
{
    if (ed->rerotate && check_rerotate(en, e)) return -1;
    if (ed->donor) return check_donor(en, ed, e);
    if (!ed->vector) return err_set(e, ERR_INPUT, "a transplant needs a donor, or the donor's recorded vectors");
    if (!one) return err_set(e, ERR_INPUT, "a transplant of recorded vectors is of one tensor; make two of k and v");
    if (ed->rerotate && ed->tensors == CACHE_K && !ed->donor_at)
        return err_set(e, ERR_INPUT, "recorded keys are re-rotated from the positions they had; name those");
    return 0;
}

int edit_check_values(const engine *en, const struct edit *ed, err *e)
{
    bool one = (ed->tensors & (ed->tensors - 1)) == 0;
    switch (ed->op) {
    case EDIT_NOOP:
    case EDIT_ZERO:
    case EDIT_MASK:
    case EDIT_EVICT:
    case EDIT_KNOCKOUT:
    case EDIT_SCALE: return 0;
    case EDIT_ADD:
    case EDIT_MEAN:
        if (!ed->vector) return err_set(e, ERR_INPUT, "%s needs a vector", ed->op == EDIT_ADD ? "an edit that adds" : "a mean");
        return one ? 0 : err_set(e, ERR_INPUT, "each tensor takes a vector of its own: one edit for each");
    case EDIT_NOISE: return isfinite(ed->sigma) ? 0 : err_set(e, ERR_INPUT, "the sigma of noise is a finite number");
    case EDIT_SWAP: return ed->rerotate ? check_rerotate(en, e) : 0;
    case EDIT_QUANTISE:
        return ed->bits >= 2 && ed->bits <= 8 ? 0 : err_set(e, ERR_INPUT, "quantising takes 2 to 8 bits, not %d", ed->bits);
    case EDIT_TRANSPLANT: return check_transplant(en, ed, one, e);
    }
    return err_set(e, ERR_INPUT, "there is no such edit");
}

/* Each position may take part once, or the order of the pairs would decide the result. */
static int check_swap(const cache *c, const struct edit *ed, err *e)
{
    unsigned char *used;
    int i, twice = -1;
    if (ed->donor && ed->donor != c) return err_set(e, ERR_INPUT, "a swap is inside one cache; from another one, transplant");
    if (!ed->donor_at && ed->n_at > 0) return err_set(e, ERR_INPUT, "a swap needs the positions to swap with");
    if (edit_check_list(ed->donor_at, ed->n_at, 0, c->n, "position", e)) return -1;
    used = mem_alloc((size_t)c->n + 1);
    for (i = 0; i < 2 * ed->n_at && twice < 0; i++) {
        int pos = i < ed->n_at ? ed->at[i] : ed->donor_at[i - ed->n_at];
        if (used[pos]++) twice = pos;
    }
    free(used);
    return twice < 0 ? 0 : err_set(e, ERR_INPUT, "a swap names position %d twice; its two lists are apart", twice);
}

static int check(const cache *c, const struct edit *ed, err *e)
{
    const struct model *m = &c->en->model;
    bool values = ed->op != EDIT_MASK && ed->op != EDIT_EVICT; /* those ignore the tensors */
    if (ed->op == EDIT_KNOCKOUT)
        return err_set(e, ERR_INPUT,
                       "edges are knocked out while a pass runs; what nobody shall see of a finished cache, mask");
    if (values && (!ed->tensors || ed->tensors & ~(CACHE_K | CACHE_V)))
        return err_set(e, ERR_INPUT,
                       "an edit names a tensor that a cache does not hold; it holds k and v, others exist in a pass");
    if (edit_check_values(c->en, ed, e)) return -1;
    if (edit_check_list(ed->layers, ed->n_layers, 0, m->n_layer, "layer", e)) return -1;
    if (edit_check_list(ed->heads, ed->n_heads, 0, m->G, "kv head", e)) return -1;
    if (edit_check_list(ed->at, ed->n_at, 0, c->n, "position", e)) return -1;
    return ed->op == EDIT_SWAP ? check_swap(c, ed, e) : 0;
}

/* ---- writing ---- */

void edit_hide(struct page *p, int head, int pos)
{
    p->kv.hidden = p->hidden_bits;
    p->hidden_bits[head] |= (uint64_t)1 << (pos % PAGE_TOKENS);
}

/* One position, layer, tensor and head. */
static void write_head(const cache *c, const struct edit *ed, int l, int tensor, int head, int i)
{
    float x[HEAD_MAX];
    int layer = ed->layers[l], E = c->en->model.E;
    edit_get(c, layer, tensor, head, ed->at[i], x);
    edit_apply(c->en, ed, l, tensor, i, cache_position(c, ed->at[i]), head * E, E, x);
    edit_put(c, layer, tensor, head, ed->at[i], x);
}

static void swap_head(const cache *c, const struct edit *ed, int l, int tensor, int head, int i)
{
    float x[HEAD_MAX], y[HEAD_MAX];
    int layer = ed->layers[l], a = ed->at[i], b = ed->donor_at[i], delta = cache_position(c, b) - cache_position(c, a);
    edit_get(c, layer, tensor, head, a, x);
    edit_get(c, layer, tensor, head, b, y);
    if (ed->rerotate && tensor == CACHE_K) {
        edit_turn_by(&c->en->model, layer, delta, x);
        edit_turn_by(&c->en->model, layer, -delta, y);
    }
    edit_put(c, layer, tensor, head, b, x);
    edit_put(c, layer, tensor, head, a, y);
}

/* Each element of the head is a group over all positions. */
static void quantise_channels(const cache *c, const struct edit *ed, int l, int tensor, int head)
{
    int E = c->en->model.E, layer = ed->layers[l], i, e;
    float *x = mem_array((size_t)ed->n_at * (size_t)E, sizeof *x); /* (n_at, E) */
    for (i = 0; i < ed->n_at; i++) edit_get(c, layer, tensor, head, ed->at[i], x + (size_t)i * (size_t)E);
    for (e = 0; e < E; e++) edit_quantise(x + e, ed->n_at, (size_t)E, ed->bits);
    for (i = 0; i < ed->n_at; i++) edit_put(c, layer, tensor, head, ed->at[i], x + (size_t)i * (size_t)E);
    free(x);
}

/* All positions of a layer, tensor and head. */
static void write_tensor(const cache *c, const struct edit *ed, int l, int tensor, int head)
{
    int i;
    if (ed->op == EDIT_QUANTISE && ed->per_channel) {
        quantise_channels(c, ed, l, tensor, head);
        return;
    }
    for (i = 0; i < ed->n_at; i++)
        if (ed->op == EDIT_SWAP)
            swap_head(c, ed, l, tensor, head, i);
        else
            write_head(c, ed, l, tensor, head, i);
}

static void write_layer(const cache *c, const struct edit *ed, int l)
{
    bool hide = ed->op == EDIT_MASK || ed->op == EDIT_EVICT;
    int tensors = ed->op == EDIT_MASK ? 0 : ed->op == EDIT_EVICT ? CACHE_K | CACHE_V : ed->tensors, h, i;
    for (h = 0; h < ed->n_heads; h++) {
        int head = ed->heads[h];
        for (i = 0; hide && i < ed->n_at; i++)
            edit_hide((struct page *)(void *)c->pages[ed->layers[l]][ed->at[i] / PAGE_TOKENS], head, ed->at[i]);
        if (tensors & CACHE_K) write_tensor(c, ed, l, CACHE_K, head);
        if (tensors & CACHE_V) write_tensor(c, ed, l, CACHE_V, head);
    }
}

/* Takes every page the edit writes; the only step that can run out of memory, so it comes first. */
static int own_pages(cache *c, const struct edit *ed, err *e)
{
    int l, i;
    for (l = 0; l < ed->n_layers; l++)
        for (i = 0; i < ed->n_at; i++)
            if (!cache_own(c, ed->layers[l], ed->at[i] / PAGE_TOKENS) ||
                (ed->op == EDIT_SWAP && !cache_own(c, ed->layers[l], ed->donor_at[i] / PAGE_TOKENS)))
                return err_set(e, ERR_FAIL, "no memory to copy a page of the cache");
    return 0;
}

int cache_edit(cache *c, const struct edit *ed, err *e)
{
    struct edit from = *ed;
    cache *before = NULL;
    int l, rc = -1;
    if (check(c, ed, e)) return -1;
    if (ed->op == EDIT_EVICT && ed->compact) return cache_close_up(c, ed, e);
    if (ed->op == EDIT_TRANSPLANT && ed->donor == c)
        from.donor = before = cache_fork(c); /* reads what was, not what it wrote */
    if (own_pages(c, ed, e)) goto out;
    for (l = 0; l < ed->n_layers; l++) write_layer(c, &from, l);
    rc = 0;
out:
    cache_free(before);
    return rc;
}
