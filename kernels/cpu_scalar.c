/* cpu_scalar.c: the arithmetic contract of kernels.h as plain loops. This file is the definition: it is written to be read,
 * runs on any processor, and tests/unit/test_kernels.c holds every other path to its bits.
 */
#include "cpu_ops.h"

#include <omp.h>

/* Adds n products to the sixteen lanes; lane j takes elements j, j+16, ..., and a missing tail is zeros. */
static void lanes_fma(float *lane /* (16) */, const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] = i + j < n ? fmaf(a[i + j], b[i + j], lane[j]) : fmaf(0, 0, lane[j]);
}

static float lanes_sum(float *lane /* (16), destroyed */)
{
    for (int step = 8; step; step /= 2)
        for (int j = 0; j < step; j++) lane[j] += lane[j + step];
    return lane[0];
}

static float dot(const float *a, const float *b, int n)
{
    float lane[16] = {0};
    lanes_fma(lane, a, b, n);
    return lanes_sum(lane);
}

static float sum(const float *a, int n)
{
    float lane[16] = {0};
    for (int i = 0; i < n; i += 16)
        for (int j = 0; j < 16; j++) lane[j] += i + j < n ? a[i + j] : 0;
    return lanes_sum(lane);
}

/* ---- rows on their own ---- */

void scalar_embed(float *x, const struct mat *table, const int *ids, int B)
{
    size_t bytes = mat_row_bytes(table), D = (size_t)table->cols;
    for (int b = 0; b < B; b++)
        kernels_widen(x + (size_t)b * D, (const char *)table->data + (size_t)ids[b] * bytes, table->type, D);
}

static void norm_rows(float *y, const float *x, const float *w, float eps, int D, struct cpu_part part)
{
    for (long b = part.from; b < part.to; b++) {
        const float *in = x + (size_t)b * (size_t)D;
        float *out = y + (size_t)b * (size_t)D, rms = sqrtf(dot(in, in, D) / (float)D + eps);
        for (int i = 0; i < D; i++) out[i] = in[i] / rms * w[i];
    }
}

void scalar_rmsnorm(float *y, const float *x, const float *w, float eps, int B, int D)
{
    int T = cpu_team(4.0 * B * D);
    CPU_PARTS(T, B, 1, norm_rows(y, x, w, eps, D, part));
}

static void layernorm_rows(float *y, const float *x, const float *w, const float *b, float eps, int D, struct cpu_part part)
{
    for (long r = part.from; r < part.to; r++) {
        const float *in = x + (size_t)r * (size_t)D;
        float *out = y + (size_t)r * (size_t)D, mean = sum(in, D) / (float)D, deviation;
        for (int i = 0; i < D; i++) out[i] = in[i] - mean;
        deviation = sqrtf(dot(out, out, D) / (float)D + eps);
        for (int i = 0; i < D; i++) out[i] = out[i] / deviation * w[i] + b[i];
    }
}

void scalar_layernorm(float *y, const float *x, const float *w, const float *b, float eps, int B, int D)
{
    int T = cpu_team(4.0 * B * D);
    CPU_PARTS(T, B, 1, layernorm_rows(y, x, w, b, eps, D, part));
}

static void swiglu_range(float *y, const float *gate, const float *up, struct cpu_part part)
{
    for (long i = part.from; i < part.to; i++) y[i] = gate[i] / (1.0f + cpu_exp(-gate[i])) * up[i];
}

void scalar_swiglu(float *y, const float *gate, const float *up, int B, int F)
{
    int T = cpu_team(8.0 * B * F);
    CPU_PARTS(T, (long)B * F, 16, swiglu_range(y, gate, up, part));
}

static void gelu_range(float *y, const float *x, const float *up, enum gelu form, struct cpu_part part)
{
    for (long i = part.from; i < part.to; i++) {
        float g = form == GELU_TANH ? cpu_gelu_tanh(x[i]) : cpu_gelu(x[i]);
        y[i] = up ? g * up[i] : g;
    }
}

void scalar_gelu(float *y, const float *x, const float *up, enum gelu form, int B, int F)
{
    int T = cpu_team(8.0 * B * F);
    CPU_PARTS(T, (long)B * F, 16, gelu_range(y, x, up, form, part));
}

static void softcap_range(float *y, const float *x, float cap, struct cpu_part part)
{
    for (long i = part.from; i < part.to; i++) y[i] = cpu_tanh(x[i] / cap) * cap;
}

void scalar_softcap(float *y, const float *x, float cap, size_t n)
{
    int T = cpu_team(8.0 * (double)n);
    CPU_PARTS(T, (long)n, 16, softcap_range(y, x, cap, part));
}

void scalar_scale(float *y, const float *x, float f, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = x[i] * f;
}

void scalar_add(float *y, const float *x, int ldx, int B, int N)
{
    for (int b = 0; b < B; b++)
        for (int i = 0; i < N; i++) y[(size_t)b * (size_t)N + (size_t)i] += x[(size_t)b * (size_t)ldx + (size_t)i];
}

static struct pick pick_row(const float *x, int V)
{
    struct pick best = {.token = 0, .logprob = NAN, .margin = NAN};
    float second = -INFINITY, lane[16] = {0};
    for (int i = 0; i < V; i++) {
        if (!isfinite(x[i])) best.token = -1;
        if (best.token < 0) return best;
        if (x[i] > x[best.token]) {
            second = x[best.token];
            best.token = i;
        } else if (i > 0 && x[i] > second) {
            second = x[i];
        }
    }
    for (int i = 0; i < V; i++) lane[i % 16] += cpu_exp(x[i] - x[best.token]);
    best.logprob = 0.0f - (float)cpu_log(lanes_sum(lane));
    best.margin = x[best.token] - second + 0.0f; /* of two zeros the sign must not show */
    return best;
}

static void pick_rows(struct pick *out, const float *logits, int V, struct cpu_part part)
{
    for (long b = part.from; b < part.to; b++) out[b] = pick_row(logits + (size_t)b * (size_t)V, V);
}

void scalar_pick(struct pick *out, const float *logits, int B, int V)
{
    int T = cpu_team(8.0 * B * V);
    CPU_PARTS(T, B, 1, pick_rows(out, logits, V, part));
}

/* ---- matmul ---- */

/* Up to BLOCK rows of x against one row of weights, which is widened in pieces; the lanes live across the pieces. */
enum { BLOCK = 16, PIECE = 256 };

static void matmul_rows(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then,
                        struct cpu_part part)
{
    size_t bytes = mat_row_bytes(w), K = (size_t)w->cols, piece_bytes;
    float lanes[BLOCK][16], piece[PIECE];
    piece_bytes = (size_t)(PIECE / dtype_block(w->type)) * (size_t)dtype_block_bytes(w->type);
    for (long r = part.from; r < part.to; r++) {
        for (int b0 = 0; b0 < B; b0 += BLOCK) {
            const char *data = (const char *)w->data + (size_t)r * bytes;
            int n = B - b0 < BLOCK ? B - b0 : BLOCK;
            memset(lanes, 0, sizeof lanes);
            for (size_t k = 0; k < K; k += PIECE, data += piece_bytes) {
                size_t len = K - k < PIECE ? K - k : PIECE;
                kernels_widen(piece, data, w->type, len);
                for (int b = 0; b < n; b++) lanes_fma(lanes[b], piece, x + (size_t)(b0 + b) * K + k, (int)len);
            }
            for (int b = 0; b < n; b++) {
                float *to = y + (size_t)(b0 + b) * (size_t)ldy + r, s = lanes_sum(lanes[b]);
                *to = then == MATMUL_ADD ? *to + s : s;
            }
        }
    }
}

void scalar_matmul(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    int T = cpu_team((double)B * w->rows * w->cols);
    CPU_PARTS(T, w->rows, 1, matmul_rows(y, ldy, w, x, B, then, part));
}

/* One column of the transpose against one row of x at a time. */
static void matmul_t_rows(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then,
                          struct cpu_part part)
{
    size_t K = (size_t)w->cols;
    for (long r = part.from; r < part.to; r++) {
        for (int b = 0; b < B; b++) {
            float lane[16] = {0}, *to = y + (size_t)b * (size_t)ldy + r, s;
            for (size_t k = 0; k < K; k += 16)
                for (size_t j = 0; j < 16; j++)
                    lane[j] = k + j < K ? fmaf(cpu_load(w->data, w->type, (k + j) * (size_t)w->ldt + (size_t)r),
                                               x[(size_t)b * K + k + j], lane[j])
                                        : fmaf(0, 0, lane[j]);
            s = lanes_sum(lane);
            *to = then == MATMUL_ADD ? *to + s : s;
        }
    }
}

void scalar_matmul_t(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    int T = cpu_team((double)B * w->rows * w->cols);
    CPU_PARTS(T, w->rows, 1, matmul_t_rows(y, ldy, w, x, B, then, part));
}

/* ---- attention ---- */

void scalar_rope_append(float *q, float *k, const float *v, const struct rope *r, struct kv_page *const *const *pages,
                        const int *pos, const struct attn *a, int B)
{
    for (int b = 0; b < B; b++) {
        const float *c = r->cos + (size_t)b * (size_t)(r->n_rot / 2), *s = r->sin + (size_t)b * (size_t)(r->n_rot / 2);
        const struct kv_page *page = pages[b][pos[b] / PAGE_TOKENS];
        for (int h = 0; h < a->H; h++)
            cpu_turn(q + ((size_t)b * (size_t)a->H + (size_t)h) * (size_t)a->E, c, s, r->n_rot, r->interleaved);
        for (int g = 0; g < a->G; g++) {
            size_t from = ((size_t)b * (size_t)a->G + (size_t)g) * (size_t)a->E;
            size_t to = ((size_t)g * PAGE_TOKENS + (size_t)(pos[b] % PAGE_TOKENS)) * (size_t)a->E;
            cpu_turn(k + from, c, s, r->n_rot, r->interleaved);
            for (size_t e = 0; e < (size_t)a->E; e++) {
                cpu_store(page->k, a->kv_type, to + e, k[from + e]);
                cpu_store(page->v, a->kv_type, to + e, v[from + e]);
            }
        }
    }
}

static float score(const float *q, const float *key, const struct attn *a)
{
    float s = dot(q, key, a->E) * a->scale;
    return a->cap > 0 ? cpu_tanh(s / a->cap) * a->cap : s;
}

/* Running softmax of one query: largest score so far, sum of the exponentials, and their sum of values in o. */
struct running {
    float m, d;
    float *o; /* (E) */
};

static void attend_page(struct running *run, const float *q, const struct kv_page *page, int g, const struct attn *a,
                        uint64_t seen)
{
    size_t E = (size_t)a->E, first = (size_t)g * PAGE_TOKENS * E;
    float p[PAGE_TOKENS], key[HEAD_MAX], m = run->m, c;
    int nan = 0;
    for (int t = 0; t < PAGE_TOKENS; t++) {
        for (size_t e = 0; e < E; e++) key[e] = cpu_load(page->k, a->kv_type, first + (size_t)t * E + e);
        p[t] = seen >> t & 1 ? score(q, key, a) : -INFINITY;
        if (p[t] > m) m = p[t];
        if (p[t] != p[t]) nan = 1;
    }
    if (m == -INFINITY && !nan) return;
    for (int t = 0; t < PAGE_TOKENS; t++) p[t] = seen >> t & 1 ? cpu_exp(p[t] - m) : 0;
    c = cpu_exp(run->m - m);
    run->d = run->d * c + sum(p, PAGE_TOKENS);
    run->m = m;
    for (size_t e = 0; e < E; e++) run->o[e] *= c;
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (size_t e = 0; e < E; e++)
            run->o[e] = fmaf(p[t], cpu_load(page->v, a->kv_type, first + (size_t)t * E + e), run->o[e]);
}

static void attend_units(float *out, const float *q, struct kv_page *const *const *pages, const int *pos, const struct attn *a,
                         struct cpu_part part)
{
    for (long u = part.from; u < part.to; u++) {
        long b = u / a->H;
        int h = (int)(u % a->H), g = h / (a->H / a->G);
        struct running run = {-INFINITY, 0, out + (size_t)u * (size_t)a->E};
        memset(run.o, 0, (size_t)a->E * sizeof *run.o);
        for (int i = (int)(cpu_window_start(pos[b], a->window) / PAGE_TOKENS); i <= pos[b] / PAGE_TOKENS; i++)
            attend_page(&run, q + (size_t)u * (size_t)a->E, pages[b][i], g, a,
                        cpu_seen(pages[b][i], g, (long)pos[b] - (long)i * PAGE_TOKENS, a->window));
        if (run.d == 0) continue;
        for (int e = 0; e < a->E; e++) run.o[e] *= 1.0f / run.d;
    }
}

void scalar_attend(float *out, const float *q, struct kv_page *const *const *pages, const int *pos, const struct attn *a, int B)
{
    double work = 0;
    int T;
    for (int b = 0; b < B; b++) work += ((double)pos[b] + PAGE_TOKENS) * a->H * a->E * 2;
    T = cpu_team(work);
    CPU_PARTS(T, (long)B * a->H, 1, attend_units(out, q, pages, pos, a, part));
}

void kernels_attention_row(float *weights, const float *q, const float *keys, const unsigned char *seen, int n,
                           const struct attn *a)
{
    float m = -INFINITY, d;
    for (int t = 0; t < n; t++) {
        weights[t] = seen[t] ? score(q, keys + (size_t)t * (size_t)a->E, a) : -INFINITY;
        if (weights[t] > m) m = weights[t];
    }
    for (int t = 0; t < n; t++) weights[t] = seen[t] ? cpu_exp(weights[t] - m) : 0;
    d = sum(weights, n);
    if (d == 0) return;
    for (int t = 0; t < n; t++) weights[t] *= 1.0f / d;
}
