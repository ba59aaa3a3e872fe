/* cuda_library.cu: cuBLAS's matmul, for kvrun bench to compare ours with.
 *
 * The library is looked for when it is first asked for, and never linked: it and its companion are 600 MB that no pass needs.
 * Once found it stays open for the life of the process, as the plug-in does.
 *
 * What is timed is what a pass over many layers does: copies of the weights take turns, more of them than the device's cache
 * holds, so that none is left there from the turn before. x is given as bf16, which ours rounds on the way: that is to the
 * library's advantage. Weights and x are made from their index (element), so that the host knows them too and recomputes some
 * of the result: a product that is wrong is not timed.
 */
#include "cuda_in.h"
#include "cuda_library.h"

#include <algorithm>
#include <stdio.h>

#if __has_include("emu_cublas.h")
#include "emu_cublas.h"
#elif __has_include(<cublas_v2.h>)
#include <cublas_v2.h>
#include <dlfcn.h>
#else
#define CUDA_NO_LIBRARY
#endif

#ifdef CUDA_NO_LIBRARY

double cuda_library_matmul(int rows, int cols, int B, const char **why)
{
    (void)rows, (void)cols, (void)B;
    *why = "this plug-in was built without cuBLAS's header, cublas_v2.h";
    return -1;
}

#else

/* ---- the library ---- */

static struct {
    bool tried;
    char why[200]; /* "": it is open */
    cublasHandle_t handle;
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k, const void *alpha,
                           const void *a, cudaDataType, int lda, const void *b, cudaDataType, int ldb, const void *beta,
                           void *c, cudaDataType, int ldc, cublasComputeType_t, cublasGemmAlgo_t);
} library;

template <class F> static bool symbol(void *lib, const char *name, F *to)
{
    void *p = dlsym(lib, name);
    memcpy(to, &p, sizeof p);
    if (!p) snprintf(library.why, sizeof library.why, "the cuBLAS found has no %s", name);
    return p != NULL;
}

static void open_library(void)
{
    void *lib = NULL;
    cublasStatus_t status;
    library.tried = true;
    for (int i = 0; i < CUDA_LIBRARY_NAMES && !lib; i++) lib = dlopen(cuda_library_names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(library.why, sizeof library.why, "no libcublas.so.13, .12 or .11 can be loaded");
        return;
    }
    if (!symbol(lib, "cublasCreate_v2", &library.create) || !symbol(lib, "cublasSetStream_v2", &library.set_stream) ||
        !symbol(lib, "cublasGemmEx", &library.gemm))
        return;
    status = library.create(&library.handle);
    if (!status) status = library.set_stream(library.handle, cuda.stream);
    if (status) snprintf(library.why, sizeof library.why, "cuBLAS does not start (status %d)", (int)status);
}

/* ---- a product ---- */

enum { WEIGHTS = 1, ROWS_OF_X = 2, ALIGNED = 128 /* elements: copies begin where an allocation could */ };

/* Element i of an array: a multiple of 1/128 in -1..1, which bf16 holds exactly. */
static __host__ __device__ inline float element(int array, uint64_t i)
{
    uint32_t x = (uint32_t)i * 0x9e3779b9u ^ (uint32_t)(i >> 32) * 0x85ebca6bu ^ (uint32_t)array << 28;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return (float)((int)(x >> 24) - 128) / 128;
}

static __global__ void fill(uint16_t *to, uint64_t n, int array)
{
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        to[i] = (uint16_t)(f32_bits(element(array, i)) >> 16);
}

static void fill_with(uint16_t *to, uint64_t n, int array)
{
    const unsigned blocks = (unsigned)std::min<uint64_t>(1024, (n + 255) / 256);
    CUDA_LAUNCH(fill, blocks, 256, 0, cuda.stream, to, n, array);
}

struct compared {
    int rows, cols, B, copies;
    uint64_t step; /* elements from one copy of the weights to the next */
    uint16_t *w;   /* (copies, step), of each the first (rows, cols) */
    uint16_t *x;   /* (B, cols) */
    float *y;      /* (B, rows) */
    char why[120];
};

static bool make(struct compared *p)
{
    p->step = ((uint64_t)p->rows * p->cols + ALIGNED - 1) / ALIGNED * ALIGNED;
    p->copies = (int)std::min<uint64_t>(256, 3 * (uint64_t)cuda.cache / (2 * p->step) + 1);
    p->w = (uint16_t *)cuda_alloc(2 * p->step * p->copies);
    p->x = (uint16_t *)cuda_alloc(2 * (size_t)p->B * p->cols);
    p->y = (float *)cuda_alloc(sizeof(float) * p->B * p->rows);
    if (!p->w || !p->x || !p->y) {
        snprintf(p->why, sizeof p->why, "no memory for %d copies of the weights", p->copies);
        return false;
    }
    fill_with(p->w, p->step * p->copies, WEIGHTS);
    fill_with(p->x, (uint64_t)p->B * p->cols, ROWS_OF_X);
    return true;
}

/* y = x w^T. cuBLAS counts columns first: there y is (rows, B), the weights are (cols, rows) and turned, x is (cols, B). */
static bool multiply(struct compared *p, int copy)
{
    const float one = 1, zero = 0;
    cublasStatus_t status = library.gemm(library.handle, CUBLAS_OP_T, CUBLAS_OP_N, p->rows, p->B, p->cols, &one,
                                         p->w + p->step * copy, CUDA_R_16BF, p->cols, p->x, CUDA_R_16BF, p->cols, &zero, p->y,
                                         CUDA_R_32F, p->rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status) snprintf(p->why, sizeof p->why, "cublasGemmEx refuses the product (status %d)", (int)status);
    return !status;
}

/* Sixteen elements of y, corners among them, against sums in double. Products of elements are multiples of 2^-14, so that
   most sums in f32 are exact, whatever their order; a result rounded to bf16 is not close enough. */
static bool is_right(struct compared *p, int copy)
{
    for (int i = 0; i < 16; i++) {
        const uint64_t b = (uint64_t)(p->B - 1) * i / 15, r = (uint64_t)(p->rows - 1) * (i * 7 % 16) / 15;
        double want = 0, size = 0;
        float got;
        for (int k = 0; k < p->cols; k++) {
            double one = (double)element(WEIGHTS, p->step * copy + r * p->cols + k) * element(ROWS_OF_X, b * p->cols + k);
            want += one;
            size += fabs(one);
        }
        cuda_get(&got, p->y + b * p->rows + r, sizeof got);
        if (!(fabs(got - want) <= size * 0x1p-16)) {
            snprintf(p->why, sizeof p->why, "its product is wrong: row %d, element %d is %.9g, not %.9g", (int)b, (int)r,
                     (double)got, want);
            return false;
        }
    }
    return true;
}

/* Median over some turns of the seconds of a product; a turn takes every copy once. */
static double timed(struct compared *p, cudaEvent_t from, cudaEvent_t to)
{
    enum { TURNS = 9, LEAST = 3 };
    const float enough = 100; /* ms */
    float ms[TURNS], sum = 0;
    int n = 0;
    if (!multiply(p, p->copies - 1) || !is_right(p, p->copies - 1)) return -1; /* and the library is warm */
    while (n < TURNS && (n < LEAST || sum < enough)) {
        cuda_good("library_matmul", cudaEventRecord(from, cuda.stream));
        for (int i = 0; i < p->copies; i++)
            if (!multiply(p, i)) return -1;
        cuda_good("library_matmul", cudaEventRecord(to, cuda.stream));
        if (!cuda_good("library_matmul", cudaEventSynchronize(to)) ||
            !cuda_good("library_matmul", cudaEventElapsedTime(&ms[n], from, to)))
            return -1;
        sum += ms[n++];
    }
    std::sort(ms, ms + n);
    return (double)ms[n / 2] * 1e-3 / p->copies;
}

double cuda_library_matmul(int rows, int cols, int B, const char **why)
{
    struct cuda_op op("library_matmul");
    static char said[sizeof compared::why];
    struct compared p = {rows, cols, B, 1, 0, NULL, NULL, NULL, "the device failed"};
    cudaEvent_t from = NULL, to = NULL;
    double seconds = -1;
    cuda_unrecorded();
    *why = "an operation before it failed";
    if (!op.go) return -1;
    if (!library.tried) open_library();
    *why = library.why;
    if (*library.why) return -1;
    if (cuda_good(op.name, cudaEventCreateWithFlags(&from, 0)) && cuda_good(op.name, cudaEventCreateWithFlags(&to, 0)) &&
        make(&p))
        seconds = timed(&p, from, to);
    if (to) cudaEventDestroy(to);
    if (from) cudaEventDestroy(from);
    cuda_release(p.w);
    cuda_release(p.x);
    cuda_release(p.y);
    *why = seconds < 0 ? strcpy(said, p.why) : "";
    return seconds;
}

#endif
