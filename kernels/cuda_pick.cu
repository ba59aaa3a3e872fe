/* cuda_pick.cu: the largest logit, its log-probability and its margin, one block per row.
 *
 * The comparisons are the same in any order. The sum of exponentials is the CPU's, sixteen lanes in rising order: while the
 * first half warp adds one piece of the row, the other warps make the exponentials of the next.
 */
#include "cuda_math.h"

enum { THREADS = 256, ADDERS = 32, PIECE = 3584 }; /* PIECE: a multiple of 16 and of the 224 threads beside the adders */

/* The two largest of what was seen, and where the first of the largest is. */
struct best {
    float first, second;
    int at;
};

static __device__ __forceinline__ void best_join(struct best *a, struct best b)
{
    if (b.first > a->first || (b.first == a->first && b.at < a->at)) {
        a->second = a->first > b.second ? a->first : b.second;
        a->first = b.first;
        a->at = b.at;
    } else {
        a->second = b.first > a->second ? b.first : a->second;
    }
}

static __device__ struct best best_of_block(struct best mine, bool *finite)
{
    CUDA_SHARED(struct best, found, [THREADS / 32]);
    CUDA_SHARED(int, all_finite, [THREADS / 32]);
    const int warp = (int)threadIdx.x / 32;
    unsigned good = __ballot_sync(0xffffffffu, *finite);
    for (int step = 16; step; step /= 2) {
        struct best other;
        other.first = __shfl_xor_sync(0xffffffffu, mine.first, step);
        other.second = __shfl_xor_sync(0xffffffffu, mine.second, step);
        other.at = __shfl_xor_sync(0xffffffffu, mine.at, step);
        best_join(&mine, other);
    }
    if (threadIdx.x % 32 == 0) {
        found[warp] = mine;
        all_finite[warp] = good == 0xffffffffu;
    }
    __syncthreads();
    mine = found[0];
    *finite = all_finite[0];
    for (int i = 1; i < THREADS / 32; i++) {
        best_join(&mine, found[i]);
        *finite = *finite && all_finite[i];
    }
    return mine;
}

static __device__ void exponentials(float *to, const float *x, int from, int V, float most)
{
    int n = V - from < PIECE ? V - from : PIECE;
    for (int i = (int)threadIdx.x - ADDERS; i < n; i += THREADS - ADDERS) to[i] = cpu_exp(x[from + i] - most);
}

static __global__ void __launch_bounds__(THREADS) pick_row(struct pick *out, const float *logits, int V)
{
    cuda_start();
    CUDA_SHARED(float, e, [2][PIECE]);
    const float *x = logits + (size_t)blockIdx.x * (size_t)V;
    struct best mine = {-INFINITY, -INFINITY, V};
    bool finite = true, adds = threadIdx.x < ADDERS;
    float lane = 0;
    for (int i = (int)threadIdx.x; i < V; i += THREADS) {
        struct best one = {x[i], -INFINITY, i};
        finite = finite && one.first - one.first == 0;
        best_join(&mine, one);
    }
    mine = best_of_block(mine, &finite);
    if (!finite) { /* the same in all threads */
        if (threadIdx.x == 0) out[blockIdx.x] = {-1, NAN, NAN};
        return;
    }
    if (!adds) exponentials(e[0], x, 0, V, mine.first);
    for (int from = 0, turn = 0; from < V; from += PIECE, turn ^= 1) {
        const int n = V - from < PIECE ? V - from : PIECE, j = (int)threadIdx.x % 16;
        __syncthreads();
        if (!adds) {
            if (from + PIECE < V) exponentials(e[turn ^ 1], x, from + PIECE, V, mine.first);
        } else {
#pragma unroll 8
            for (int i = j; i < n; i += 16) lane += e[turn][i];
        }
    }
    if (!adds) return;
    lane = cuda_tree16(lane);
    if (threadIdx.x == 0) out[blockIdx.x] = {mine.at, 0.0f - (float)cuda_log(lane), mine.first - mine.second + 0.0f};
}

void cuda_pick(struct pick *out, const float *logits, int B, int V)
{
    struct cuda_op op("pick");
    if (op.go && B > 0) CUDA_LAUNCH_EARLY(pick_row, (unsigned)B, THREADS, 0, cuda.stream, out, logits, V);
}
