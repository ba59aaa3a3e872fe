/* watch_pass.c: passes that are edited and recorded while they run, through the taps of forward.c.
 *
 * Before a pass it is listed what its rows want at their positions; a site of a layer that no row wants costs nothing, and of a
 * wanted one only the rows from the first to the last that want it are fetched. At each site the edits come first, in their
 * order, then the records: a record tells what the rest of the pass was given. Tokens are hidden before the pass: nobody in
 * front of them sees them anyway, so it is as if each layer did it on writing.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

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
             {SITE_RECEIVED, TAP_Q},
             {SITE_LOGITS, TAP_LOGITS}};
enum { N_SITES = sizeof sites / sizeof *sites };

/* What one row wants of one edit or record; i: the index of its position there. */
struct item {
    int row, i, sites;
    const struct edit *edit; /* one of the two */
    const struct record *record;
};

struct cut {
    int row;
    const struct edit *edit;
};

struct span {
    int first, end;
};

struct watching {
    engine *en;
    const struct pass_row *rows;
    const int *want;
    int n, n_want;
    struct item *items; /* (n_items) by row, edits before records */
    struct cut *cuts;   /* (n_cuts) knockouts, by row */
    int n_items, n_cuts, item_room, cut_room;
    struct span *spans; /* (L + 2)(TAP_COUNT) rows that want the tap of a layer, from -1 on */
    struct tap tap;
    const uint64_t **blocked; /* (scratch rows) of the current layer */
    size_t *bits_at;          /* (scratch rows) where a row's begin */
    uint64_t *bits;           /* (bits_room) of all rows with knockouts */
    size_t bits_room;
    /* keys last read for attention weights: consecutive rows of a cache need them again */
    const cache *keys_of;
    int keys_layer, n_keys;
    float *keys;
};

/* ---- during a pass ---- */

static void edit_row(const struct watching *t, const struct item *it, int l, int site, float *x, int width)
{
    const struct edit *ed = it->edit;
    const struct pass_row *row = &t->rows[it->row];
    int id = cache_position(row->cache, row->pos), heads, size = watch_head(&t->en->model, site, &heads), h;
    if (!heads) edit_apply(t->en, ed, l, site, it->i, id, 0, width, x);
    for (h = 0; heads && h < ed->n_heads; h++)
        edit_apply(t->en, ed, l, site, it->i, id, ed->heads[h] * size, size, x + ed->heads[h] * size);
}

static const float *keys_of_row(struct watching *t, int row, int layer)
{
    const struct pass_row *r = &t->rows[row];
    int last = row;
    if (t->keys_of == r->cache && t->keys_layer == layer && t->n_keys > r->pos) return t->keys;
    while (last + 1 < t->n && t->rows[last + 1].cache == r->cache && t->rows[last + 1].layer <= layer) last++;
    free(t->keys);
    t->keys_of = r->cache;
    t->keys_layer = layer;
    t->n_keys = t->rows[last].pos + 1;
    t->keys = forward_keys(r->cache, layer, t->n_keys);
    return t->keys;
}

static void record_attention(struct watching *t, const struct item *it, int l, const float *q)
{
    const struct record *r = it->record;
    const struct pass_row *row = &t->rows[it->row];
    int H = t->en->model.H, n = row->pos + 1, most = n < r->n_tokens ? n : r->n_tokens, h, k;
    size_t wide = (size_t)H * (size_t)r->n_tokens;
    bool adds = r->site == SITE_RECEIVED;
    float *out = r->out + (adds ? (size_t)l : (size_t)l * (size_t)r->n_at + (size_t)it->i) * wide,
          *weights = mem_array((size_t)H * (size_t)n, sizeof *weights);
    const float *keys = keys_of_row(t, it->row, r->layers[l]);
    forward_weights(t->en, row, r->layers[l], q, keys, t->n_keys, t->n_cuts ? t->blocked[it->row] : NULL, weights);
    if (!adds) memset(out, 0, wide * sizeof *out);
    for (h = 0; h < H; h++, out += r->n_tokens)
        for (k = 0; k < most; k++) out[k] = adds ? out[k] + weights[h * n + k] : weights[h * n + k];
    free(weights);
}

static void record_row(struct watching *t, const struct item *it, int l, const float *x, int width)
{
    const struct record *r = it->record;
    if (r->site == SITE_ATTN || r->site == SITE_RECEIVED)
        record_attention(t, it, l, x);
    else
        memcpy(r->out + ((size_t)l * (size_t)r->n_at + (size_t)it->i) * (size_t)width, x, (size_t)width * sizeof *x);
}

/* Which of the rows handed to a tap an item means; -1: none of them. */
static int row_in(const struct watching *t, const struct item *it, enum tap_site tap, const struct pass_row *rows, int n)
{
    bool logits = tap == TAP_LOGITS; /* of the wanted rows alone */
    int first = (int)(rows - (logits ? t->en->s.tap_rows : t->rows)), b = it->row;
    if (logits) b = watch_find(t->want, t->n_want, it->row);
    return b >= first && b - first < n ? b - first : -1;
}

static void at_site(void *arg, int layer, enum tap_site tap, float *x, const struct pass_row *rows, int n, int width)
{
    struct watching *t = arg;
    int i, b, l, s, site = 0;
    for (s = 0; s < N_SITES; s++)
        if (sites[s].tap == tap) site |= sites[s].site;
    if (tap == TAP_LOGITS) layer = 0;
    for (i = 0; i < t->n_items; i++) {
        const struct item *it = &t->items[i];
        if (!(it->sites & site) || (b = row_in(t, it, tap, rows, n)) < 0) continue;
        if (it->edit) {
            if ((l = watch_find(it->edit->layers, it->edit->n_layers, layer)) >= 0)
                edit_row(t, it, l, site, x + (size_t)b * (size_t)width, width);
        } else if ((l = watch_find(it->record->layers, it->record->n_layers, layer)) >= 0) {
            record_row(t, it, l, x + (size_t)b * (size_t)width, width);
        }
    }
}

static bool range_of(void *arg, int layer, enum tap_site site, int n, int *first, int *end)
{
    const struct watching *t = arg;
    const struct span *s = &t->spans[(size_t)((site == TAP_LOGITS ? 0 : layer) + 1) * TAP_COUNT + site];
    *first = s->first;
    *end = s->end < n ? s->end : n;
    if (site == TAP_LOGITS) {
        for (*first = 0; *first < n && t->want[*first] < s->first;) ++*first;
        for (*end = *first; *end < n && t->want[*end] < s->end;) ++*end;
    }
    return *first < *end;
}

static const uint64_t *const *blocked_of(void *arg, int layer, int n)
{
    struct watching *t = arg;
    const struct model *m = &t->en->model;
    bool any = false;
    int c, h, i;
    memset(t->blocked, 0, (size_t)t->n * sizeof *t->blocked);
    for (c = 0; c < t->n_cuts; c++) {
        const struct edit *ed = t->cuts[c].edit;
        int row = t->cuts[c].row, pages = t->rows[row].pos / PAGE_TOKENS + 1;
        uint64_t *bits = t->bits + t->bits_at[row];
        if (row >= n || watch_find(ed->layers, ed->n_layers, layer) < 0) continue;
        if (!t->blocked[row]) memset(bits, 0, (size_t)m->H * (size_t)pages * sizeof *bits);
        t->blocked[row] = bits;
        any = true;
        for (h = 0; h < ed->n_heads; h++)
            for (i = 0; i < ed->n_at; i++)
                if (ed->at[i] <= t->rows[row].pos)
                    bits[ed->heads[h] * pages + ed->at[i] / PAGE_TOKENS] |= (uint64_t)1 << ed->at[i] % PAGE_TOKENS;
    }
    return any ? t->blocked : NULL;
}

/* ---- before it ---- */

static void want_at(struct watching *t, int row, const int *layers, int n_layers, int wanted, bool changes)
{
    int s, l;
    for (s = 0; s < N_SITES; s++) {
        enum tap_site tap = sites[s].tap;
        if (!(wanted & sites[s].site)) continue;
        t->tap.sites |= 1u << tap;
        if (changes) t->tap.looks &= ~(1u << tap);
        for (l = 0; l < n_layers; l++) {
            struct span *span = &t->spans[(size_t)(layers[l] + 1) * TAP_COUNT + tap];
            /* the residual that a row begins with can be changed, too; logits lie behind all layers */
            if (layers[l] < t->rows[row].layer - (sites[s].site == SITE_RESID) && tap != TAP_LOGITS) continue;
            if (span->first >= span->end) span->first = row;
            span->end = row + 1;
        }
    }
}

static void add_item(struct watching *t, struct item it)
{
    if (t->n_items == t->item_room) {
        t->item_room = t->item_room ? 2 * t->item_room : 256;
        t->items = mem_grow(t->items, (size_t)t->item_room, sizeof *t->items);
    }
    t->items[t->n_items++] = it;
}

static void add_cut(struct watching *t, int row, const struct edit *ed)
{
    if (ed->queries && watch_find(ed->queries, ed->n_queries, t->rows[row].pos) < 0) return;
    if (t->n_cuts == t->cut_room) {
        t->cut_room = t->cut_room ? 2 * t->cut_room : 64;
        t->cuts = mem_grow(t->cuts, (size_t)t->cut_room, sizeof *t->cuts);
    }
    t->cuts[t->n_cuts++] = (struct cut){row, ed};
}

static void hide(const struct pass_row *row, const struct edit *ed)
{
    int l, h;
    for (l = 0; l < ed->n_layers; l++)
        for (h = 0; h < ed->n_heads; h++)
            edit_hide((struct page *)(void *)row->cache->pages[ed->layers[l]][row->pos / PAGE_TOKENS], ed->heads[h], row->pos);
    if (ed->op == EDIT_EVICT && ed->compact) cache_close(row->cache, row->pos);
}

static void list_row(struct watching *t, int row)
{
    const struct pass_row *r = &t->rows[row];
    const struct watch *w = r->watch;
    int k, i;
    for (k = 0; k < w->n_edits; k++) {
        const struct edit *ed = &w->edits[k];
        int tensors = ed->op == EDIT_EVICT ? CACHE_K | CACHE_V : ed->tensors;
        if (ed->op == EDIT_KNOCKOUT) add_cut(t, row, ed);
        if (ed->op == EDIT_KNOCKOUT || (i = watch_find(ed->at, ed->n_at, r->pos)) < 0) continue;
        if (ed->op == EDIT_MASK || ed->op == EDIT_EVICT) hide(r, ed);
        if (ed->op == EDIT_MASK) continue;
        add_item(t, (struct item){.row = row, .i = i, .sites = tensors, .edit = ed});
        want_at(t, row, ed->layers, ed->n_layers, tensors, true);
    }
    for (k = 0; k < w->n_records; k++) {
        const struct record *rec = &w->records[k];
        i = rec->site == SITE_RECEIVED ? 0 : watch_find(rec->at, rec->n_at, r->pos);
        if (i < 0) continue;
        add_item(t, (struct item){.row = row, .i = i, .sites = rec->site, .record = rec});
        want_at(t, row, rec->layers, rec->n_layers, rec->site, false);
    }
}

/* Room for the bits of every row that has knockouts. */
static void cut_bits(struct watching *t)
{
    size_t used = 0;
    int c, last = -1;
    for (c = 0; c < t->n_cuts; c++) {
        int row = t->cuts[c].row;
        if (row == last) continue;
        last = row;
        t->bits_at[row] = used;
        used += (size_t)t->en->model.H * (size_t)(t->rows[row].pos / PAGE_TOKENS + 1);
    }
    if (used <= t->bits_room) return;
    free(t->bits);
    t->bits_room = 2 * used;
    t->bits = mem_array(t->bits_room, sizeof *t->bits);
}

static struct watching *watching_of(engine *en)
{
    struct watching *t = en->watching;
    if (t) return t;
    t = en->watching = mem_alloc(sizeof *t);
    t->en = en;
    t->spans = mem_array((size_t)(en->model.n_layer + 2) * TAP_COUNT, sizeof *t->spans);
    t->blocked = mem_array((size_t)en->s.rows, sizeof *t->blocked);
    t->bits_at = mem_array((size_t)en->s.rows, sizeof *t->bits_at);
    return t;
}

void watch_free(engine *en)
{
    struct watching *t = en->watching;
    if (!t) return;
    free(t->items);
    free(t->cuts);
    free(t->spans);
    free(t->blocked);
    free(t->bits_at);
    free(t->bits);
    free(t->keys);
    free(t);
    en->watching = NULL;
}

int watch_pass(engine *en, const struct pass_row *rows, int n, const int *want, int n_want, err *e)
{
    const struct tap *outer = en->tap;
    struct watching *t;
    int i, first = 0, rc;
    while (first < n && !rows[first].watch) first++;
    if (first == n) return forward(en, rows, n, want, n_want, e);
    t = watching_of(en);
    t->rows = rows;
    t->want = want;
    t->n = n;
    t->n_want = n_want;
    t->n_items = t->n_cuts = 0;
    t->tap = (struct tap){at_site, t, 0, ~0u, range_of, NULL};
    memset(t->spans, 0, (size_t)(en->model.n_layer + 2) * TAP_COUNT * sizeof *t->spans);
    for (i = first; i < n; i++)
        if (rows[i].watch) list_row(t, i);
    cut_bits(t);
    if (t->n_cuts) t->tap.blocked = blocked_of;
    if (t->n_items || t->n_cuts) forward_tap(en, &t->tap);
    rc = forward(en, rows, n, want, n_want, e);
    forward_tap(en, outer);
    free(t->keys);
    t->keys = NULL;
    t->keys_of = NULL;
    return rc;
}
