/* cuda_exact.cu: matmul with f32 arithmetic, for f32 and quantised weights, and the transposed one: the CPU's bits.
 *
 * Half a warp is the sixteen lanes of a dot product. How often a weight is widened, and where x comes from, depends on the
 * number of rows; a sum's order never does.
 *  - exact_rows, up to 16 rows of x: each weight is widened once for up to 8 of them. A block of weights is read byte by byte,
 *    sixteen neighbours at a time, straight from the quantised rows: these come once from memory and then from the L1 cache.
 *    Bound by instructions, about six per weight at one row.
 *  - exact_columns, the same for transposed weights.
 *  - exact_tiles, more rows: a block widens 32 by 32 weights into shared memory once for 32 or 64 rows of x. A thread is one
 *    lane of 8 by 8 sums, so that 64 fma take 16 loads from shared memory: at 128 fma and one load of a warp a cycle both take
 *    the same time.
 * So the bound is the fma's: a few times slower than tensor cores with rounded weights would be. That is the price of exact
 * widening and of equal bits for all B. Nothing of this was measured.
 */
#include "cuda_math.h"

enum { THREADS = 128, HALVES = THREADS / 16, FEW = 16 };

struct exact {
    float *y;
    const uint8_t *w;
    const float *x;
    size_t step; /* from one row of w to the next: bytes; transposed: elements */
    int ldy, rows, cols, B, add;
};

static __device__ __forceinline__ void put_sum(const struct exact &m, int b, int r, float sum)
{
    float *to = m.y + (size_t)b * (size_t)m.ldy + r;
    if (b < m.B && r < m.rows) *to = m.add ? *to + sum : sum;
}

/* ---- up to 16 rows of x ---- */

template <int T, int NB, int R> static __global__ void __launch_bounds__(THREADS) exact_rows(struct exact m)
{
    cuda_start();
    const int j = (int)threadIdx.x % 16, r0 = ((int)blockIdx.x * HALVES + (int)threadIdx.x / 16) * R, b0 = (int)blockIdx.y * NB;
    const int size = cuda_block<T>::size;
    const uint8_t *w[R];
    const float *x[NB];
    float sum[NB][R];
    int k = 0;
    for (int r = 0; r < R; r++) w[r] = m.w + (size_t)min(r0 + r, m.rows - 1) * m.step; /* doubles are not stored */
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
            float s = cuda_tree16(sum[b][r]);
            if (j == 0) put_sum(m, b0 + b, r0 + r, s);
        }
}

/* ---- up to 16 rows of x, transposed weights ---- */

enum { COLUMNS = 32, ROWS_T = 8 };

/* A warp is lane j of 32 columns, so it reads 32 neighbours of a row of the matrix. */
template <int T> static __global__ void __launch_bounds__(COLUMNS * 16) exact_columns(struct exact m)
{
    cuda_start();
    CUDA_SHARED(float, lanes, [16][COLUMNS]);
    const int c = (int)threadIdx.x % COLUMNS, j = (int)threadIdx.x / COLUMNS, r = (int)blockIdx.x * COLUMNS + c;
    const int b0 = (int)blockIdx.y * ROWS_T, from = min(r, m.rows - 1);
    float sum[ROWS_T] = {0};
    for (int k = 0; k < m.cols; k += 16) {
        bool is = k + j < m.cols;
        float v = is ? cuda_element<T>(m.w, (size_t)(k + j) * m.step + (size_t)from) : 0;
#pragma unroll
        for (int b = 0; b < ROWS_T; b++)
            sum[b] = fmaf(v, is ? m.x[(size_t)min(b0 + b, m.B - 1) * (size_t)m.cols + (size_t)(k + j)] : 0, sum[b]);
    }
    for (int b = 0; b < ROWS_T; b++) {
        __syncthreads();
        lanes[j][c] = sum[b];
        for (int step = 8; step; step /= 2) {
            __syncthreads();
            if (j < step) lanes[j][c] += lanes[j + step][c];
        }
        if (j == 0) put_sum(m, b0 + b, r, lanes[0][c]);
    }
}

/* ---- more rows of x ---- */

/* A line of weights has two floats more than it needs: the halves of a warp read lines 8 apart, which then lie in different
   banks, and the 32 lines that transposed weights are written to at once meet two by two instead of sixteen. */
enum { PATCH = 8, TILE_R = 32, TILE_K = 32, LINE = TILE_K + 2, PIECE = 16 / sizeof(float) };

/* Weight 16 n + j of the 32 from column k on, all of one block; zero past the end of a plain row. */
template <int T> static __device__ __forceinline__ float widened(const uint8_t *row, int k, int n, int j, int cols)
{
    const int size = cuda_block<T>::size;
    if (size < TILE_K) return k + 16 * n + j < cols ? cuda_element<T>(row, (size_t)(k + 16 * n + j)) : 0;
    return cuda_weight<T>(row + (size_t)(k / size) * cuda_block<T>::bytes, (size == TILE_K ? 0 : k % size / 16) + n, j);
}

/* This thread's N of the 32 by 32 weights from row r0 and column k0 on; put_weights knows where they go. They wait in registers
   while the tile before them is multiplied, so that the loads take no time of their own. */
template <int T, int TRANSPOSED, int N>
static __device__ __forceinline__ void take_weights(float *v /* (N) */, const struct exact &m, int r0, int k0)
{
    const int t = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (TRANSPOSED) { /* a warp: 32 neighbours of a row of the matrix */
            int k = k0 + t / 32 + i * (TILE_K / N), r = min(r0 + t % 32, m.rows - 1);
            v[i] = k < m.cols ? cuda_element<T>(m.w, (size_t)k * m.step + (size_t)r) : 0;
        } else { /* half a warp: 32 neighbours of a row, in two steps */
            int r = min(r0 + t / 16 + i / 2 * (TILE_R / (N / 2)), m.rows - 1);
            v[i] = widened<T>(m.w + (size_t)r * m.step, k0, i % 2, t % 16, m.cols);
        }
    }
}

template <int TRANSPOSED, int N>
static __device__ __forceinline__ void put_weights(float (*to)[LINE] /* (TILE_R) */, const float *v /* (N) */)
{
    const int t = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (TRANSPOSED)
            to[t % 32][t / 32 + i * (TILE_K / N)] = v[i];
        else
            to[t / 16 + i / 2 * (TILE_R / (N / 2))][i % 2 * 16 + t % 16] = v[i];
    }
}

/* Rows b0..b0+n-1 of x from column k0 on; what is not there becomes zeros. */
static __device__ __forceinline__ void fetch_x(float *to /* (n, TILE_K) */, const struct exact &m, int b0, int n, int k0)
{
    const bool whole = m.cols % PIECE == 0 && (uintptr_t)m.x % 16 == 0;
    for (int i = (int)threadIdx.x; i < n * (TILE_K / PIECE); i += (int)blockDim.x) {
        int b = b0 + i / (TILE_K / PIECE), k = k0 + i % (TILE_K / PIECE) * PIECE;
        const float *from = m.x + (size_t)b * (size_t)m.cols + k;
        bool is = b < m.B && k < m.cols;
        if (whole)
            cuda_copy16(to + i * PIECE, is ? from : m.x, is ? 16 : 0);
        else
            for (int c = 0; c < PIECE; c++) to[i * PIECE + c] = is && k + c < m.cols ? from[c] : 0;
    }
    cuda_copy_commit();
}

/* sum += the products of TILE_K columns, of which `left` are still to come; x: the thread's lane of PATCH rows, w likewise. */
static __device__ __forceinline__ void multiply(float *sum /* (PATCH, PATCH) */, const float *x, const float *w, int left)
{
#pragma unroll
    for (int k = 0; k < TILE_K; k += 16) {
        float v[PATCH];
        if (k >= left) break; /* no fma of zeros where the CPU has none: it would turn -0 into +0 */
#pragma unroll
        for (int r = 0; r < PATCH; r++) v[r] = w[r * LINE + k];
#pragma unroll
        for (int b = 0; b < PATCH; b++) {
            float xb = x[b * TILE_K + k];
#pragma unroll
            for (int r = 0; r < PATCH; r++) sum[b * PATCH + r] = fmaf(v[r], xb, sum[b * PATCH + r]);
        }
    }
}

/* One step of a tree over sixteen lanes for 2 N sums at once: a lane keeps half of them and gives the other half away. */
template <int N> static __device__ __forceinline__ void tree_step(float *v /* (2 N) */, int j)
{
    const bool high = j & N / 4;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float mine = high ? v[N + i] : v[i], theirs = high ? v[i] : v[N + i];
        v[i] = mine + __shfl_xor_sync(0xffffffffu, theirs, N / 4);
    }
}

/* 8 PB rows of x by 32 of weights, in PB by 4 patches. The two halves of a warp have the same rows of x, and weights of patches
   side by side. Two stages: while one is multiplied, the next one comes. */
template <int T, int PB, int TRANSPOSED> static __global__ void __launch_bounds__(PB * 64, 8 / PB) exact_tiles(struct exact m)
{
    cuda_start();
    enum { TILE_B = PATCH * PB, N = TILE_R * TILE_K / (PB * 64) };
    CUDA_SHARED(float4, xs, [2][TILE_B * TILE_K / PIECE]);
    CUDA_SHARED(float, ws, [2][TILE_R][LINE]);
    const int warp = (int)threadIdx.x / 32, j = (int)threadIdx.x % 16, b0 = (int)blockIdx.x * TILE_B,
              r0 = (int)blockIdx.y * TILE_R;
    const int b = warp / 2 * PATCH, r = warp % 2 * 2 * PATCH + (int)threadIdx.x % 32 / 16 * PATCH;
    const int steps = (m.cols + TILE_K - 1) / TILE_K;
    float sum[PATCH * PATCH], v[N];
#pragma unroll
    for (int i = 0; i < PATCH * PATCH; i++) sum[i] = 0;
    fetch_x((float *)xs[0], m, b0, TILE_B, 0);
    take_weights<T, TRANSPOSED, N>(v, m, r0, 0);
    put_weights<TRANSPOSED, N>(ws[0], v);
    for (int t = 0; t < steps; t++) {
        const int left = m.cols - t * TILE_K;
        const bool more = t + 1 < steps;
        cuda_copy_wait<0>();
        __syncthreads(); /* tile t is here for all, and all are done with tile t - 1, where the next one goes */
        if (more) {
            fetch_x((float *)xs[(t + 1) % 2], m, b0, TILE_B, (t + 1) * TILE_K);
            take_weights<T, TRANSPOSED, N>(v, m, r0, (t + 1) * TILE_K);
        }
        multiply(sum, (const float *)xs[t % 2] + b * TILE_K + j, ws[t % 2][r] + j, left);
        if (more) put_weights<TRANSPOSED, N>(ws[(t + 1) % 2], v);
    }
    tree_step<32>(sum, j); /* cuda_tree16 of the 64; lane j ends with the sums 4j..4j+3 */
    tree_step<16>(sum, j);
    tree_step<8>(sum, j);
    tree_step<4>(sum, j);
#pragma unroll
    for (int i = 0; i < 4; i++) put_sum(m, b0 + b + j / 2, r0 + r + j % 2 * 4 + i, sum[i]);
}

/* ---- on the host ---- */

template <int T, int NB, int R> static void rows(const struct exact &m)
{
    dim3 grid((unsigned)((m.rows + HALVES * R - 1) / (HALVES * R)), (unsigned)((m.B + NB - 1) / NB));
    CUDA_LAUNCH_EARLY((exact_rows<T, NB, R>), grid, THREADS, 0, cuda.stream, m);
}

/* Tiles of the same weights next to each other: x stays in the L2 cache, the weights come once. */
template <int T, int PB, int TRANSPOSED> static void tiles(const struct exact &m)
{
    dim3 grid((unsigned)((m.B + PATCH * PB - 1) / (PATCH * PB)), (unsigned)((m.rows + TILE_R - 1) / TILE_R));
    CUDA_LAUNCH_EARLY((exact_tiles<T, PB, TRANSPOSED>), grid, PB * 64, 0, cuda.stream, m);
}

/* The operation is named and locked by the caller. */
void cuda_matmul_exact(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct exact m = {y, (const uint8_t *)w->data, x, mat_row_bytes(w), ldy, w->rows, w->cols, B, then == MATMUL_ADD};
#define EXACT(T)           \
    if (B == 1)            \
        rows<T, 1, 1>(m);  \
    else if (B <= 4)       \
        rows<T, 4, 2>(m);  \
    else if (B <= FEW)     \
        rows<T, 8, 4>(m);  \
    else if (B <= 32)      \
        tiles<T, 4, 0>(m); \
    else                   \
        tiles<T, 8, 0>(m)
    CUDA_EACH_TYPE(w->type, EXACT)
#undef EXACT
}

template <int T> static void transposed(const struct exact &m)
{
    dim3 grid((unsigned)((m.rows + COLUMNS - 1) / COLUMNS), (unsigned)((m.B + ROWS_T - 1) / ROWS_T));
    if (m.B <= FEW)
        CUDA_LAUNCH_EARLY((exact_columns<T>), grid, COLUMNS * 16, 0, cuda.stream, m);
    else if (m.B <= 32)
        tiles<T, 4, 1>(m);
    else
        tiles<T, 8, 1>(m);
}

void cuda_matmul_t(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct cuda_op op("matmul_t");
    struct exact m = {y, (const uint8_t *)w->data, x, (size_t)w->ldt, ldy, w->rows, w->cols, B, then == MATMUL_ADD};
    if (!op.go || B < 1) return;
    switch (w->type) {
    case DTYPE_F32: transposed<DTYPE_F32>(m); break;
    case DTYPE_F16: transposed<DTYPE_F16>(m); break;
    case DTYPE_BF16: transposed<DTYPE_BF16>(m); break;
    default: cuda_fail_text(op.name, "a transposed matrix is f32, f16 or bf16"); break;
    }
}
