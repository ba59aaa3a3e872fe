/* cuda_library.h: what cuBLAS's file may be called, the newest first; then where the toolkit has it when the system's loader
 * does not look there. Its interface, as far as cuda_library.cu uses it, is the same in all of them. */
#ifndef KERNELS_CUDA_LIBRARY_H
#define KERNELS_CUDA_LIBRARY_H

static const char *const cuda_library_names[] = {
    "libcublas.so.13",
    "libcublas.so.12",
    "libcublas.so.11",
    "/usr/local/cuda/lib64/libcublas.so.13",
    "/usr/local/cuda/lib64/libcublas.so.12",
    "/usr/local/cuda/lib64/libcublas.so.11",
};
enum { CUDA_LIBRARY_NAMES = sizeof cuda_library_names / sizeof *cuda_library_names };

#endif
