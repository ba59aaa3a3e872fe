/* cuda_in.h: what the cuda_*.cu files share; internal to kernels/. The first part is the portable layer, the one place that
 * knows whether nvcc compiles for a device or a C++ compiler for the emulator (tests/cuda_emu).
 *
 * Rules of the kernels, which the emulator's checks rest on: shared memory only through the two macros; no waiting of blocks
 * for each other; no float atomics; no __activemask; inline PTX only here, beside the same in C++.
 */
#ifndef KERNELS_CUDA_IN_H
#define KERNELS_CUDA_IN_H

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
/* A template in parentheses: CUDA_LAUNCH((kernel<4>), ...). */
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
#define CUDA_SHARED(T, name, dims) __shared__ T name dims
#define CUDA_DYNAMIC_SHARED(T, name)                              \
    extern __shared__ __align__(16) unsigned char cuda_dynamic[]; \
    T *name = (T *)cuda_dynamic
#else
#include "emu.h"
#endif

#ifndef restrict
#define restrict __restrict__ /* the C headers below */
#endif
extern "C" {
#include "cpu_ops.h"
}
#undef restrict
#include "cuda.h"

#include <string.h>

#if defined(__CUDACC__)

/* Memory that is read once and whole: it need not push other things out of the cache. */
static __device__ __forceinline__ uint4 cuda_stream_load(const void *p)
{
    return __ldcs((const uint4 *)p);
}

static __device__ __forceinline__ float cuda_half_to_float(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}

/* Two floats, rounded to bf16 or f16, low half first. */
template <int BF> static __device__ __forceinline__ uint32_t cuda_pack(float low, float high)
{
    union {
        __nv_bfloat162_raw b;
        __half2_raw h;
        uint32_t u;
    } x;
    if (BF)
        x.b = __floats2bfloat162_rn(low, high);
    else
        x.h = __floats2half2_rn(low, high);
    return x.u;
}

/* d += a b of m16n8k16 by all lanes of a warp. */
template <int BF> static __device__ __forceinline__ void cuda_mma(float *d, const uint32_t *a, const uint32_t *b)
{
    if (BF)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Copies into shared memory that go on by themselves: 16 bytes of which the first `bytes` are read, the rest zero. */
static __device__ __forceinline__ void cuda_copy16(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from),
                 "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void cuda_copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void cuda_copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Of a kernel that CUDA_LAUNCH_EARLY launches: the next one may start when all blocks have come here. */
static __device__ __forceinline__ void cuda_let_next_start(void)
{
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* What the kernels before it wrote is here from now on. */
static __device__ __forceinline__ void cuda_wait_for_previous(void)
{
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

#else

static inline uint4 cuda_stream_load(const void *p)
{
    return *(const uint4 *)p;
}

static inline float cuda_half_to_float(uint16_t h)
{
    return f16_to_f32(h);
}

template <int BF> static inline uint32_t cuda_pack(float low, float high)
{
    uint32_t l = BF ? f32_to_bf16(low) : f32_to_f16(low), h = BF ? f32_to_bf16(high) : f32_to_f16(high);
    return l | h << 16;
}

#define cuda_mma emu_mma_at{__FILE__, __LINE__}.product
struct emu_mma_at {
    const char *file;
    int line;
    template <int BF> void product(float *d, const uint32_t *a, const uint32_t *b) const
    {
        emu_mma(d, a, b, BF, file, line);
    }
};

static inline void cuda_copy16(void *to, const void *from, int bytes)
{
    emu_copy16(to, from, bytes);
}

static inline void cuda_copy_commit(void)
{
    emu_copy_commit();
}

template <int PENDING> static inline void cuda_copy_wait(void)
{
    emu_copy_wait(PENDING);
}

static inline void cuda_let_next_start(void)
{
}

static inline void cuda_wait_for_previous(void)
{
    emu_wait_for_previous();
}

#endif

/* The first statement of a kernel that has nothing to do before what the kernels before it wrote is here. */
static __device__ __forceinline__ void cuda_start(void)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
}

enum { CUDA_SPLIT = 4 }; /* pages of a run of attention, see cuda.h */

/* ---- the device (cuda_device.cu) ---- */

struct cuda_state {
    int device, cc, sm_count;
    size_t shared_most; /* bytes of shared memory a block may have */
    size_t cache;       /* bytes of the L2 cache */
    cudaStream_t stream;
    bool sync;  /* KVRUN_CUDA_SYNC=1: wait after every operation, so that an error names the right one */
    bool early; /* device, driver and runtime know launches of CUDA_LAUNCH_EARLY's kind */
};
extern struct cuda_state cuda;

/* CUDA_LAUNCH of a kernel that may start while the one before it still ends (programmatic dependent launch): a step of decoding
   is hundreds of short kernels, and what a launch takes is a good part of each. Every thread calls cuda_wait_for_previous();
   until then it writes nothing, and reads nothing but its arguments and weights, which are uploaded and never written by a
   kernel. Since all wait, whoever has waited finds everything complete. */
#if defined(__CUDACC__) && CUDART_VERSION >= 12030
#define CUDA_LAUNCH_EARLY(kernel, grid, block, shared, stream, ...)                                                \
    do {                                                                                                           \
        static const bool waits = cuda_waits((const void *)(kernel));                                              \
        if (!cuda.early || !waits || !cuda_launch_early(kernel, (grid), (block), (shared), (stream), __VA_ARGS__)) \
            CUDA_LAUNCH(kernel, grid, block, shared, stream, __VA_ARGS__);                                         \
    } while (0)

/* Its code is one that waits: not so when the driver made it of code for an older device. */
static inline bool cuda_waits(const void *kernel)
{
    struct cudaFuncAttributes a;
    if (cudaFuncGetAttributes(&a, kernel) == cudaSuccess) return a.ptxVersion >= 90;
    cudaGetLastError();
    return false;
}

/* False: refused, as all will be. */
template <class... P, class... A>
static inline bool cuda_launch_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                                     const A &...a)
{
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t how = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    how.gridDim = grid;
    how.blockDim = block;
    how.dynamicSmemBytes = shared;
    how.stream = stream;
    how.attrs = &early;
    how.numAttrs = 1;
    if (cudaLaunchKernelEx(&how, kernel, static_cast<P>(a)...) == cudaSuccess) return true;
    cudaGetLastError();
    return cuda.early = false;
}
#elif defined(__CUDACC__)
#define CUDA_LAUNCH_EARLY CUDA_LAUNCH
#endif

/* An operation from here to the end of the scope: holds the lock, does not go when there is trouble, notes what failed. What
   waits for an operation to join it is queued before it, unless it says that it joins. */
struct cuda_op {
    const char *name;
    bool go;
    explicit cuda_op(const char *operation, bool joins = false);
    ~cuda_op();
};

void cuda_fail(const char *operation, cudaError_t e);
void cuda_fail_text(const char *operation, const char *text);
/* Under the lock: operations do nothing until somebody has asked. */
bool cuda_has_trouble(void);
/* False, and noted, when e is an error. */
bool cuda_good(const char *operation, cudaError_t e);
/* A kernel may use so much dynamic shared memory from now on. */
#define CUDA_ROOM(kernel, bytes) \
    ((bytes) <= (48 << 10) ||    \
     cuda_good("shared memory", cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))))

/* ---- memory (cuda_memory.cu, cuda_copy.cu, cuda_get.cu) ---- */

/* Memory of one purpose that only grows. Growing it drops the recorded passes. */
struct cuda_scratch {
    char *p;
    size_t bytes;
};
bool cuda_need(struct cuda_scratch *s, const char *operation, size_t bytes);
/* From pageable memory, which may change after the call. */
void cuda_send(const char *operation, void *to, const void *host, size_t bytes);
/* Copies that wait to be merged with the next one are queued now. */
void cuda_copy_flush(void);

void *cuda_alloc(size_t bytes);
void cuda_release(void *p);
void cuda_copy(void *dst, const void *src, size_t bytes);
void cuda_zero(void *dst, size_t bytes);
void cuda_get(void *host, const void *src, size_t bytes);
void cuda_put(void *dst, const void *host, size_t bytes);
void cuda_copy_rows(void *dst, size_t dst_step, const void *src, size_t src_step, size_t bytes, size_t n);
void cuda_move_rows(void *const *to, const void *const *from, size_t bytes, size_t n);
const void *cuda_weights(const void *host, size_t bytes);
void cuda_drop_weights(const void *copy);

/* ---- passes (cuda_pass.cu) ---- */

/* A page on the device. */
struct cuda_page {
    void *k, *v;
    const uint64_t *hidden; /* (G), or NULL */
};
/* The rows of a pass on the device. Page p of row b in the view's layer l is pages[l * first[B] + first[b] + p]. */
struct cuda_view {
    const int *slot;  /* (B) */
    const int *first; /* (B + 1) */
    const struct cuda_page *pages;
    int B, layer, most; /* layer: of the view; most: no row has more pages; a multiple of CUDA_SPLIT */
};
/* Of the pass that has begun, or made for this one operation. False: noted. */
bool cuda_view_of(struct cuda_view *v, const char *operation, const struct rows *r, int layer, int G);

int cuda_begin(const struct rows *r, int L, int plain);
void cuda_end(void);
/* An operation whose arguments change from pass to pass: a pass that contains it is not recorded. */
void cuda_unrecorded(void);
bool cuda_recording(void);
void cuda_recordings_drop(void);
/* Whether this thread has begun a pass since it started. */
bool cuda_runs_passes(void);
/* Something is queued; under the lock. */
void cuda_work_outside(void);
/* Makes a stream of a thread that runs no passes wait for all that this thread may read; under the lock, outside of a pass.
   `all` is an event to record. False: noted. */
bool cuda_wait_for_work(cudaStream_t reads, cudaEvent_t all);
/* Around waiting for the device: if this thread is inside a pass, which is not being recorded, others may queue meanwhile. */
void cuda_pass_pause(void);
void cuda_pass_resume(void);
void cuda_lock(void);
void cuda_unlock(void);

/* ---- operations ---- */

void cuda_embed(float *x, const struct mat *table, const int *ids, int B);
void cuda_rmsnorm(float *y, const float *x, const float *w, float eps, int B, int D);
void cuda_layernorm(float *y, const float *x, const float *w, const float *b, float eps, int B, int D);
void cuda_matmul(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then);
void cuda_matmul_exact(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then);
void cuda_matmul_t(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then);
void cuda_rope_append(float *q, float *k, const float *v, const struct rope *rope, const struct rows *r, int layer,
                      const struct attn *a);
void cuda_attend(float *out, const float *q, const struct rows *r, int layer, const uint64_t *const *blocked,
                 const struct attn *a);
void cuda_swiglu(float *y, const float *gate, const float *up, int B, int F);
void cuda_gelu(float *y, const float *x, const float *up, enum gelu form, int B, int F);
void cuda_softcap(float *y, const float *x, float cap, size_t n);
void cuda_scale(float *y, const float *x, float f, size_t n);
void cuda_add(float *y, const float *x, int ldx, int B, int N);
void cuda_pick(struct pick *out, const float *logits, int B, int V);
double cuda_library_matmul(int rows, int cols, int B, const char **why);
/* Products that wait to be computed together with the next one are queued now. Whoever does not begin with a cuda_op calls it
   before it frees, reads or writes memory of the device. */
void cuda_matmul_flush(void);

#endif
