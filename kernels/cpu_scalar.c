/* cpu_scalar.c: the arithmetic contract of kernels.h as plain loops. This file is the definition: it is written to be read,
 * runs on any processor, and tests/unit/test_kernels.c holds every other path to its bits.
 */
#include "cpu_ops.h"

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

static void norm_rows(const void *job, struct cpu_part part)
{
    const struct norm_job *j = job;
    const int D = j->D;
    for (long b = part.from; b < part.to; b++) {
        const float *in = j->x + (size_t)b * (size_t)D;
        float *out = j->y + (size_t)b * (size_t)D, rms = sqrtf(dot(in, in, D) / (float)D + j->eps);
        for (int i = 0; i < D; i++) out[i] = in[i] / rms * j->w[i];
    }
}

void scalar_rmsnorm(float *y, const float *x, const float *w, float eps, int B, int D)
{
    struct norm_job j = {y, x, w, eps, D};
    cpu_run(norm_rows, &j, B, 1, 4.0 * B * D);
}

static void layernorm_rows(const void *job, struct cpu_part part)
{
    const struct layernorm_job *j = job;
    const size_t D = (size_t)j->D;
    for (long r = part.from; r < part.to; r++) {
        const float *in = j->x + (size_t)r * D;
        float *out = j->y + (size_t)r * D, mean = sum(in, j->D) / (float)j->D, deviation;
        for (size_t i = 0; i < D; i++) out[i] = in[i] - mean;
        deviation = sqrtf(dot(out, out, j->D) / (float)j->D + j->eps);
        for (size_t i = 0; i < D; i++) out[i] = out[i] / deviation * j->w[i] + j->b[i];
    }
}

void scalar_layernorm(float *y, const float *x, const float *w, const float *b, float eps, int B, int D)
{
    struct layernorm_job j = {y, x, w, b, eps, D};
    cpu_run(layernorm_rows, &j, B, 1, 4.0 * B * D);
}

static void swiglu_range(const void *job, struct cpu_part part)
{
    const struct swiglu_job *j = job;
    for (long i = part.from; i < part.to; i++) j->y[i] = j->gate[i] / (1.0f + cpu_exp(-j->gate[i])) * j->up[i];
}

void scalar_swiglu(float *y, const float *gate, const float *up, int B, int F)
{
    struct swiglu_job j = {y, gate, up};
    cpu_run(swiglu_range, &j, (long)B * F, 16, 4.0 * B * F);
}

static void gelu_range(const void *job, struct cpu_part part)
{
    const struct gelu_job *j = job;
    for (long i = part.from; i < part.to; i++) {
        float g = j->form == GELU_TANH ? cpu_gelu_tanh(j->x[i]) : cpu_gelu(j->x[i]);
        j->y[i] = j->up ? g * j->up[i] : g;
    }
}

void scalar_gelu(float *y, const float *x, const float *up, enum gelu form, int B, int F)
{
    struct gelu_job j = {y, x, up, form};
    cpu_run(gelu_range, &j, (long)B * F, 16, 8.0 * B * F);
}

static void softcap_range(const void *job, struct cpu_part part)
{
    const struct softcap_job *j = job;
    for (long i = part.from; i < part.to; i++) j->y[i] = cpu_tanh(j->x[i] / j->cap) * j->cap;
}

void scalar_softcap(float *y, const float *x, float cap, size_t n)
{
    struct softcap_job j = {y, x, cap};
    cpu_run(softcap_range, &j, (long)n, 16, 8.0 * (double)n);
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

static void pick_rows(const void *job, struct cpu_part part)
{
    const struct pick_job *j = job;
    for (long b = part.from; b < part.to; b++) j->out[b] = pick_row(j->logits + (size_t)b * (size_t)j->V, j->V);
}

void scalar_pick(struct pick *out, const float *logits, int B, int V)
{
    struct pick_job j = {out, logits, V};
    cpu_run(pick_rows, &j, B, 1, 4.0 * B * V);
}

/* ---- matmul ---- */

/* Up to BLOCK rows of x against one row of weights, which is widened in pieces; the lanes live across the pieces. */
enum { BLOCK = 16, PIECE = 256 };

static void matmul_rows(const void *job, struct cpu_part part)
{
    const struct matmul_job *j = job;
    const enum dtype t = j->w->type;
    const size_t K = (size_t)j->w->cols, piece_bytes = (size_t)(PIECE / dtype_block(t)) * (size_t)dtype_block_bytes(t);
    float lanes[BLOCK][16], piece[PIECE];
    for (long r = part.from; r < part.to; r++) {
        for (int b0 = 0; b0 < j->B; b0 += BLOCK) {
            const char *data = (const char *)j->w->data + (size_t)r * j->row_bytes;
            int n = j->B - b0 < BLOCK ? j->B - b0 : BLOCK;
            memset(lanes, 0, sizeof lanes);
            for (size_t k = 0; k < K; k += PIECE, data += piece_bytes) {
                size_t len = K - k < PIECE ? K - k : PIECE;
                kernels_widen(piece, data, t, len);
                for (int b = 0; b < n; b++) lanes_fma(lanes[b], piece, j->x + (size_t)(b0 + b) * K + k, (int)len);
            }
            for (int b = 0; b < n; b++) {
                float *to = j->y + (size_t)(b0 + b) * (size_t)j->ldy + r, s = lanes_sum(lanes[b]);
                *to = j->then == MATMUL_ADD ? *to + s : s;
            }
        }
    }
}

void scalar_matmul(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct matmul_job j = {y, ldy, w, mat_row_bytes(w), x, B, then};
    cpu_run(matmul_rows, &j, w->rows, 1, (double)B * w->rows * w->cols);
}

/* One column of the transpose against one row of x at a time. */
static void matmul_t_rows(const void *job, struct cpu_part part)
{
    const struct matmul_job *j = job;
    const struct mat *w = j->w;
    size_t K = (size_t)w->cols;
    for (long r = part.from; r < part.to; r++) {
        for (int b = 0; b < j->B; b++) {
            const float *x = j->x + (size_t)b * K;
            float lane[16] = {0}, *to = j->y + (size_t)b * (size_t)j->ldy + r, s;
            for (size_t k = 0; k < K; k += 16)
                for (size_t i = 0; i < 16; i++)
                    lane[i] = k + i < K
                                  ? fmaf(cpu_load(w->data, w->type, (k + i) * (size_t)w->ldt + (size_t)r), x[k + i], lane[i])
                                  : fmaf(0, 0, lane[i]);
            s = lanes_sum(lane);
            *to = j->then == MATMUL_ADD ? *to + s : s;
        }
    }
}

void scalar_matmul_t(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct matmul_job j = {y, ldy, w, 0, x, B, then};
    cpu_run(matmul_t_rows, &j, w->rows, 1, (double)B * w->rows * w->cols);
}

/* ---- attention ---- */

void scalar_rope_append(float *q, float *k, const float *v, const struct rope *rope, const struct rows *r, int layer,
                        const struct attn *a)
{
    for (int b = 0; b < r->B; b++) {
        const size_t half = (size_t)(rope->n_rot / 2), slot = (size_t)r->slot[b];
        const float *c = rope->cos + (size_t)b * half, *s = rope->sin + (size_t)b * half;
        const struct kv_page *page = r->pages[b][layer][slot / PAGE_TOKENS];
        for (int h = 0; h < a->H; h++)
            cpu_turn(q + ((size_t)b * (size_t)a->H + (size_t)h) * (size_t)a->E, c, s, rope->n_rot, rope->interleaved);
        for (int g = 0; g < a->G; g++) {
            size_t from = ((size_t)b * (size_t)a->G + (size_t)g) * (size_t)a->E;
            size_t to = ((size_t)g * PAGE_TOKENS + slot % PAGE_TOKENS) * (size_t)a->E;
            cpu_turn(k + from, c, s, rope->n_rot, rope->interleaved);
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

static void attend_heads(const void *job, struct cpu_part part)
{
    const struct attend_job *j = job;
    const size_t E = (size_t)j->a->E;
    for (long u = part.from; u < part.to; u++) {
        long b = u / j->a->H;
        int g = (int)(u % j->a->H) / (j->a->H / j->a->G), slot = j->r->slot[b];
        struct running run = {-INFINITY, 0, j->out + (size_t)u * E};
        memset(run.o, 0, E * sizeof *run.o);
        for (int i = (int)(cpu_window_start(slot, j->a->window) / PAGE_TOKENS); i <= slot / PAGE_TOKENS; i++) {
            const struct kv_page *page = j->r->pages[b][j->layer][i];
            uint64_t seen = cpu_seen(page, g, (long)slot - (long)i * PAGE_TOKENS, j->a->window);
            attend_page(&run, j->q + (size_t)u * E, page, g, j->a, seen & ~cpu_blocked(j, b, (int)(u % j->a->H), i));
        }
        if (run.d == 0) continue;
        for (size_t e = 0; e < E; e++) run.o[e] *= 1.0f / run.d;
    }
}

void scalar_attend(float *out, const float *q, const struct rows *r, int layer, const uint64_t *const *blocked,
                   const struct attn *a)
{
    struct attend_job j = {out, q, r, layer, blocked, a};
    double tokens = 0;
    for (int b = 0; b < r->B; b++) tokens += (double)r->slot[b] + PAGE_TOKENS;
    cpu_run(attend_heads, &j, (long)r->B * a->H, 1, tokens * a->H * a->E * 2);
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
