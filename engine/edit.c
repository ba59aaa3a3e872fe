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

/* A number 0..end-1 that stands twice in two lists together; -1: none. */
static int named_twice(const int *a, int n_a, const int *b, int n_b, int end)
{
    unsigned char *used = mem_alloc((size_t)end);
    int i, twice = -1;
    for (i = 0; i < n_a + n_b && twice < 0; i++) {
        int x = i < n_a ? a[i] : b[i - n_a];
        if (used[x]++) twice = x;
    }
    free(used);
    return twice;
}

/* Each position may take part once, or the order of the pairs would decide the result. */
static int check_swap(const cache *c, const struct edit *ed, err *e)
{
    int twice;
    if (ed->donor && ed->donor != c) return err_set(e, ERR_INPUT, "a swap is inside one cache; from another one, transplant");
    if (!ed->donor_at && ed->n_at > 0) return err_set(e, ERR_INPUT, "a swap needs the positions to swap with");
    if (edit_check_list(ed->donor_at, ed->n_at, 0, c->n, "position", e)) return -1;
    twice = named_twice(ed->at, ed->n_at, ed->donor_at, ed->n_at, c->n);
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

static void hide(const cache *c, const struct edit *ed)
{
    int l, h, i;
    if (ed->op != EDIT_MASK && ed->op != EDIT_EVICT) return;
    for (l = 0; l < ed->n_layers; l++)
        for (h = 0; h < ed->n_heads; h++)
            for (i = 0; i < ed->n_at; i++)
                edit_hide((struct page *)(void *)c->pages[ed->layers[l]][ed->at[i] / PAGE_TOKENS], ed->heads[h], ed->at[i]);
}

/* Whether rows only change places, and keys turn. */
static bool only_moves(const struct edit *ed)
{
    return ed->op == EDIT_ZERO || ed->op == EDIT_EVICT || ed->op == EDIT_SWAP || (ed->op == EDIT_TRANSPLANT && ed->donor);
}

static void add_row(struct edit_rows *r, const struct edit *ed, int l, int tensor, int head, int i)
{
    int layer = ed->layers[l], pos = ed->at[i], other;
    struct edit_row row = {.layer = layer, .l = l, .tensor = tensor, .head = head, .i = i};
    void *here = edit_row_at(r->c, layer, tensor, head, pos), *there;
    const cache *donor = ed->op == EDIT_SWAP ? r->c : ed->donor;
    if (!only_moves(ed) || ed->op == EDIT_ZERO || ed->op == EDIT_EVICT) {
        edit_rows_add(r, here, only_moves(ed) ? NULL : here, &row);
        return;
    }
    other = ed->donor_at[i];
    there = edit_row_at(donor, layer, tensor, head, other);
    if (ed->rerotate && tensor == CACHE_K) row.turn = cache_position(r->c, pos) - cache_position(donor, other);
    edit_rows_add(r, here, there, &row);
    row.turn = -row.turn;
    if (ed->op == EDIT_SWAP) edit_rows_add(r, there, here, &row);
}

/* Whether some row is written more than once. */
static bool repeats(const cache *c, const struct edit *ed)
{
    return named_twice(ed->at, ed->n_at, NULL, 0, c->n) >= 0 ||
           named_twice(ed->heads, ed->n_heads, NULL, 0, c->en->model.G) >= 0 ||
           named_twice(ed->layers, ed->n_layers, NULL, 0, c->en->model.n_layer) >= 0;
}

/* The pages are owned. Nothing is written when there is no memory for it. */
static int write_rows(const cache *c, const struct edit *ed, err *e)
{
    int tensors = ed->op == EDIT_MASK ? 0 : ed->op == EDIT_EVICT ? CACHE_K | CACHE_V : ed->tensors, l, h, i, t;
    bool channels = ed->op == EDIT_QUANTISE && ed->per_channel;
    struct edit_rows r = {.c = c, .ed = only_moves(ed) ? NULL : ed, .turns = ed->rerotate, .in_order = repeats(c, ed)};
    size_t heads = (size_t)ed->n_layers * (size_t)ed->n_heads * (size_t)(!!(tensors & CACHE_K) + !!(tensors & CACHE_V));
    r.unit = ed->op == EDIT_SWAP ? 2 : channels ? (size_t)ed->n_at : 1;
    if (edit_rows_begin(&r, heads * (size_t)ed->n_at * (ed->op == EDIT_SWAP ? 2 : 1), e)) return -1;
    hide(c, ed);
    for (l = 0; l < ed->n_layers; l++)
        for (h = 0; h < ed->n_heads; h++)
            for (t = CACHE_K; t <= CACHE_V; t *= 2)
                for (i = 0; tensors & t && i < ed->n_at; i++) add_row(&r, ed, l, t, ed->heads[h], i);
    return edit_rows_end(&r, e);
}

/* Takes every page the edit writes; comes first, since it can run out of memory. */
static int own_pages(cache *c, const struct edit *ed, err *e)
{
    int l, i;
    for (l = 0; l < ed->n_layers; l++)
        for (i = 0; i < ed->n_at; i++)
            if (!cache_own(c, ed->layers[l], ed->at[i] / PAGE_TOKENS) ||
                (ed->op == EDIT_SWAP && !cache_own(c, ed->layers[l], ed->donor_at[i] / PAGE_TOKENS)))
                return err_set(e, ERR_MEMORY, "no memory to copy a page of the cache");
    return 0;
}

int cache_edit(cache *c, const struct edit *ed, err *e)
{
    struct edit from = *ed;
    cache *before = NULL;
    int rc = -1;
    if (check(c, ed, e)) return -1;
    if (ed->op == EDIT_EVICT && ed->compact) return cache_close_up(c, ed, e);
    if (ed->op == EDIT_TRANSPLANT && ed->donor == c)
        from.donor = before = cache_fork(c); /* reads what was, not what it wrote */
    if (own_pages(c, ed, e) == 0) rc = write_rows(c, &from, e);
    cache_free(before);
    return rc;
}
