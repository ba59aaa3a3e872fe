/* cuda_rows.cu: operations on rows or numbers on their own. Their bits are the CPU's: the sixteen lanes of a dot product are
 * the lanes of half a warp, which read a row that the whole block has put into shared memory.
 */
#include "cuda_math.h"

enum { THREADS = 256, ROW_SHARED = 40 << 10 }; /* bytes of a row that fit into shared memory without asking */

static unsigned blocks_of(size_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
}

/* ---- embed ---- */

template <int T> static __global__ void embed_row(float *x, const uint8_t *table, size_t row_bytes, const int *ids, int cols)
{
    cuda_start();
    const int size = cuda_block<T>::size;
    const uint8_t *row = table + (size_t)ids[blockIdx.y] * row_bytes;
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= cols) return;
    x[(size_t)blockIdx.y * (size_t)cols + (size_t)i] =
        cuda_weight<T>(row + (size_t)(i / size) * cuda_block<T>::bytes, i % size / 16, i % 16);
}

void cuda_embed(float *x, const struct mat *table, const int *ids, int B)
{
    struct cuda_op op("embed");
    dim3 grid(blocks_of((size_t)table->cols), (unsigned)B);
    if (!op.go || B < 1) return;
#define EMBED(T)                                                                                                            \
    CUDA_LAUNCH_EARLY((embed_row<T>), grid, THREADS, 0, cuda.stream, x, (const uint8_t *)table->data, mat_row_bytes(table), \
                      ids, table->cols)
    CUDA_EACH_TYPE(table->type, EMBED)
#undef EMBED
}

/* ---- norms ---- */

/* dot(a, a, n) or sum(a, n) of kernels.h by the first warp, for the whole block; a in shared memory or not. */
template <int SQUARES> static __device__ float row_sum(const float *a, int n)
{
    CUDA_SHARED(float, total, [1]);
    if (threadIdx.x < 32) { /* the second half does the same as the first */
        const int j = (int)threadIdx.x % 16;
        float lane = 0;
        int i = 0;
#pragma unroll 8
        for (; i + 16 <= n; i += 16) {
            float v = a[i + j];
            lane = SQUARES ? fmaf(v, v, lane) : lane + v;
        }
        if (i < n) {
            float v = i + j < n ? a[i + j] : 0;
            lane = SQUARES ? fmaf(v, v, lane) : lane + v;
        }
        lane = cuda_tree16(lane);
        if (threadIdx.x == 0) total[0] = lane;
    }
    __syncthreads();
    return total[0];
}

/* The row in shared memory when it fits. */
template <int STAGED> static __global__ void rmsnorm_row(float *y, const float *x, const float *w, float eps, int D)
{
    cuda_start();
    const float *in = x + (size_t)blockIdx.x * (size_t)D;
    float *out = y + (size_t)blockIdx.x * (size_t)D, rms;
    if (STAGED) {
        CUDA_DYNAMIC_SHARED(float, row);
        for (int i = (int)threadIdx.x; i < D; i += (int)blockDim.x) row[i] = in[i];
        __syncthreads();
        in = row;
    }
    rms = sqrtf(row_sum<1>(in, D) / (float)D + eps);
    for (int i = (int)threadIdx.x; i < D; i += (int)blockDim.x) out[i] = in[i] / rms * w[i];
}

void cuda_rmsnorm(float *y, const float *x, const float *w, float eps, int B, int D)
{
    struct cuda_op op("rmsnorm");
    size_t bytes = (size_t)D * sizeof(float);
    if (!op.go || B < 1) return;
    if (bytes <= ROW_SHARED)
        CUDA_LAUNCH_EARLY((rmsnorm_row<1>), (unsigned)B, THREADS, bytes, cuda.stream, y, x, w, eps, D);
    else
        CUDA_LAUNCH_EARLY((rmsnorm_row<0>), (unsigned)B, THREADS, 0, cuda.stream, y, x, w, eps, D);
}

template <int STAGED>
static __global__ void layernorm_row(float *y, const float *x, const float *w, const float *b, float eps, int D)
{
    cuda_start();
    const float *in = x + (size_t)blockIdx.x * (size_t)D;
    float *out = y + (size_t)blockIdx.x * (size_t)D, *centred = out, mean, deviation;
    if (STAGED) {
        CUDA_DYNAMIC_SHARED(float, row);
        for (int i = (int)threadIdx.x; i < D; i += (int)blockDim.x) row[i] = in[i];
        __syncthreads();
        in = centred = row;
    }
    mean = row_sum<0>(in, D) / (float)D;
    __syncthreads(); /* all have read the total, and the row */
    for (int i = (int)threadIdx.x; i < D; i += (int)blockDim.x) centred[i] = in[i] - mean;
    __syncthreads();
    deviation = sqrtf(row_sum<1>(centred, D) / (float)D + eps);
    for (int i = (int)threadIdx.x; i < D; i += (int)blockDim.x) out[i] = centred[i] / deviation * w[i] + b[i];
}

void cuda_layernorm(float *y, const float *x, const float *w, const float *b, float eps, int B, int D)
{
    struct cuda_op op("layernorm");
    size_t bytes = (size_t)D * sizeof(float);
    if (!op.go || B < 1) return;
    if (bytes <= ROW_SHARED)
        CUDA_LAUNCH_EARLY((layernorm_row<1>), (unsigned)B, THREADS, bytes, cuda.stream, y, x, w, b, eps, D);
    else
        CUDA_LAUNCH_EARLY((layernorm_row<0>), (unsigned)B, THREADS, 0, cuda.stream, y, x, w, b, eps, D);
}

/* ---- numbers ---- */

static __global__ void swiglu_each(float *y, const float *gate, const float *up, size_t n)
{
    cuda_start();
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = gate[i] / (1.0f + cpu_exp(-gate[i])) * up[i];
}

void cuda_swiglu(float *y, const float *gate, const float *up, int B, int F)
{
    struct cuda_op op("swiglu");
    size_t n = (size_t)B * (size_t)F;
    if (op.go && n) CUDA_LAUNCH_EARLY(swiglu_each, blocks_of(n), THREADS, 0, cuda.stream, y, gate, up, n);
}

template <int EXACT> static __global__ void gelu_each(float *y, const float *x, const float *up, size_t n)
{
    cuda_start();
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    float g;
    if (i >= n) return;
    g = EXACT ? cpu_gelu(x[i]) : cpu_gelu_tanh(x[i]);
    y[i] = up ? g * up[i] : g;
}

void cuda_gelu(float *y, const float *x, const float *up, enum gelu form, int B, int F)
{
    struct cuda_op op("gelu");
    size_t n = (size_t)B * (size_t)F;
    if (!op.go || !n) return;
    if (form == GELU_EXACT)
        CUDA_LAUNCH_EARLY((gelu_each<1>), blocks_of(n), THREADS, 0, cuda.stream, y, x, up, n);
    else
        CUDA_LAUNCH_EARLY((gelu_each<0>), blocks_of(n), THREADS, 0, cuda.stream, y, x, up, n);
}

static __global__ void softcap_each(float *y, const float *x, float cap, size_t n)
{
    cuda_start();
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = cpu_tanh(x[i] / cap) * cap;
}

void cuda_softcap(float *y, const float *x, float cap, size_t n)
{
    struct cuda_op op("softcap");
    if (op.go && n) CUDA_LAUNCH_EARLY(softcap_each, blocks_of(n), THREADS, 0, cuda.stream, y, x, cap, n);
}

static __global__ void scale_each(float *y, const float *x, float f, size_t n)
{
    cuda_start();
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * f;
}

void cuda_scale(float *y, const float *x, float f, size_t n)
{
    struct cuda_op op("scale");
    if (op.go && n) CUDA_LAUNCH_EARLY(scale_each, blocks_of(n), THREADS, 0, cuda.stream, y, x, f, n);
}

static __global__ void add_each(float *y, const float *x, int ldx, int B, int N)
{
    cuda_start();
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (size_t)B * (size_t)N) y[i] += x[i / (size_t)N * (size_t)ldx + i % (size_t)N];
}

void cuda_add(float *y, const float *x, int ldx, int B, int N)
{
    struct cuda_op op("add");
    size_t n = (size_t)B * (size_t)N;
    if (op.go && n) CUDA_LAUNCH_EARLY(add_each, blocks_of(n), THREADS, 0, cuda.stream, y, x, ldx, B, N);
}
