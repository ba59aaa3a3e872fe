/* cuda_attend.cu: attention over pages, with the CPU's arithmetic inside a run of pages; 16-bit pages go through the tensor
 * cores instead (cuda_attend_tensor.cu), and the runs are merged here for both.
 *
 * A block takes up to QUERIES queries (half of them where shared memory is scarce and heads are large) that read one kv head:
 * neighbours in the order (row, head of the group), and one run of CUDA_SPLIT pages. A page that rows next to each other share
 * is loaded once for them. Within a page the arithmetic is the CPU's: a thread is a key and has the sixteen lanes of its dot
 * product in registers; half a warp sums the exponentials; then a thread is an element of some heads' outputs and adds the 64
 * values in rising order. Runs are merged in rising order by a kernel of their own; where a bucket of pages has one run, the
 * first kernel finishes the rows.
 */
#include "cuda_attend.h"

#include <vector>

/* GROUP: queries that a thread has in hand at once. RESERVED: bytes for the static arrays of a block. */
enum { THREADS = 128, QUERIES = 16, GROUP = 4, RESERVED = 1024 };

/* ---- attend ---- */

/* What a block has in shared memory. */
struct places {
    float *tile;  /* (P, wide + 4) keys, then (P, E) values, of a page */
    float *q;     /* (QUERIES, wide) */
    float *p;     /* (QUERIES, P) scores, then their exponentials */
    float *o;     /* (QUERIES, E) */
    float *m, *d; /* (QUERIES) running */
    float *c;     /* (QUERIES) what the page scales sums so far by; negative: it changes nothing */
};

static __host__ __device__ inline size_t places_bytes(int E, int wide, int queries)
{
    return sizeof(float) * (size_t)(PAGE_TOKENS * (wide + 4) + queries * (wide + PAGE_TOKENS + E + 3));
}

static __device__ __forceinline__ struct places places_at(float *base, int E, int wide, int queries)
{
    struct places s;
    s.tile = base;
    s.q = s.tile + PAGE_TOKENS * (wide + 4);
    s.p = s.q + queries * wide;
    s.o = s.p + queries * PAGE_TOKENS;
    s.m = s.o + queries * E;
    s.d = s.m + queries;
    s.c = s.d + queries;
    return s;
}

/* 16 bytes of elements, widened. */
template <int T> static __device__ __forceinline__ void widen16(float *to, const void *from)
{
    const uint4 v = *(const uint4 *)from;
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (T == DTYPE_F32) {
            to[i] = f32_from_bits(w[i]);
        } else if (T == DTYPE_BF16) {
            to[2 * i] = f32_from_bits(w[i] << 16);
            to[2 * i + 1] = f32_from_bits(w[i] & 0xffff0000u);
        } else {
            to[2 * i] = cuda_half_to_float((uint16_t)w[i]);
            to[2 * i + 1] = cuda_half_to_float((uint16_t)(w[i] >> 16));
        }
    }
}

/* The 64 rows of kv head g, `step` floats apart, their ends filled with zeros up to `wide`. */
template <int T> static __device__ void load_tile(float *to, int step, int wide, const void *from, int g, int E)
{
    enum { N = T == DTYPE_F32 ? 4 : 8 };
    const size_t base = (size_t)g * PAGE_TOKENS * (size_t)E;
    if (wide == E && E % N == 0) { /* the rule: nothing to fill, and no load crosses a row */
#pragma unroll 4
        for (int i = (int)threadIdx.x * N; i < PAGE_TOKENS * E; i += THREADS * N) {
            float f[8];
            float *at = to + i / E * step + i % E;
            widen16<T>(f, (const char *)from + (base + (size_t)i) * (16 / N));
#pragma unroll
            for (int c = 0; c < N; c += 4) *(float4 *)(at + c) = {f[c], f[c + 1], f[c + 2], f[c + 3]};
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < PAGE_TOKENS * wide; i += THREADS) {
        int t = i / wide, e = i % wide;
        to[t * step + e] = e < E ? cuda_element<T>(from, base + (size_t)(t * E + e)) : 0;
    }
}

/* Sixteen lanes over E, for one key and GROUP queries; the lanes are added as the tree does. */
static __device__ __forceinline__ void dots(float *to /* (GROUP) */, const float *key, const float *q, int wide)
{
    float lane[GROUP][16];
#pragma unroll
    for (int i = 0; i < GROUP; i++)
#pragma unroll
        for (int j = 0; j < 16; j++) lane[i][j] = 0;
    for (int e = 0; e < wide; e += 16) {
#pragma unroll
        for (int j = 0; j < 16; j += 4) {
            const float4 k = *(const float4 *)(key + e + j);
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                const float4 x = *(const float4 *)(q + i * wide + e + j);
                lane[i][j] = fmaf(x.x, k.x, lane[i][j]);
                lane[i][j + 1] = fmaf(x.y, k.y, lane[i][j + 1]);
                lane[i][j + 2] = fmaf(x.z, k.z, lane[i][j + 2]);
                lane[i][j + 3] = fmaf(x.w, k.w, lane[i][j + 3]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
        float *l = lane[i]; /* each step spelt out: a loop over the steps would put the lanes into local memory */
#pragma unroll
        for (int j = 0; j < 8; j++) l[j] += l[j + 8];
#pragma unroll
        for (int j = 0; j < 4; j++) l[j] += l[j + 4];
        l[0] += l[2];
        l[1] += l[3];
        to[i] = l[0] + l[1];
    }
}

/* Scores of queries n0..n1-1 of the block: a thread is a key, the two halves of the block take turns over the queries. */
static __device__ void scores(const struct attention &a, const struct places &s, const uint64_t *seen, int n0, int n1)
{
    const int t = (int)threadIdx.x % PAGE_TOKENS, side = (int)threadIdx.x / PAGE_TOKENS;
    for (int i0 = n0 / GROUP * GROUP + side * GROUP; i0 < n1; i0 += 2 * GROUP) {
        float dot[GROUP];
        dots(dot, s.tile + t * (a.wide + 4), s.q + i0 * a.wide, a.wide);
        for (int i = 0; i < GROUP; i++) {
            float x = dot[i] * a.scale;
            if (i0 + i < n0 || i0 + i >= n1) continue;
            if (a.cap > 0) x = cpu_tanh(x / a.cap) * a.cap;
            s.p[(i0 + i) * PAGE_TOKENS + t] = seen[i0 + i] >> t & 1 ? x : -INFINITY;
        }
    }
}

/* Half a warp is a query: largest score, exponentials, their sum. */
static __device__ void weigh(const struct places &s, const uint64_t *seen_by, int n0, int n1)
{
    const int j = (int)threadIdx.x % 16;
    for (int i0 = n0; i0 < n1; i0 += THREADS / 16) {
        const int i = i0 + (int)threadIdx.x / 16, at = min(i, n1 - 1);
        const bool is = i < n1; /* else the half warp only keeps the other company */
        const uint64_t seen = seen_by[at];
        float *row = s.p + at * PAGE_TOKENS, x[4], before = is ? s.m[at] : 0, m = before, c, lane = 0;
        int nan = 0;
        for (int k = 0; k < 4; k++) {
            x[k] = is ? row[j + 16 * k] : 0;
            m = x[k] > m ? x[k] : m;
            nan |= x[k] != x[k];
        }
        for (int step = 8; step; step /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, m, step);
            m = other > m ? other : m;
            nan |= __shfl_xor_sync(0xffffffffu, nan, step);
        }
        for (int k = 0; k < 4; k++) {
            x[k] = seen >> (j + 16 * k) & 1 ? cpu_exp(x[k] - m) : 0;
            lane += x[k];
        }
        lane = cuda_tree16(lane);
        __syncwarp(); /* all have read m by now */
        if (!is) continue;
        if (m == -INFINITY && !nan) { /* the page changes nothing */
            if (j == 0) s.c[at] = -1;
            continue;
        }
        c = cpu_exp(before - m);
        for (int k = 0; k < 4; k++) row[j + 16 * k] = x[k];
        if (j == 0) {
            s.c[at] = c;
            s.m[at] = m;
            s.d[at] = s.d[at] * c + lane;
        }
    }
}

/* o = o c, then o = fma(p[t], v[t], o): a thread is element e of GROUP queries. */
static __device__ void add_values(const struct attention &a, const struct places &s, int n0, int n1)
{
    const int groups = a.queries / GROUP;
    for (int i = (int)threadIdx.x; i < a.E * groups; i += THREADS) {
        const int e = i % a.E, from = i / a.E * GROUP;
        float o[GROUP];
        bool takes[GROUP];
        if (from + GROUP <= n0 || from >= n1) continue;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            o[k] = s.o[(from + k) * a.E + e];
            takes[k] = from + k >= n0 && from + k < n1 && !(s.c[from + k] < 0);
        }
#pragma unroll
        for (int k = 0; k < GROUP; k++)
            if (takes[k]) o[k] *= s.c[from + k];
        for (int t = 0; t < PAGE_TOKENS; t += 4) {
            const float *v = s.tile + t * a.E + e;
            const float v0 = v[0], v1 = v[a.E], v2 = v[2 * a.E], v3 = v[3 * a.E];
#pragma unroll
            for (int k = 0; k < GROUP; k++) {
                const float4 p = *(const float4 *)(s.p + (from + k) * PAGE_TOKENS + t);
                if (!takes[k]) continue;
                o[k] = fmaf(p.x, v0, o[k]);
                o[k] = fmaf(p.y, v1, o[k]);
                o[k] = fmaf(p.z, v2, o[k]);
                o[k] = fmaf(p.w, v3, o[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < GROUP; k++)
            if (takes[k]) s.o[(from + k) * a.E + e] = o[k];
    }
}

/* One page for the queries n0..n1-1 of the block, whose rows share it. */
template <int T>
static __device__ void attend_page(const struct attention &a, const struct places &s, int g, int u0, int n0, int n1, int p)
{
    CUDA_SHARED(uint64_t, seen, [QUERIES]);
    const struct cuda_page *page = page_of(a, query_of(a, g, u0 + n0).row, p);
    const int own = n0 + (int)threadIdx.x;
    __syncthreads(); /* all are done with the last tile */
    if (own < n1) seen[own] = seen_of(a, g, query_of(a, g, u0 + own), p);
    load_tile<T>(s.tile, a.wide + 4, a.wide, page->k, g, a.E);
    __syncthreads();
    scores(a, s, seen, n0, n1);
    __syncthreads();
    load_tile<T>(s.tile, a.E, a.E, page->v, g, a.E);
    weigh(s, seen, n0, n1);
    __syncthreads();
    add_values(a, s, n0, n1);
}

static __device__ void finish(const struct attention &a, const struct places &s, int g, int u0, int n, int split)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n * a.E; i += THREADS) {
        const int at = i / a.E, e = i % a.E;
        put_element(a, query_of(a, g, u0 + at), split, e, s.o[i], s.m[at], s.d[at]);
    }
}

template <int T> static __global__ void __launch_bounds__(THREADS) attend_split(struct attention a)
{
    cuda_start();
    CUDA_DYNAMIC_SHARED(float, base);
    const struct places s = places_at(base, a.E, a.wide, a.queries);
    const int g = (int)blockIdx.y, split = (int)blockIdx.z, u0 = (int)blockIdx.x * a.queries;
    const int n = min(a.queries, queries_of(a) - u0), from = split * CUDA_SPLIT;
    for (int i = (int)threadIdx.x; i < a.queries * a.wide; i += THREADS) {
        const int at = i / a.wide, e = i % a.wide;
        const struct query u = query_of(a, g, u0 + min(at, n - 1));
        s.q[i] = at < n && e < a.E ? a.q[((size_t)u.row * (size_t)a.H + (size_t)u.head) * (size_t)a.E + (size_t)e] : 0;
    }
    for (int i = (int)threadIdx.x; i < a.queries * a.E; i += THREADS) s.o[i] = 0;
    for (int i = (int)threadIdx.x; i < a.queries * PAGE_TOKENS; i += THREADS) s.p[i] = 0;
    for (int i = (int)threadIdx.x; i < a.queries; i += THREADS) {
        s.m[i] = -INFINITY;
        s.d[i] = 0;
        s.c[i] = 1;
    }
    for (int p = from; p < from + CUDA_SPLIT; p++) {
        int n1;
        for (int n0 = 0; n0 < n; n0 = n1) { /* a run of queries whose rows have this very page, or have none */
            const struct cuda_page *page = page_or_none(a, query_of(a, g, u0 + n0).row, p);
            for (n1 = n0 + 1; n1 < n; n1++) {
                const struct cuda_page *its = page_or_none(a, query_of(a, g, u0 + n1).row, p);
                if (!its != !page || (page && (its->k != page->k || its->v != page->v))) break;
            }
            if (page) attend_page<T>(a, s, g, u0, n0, n1, p);
        }
    }
    finish(a, s, g, u0, n, split);
}

static __global__ void attend_merge(struct attention a)
{
    cuda_start();
    const struct query u = {a.row0 + (int)blockIdx.x, (int)blockIdx.y};
    const int e = (int)threadIdx.x, splits = splits_of(a, u.row);
    float m = -INFINITY, d = 0, o = 0;
    bool first = true;
    if (e >= a.E) return;
    for (int i = 0; i < splits; i++) {
        const float *p = part_of(a, u, i);
        if (p[a.E + 1] != 0 && first) { /* taken as it is: a row's bits must not show that others have more runs */
            m = p[a.E];
            d = p[a.E + 1];
            o = p[e];
            first = false;
            continue;
        }
        const struct fold f = fold_of(&m, &d, p[a.E], p[a.E + 1]);
        if (f.takes) o = o * f.c + p[e] * f.w;
    }
    put_out(a, u, e, o, d);
}

/* ---- on the host ---- */

/* Rows whose runs are summed at once: so many that half the L2 cache holds the sums, and enough to fill the device. A prompt of
   many rows and many runs would need gigabytes otherwise. */
static int rows_at_once(size_t row_bytes, int B)
{
    const size_t rows = cuda.cache / 2 / row_bytes;
    return rows >= (size_t)B || B <= 64 ? B : rows < 64 ? 64 : (int)rows;
}

static struct cuda_scratch parts, blocks;
static std::vector<char> block_bytes;

/* Where each row's words begin, then the words. */
static bool send_blocked(struct attention *a, const struct rows *r, const uint64_t *const *blocked)
{
    size_t head = (size_t)r->B * sizeof(long long);
    long long words = 0, *at;
    cuda_unrecorded();
    block_bytes.resize(head);
    for (int b = 0; b < r->B; b++) {
        long long n = (long long)a->H * (r->slot[b] / PAGE_TOKENS + 1);
        at = (long long *)block_bytes.data();
        at[b] = blocked[b] ? words : -1;
        if (!blocked[b]) continue;
        block_bytes.resize(head + (size_t)(words + n) * sizeof(uint64_t));
        memcpy(block_bytes.data() + head + (size_t)words * sizeof(uint64_t), blocked[b], (size_t)n * sizeof(uint64_t));
        words += n;
    }
    if (!cuda_need(&blocks, "attend", block_bytes.size())) return false;
    cuda_send("attend", blocks.p, block_bytes.data(), block_bytes.size());
    a->blocked_at = (const long long *)blocks.p;
    a->blocked = (const uint64_t *)(blocks.p + head);
    return true;
}

template <int T> static bool attend_all(struct attention a)
{
    static size_t room;
    const int group = a.H / a.G;
    size_t shared;
    a.queries = places_bytes(a.E, a.wide, QUERIES) + RESERVED <= cuda.shared_most ? QUERIES : QUERIES / 2;
    shared = places_bytes(a.E, a.wide, a.queries);
    dim3 grid((unsigned)((a.rows * group + a.queries - 1) / a.queries), (unsigned)a.G, (unsigned)a.splits);
    if (shared > room && !CUDA_ROOM((attend_split<T>), shared)) return false;
    room = shared > room ? shared : room;
    CUDA_LAUNCH_EARLY((attend_split<T>), grid, THREADS, shared, cuda.stream, a);
    return true;
}

static bool attend_runs(const struct attention &a, const struct attn *at)
{
    if (cuda_attend_tensor_can(at)) return cuda_attend_tensor(a, at->kv_type);
    if (at->kv_type == DTYPE_F32) return attend_all<DTYPE_F32>(a);
    return at->kv_type == DTYPE_F16 ? attend_all<DTYPE_F16>(a) : attend_all<DTYPE_BF16>(a);
}

void cuda_attend(float *out, const float *q, const struct rows *r, int layer, const uint64_t *const *blocked,
                 const struct attn *at)
{
    struct cuda_op op("attend");
    struct attention a = {};
    if (!op.go || r->B < 1) return;
    a.out = out;
    a.q = q;
    a.H = at->H;
    a.G = at->G;
    a.E = at->E;
    a.wide = (at->E + 15) / 16 * 16;
    a.scale = at->scale;
    a.cap = at->cap;
    a.window = at->window;
    if (!cuda_view_of(&a.view, op.name, r, layer, at->G)) return;
    if (blocked && !send_blocked(&a, r, blocked)) return;
    a.splits = a.view.most / CUDA_SPLIT;
    a.rows = r->B;
    if (a.splits > 1) {
        const size_t row = sizeof(float) * (size_t)a.H * (size_t)a.splits * (size_t)(a.E + 2);
        a.rows = rows_at_once(row, r->B);
        if (!cuda_need(&parts, op.name, row * (size_t)a.rows)) return;
        a.part = (float *)parts.p;
    }
    for (int most = a.rows; a.row0 < r->B; a.row0 += most) {
        a.rows = most < r->B - a.row0 ? most : r->B - a.row0;
        if (!attend_runs(a, at)) return;
        if (a.part)
            CUDA_LAUNCH_EARLY(attend_merge, dim3((unsigned)a.rows, (unsigned)a.H), (unsigned)((a.E + 31) / 32 * 32), 0,
                              cuda.stream, a);
    }
}
