/* simd_matmul_t.c: y = w x where w lies transposed in memory, with the bits of the contract's dot product.
 *
 * A vector holds sixteen outputs. Of a block of outputs one lane of the contract (column number modulo 16) is computed after
 * the other: its accumulators stay in registers while every sixteenth row of the transpose goes by. The lanes then add up in
 * the tree's order, which gives each output what dot gives it.
 *
 * Few rows of x read the weights in place, eight vectors of a row at a time. More rows share a block that is widened and put
 * together first: rows of the transpose lie pages apart, and reading them again for each group of rows of x would miss both
 * the cache and the table of pages (3072 x 768 f32, one thread, 32 rows: 13.7 ms in place, 3.8 packed; the plain matmul
 * takes 2.8).
 */
#include "cpu_ops.h"
#include "simd_vec.h"

#ifdef __AVX512F__
enum { WIDE = 8, FEW = 3, PACKED = 2, GROUP = 8 };
#else
enum { WIDE = 2, FEW = 3, PACKED = 1, GROUP = 4 };
#endif

enum {
    MOST = 1 << 17, /* weights of a packed block: 512 KB, which the second-level cache holds */
    ACC_MAX = 24,   /* a constant, as in simd_matmul.c */
};

/* The weights of a block: outputs from r on, of which n are there. */
struct block {
    const void *data; /* the transpose, or (cols, ld) f32 */
    enum dtype type;
    size_t ld, r;
    int n;
};

INLINE v16 weights(const struct block *w, const enum dtype t, size_t k, const int vector, const int whole)
{
    size_t at = k * w->ld + w->r + 16 * (size_t)vector;
    return whole ? v_from(w->data, t, at) : v_from_n(w->data, t, at, w->n);
}

/* One lane of V vectors of outputs for C rows of x: to (C, 16, V * 16) at lane l. `whole`: all outputs are there, else V is 1.
 */
INLINE void lane(float *to, const struct block *w, const enum dtype t, const float *x, size_t K, size_t l, const int V,
                 const int C, const int whole)
{
    const size_t row = w->ld * (t == DTYPE_F32 ? 4 : 2), ahead = 32 * row;
    v16 acc[ACC_MAX];
    UNROLL for (int i = 0; i < C * V; i++) acc[i] = v_zero();
    for (size_t k = l; k < K; k += 16) {
        if (V == WIDE && whole) {
            const char *next = (const char *)((uintptr_t)w->data + k * row + ahead + w->r * (row / w->ld));
            UNROLL for (int v = 0; v < V; v++) _mm_prefetch(next + (size_t)(16 * v) * (row / w->ld), _MM_HINT_T0);
        }
        UNROLL for (int v = 0; v < V; v++)
        {
            v16 a = weights(w, t, k, v, whole);
            UNROLL for (int c = 0; c < C; c++) acc[c * V + v] = v_fma(a, v_set1(x[(size_t)c * K + k]), acc[c * V + v]);
        }
    }
    UNROLL for (int c = 0; c < C; c++) UNROLL for (int v = 0; v < V; v++)
    {
        /* the missing tail of a dot product is zeros, which turns a lane of -0 into +0 */
        if (K % 16 && l >= K % 16) acc[c * V + v] = v_fma(v_zero(), v_zero(), acc[c * V + v]);
        v_store(to + ((size_t)c * 16 + l) * (size_t)(16 * V) + 16 * v, acc[c * V + v]);
    }
}

/* All lanes of a block for C rows of x from b on, and their sums into y. */
INLINE void rows(const struct matmul_job *j, const struct block *w, const enum dtype t, int b, long y_at, const int V,
                 const int C, const int whole)
{
    float lanes[ACC_MAX * 256] __attribute__((aligned(64)));
    const size_t K = (size_t)j->w->cols;
    for (size_t l = 0; l < 16; l++) lane(lanes, w, t, j->x + (size_t)b * K, K, l, V, C, whole);
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            float *to = j->y + (size_t)(b + c) * (size_t)j->ldy + y_at + 16 * v;
            const float *from = lanes + (size_t)c * 16 * (size_t)(16 * V) + 16 * v;
            v16 s[16];
            UNROLL for (int l = 0; l < 16; l++) s[l] = v_load(from + l * 16 * V);
            UNROLL for (int l = 0; l < 8; l++) s[l] = v_add(s[l], s[l + 8]);
            UNROLL for (int l = 0; l < 4; l++) s[l] = v_add(s[l], s[l + 4]);
            UNROLL for (int l = 0; l < 2; l++) s[l] = v_add(s[l], s[l + 2]);
            s[0] = v_add(s[0], s[1]);
            if (whole) {
                v_store(to, j->then == MATMUL_ADD ? v_add(v_load(to), s[0]) : s[0]);
            } else {
                v_store_n(to, j->then == MATMUL_ADD ? v_add(v_load_n(to, w->n), s[0]) : s[0], w->n);
            }
        }
}

/* ---- few rows: in place ---- */

INLINE void in_place(const struct matmul_job *j, const struct block *w, const enum dtype t, const int V, const int whole)
{
    int b = 0;
    for (; b + 3 <= j->B; b += 3) rows(j, w, t, b, (long)w->r, V, 3, whole);
    if (j->B - b == 2)
        rows(j, w, t, b, (long)w->r, V, 2, whole);
    else if (j->B - b == 1)
        rows(j, w, t, b, (long)w->r, V, 1, whole);
}

#define IN_PLACE(t)                                                                          \
    static void in_place_##t(const struct matmul_job *j, const struct block *w, int vectors) \
    {                                                                                        \
        if (vectors == WIDE)                                                                 \
            in_place(j, w, DTYPE_##t, WIDE, 1);                                              \
        else                                                                                 \
            in_place(j, w, DTYPE_##t, 1, 0);                                                 \
    }
IN_PLACE(F32)
IN_PLACE(F16)
IN_PLACE(BF16)

/* ---- more rows: a packed block ---- */

/* The block's weights as (cols, 16 V) f32, zeros where there is no output. */
static void pack(float *to, const struct block *w, size_t K, int vectors)
{
    for (size_t k = 0; k < K; k++)
        for (int v = 0; v < vectors; v++, to += 16) {
            int n = w->n - 16 * v < 16 ? w->n - 16 * v : 16;
            size_t at = k * w->ld + w->r + 16 * (size_t)v;
            v_store(to, n == 16 ? v_from(w->data, w->type, at) : n > 0 ? v_from_n(w->data, w->type, at, n) : v_zero());
        }
}

INLINE void packed(const struct matmul_job *j, const struct block *w, long r, const int V, const int whole)
{
    int b = 0;
    for (; b + GROUP <= j->B; b += GROUP) rows(j, w, DTYPE_F32, b, r, V, GROUP, whole);
    for (; b + 2 <= j->B; b += 2) rows(j, w, DTYPE_F32, b, r, V, 2, whole);
    if (b < j->B) rows(j, w, DTYPE_F32, b, r, V, 1, whole);
}
static void packed_whole(const struct matmul_job *j, const struct block *w, long r)
{
    packed(j, w, r, PACKED, 1);
}
static void packed_part(const struct matmul_job *j, const struct block *w, long r)
{
    packed(j, w, r, 1, 0);
}

/* ---- a thread's outputs ---- */

static void matmul_t_in_place(const struct matmul_job *j, struct cpu_part part)
{
    static void (*const of[])(const struct matmul_job *, const struct block *,
                              int) = {[DTYPE_F32] = in_place_F32, [DTYPE_F16] = in_place_F16, [DTYPE_BF16] = in_place_BF16};
    for (long r = part.from, n; r < part.to; r += n) {
        struct block w = {j->w->data, j->w->type, (size_t)j->w->ldt, (size_t)r, 16};
        n = part.to - r >= 16 * WIDE ? 16 * WIDE : part.to - r < 16 ? part.to - r : 16;
        w.n = (int)n;
        of[w.type](j, &w, n == 16 * WIDE ? WIDE : 1);
    }
}

static void matmul_t_packed(const struct matmul_job *j, struct cpu_part part)
{
    float wide[MOST] __attribute__((aligned(64)));
    for (long r = part.from, n; r < part.to; r += n) {
        struct block w = {j->w->data, j->w->type, (size_t)j->w->ldt, (size_t)r, 0};
        n = part.to - r >= 16 * PACKED ? 16 * PACKED : part.to - r < 16 ? part.to - r : 16;
        w.n = (int)n;
        pack(wide, &w, (size_t)j->w->cols, n == 16 * PACKED ? PACKED : 1);
        w = (struct block){wide, DTYPE_F32, n == 16 * PACKED ? 16 * PACKED : 16, 0, (int)n};
        if (n == 16 * PACKED)
            packed_whole(j, &w, r);
        else
            packed_part(j, &w, r);
    }
}

static void matmul_t_rows(const void *job, struct cpu_part part)
{
    const struct matmul_job *j = job;
    if (j->B <= FEW || (size_t)j->w->cols > MOST / (16 * PACKED))
        matmul_t_in_place(j, part);
    else
        matmul_t_packed(j, part);
}

void SIMD_FN(matmul_t)(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct matmul_job j = {y, ldy, w, 0, x, B, then};
    cpu_run(matmul_t_rows, &j, w->rows, 16, (double)B * w->rows * w->cols);
}
