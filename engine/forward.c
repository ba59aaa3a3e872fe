/* forward.c: one pass over the layers for n rows, prefill and decode alike, of every architecture.
 *
 * A row is (cache, token, position). In a prefill the rows are one cache's next tokens, in decoding one token of each
 * cache; the arithmetic does not know the difference, which is why cached equals recomputed to the bit.
 *
 * Traffic per pass: every weight once, plus the pages that the rows point to, each once per group of neighbours that share it.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* Walks a pointer through one allocation: counts with base NULL, hands out addresses otherwise. */
static void *carve(char *base, size_t *used, size_t n, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

static size_t host_layout(struct scratch *s, const struct model *m, char *base)
{
    size_t used = 0, B = (size_t)s->rows;
    s->host_cos = carve(base, &used, B * (size_t)m->n_rot / 2, sizeof(float));
    s->host_sin = carve(base, &used, B * (size_t)m->n_rot / 2, sizeof(float));
    s->host_ids = carve(base, &used, B, sizeof(int));
    s->host_pos = carve(base, &used, B, sizeof(int));
    s->host_picks = carve(base, &used, LOGIT_ROWS, sizeof *s->host_picks);
    s->host_slot = carve(base, &used, B, sizeof(int));
    s->pages = carve(base, &used, B, sizeof *s->pages);
    s->tap_rows = carve(base, &used, LOGIT_ROWS, sizeof *s->tap_rows);
    s->feed_rows = carve(base, &used, B, sizeof *s->feed_rows);
    return used;
}

static size_t scratch_layout(struct scratch *s, const struct model *m, char *base)
{
    size_t used = 0, B = (size_t)s->rows, D = (size_t)m->D, HE = (size_t)m->H * m->E, GE = (size_t)m->G * m->E,
           F = (size_t)m->F;
    int r;
    s->x = carve(base, &used, B * D, sizeof(float));
    s->h = carve(base, &used, B * D, sizeof(float));
    s->y = carve(base, &used, B * D, sizeof(float));
    s->q = carve(base, &used, B * HE, sizeof(float));
    s->att = carve(base, &used, B * HE, sizeof(float));
    s->k = carve(base, &used, B * GE, sizeof(float));
    s->v = carve(base, &used, B * GE, sizeof(float));
    s->qkv = carve(base, &used, m->layers[0].qkv.w.data ? 3 * B * HE : 0, sizeof(float));
    s->gate = carve(base, &used, B * F, sizeof(float));
    s->up = carve(base, &used, B * F, sizeof(float));
    s->last = carve(base, &used, LOGIT_ROWS * D, sizeof(float));
    s->logits = carve(base, &used, LOGIT_ROWS * (size_t)m->V, sizeof(float));
    for (r = 0; r == 0 || r < m->n_ropes; r++) { /* one, empty, for learned positions */
        s->cos[r] = carve(base, &used, B * (size_t)m->n_rot / 2, sizeof(float));
        s->sin[r] = carve(base, &used, B * (size_t)m->n_rot / 2, sizeof(float));
    }
    s->ids = carve(base, &used, B, sizeof(int));
    s->pos = carve(base, &used, B, sizeof(int));
    s->picks = carve(base, &used, LOGIT_ROWS, sizeof *s->picks);
    return used;
}

int scratch_init(engine *en, int rows, err *e)
{
    struct scratch *s = &en->s;
    size_t bytes;
    s->rows = rows;
    bytes = scratch_layout(s, &en->model, NULL);
    s->base = en->k->alloc(bytes);
    s->bytes = bytes;
    if (!s->base) return err_set(e, ERR_ENV, "no memory for passes of %d rows (%zu bytes)", rows, bytes);
    scratch_layout(s, &en->model, s->base);
    s->host = mem_alloc(host_layout(s, &en->model, NULL));
    host_layout(s, &en->model, s->host);
    return 0;
}

void scratch_free(engine *en)
{
    if (en->s.base) en->k->release(en->s.base);
    free(en->s.host);
    free(en->tap_x);
    en->s = (struct scratch){0};
    en->tap_x = NULL;
    en->tap_size = 0;
}

/* ---- taps ---- */

/* Whether a site of a layer is wanted, and of which of the n rows. */
static bool tapped(const engine *en, int layer, enum tap_site site, int n, int *first, int *end)
{
    const struct tap *t = en->tap;
    *first = 0;
    *end = n;
    if (!t || !(t->sites >> site & 1)) return false;
    return !t->range || t->range(t->arg, layer, site, n, first, end);
}

static bool changed(const engine *en, int layer, enum tap_site site, int n)
{
    int first, end;
    return tapped(en, layer, site, n, &first, &end) && !(en->tap->looks >> site & 1);
}

static float *tap_room(engine *en, size_t n)
{
    if (n > en->tap_size) {
        free(en->tap_x);
        en->tap_x = mem_array(n, sizeof *en->tap_x);
        en->tap_size = n;
    }
    return en->tap_x;
}

/* The turning part of each of n heads from pairs (2i, 2i+1) to (i, i + n_rot/2), or back. */
static void reorder(float *x, const struct model *m, int n, bool back)
{
    float t[HEAD_MAX];
    int i, half = m->n_rot / 2;
    for (; n > 0; n--, x += m->E) {
        memcpy(t, x, (size_t)m->n_rot * sizeof *t);
        for (i = 0; i < m->n_rot; i++) {
            int from = i % half * 2 + i / half;
            x[back ? from : i] = t[back ? i : from];
        }
    }
}

static void tap_at(engine *en, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width)
{
    const struct model *m = &en->model;
    bool pairs = site == TAP_K_PRE && m->rope_interleaved;
    size_t bytes;
    float *host;
    int first, end;
    if (!tapped(en, layer, site, n, &first, &end)) return;
    n = end - first;
    x += (size_t)first * (size_t)width;
    bytes = (size_t)n * (size_t)width * sizeof *x;
    host = tap_room(en, bytes / sizeof *x);
    en->k->get(host, x, bytes);
    if (pairs) reorder(host, m, n * m->G, false);
    en->tap->at(en->tap->arg, layer, site, host, rows + first, n, width);
    if (en->tap->looks >> site & 1) return;
    if (pairs) reorder(host, m, n * m->G, true);
    en->k->put(x, host, bytes);
}

void forward_tap(engine *en, const struct tap *t)
{
    en->tap = t;
}

float *forward_keys(const cache *c, int layer, int n)
{
    const engine *en = c->en;
    size_t all = (size_t)en->model.G * (size_t)n * (size_t)en->model.E;
    float *keys = mem_array(all, sizeof *keys), *raw = mem_array(all, sizeof *raw);
    cache_read(c, layer, CACHE_K, 0, n, raw);
    kernels_widen(keys, raw, en->attn.kv_type, all);
    free(raw);
    return keys;
}

void forward_weights(const engine *en, const struct pass_row *row, int layer, const float *q, const float *keys, int n_keys,
                     const uint64_t *blocked, float *weights)
{
    const struct model *m = &en->model;
    const struct layer *w = &m->layers[layer];
    struct attn a = en->attn;
    int n = row->pos + 1, first = w->window && n > w->window ? n - w->window : 0, pages = row->pos / PAGE_TOKENS + 1, h, t;
    unsigned char *seen = mem_alloc((size_t)n);
    a.scale = w->scale;
    a.cap = m->score_cap;
    for (h = 0; h < m->H; h++) {
        int g = h / (m->H / m->G);
        for (t = 0; t < n; t++) {
            const struct kv_page *p = row->cache->pages[layer][t / PAGE_TOKENS];
            uint64_t away = (p->hidden ? p->hidden[g] : 0) | (blocked ? blocked[h * pages + t / PAGE_TOKENS] : 0);
            seen[t] = t >= first && !(away >> t % PAGE_TOKENS & 1);
        }
        kernels_attention_row(weights + (size_t)h * (size_t)n, q + (size_t)h * (size_t)m->E,
                              keys + (size_t)g * (size_t)n_keys * (size_t)m->E, seen, n, &a);
    }
    free(seen);
}

/* ---- parts of a layer ---- */

static void norm(const engine *en, float *y, const float *x, const struct norm *w, int n, int width)
{
    const struct model *m = &en->model;
    if (m->norm == NORM_LAYER)
        en->k->layernorm(y, x, w->w, w->b, m->norm_eps, n, width);
    else
        en->k->rmsnorm(y, x, w->w, m->norm_eps, n, width);
}

static void multiply(const engine *en, float *y, const struct linear *w, const float *x, int n, enum matmul_then then)
{
    if (w->w.ldt)
        en->k->matmul_t(y, w->w.rows, &w->w, x, n, then);
    else
        en->k->matmul(y, w->w.rows, &w->w, x, n, then);
    if (w->b) en->k->add(y, w->b, 0, n, w->w.rows);
}

/* x += w in, then its norm if there is one. The sum is x + (w in + b) with or without a tap, so both give the same bits. */
static void add_part(engine *en, const struct linear *w, const struct norm *post, const float *in, int layer,
                     enum tap_site site, const struct pass_row *rows, int n)
{
    struct scratch *s = &en->s;
    int D = en->model.D, first, end;
    if (!w->b && !post->w && !tapped(en, layer, site, n, &first, &end)) {
        multiply(en, s->x, w, in, n, MATMUL_ADD);
        return;
    }
    multiply(en, s->y, w, in, n, MATMUL_STORE);
    if (post->w) norm(en, s->y, s->y, post, n, D);
    tap_at(en, layer, site, s->y, rows, n, D);
    en->k->add(s->x, s->y, D, n, D);
}

static void project_qkv(const engine *en, const struct layer *w, const float *in, int n)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    const struct scratch *s = &en->s;
    size_t head = (size_t)m->E * sizeof(float), heads = (size_t)n * (size_t)m->H;
    if (w->qkv.w.data) {
        multiply(en, s->qkv, &w->qkv, in, n, MATMUL_STORE);
        k->copy_rows(s->q, head, s->qkv, 3 * head, head, heads);
        k->copy_rows(s->k, head, s->qkv + m->E, 3 * head, head, heads);
        k->copy_rows(s->v, head, s->qkv + 2 * m->E, 3 * head, head, heads);
    } else {
        multiply(en, s->q, &w->q, in, n, MATMUL_STORE);
        multiply(en, s->k, &w->k, in, n, MATMUL_STORE);
        multiply(en, s->v, &w->v, in, n, MATMUL_STORE);
    }
    if (m->qk_norm == QK_NORM_HEAD) {
        norm(en, s->q, s->q, &w->q_norm, n * m->H, m->E);
        norm(en, s->k, s->k, &w->k_norm, n * m->G, m->E);
    } else if (m->qk_norm == QK_NORM_ALL) {
        norm(en, s->q, s->q, &w->q_norm, n, m->H * m->E);
        norm(en, s->k, s->k, &w->k_norm, n, m->G * m->E);
    }
}

/* Queries, keys and values of the rows, and what each query head reads. */
static void attention_block(engine *en, const struct layer *w, const struct pass_row *rows, const struct rows *r, int layer)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    struct rope rope = {s->cos[w->rope], s->sin[w->rope], m->n_rot, m->rope_interleaved}, still = {rope.cos, rope.sin, 0, 0};
    struct attn a = en->attn;
    const float *in = s->x;
    const uint64_t *const *blocked = NULL;
    int n = r->B;
    a.scale = w->scale;
    a.window = w->window;
    if (w->attn_norm.w) {
        norm(en, s->h, s->x, &w->attn_norm, n, m->D);
        in = s->h;
    }
    project_qkv(en, w, in, n);
    if (m->parallel) norm(en, s->h, s->x, &w->ffn_norm, n, m->D); /* before attention's part is added */
    tap_at(en, layer, TAP_K_PRE, s->k, rows, n, m->G * m->E);
    tap_at(en, layer, TAP_V, s->v, rows, n, m->G * m->E);
    /* All rows are appended before any attends; a row sees positions up to its own, so the later ones do not matter. */
    k->rope_append(s->q, s->k, s->v, &rope, r, layer, &a);
    tap_at(en, layer, TAP_K, s->k, rows, n, m->G * m->E);
    if (changed(en, layer, TAP_K, n)) k->rope_append(s->q, s->k, s->v, &still, r, layer, &a);
    if (en->tap && en->tap->blocked) blocked = en->tap->blocked(en->tap->arg, layer, n);
    tap_at(en, layer, TAP_Q, s->q, rows, n, m->H * m->E);
    k->attend(s->att, s->q, r, layer, blocked, &a);
    tap_at(en, layer, TAP_HEAD_OUT, s->att, rows, n, m->H * m->E);
}

static void ffn_block(engine *en, const struct layer *w, const struct pass_row *rows, int n, int layer)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    const float *in = w->ffn_norm.w ? s->h : s->x;
    enum gelu form = m->activation == ACTIVATION_GELU_TANH ? GELU_TANH : GELU_EXACT;
    if (w->ffn_norm.w && !m->parallel) norm(en, s->h, s->x, &w->ffn_norm, n, m->D);
    multiply(en, s->up, &w->up, in, n, MATMUL_STORE);
    if (!w->gate.w.data) {
        k->gelu(s->gate, s->up, NULL, form, n, m->F);
    } else {
        multiply(en, s->gate, &w->gate, in, n, MATMUL_STORE);
        if (m->activation == ACTIVATION_SILU)
            k->swiglu(s->gate, s->gate, s->up, n, m->F);
        else
            k->gelu(s->gate, s->gate, s->up, form, n, m->F);
    }
    add_part(en, &w->down, &w->ffn_post, s->gate, layer, TAP_MLP_OUT, rows, n);
}

/* ---- the pass ---- */

void forward_rows(engine *en, const struct pass_row *rows, int n)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    size_t ints = (size_t)n * sizeof(int), half = (size_t)m->n_rot / 2, angles = (size_t)n * half * sizeof(float);
    int i;
    for (i = 0; i < n; i++) {
        s->host_ids[i] = rows[i].token;
        s->host_slot[i] = rows[i].pos;
        s->host_pos[i] = cache_position(rows[i].cache, rows[i].pos);
        s->pages[i] = (struct kv_page *const *const *)rows[i].cache->pages;
    }
    k->put(s->ids, s->host_ids, ints);
    k->put(s->pos, s->host_pos, ints);
    for (i = 0; i < m->n_ropes; i++) {
        angles_of(en, i, s->host_pos, n, s->host_cos, s->host_sin);
        k->put(s->cos[i], s->host_cos, angles);
        k->put(s->sin[i], s->host_sin, angles);
    }
    s->r = (struct rows){n, s->host_slot, (struct kv_page *const *const *const *)s->pages};
}

static void embed(engine *en, const struct pass_row *rows, int n)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    k->embed(s->x, &m->embed, s->ids, n);
    if (m->pos_embed.data) {
        k->embed(s->y, &m->pos_embed, s->pos, n);
        k->add(s->x, s->y, m->D, n, m->D);
    }
    if (m->embed_scale != 1) k->scale(s->x, s->x, m->embed_scale, (size_t)n * (size_t)m->D);
    tap_at(en, -1, TAP_EMBED, s->x, rows, n, m->D);
}

/* at: (n) where the residuals of the wanted rows lie. */
static void logits(engine *en, const struct pass_row *rows, const int *want, const int *at, int n)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    int i;
    for (i = 0; i < n; i++) k->copy(s->last + (size_t)i * m->D, s->x + (size_t)at[i] * m->D, (size_t)m->D * sizeof(float));
    norm(en, s->last, s->last, &m->out_norm, n, m->D);
    k->matmul(s->logits, m->V, &m->head, s->last, n, MATMUL_STORE);
    if (m->logit_cap > 0) k->softcap(s->logits, s->logits, m->logit_cap, (size_t)n * (size_t)m->V);
    if (en->tap && en->tap->sites >> TAP_LOGITS & 1) {
        for (i = 0; i < n; i++) s->tap_rows[i] = rows[want[i]];
        tap_at(en, m->n_layer, TAP_LOGITS, s->logits, s->tap_rows, n, m->V);
    }
    k->pick(s->picks, s->logits, n, m->V);
}

/* How many of n rows, sorted by their first layer, have begun at a layer. */
static int begun(const struct pass_row *rows, int n, int from, int layer)
{
    while (from < n && rows[from].layer <= layer) from++;
    return from;
}

/* What enters the first layers of the rows first..n-1. Residuals that lie behind each other go in one piece. */
static void put_residuals(engine *en, const struct pass_row *rows, int first, int n)
{
    size_t D = (size_t)en->model.D;
    int i, run;
    for (i = first; i < n; i += run) {
        for (run = 1; i + run < n && rows[i + run].resid == rows[i].resid + (size_t)run * D;) run++;
        en->k->put(en->s.x + (size_t)i * D, rows[i].resid, (size_t)run * D * sizeof(float));
    }
}

/* Whether somebody looks at what a layer adds to the residuals, or at these. */
static bool watched_behind(const engine *en, int layer, int n)
{
    int first, end;
    return tapped(en, layer, TAP_ATTN_OUT, n, &first, &end) || tapped(en, layer, TAP_MLP_OUT, n, &first, &end) ||
           tapped(en, layer, TAP_RESID, n, &first, &end);
}

/* Moves the wanted rows to the front: behind the last layer's attention nothing reads the others, whose keys and values are in
   their caches by then. */
static void keep_wanted(engine *en, const int *want, int n)
{
    const struct kernels *k = en->k;
    const struct scratch *s = &en->s;
    size_t D = (size_t)en->model.D, HE = (size_t)en->model.H * (size_t)en->model.E;
    int i;
    for (i = 0; i < n; i++) {
        if (want[i] == i) continue;
        k->copy(s->x + (size_t)i * D, s->x + (size_t)want[i] * D, D * sizeof(float));
        k->copy(s->h + (size_t)i * D, s->h + (size_t)want[i] * D, D * sizeof(float));
        k->copy(s->att + (size_t)i * HE, s->att + (size_t)want[i] * HE, HE * sizeof(float));
    }
}

/* The rows that a layer has are the first ones, and with each layer they become more. */
static void all_layers(engine *en, const struct pass_row *rows, int n, const int *want, int n_want)
{
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    const int *kept = want; /* where the wanted rows are by the end */
    int layer, here = begun(rows, n, 0, 0), next, all[LOGIT_ROWS], i;
    if (here < n) put_residuals(en, rows, here, n);
    if (here > 0) embed(en, rows, here);
    for (layer = 0; layer < m->n_layer; layer++, here = next) {
        s->part = s->r;
        s->part.B = here;
        if (here > 0) {
            const struct layer *w = &m->layers[layer];
            attention_block(en, w, rows, here == n ? &s->r : &s->part, layer);
            if (layer == m->n_layer - 1 && here == n && n_want < n && !watched_behind(en, layer, n)) {
                keep_wanted(en, want, n_want);
                for (i = 0; i < n_want; i++) all[i] = i;
                kept = all;
                here = n_want;
            }
            if (here > 0) {
                add_part(en, &w->o, &w->attn_post, s->att, layer, TAP_ATTN_OUT, rows, here);
                ffn_block(en, w, rows, here, layer);
            }
        }
        next = begun(rows, n, here, layer + 1);
        if (next > 0) tap_at(en, layer, TAP_RESID, s->x, rows, next, m->D);
    }
    if (n_want > 0) logits(en, rows, want, kept, n_want);
}

int forward(engine *en, const struct pass_row *rows, int n, const int *want, int n_want, err *e)
{
    const struct kernels *k = en->k;
    int plain = !en->tap && n_want == n && rows[n - 1].layer == 0;
    trouble_pass(en);
    forward_rows(en, rows, n);
    /* Plain is a step of decoding: as many logits as rows, in their order. */
    if (!k->begin(&en->s.r, en->model.n_layer, plain)) all_layers(en, rows, n, want, n_want);
    k->end();
    if (n_want > 0) k->get(en->s.host_picks, en->s.picks, (size_t)n_want * sizeof *en->s.picks);
    return trouble_take(en, e);
}
