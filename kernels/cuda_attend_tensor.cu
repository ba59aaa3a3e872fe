/* cuda_attend_tensor.cu: attention over pages of bf16 or f16 in the tensor cores.
 *
 * A warp takes sixteen queries of one kv head, the rows of a product, and whole pages. It reads keys and values straight from
 * memory, 16 bytes a lane, which no barrier waits for: the columns of a product may come in any order as long as both sides
 * agree, so lane q of four holds elements 8q..8q+7 of each 32 of a key; and of 64 elements of a value, lane n of eight holds
 * 8n..8n+7, which become its column in eight products.
 *
 * THE ARITHMETIC, the same for every B. q is rounded to the pages' type. Scores: a chain of m16n8k16 products in the order
 * of cuda_matmul.cu, times scale, then the cap. A page by itself: m its largest score, p = exp(s - m), d = sum p (a lane adds
 * its sixteen in rising order, then lanes 1 and 2 apart), o = sum of p, rounded to the pages' type, times v, a chain of four
 * products of sixteen tokens. Pages are folded in rising order (fold_of), those of a run into one sum, then the runs
 * (attend_merge).
 *
 * A page that queries of a warp share is read once for them; where rows have pages of their own, the warp goes through these
 * one after the other, and a query takes nothing of a page that is not its own, be there infinities in it.
 * Two ways to share out the work, one arithmetic: with many queries a warp has a tile of them and goes through the run's pages;
 * with few, the four warps of a block have a page each of one tile and fold them in shared memory.
 */
#include "cuda_attend.h"

enum { WARPS = CUDA_SPLIT, TILE = 16, STEP = 32 };

/* Of the lane's two queries, n and n + 8 of the tile: largest score, sum of exponentials, sums of values. o[8h + i][c] is query
   n + c/2 * 8, element 64h + 8 (2q + c % 2) + i. NH: 64s of elements. */
template <int NH> struct sums {
    float m[2], d[2], o[8 * NH][4];
};

/* Queries of a tile in shared memory, rounded: (steps of 32 elements)(TILE, 32), zeros behind the last. */
template <int BF> static __device__ void load_queries(uint16_t *to, const struct attention &a, int g, int u0, int n)
{
    const int eighths = (a.E + STEP - 1) / STEP * 4, lane = (int)threadIdx.x % 32;
    for (int i = lane; i < TILE * eighths; i += 32) {
        const int at = i / eighths, eighth = i % eighths, e = eighth * 8;
        uint4 x = {0, 0, 0, 0};
        if (at < n && e < a.E) {
            const struct query u = query_of(a, g, u0 + at);
            const float *from = a.q + ((size_t)u.row * (size_t)a.H + (size_t)u.head) * (size_t)a.E + e;
            const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
            x = {cuda_pack<BF>(low.x, low.y), cuda_pack<BF>(low.z, low.w), cuda_pack<BF>(high.x, high.y),
                 cuda_pack<BF>(high.z, high.w)};
        }
        *(uint4 *)(to + (eighth / 4 * TILE + at) * STEP + eighth % 4 * 8) = x;
    }
    __syncwarp();
}

/* Scores of the tile's queries and the page's 64 keys; s[j][c]: query n + c/2 * 8, key 8j + 2q + c % 2. */
template <int BF>
static __device__ __forceinline__ void scores(float (*s)[4] /* (8) */, const struct attention &a, const uint16_t *queries,
                                              const uint16_t *keys /* (P, E) */)
{
    const int lane = (int)threadIdx.x % 32, n = lane / 4, q = lane % 4;
    for (int j = 0; j < 8; j++)
        for (int c = 0; c < 4; c++) s[j][c] = 0;
#pragma unroll 1
    for (int e0 = 0; e0 < a.E; e0 += STEP) {
        const uint16_t *row = queries + (e0 / STEP * TILE + n) * STEP + q * 8;
        const uint4 l = *(const uint4 *)row, h = *(const uint4 *)(row + 8 * STEP);
        const uint32_t low[4] = {l.x, l.y, l.z, l.w}, high[4] = {h.x, h.y, h.z, h.w};
        const bool is = e0 + q * 8 < a.E;
        uint4 k[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            k[j] = {0, 0, 0, 0};
            if (is) k[j] = *(const uint4 *)(keys + (8 * j + n) * a.E + e0 + q * 8);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) cuda_two_products<BF>(s[j], low, high, k[j]);
    }
}

/* Scores become exponentials, packed as the rows of four products; m and d of the page. */
template <int BF>
static __device__ __forceinline__ void weigh(float (*s)[4], uint32_t (*p)[4] /* (4) */, float *m /* (2) */, float *d /* (2) */,
                                             const struct attention &a, const uint64_t *seen /* (2) */)
{
    const int q = (int)threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 32; i++) s[i / 4][i % 4] *= a.scale;
    if (a.cap > 0) { /* aside: few models have one, and it is most of the code */
#pragma unroll
        for (int i = 0; i < 32; i++) s[i / 4][i % 4] = cpu_tanh(s[i / 4][i % 4] / a.cap) * a.cap;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint64_t mine = seen[r] >> 2 * q; /* then the places are constants */
        m[r] = -INFINITY;
        d[r] = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float *x = &s[i / 2][2 * r + i % 2];
            if (!(mine >> (i / 2 * 8 + i % 2) & 1)) *x = -INFINITY;
            m[r] = *x > m[r] ? *x : m[r];
        }
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, m[r], step);
            m[r] = other > m[r] ? other : m[r];
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float *x = &s[i / 2][2 * r + i % 2];
            /* a NaN stays one; where all scores are -inf, nothing is seen */
            *x = mine >> (i / 2 * 8 + i % 2) & 1 ? cpu_exp(*x - (m[r] == -INFINITY ? 0 : m[r])) : 0;
            d[r] += *x;
        }
#pragma unroll
        for (int step = 1; step < 4; step *= 2) d[r] += __shfl_xor_sync(0xffffffffu, d[r], step);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        p[i][0] = cuda_pack<BF>(s[2 * i][0], s[2 * i][1]);
        p[i][1] = cuda_pack<BF>(s[2 * i][2], s[2 * i][3]);
        p[i][2] = cuda_pack<BF>(s[2 * i + 1][0], s[2 * i + 1][1]);
        p[i][3] = cuda_pack<BF>(s[2 * i + 1][2], s[2 * i + 1][3]);
    }
}

/* o += p v for elements 64h .. 64h + 63: tokens 2q, 2q + 1, 2q + 8 and 2q + 9 of each sixteen are a lane's. */
template <int BF>
static __device__ __forceinline__ void weighted(float (*o)[4] /* (8) */, const struct attention &a, const uint32_t (*p)[4],
                                                const uint16_t *values /* (P, E) */, int h)
{
    const int lane = (int)threadIdx.x % 32, q = lane % 4, e = 64 * h + lane / 4 * 8;
    for (int i = 0; i < 8; i++)
        for (int c = 0; c < 4; c++) o[i][c] = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint16_t *from = values + (16 * i + 2 * q) * a.E + e;
        uint4 v[4] = {{0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}};
        if (e < a.E) {
            v[0] = *(const uint4 *)from;
            v[1] = *(const uint4 *)(from + a.E);
            v[2] = *(const uint4 *)(from + 8 * a.E);
            v[3] = *(const uint4 *)(from + 9 * a.E);
        }
        const uint32_t w[4][4] = {{v[0].x, v[0].y, v[0].z, v[0].w},
                                  {v[1].x, v[1].y, v[1].z, v[1].w},
                                  {v[2].x, v[2].y, v[2].z, v[2].w},
                                  {v[3].x, v[3].y, v[3].z, v[3].w}};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t even[2] = {(w[0][k] & 0xffff) | w[1][k] << 16, (w[2][k] & 0xffff) | w[3][k] << 16};
            const uint32_t odd[2] = {w[0][k] >> 16 | (w[1][k] & 0xffff0000u), w[2][k] >> 16 | (w[3][k] & 0xffff0000u)};
            cuda_mma<BF>(o[2 * k], p[i], even);
            cuda_mma<BF>(o[2 * k + 1], p[i], odd);
        }
    }
}

/* Folds what the lane's queries see of a page. */
template <int BF, int NH>
static __device__ __forceinline__ void add_page(struct sums<NH> *sum, const struct attention &a, const uint16_t *queries,
                                                const uint16_t *keys, const uint16_t *values, const uint64_t *seen)
{
    float s[8][4], m[2], d[2];
    uint32_t p[4][4];
    struct fold f[2];
    scores<BF>(s, a, queries, keys);
    weigh<BF>(s, p, m, d, a, seen);
    for (int r = 0; r < 2; r++) f[r] = fold_of(&sum->m[r], &sum->d[r], m[r], d[r]);
#pragma unroll
    for (int h = 0; h < NH; h++) {
        weighted<BF>(s, a, p, values, h);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                float *o = &sum->o[8 * h + i][c];
                if (f[c / 2].takes) *o = *o * f[c / 2].c + s[i][c] * f[c / 2].w;
            }
    }
}

/* Page p of all queries of the tile: each different page once. */
template <int BF, int NH>
static __device__ __forceinline__ void add_pages(struct sums<NH> *sum, const struct attention &a, const uint16_t *queries,
                                                 int g, int u0, int n, int p)
{
    const int lane = (int)threadIdx.x % 32;
    const struct cuda_page *page = lane < n ? page_or_none(a, query_of(a, g, u0 + lane).row, p) : NULL;
    const unsigned long long k = page ? (unsigned long long)page->k : 0, v = page ? (unsigned long long)page->v : 0;
    const size_t head = (size_t)g * PAGE_TOKENS * (size_t)a.E;
    unsigned left = __ballot_sync(0xffffffffu, page != NULL);
    while (left) {
        const int first = __ffs((int)left) - 1;
        const unsigned long long its_k = __shfl_sync(0xffffffffu, k, first), its_v = __shfl_sync(0xffffffffu, v, first);
        const unsigned members = __ballot_sync(0xffffffffu, page != NULL && k == its_k && v == its_v);
        uint64_t seen[2];
        for (int r = 0; r < 2; r++) {
            const int at = lane / 4 + 8 * r;
            seen[r] = members >> at & 1 ? seen_of(a, g, query_of(a, g, u0 + at), p) : 0;
        }
        add_page<BF, NH>(sum, a, queries, (const uint16_t *)its_k + head, (const uint16_t *)its_v + head, seen);
        left &= ~members;
    }
}

/* Calls put(query of the tile, its row of the lane, element, o) for what the lane has. */
template <int NH, class F> static __device__ __forceinline__ void each_element(const struct sums<NH> &sum, int E, F put)
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < NH; h++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int e = 64 * h + 8 * (2 * (lane % 4) + c % 2);
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (e < E) put(lane / 4 + c / 2 * 8, c / 2, e + i, sum.o[8 * h + i][c]);
        }
}

/* The warps' pages, in rising order: part is (WARPS, TILE, E + 2) in shared memory. */
static __device__ void fold_warps(const struct attention &a, const float *part, int g, int u0, int n, int split)
{
    for (int i = (int)threadIdx.x; i < n * a.E; i += WARPS * 32) {
        const int at = i / a.E, e = i % a.E;
        float m = -INFINITY, d = 0, o = 0;
        for (int w = 0; w < WARPS; w++) {
            const float *its = part + (w * TILE + at) * (a.E + 2);
            const struct fold f = fold_of(&m, &d, its[a.E], its[a.E + 1]);
            if (f.takes) o = o * f.c + its[e] * f.w;
        }
        put_element(a, query_of(a, g, u0 + at), split, e, o, m, d);
    }
}

template <int BF, int NH>
static __global__ void __launch_bounds__(WARPS * 32, NH == 1 ? 3 : 2) attend_tensor(struct attention a, int apart)
{
    cuda_start();
    CUDA_DYNAMIC_SHARED(uint16_t, base); /* (WARPS) queries; apart: the warps' sums behind them */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = (int)blockIdx.y, split = (int)blockIdx.z;
    const int u0 = (apart ? (int)blockIdx.x : (int)blockIdx.x * WARPS + warp) * TILE, n = min(TILE, queries_of(a) - u0);
    const int size = TILE * ((a.E + STEP - 1) / STEP * STEP), from = split * CUDA_SPLIT + (apart ? warp : 0);
    uint16_t *queries = base + warp * size;
    struct sums<NH> sum;
    /* Queries that reach this run? The answer, as n, is the same for all warps that share a tile. */
    if (!__ballot_sync(0xffffffffu, lane < n && split < splits_of(a, query_of(a, g, u0 + lane).row))) return;
    for (int r = 0; r < 2; r++) {
        sum.m[r] = -INFINITY;
        sum.d[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < 8 * NH; i++)
#pragma unroll
        for (int c = 0; c < 4; c++) sum.o[i][c] = 0;
    load_queries<BF>(queries, a, g, u0, n);
    for (int p = from; p < (apart ? from + 1 : from + CUDA_SPLIT); p++) add_pages<BF, NH>(&sum, a, queries, g, u0, n, p);
    if (!apart) {
        each_element<NH>(sum, a.E, [&](int at, int r, int e, float o) {
            if (at < n) put_element(a, query_of(a, g, u0 + at), split, e, o, sum.m[r], sum.d[r]);
        });
        return;
    }
    float *part = (float *)(base + WARPS * size) + warp * TILE * (a.E + 2);
    each_element<NH>(sum, a.E, [&](int at, int r, int e, float o) {
        part[at * (a.E + 2) + e] = o;
        if (e == 0) {
            part[at * (a.E + 2) + a.E] = sum.m[r];
            part[at * (a.E + 2) + a.E + 1] = sum.d[r];
        }
    });
    __syncthreads();
    fold_warps(a, (const float *)(base + WARPS * size), g, u0, n, split);
}

template <int BF, int NH> static bool launch(const struct attention &a)
{
    static size_t room;
    const int tiles = (a.rows * (a.H / a.G) + TILE - 1) / TILE;
    /* A tile for each warp once these fill the GPU: then a block's warps find the page that they share in the cache next to
       them. With fewer tiles, a page for each warp. */
    const int apart = tiles * a.G * a.splits < 16 * cuda.sm_count;
    const size_t queries = (size_t)WARPS * TILE * (size_t)((a.E + STEP - 1) / STEP * STEP) * sizeof(uint16_t);
    const size_t shared = queries + (apart ? (size_t)WARPS * TILE * (size_t)(a.E + 2) * sizeof(float) : 0);
    const dim3 grid((unsigned)(apart ? tiles : (tiles + WARPS - 1) / WARPS), (unsigned)a.G, (unsigned)a.splits);
    if (shared > room && !CUDA_ROOM((attend_tensor<BF, NH>), shared)) return false;
    room = shared > room ? shared : room;
    CUDA_LAUNCH_EARLY((attend_tensor<BF, NH>), grid, WARPS * 32, shared, cuda.stream, a, apart);
    return true;
}

template <int BF> static bool of_size(const struct attention &a)
{
    if (a.E <= 64) return launch<BF, 1>(a);
    if (a.E <= 128) return launch<BF, 2>(a);
    return launch<BF, 4>(a);
}

bool cuda_attend_tensor(struct attention a, enum dtype type)
{
    return type == DTYPE_BF16 ? of_size<1>(a) : of_size<0>(a);
}
