/* cache_evict.c: tokens that leave and let the others close up.
 *
 * In a finished cache the tokens behind move up, over the borders of pages, and their keys are turned back: R(p - n) =
 * R(-n) R(p), Su et al. 2021, eq. 34. During a pass a token that leaves keeps its place, hidden, and is counted out of the
 * position ids of those behind; the cache lists such places, rising.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* How many places before this one were closed up behind. */
static int closed_before(const cache *c, int place)
{
    int low = 0, high = c->n_closed;
    while (low < high) {
        int mid = low + (high - low) / 2;
        if (c->closed[mid] < place)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int cache_position(const cache *c, int place)
{
    return c->n_closed ? place - closed_before(c, place) : place;
}

void cache_close(cache *c, int place)
{
    int at = closed_before(c, place);
    if (at < c->n_closed && c->closed[at] == place) return;
    c->closed = mem_grow(c->closed, (size_t)c->n_closed + 1, sizeof *c->closed);
    memmove(c->closed + at + 1, c->closed + at, (size_t)(c->n_closed - at) * sizeof *c->closed);
    c->closed[at] = place;
    c->n_closed++;
}

/* ---- of a finished cache ---- */

static bool names_all(const int *list, int n, int all)
{
    int i, x;
    for (x = 0; x < all; x++) {
        for (i = 0; i < n && list[i] != x; i++) continue;
        if (i == n) return false;
    }
    return true;
}

int cache_check_close_up(const engine *en, const struct edit *ed, err *e)
{
    const struct model *m = &en->model;
    return names_all(ed->layers, ed->n_layers, m->n_layer) && names_all(ed->heads, ed->n_heads, m->G)
               ? 0
               : err_set(e, ERR_INPUT, "an evict that closes up is of all layers and all heads; others keep holes");
}

/* What moves: places `from` (n) of the old cache, rising, come to first, first + 1, ... of the new one. */
struct move {
    const cache *old;
    cache *c;
    const int *from;
    int n, first;
};

/* (G, n, E) of a layer and tensor into the places first.. of a cache that owns those pages. */
static void write_tokens(const cache *c, int layer, int tensor, int first, int n, const char *in)
{
    const engine *en = c->en;
    size_t row = (size_t)en->model.E * (size_t)dtype_block_bytes(en->attn.kv_type);
    int g, t, run;
    for (g = 0; g < en->model.G; g++)
        for (t = 0; t < n; t += run) {
            int pos = first + t, at = pos % PAGE_TOKENS;
            const struct kv_page *p = c->pages[layer][pos / PAGE_TOKENS];
            char *to = tensor == CACHE_K ? p->k : p->v;
            run = PAGE_TOKENS - at < n - t ? PAGE_TOKENS - at : n - t;
            en->k->put(to + ((size_t)g * PAGE_TOKENS + (size_t)at) * row, in + ((size_t)g * (size_t)n + (size_t)t) * row,
                       (size_t)run * row);
        }
}

/* Turns the keys (G, n, E) that come to another position. */
static void turn_keys(const struct move *v, int layer, char *keys)
{
    const engine *en = v->c->en;
    size_t E = (size_t)en->model.E, row = E * (size_t)dtype_block_bytes(en->attn.kv_type);
    struct edit_turn turn;
    float x[HEAD_MAX];
    int g, t, last = 0;
    for (t = 0; t < v->n; t++) {
        int delta = cache_position(v->c, v->first + t) - cache_position(v->old, v->from[t]);
        if (delta == 0) continue;
        if (delta != last) edit_turn_make(&turn, &en->model, layer, delta);
        last = delta;
        for (g = 0; g < en->model.G; g++) {
            char *key = keys + ((size_t)g * (size_t)v->n + (size_t)t) * row;
            kernels_widen(x, key, en->attn.kv_type, E);
            edit_turn(&turn, x);
            kernels_narrow(key, en->attn.kv_type, x, E);
        }
    }
}

static void move_tensor(const struct move *v, int layer, int tensor)
{
    const engine *en = v->c->en;
    size_t row = (size_t)en->model.E * (size_t)dtype_block_bytes(en->attn.kv_type), G = (size_t)en->model.G;
    int all = v->old->n - v->first, g, t;
    char *old = mem_array(G * (size_t)all, row), *kept = mem_array(G * (size_t)v->n, row);
    cache_read(v->old, layer, tensor, v->first, all, old);
    for (g = 0; g < en->model.G; g++)
        for (t = 0; t < v->n; t++)
            memcpy(kept + ((size_t)g * (size_t)v->n + (size_t)t) * row,
                   old + ((size_t)g * (size_t)all + (size_t)(v->from[t] - v->first)) * row, row);
    if (tensor == CACHE_K) turn_keys(v, layer, kept);
    write_tokens(v->c, layer, tensor, v->first, v->n, kept);
    free(old);
    free(kept);
}

static void move_hidden(const struct move *v, int layer)
{
    int g, t;
    for (t = 0; t < v->n; t++) {
        const struct kv_page *p = v->old->pages[layer][v->from[t] / PAGE_TOKENS];
        int to = v->first + t;
        for (g = 0; p->hidden && g < v->c->en->model.G; g++)
            if (p->hidden[g] >> v->from[t] % PAGE_TOKENS & 1)
                edit_hide((struct page *)(void *)v->c->pages[layer][to / PAGE_TOKENS], g, to);
    }
}

int cache_close_up(cache *c, const struct edit *ed, err *e)
{
    const struct model *m = &c->en->model;
    struct move v = {.old = c, .first = c->n};
    unsigned char *gone;
    int *from, i, l, moved = 0, rc = -1;
    struct cache swap;
    if (m->n_rot == 0)
        return err_set(e, ERR_INPUT,
                       "positions of this model are learned: the cache's keys cannot be turned to others; keep "
                       "holes, or evict while the prompt is computed");
    if (cache_check_close_up(c->en, ed, e)) return -1;
    if (ed->n_at == 0) return 0;
    gone = mem_alloc((size_t)c->n);
    from = mem_array((size_t)c->n, sizeof *from);
    for (i = 0; i < ed->n_at; i++) {
        gone[ed->at[i]] = 1;
        if (ed->at[i] < v.first) v.first = ed->at[i];
    }
    v.first = v.first / PAGE_TOKENS * PAGE_TOKENS; /* whole pages before it stay shared */
    for (i = v.first; i < c->n; i++)
        if (!gone[i]) from[v.n++] = i;
    v.from = from;
    if (cache_fork_at(&v.c, c, v.first, e) || cache_reserve(v.c, v.n, e)) goto out;
    for (i = 0; i < c->n; i++) {
        if (gone[i]) {
            moved++;
            continue;
        }
        if (closed_before(c, i) < c->n_closed && c->closed[closed_before(c, i)] == i) cache_close(v.c, i - moved);
    }
    for (l = 0; l < m->n_layer; l++) {
        move_tensor(&v, l, CACHE_K);
        move_tensor(&v, l, CACHE_V);
        move_hidden(&v, l);
    }
    v.c->n = v.first + v.n;
    v.c->busy = c->busy;
    swap = *c;
    *c = *v.c;
    *v.c = swap;
    rc = 0;
out:
    cache_free(v.c);
    free(from);
    free(gone);
    return rc;
}
