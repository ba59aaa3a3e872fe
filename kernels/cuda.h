/* cuda.h: how the plug-in libkvrun_cuda.so, or its twin libkvrun_cuda_emu.so that runs the same kernels without a GPU, is
 * entered. It exports one symbol. The table it gives is good for the life of the process, for one device; the library must
 * stay loaded as long.
 *
 *     char why[200];
 *     struct cuda_device about;
 *     kvrun_cuda_open_fn *open = (kvrun_cuda_open_fn *)dlsym(library, "kvrun_cuda_open");
 *     const struct kernels *k = open(KVRUN_CUDA_ABI, 0, &about, why, sizeof why);
 *     if (!k) puts(why);
 *
 * ARITHMETIC. A row's bits do not depend on the other rows, on their number or on the order of calls (kernels.h). Beyond that:
 *  - matmul of f32 and quantised weights, matmul_t, embed, the norms, rope_append, swiglu, gelu, softcap, scale, add and pick
 *    do the very arithmetic of the CPU: their bits equal KERNELS_SCALAR's;
 *  - matmul of bf16 and f16 weights rounds x to the weights' type and sums in the tensor cores (cuda_matmul.cu has the order);
 *  - attend over f32 pages, and over others where E is no multiple of 8, is the CPU's arithmetic over each run of CUDA_SPLIT
 *    pages (4, 256 tokens), the runs merged in rising order: up to 256 tokens its bits are the CPU's;
 *  - attend over f16 and bf16 pages rounds q, and the weights of the values, to the pages' type and sums in the tensor cores
 *    (cuda_attend_tensor.cu has the order).
 *
 * THREADS. Any thread may call. What one has queued, any other one gets, with one exception, so that finished caches can be
 * read beside a pass: what a plain pass made is another thread's when the pass's own thread has had a get after end. What a
 * thread is reading stays allocated and is not written until get returns.
 */
#ifndef KERNELS_CUDA_H
#define KERNELS_CUDA_H

#include "kernels.h"

enum { KVRUN_CUDA_ABI = 2 };

/* Versions as CUDA counts them: 13000 is 13.0. */
struct cuda_device {
    char name[64];
    int cc_major, cc_minor, sm_count, driver, runtime;
    long long memory_bytes, memory_free;
};

/* The table for this device, or NULL, and why says what is missing: "no driver (CUDA error 35: ...)". about may be NULL and is
   filled as far as it is known. A second call with the same device gives the same table, with another one NULL. */
typedef const struct kernels *kvrun_cuda_open_fn(int abi, int device, struct cuda_device *about, char *why, size_t n);
#ifdef __cplusplus
extern "C"
#endif
    __attribute__((visibility("default"))) const struct kernels *
    kvrun_cuda_open(int abi, int device, struct cuda_device *about, char *why, size_t n);

#endif
