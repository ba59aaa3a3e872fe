/* edit_values.c: what an edit makes of numbers, the same in a finished cache and during a pass. All arithmetic is f32, in the
 * order of the elements; nothing here depends on which other positions are edited, but for quantising over positions.
 */
#include "internal.h"

#include <math.h>
#include <string.h>

void edit_turn_make(struct edit_turn *t, const struct model *m, int layer, int delta)
{
    t->half = m->n_rot / 2;
    kernels_rope_table(t->cos, t->sin, m->rope_freqs[m->layers[layer].rope], &delta, t->half, 1);
}

void edit_turn(const struct edit_turn *t, float *x)
{
    int i;
    for (i = 0; i < t->half; i++) {
        float a = x[i], b = x[i + t->half];
        x[i] = a * t->cos[i] - b * t->sin[i];
        x[i + t->half] = b * t->cos[i] + a * t->sin[i];
    }
}

static void turn_by(const struct model *m, int layer, int delta, float *x)
{
    struct edit_turn t;
    if (delta == 0) return; /* not even rounded */
    edit_turn_make(&t, m, layer, delta);
    edit_turn(&t, x);
}

/* One head's vector (E) of a cache as f32. */
static void get_row(const cache *c, int layer, int tensor, int head, int pos, float *x)
{
    const engine *en = c->en;
    char raw[HEAD_MAX * sizeof(float)];
    size_t E = (size_t)en->model.E;
    en->k->get(raw, edit_row_at(c, layer, tensor, head, pos), E * (size_t)dtype_block_bytes(en->attn.kv_type));
    kernels_widen(x, raw, en->attn.kv_type, E);
}

/* The donor's vector for position i of the edit, or the one that was recorded; id: the target's position id. */
static void transplant(const engine *en, const struct edit *ed, int l, int site, int i, int id, int first, int n, float *x)
{
    size_t width = (size_t)engine_site_width(en, site, 0);
    int E = en->model.E, e;
    if (ed->donor)
        get_row(ed->donor, ed->layers[l], site, first / E, ed->donor_at[i], x);
    else
        memcpy(x, ed->vector + ((size_t)l * (size_t)ed->n_at + (size_t)i) * width + first, (size_t)n * sizeof *x);
    if (!ed->rerotate || site != CACHE_K) return;
    if (ed->donor)
        id -= cache_position(ed->donor, ed->donor_at[i]);
    else
        id -= ed->donor_at[i];
    for (e = 0; e < n; e += E) turn_by(&en->model, ed->layers[l], id, x + e);
}

void edit_quantise(float *x, int n, size_t step, int bits)
{
    float least = INFINITY, most = -INFINITY, s;
    int i;
    for (i = 0; i < n; i++) {
        float v = x[(size_t)i * step];
        if (!isfinite(v)) return; /* stays for the logits to tell */
        if (v < least) least = v;
        if (v > most) most = v;
    }
    s = (most - least) / (float)((1 << bits) - 1);
    if (!(s > 0) || !isfinite(s)) return; /* all equal, or too far apart for a step */
    for (i = 0; i < n; i++) {
        float *v = &x[(size_t)i * step];
        *v = rintf((*v - least) / s) * s + least; /* halves to even */
    }
}

void edit_apply(const engine *en, const struct edit *ed, int l, int site, int i, int id, int first, int n, float *x)
{
    size_t width = (size_t)engine_site_width(en, site, 0);
    const float *v = ed->vector ? ed->vector + (size_t)l * width + first : NULL;
    int e;
    switch (ed->op) {
    case EDIT_NOOP:
    case EDIT_MASK:
    case EDIT_SWAP:
    case EDIT_KNOCKOUT: break;
    case EDIT_ZERO:
    case EDIT_EVICT: memset(x, 0, (size_t)n * sizeof *x); break;
    case EDIT_SCALE:
        for (e = 0; e < n; e++) x[e] *= ed->by;
        break;
    case EDIT_ADD:
        for (e = 0; e < n; e++) x[e] += ed->by * v[e];
        break;
    case EDIT_MEAN: memcpy(x, v, (size_t)n * sizeof *x); break;
    case EDIT_NOISE:
        for (e = 0; e < n; e++)
            x[e] += (float)((double)ed->sigma * edit_noise(ed->seed, site, ed->layers[l], ed->at[i], first + e));
        break;
    case EDIT_QUANTISE: edit_quantise(x, n, 1, ed->bits); break;
    case EDIT_TRANSPLANT: transplant(en, ed, l, site, i, id, first, n, x); break;
    }
}
