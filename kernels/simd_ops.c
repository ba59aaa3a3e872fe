/* simd_ops.c: the operations on rows by themselves: embedding, norms, activations, rotary embedding and append, greedy choice.
 */
#include "simd_math.h"

void SIMD_FN(embed)(float *x, const struct mat *table, const int *ids, int B)
{
    size_t bytes = mat_row_bytes(table), D = (size_t)table->cols;
    for (int b = 0; b < B; b++)
        kernels_widen(x + (size_t)b * D, (const char *)table->data + (size_t)ids[b] * bytes, table->type, D);
}

/* ---- norm ---- */

static void norm_rows(const void *job, struct cpu_part part)
{
    const struct norm_job *j = job;
    const int D = j->D;
    for (long b = part.from; b < part.to; b++) {
        const float *in = j->x + (size_t)b * (size_t)D, *w = j->w;
        float *out = j->y + (size_t)b * (size_t)D;
        v16 lanes = v_zero(), rms;
        int i = 0;
        for (; i + 16 <= D; i += 16) lanes = v_fma(v_load(in + i), v_load(in + i), lanes);
        if (i < D) lanes = v_fma(v_load_n(in + i, D - i), v_load_n(in + i, D - i), lanes);
        rms = v_set1(sqrtf(v_sum(lanes) / (float)D + j->eps));
        for (i = 0; i + 16 <= D; i += 16) v_store(out + i, v_mul(v_div(v_load(in + i), rms), v_load(w + i)));
        if (i < D) v_store_n(out + i, v_mul(v_div(v_load_n(in + i, D - i), rms), v_load_n(w + i, D - i)), D - i);
    }
}

void SIMD_FN(rmsnorm)(float *y, const float *x, const float *w, float eps, int B, int D)
{
    struct norm_job j = {y, x, w, eps, D};
    cpu_run(norm_rows, &j, B, 1, 4.0 * B * D);
}

static void layernorm_rows(const void *job, struct cpu_part part)
{
    const struct layernorm_job *j = job;
    const int D = j->D;
    const float *w = j->w, *b = j->b;
    for (long r = part.from; r < part.to; r++) {
        const float *in = j->x + (size_t)r * (size_t)D;
        float *out = j->y + (size_t)r * (size_t)D;
        v16 lanes = v_zero(), mean, deviation;
        int i = 0, n;
        for (; i < D; i += 16) lanes = v_add(lanes, D - i < 16 ? v_load_n(in + i, D - i) : v_load(in + i));
        mean = v_set1(v_sum(lanes) / (float)D);
        lanes = v_zero();
        for (i = 0; i + 16 <= D; i += 16) {
            v16 c = v_sub(v_load(in + i), mean);
            v_store(out + i, c);
            lanes = v_fma(c, c, lanes);
        }
        n = D - i;
        if (n > 0) {
            v16 c = v_sub(v_load_n(in + i, n), mean);
            v_store_n(out + i, c, n);
            c = v_load_n(out + i, n); /* zeros behind the end again */
            lanes = v_fma(c, c, lanes);
        }
        deviation = v_set1(sqrtf(v_sum(lanes) / (float)D + j->eps));
        for (i = 0; i + 16 <= D; i += 16)
            v_store(out + i, v_add(v_mul(v_div(v_load(out + i), deviation), v_load(w + i)), v_load(b + i)));
        if (n > 0)
            v_store_n(out + i, v_add(v_mul(v_div(v_load_n(out + i, n), deviation), v_load_n(w + i, n)), v_load_n(b + i, n)), n);
    }
}

void SIMD_FN(layernorm)(float *y, const float *x, const float *w, const float *b, float eps, int B, int D)
{
    struct layernorm_job j = {y, x, w, b, eps, D};
    cpu_run(layernorm_rows, &j, B, 1, 4.0 * B * D);
}

/* ---- swiglu ---- */

INLINE v16 swiglu16(v16 gate, v16 up)
{
    v16 e = v_exp(v_sub(v_set1(-0.0f), gate)); /* -0 - x is -x for zeros, too */
    return v_mul(v_div(gate, v_add(v_set1(1.0f), e)), up);
}

static void swiglu_range(const void *job, struct cpu_part part)
{
    const struct swiglu_job *j = job;
    long i = part.from;
    for (; i + 16 <= part.to; i += 16) v_store(j->y + i, swiglu16(v_load(j->gate + i), v_load(j->up + i)));
    if (i < part.to) {
        int n = (int)(part.to - i);
        v_store_n(j->y + i, swiglu16(v_load_n(j->gate + i, n), v_load_n(j->up + i, n)), n);
    }
}

void SIMD_FN(swiglu)(float *y, const float *gate, const float *up, int B, int F)
{
    struct swiglu_job j = {y, gate, up};
    cpu_run(swiglu_range, &j, (long)B * F, 16, 4.0 * B * F);
}

/* ---- gelu, caps, sums ---- */

INLINE void gelu_range(const struct gelu_job *j, const enum gelu form, struct cpu_part part)
{
    const float *x = j->x, *up = j->up;
    float *y = j->y;
    for (long i = part.from; i < part.to; i += 16) {
        int n = part.to - i < 16 ? (int)(part.to - i) : 16;
        v16 a = n < 16 ? v_load_n(x + i, n) : v_load(x + i);
        a = form == GELU_TANH ? v_gelu_tanh(a) : v_gelu(a);
        if (up) a = v_mul(a, n < 16 ? v_load_n(up + i, n) : v_load(up + i));
        if (n < 16)
            v_store_n(y + i, a, n);
        else
            v_store(y + i, a);
    }
}
static void gelu_part(const void *job, struct cpu_part part)
{
    const struct gelu_job *j = job;
    if (j->form == GELU_TANH)
        gelu_range(j, GELU_TANH, part);
    else
        gelu_range(j, GELU_EXACT, part);
}

void SIMD_FN(gelu)(float *y, const float *x, const float *up, enum gelu form, int B, int F)
{
    struct gelu_job j = {y, x, up, form};
    cpu_run(gelu_part, &j, (long)B * F, 16, 8.0 * B * F);
}

static void softcap_range(const void *job, struct cpu_part part)
{
    const struct softcap_job *j = job;
    const v16 c = v_set1(j->cap);
    const float *x = j->x;
    float *y = j->y;
    long i = part.from;
    for (; i + 16 <= part.to; i += 16) v_store(y + i, v_mul(v_tanh(v_div(v_load(x + i), c)), c));
    if (i < part.to) {
        int n = (int)(part.to - i);
        v_store_n(y + i, v_mul(v_tanh(v_div(v_load_n(x + i, n), c)), c), n);
    }
}

void SIMD_FN(softcap)(float *y, const float *x, float cap, size_t n)
{
    struct softcap_job j = {y, x, cap};
    cpu_run(softcap_range, &j, (long)n, 16, 8.0 * (double)n);
}

/* Single operations on numbers by themselves: the compiler vectorises them, and a team would cost more than it gives. */
void SIMD_FN(scale)(float *y, const float *x, float f, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = x[i] * f;
}

void SIMD_FN(add)(float *y, const float *x, int ldx, int B, int N)
{
    for (int b = 0; b < B; b++, y += N, x += ldx)
        for (int i = 0; i < N; i++) y[i] += x[i];
}

/* ---- rotary embedding and append ---- */

/* One head of k or v into the cache, rounded to its type. */
static void append(void *to, enum dtype t, size_t at, const float *from, int E)
{
    int e = 0;
    if (t == DTYPE_F32) {
        memcpy((float *)to + at, from, (size_t)E * sizeof *from);
        return;
    }
    if (t == DTYPE_F16)
        for (; e + 16 <= E; e += 16) v_to_f16((uint16_t *)to + at + e, v_load(from + e));
    for (; e < E; e++) cpu_store(to, t, at + (size_t)e, from[e]);
}

static void append_rows(const void *job, struct cpu_part part)
{
    const struct append_job *j = job;
    const struct attn *a = j->a;
    const struct rope *rope = j->rope;
    const size_t E = (size_t)a->E, half = (size_t)(rope->n_rot / 2);
    for (long b = part.from; b < part.to; b++) {
        const float *c = rope->cos + (size_t)b * half, *s = rope->sin + (size_t)b * half;
        const int slot = j->r->slot[b];
        const struct kv_page *page = j->r->pages[b][j->layer][slot / PAGE_TOKENS];
        for (int h = 0; h < a->H; h++) cpu_turn(j->q + (size_t)(b * a->H + h) * E, c, s, rope->n_rot, rope->interleaved);
        for (int g = 0; g < a->G; g++) {
            size_t from = (size_t)(b * a->G + g) * E, to = (size_t)(g * PAGE_TOKENS + slot % PAGE_TOKENS) * E;
            cpu_turn(j->k + from, c, s, rope->n_rot, rope->interleaved);
            append(page->k, a->kv_type, to, j->k + from, a->E);
            append(page->v, a->kv_type, to, j->v + from, a->E);
        }
    }
}

void SIMD_FN(rope_append)(float *q, float *k, const float *v, const struct rope *rope, const struct rows *r, int layer,
                          const struct attn *a)
{
    struct append_job j = {q, k, v, rope, r, layer, a};
    cpu_run(append_rows, &j, r->B, 1, 2.0 * r->B * (a->H + 2 * a->G) * a->E);
}

/* ---- greedy choice ---- */

/* The two largest of a row; zero stays zero in `bad` unless a logit is not finite. */
static void two_largest(const float *x, int V, float *first, float *second, int *finite)
{
    v16 best = v_set1(-INFINITY), next = best, bad = v_zero();
    float a[16], b[16];
    int i = 0;
    for (; i < V; i += 16) {
        v16 l = i + 16 <= V ? v_load(x + i) : v_load_n(x + i, V - i);
        bad = v_fma(l, v_zero(), bad);
        if (i + 16 > V) l = v_pick(l, v_set1(-INFINITY), (1u << (V - i)) - 1);
        next = v_max(next, v_min(best, l));
        best = v_max(best, l);
    }
    *finite = v_equal(bad, v_zero()) == 0xffff;
    v_store(a, best);
    v_store(b, next);
    *first = *second = -INFINITY;
    for (i = 0; i < 32; i++) {
        float f = i < 16 ? a[i] : b[i - 16];
        if (f > *first) {
            *second = *first;
            *first = f;
        } else if (f > *second) {
            *second = f;
        }
    }
}

static struct pick pick_row(const float *x, int V)
{
    struct pick p = {.token = -1, .logprob = NAN, .margin = NAN};
    float first, second;
    v16 lanes = v_zero(), top;
    int finite, i = 0;
    two_largest(x, V, &first, &second, &finite);
    if (!finite) return p;
    top = v_set1(first);
    for (; i + 16 <= V; i += 16) {
        v16 l = v_load(x + i);
        unsigned at = v_equal(l, top);
        if (at && p.token < 0) p.token = i + __builtin_ctz(at);
        lanes = v_add(lanes, v_exp(v_sub(l, top)));
    }
    if (i < V) {
        unsigned in = (1u << (V - i)) - 1;
        v16 l = v_load_n(x + i, V - i);
        unsigned at = v_equal(l, top) & in;
        if (at && p.token < 0) p.token = i + __builtin_ctz(at);
        lanes = v_add(lanes, v_pick(v_exp(v_sub(l, top)), v_zero(), in));
    }
    p.logprob = 0.0f - (float)cpu_log(v_sum(lanes));
    p.margin = first - second + 0.0f;
    return p;
}

static void pick_rows(const void *job, struct cpu_part part)
{
    const struct pick_job *j = job;
    for (long b = part.from; b < part.to; b++) j->out[b] = pick_row(j->logits + (size_t)b * (size_t)j->V, j->V);
}

void SIMD_FN(pick)(struct pick *out, const float *logits, int B, int V)
{
    struct pick_job j = {out, logits, V};
    cpu_run(pick_rows, &j, B, 1, 4.0 * B * V);
}
