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

/* Keys that come to another position turn. */
static void move_tensor(const struct move *v, struct edit_rows *r, int layer, int tensor)
{
    int g, t;
    for (t = 0; t < v->n; t++) {
        int to = v->first + t, from = v->from[t];
        struct edit_row row = {.layer = layer};
        if (tensor == CACHE_K) row.turn = cache_position(v->c, to) - cache_position(v->old, from);
        for (g = 0; g < v->c->en->model.G; g++)
            edit_rows_add(r, edit_row_at(v->c, layer, tensor, g, to), edit_row_at(v->old, layer, tensor, g, from), &row);
    }
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
    struct edit_rows rows = {.turns = true, .unit = 1};
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
    rows.c = v.c;
    if (edit_rows_begin(&rows, 2 * (size_t)m->n_layer * (size_t)m->G * (size_t)v.n, e)) goto out;
    for (l = 0; l < m->n_layer; l++) {
        move_tensor(&v, &rows, l, CACHE_K);
        move_tensor(&v, &rows, l, CACHE_V);
        move_hidden(&v, l);
    }
    if (edit_rows_end(&rows, e)) goto out;
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
