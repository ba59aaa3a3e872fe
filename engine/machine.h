/* machine.h: this computer as the engine sees it, for `kvrun doctor` and `kvrun bench`: which backends can be used here, what
 * they can do at most, and how long each operation of a model takes on them. The runner includes it beside engine.h.
 *
 *     struct machine_gpu g;
 *     machine_gpu(&g, 0);                        // never fails: what is missing is what it tells
 *     struct machine_limits lim;
 *     machine_limits(en, 0.5, &lim, e);
 *     struct measured m[MEASURED_MAX];
 *     n = machine_measure(en, 32, 2048, 0.5, m, e);   // every operation of a decoding step of 32 rows
 *     n = machine_products(en, &rows, 0.5, m, e);     // the products of a prefill
 */
#ifndef ENGINE_MACHINE_H
#define ENGINE_MACHINE_H

#include "engine.h"

/* ---- the CPU ---- */

/* The instruction sets this processor has of those the kernels know, best first: "avx512 avx2 scalar". */
const char *machine_isas(void);
int machine_threads(void);
double machine_memory_free(void); /* bytes; 0: not known */

/* ---- the GPU ---- */

enum { MACHINE_GPUS = 16 };

/* What of the way to a GPU is there; the texts are "" where nothing is missing. */
struct machine_gpu {
    bool usable;
    char why[768];    /* the first thing that is missing */
    char plugin[512]; /* path; "": none */
    char cublas[64];  /* file name; "": none */
    int driver;       /* CUDA version, 13000 for 13.0; 0: no driver */
    int runtime;      /* of the plug-in; 0: not known */
    char driver_why[256];
    int n;
    struct {
        char name[64];
        int cc_major, cc_minor;
        int64_t memory_bytes;
    } gpu[MACHINE_GPUS];
    int64_t memory_free; /* of the device asked for, when it is usable */
};
void machine_gpu(struct machine_gpu *out, int device);
/* Whether the emulator's plug-in can be used; why has n bytes. */
bool machine_emulator(char *why, size_t n);

/* ---- self-test ---- */

/* A tiny made-up model computes 3 x 8 tokens under each instruction set with one and with all threads; `variants` of them
   were compared, and *first_bad is NULL or says which one differs from scalar code on one thread. */
int machine_self_test(int *variants, const char **first_bad, err *e);

/* ---- speed ---- */

/* The most that this machine does, measured on the spot: weights are read at no more than `read` bytes a second, and no more
   than `flops` multiplications and additions are made. On a GPU the arithmetic is the better of our own product and that of the
   vendor's library; flops_how says which. */
struct machine_limits {
    double read, flops;
    char read_how[96], flops_how[96];
    bool vendor;          /* the vendor's library can be compared with */
    char vendor_why[200]; /* why not; "": it can, or there is no vendor */
};
int machine_limits(engine *en, double seconds, struct machine_limits *out, err *e);

enum { MEASURED_MAX = 16 };

/* One kind of operation, over all layers of a pass. */
struct measured {
    const char *op;
    double seconds;         /* median */
    double bytes;           /* that must be moved: weights, caches, rows */
    double flops;           /* multiplications and additions; 0: not worth counting */
    double vendor;          /* seconds that the vendor's library takes for bf16 products of the same shapes; 0: not compared */
    const char *vendor_why; /* why not; NULL: compared, no product, or no vendor; good until the next measurement */
};
/* B rows behind `prefix` shared tokens, as decoding has them. Returns how many, or -1. */
int machine_measure(engine *en, int B, int prefix, double seconds, struct measured out[MEASURED_MAX], err *e);
/* The products of the layers alone, as a prefill of *rows tokens has them; *rows becomes what a pass takes at most. Returns how
   many, or -1. */
int machine_products(engine *en, int *rows, double seconds, struct measured out[MEASURED_MAX], err *e);

#endif
