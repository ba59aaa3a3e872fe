/* simd_matmul_t.c: y = w x where w lies transposed in memory, with the bits of the contract's dot product.
 *
 * A vector holds sixteen outputs, and an accumulator per lane of the contract (column number modulo 16) takes every sixteenth
 * row of the transpose; adding the accumulators in the tree's order gives each output what dot gives it. One row of x has all
 * sixteen accumulators in registers, so that a pass reads the weights once in order; several rows share the weights that are
 * loaded, a few accumulators at a time.
 */
#include "cpu_ops.h"
#include "simd_vec.h"

#ifdef __AVX512F__
enum { ROWS = 6, LANES_ONE = 16, LANES = 4 }; /* rows of x that share a load; accumulators of one row, and of several */
#else
enum { ROWS = 3, LANES_ONE = 4, LANES = 2 };
#endif
enum { AHEAD = 32 }; /* rows of the transpose that are fetched before their turn: one stride of a page each */

/* n weights of row k of the transpose from output r on; the others are zero. */
INLINE v16 weights(const struct mat *w, const enum dtype t, size_t k, size_t r, int n)
{
    size_t at = k * (size_t)w->ldt + r;
    return n == 16 ? v_from(w->data, t, at) : v_from_n(w->data, t, at, n);
}

/* Lanes j0..j0+J-1 of C rows of x over all columns: sums[c][j]. */
INLINE void lanes(v16 sums[][16], const struct matmul_job *j, const enum dtype t, size_t r, int n, int b, const int j0,
                  const int J, const int C)
{
    const size_t K = (size_t)j->w->cols, bytes = (size_t)j->w->ldt * (t == DTYPE_F32 ? 4 : 2);
    const float *x = j->x + (size_t)b * K;
    v16 acc[24];
    size_t k = 0;
    UNROLL for (int i = 0; i < C * J; i++) acc[i] = v_zero();
    for (; k + 16 <= K; k += 16) {
        UNROLL for (int l = 0; l < J; l++)
        {
            size_t row = k + (size_t)(j0 + l);
            v16 w = weights(j->w, t, row, r, n);
            _mm_prefetch((const char *)((uintptr_t)j->w->data + (row + AHEAD) * bytes + r * (t == DTYPE_F32 ? 4 : 2)),
                         _MM_HINT_T0);
            UNROLL for (int c = 0; c < C; c++) acc[c * J + l] = v_fma(w, v_set1(x[(size_t)c * K + row]), acc[c * J + l]);
        }
    }
    if (k < K) { /* the missing tail of the dot product is zeros, which turns a lane of -0 into +0 */
        UNROLL for (int l = 0; l < J; l++)
        {
            size_t row = k + (size_t)(j0 + l);
            v16 w = row < K ? weights(j->w, t, row, r, n) : v_zero();
            UNROLL for (int c = 0; c < C; c++) acc[c * J + l] =
                v_fma(w, v_set1(row < K ? x[(size_t)c * K + row] : 0), acc[c * J + l]);
        }
    }
    UNROLL for (int c = 0; c < C; c++) UNROLL for (int l = 0; l < J; l++) sums[c][j0 + l] = acc[c * J + l];
}

INLINE void stripe(const struct matmul_job *j, const enum dtype t, size_t r, int n, int b, const int C)
{
    v16 sums[ROWS][16];
    const int J = C == 1 ? LANES_ONE : LANES;
    UNROLL for (int j0 = 0; j0 < 16; j0 += J) lanes(sums, j, t, r, n, b, j0, J, C);
    UNROLL for (int c = 0; c < C; c++)
    {
        float *to = j->y + (size_t)(b + c) * (size_t)j->ldy + r;
        v16 *s = sums[c];
        for (int step = 8; step; step /= 2)
            for (int i = 0; i < step; i++) s[i] = v_add(s[i], s[i + step]);
        if (j->then == MATMUL_ADD) s[0] = v_add(n == 16 ? v_load(to) : v_load_n(to, n), s[0]);
        if (n == 16)
            v_store(to, s[0]);
        else
            v_store_n(to, s[0], n);
    }
}

/* Sixteen outputs, or the last n, of all rows of x. */
INLINE void stripe_all(const struct matmul_job *j, const enum dtype t, size_t r, int n)
{
    int b = 0;
    for (; b + ROWS <= j->B; b += ROWS) stripe(j, t, r, n, b, ROWS);
    for (; b < j->B; b++) stripe(j, t, r, n, b, 1);
}
static void stripe_f32(const struct matmul_job *j, size_t r, int n)
{
    stripe_all(j, DTYPE_F32, r, n);
}
static void stripe_f16(const struct matmul_job *j, size_t r, int n)
{
    stripe_all(j, DTYPE_F16, r, n);
}
static void stripe_bf16(const struct matmul_job *j, size_t r, int n)
{
    stripe_all(j, DTYPE_BF16, r, n);
}

static void matmul_t_rows(const void *job, struct cpu_part part)
{
    const struct matmul_job *j = job;
    for (long r = part.from; r < part.to; r += 16) {
        int n = part.to - r < 16 ? (int)(part.to - r) : 16;
        if (j->w->type == DTYPE_F32)
            stripe_f32(j, (size_t)r, n);
        else if (j->w->type == DTYPE_F16)
            stripe_f16(j, (size_t)r, n);
        else
            stripe_bf16(j, (size_t)r, n);
    }
}

void SIMD_FN(matmul_t)(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct matmul_job j = {y, ldy, w, 0, x, B, then};
    cpu_run(matmul_t_rows, &j, w->rows, 16, (double)B * w->rows * w->cols);
}
