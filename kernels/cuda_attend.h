/* cuda_attend.h: what the two ways to attend share (cuda_attend.cu, cuda_attend_tensor.cu): the arguments of a launch, which
 * query is whose, and which keys it sees.
 */
#ifndef KERNELS_CUDA_ATTEND_H
#define KERNELS_CUDA_ATTEND_H

#include "cuda_math.h"

struct attention {
    float *out;     /* (B, H, E) */
    const float *q; /* (B, H, E) */
    struct cuda_view view;
    const uint64_t *blocked;     /* words of all rows, or NULL */
    const long long *blocked_at; /* (B) where a row's begin; -1: none */
    float *part;       /* (rows, H, splits, E + 2): sums of values, largest score, sum of exponentials; NULL: one run */
    int row0, rows;    /* the rows of this launch */
    int H, G, E, wide; /* wide: E rounded up to 16 */
    float scale, cap;
    int window, splits, queries;
};

/* Query u of kv head g, counted over the launch's rows and the heads of a group. */
struct query {
    int row, head;
};
static __device__ __forceinline__ struct query query_of(const struct attention &a, int g, int u)
{
    const int group = a.H / a.G;
    return {a.row0 + u / group, g * group + u % group};
}

static __device__ __forceinline__ int queries_of(const struct attention &a)
{
    return a.rows * (a.H / a.G);
}

/* Runs of pages that a row has; what lies in `part` behind them nobody reads. */
static __device__ __forceinline__ int splits_of(const struct attention &a, int row)
{
    return a.view.slot[row] / (PAGE_TOKENS * CUDA_SPLIT) + 1;
}

/* Where a run's sums of a query lie. */
static __device__ __forceinline__ float *part_of(const struct attention &a, struct query u, int split)
{
    const size_t head = (size_t)(u.row - a.row0) * (size_t)a.H + (size_t)u.head;
    return a.part + (head * (size_t)a.splits + (size_t)split) * (size_t)(a.E + 2);
}

static __device__ __forceinline__ const struct cuda_page *page_of(const struct attention &a, int row, int p)
{
    return a.view.pages + (size_t)a.view.layer * (size_t)a.view.first[a.view.B] + a.view.first[row] + p;
}

/* Bit t: this query sees token t of its page p. */
static __device__ uint64_t seen_of(const struct attention &a, int g, struct query u, int p)
{
    const int slot = a.view.slot[u.row];
    const uint64_t *hidden = page_of(a, u.row, p)->hidden;
    uint64_t seen = cpu_reach(slot - p * PAGE_TOKENS, a.window);
    if (hidden) seen &= ~hidden[g];
    if (a.blocked && a.blocked_at[u.row] >= 0)
        seen &= ~a.blocked[(size_t)a.blocked_at[u.row] + (size_t)u.head * (size_t)(slot / PAGE_TOKENS + 1) + (size_t)p];
    return seen;
}

/* Page p of a row, or NULL: it has none, or no query of it sees that far back. */
static __device__ __forceinline__ const struct cuda_page *page_or_none(const struct attention &a, int row, int p)
{
    const int slot = a.view.slot[row];
    const bool has = p <= slot / PAGE_TOKENS && !(a.window > 0 && slot - a.window + 1 >= (p + 1) * PAGE_TOKENS);
    return has ? page_of(a, row, p) : NULL;
}

/* What is folded into sums so far: they times c, the new times w; where nothing was seen, nothing changes. */
struct fold {
    float c, w;
    bool takes;
};

static __device__ __forceinline__ struct fold fold_of(float *m, float *d, float its_m, float its_d)
{
    const float most = its_m > *m ? its_m : *m;
    const struct fold f = {cpu_exp(*m - most), cpu_exp(its_m - most), its_d != 0};
    if (f.takes) {
        *d = *d * f.c + its_d * f.w;
        *m = most;
    }
    return f;
}

/* An element of the result, of sums of values and of exponentials. */
static __device__ __forceinline__ void put_out(const struct attention &a, struct query u, int e, float o, float d)
{
    a.out[((size_t)u.row * (size_t)a.H + (size_t)u.head) * (size_t)a.E + (size_t)e] = d == 0 ? o : o * (1.0f / d);
}

/* One element of what a run made of a query. */
static __device__ __forceinline__ void put_element(const struct attention &a, struct query u, int split, int e, float o,
                                                   float m, float d)
{
    if (split >= splits_of(a, u.row)) return;
    if (a.part) {
        float *to = part_of(a, u, split);
        to[e] = o;
        if (e == 0) {
            to[a.E] = m;
            to[a.E + 1] = d;
        }
    } else {
        put_out(a, u, e, o, d);
    }
}

/* Whether attention over 16-bit pages can go through the tensor cores; else, and for f32, the CPU's arithmetic is done. */
static inline bool cuda_attend_tensor_can(const struct attn *a)
{
    return a->kv_type != DTYPE_F32 && a->E % 8 == 0;
}

/* Fills a.part, or a.out where there is one split. False: noted. */
bool cuda_attend_tensor(struct attention a, enum dtype type);

#endif
