/* cuda_copy.cu: copies within the device. */
#include "cuda_in.h"

/* The engine gathers rows one at a time; neighbours become one copy. */
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

void cuda_copy(void *dst, const void *src, size_t bytes)
{
    if (!bytes) return;
    cuda_lock();
    cuda_narrowed_drop();
    if (!waiting.bytes || waiting.to + waiting.bytes != dst || waiting.from + waiting.bytes != src) {
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

void cuda_move_rows(void *const *to, const void *const *from, size_t bytes, size_t n)
{
    struct cuda_op op("move_rows");
    for (size_t i = 0; i < n && op.go; i++)
        op.go = from[i] ? cuda_good(op.name, cudaMemcpyAsync(to[i], from[i], bytes, cudaMemcpyDeviceToDevice, cuda.stream))
                        : cuda_good(op.name, cudaMemsetAsync(to[i], 0, bytes, cuda.stream));
}
