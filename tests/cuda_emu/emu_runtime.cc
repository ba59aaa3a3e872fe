/* emu_runtime.cc: the runtime's calls on the host's memory: allocations, streams as lists of work, graphs as kept lists.
 *
 * As on the device: a copy from pageable memory reads it before the call returns, one from pinned memory when the stream comes
 * to it; what may not happen while a thread captures a stream ends the capture; an event stands for what its stream had been
 * given when it was recorded. Where work is deferred, waiting runs no more than what is waited for: another stream's work
 * comes in time only if an event says so. Stricter than the device: a copy must lie inside one allocation, fresh memory holds
 * NaN, and events stay out of captures.
 *
 * Threads: one lock, held by every call, so that kernels run one after the other, on the thread that waits for them.
 */
#include "emu_in.h"

#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <thread>
#include <time.h>

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/lsan_interface.h>
#define EMU_KEEP(p) __lsan_ignore_object(p)
#else
#define EMU_KEEP(p) (void)(p)
#endif

struct emu_work {
    bool early; /* a kernel that may start before the one before it has ended */
    std::function<void()> f;
};
struct emu_stream {
    std::deque<struct emu_work> queue;
    uint64_t ran; /* how much left the queue since the stream was made */
    struct emu_graph *capture;
    std::thread::id captor;
    bool broken;
};
struct emu_event {
    struct emu_stream *s; /* NULL: never recorded */
    uint64_t upto;        /* it stands for this much of the stream's work */
    bool times;
    double ms; /* when the stream came to it; < 0: not yet */
};
struct emu_graph {
    std::vector<struct emu_work> work;
};

enum { PAGE = 4096, VERSION = 13000, SHARED_STATIC = 48 << 10, SHARED_MOST = 227 << 10 };

static std::recursive_mutex calls;
#define ONE_AT_A_TIME std::lock_guard<std::recursive_mutex> one_at_a_time(calls)
static thread_local cudaError_t last;
static int open_doors; /* device memory may be touched while > 0 */
static uint64_t used;

static std::map<char *, size_t> &device_memory(void)
{
    static std::map<char *, size_t> m;
    return m;
}

static std::map<char *, size_t> &pinned_memory(void)
{
    static std::map<char *, size_t> m;
    return m;
}

static std::map<const void *, int> &shared_limits(void)
{
    static std::map<const void *, int> m;
    return m;
}

static std::vector<struct emu_stream *> &streams(void)
{
    static std::vector<struct emu_stream *> v;
    return v;
}

static cudaError_t fail(cudaError_t e)
{
    if (e) last = e;
    return e;
}

static bool is_on(const char *name)
{
    const char *v = getenv(name);
    return v && *v == '1';
}

const struct emu_options *emu_options(void)
{
    static struct emu_options o;
    static bool read;
    const char *v;
    if (read) return &o;
    read = true;
    o.seed = 1;
    o.memory = (uint64_t)8 << 30;
    if ((v = getenv("CUDA_EMU_ORDER"))) {
        if (!strcmp(v, "rev")) o.order = EMU_REVERSED;
        if (!strncmp(v, "rand:", 5)) {
            o.order = EMU_RANDOM;
            o.seed = strtoull(v + 5, NULL, 10);
        }
    }
    o.shared = (int)SHARED_MOST;
    if ((v = getenv("CUDA_EMU_SHARED"))) o.shared = atoi(v);
    if ((v = getenv("CUDA_EMU_MEMORY"))) o.memory = strtoull(v, NULL, 10);
    o.fail = getenv("CUDA_EMU_FAIL");
    o.cublas = getenv("CUDA_EMU_CUBLAS");
    o.log = getenv("CUDA_EMU_LOG");
    o.defer = is_on("CUDA_EMU_DEFER");
    o.protect = is_on("CUDA_EMU_PROTECT");
    o.no_device = is_on("CUDA_EMU_NODEV");
    return &o;
}

/* CUDA_EMU_FAIL names a call instead of a kernel. */
static bool refused(const char *call)
{
    return emu_options()->fail && !strcmp(emu_options()->fail, call);
}

/* ---- streams ---- */

static void doors(int change)
{
    if (!emu_options()->protect) return;
    open_doors += change;
    if (open_doors != (change > 0)) return;
    for (auto &p : device_memory()) mprotect(p.first, p.second, change > 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void flush_to(struct emu_stream *s, uint64_t upto)
{
    /* Kept, since an early kernel does not wait for its threads to end; nor does the end of the process. */
    static std::vector<struct emu_work> &over = *new std::vector<struct emu_work>;
    doors(1);
    while (s->ran < upto) {
        struct emu_work w = std::move(s->queue.front());
        s->queue.pop_front();
        s->ran++;
        if (!w.early) {
            emu_settle();
            over.clear();
        }
        w.f();
        over.push_back(std::move(w));
    }
    doors(-1);
}

static uint64_t given(const struct emu_stream *s)
{
    return s->ran + s->queue.size();
}

static void flush(struct emu_stream *s)
{
    flush_to(s, given(s));
}

static void enqueue(struct emu_stream *s, std::function<void()> f, bool early = false)
{
    if (s->capture) {
        s->capture->work.push_back({early, std::move(f)});
        return;
    }
    s->queue.push_back({early, std::move(f)});
    if (!emu_options()->defer) flush(s);
}

void emu_enqueue(cudaStream_t s, std::function<void()> f)
{
    enqueue(s, std::move(f));
}

/* What a capture cannot hold breaks it. */
static bool captured(struct emu_stream *s)
{
    if (s->capture) s->broken = true;
    return s->capture;
}

/* As in the mode "thread local": what other threads capture is not in the way. */
static bool any_capture(void)
{
    bool any = false;
    for (struct emu_stream *s : streams())
        if (s->capture && s->captor == std::this_thread::get_id()) any = captured(s);
    return any;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    ONE_AT_A_TIME;
    (void)flags;
    *s = new struct emu_stream();
    streams().push_back(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    ONE_AT_A_TIME;
    flush(s);
    for (size_t i = 0; i < streams().size(); i++)
        if (streams()[i] == s) streams().erase(streams().begin() + (long)i);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    ONE_AT_A_TIME;
    if (captured(s)) return fail(cudaErrorStreamCaptureUnsupported);
    flush(s);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    ONE_AT_A_TIME;
    *e = new struct emu_event();
    (*e)->times = !(flags & cudaEventDisableTiming);
    (*e)->ms = -1;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    ONE_AT_A_TIME;
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    ONE_AT_A_TIME;
    if (captured(s)) return fail(cudaErrorStreamCaptureUnsupported);
    e->s = s;
    e->ms = -1;
    if (e->times)
        enqueue(s, [e] {
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            e->ms = 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
        });
    e->upto = given(s);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (emu_options()->defer) std::this_thread::sleep_for(std::chrono::microseconds(50)); /* other threads come in */
    ONE_AT_A_TIME;
    if (any_capture()) return fail(cudaErrorStreamCaptureUnsupported);
    if (e->s) flush_to(e->s, e->upto);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    ONE_AT_A_TIME;
    struct emu_stream *of = e->s;
    uint64_t upto = e->upto;
    (void)flags;
    if (captured(s)) return fail(cudaErrorStreamCaptureUnsupported);
    if (refused(__func__)) return fail(cudaErrorLaunchFailure);
    if (of && of != s) enqueue(s, [=] { flush_to(of, upto); });
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    ONE_AT_A_TIME;
    if (!from->times || !to->times || !from->s || !to->s) return fail(cudaErrorInvalidResourceHandle);
    if (from->ms < 0 || to->ms < 0) return fail(cudaErrorNotReady);
    *ms = (float)(to->ms - from->ms);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    ONE_AT_A_TIME;
    (void)mode;
    if (s->capture) return fail(cudaErrorStreamCaptureUnsupported);
    s->capture = new struct emu_graph();
    s->captor = std::this_thread::get_id();
    s->broken = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    ONE_AT_A_TIME;
    *g = s->capture;
    s->capture = NULL;
    if (!*g) return fail(cudaErrorInvalidValue);
    if (!s->broken) return cudaSuccess;
    delete *g;
    *g = NULL;
    return fail(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags)
{
    ONE_AT_A_TIME;
    (void)flags;
    *x = new struct emu_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    ONE_AT_A_TIME;
    for (const auto &w : x->work) enqueue(s, w.f, w.early);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    ONE_AT_A_TIME;
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    ONE_AT_A_TIME;
    delete x;
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    ONE_AT_A_TIME;
    *p = NULL;
    if (emu_options()->no_device) return fail(cudaErrorNoDevice);
    if (any_capture()) return fail(cudaErrorStreamCaptureUnsupported);
    if (bytes > emu_options()->memory - used) return fail(cudaErrorMemoryAllocation);
    if (emu_options()->protect) {
        size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
        *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (*p == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
        memset(*p, 0xff, whole);
        if (!open_doors) mprotect(*p, whole, PROT_NONE);
    } else {
        if (posix_memalign(p, 256, bytes)) return fail(cudaErrorMemoryAllocation);
        memset(*p, 0xff, bytes);
        EMU_KEEP(*p); /* the plug-in keeps weights until the process ends */
    }
    device_memory()[(char *)*p] = bytes;
    used += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    ONE_AT_A_TIME;
    auto it = device_memory().find((char *)p);
    if (!p) return cudaSuccess;
    if (it == device_memory().end()) emu_die("cudaFree of what cudaMalloc did not give", NULL, 0);
    if (any_capture()) return fail(cudaErrorStreamCaptureUnsupported);
    for (struct emu_stream *s : streams()) flush(s);
    emu_settle();
    used -= it->second;
    if (emu_options()->protect)
        munmap(p, (it->second + PAGE - 1) / PAGE * PAGE);
    else
        free(p);
    device_memory().erase(it);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    ONE_AT_A_TIME;
    if (emu_options()->no_device) return fail(cudaErrorNoDevice);
    if (any_capture()) return fail(cudaErrorStreamCaptureUnsupported);
    if (refused(__func__)) return fail(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, bytes)) return fail(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    pinned_memory()[(char *)*p] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    ONE_AT_A_TIME;
    if (!p) return cudaSuccess;
    for (struct emu_stream *s : streams()) flush(s);
    pinned_memory().erase((char *)p);
    free(p);
    return cudaSuccess;
}

static bool inside(const std::map<char *, size_t> &m, const void *p, size_t bytes)
{
    auto it = m.upper_bound((char *)p);
    if (it == m.begin()) return false;
    --it;
    return (size_t)((const char *)p - it->first) + bytes <= it->second;
}

static void check_device(const void *p, size_t bytes)
{
    if (!inside(device_memory(), p, bytes)) emu_die("a copy outside of an allocation of the device", NULL, 0);
}

void emu_check_device(const void *p, size_t bytes)
{
    check_device(p, bytes);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    ONE_AT_A_TIME;
    if (kind != cudaMemcpyDeviceToHost) check_device(to, bytes);
    if (kind != cudaMemcpyHostToDevice) check_device(from, bytes);
    if (kind == cudaMemcpyDeviceToDevice && (char *)to < (char *)from + bytes && (char *)from < (char *)to + bytes)
        emu_die("a copy onto part of itself", NULL, 0);
    if (kind == cudaMemcpyHostToDevice && !inside(pinned_memory(), from, bytes)) {
        if (captured(s)) return fail(cudaErrorStreamCaptureUnsupported);
        std::vector<char> now((const char *)from, (const char *)from + bytes);
        enqueue(s, [=] { memcpy(to, now.data(), now.size()); });
        return cudaSuccess;
    }
    if (kind == cudaMemcpyDeviceToHost && !inside(pinned_memory(), to, bytes)) {
        if (captured(s)) return fail(cudaErrorStreamCaptureUnsupported);
        enqueue(s, [=] { memcpy(to, from, bytes); });
        flush(s);
        return cudaSuccess;
    }
    enqueue(s, [=] { memcpy(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_step, const void *from, size_t from_step, size_t width, size_t n,
                              enum cudaMemcpyKind kind, cudaStream_t s)
{
    ONE_AT_A_TIME;
    if (kind != cudaMemcpyDeviceToDevice || width > to_step || width > from_step) return fail(cudaErrorInvalidValue);
    if (!n || !width) return cudaSuccess;
    check_device(to, (n - 1) * to_step + width);
    check_device(from, (n - 1) * from_step + width);
    enqueue(s, [=] {
        for (size_t i = 0; i < n; i++) memcpy((char *)to + i * to_step, (const char *)from + i * from_step, width);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    ONE_AT_A_TIME;
    check_device(to, bytes);
    enqueue(s, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

/* ---- launches ---- */

static void log_launch(const char *name, dim3 grid)
{
    static FILE *f;
    if (!emu_options()->log) return;
    if (!f) f = fopen(emu_options()->log, "w");
    if (!f) return;
    fprintf(f, "%s %u %u %u\n", name, grid.x, grid.y, grid.z);
    fflush(f);
}

cudaError_t emu_shared_limit(const void *kernel, enum cudaFuncAttribute a, int bytes)
{
    ONE_AT_A_TIME;
    (void)a;
    if (bytes > emu_options()->shared) return fail(cudaErrorInvalidValue);
    shared_limits()[kernel] = bytes;
    return cudaSuccess;
}

void emu_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t s, bool early,
                std::function<void()> body)
{
    ONE_AT_A_TIME;
    const uint64_t n = (uint64_t)block.x * block.y * block.z;
    auto limit = shared_limits().find(kernel);
    if (emu_options()->no_device) {
        fail(cudaErrorNoDevice);
    } else if (!n || n > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 ||
               grid.z > 65535) {
        fail(cudaErrorInvalidConfiguration);
    } else if (shared > (limit == shared_limits().end() ? (size_t)SHARED_STATIC : (size_t)limit->second)) {
        fail(cudaErrorInvalidValue);
    } else if (emu_options()->fail && strstr(name, emu_options()->fail)) {
        fail(cudaErrorLaunchFailure);
    } else {
        log_launch(name, grid);
        enqueue(
            s, [=] { emu_run(name, grid, block, shared, early, body); }, early);
    }
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = !emu_options()->no_device;
    return fail(*n ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    return fail(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    if (device) return fail(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated device");
    p->major = 9;
    p->minor = 0;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 64 << 10;
    p->totalGlobalMem = emu_options()->memory;
    p->sharedMemPerBlockOptin = (size_t)emu_options()->shared;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = emu_options()->no_device ? 0 : (int)VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = VERSION;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    ONE_AT_A_TIME;
    *total = emu_options()->memory;
    *free_bytes = *total - used;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last;
    last = cudaSuccess;
    return e;
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    }
    return "unknown error";
}
