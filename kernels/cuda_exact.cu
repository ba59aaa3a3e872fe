/* cuda_exact.cu: matmul with f32 arithmetic, for f32 and quantised weights, and the transposed one: the CPU's bits.
 *
 * Half a warp is the sixteen lanes of a dot product. It widens each weight once and multiplies it with NB rows of x; only the
 * reading of x and the number of sums in registers depend on NB, never a sum's order. A block of weights is read byte by byte,
 * sixteen neighbours at a time, straight from the quantised rows: these come once from memory and then from the L1 cache.
 * The speed is bound by instructions, about six per weight at one row, and at 64 rows by the fma's: a few times slower
 * there than tensor cores with rounded weights would be. That is the price of exact widening and of equal bits for all B.
 */
#include "cuda_math.h"

enum { THREADS = 128, HALVES = THREADS / 16 };

struct exact {
    float *y;
    const uint8_t *w;
    const float *x;
    size_t row_bytes;
    int ldy, rows, cols, B, add;
};

template <int T, int NB, int R> static __global__ void __launch_bounds__(THREADS) exact_rows(struct exact m)
{
    const int j = (int)threadIdx.x % 16, r0 = ((int)blockIdx.x * HALVES + (int)threadIdx.x / 16) * R, b0 = (int)blockIdx.y * NB;
    const int size = cuda_block<T>::size;
    const uint8_t *w[R];
    const float *x[NB];
    float sum[NB][R];
    int k = 0;
    for (int r = 0; r < R; r++) w[r] = m.w + (size_t)min(r0 + r, m.rows - 1) * m.row_bytes; /* doubles are not stored */
    for (int b = 0; b < NB; b++) x[b] = m.x + (size_t)min(b0 + b, m.B - 1) * (size_t)m.cols + j;
    for (int b = 0; b < NB; b++)
        for (int r = 0; r < R; r++) sum[b][r] = 0;
    for (; k + size <= m.cols; k += size) {
#pragma unroll
        for (int n = 0; n < size / 16; n++) {
            float v[R];
#pragma unroll
            for (int r = 0; r < R; r++) v[r] = cuda_weight<T>(w[r], n, j);
#pragma unroll
            for (int b = 0; b < NB; b++) {
                float xb = x[b][k + 16 * n];
#pragma unroll
                for (int r = 0; r < R; r++) sum[b][r] = fmaf(v[r], xb, sum[b][r]);
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) w[r] += cuda_block<T>::bytes;
    }
    if (k < m.cols) /* f32 alone: a missing tail is zeros */
        for (int b = 0; b < NB; b++)
            for (int r = 0; r < R; r++)
                sum[b][r] = k + j < m.cols ? fmaf(((const float *)w[r])[j], x[b][k], sum[b][r]) : fmaf(0, 0, sum[b][r]);
    for (int b = 0; b < NB; b++)
        for (int r = 0; r < R; r++) {
            float s = cuda_tree16(sum[b][r]), *to = m.y + (size_t)(b0 + b) * (size_t)m.ldy + r0 + r;
            if (j == 0 && b0 + b < m.B && r0 + r < m.rows) *to = m.add ? *to + s : s;
        }
}

template <int T, int NB, int R> static void launch(const struct exact &m)
{
    dim3 grid((unsigned)((m.rows + HALVES * R - 1) / (HALVES * R)), (unsigned)((m.B + NB - 1) / NB));
    CUDA_LAUNCH((exact_rows<T, NB, R>), grid, THREADS, 0, cuda.stream, m);
}

/* The operation is named and locked by the caller. */
void cuda_matmul_exact(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct exact m = {y, (const uint8_t *)w->data, x, mat_row_bytes(w), ldy, w->rows, w->cols, B, then == MATMUL_ADD};
#define EXACT(T)            \
    if (B == 1)             \
        launch<T, 1, 1>(m); \
    else if (B <= 4)        \
        launch<T, 4, 2>(m); \
    else                    \
        launch<T, 8, 4>(m)
    CUDA_EACH_TYPE(w->type, EXACT)
#undef EXACT
}

/* ---- transposed ---- */

enum { COLUMNS = 32, ROWS_T = 8 };

/* A warp is lane j of 32 columns, so it reads 32 neighbours of a row of the matrix. */
template <int T>
static __global__ void __launch_bounds__(COLUMNS * 16)
    exact_columns(float *y, int ldy, const void *w, int rows, int cols, int ldt, const float *x, int B, int add)
{
    CUDA_SHARED(float, lanes, [16][COLUMNS]);
    const int c = (int)threadIdx.x % COLUMNS, j = (int)threadIdx.x / COLUMNS, r = (int)blockIdx.x * COLUMNS + c;
    const int b0 = (int)blockIdx.y * ROWS_T, from = min(r, rows - 1);
    float sum[ROWS_T] = {0};
    for (int k = 0; k < cols; k += 16) {
        bool is = k + j < cols;
        float v = is ? cuda_element<T>(w, (size_t)(k + j) * (size_t)ldt + (size_t)from) : 0;
#pragma unroll
        for (int b = 0; b < ROWS_T; b++)
            sum[b] = fmaf(v, is ? x[(size_t)min(b0 + b, B - 1) * (size_t)cols + (size_t)(k + j)] : 0, sum[b]);
    }
    for (int b = 0; b < ROWS_T; b++) {
        __syncthreads();
        lanes[j][c] = sum[b];
        for (int step = 8; step; step /= 2) {
            __syncthreads();
            if (j < step) lanes[j][c] += lanes[j + step][c];
        }
        if (j == 0 && r < rows && b0 + b < B) {
            float *to = y + (size_t)(b0 + b) * (size_t)ldy + r;
            *to = add ? *to + lanes[0][c] : lanes[0][c];
        }
    }
}

void cuda_matmul_t(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct cuda_op op("matmul_t");
    dim3 grid((unsigned)((w->rows + COLUMNS - 1) / COLUMNS), (unsigned)((B + ROWS_T - 1) / ROWS_T));
    if (!op.go || B < 1) return;
#define EXACT_T(T)                                                                                                       \
    CUDA_LAUNCH((exact_columns<T>), grid, COLUMNS * 16, 0, cuda.stream, y, ldy, w->data, w->rows, w->cols, w->ldt, x, B, \
                then == MATMUL_ADD)
    switch (w->type) {
    case DTYPE_F32: EXACT_T(DTYPE_F32); break;
    case DTYPE_F16: EXACT_T(DTYPE_F16); break;
    case DTYPE_BF16: EXACT_T(DTYPE_BF16); break;
    default: cuda_fail_text(op.name, "a transposed matrix is f32, f16 or bf16"); break;
    }
#undef EXACT_T
}
