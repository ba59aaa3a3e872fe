/* limits.c: see limits.h; the loops of the other instruction sets are in simd_limits.c. */
#include "limits.h"

#include "limits_in.h"

enum { CHAINS = 8 };

static float scalar_limit_read(const float *x, size_t n)
{
    float s[4] = {0};
    size_t i;
    for (i = 0; i + 4 <= n; i += 4) {
        s[0] += x[i];
        s[1] += x[i + 1];
        s[2] += x[i + 2];
        s[3] += x[i + 3];
    }
    return s[0] + s[1] + s[2] + s[3];
}

static double scalar_limit_fma(long rounds)
{
    float a[CHAINS];
    volatile float sink = 0;
    long i;
    int j;
    for (j = 0; j < CHAINS; j++) a[j] = (float)j;
    for (i = 0; i < rounds; i++)
        for (j = 0; j < CHAINS; j++) a[j] = fmaf(a[j], 0.999f, 0.5f);
    for (j = 0; j < CHAINS; j++) sink += a[j];
    (void)sink; /* written, or the loop would be left out */
    return 2.0 * CHAINS * (double)rounds;
}

static const struct loops {
    float (*read)(const float *x, size_t n);
    double (*fma)(long rounds);
} scalar = {scalar_limit_read, scalar_limit_fma};

static const struct loops *loops_of(enum kernels_isa isa)
{
#ifdef KERNELS_X86
    static const struct loops avx2 = {simd_limit_read_avx2, simd_limit_fma_avx2},
                              avx512 = {simd_limit_read_avx512, simd_limit_fma_avx512};
    if (isa == KERNELS_BEST) isa = kernels_cpu(KERNELS_AVX512) ? KERNELS_AVX512 : KERNELS_AVX2;
    if (isa == KERNELS_AVX512 && kernels_cpu(isa)) return &avx512;
    if (isa == KERNELS_AVX2 && kernels_cpu(isa)) return &avx2;
#else
    (void)isa;
#endif
    return &scalar;
}

struct job {
    const struct loops *l;
    const float *x;
    long rounds;
};

static void read_part(const void *job, struct cpu_part part)
{
    const struct job *j = job;
    volatile float sink = j->l->read(j->x + part.from, (size_t)(part.to - part.from));
    (void)sink;
}

static void fma_part(const void *job, struct cpu_part part)
{
    const struct job *j = job;
    long i;
    for (i = part.from; i < part.to; i++) j->l->fma(j->rounds);
}

void limits_read(enum kernels_isa isa, const float *x, size_t n)
{
    struct job j = {loops_of(isa), x, 0};
    cpu_run(read_part, &j, (long)n, 1024, (double)n);
}

double limits_fma(enum kernels_isa isa, int parts, long rounds)
{
    struct job j = {loops_of(isa), NULL, rounds};
    cpu_run(fma_part, &j, parts, 1, 1e9);
    return parts * j.l->fma(1) * (double)rounds;
}
