/* cuda_get.cu: from the device to the host.
 *
 * The thread of the passes reads a few bytes after each step and waits for that step anyway: its copies go down the stream of
 * the passes. Another thread reads the pages of finished caches while the next passes run: it has a stream of its own, which
 * waits for what the thread may see (cuda_wait_for_work), so that the copy engine works beside the kernels. The lock is held
 * while a copy is queued, never while it is waited for.
 *
 * What is read stays where it is until get returns: the engine holds a reference to the page, and only a page without
 * references is written anew. So no copy is under way into or out of what is released, taken again or unmapped. That is why a
 * get that fails still waits for what it queued.
 */
#include "cuda_in.h"

#include <condition_variable>
#include <mutex>

static const size_t PIECE = 4 << 20;
enum { READERS = 4 }; /* ways of threads that run no passes; the others get one more when these are taken */

/* What a get needs; one buffer is emptied while the other is filled. */
struct way {
    struct way *next;
    cudaStream_t stream; /* unused by the thread of the passes */
    cudaEvent_t work;    /* on the stream of the passes: everything that was queued */
    struct {
        char *p; /* pinned, PIECE bytes */
        cudaEvent_t done;
    } buffer[2];
};
static std::mutex lock; /* of the three below; held for moments only */
static std::condition_variable changed;
static struct way *idle;
static int ways;

static void way_free(struct way *w)
{
    for (auto &b : w->buffer) {
        if (b.p) cudaFreeHost(b.p);
        if (b.done) cudaEventDestroy(b.done);
    }
    if (w->work) cudaEventDestroy(w->work);
    if (w->stream) cudaStreamDestroy(w->stream);
    delete w;
}

static struct way *way_new(void)
{
    struct way *w = new struct way();
    bool good = cuda_good("get", cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking)) &&
                cuda_good("get", cudaEventCreateWithFlags(&w->work, cudaEventDisableTiming));
    for (auto &b : w->buffer) {
        void *p = NULL;
        good = good && cuda_good("get", cudaEventCreateWithFlags(&b.done, cudaEventDisableTiming)) &&
               cuda_good("get", cudaMallocHost(&p, PIECE));
        b.p = (char *)p;
    }
    if (good) return w;
    way_free(w);
    return NULL;
}

static void give(struct way *w)
{
    std::lock_guard<std::mutex> held(lock);
    if (w) {
        w->next = idle;
        idle = w;
    } else {
        ways--;
    }
    changed.notify_one();
}

/* NULL: noted. */
static struct way *take(bool may_wait)
{
    struct way *w = NULL;
    {
        std::unique_lock<std::mutex> held(lock);
        if (may_wait) changed.wait(held, [] { return idle || ways < READERS; });
        if ((w = idle)) {
            idle = w->next;
            return w;
        }
        ways++;
    }
    w = way_new();
    if (!w) give(NULL);
    return w;
}

/* Queues a piece. The stream of the passes is touched under the lock: another thread may be recording. */
static bool fill(const struct way *w, int i, cudaStream_t s, const char *src, size_t bytes)
{
    bool good;
    if (s == cuda.stream) cuda_lock();
    good = cuda_good("get", cudaMemcpyAsync(w->buffer[i].p, src, bytes, cudaMemcpyDeviceToHost, s)) &&
           cuda_good("get", cudaEventRecord(w->buffer[i].done, s));
    if (s == cuda.stream) cuda_unlock();
    return good;
}

static bool bring(const struct way *w, cudaStream_t s, char *host, const char *src, size_t bytes)
{
    bool good;
    if (!fill(w, 0, s, src, bytes < PIECE ? bytes : PIECE)) return false;
    for (size_t at = 0, turn = 0; at < bytes; at += PIECE, turn ^= 1) {
        size_t next = at + PIECE, len = bytes - at < PIECE ? bytes - at : PIECE;
        if (next < bytes && !fill(w, (int)turn ^ 1, s, src + next, bytes - next < PIECE ? bytes - next : PIECE)) return false;
        cuda_pass_pause();
        good = cuda_good("get", cudaEventSynchronize(w->buffer[turn].done));
        cuda_pass_resume();
        if (!good) return false;
        memcpy(host + at, w->buffer[turn].p, len);
    }
    return true;
}

/* False: there is trouble. */
static bool ready(const struct way *w, bool own_stream)
{
    bool go;
    cuda_lock(); /* a pass that is being queued, and may be recorded, ends first */
    cuda_copy_flush();
    cuda_matmul_flush();
    go = !cuda_has_trouble() && (!own_stream || cuda_wait_for_work(w->stream, w->work));
    cuda_unlock();
    return go;
}

/* No copy is under way any more. */
static void drain(cudaStream_t s)
{
    cuda_lock();
    cudaStreamSynchronize(s);
    cudaGetLastError(); /* what failed is known */
    cuda_unlock();
}

void cuda_get(void *host, const void *src, size_t bytes)
{
    const bool own_stream = !cuda_runs_passes();
    struct way *w;
    bool good = false;
    cuda_lock(); /* which also makes the device this thread's */
    if (!own_stream) cuda_unrecorded();
    cuda_unlock();
    if (!bytes) return;
    w = take(own_stream);
    if (w && ready(w, own_stream)) {
        cudaStream_t s = own_stream ? w->stream : cuda.stream;
        good = bring(w, s, (char *)host, (const char *)src, bytes);
        if (!good) drain(s);
    }
    if (!good) memset(host, 0, bytes); /* whoever does not ask for trouble at once still reads no garbage */
    if (w) give(w);
}
