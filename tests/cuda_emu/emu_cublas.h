/* emu_cublas.h: the part of cuBLAS that kernels/cuda_library.cu uses, as plain loops, under the names and numbers of
 * cublas_v2.h.
 *
 * The loader is emulated with it: a file named libcublas.so.13 is there unless CUDA_EMU_CUBLAS says none; it may be old (it
 * lacks cublasGemmEx), dead (it does not start), refusing (each product is not supported) or wrong (it reads the weights in the
 * order of a matrix that is not turned).
 */
#ifndef CUDA_EMU_CUBLAS_H
#define CUDA_EMU_CUBLAS_H

#include "emu.h"

typedef struct emu_cublas *cublasHandle_t;
typedef enum {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
} cublasStatus_t;
typedef enum { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 } cublasOperation_t;
typedef enum { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 } cudaDataType;
typedef enum { CUBLAS_COMPUTE_16F = 64, CUBLAS_COMPUTE_32F = 68 } cublasComputeType_t;
typedef enum { CUBLAS_GEMM_DEFAULT = -1 } cublasGemmAlgo_t;

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle);
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle);
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t s);
/* c = alpha op(a) op(b) + beta c, matrices by columns; bf16 with op T for a and N for b alone, c and the sums in f32. */
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType atype, int lda, const void *b, cudaDataType btype,
                            int ldb, const void *beta, void *c, cudaDataType ctype, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t algo);

enum { RTLD_NOW = 2, RTLD_LOCAL = 0 };
void *emu_cublas_open(const char *file, int mode);
void *emu_cublas_symbol(void *library, const char *name);
#define dlopen emu_cublas_open
#define dlsym emu_cublas_symbol

#endif
