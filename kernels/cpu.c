/* cpu.c: the tables of the CPU, the choice between them, and memory. */
#include "cpu_ops.h"

#include <stdlib.h>
#ifdef KERNELS_X86
#include <cpuid.h>
#endif

/* ---- memory ---- */

static void *memory_alloc(size_t bytes)
{
    size_t whole = (bytes + 63) / 64 * 64;
    void *p;
    if (whole < bytes) return NULL;
    p = aligned_alloc(64, whole ? whole : 64);
    if (p) memset(p, 0, whole);
    return p;
}

static void memory_release(void *p)
{
    free(p);
}

static void memory_copy(void *dst, const void *src, size_t bytes)
{
    if (bytes) memcpy(dst, src, bytes);
}

static void memory_zero(void *dst, size_t bytes)
{
    if (bytes) memset(dst, 0, bytes);
}

static void memory_copy_rows(void *dst, size_t dst_step, const void *src, size_t src_step, size_t bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) memcpy((char *)dst + i * dst_step, (const char *)src + i * src_step, bytes);
}

static void memory_move_rows(void *const *to, const void *const *from, size_t bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (from[i])
            memcpy(to[i], from[i], bytes);
        else
            memset(to[i], 0, bytes);
}

/* ---- passes: nothing is queued, nothing is recorded, nothing goes wrong late ---- */

static const void *host_weights(const void *host, size_t bytes)
{
    (void)bytes;
    return host;
}

static void host_drop_weights(const void *copy)
{
    (void)copy;
}

static int pass_begin(const struct rows *r, int L, int plain)
{
    (void)r, (void)L, (void)plain;
    return 0;
}

static void pass_end(void)
{
}

static const char *no_trouble(int *memory)
{
    (void)memory;
    return NULL;
}

/* ---- tables ---- */

#define TABLE(label, prefix, suffix)                                                                                       \
    {                                                                                                                      \
        .name = label, .numerics = "cpu", .weights = host_weights, .drop_weights = host_drop_weights,                      \
        .move_rows = memory_move_rows, .begin = pass_begin, .end = pass_end, .trouble = no_trouble, .alloc = memory_alloc, \
        .release = memory_release, .copy = memory_copy, .zero = memory_zero, .get = memory_copy, .put = memory_copy,       \
        .embed = prefix##embed##suffix, .rmsnorm = prefix##rmsnorm##suffix, .matmul = prefix##matmul##suffix,              \
        .rope_append = prefix##rope_append##suffix, .attend = prefix##attend##suffix, .swiglu = prefix##swiglu##suffix,    \
        .pick = prefix##pick##suffix, .copy_rows = memory_copy_rows, .layernorm = prefix##layernorm##suffix,               \
        .matmul_t = prefix##matmul_t##suffix, .gelu = prefix##gelu##suffix, .softcap = prefix##softcap##suffix,            \
        .scale = prefix##scale##suffix, .add = prefix##add##suffix,                                                        \
    }

static const struct kernels scalar = TABLE("scalar", scalar_, );

#ifdef KERNELS_X86
static const struct kernels avx2 = TABLE("avx2", simd_, _avx2);
static const struct kernels avx512 = TABLE("avx512", simd_, _avx512);

static int have_avx2(void)
{
    unsigned a, b, c, d; /* clang's built-in does not know F16C */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static int have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const struct kernels *kernels_cpu(enum kernels_isa isa)
{
    __builtin_cpu_init();
    switch (isa) {
    case KERNELS_BEST: return have_avx512() ? &avx512 : have_avx2() ? &avx2 : &scalar;
    case KERNELS_SCALAR: return &scalar;
    case KERNELS_AVX2: return have_avx2() ? &avx2 : NULL;
    case KERNELS_AVX512: return have_avx512() ? &avx512 : NULL;
    }
    return NULL;
}
#else
const struct kernels *kernels_cpu(enum kernels_isa isa)
{
    return isa == KERNELS_BEST || isa == KERNELS_SCALAR ? &scalar : NULL;
}
#endif
