/* cuda_matmul.cu: matmul of bf16 and f16 weights in the tensor cores; other weights go to cuda_exact.cu.
 *
 * THE ORDER OF THE SUM, the same for every B. x is rounded to the weights' type. The columns are cut into at most four slices
 * of equal length (slice_of: a quarter of K, a multiple of 64, at least 512). A slice is one chain of m16n8k16 products,
 * d = a b + d from zero, two for every 32 columns in rising order; of the 32, lane q of four holds 8q..8q+7, the first product
 * takes the first four of each lane and the second the rest. The slices' sums are added in rising order. Then the one
 * addition of MATMUL_ADD. x lies in the rows of a, the weights in the columns of b, so a row of x meets nothing of
 * another row.
 *
 * Why not cuBLAS: it chooses kernel and split by the number of rows, so a row's bits would follow the batch, and since Ampere
 * the algorithm's number is ignored, so that no choice can be pinned. Only calls of one exact size would be safe: of 64 rows,
 * they read all weights 32 times for a prompt of 2,048 tokens, about 90 ms at 4.8 TB/s for 7 G weights of bf16, and of more
 * rows they make one row slower. Own kernels with one order of the sum have neither limit, and the plug-in needs no library of
 * half a gigabyte. What it costs: mma.sync reaches about 60 % of what Hopper's wgmma does, so a long prompt is expected to take
 * half as long again as with cuBLAS. Nothing of this was measured; on other than Hopper mma.sync is the only way anyway.
 *
 * Three kernels, one order:
 *  - few_rows, B <= 16: bound by memory. A block is eight rows of weights; its four warps take a slice each, straight from
 *    memory in pieces of 16 bytes a lane, four pieces ahead; x stays f32 and is rounded on the way. On Hopper and later,
 *    where every kernel is launched while the one before it ends, its first weights are on their way before it waits for x.
 *  - many_rows: tiles of 64 or 128 rows of x by 128 of weights, three stages of asynchronous copies into shared memory; a block
 *    runs through the slices. Where that gives fewer blocks than processors (B <= 64 with 4,096 rows of weights),
 *    a block takes one slice, and add_slices adds them.
 *
 * TOGETHER. A layer multiplies the same x with the weights of q, k and v, then with gate and up, and k and v alone do not fill
 * a GPU. So a product that stores waits for the next one, and up to three of the same x become one grid over the rows of all
 * their weights; each row's arithmetic is what it was. Every other operation, and end, first launches what waits
 * (cuda_matmul_flush), so that nobody sees the difference.
 */
#include "cuda_math.h"

enum { SLICES = 4, STEP = 32, JOINED = 3 };

static __host__ __device__ inline int slice_of(int K)
{
    int n = ((K + SLICES - 1) / SLICES + 63) / 64 * 64;
    return n < 512 ? 512 : n;
}

struct target {
    float *y;
    const uint16_t *w; /* (rows, K) */
    int ldy, rows, at; /* at: rows of the targets before it */
};

struct product {
    struct target of[JOINED];
    const float *x;         /* (B, K) */
    const uint16_t *narrow; /* (B, K) x in the weights' type */
    float *part;            /* (slices, B, rows of all targets): where slices are summed apart */
    int targets, rows, K, B, add;
    int slice, each; /* columns: of a slice, and of a block of many_rows, which takes one slice or all */
};

/* Whose tile of HEIGHT rows this is, when the targets' tiles are counted through; *tile becomes the number within it. */
template <int HEIGHT> static __device__ __forceinline__ int target_of(const struct product &m, int *tile)
{
    int i = 0;
    while (i < JOINED - 1 && *tile >= (m.of[i].rows + HEIGHT - 1) / HEIGHT) *tile -= (m.of[i++].rows + HEIGHT - 1) / HEIGHT;
    return i;
}

static __device__ __forceinline__ void put_sum(const struct product &m, const struct target &t, int b, int r, float sum)
{
    float *to = t.y + (size_t)b * (size_t)t.ldy + r;
    if (b < m.B && r < t.rows) *to = m.add ? *to + sum : sum;
}

/* ---- up to 16 rows of x ---- */

enum { AHEAD = 4 };

/* Eight neighbours of a row; what lies past the end of it is zero. WHOLE: K is a multiple of 8 and rows start at 16 bytes. */
template <int WHOLE> static __device__ __forceinline__ uint4 eight_weights(const uint16_t *row, int k, int end)
{
    uint4 v = {0, 0, 0, 0};
    uint32_t *word = &v.x;
    if (WHOLE && k < end) v = cuda_stream_load(row + k);
    for (int i = 0; !WHOLE && i < 8; i++) word[i / 2] |= (uint32_t)(k + i < end ? row[k + i] : 0) << i % 2 * 16;
    return v;
}

template <int BF, int WHOLE>
static __device__ __forceinline__ void eight_of_x(uint32_t *to /* (4) */, const float *row, int k, int end)
{
    float f[8];
    for (int i = 0; i < 4; i++) to[i] = 0;
    if (k >= end) return;
    if (WHOLE) {
        float4 low = *(const float4 *)(row + k), high = *(const float4 *)(row + k + 4);
        f[0] = low.x, f[1] = low.y, f[2] = low.z, f[3] = low.w;
        f[4] = high.x, f[5] = high.y, f[6] = high.z, f[7] = high.w;
    }
    for (int i = 0; !WHOLE && i < 8; i++) f[i] = k + i < end ? row[k + i] : 0;
    for (int i = 0; i < 4; i++) to[i] = cuda_pack<BF>(f[2 * i], f[2 * i + 1]);
}

template <int BF, int WHOLE> static __global__ void __launch_bounds__(128) few_rows(struct product m)
{
    CUDA_SHARED(float, sums, [SLICES][128]);
    cuda_let_next_start();
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, n = lane / 4, q = lane % 4;
    const int b0 = (int)blockIdx.y * 16, from = warp * m.slice, end = min(m.K, from + m.slice);
    int tile = (int)blockIdx.x;
    const struct target &t = m.of[target_of<8>(m, &tile)];
    const uint16_t *w = t.w + (size_t)min(tile * 8 + n, t.rows - 1) * (size_t)m.K;
    const float *x0 = m.x + (size_t)(b0 + n) * (size_t)m.K, *x8 = x0 + (size_t)8 * (size_t)m.K;
    const int end0 = b0 + n < m.B ? end : 0, end8 = b0 + n + 8 < m.B ? end : 0; /* rows that are not there are zeros */
    float d[4] = {0, 0, 0, 0};
    uint4 next[AHEAD], now[AHEAD];
#pragma unroll
    for (int u = 0; u < AHEAD; u++) next[u] = eight_weights<WHOLE>(w, from + u * STEP + q * 8, end);
    cuda_wait_for_previous(); /* which may still write x */
    for (int k = from; k < end; k += AHEAD * STEP) {
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            now[u] = next[u];
            next[u] = eight_weights<WHOLE>(w, k + (AHEAD + u) * STEP + q * 8, end);
        }
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            uint32_t low[4], high[4] = {0, 0, 0, 0};
            if (k + u * STEP >= end) break; /* the same in all lanes */
            eight_of_x<BF, WHOLE>(low, x0, k + u * STEP + q * 8, end0);
            if (m.B - b0 > 8) eight_of_x<BF, WHOLE>(high, x8, k + u * STEP + q * 8, end8);
            cuda_two_products<BF>(d, low, high, now[u]);
        }
    }
    /* d: rows n and n + 8 of x, weights 2q and 2q + 1 */
    for (int i = 0; i < 4; i++) sums[warp][(n + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
    __syncthreads();
    float sum = sums[0][threadIdx.x];
    for (int s = 1; s * m.slice < m.K; s++) sum += sums[s][threadIdx.x];
    put_sum(m, t, b0 + (int)threadIdx.x / 8, tile * 8 + (int)threadIdx.x % 8, sum);
}

/* ---- many rows ---- */

enum { TILE_N = 128, TILE_K = 64, STAGES = 3, WARPS = 8 };

template <int BF> static __global__ void narrow_each(uint16_t *to, const float *x, size_t n)
{
    cuda_start();
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 2;
    uint32_t two;
    if (i >= n) return;
    two = cuda_pack<BF>(x[i], i + 1 < n ? x[i + 1] : 0);
    to[i] = (uint16_t)two;
    if (i + 1 < n) to[i + 1] = (uint16_t)(two >> 16);
}

/* A tile of n rows, TILE_K columns from k0 on, into shared memory: two panels of 32 columns, each (n, 32), so that the eight
   lanes that read two rows of a panel at once meet all banks. A thread brings eight neighbours of every 32nd row; from: the
   first of these rows, with which there are `left` more. */
static __device__ __forceinline__ void fetch(uint16_t *to, const uint16_t *from, int left, int n, int K, int k0)
{
    const int r = (int)threadIdx.x / (TILE_K / 8), eighth = (int)threadIdx.x % (TILE_K / 8), rows = WARPS * 32 / (TILE_K / 8);
    to += (eighth / 4 * n + r) * STEP + eighth % 4 * 8;
#pragma unroll
    for (int i = 0; i < n / rows; i++) {
        bool is = i * rows < left && k0 + eighth * 8 < K;
        cuda_copy16(to + i * rows * STEP, is ? from + (size_t)(i * rows) * (size_t)K + k0 + eighth * 8 : from, is ? 16 : 0);
    }
}

/* A tile of 32 MI rows of x by TILE_N of weights; 2 by 4 warps, each with 16 MI by 32. Block z of several takes slice z alone.
   Its registers are just enough for two blocks of 64 rows on a processor: hence so little is kept from turn to turn. */
template <int BF, int MI> static __global__ void __launch_bounds__(WARPS * 32, MI == 2 ? 2 : 1) many_rows(struct product m)
{
    cuda_start();
    enum { NI = 4, TILE_M = 32 * MI, STAGE = (TILE_M + TILE_N) * TILE_K };
    CUDA_DYNAMIC_SHARED(uint16_t, stage); /* (STAGES)(TILE_M + TILE_N, TILE_K) */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, n = lane / 4, q = lane % 4;
    int tile = (int)blockIdx.y;
    const struct target &to = m.of[target_of<TILE_N>(m, &tile)];
    const int b0 = (int)blockIdx.x * TILE_M, r0 = tile * TILE_N, wm = warp / 4 * 16 * MI, wn = warp % 4 * 32;
    const int x_row = b0 + (int)threadIdx.x / (TILE_K / 8), w_row = r0 + (int)threadIdx.x / (TILE_K / 8);
    const int x_left = m.B - x_row, w_left = to.rows - w_row;
    const uint16_t *x = m.narrow + (size_t)min(x_row, m.B - 1) * (size_t)m.K;
    const uint16_t *w = to.w + (size_t)min(w_row, to.rows - 1) * (size_t)m.K;
    const int from = (int)blockIdx.z * m.each, end = min(m.K, from + m.each);
    float sum[MI][NI][4], d[MI][NI][4];
    for (int i = 0; i < MI; i++)
        for (int j = 0; j < NI; j++)
            for (int c = 0; c < 4; c++) sum[i][j][c] = d[i][j][c] = 0;
#pragma unroll
    for (int t = 0; t < STAGES - 1; t++) {
        const int k = from + t * TILE_K;
        if (k < end) {
            uint16_t *place = stage + k / TILE_K % STAGES * STAGE;
            fetch(place, x, x_left, TILE_M, m.K, k);
            fetch(place + TILE_M * TILE_K, w, w_left, TILE_N, m.K, k);
        }
        cuda_copy_commit();
    }
    for (int k = from; k < end; k += TILE_K) {
        const uint16_t *a = stage + k / TILE_K % STAGES * STAGE, *b = a + TILE_M * TILE_K;
        const int ahead = k + (STAGES - 1) * TILE_K;
        cuda_copy_wait<STAGES - 2>();
        __syncthreads(); /* this stage is here for all, and all are done with the one before it, where the next one goes */
        if (ahead < end) {
            uint16_t *place = stage + ahead / TILE_K % STAGES * STAGE;
            fetch(place, x, x_left, TILE_M, m.K, ahead);
            fetch(place + TILE_M * TILE_K, w, w_left, TILE_N, m.K, ahead);
        }
        cuda_copy_commit();
#pragma unroll
        for (int panel = 0; panel < TILE_K / STEP; panel++) {
            uint4 v[NI];
            if (k + panel * STEP >= end) break; /* as few_rows does: no product of zeros at the end */
#pragma unroll
            for (int j = 0; j < NI; j++) v[j] = *(const uint4 *)(b + (panel * TILE_N + wn + j * 8 + n) * STEP + q * 8);
#pragma unroll
            for (int i = 0; i < MI; i++) {
                const uint16_t *row = a + (panel * TILE_M + wm + i * 16 + n) * STEP + q * 8;
                uint4 l = *(const uint4 *)row, h = *(const uint4 *)(row + 8 * STEP);
                const uint32_t low[4] = {l.x, l.y, l.z, l.w}, high[4] = {h.x, h.y, h.z, h.w};
#pragma unroll
                for (int j = 0; j < NI; j++) cuda_two_products<BF>(d[i][j], low, high, v[j]);
            }
        }
        if ((k + TILE_K) % m.slice == 0 || k + TILE_K >= end) {
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NI; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        sum[i][j][c] += d[i][j][c];
                        d[i][j][c] = 0;
                    }
        }
    }
    cuda_copy_wait<0>();
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int row = b0 + wm + i * 16 + n + c / 2 * 8, r = r0 + wn + j * 8 + 2 * q + c % 2;
                if (gridDim.z == 1)
                    put_sum(m, to, row, r, sum[i][j][c]);
                else if (row < m.B && r < to.rows)
                    m.part[((size_t)blockIdx.z * (size_t)m.B + (size_t)row) * (size_t)m.rows + (size_t)(to.at + r)] =
                        sum[i][j][c];
            }
}

static __global__ void add_slices(struct product m)
{
    cuda_start();
    const size_t all = (size_t)m.B * (size_t)m.rows, i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    int r = (int)(i % (size_t)m.rows);
    float sum;
    if (i >= all) return;
    const struct target &to = m.of[target_of<1>(m, &r)];
    sum = m.part[i];
    for (int s = 1; s * m.slice < m.K; s++) sum += m.part[(size_t)s * all + i];
    put_sum(m, to, (int)(i / (size_t)m.rows), r, sum);
}

/* ---- on the host ---- */

static struct cuda_scratch narrow, parts;

/* The tiles of all targets. */
static unsigned tiles_of(const struct product *m, int height)
{
    int n = 0;
    for (int i = 0; i < m->targets; i++) n += (m->of[i].rows + height - 1) / height;
    return (unsigned)n;
}

template <int BF> static bool narrow_rows(struct product *m)
{
    size_t n = (size_t)m->B * (size_t)m->K;
    if (!cuda_need(&narrow, "matmul", n * sizeof(uint16_t))) return false;
    m->narrow = (const uint16_t *)narrow.p;
    CUDA_LAUNCH_EARLY((narrow_each<BF>), (unsigned)((n + 511) / 512), 256, 0, cuda.stream, (uint16_t *)narrow.p, m->x, n);
    return true;
}

template <int BF, int MI> static void many(struct product *m)
{
    const size_t shared = (size_t)STAGES * (32 * MI + TILE_N) * TILE_K * sizeof(uint16_t);
    const int slices = (m->K + m->slice - 1) / m->slice;
    /* tiles of the same weights next to each other: x stays in the L2 cache, the weights come once */
    dim3 grid((unsigned)((m->B + 32 * MI - 1) / (32 * MI)), tiles_of(m, TILE_N));
    static bool room;
    if (!room && !CUDA_ROOM((many_rows<BF, MI>), shared)) return;
    room = true;
    if (!narrow_rows<BF>(m)) return;
    if ((int)(grid.x * grid.y) < cuda.sm_count && slices > 1) {
        size_t n = (size_t)m->B * (size_t)m->rows;
        if (!cuda_need(&parts, "matmul", (size_t)slices * n * sizeof(float))) return;
        m->part = (float *)parts.p;
        grid.z = (unsigned)slices;
        m->each = m->slice;
        CUDA_LAUNCH_EARLY((many_rows<BF, MI>), grid, WARPS * 32, shared, cuda.stream, *m);
        CUDA_LAUNCH_EARLY(add_slices, (unsigned)((n + 255) / 256), 256, 0, cuda.stream, *m);
    } else {
        CUDA_LAUNCH_EARLY((many_rows<BF, MI>), grid, WARPS * 32, shared, cuda.stream, *m);
    }
}

template <int BF> static void multiply(struct product *m, bool whole)
{
    dim3 grid(tiles_of(m, 8), (unsigned)((m->B + 15) / 16));
    if (whole && m->B > 64)
        many<BF, 4>(m);
    else if (whole && m->B > 16)
        many<BF, 2>(m);
    else if (whole)
        CUDA_LAUNCH_EARLY((few_rows<BF, 1>), grid, 128, 0, cuda.stream, *m);
    else
        CUDA_LAUNCH_EARLY((few_rows<BF, 0>), grid, 128, 0, cuda.stream, *m);
}

/* ---- products that wait for the next one ---- */

static struct {
    struct product m; /* no targets: nothing waits */
    bool bf, whole;
} waiting;

void cuda_matmul_flush(void)
{
    struct product m = waiting.m;
    if (!m.targets) return;
    waiting.m.targets = 0;
    struct cuda_op op("matmul", true);
    if (!op.go) return;
    if (waiting.bf)
        multiply<1>(&m, waiting.whole);
    else
        multiply<0>(&m, waiting.whole);
}

struct range {
    const char *from;
    size_t bytes;
};

static bool meet(struct range a, struct range b)
{
    return a.from < b.from + b.bytes && b.from < a.from + a.bytes;
}

static struct range range_of_x(const struct product *m)
{
    return {(const char *)m->x, (size_t)m->B * (size_t)m->K * sizeof(float)};
}

static struct range range_of_y(const struct product *m, int i)
{
    const struct target *t = &m->of[i];
    return {(const char *)t->y, (((size_t)m->B - 1) * (size_t)t->ldy + (size_t)t->rows) * sizeof(float)};
}

static struct range range_of_w(const struct product *m, int i)
{
    return {(const char *)m->of[i].w, (size_t)m->of[i].rows * (size_t)m->K * sizeof(uint16_t)};
}

/* Whether m could be computed at the same time as what waits: nothing that one writes is read or written by the other. */
static bool can_join(const struct product *m, bool bf, bool whole)
{
    const struct product *first = &waiting.m;
    if (!first->targets || first->targets == JOINED || m->add || bf != waiting.bf || whole != waiting.whole) return false;
    if (m->x != first->x || m->B != first->B || m->K != first->K || meet(range_of_y(m, 0), range_of_x(m))) return false;
    for (int i = 0; i < first->targets; i++)
        if (meet(range_of_y(m, 0), range_of_y(first, i)) || meet(range_of_y(m, 0), range_of_w(first, i)) ||
            meet(range_of_w(m, 0), range_of_y(first, i)))
            return false;
    return true;
}

void cuda_matmul(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then)
{
    struct cuda_op op("matmul", true);
    const bool bf = w->type == DTYPE_BF16, whole = w->cols % 8 == 0 && ((uintptr_t)w->data | (uintptr_t)x) % 16 == 0;
    struct product m = {{{y, (const uint16_t *)w->data, ldy, w->rows, 0}},
                        x,
                        NULL,
                        NULL,
                        1,
                        w->rows,
                        w->cols,
                        B,
                        then == MATMUL_ADD,
                        slice_of(w->cols),
                        w->cols};
    if (!op.go || B < 1 || w->rows < 1) return;
    if ((bf || w->type == DTYPE_F16) && (uintptr_t)w->data % 2 == 0) {
        if (can_join(&m, bf, whole)) {
            struct product *all = &waiting.m;
            m.of[0].at = all->rows;
            all->of[all->targets++] = m.of[0];
            all->rows += w->rows;
            return;
        }
        cuda_matmul_flush();
        waiting = {m, bf, whole};
        if (m.add || meet(range_of_y(&m, 0), range_of_x(&m))) cuda_matmul_flush();
        return;
    }
    cuda_matmul_flush();
    if ((uintptr_t)w->data % (w->type == DTYPE_F32 ? 4 : 2))
        cuda_fail_text(op.name, "weights are not aligned to their elements");
    else
        cuda_matmul_exact(y, ldy, w, x, B, then);
}
