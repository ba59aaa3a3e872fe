/* cuda_memory.cu: memory of the device, what goes up to it, and the model's weights.
 *
 * A cache has thousands of pages, and cudaMalloc waits for the device: small blocks are cut from slabs of 64 MiB, each slab
 * for one size, and come back to a list. Copies from the host go through a ring of pinned memory, so that they are queued
 * and the host's memory is free again at once.
 */
#include "cuda_in.h"

#include <map>
#include <stdlib.h>
#include <vector>

static const size_t RING = 8 << 20, SMALL = 4 << 20, SLAB = 64 << 20;

/* ---- blocks ---- */

static std::map<size_t, std::vector<char *>> free_blocks; /* by size */
static std::map<char *, size_t> sizes;                    /* of the small blocks in use */

/* The emulator's sanitizers know the ends of what cudaMalloc gives; there, blocks are cut only when asked for. */
static bool cuts(size_t bytes)
{
    static const bool wanted = strcmp(CUDA_NAME, "cuda") == 0 || getenv("CUDA_EMU_SLABS");
    return wanted && bytes <= SMALL;
}

static char *take(size_t bytes)
{
    void *p = NULL;
    if (!cuts(bytes)) return cudaMalloc(&p, bytes) == cudaSuccess ? (char *)p : NULL;
    std::vector<char *> &list = free_blocks[bytes];
    if (list.empty()) {
        size_t n = SLAB / bytes;
        if (cudaMalloc(&p, n * bytes) != cudaSuccess) {
            cudaGetLastError();
            n = 1; /* the last memory there is */
            if (cudaMalloc(&p, bytes) != cudaSuccess) return NULL;
        }
        for (size_t i = n; i-- > 0;) list.push_back((char *)p + i * bytes);
    }
    char *block = list.back();
    list.pop_back();
    sizes[block] = bytes;
    return block;
}

void *cuda_alloc(size_t bytes)
{
    size_t whole = (bytes + 255) / 256 * 256;
    char *p = NULL;
    if (whole < bytes) return NULL;
    if (!whole) whole = 256;
    cuda_lock();
    cuda_work_outside();
    if (!cuda_recording()) p = take(cuts(whole) || !bytes ? whole : bytes);
    if (p && cudaMemsetAsync(p, 0, bytes, cuda.stream) != cudaSuccess) p = NULL;
    cudaGetLastError();
    cuda_unlock();
    return p;
}

/* Work that uses the block may still be queued on the main stream. What comes next on it is ordered behind that work, and
   memory that goes back to CUDA waits for it. Streams of cuda_get are not waited for: whoever releases what another thread is
   reading breaks kernels.h, since a block belongs to its reader until get returns, and then its copy is over. */
void cuda_release(void *p)
{
    if (!p) return;
    cuda_lock();
    cuda_copy_flush();
    cuda_matmul_flush();
    cuda_recordings_drop();
    auto it = sizes.find((char *)p);
    if (it != sizes.end()) {
        free_blocks[it->second].push_back(it->first); /* the stream keeps the order with what comes next */
        sizes.erase(it);
    } else {
        cudaStreamSynchronize(cuda.stream);
        cudaFree(p);
        cudaGetLastError();
    }
    cuda_unlock();
}

bool cuda_need(struct cuda_scratch *s, const char *operation, size_t bytes)
{
    void *p = NULL;
    size_t more = bytes + bytes / 4;
    if (bytes <= s->bytes) return true;
    if (cuda_recording()) {
        cuda_fail_text(operation, "a recorded pass needs more memory than the one before it");
        return false;
    }
    cuda_recordings_drop();
    cudaStreamSynchronize(cuda.stream);
    cudaFree(s->p);
    *s = {NULL, 0};
    if (cudaMalloc(&p, more) != cudaSuccess) {
        cudaGetLastError();
        more = bytes;
        if (!cuda_good(operation, cudaMalloc(&p, more))) return false;
    }
    *s = {(char *)p, more};
    return true;
}

/* ---- from the host ---- */

static struct {
    char *p;
    size_t at;
} ring;

void cuda_send(const char *operation, void *to, const void *host, size_t bytes)
{
    const char *from = (const char *)host;
    size_t room = (bytes + 255) / 256 * 256;
    void *p;
    if (!bytes) return;
    if (!ring.p && !cuda_recording()) {
        if (!cuda_good(operation, cudaMallocHost(&p, RING))) return;
        ring.p = (char *)p;
    }
    if (room <= RING / 4 && ring.p) {
        if (ring.at + room > RING) { /* rare: the ring holds the uploads of many passes */
            if (cuda_recording() || !cuda_good(operation, cudaStreamSynchronize(cuda.stream))) return;
            ring.at = 0;
        }
        from = (const char *)memcpy(ring.p + ring.at, host, bytes);
        ring.at += room;
    }
    cuda_good(operation, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda.stream));
}

void cuda_put(void *dst, const void *host, size_t bytes)
{
    struct cuda_op op("put");
    if (op.go) cuda_send(op.name, dst, host, bytes);
}

/* ---- weights ---- */

/* What was uploaded, so that engines of one model share it. Another model may later be mapped at the same address, while a
   copy of the first is still in use: bytes of all parts tell them apart. */
struct upload {
    const void *host;
    size_t bytes;
    uint64_t mark;
    void *device;
    int users;
};
static std::vector<struct upload> uploads;

static uint64_t mark_of(const void *host, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)host;
    uint64_t h = 14695981039346656037u; /* FNV-1a of 4,096 bytes spread over the whole */
    size_t step = bytes / 4096 + 1;
    for (size_t i = 0; i < bytes; i += step) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

const void *cuda_weights(const void *host, size_t bytes)
{
    struct cuda_op op("weights");
    void *p = NULL;
    if (!op.go || !bytes) return NULL;
    const uint64_t mark = mark_of(host, bytes);
    for (struct upload &u : uploads)
        if (u.host == host && u.bytes == bytes && u.mark == mark) {
            u.users++;
            return u.device;
        }
    if (cudaMalloc(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    for (size_t at = 0; at < bytes; at += RING / 4) {
        size_t n = bytes - at < RING / 4 ? bytes - at : RING / 4;
        cuda_send(op.name, (char *)p + at, (const char *)host + at, n);
    }
    uploads.push_back({host, bytes, mark, p, 1});
    return p;
}

void cuda_drop_weights(const void *copy)
{
    if (!copy) return;
    cuda_lock();
    for (size_t i = 0; i < uploads.size(); i++) {
        if (uploads[i].device != copy) continue;
        if (--uploads[i].users > 0) break;
        if (cuda_recording()) cuda_unrecorded();
        cuda_copy_flush();
        cuda_matmul_flush();
        cuda_recordings_drop();             /* graphs read it */
        cudaStreamSynchronize(cuda.stream); /* as may what is queued */
        cudaFree(uploads[i].device);
        cudaGetLastError();
        uploads.erase(uploads.begin() + (long)i);
        break;
    }
    cuda_unlock();
}
