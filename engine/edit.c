/* edit.c: changes of a finished cache. Every index is checked before anything is written; only pages that are written are
 * copied, so what an edit does not touch stays shared with its siblings, bit for bit.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static int check_list(const int *list, int n, int count, const char *what, err *e)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] < 0 || list[i] >= count) return err_set(e, ERR_INPUT, "%s %d is outside 0..%d", what, list[i], count - 1);
    return 0;
}

static int check(const cache *c, const struct edit *ed, err *e)
{
    const struct model *m = &c->en->model;
    if (ed->tensors & ~(CACHE_K | CACHE_V)) return err_set(e, ERR_INPUT, "an edit names a tensor that a cache does not hold");
    if (check_list(ed->layers, ed->n_layers, m->n_layer, "layer", e)) return -1;
    if (check_list(ed->heads, ed->n_heads, m->G, "kv head", e)) return -1;
    if (check_list(ed->at, ed->n_at, c->n, "position", e)) return -1;
    if (ed->op != EDIT_TRANSPLANT) return 0;
    if (!ed->donor || ed->donor->en != c->en) return err_set(e, ERR_INPUT, "a transplant needs a donor of the same engine");
    if (ed->rerotate && m->n_rot == 0) return err_set(e, ERR_INPUT, "keys of learned positions cannot be re-rotated");
    return check_list(ed->donor_at, ed->n_at, ed->donor->n, "donor position", e);
}

/* Where one head's vector of one position lies. */
static char *vector_at(const engine *en, const struct kv_page *p, int tensor, int head, int pos)
{
    size_t index = ((size_t)head * PAGE_TOKENS + (size_t)(pos % PAGE_TOKENS)) * (size_t)en->model.E;
    return (char *)(tensor == CACHE_K ? p->k : p->v) + index * (size_t)dtype_block_bytes(en->attn.kv_type);
}

/* Turns a key by `delta` positions: R(a) R(b) = R(a + b), Su et al. 2021, eq. 34. x: (E). */
static void rotate(const struct model *m, float *x, const float *cos, const float *sin)
{
    int i, half = m->n_rot / 2;
    for (i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

struct vectors {
    void *raw;        /* (E) in the cache's type */
    float *x;         /* (E) */
    float *cos, *sin; /* (n_rot / 2) */
};

/* What position i of the edit gets in one layer, tensor and head. */
static void write_vector(const cache *c, const struct edit *ed, int layer, int tensor, int head, int i,
                         const struct kv_page *page, const struct vectors *tmp)
{
    const engine *en = c->en;
    const struct model *m = &en->model;
    size_t bytes = (size_t)m->E * (size_t)dtype_block_bytes(en->attn.kv_type);
    char *dst = vector_at(en, page, tensor, head, ed->at[i]);
    if (ed->op == EDIT_ZERO) {
        en->k->zero(dst, bytes);
    } else if (ed->op == EDIT_NOOP) {
        en->k->get(tmp->raw, dst, bytes);
        en->k->put(dst, tmp->raw, bytes);
    } else {
        int from = ed->donor_at[i], delta = ed->at[i] - from;
        en->k->get(tmp->raw, vector_at(en, ed->donor->pages[layer][from / PAGE_TOKENS], tensor, head, from), bytes);
        if (ed->rerotate && tensor == CACHE_K && delta != 0) {
            kernels_rope_table(tmp->cos, tmp->sin, m->rope_freqs[m->layers[layer].rope], &delta, m->n_rot / 2, 1);
            kernels_widen(tmp->x, tmp->raw, en->attn.kv_type, (size_t)m->E);
            rotate(m, tmp->x, tmp->cos, tmp->sin);
            kernels_narrow(tmp->raw, en->attn.kv_type, tmp->x, (size_t)m->E);
        }
        en->k->put(dst, tmp->raw, bytes);
    }
}

static void write_position(const cache *c, const struct edit *ed, int layer, int i, struct page *p, const struct vectors *tmp)
{
    int h;
    for (h = 0; h < ed->n_heads; h++) {
        int head = ed->heads[h];
        if (ed->op == EDIT_MASK) {
            p->kv.hidden = p->hidden_bits;
            p->hidden_bits[head] |= (uint64_t)1 << (ed->at[i] % PAGE_TOKENS);
            continue;
        }
        if (ed->tensors & CACHE_K) write_vector(c, ed, layer, CACHE_K, head, i, &p->kv, tmp);
        if (ed->tensors & CACHE_V) write_vector(c, ed, layer, CACHE_V, head, i, &p->kv, tmp);
    }
}

/* Takes every page the edit writes; the only step that can run out of memory, so it comes first. */
static int own_pages(cache *c, const struct edit *ed, err *e)
{
    int l, i;
    for (l = 0; l < ed->n_layers; l++)
        for (i = 0; i < ed->n_at; i++)
            if (!cache_own(c, ed->layers[l], ed->at[i] / PAGE_TOKENS))
                return err_set(e, ERR_FAIL, "no memory to copy a page of the cache");
    return 0;
}

int cache_edit(cache *c, const struct edit *ed, err *e)
{
    const struct model *m = &c->en->model;
    struct edit from = *ed;
    struct vectors tmp;
    cache *before = NULL;
    int l, i;
    if (check(c, ed, e)) return -1;
    if (ed->op == EDIT_TRANSPLANT && ed->donor == c)
        from.donor = before = cache_fork(c); /* reads what was, not what it wrote */
    if (own_pages(c, ed, e)) {
        cache_free(before);
        return -1;
    }
    tmp.raw = mem_array((size_t)m->E, sizeof(float));
    tmp.x = mem_array((size_t)m->E, sizeof(float));
    tmp.cos = mem_array((size_t)m->n_rot + 2, sizeof(float));
    tmp.sin = mem_array((size_t)m->n_rot + 2, sizeof(float));
    for (l = 0; l < ed->n_layers; l++)
        for (i = 0; i < ed->n_at; i++)
            write_position(c, &from, ed->layers[l], i, (struct page *)(void *)c->pages[ed->layers[l]][ed->at[i] / PAGE_TOKENS],
                           &tmp);
    free(tmp.raw);
    free(tmp.x);
    free(tmp.cos);
    free(tmp.sin);
    cache_free(before);
    return 0;
}
