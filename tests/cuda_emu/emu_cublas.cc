/* emu_cublas.cc: see emu_cublas.h. */
#include "emu_cublas.h"

#include "emu_in.h"

#define restrict __restrict__
extern "C" {
#include "../../kernels/cpu_ops.h"
}
#undef restrict

struct emu_cublas {
    cudaStream_t s;
};

static bool is(const char *what)
{
    return emu_options()->cublas && !strcmp(emu_options()->cublas, what);
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    if (is("dead")) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new struct emu_cublas();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    delete handle;
    return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t s)
{
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->s = s;
    return CUBLAS_STATUS_SUCCESS;
}

/* The bytes of `columns` columns of n elements, ld apart. */
static size_t extent(int n, int columns, int ld, size_t element)
{
    return ((size_t)(columns - 1) * (size_t)ld + (size_t)n) * element;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType atype, int lda, const void *b, cudaDataType btype,
                            int ldb, const void *beta, void *c, cudaDataType ctype, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t algo)
{
    if (!handle || !handle->s) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (is("refusing") || transa != CUBLAS_OP_T || transb != CUBLAS_OP_N || atype != CUDA_R_16BF || btype != CUDA_R_16BF ||
        ctype != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F || algo != CUBLAS_GEMM_DEFAULT)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (m < 0 || n < 0 || k < 0 || lda < max(1, k) || ldb < max(1, k) || ldc < max(1, m) || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!m || !n) return CUBLAS_STATUS_SUCCESS;
    if (k) emu_check_device(a, extent(k, m, lda, 2));
    if (k) emu_check_device(b, extent(k, n, ldb, 2));
    emu_check_device(c, extent(m, n, ldc, 4));
    const float times = *(const float *)alpha, keep = *(const float *)beta;
    const uint16_t *left = (const uint16_t *)a, *right = (const uint16_t *)b;
    const size_t down = is("wrong") ? (size_t)m : 1, across = is("wrong") ? 1 : (size_t)lda;
    float *to = (float *)c;
    emu_enqueue(handle->s, [=] {
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                float sum = 0, *at = to + (size_t)j * (size_t)ldc + i;
                for (int l = 0; l < k; l++)
                    sum += bf16_to_f32(left[(size_t)i * across + (size_t)l * down]) *
                           bf16_to_f32(right[(size_t)j * (size_t)ldb + l]);
                *at = keep == 0 ? times * sum : times * sum + keep * *at; /* with beta 0 what was there may be NaN */
            }
    });
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the loader ---- */

void *emu_cublas_open(const char *file, int mode)
{
    static char library;
    if (mode != (RTLD_NOW | RTLD_LOCAL)) emu_die("a library that is opened otherwise than at once and for itself", NULL, 0);
    return is("none") || strcmp(file, "libcublas.so.13") != 0 ? NULL : &library;
}

void *emu_cublas_symbol(void *library, const char *name)
{
    (void)library;
    if (!strcmp(name, "cublasCreate_v2")) return (void *)cublasCreate_v2;
    if (!strcmp(name, "cublasDestroy_v2")) return (void *)cublasDestroy_v2;
    if (!strcmp(name, "cublasSetStream_v2")) return (void *)cublasSetStream_v2;
    if (!strcmp(name, "cublasGemmEx") && !is("old")) return (void *)cublasGemmEx;
    return NULL;
}
