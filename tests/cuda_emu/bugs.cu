/* bugs.cu: kernels and host code with one mistake each, to show that the emulator notices. Argument: which. Exit 0: unnoticed.
 * bugs.sh knows which way of running notices which. */
#include "emu.h"

#include <stdio.h>
#include <stdlib.h>

static __global__ void right(int *n, float *o)
{
    CUDA_SHARED(float, s, [64]);
    const int t = (int)threadIdx.x;
    atomicAdd(n, 1);
    s[t] = (float)t;
    __syncthreads();
    o[64 * blockIdx.x + threadIdx.x] = s[63 - t] + __shfl_xor_sync(0xffffffffu, 0.0f, 1);
}

static __global__ void no_barrier(float *o)
{
    CUDA_SHARED(float, s, [64]);
    s[threadIdx.x] = (float)threadIdx.x;
    o[threadIdx.x] = s[63 - threadIdx.x];
}

static __global__ void two_barriers(float *o)
{
    if (threadIdx.x < 32) {
        __syncthreads();
        o[threadIdx.x] = 1;
    } else {
        o[threadIdx.x] = 2;
        __syncthreads();
    }
}

static __global__ void early_return(float *o, int n)
{
    if ((int)threadIdx.x >= n) return;
    __syncthreads();
    o[threadIdx.x] = 1;
}

static __global__ void past_shared(float *o)
{
    CUDA_SHARED(float, s, [64]);
    s[threadIdx.x + 1] = 1;
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}

static __global__ void past_dynamic(float *o)
{
    CUDA_DYNAMIC_SHARED(float, s);
    s[threadIdx.x + 1] = 1;
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}

static __global__ void past_global(float *o)
{
    o[threadIdx.x + 1] = 1;
}

static __global__ void half_a_shuffle(float *o)
{
    float v = (float)threadIdx.x;
    if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffffffu, v, 1);
    o[threadIdx.x] = v;
}

static __global__ void unwritten(float *o)
{
    CUDA_SHARED(float, s, [64]);
    if (threadIdx.x < 63) s[threadIdx.x] = 1;
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}

static __global__ void blocks_race(float *o)
{
    if (threadIdx.x == blockIdx.x) o[0] += 1;
}

static __global__ void no_syncwarp(float *o)
{
    CUDA_SHARED(float, s, [64]);
    s[threadIdx.x] = (float)threadIdx.x;
    __syncwarp();
    float v = s[threadIdx.x ^ 1];
    s[threadIdx.x] = v + 1; /* the neighbour may not have read it */
    __syncwarp();
    o[threadIdx.x] = s[threadIdx.x ^ 1];
}

static __global__ void misaligned(float *o)
{
    *(float4 *)(o + 1 + 4 * threadIdx.x) = {1, 2, 3, 4};
}

static __global__ void shuffle_as_fence(float *o)
{
    CUDA_SHARED(float, s, [32]);
    s[threadIdx.x] = (float)threadIdx.x;
    float v = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    o[threadIdx.x] = s[31 - threadIdx.x] + v;
}

static __global__ void no_copy_wait(float *o, const float *from)
{
    CUDA_SHARED(float, s, [128]);
    emu_copy16(s + threadIdx.x * 4, from + threadIdx.x * 4, 16);
    emu_copy_commit();
    emu_copy_wait(1); /* 0 is meant */
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
    emu_copy_wait(0);
}

static __global__ void copy_no_barrier(float *o, const float *from)
{
    CUDA_SHARED(float, s, [128]);
    emu_copy16(s + threadIdx.x * 4, from + threadIdx.x * 4, 16);
    emu_copy_commit();
    emu_copy_wait(0); /* one's own alone have arrived */
    o[threadIdx.x] = s[127 - threadIdx.x];
}

/* A copy on a stream of its own of what a kernel on another one makes; how: 0 right, 1 without an event, 2 with one that was
   recorded before the kernel. */
static void read_beside(float *host, float *d, size_t bytes, cudaStream_t s, int how)
{
    cudaStream_t copies;
    cudaEvent_t made, here;
    float *pinned;
    cudaMallocHost((void **)&pinned, bytes);
    cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&made, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&here, cudaEventDisableTiming);
    cudaMemsetAsync(d, 0, bytes, s);
    if (how == 2) cudaEventRecord(made, s);
    CUDA_LAUNCH(past_global, 1, 64, 0, s, d);
    if (how == 0) cudaEventRecord(made, s);
    CUDA_LAUNCH(past_global, 1, 64, 0, s, d + 64); /* need not be waited for */
    if (how != 1) cudaStreamWaitEvent(copies, made, 0);
    cudaMemcpyAsync(pinned, d, 64 * sizeof *d, cudaMemcpyDeviceToHost, copies);
    cudaEventRecord(here, copies);
    cudaEventSynchronize(here);
    memcpy(host, pinned, 64 * sizeof *host);
    cudaFreeHost(pinned);
    cudaStreamDestroy(copies);
    cudaEventDestroy(made);
    cudaEventDestroy(here);
}

static __global__ void early(float *o, const float *from)
{
    float constant = from[64]; /* which no kernel writes */
    emu_wait_for_previous();
    o[threadIdx.x] = from[63 - threadIdx.x] + constant;
}

static __global__ void early_read(float *o, const float *from)
{
    float v = from[63 - threadIdx.x];
    emu_wait_for_previous();
    o[threadIdx.x] = v;
}

static __global__ void no_wait(float *o)
{
    o[threadIdx.x] = 1;
}

static int wrong(const char *what)
{
    printf("noticed: %s\n", what);
    return 1;
}

int main(int argc, char **argv)
{
    enum { N = 512 };
    const int bug = argc > 1 ? atoi(argv[1]) : 0;
    float host[N], want[N];
    float *d;
    int *n, count = 0;
    cudaStream_t s;
    cudaMalloc((void **)&d, N * sizeof *d);
    cudaMalloc((void **)&n, sizeof *n);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    for (int i = 0; i < N; i++) host[i] = (float)i;
    cudaMemcpyAsync(d, host, sizeof host, cudaMemcpyHostToDevice, s);
    cudaMemsetAsync(n, 0, sizeof *n, s);
    for (int i = 0; i < N; i++) want[i] = (float)i;
    switch (bug) {
    case 0:
        CUDA_LAUNCH(right, 3, 64, 0, s, n, d);
        for (int i = 0; i < 192; i++) want[i] = (float)(63 - i % 64);
        CUDA_LAUNCH_EARLY(early, 1, 64, 0, s, d + 256, d + 128);
        CUDA_LAUNCH_EARLY(early, 1, 64, 0, s, d + 384, d + 256);
        for (int i = 0; i < 64; i++) want[256 + i] = (float)(i + 192);
        for (int i = 0; i < 64; i++) want[384 + i] = (float)(63 - i + 192 + 320);
        break;
    case 1:
        CUDA_LAUNCH(no_barrier, 1, 64, 0, s, d);
        for (int i = 0; i < 64; i++) want[i] = (float)(63 - i);
        break;
    case 2: CUDA_LAUNCH(two_barriers, 1, 64, 0, s, d); break;
    case 3: CUDA_LAUNCH(early_return, 1, 64, 0, s, d, 60); break;
    case 4: CUDA_LAUNCH(past_shared, 1, 64, 0, s, d); break;
    case 5: CUDA_LAUNCH(past_dynamic, 1, 64, 64 * sizeof(float), s, d); break;
    case 6: CUDA_LAUNCH(past_global, 1, N, 0, s, d); break;
    case 7: CUDA_LAUNCH(half_a_shuffle, 1, 32, 0, s, d); break;
    case 8:
        CUDA_LAUNCH(unwritten, 1, 64, 0, s, d);
        for (int i = 0; i < 64; i++) want[i] = 1;
        break;
    case 9:
        CUDA_LAUNCH(blocks_race, 2, 32, 0, s, d);
        want[0] = 2;
        break;
    case 10:
        CUDA_LAUNCH(no_syncwarp, 1, 64, 0, s, d);
        for (int i = 0; i < 64; i++) want[i] = (float)i + 1;
        break;
    case 11: CUDA_LAUNCH(misaligned, 1, 2, 0, s, d); break;
    case 12: printf("%g\n", (double)d[0]); break; /* the host reads the device's memory */
    case 13:                                      /* and what a copy has not brought yet */
        memset(host, 0, sizeof host);
        {
            float *pinned;
            cudaMallocHost((void **)&pinned, sizeof host);
            cudaMemcpyAsync(pinned, d, sizeof host, cudaMemcpyDeviceToHost, s);
            if (pinned[1] != 1) return wrong("the copy had not arrived");
        }
        break;
    case 14:
        CUDA_LAUNCH(shuffle_as_fence, 1, 32, 0, s, d);
        for (int i = 0; i < 32; i++) want[i] = (float)(31 - i) + 1;
        break;
    case 15: CUDA_LAUNCH(past_dynamic, 1, 32, 64 << 10, s, d); break; /* more than 48 KiB without asking */
    case 16: CUDA_LAUNCH(no_copy_wait, 1, 32, 0, s, d, d + 128); break;
    case 17:
        CUDA_LAUNCH(copy_no_barrier, 1, 32, 0, s, d, d + 128);
        for (int i = 0; i < 32; i++) want[i] = (float)(128 + 127 - i);
        break;
    case 18: cudaMemcpyAsync(d + 1, host, sizeof host, cudaMemcpyHostToDevice, s); break; /* past the end */
    case 19:                                                                              /* a wait inside a recording */
        cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
        cudaStreamSynchronize(s);
        break;
    case 23: /* what the kernel before writes is read before the wait */
        CUDA_LAUNCH(right, 1, 64, 0, s, n, d + 64);
        CUDA_LAUNCH_EARLY(early_read, 1, 64, 0, s, d, d + 64);
        for (int i = 0; i < 64; i++) want[i] = (float)i;
        break;
    case 24: CUDA_LAUNCH_EARLY(no_wait, 1, 64, 0, s, d); break;
    case 20:
    case 21:
    case 22:
        read_beside(host, d, sizeof host, s, bug - 20);
        for (int i = 0; i < 64; i++)
            if (host[i] != (float)(i > 0)) return wrong("the copy came before the kernel");
        return 0;
    }
    if (cudaGetLastError() != cudaSuccess) return wrong("refused");
    cudaMemcpyAsync(host, d, sizeof host, cudaMemcpyDeviceToHost, s);
    cudaMemcpyAsync(&count, n, sizeof count, cudaMemcpyDeviceToHost, s);
    if (bug == 0 && count != 3 * 64) return wrong("the atomics");
    if (bug == 16)
        for (int i = 0; i < 32; i++) want[i] = (float)(128 + i);
    for (int i = 0; i < N; i++)
        if ((bug == 0 || bug == 1 || bug == 8 || bug == 9 || bug == 10 || bug == 14 || bug >= 16) && !(host[i] == want[i]))
            return wrong("a value");
    cudaStreamDestroy(s);
    cudaFree(d);
    cudaFree(n);
    return 0;
}
