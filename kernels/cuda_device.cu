/* cuda_device.cu: opening the device, the table, and what went wrong.
 *
 * Everything but the reading of finished caches (cuda_get.cu) is queued on one stream. One lock serves all threads: an
 * operation holds it while it is queued, and a pass from begin to end, so that no foreign work gets into a recording. No get
 * holds it while it waits for the device, not even inside a pass.
 */
#include "cuda_in.h"

#include <mutex>
#include <stdio.h>
#include <stdlib.h>

struct cuda_state cuda;
static std::recursive_mutex lock;
static struct {
    char text[240], told[240]; /* told: what the last question was answered */
    bool is, memory;
} trouble;

void cuda_lock(void)
{
    static thread_local bool knows; /* the device is a setting of each thread */
    lock.lock();
    if (knows || !cuda.stream) return;
    cudaSetDevice(cuda.device);
    knows = true;
}

void cuda_unlock(void)
{
    lock.unlock();
}

/* ---- trouble ---- */

static void note(const char *operation, const char *text, bool memory)
{
    cuda_lock();
    if (!trouble.is) {
        trouble.is = true;
        trouble.memory = memory;
        snprintf(trouble.text, sizeof trouble.text, "%s: %s", operation, text);
    }
    cuda_unlock();
}

bool cuda_has_trouble(void)
{
    return trouble.is;
}

void cuda_fail(const char *operation, cudaError_t e)
{
    char text[200];
    bool memory = e == cudaErrorMemoryAllocation;
    snprintf(text, sizeof text, "%s (CUDA error %d)", cudaGetErrorString(e), (int)e);
    note(operation, memory ? "out of memory" : text, memory);
}

void cuda_fail_text(const char *operation, const char *text)
{
    note(operation, text, false);
}

bool cuda_good(const char *operation, cudaError_t e)
{
    if (e == cudaSuccess) return true;
    cudaGetLastError(); /* else the next operation would report it again */
    cuda_fail(operation, e);
    return false;
}

cuda_op::cuda_op(const char *operation, bool joins) : name(operation)
{
    cuda_lock();
    cuda_copy_flush();
    cuda_work_outside();
    if (!joins) cuda_matmul_flush();
    go = !trouble.is;
}

cuda_op::~cuda_op()
{
    if (go) {
        cuda_good(name, cudaGetLastError());
        if (cuda.sync && !cuda_recording()) cuda_good(name, cudaStreamSynchronize(cuda.stream));
    }
    cuda_unlock();
}

static const char *cuda_trouble(int *memory)
{
    const char *told = NULL;
    cuda_lock();
    cuda_matmul_flush(); /* what it meets is told now, not after an operation that has no part in it */
    if (memory) *memory = trouble.is && trouble.memory;
    if (trouble.is) told = strcpy(trouble.told, trouble.text);
    trouble.is = false;
    cuda_unlock();
    return told;
}

/* ---- opening ---- */

static char numerics[24];

static struct kernels table = {
    CUDA_NAME,      numerics,       cuda_alloc,   cuda_release,      cuda_copy,           cuda_zero,   cuda_get,     cuda_put,
    cuda_copy_rows, cuda_move_rows, cuda_weights, cuda_drop_weights, cuda_begin,          cuda_end,    cuda_trouble, cuda_embed,
    cuda_rmsnorm,   cuda_layernorm, cuda_matmul,  cuda_matmul_t,     cuda_rope_append,    cuda_attend, cuda_swiglu,  cuda_gelu,
    cuda_softcap,   cuda_scale,     cuda_add,     cuda_pick,         cuda_library_matmul,
};

static int say(char *why, size_t n, const char *what, cudaError_t e)
{
    if (e == cudaSuccess)
        snprintf(why, n, "%s", what);
    else
        snprintf(why, n, "%s (CUDA error %d: %s)", what, (int)e, cudaGetErrorString(e));
    cudaGetLastError();
    return -1;
}

static int find(int device, struct cuda_device *about, struct cudaDeviceProp *p, char *why, size_t n)
{
    int devices = 0, driver = 0;
    size_t free_bytes = 0, total = 0;
    cudaError_t e;
    cudaRuntimeGetVersion(&about->runtime);
    cudaDriverGetVersion(&driver); /* succeeds, and says 0, without a driver */
    about->driver = driver;
    e = cudaGetDeviceCount(&devices);
    if (e != cudaSuccess) return say(why, n, driver ? "no device" : "no driver", e);
    if (devices == 0) return say(why, n, "no device", cudaSuccess);
    if (device < 0 || device >= devices) {
        snprintf(why, n, "no device %d: there are %d", device, devices);
        return -1;
    }
    if ((e = cudaSetDevice(device)) != cudaSuccess || (e = cudaGetDeviceProperties(p, device)) != cudaSuccess)
        return say(why, n, "the device does not answer", e);
    if ((e = cudaMemGetInfo(&free_bytes, &total)) != cudaSuccess) return say(why, n, "the device does not start", e);
    snprintf(about->name, sizeof about->name, "%.63s", p->name);
    about->cc_major = p->major;
    about->cc_minor = p->minor;
    about->sm_count = p->multiProcessorCount;
    about->memory_bytes = (long long)total;
    about->memory_free = (long long)free_bytes;
    if (p->major < 8) {
        snprintf(why, n, "%s has compute capability %d.%d, and 8.0 is the least", p->name, p->major, p->minor);
        return -1;
    }
    return 0;
}

static __global__ void count(int *n)
{
    cuda_start();
    if (threadIdx.x == 0) ++*n;
}

/* Early launches, recorded and replayed: tried once, since neither a version nor a device's number tells whether they work.
   What is not refused, but counts wrong, must not be used either. */
static bool early_works(void)
{
    enum { LAUNCHES = 5, REPLAYS = 3 };
    cudaGraph_t graph = NULL;
    cudaGraphExec_t replay = NULL;
    void *n = NULL;
    int counted = 0;
    bool good = cudaMalloc(&n, sizeof counted) == cudaSuccess &&
                cudaMemsetAsync(n, 0, sizeof counted, cuda.stream) == cudaSuccess &&
                cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (good) {
        for (int i = 0; i < LAUNCHES; i++) CUDA_LAUNCH_EARLY(count, 1, 32, 0, cuda.stream, (int *)n);
        good = cudaStreamEndCapture(cuda.stream, &graph) == cudaSuccess && graph &&
               cudaGraphInstantiate(&replay, graph, 0) == cudaSuccess;
    }
    for (int i = 0; i < REPLAYS && good; i++) good = cudaGraphLaunch(replay, cuda.stream) == cudaSuccess;
    good = good && cudaMemcpyAsync(&counted, n, sizeof counted, cudaMemcpyDeviceToHost, cuda.stream) == cudaSuccess &&
           cudaStreamSynchronize(cuda.stream) == cudaSuccess && counted == LAUNCHES * REPLAYS;
    if (replay) cudaGraphExecDestroy(replay);
    if (graph) cudaGraphDestroy(graph);
    cudaFree(n);
    cudaGetLastError();
    return good;
}

static const struct kernels *open_locked(int abi, int device, struct cuda_device *about, char *why, size_t n)
{
    static bool is_open;
    struct cudaDeviceProp p;
    const char *sync = getenv("KVRUN_CUDA_SYNC");
    cudaError_t e;
    if (abi != KVRUN_CUDA_ABI) {
        snprintf(why, n, "the plug-in speaks version %d, the program %d", KVRUN_CUDA_ABI, abi);
        return NULL;
    }
    if (is_open && device != cuda.device) {
        snprintf(why, n, "device %d is open already: one process, one device", cuda.device);
        return NULL;
    }
    if (find(device, about, &p, why, n)) return NULL;
    if (is_open) return &table;
    cuda.device = device;
    cuda.cc = p.major * 10 + p.minor;
    cuda.sm_count = p.multiProcessorCount;
    cuda.shared_most = p.sharedMemPerBlockOptin;
    cuda.cache = (size_t)p.l2CacheSize;
    cuda.sync = sync && *sync == '1';
    if ((e = cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking)) != cudaSuccess) {
        say(why, n, "no stream", e);
        return NULL;
    }
    cuda.early = cuda.cc >= 90 && about->runtime >= 12030 && about->driver >= 12030; /* before, no graph could hold them */
    if (cuda.early) cuda.early = early_works();
    if (strcmp(CUDA_NAME, "cuda") == 0)
        snprintf(numerics, sizeof numerics, "cuda-sm%d", cuda.cc);
    else
        snprintf(numerics, sizeof numerics, "%s", CUDA_NAME);
    is_open = true;
    return &table;
}

const struct kernels *kvrun_cuda_open(int abi, int device, struct cuda_device *about, char *why, size_t n)
{
    struct cuda_device own;
    const struct kernels *k;
    if (!about) about = &own;
    memset(about, 0, sizeof *about);
    if (n) *why = 0;
    cuda_lock();
    k = open_locked(abi, device, about, why, n);
    cuda_unlock();
    return k;
}
