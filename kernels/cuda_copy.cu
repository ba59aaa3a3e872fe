/* cuda_copy.cu: copies within the device. */
#include "cuda_in.h"

#include <vector>

/* The engine gathers rows one at a time; neighbours become one copy, unless it would read what it has written. */
static struct {
    char *to;
    const char *from;
    size_t bytes;
} waiting;

void cuda_copy_flush(void)
{
    size_t n = waiting.bytes;
    if (!n) return;
    waiting.bytes = 0;
    cuda_good("copy", cudaMemcpyAsync(waiting.to, waiting.from, n, cudaMemcpyDeviceToDevice, cuda.stream));
}

static bool goes_on(const void *dst, const void *src, size_t bytes)
{
    const size_t n = waiting.bytes + bytes;
    return waiting.bytes && waiting.to + waiting.bytes == dst && waiting.from + waiting.bytes == src &&
           (waiting.to + n <= waiting.from || waiting.from + n <= waiting.to);
}

void cuda_copy(void *dst, const void *src, size_t bytes)
{
    if (!bytes) return;
    cuda_lock();
    if (!goes_on(dst, src, bytes)) {
        struct cuda_op op("copy");
        if (op.go) {
            waiting.to = (char *)dst;
            waiting.from = (const char *)src;
            waiting.bytes = bytes;
        }
    } else {
        waiting.bytes += bytes;
    }
    cuda_unlock();
}

void cuda_zero(void *dst, size_t bytes)
{
    struct cuda_op op("zero");
    if (op.go && bytes) cuda_good(op.name, cudaMemsetAsync(dst, 0, bytes, cuda.stream));
}

void cuda_copy_rows(void *dst, size_t dst_step, const void *src, size_t src_step, size_t bytes, size_t n)
{
    struct cuda_op op("copy_rows");
    if (!op.go || !bytes || !n) return;
    cuda_good(op.name, cudaMemcpy2DAsync(dst, dst_step, src, src_step, bytes, n, cudaMemcpyDeviceToDevice, cuda.stream));
}

/* ---- runs between addresses of their own ---- */

struct move {
    void *to;
    const void *from;
};
enum { THREADS = 256, PIECES = 4 }; /* PIECES: of a thread, as long as the grid has room for the rest */

/* As many threads share a run as it has pieces, up to a block; `width` is a power of two. A piece is the largest that all
   addresses allow, so that a page moves in loads of 16 bytes. */
template <class T> static __global__ void move_pieces(const struct move *moves, size_t n, size_t pieces, int width)
{
    const size_t i = (size_t)blockIdx.x * (THREADS / (unsigned)width) + threadIdx.x / (unsigned)width;
    const T *from;
    T *to;
    if (i >= n) return;
    to = (T *)moves[i].to;
    from = (const T *)moves[i].from;
    for (size_t p = (size_t)blockIdx.y * (unsigned)width + threadIdx.x % (unsigned)width; p < pieces;
         p += (size_t)gridDim.y * (unsigned)width)
        to[p] = from ? from[p] : T();
}

template <class T> static void launch_moves(const struct move *moves, size_t n, size_t bytes)
{
    const size_t pieces = bytes / sizeof(T);
    int width = 1;
    size_t spans;
    while (width < THREADS && (size_t)width < pieces) width *= 2;
    spans = (pieces + (size_t)width * PIECES - 1) / ((size_t)width * PIECES);
    dim3 grid((unsigned)((n * (size_t)width + THREADS - 1) / THREADS), spans < 65535 ? (unsigned)spans : 65535u);
    CUDA_LAUNCH((move_pieces<T>), grid, THREADS, 0, cuda.stream, moves, n, pieces, width);
}

void cuda_move_rows(void *const *to, const void *const *from, size_t bytes, size_t n)
{
    static struct cuda_scratch moves;
    static std::vector<struct move> pairs; /* kept: its memory is used again */
    struct cuda_op op("move_rows");
    uintptr_t bits = (uintptr_t)bytes;
    if (!op.go || !bytes || !n) return;
    cuda_unrecorded();
    pairs.resize(n);
    for (size_t i = 0; i < n; i++) {
        pairs[i] = {to[i], from[i]};
        bits |= (uintptr_t)to[i] | (uintptr_t)from[i];
    }
    if (!cuda_need(&moves, op.name, n * sizeof pairs[0])) return;
    cuda_send(op.name, moves.p, pairs.data(), n * sizeof pairs[0]);
    if (bits % 16 == 0)
        launch_moves<uint4>((const struct move *)moves.p, n, bytes);
    else if (bits % 4 == 0)
        launch_moves<uint32_t>((const struct move *)moves.p, n, bytes);
    else
        launch_moves<unsigned char>((const struct move *)moves.p, n, bytes);
}
