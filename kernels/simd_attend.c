/* simd_attend.c: attention over pages, the page outermost.
 *
 * A unit is one row and one kv head, with the H/G queries that share it. A thread takes a run of units; rows next to each
 * other form a block that walks the pages together, and where their page pointers are equal a page is loaded once for all
 * their queries: 32 siblings over one prefix, or the rows of a prefill. Queries and running outputs of a block lie packed in
 * scratch on the stack, padded with zeros to a multiple of 16 elements.
 */
#include "simd_math.h"

#ifdef __AVX512F__
enum { Q_TILE = 4, K_TILE = 4, V_TILE = 6 }; /* queries and keys of a score tile, queries of a value tile */
#else
enum { Q_TILE = 2, K_TILE = 3, V_TILE = 1 };
#endif

enum {
    P = PAGE_TOKENS,
    SLICE = 4,       /* v16 of a head in a value tile: 64 elements */
    SCORES = 24,     /* queries whose scores against a page are held at once */
    BLOCK = 1 << 14, /* floats of queries in a block: 256 queries of 64 elements, 64 KB */
    QUERIES = BLOCK / 16,
    ACC_MAX = 24, /* a constant, as in simd_matmul.c */
};

struct block {
    float q[BLOCK], o[BLOCK]; /* (queries, width) */
    float m[QUERIES], d[QUERIES];
    uint64_t seen[QUERIES];                 /* of the current page */
    float k[P * HEAD_MAX], v[P * HEAD_MAX]; /* the current page's head widened, (P, width) */
};

/* ---- one page ---- */

/* Scores of Q queries and K keys: s (Q, P). */
INLINE void score_tile(float *s, const float *q, const float *k, const int width, const int Q, const int K)
{
    float sums[16];
    v16 acc[ACC_MAX];
    UNROLL for (int i = 0; i < Q * K; i++) acc[i] = v_zero();
    for (int e = 0; e < width; e += 16) {
        v16 key[K_TILE];
        UNROLL for (int t = 0; t < K; t++) key[t] = v_load(k + t * width + e);
        UNROLL for (int c = 0; c < Q; c++)
        {
            v16 a = v_load(q + c * width + e);
            UNROLL for (int t = 0; t < K; t++) acc[c * K + t] = v_fma(a, key[t], acc[c * K + t]);
        }
    }
    v_sums(sums, acc, Q * K);
    UNROLL for (int c = 0; c < Q; c++) memcpy(s + c * P, sums + c * K, (size_t)K * sizeof *s);
}

INLINE void scores(float *s, const float *q, const float *k, const int width, const int Q)
{
    int t = 0;
    for (; t + K_TILE <= P; t += K_TILE) score_tile(s + t, q, k + t * width, width, Q, K_TILE);
    for (; t < P; t++) score_tile(s + t, q, k + t * width, width, Q, 1);
}

/* Scores (P) of one query become its p; *m and *d move on. Returns the factor of its old output, or -1: nothing changes. */
INLINE float soften(float *s, float *m, float *d, float scale, float cap, uint64_t seen)
{
    const v16 never = v_set1(-INFINITY);
    v16 a[4], top, lanes = v_zero();
    float largest, factor;
    UNROLL for (int i = 0; i < 4; i++) a[i] = v_mul(v_load(s + 16 * i), v_set1(scale));
    if (cap > 0)
        for (int i = 0; i < 4; i++) a[i] = v_mul(v_tanh(v_div(a[i], v_set1(cap))), v_set1(cap));
    UNROLL for (int i = 0; i < 4; i++) a[i] = v_pick(a[i], never, (unsigned)(seen >> 16 * i & 0xffff));
    largest = v_largest(v_max(v_max(a[0], a[1]), v_max(a[2], a[3])));
    if (*m > largest) largest = *m; /* a NaN stays */
    if (largest == -INFINITY) {
        unsigned ordered = 0xffff;
        UNROLL for (int i = 0; i < 4; i++) ordered &= v_equal(a[i], a[i]);
        if (ordered == 0xffff) return -1;
    }
    top = v_set1(largest);
    UNROLL for (int i = 0; i < 4; i++)
    {
        a[i] = v_pick(v_exp(v_sub(a[i], top)), v_zero(), (unsigned)(seen >> 16 * i & 0xffff));
        v_store(s + 16 * i, a[i]);
        lanes = v_add(lanes, a[i]);
    }
    factor = v_first(v_exp(v_set1(*m - largest)));
    *m = largest;
    *d = *d * factor + v_sum(lanes);
    return factor;
}

/* Outputs of Q queries, N v16 of each: o = o * factor, then the 64 values in order. */
INLINE void value_tile(float *o, const float *p, const float *factor, const float *v, const int width, const int Q, const int N)
{
    v16 acc[ACC_MAX];
    UNROLL for (int c = 0; c < Q; c++) UNROLL for (int n = 0; n < N; n++) acc[c * N + n] =
        v_mul(v_load(o + c * width + 16 * n), v_set1(factor[c]));
    for (int t = 0; t < P; t++) {
        v16 value[SLICE];
        UNROLL for (int n = 0; n < N; n++) value[n] = v_load(v + t * width + 16 * n);
        UNROLL for (int c = 0; c < Q; c++)
        {
            v16 a = v_set1(p[c * P + t]);
            UNROLL for (int n = 0; n < N; n++) acc[c * N + n] = v_fma(a, value[n], acc[c * N + n]);
        }
    }
    UNROLL for (int c = 0; c < Q; c++) UNROLL for (int n = 0; n < N; n++) v_store(o + c * width + 16 * n, acc[c * N + n]);
}

INLINE void values(float *o, const float *p, const float *factor, const float *v, const int width, const int Q)
{
    int e = 0;
    for (; e + 16 * SLICE <= width; e += 16 * SLICE) value_tile(o + e, p, factor, v + e, width, Q, SLICE);
    for (; e < width; e += 16) value_tile(o + e, p, factor, v + e, width, Q, 1);
}

/* Queries from..to-1 of a block against one page of keys and values, (P, width) each. */
INLINE void page_queries(struct block *b, const float *k, const float *v, int from, int to, const struct attn *a,
                         const int width)
{
    float s[SCORES * P] __attribute__((aligned(64))), factor[SCORES];
    for (int first = from; first < to; first += SCORES) {
        int n = to - first < SCORES ? to - first : SCORES, i = 0;
        for (; i + Q_TILE <= n; i += Q_TILE) scores(s + i * P, b->q + (first + i) * width, k, width, Q_TILE);
        if (Q_TILE == 4 && n - i == 3) {
            scores(s + i * P, b->q + (first + i) * width, k, width, 3);
            i += 3;
        }
        for (; i < n; i++) scores(s + i * P, b->q + (first + i) * width, k, width, 1);
        for (i = 0; i < n; i++)
            factor[i] = soften(s + i * P, b->m + first + i, b->d + first + i, a->scale, a->cap, b->seen[first + i]);
        for (i = 0; i < n;) {
            int run = 0;
            float *o = b->o + (first + i) * width;
            while (run < V_TILE && i + run < n && factor[i + run] != -1) run++;
            if (V_TILE > 1 && run == V_TILE) {
                values(o, s + i * P, factor + i, v, width, V_TILE);
                i += V_TILE;
            } else if (V_TILE > 3 && run >= 3) {
                values(o, s + i * P, factor + i, v, width, 3);
                i += 3;
            } else {
                if (run) values(o, s + i * P, factor + i, v, width, 1);
                i++;
            }
        }
    }
}

static void page_64(struct block *b, const float *k, const float *v, int from, int to, const struct attn *a)
{
    page_queries(b, k, v, from, to, a, 64);
}
static void page_128(struct block *b, const float *k, const float *v, int from, int to, const struct attn *a)
{
    page_queries(b, k, v, from, to, a, 128);
}
static void page_any(struct block *b, const float *k, const float *v, int from, int to, const struct attn *a, int width)
{
    page_queries(b, k, v, from, to, a, width);
}

/* ---- blocks of rows ---- */

static int padded(int E)
{
    return (E + 15) / 16 * 16;
}

/* A head of a page as floats (P, padded E): in place when it is that already. */
static const float *widened(float *to, const void *from, int g, const struct attn *a)
{
    const int width = padded(a->E);
    size_t at = (size_t)g * P * (size_t)a->E;
    if (a->kv_type == DTYPE_F32 && width == a->E) return (const float *)from + at;
    for (int t = 0; t < P; t++, at += (size_t)a->E) {
        for (int e = 0; e < width; e += 16) {
            int n = a->E - e < 16 ? a->E - e : 16;
            size_t i = at + (size_t)e;
            v_store(to + t * width + e, n == 16 ? v_from(from, a->kv_type, i) : v_from_n(from, a->kv_type, i, n));
        }
    }
    return to;
}

/* The first and one behind the last page that a row's query sees. */
static int page_first(const struct attend_job *j, int row)
{
    return (int)(cpu_window_start(j->r->slot[row], j->a->window) / P);
}

static int page_end(const struct attend_job *j, int row)
{
    return j->r->slot[row] / P + 1;
}

/* The page p of a row, or NULL when its query does not see it. */
static const struct kv_page *page_of(const struct attend_job *j, int row, int p)
{
    return p >= page_first(j, row) && p < page_end(j, row) ? j->r->pages[row][j->layer][p] : NULL;
}

/* Rows b0..b1-1 of a block that begins with row `base`, all with this page, the index-th of each; n query heads from h0 on. */
static void block_page(const struct attend_job *j, struct block *b, const struct kv_page *page, int g, int index, int base,
                       int b0, int b1, int h0, int n)
{
    const int width = padded(j->a->E), from = (b0 - base) * n, to = (b1 - base) * n;
    const float *k = widened(b->k, page->k, g, j->a), *v = widened(b->v, page->v, g, j->a);
    for (int row = b0, i = from; row < b1; row++) {
        uint64_t seen = cpu_seen(page, g, (long)j->r->slot[row] - (long)index * P, j->a->window);
        for (int h = 0; h < n; h++) b->seen[i++] = seen & ~cpu_blocked(j, row, h0 + h, index);
    }
    if (width == 64)
        page_64(b, k, v, from, to, j->a);
    else if (width == 128)
        page_128(b, k, v, from, to, j->a);
    else
        page_any(b, k, v, from, to, j->a, width);
}

static void block_begin(const struct attend_job *j, struct block *b, int b0, int b1, int h0, int n)
{
    const size_t E = (size_t)j->a->E, width = (size_t)padded(j->a->E), queries = (size_t)(b1 - b0) * (size_t)n;
    float *q = b->q;
    memset(b->q, 0, queries * width * sizeof *b->q);
    memset(b->o, 0, queries * width * sizeof *b->o);
    for (size_t i = 0; i < queries; i++) {
        b->m[i] = -INFINITY;
        b->d[i] = 0;
    }
    for (int row = b0; row < b1; row++) {
        const float *from = j->q + ((size_t)row * (size_t)j->a->H + (size_t)h0) * E;
        for (int h = 0; h < n; h++, q += width) memcpy(q, from + (size_t)h * E, E * sizeof *q);
    }
}

static void block_end(const struct attend_job *j, const struct block *b, int b0, int b1, int h0, int n)
{
    const size_t E = (size_t)j->a->E, width = (size_t)padded(j->a->E);
    const float *o = b->o, *d = b->d;
    for (int row = b0; row < b1; row++) {
        float *to = j->out + ((size_t)row * (size_t)j->a->H + (size_t)h0) * E;
        for (int h = 0; h < n; h++, to += E, o += width, d++) {
            float scale = *d == 0 ? 0 : 1.0f / *d;
            for (size_t e = 0; e < E; e++) to[e] = o[e] * scale;
        }
    }
}

/* Rows b0..b1-1, query heads h0..h0+n-1, all of kv head g. */
static void block_run(const struct attend_job *j, struct block *b, int g, int b0, int b1, int h0, int n)
{
    int pages = 0, first = page_first(j, b0);
    block_begin(j, b, b0, b1, h0, n);
    for (int row = b0; row < b1; row++) {
        if (page_end(j, row) > pages) pages = page_end(j, row);
        if (page_first(j, row) < first) first = page_first(j, row);
    }
    for (int p = first; p < pages; p++) {
        for (int row = b0, end; row < b1; row = end) {
            const struct kv_page *page = page_of(j, row, p);
            for (end = row + 1; end < b1 && page && page_of(j, end, p) == page;) end++;
            if (page) block_page(j, b, page, g, p, b0, row, end, h0, n);
        }
    }
    block_end(j, b, b0, b1, h0, n);
}

/* ---- a thread's units ---- */

/* Units lie in the order (kv head, row). They cost as much as they have pages, the last rows of a prefill the most, so that
   threads are cut by pages: a thread has the units whose first page is among its pages. */
static long pages_of(const struct attend_job *j)
{
    long n = 0;
    for (int b = 0; b < j->r->B; b++) n += page_end(j, b) - page_first(j, b);
    return n;
}

static long first_unit(const struct attend_job *j, long page, long pages)
{
    long at = page / pages * pages;
    int b = 0;
    for (; b < j->r->B && at < page; b++) at += page_end(j, b) - page_first(j, b);
    return page / pages * j->r->B + b;
}

static void attend_pages(const void *job, struct cpu_part part)
{
    const struct attend_job *j = job;
    const long pages = pages_of(j), to = first_unit(j, part.to, pages);
    const int B = j->r->B, heads = j->a->H / j->a->G, most = BLOCK / padded(j->a->E), rows = most > heads ? most / heads : 1;
    struct block b;
    for (long u = first_unit(j, part.from, pages), end; u < to; u = end) {
        int g = (int)(u / B), b0 = (int)(u % B), b1 = B - b0 < rows ? B : b0 + rows;
        if (to - u < b1 - b0) b1 = b0 + (int)(to - u);
        for (int h = 0; h < heads; h += most) block_run(j, &b, g, b0, b1, g * heads + h, heads - h < most ? heads - h : most);
        end = u + (b1 - b0);
    }
}

void SIMD_FN(attend)(float *out, const float *q, const struct rows *r, int layer, const uint64_t *const *blocked,
                     const struct attn *a)
{
    struct attend_job j = {out, q, r, layer, blocked, a};
    long n = pages_of(&j);
    if (n > 0) cpu_run(attend_pages, &j, n * a->G, 1, 2.0 * (double)n * P * a->H * a->E);
}
