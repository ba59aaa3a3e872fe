/* backend.h: finds a GPU's table of operations at run time.
 *
 * The program is built and started without the CUDA toolkit, a driver or a GPU. What needs them lies in a plug-in, which is
 * looked for when it is asked for: in the folder that the environment variable KVRUN_PLUGINS names, and only there when it is
 * set; else beside the program, in ../lib, and where the system keeps libraries. A plug-in stays loaded for the life of the
 * process, and so does its table.
 *
 *     struct backend b;
 *     if (!backend_open(&b, "cuda", 0)) ...   // b.why: "libkvrun_cuda.so needs libcudart.so.13, which is not installed"
 *     b.k->matmul(...);
 *
 * backend_gpus asks the driver alone, so that it can tell of GPUs where the plug-in is what is missing.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "cuda.h"

/* The first thing that is missing, in the order in which it is needed. */
enum backend_state {
    BACKEND_USABLE,
    BACKEND_NO_PLUGIN,  /* kvrun was built without the CUDA toolkit */
    BACKEND_NO_LIBRARY, /* the plug-in is there, a library it needs is not */
    BACKEND_BROKEN,     /* it cannot be loaded for another reason, or is no plug-in of this version */
    BACKEND_NO_DRIVER,
    BACKEND_NO_GPU,
    BACKEND_REFUSED, /* the plug-in itself says no */
};

struct backend {
    const struct kernels *k; /* NULL: not usable */
    enum backend_state state;
    char path[512]; /* of the plug-in that was loaded; "": none was found */
    char why[768];  /* what is missing and what to do about it; "" when usable */
    struct cuda_device device;
};

/* name: "cuda" or "cuda-emu". Never crashes, whatever is missing; 0 when usable, else -1. */
int backend_open(struct backend *b, const char *name, int device);

enum { BACKEND_GPUS = 16 };

struct backend_gpu {
    char name[64];
    int cc_major, cc_minor;
    long long memory_bytes;
};

struct backend_gpus {
    int driver;    /* the CUDA version it knows, 13000 for 13.0; 0: there is no driver */
    char why[256]; /* no driver, or a driver that tells of no GPU */
    int n;         /* GPUs it tells of */
    struct backend_gpu gpu[BACKEND_GPUS];
};

void backend_gpus(struct backend_gpus *g);
/* Whether a cuBLAS can be loaded, and its file name. For reports: only kvrun bench uses one, to compare (cuda_library.cu). */
int backend_cublas(char *name, size_t n);

#endif
