/* edit.c: changes of a finished cache. Every index is checked before anything is written; only pages that are written are
 * copied, so what an edit does not touch stays shared with its siblings, bit for bit.
 */
#include "internal.h"

#include <string.h>

int edit_check_list(const int *list, int n, int first, int end, const char *what, err *e)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] < first || list[i] >= end)
            return err_set(e, ERR_INPUT, "%s %d is outside %d..%d", what, list[i], first, end - 1);
    return 0;
}

int edit_check_donor(const engine *en, const struct edit *ed, err *e)
{
    if (!ed->donor || ed->donor->en != en) return err_set(e, ERR_INPUT, "a transplant needs a donor of the same engine");
    if (ed->rerotate && en->model.n_rot == 0) return err_set(e, ERR_INPUT, "keys of learned positions cannot be re-rotated");
    return edit_check_list(ed->donor_at, ed->n_at, 0, ed->donor->n, "donor position", e);
}

static int check(const cache *c, const struct edit *ed, err *e)
{
    const struct model *m = &c->en->model;
    if (ed->op > EDIT_ADD) return err_set(e, ERR_INPUT, "this edit is not supported yet");
    if (ed->tensors & ~(CACHE_K | CACHE_V)) return err_set(e, ERR_INPUT, "an edit names a tensor that a cache does not hold");
    if (edit_check_list(ed->layers, ed->n_layers, 0, m->n_layer, "layer", e)) return -1;
    if (edit_check_list(ed->heads, ed->n_heads, 0, m->G, "kv head", e)) return -1;
    if (edit_check_list(ed->at, ed->n_at, 0, c->n, "position", e)) return -1;
    if (ed->op == EDIT_ADD && !ed->vector) return err_set(e, ERR_INPUT, "an edit that adds needs a vector");
    return ed->op == EDIT_TRANSPLANT ? edit_check_donor(c->en, ed, e) : 0;
}

/* Where one head's vector of one position lies. */
static char *vector_at(const engine *en, const struct kv_page *p, int tensor, int head, int pos)
{
    size_t index = ((size_t)head * PAGE_TOKENS + (size_t)(pos % PAGE_TOKENS)) * (size_t)en->model.E;
    return (char *)(tensor == CACHE_K ? p->k : p->v) + index * (size_t)dtype_block_bytes(en->attn.kv_type);
}

/* One head's vector of a cache as f32; rounding it again gives the bytes back. x: (E). */
static void vector_get(const engine *en, const char *at, float *x)
{
    char raw[HEAD_MAX * sizeof(float)];
    size_t E = (size_t)en->model.E;
    en->k->get(raw, at, E * (size_t)dtype_block_bytes(en->attn.kv_type));
    kernels_widen(x, raw, en->attn.kv_type, E);
}

static void vector_put(const engine *en, char *at, const float *x)
{
    char raw[HEAD_MAX * sizeof(float)];
    size_t E = (size_t)en->model.E;
    kernels_narrow(raw, en->attn.kv_type, x, E);
    en->k->put(at, raw, E * (size_t)dtype_block_bytes(en->attn.kv_type));
}

/* Turns a key by `delta` positions: R(a) R(b) = R(a + b), Su et al. 2021, eq. 34. x: (E). */
static void rotate(const struct model *m, int layer, int delta, float *x)
{
    float cos[HEAD_MAX / 2], sin[HEAD_MAX / 2];
    int i, half = m->n_rot / 2;
    kernels_rope_table(cos, sin, m->rope_freqs[m->layers[layer].rope], &delta, half, 1);
    for (i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* The donor's vector for position i of the edit. */
static void transplant(const engine *en, const struct edit *ed, int layer, int tensor, int head, int i, float *x)
{
    int from = ed->donor_at[i], delta = ed->at[i] - from;
    vector_get(en, vector_at(en, ed->donor->pages[layer][from / PAGE_TOKENS], tensor, head, from), x);
    if (ed->rerotate && tensor == CACHE_K && delta != 0) rotate(&en->model, layer, delta, x);
}

void edit_apply(const engine *en, const struct edit *ed, int l, int site, int i, int first, int n, float *x)
{
    size_t width = (size_t)engine_site_width(en, site, 0);
    const float *v;
    int e;
    switch (ed->op) {
    case EDIT_NOOP:
    case EDIT_MASK:
    case EDIT_MEAN:
    case EDIT_NOISE:
    case EDIT_SWAP:
    case EDIT_QUANTISE:
    case EDIT_EVICT:
    case EDIT_KNOCKOUT: break;
    case EDIT_ZERO: memset(x, 0, (size_t)n * sizeof *x); break;
    case EDIT_SCALE:
        for (e = 0; e < n; e++) x[e] *= ed->by;
        break;
    case EDIT_ADD:
        v = ed->vector + (size_t)l * width + first;
        for (e = 0; e < n; e++) x[e] += ed->by * v[e];
        break;
    case EDIT_TRANSPLANT:
        if (site == CACHE_K || site == CACHE_V)
            transplant(en, ed, ed->layers[l], site, first / en->model.E, i, x);
        else
            memcpy(x, ed->vector + ((size_t)l * (size_t)ed->n_at + (size_t)i) * width + first, (size_t)n * sizeof *x);
        break;
    }
}

static void write_vector(const cache *c, const struct edit *ed, int l, int tensor, int head, int i, const struct kv_page *page)
{
    float x[HEAD_MAX];
    char *at = vector_at(c->en, page, tensor, head, ed->at[i]);
    vector_get(c->en, at, x);
    edit_apply(c->en, ed, l, tensor, i, head * c->en->model.E, c->en->model.E, x);
    vector_put(c->en, at, x);
}

static void write_position(const cache *c, const struct edit *ed, int l, int i)
{
    struct page *p = (struct page *)(void *)c->pages[ed->layers[l]][ed->at[i] / PAGE_TOKENS];
    int h;
    for (h = 0; h < ed->n_heads; h++) {
        int head = ed->heads[h];
        if (ed->op == EDIT_MASK) {
            p->kv.hidden = p->hidden_bits;
            p->hidden_bits[head] |= (uint64_t)1 << (ed->at[i] % PAGE_TOKENS);
            continue;
        }
        if (ed->tensors & CACHE_K) write_vector(c, ed, l, CACHE_K, head, i, &p->kv);
        if (ed->tensors & CACHE_V) write_vector(c, ed, l, CACHE_V, head, i, &p->kv);
    }
}

/* Takes every page the edit writes; the only step that can run out of memory, so it comes first. */
static int own_pages(cache *c, const struct edit *ed, err *e)
{
    int l, i;
    for (l = 0; l < ed->n_layers; l++)
        for (i = 0; i < ed->n_at; i++)
            if (!cache_own(c, ed->layers[l], ed->at[i] / PAGE_TOKENS))
                return err_set(e, ERR_MEMORY, "no memory to copy a page of the cache");
    return 0;
}

int cache_edit(cache *c, const struct edit *ed, err *e)
{
    struct edit from = *ed;
    cache *before = NULL;
    int l, i, rc = -1;
    if (check(c, ed, e)) return -1;
    if (ed->op == EDIT_TRANSPLANT && ed->donor == c)
        from.donor = before = cache_fork(c); /* reads what was, not what it wrote */
    if (own_pages(c, ed, e)) goto out;
    for (l = 0; l < ed->n_layers; l++)
        for (i = 0; i < ed->n_at; i++) write_position(c, &from, l, i);
    rc = 0;
out:
    cache_free(before);
    return rc;
}
