/* cuda_test.h: what the tests of the CUDA table share: opening it, random inputs, memory on both sides, comparisons.
 *
 * The same programs run on the emulator and on a device. Without one they end with 77, which ctest shows as skipped;
 * with KVRUN_REQUIRE_GPU=1 that is a failure. CUDA_TEST_ROUNDS=n makes the random tests shorter (default 100, in percent).
 */
#ifndef TESTS_CUDA_TEST_H
#define TESTS_CUDA_TEST_H

#include "../../kernels/cuda.h"
#include "../unit/one_layer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above it */
#include <cmocka.h>

static const struct kernels *cuda, *cpu;

static inline int open_or_skip(void)
{
    struct cuda_device about;
    char why[200];
    cpu = kernels_cpu(KERNELS_SCALAR);
    kernels_cpu_threads(1);
    cuda = kvrun_cuda_open(KVRUN_CUDA_ABI, 0, &about, why, sizeof why);
    if (cuda) {
        printf("%s, compute capability %d.%d, numerics %s\n", about.name, about.cc_major, about.cc_minor, cuda->numerics);
        return 0;
    }
    printf("skipped: %s\n", why);
    return getenv("KVRUN_REQUIRE_GPU") ? 1 : 77;
}

static inline int rounds(int n)
{
    const char *percent = getenv("CUDA_TEST_ROUNDS");
    int some = percent ? n * atoi(percent) / 100 : n;
    return some < 1 ? 1 : some;
}

/* ---- random inputs ---- */

static uint64_t random_state = 88172645463325252u;

static inline uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static inline int random_below(int n)
{
    return (int)(random_u32() % (uint32_t)n);
}

static inline float random_float(void) /* -1..1 */
{
    return (float)((int)(random_u32() % 2000001) - 1000000) * 1e-6f;
}

static inline float *random_floats(size_t n, float spread)
{
    float *f = malloc((n + 1) * sizeof *f);
    for (size_t i = 0; i < n; i++) f[i] = random_float() * spread;
    return f;
}

/* Random bits with moderate scales. */
static inline struct mat random_mat(enum dtype t, int rows, int cols)
{
    static const int f16_at[DTYPE_COUNT][2] = {
        [DTYPE_Q4_1] = {0, 2}, [DTYPE_Q5_1] = {0, 2}, [DTYPE_Q2_K] = {80, 82},  [DTYPE_Q3_K] = {108, 108},
        [DTYPE_Q4_K] = {0, 2}, [DTYPE_Q5_K] = {0, 2}, [DTYPE_Q6_K] = {208, 208}};
    struct mat w = {t, rows, cols, NULL, 0};
    size_t total = mat_row_bytes(&w) * (size_t)rows, step = (size_t)dtype_block_bytes(t);
    uint8_t *data = malloc(total);
    for (size_t i = 0; i < total; i++) data[i] = (uint8_t)random_u32();
    for (size_t i = 0; i < total; i += step) {
        float f = random_float(), d = f * 0.1f, m = random_float();
        if (step <= 4)
            kernels_narrow(data + i, t, &f, 1);
        else {
            kernels_narrow(data + i + f16_at[t][1], DTYPE_F16, &m, 1);
            kernels_narrow(data + i + f16_at[t][0], DTYPE_F16, &d, 1);
        }
    }
    w.data = data;
    return w;
}

/* ---- memory ---- */

/* A copy on the device; release it with cuda->release. */
static inline void *up(const void *host, size_t bytes)
{
    void *p = cuda->alloc(bytes);
    assert_non_null(p);
    cuda->put(p, host, bytes);
    return p;
}

static inline struct mat mat_up(const struct mat *w, size_t bytes)
{
    struct mat d = *w;
    d.data = up(w->data, bytes);
    return d;
}

static inline void no_trouble(void)
{
    int memory = -1;
    const char *said = cuda->trouble(&memory);
    if (said) fail_msg("trouble: %s", said);
    assert_int_equal(memory, 0);
}

/* Brings n floats back and releases them. */
static inline float *down(float *device, size_t n)
{
    float *f = malloc((n + 1) * sizeof *f);
    cuda->get(f, device, n * sizeof *f);
    cuda->release(device);
    no_trouble();
    return f;
}

/* ---- comparisons ---- */

static inline void check_same(const float *got, const float *want, size_t n, const char *what, int detail, int more)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, sizeof *got) != 0 && !(got[i] != got[i] && want[i] != want[i]))
            fail_msg("%s %d %d: element %zu is %a, and %a was expected", what, detail, more, i, (double)got[i],
                     (double)want[i]);
}

static inline void check_near(const float *got, const float *want, const float *bound, size_t n, const char *what, int detail,
                              int more)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= bound[i]))
            fail_msg("%s %d %d: element %zu is %.9g, %.3g from %.9g; the bound is %.3g", what, detail, more, i, (double)got[i],
                     (double)fabsf(got[i] - want[i]), (double)want[i], (double)bound[i]);
}

#endif
