/* emu.h: CUDA kernels as plain C++ on one processor, to test them where there is no GPU.
 *
 * A block runs after the other; its threads are fibers that change places only where they wait: at a barrier or in a warp
 * operation. A thread that meets neither costs a function call. What is checked on the way: barriers and warp operations
 * that not all the named threads reach, or reach on different lines; shared memory and fresh device memory hold NaN; every
 * array has a heap block of its own, so that AddressSanitizer knows its ends; and under ThreadSanitizer a fiber is a thread
 * and a barrier the only order between two of them, so that it reports races that no execution happened to show.
 *
 *     CUDA_LAUNCH((kernel<4>), blocks, threads, shared_bytes, stream, arguments...);
 *
 * Nothing of the toolkit is included: this header declares the part of its interface that the kernels use.
 * Environment, read once:
 *     CUDA_EMU_ORDER=rev | rand:SEED   order of blocks and threads (else as numbered)
 *     CUDA_EMU_DEFER=1                 what is queued runs when it is waited for, and no more than that
 *     CUDA_EMU_PROTECT=1               device memory cannot be touched outside kernels and copies
 *     CUDA_EMU_NODEV=1                 no device
 *     CUDA_EMU_MEMORY=BYTES            memory of the device
 *     CUDA_EMU_SHARED=BYTES            shared memory that a block may ask for
 *     CUDA_EMU_FAIL=NAME               the launch of this kernel is refused; cudaMallocHost, cudaStreamWaitEvent: that call
 *     CUDA_EMU_CUBLAS=none | old | dead | refusing | wrong   cuBLAS is not there, lacks a function, does not start, ...
 * (emu_cublas.h) CUDA_EMU_LOG=FILE                a line for each launch: kernel and blocks
 */
#ifndef CUDA_EMU_H
#define CUDA_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <functional>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

/* ---- vectors ---- */

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

/* ---- threads, warps, shared memory ---- */

struct emu_place {
    uint3 thread, block, block_dim, grid_dim;
};
extern struct emu_place emu_here;
#define threadIdx (emu_here.thread)
#define blockIdx (emu_here.block)
#define blockDim (emu_here.block_dim)
#define gridDim (emu_here.grid_dim)

void emu_syncthreads(const char *file, int line);
void emu_syncwarp(unsigned mask, const char *file, int line);
uint64_t emu_shuffle(unsigned mask, uint64_t value, int from, const char *file, int line);
unsigned emu_ballot(unsigned mask, int predicate, const char *file, int line);
int emu_lane(void);
/* One product of the tensor cores, d += a b for m16n8k16, in the register layout of the PTX manual. bf: bf16, else f16. */
void emu_mma(float *d /* (4) */, const uint32_t *a /* (4) */, const uint32_t *b /* (2) */, int bf, const char *file, int line);
void *emu_dynamic_shared(void);
/* Of a kernel launched early: every thread must call it, and under ThreadSanitizer nothing else orders it after the kernels
   before. */
void emu_wait_for_previous(void);

struct emu_slot {
    uint64_t block; /* the one that it holds memory for */
    void *p;
};
void *emu_static_shared(struct emu_slot *s, size_t bytes);

#define __syncthreads() emu_syncthreads(__FILE__, __LINE__)
#define __ballot_sync(mask, p) emu_ballot((mask), (p), __FILE__, __LINE__)
struct emu_syncwarp_at {
    const char *file;
    int line;
    void operator()(unsigned mask = 0xffffffffu) const
    {
        emu_syncwarp(mask, file, line);
    }
};
#define __syncwarp (emu_syncwarp_at{__FILE__, __LINE__})

template <class T> static inline T emu_shuffle_from(const char *file, int line, unsigned mask, T v, int from)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t u = 0;
    memcpy(&u, &v, sizeof v);
    u = emu_shuffle(mask, u, from, file, line);
    memcpy(&v, &u, sizeof v);
    return v;
}
#define __shfl_sync(mask, v, from) emu_shuffle_from(__FILE__, __LINE__, (mask), (v), (from))
#define __shfl_xor_sync(mask, v, bits) emu_shuffle_from(__FILE__, __LINE__, (mask), (v), emu_lane() ^ (bits))

#define CUDA_SHARED(T, name, dims)          \
    typedef T emu_type_##name dims;         \
    static struct emu_slot emu_slot_##name; \
    emu_type_##name &name = *(emu_type_##name *)emu_static_shared(&emu_slot_##name, sizeof(emu_type_##name))
#define CUDA_DYNAMIC_SHARED(T, name) T *name = (T *)emu_dynamic_shared()

/* ---- asynchronous copies into shared memory: they happen when they are waited for, so that a missing wait shows ---- */

struct emu_copy {
    void *to;
    const void *from;
    int bytes, group;
};
std::vector<struct emu_copy> &emu_copies(void); /* of this thread */
int *emu_copy_groups(void);                     /* of this thread: committed so far */

static inline void emu_copy16(void *to, const void *from, int bytes)
{
    emu_copies().push_back({to, from, bytes, *emu_copy_groups()});
}

static inline void emu_copy_commit(void)
{
    ++*emu_copy_groups();
}

static inline void emu_copy_wait(int pending)
{
    std::vector<struct emu_copy> &all = emu_copies();
    size_t n = 0;
    for (; n < all.size() && all[n].group < *emu_copy_groups() - pending; n++) {
        unsigned char piece[16] = {0};
        memcpy(piece, all[n].from, (size_t)all[n].bytes);
        memcpy(__builtin_assume_aligned(all[n].to, 16), piece, 16);
    }
    all.erase(all.begin(), all.begin() + (long)n);
}

/* ---- atomics, relaxed as on the device; small functions ---- */

template <class T> static inline T atomicAdd(T *p, T v)
{
    static_assert(sizeof(T) == 4 && T(1) / 2 == T(0), "whole numbers of 4 bytes: sums of floats depend on the order");
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}

template <class T> static inline T atomicMax(T *p, T v)
{
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int min(int a, int b)
{
    return a < b ? a : b;
}

static inline int max(int a, int b)
{
    return a > b ? a : b;
}

/* ---- the runtime ---- */

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
} cudaError_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph *cudaGraphExec_t;
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount, l2CacheSize;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_step, const void *from, size_t from_step, size_t width, size_t n,
                              enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);
cudaError_t emu_shared_limit(const void *kernel, enum cudaFuncAttribute a, int bytes);
template <class... P> static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), enum cudaFuncAttribute a, int bytes)
{
    return emu_shared_limit((const void *)kernel, a, bytes);
}

/* What a launch is: where, how many, and the kernel with its arguments, copied as on the device. */
void emu_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t s, bool early,
                std::function<void()> body);

template <class... P, class... A>
static inline void emu_launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                                     cudaStream_t s, bool early, A... a)
{
    std::tuple<P...> arguments(static_cast<P>(a)...);
    emu_launch(name, (const void *)kernel, grid, block, shared, s, early,
               [kernel, arguments] { std::apply(kernel, arguments); });
}
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...) \
    emu_launch_kernel(#kernel, kernel, (grid), (block), (shared), (stream), false, __VA_ARGS__)
#define CUDA_LAUNCH_EARLY(kernel, grid, block, shared, stream, ...) \
    emu_launch_kernel(#kernel, kernel, (grid), (block), (shared), (stream), true, __VA_ARGS__)

#endif
