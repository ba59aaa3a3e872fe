/* cuda.h: the one symbol of the plug-in libkvrun_cuda.so, and of its twin for machines without a GPU, libkvrun_cuda_emu.so. */
#ifndef KERNELS_CUDA_H
#define KERNELS_CUDA_H

#include "kernels.h"

enum { KVRUN_CUDA_ABI = 1 };

struct cuda_device {
    char name[64];
    int cc_major, cc_minor, sm_count, driver, runtime;
    long long memory_bytes, memory_free;
};

/* The table for a device; NULL, with the reason in why (n bytes), when there is none or the plug-in speaks another ABI. */
const struct kernels *kvrun_cuda_open(int abi, int device, struct cuda_device *about, char *why, size_t n);

#endif
