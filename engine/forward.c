/* forward.c: one pass over the layers for n rows, prefill and decode alike.
 *
 * A row is (cache, token, position). In a prefill the rows are one cache's next tokens, in decoding one token of each
 * cache; the arithmetic does not know the difference, which is why cached equals recomputed to the bit.
 *
 * Traffic per pass: every weight once, plus the pages that the rows point to, each once per group of neighbours that share it.
 */
#include "internal.h"

#include <math.h>
#include <string.h>

/* Walks a pointer through one allocation: counts with base NULL, hands out addresses otherwise. */
static void *carve(char *base, size_t *used, size_t n, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

static size_t scratch_layout(struct scratch *s, const struct model *m, char *base)
{
    size_t used = 0, B = (size_t)s->rows, D = (size_t)m->D, HE = (size_t)m->H * m->E, GE = (size_t)m->G * m->E,
           F = (size_t)m->F;
    s->x = carve(base, &used, B * D, sizeof(float));
    s->h = carve(base, &used, B * D, sizeof(float));
    s->q = carve(base, &used, B * HE, sizeof(float));
    s->att = carve(base, &used, B * HE, sizeof(float));
    s->k = carve(base, &used, B * GE, sizeof(float));
    s->v = carve(base, &used, B * GE, sizeof(float));
    s->gate = carve(base, &used, B * F, sizeof(float));
    s->up = carve(base, &used, B * F, sizeof(float));
    s->last = carve(base, &used, LOGIT_ROWS * D, sizeof(float));
    s->logits = carve(base, &used, LOGIT_ROWS * (size_t)m->V, sizeof(float));
    s->cos = carve(base, &used, B * (size_t)m->n_rot, sizeof(float));
    s->sin = carve(base, &used, B * (size_t)m->n_rot, sizeof(float));
    s->ids = carve(base, &used, B, sizeof(int));
    s->pos = carve(base, &used, B, sizeof(int));
    s->pages = carve(base, &used, B, sizeof *s->pages);
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
    if (!s->base) return err_set(e, ERR_ENV, "no memory for passes of %d rows (%zu bytes)", rows, bytes);
    scratch_layout(s, &en->model, s->base);
    return 0;
}

void scratch_free(engine *en)
{
    if (en->s.base) en->k->release(en->s.base);
    en->s = (struct scratch){0};
}

static void attention_block(engine *en, const struct layer *w, const struct pass_row *rows, int n, int layer)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    struct rope rope = {s->cos, s->sin, m->n_rot, m->rope_interleaved};
    int i;
    for (i = 0; i < n; i++) s->pages[i] = rows[i].cache->pages[layer];
    k->rmsnorm(s->h, s->x, w->attn_norm, m->norm_eps, n, m->D);
    k->matmul(s->q, m->H * m->E, &w->wq, s->h, n, MATMUL_STORE);
    k->matmul(s->k, m->G * m->E, &w->wk, s->h, n, MATMUL_STORE);
    k->matmul(s->v, m->G * m->E, &w->wv, s->h, n, MATMUL_STORE);
    /* All rows are appended before any attends; a row sees positions up to its own, so the later ones do not matter. */
    k->rope_append(s->q, s->k, s->v, &rope, s->pages, s->pos, &en->attn, n);
    k->attend(s->att, s->q, s->pages, s->pos, &en->attn, n);
    k->matmul(s->x, m->D, &w->wo, s->att, n, MATMUL_ADD);
}

static void ffn_block(engine *en, const struct layer *w, int n)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    k->rmsnorm(s->h, s->x, w->ffn_norm, m->norm_eps, n, m->D);
    k->matmul(s->gate, m->F, &w->w_gate, s->h, n, MATMUL_STORE);
    k->matmul(s->up, m->F, &w->w_up, s->h, n, MATMUL_STORE);
    k->swiglu(s->gate, s->gate, s->up, n, m->F);
    k->matmul(s->x, m->D, &w->w_down, s->gate, n, MATMUL_ADD);
}

void forward(engine *en, const struct pass_row *rows, int n, const int *want, int n_want)
{
    const struct kernels *k = en->k;
    const struct model *m = &en->model;
    struct scratch *s = &en->s;
    int i, layer;
    for (i = 0; i < n; i++) {
        s->ids[i] = rows[i].token;
        s->pos[i] = rows[i].pos;
    }
    kernels_rope_table(s->cos, s->sin, m->rope_freqs, s->pos, m->n_rot / 2, n);
    k->embed(s->x, &m->embed, s->ids, n);
    for (layer = 0; layer < m->n_layer; layer++) {
        attention_block(en, &m->layers[layer], rows, n, layer);
        ffn_block(en, &m->layers[layer], n);
    }
    if (n_want == 0) return;
    for (i = 0; i < n_want; i++)
        k->copy(s->last + (size_t)i * m->D, s->x + (size_t)want[i] * m->D, (size_t)m->D * sizeof(float));
    k->rmsnorm(s->last, s->last, m->out_norm, m->norm_eps, n_want, m->D);
    k->matmul(s->logits, m->V, &m->head, s->last, n_want, MATMUL_STORE);
    k->pick(s->picks, s->logits, n_want, m->V);
}
