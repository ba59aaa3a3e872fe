/* cpu.h: what the CPU files share; internal to kernels/.
 *
 * Three sets of functions fill the table: cpu_scalar.c (plain loops, the definition) and the simd_*.c files, compiled once
 * per instruction set. Every operation cuts its rows into one part per thread (cpu_team.c): a part's bits depend on nothing
 * else, so the cut is free to follow the number of threads.
 */
#ifndef KERNELS_CPU_H
#define KERNELS_CPU_H

#include "kernels.h"

#include <math.h>
#include <string.h>

/* Items from..to-1 of an operation: its rows, or what else it is cut by. */
struct cpu_part {
    long from, to;
};
typedef void cpu_part_fn(const void *job, struct cpu_part part);

/* Runs f over n items: in one part when `work`, in multiply-adds (or as much time of something else), is not worth a team,
   else in one part per thread, cut at multiples of `unit`. Returns when all are done. */
void cpu_run(cpu_part_fn *f, const void *job, long n, long unit, double work);

/* ---- numbers ---- */

/* Of functions that nvcc compiles for the device as well, so that the bits are these there, too. */
#ifdef __CUDACC__
#define CPU_BOTH static __host__ __device__ __forceinline__
#else
#define CPU_BOTH static inline
#endif

CPU_BOTH uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

CPU_BOTH float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

CPU_BOTH float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

CPU_BOTH uint16_t f32_to_bf16(float f) /* to nearest, ties to even */
{
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* rounding could turn a NaN into infinity */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
    if (exponent) return f32_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    return f32_from_bits(sign | f32_bits((float)fraction * 0x1p-24f));
}

CPU_BOTH uint16_t f32_to_f16(float f) /* to nearest, ties to even */
{
    uint32_t u = f32_bits(f), a = u & 0x7fffffff;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return sign | 0x7c00; /* 65520 and more: half way to 65536 */
    if (a < 0x38800000)                        /* below 2^-14 one step is 2^-24, which is a step of 0.5 + a too */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(a) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13));
}

/* One weight or cache element; p is aligned to nothing. */
static inline float cpu_load(const void *p, enum dtype t, size_t i)
{
    float f;
    uint16_t h;
    if (t == DTYPE_F32) {
        memcpy(&f, (const char *)p + 4 * i, sizeof f);
        return f;
    }
    memcpy(&h, (const char *)p + 2 * i, sizeof h);
    return t == DTYPE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

static inline void cpu_store(void *p, enum dtype t, size_t i, float f)
{
    if (t == DTYPE_F32)
        ((float *)p)[i] = f;
    else
        ((uint16_t *)p)[i] = t == DTYPE_F16 ? f32_to_f16(f) : f32_to_bf16(f);
}

/* exp(x) = 2^n p(r): n = x / ln 2 to nearest, r = x - n ln 2 in two steps, p the polynomial of Cephes' expf (Moshier).
   Below EXP_MIN = ln 2^-126 the result is +0: denormal results would cost an assist in every fma that reads them. */
#define EXP_MIN -87.3365447f
#define EXP_MAX 89.0f /* exp of it is infinite already */
#define EXP_LOG2E 0x1.715476p+0f
#define EXP_MAGIC 0x1.8p+23f /* added, it leaves the integer part in the low bits */
#define EXP_LN2_HIGH 0x1.63p-1f
#define EXP_LN2_LOW -0x1.bd0106p-13f
#define EXP_C7 1.9875691500e-4f
#define EXP_C6 1.3981999507e-3f
#define EXP_C5 8.3334519073e-3f
#define EXP_C4 4.1665795894e-2f
#define EXP_C3 1.6666665459e-1f
#define EXP_C2 5.0000001201e-1f

CPU_BOTH float cpu_exp(float x)
{
    float t, n, r, p;
    int32_t i;
    if (x < EXP_MIN) return 0;
    if (x != x) return x;
    if (x > EXP_MAX) x = EXP_MAX;
    t = fmaf(x, EXP_LOG2E, EXP_MAGIC);
    n = t - EXP_MAGIC;
    i = (int32_t)(f32_bits(t) - f32_bits(EXP_MAGIC)); /* -126..128 */
    r = fmaf(n, -EXP_LN2_LOW, fmaf(n, -EXP_LN2_HIGH, x));
    p = fmaf(EXP_C7, r, EXP_C6);
    p = fmaf(p, r, EXP_C5);
    p = fmaf(p, r, EXP_C4);
    p = fmaf(p, r, EXP_C3);
    p = fmaf(p, r, EXP_C2);
    p = fmaf(p, r * r, r + 1.0f);
    /* in two factors, since 2^128 is no float; only the last product can round */
    return p * f32_from_bits((uint32_t)(i / 2 + 127) << 23) * f32_from_bits((uint32_t)(i - i / 2 + 127) << 23);
}

/* Natural logarithm in plain double arithmetic, to about 1e-16; NaN for x <= 0 and what is not finite. */
double cpu_log(double x);

/* Rotates the first n_rot elements of a head; c and s are the row's tables. Every element is on its own, so this source
   serves all instruction sets. */
static inline void cpu_turn(float *restrict x, const float *restrict c, const float *restrict s, int n_rot, int interleaved)
{
    float a[HEAD_MAX / 2], b[HEAD_MAX / 2];
    int half = n_rot / 2;
    if (interleaved) {
        for (int i = 0; i < half; i++) {
            a[i] = x[2 * i];
            b[i] = x[2 * i + 1];
        }
    } else {
        memcpy(a, x, (size_t)half * sizeof *a);
        memcpy(b, x + half, (size_t)half * sizeof *b);
    }
    for (int i = 0; i < half; i++) {
        x[i] = a[i] * c[i] - b[i] * s[i];
        x[i + half] = b[i] * c[i] + a[i] * s[i];
    }
}

/* The first token that a query at `last` sees through a window; both counted from the same token. */
CPU_BOTH long cpu_window_start(long last, int window)
{
    return window > 0 && last >= window ? last - window + 1 : 0;
}

/* Bit t set: a query at `last`, counted from the page's first token, reaches token t of the page; last >= 0. */
CPU_BOTH uint64_t cpu_reach(long last, int window)
{
    uint64_t reach = last >= PAGE_TOKENS - 1 ? ~(uint64_t)0 : ((uint64_t)2 << last) - 1;
    long first = cpu_window_start(last, window);
    return first < PAGE_TOKENS ? reach & ~(uint64_t)0 << first : 0;
}

/* And sees it. */
static inline uint64_t cpu_seen(const struct kv_page *page, int g, long last, int window)
{
    uint64_t reach = cpu_reach(last, window);
    return page->hidden ? reach & ~page->hidden[g] : reach;
}

/* ---- the operations of each set, and what their parts are told: the arguments in kernels.h ---- */

struct norm_job {
    float *y;
    const float *x, *w;
    float eps;
    int D;
};
struct layernorm_job {
    float *y;
    const float *x, *w, *b;
    float eps;
    int D;
};
struct gelu_job {
    float *y;
    const float *x, *up;
    enum gelu form;
};
struct softcap_job {
    float *y;
    const float *x;
    float cap;
};
struct swiglu_job {
    float *y;
    const float *gate, *up;
};
struct pick_job {
    struct pick *out;
    const float *logits;
    int V;
};
struct matmul_job {
    float *y;
    int ldy;
    const struct mat *w;
    size_t row_bytes;
    const float *x;
    int B;
    enum matmul_then then;
};
struct append_job {
    float *q, *k;
    const float *v;
    const struct rope *rope;
    const struct rows *r;
    int layer;
    const struct attn *a;
};
struct attend_job {
    float *out;
    const float *q;
    const struct rows *r;
    int layer;
    const uint64_t *const *blocked;
    const struct attn *a;
};

/* What a row's query head is kept from in one page, see attend in kernels.h. */
static inline uint64_t cpu_blocked(const struct attend_job *j, long row, int head, int page)
{
    const uint64_t *bits = j->blocked ? j->blocked[row] : NULL;
    return bits ? bits[(size_t)head * (size_t)(j->r->slot[row] / PAGE_TOKENS + 1) + (size_t)page] : 0;
}

#define CPU_DECLARE(prefix, suffix)                                                                                          \
    void prefix##embed##suffix(float *x, const struct mat *table, const int *ids, int B);                                    \
    void prefix##rmsnorm##suffix(float *y, const float *x, const float *w, float eps, int B, int D);                         \
    void prefix##matmul##suffix(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then);       \
    void prefix##rope_append##suffix(float *q, float *k, const float *v, const struct rope *rope, const struct rows *r,      \
                                     int layer, const struct attn *a);                                                       \
    void prefix##attend##suffix(float *out, const float *q, const struct rows *r, int layer, const uint64_t *const *blocked, \
                                const struct attn *a);                                                                       \
    void prefix##swiglu##suffix(float *y, const float *gate, const float *up, int B, int F);                                 \
    void prefix##pick##suffix(struct pick *out, const float *logits, int B, int V);

CPU_DECLARE(scalar_, )
CPU_DECLARE(simd_, _avx2)
CPU_DECLARE(simd_, _avx512)

#endif
