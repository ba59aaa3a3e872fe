/* cpu_widen.c: the weight types: names, sizes of blocks, widening of whole runs. */
#include "widen.h"

static const struct {
    const char *name;
    int block, bytes;
} types[DTYPE_COUNT] = {
    [DTYPE_F32] = {"f32", 1, 4},       [DTYPE_F16] = {"f16", 1, 2},         [DTYPE_BF16] = {"bf16", 1, 2},
    [DTYPE_Q4_0] = {"q4_0", 32, 18},   [DTYPE_Q4_1] = {"q4_1", 32, 20},     [DTYPE_Q8_0] = {"q8_0", 32, 34},
    [DTYPE_Q5_0] = {"q5_0", 32, 22},   [DTYPE_Q5_1] = {"q5_1", 32, 24},     [DTYPE_Q2_K] = {"q2_k", 256, 84},
    [DTYPE_Q3_K] = {"q3_k", 256, 110}, [DTYPE_Q4_K] = {"q4_k", 256, 144},   [DTYPE_Q5_K] = {"q5_k", 256, 176},
    [DTYPE_Q6_K] = {"q6_k", 256, 210}, [DTYPE_IQ4_NL] = {"iq4_nl", 32, 18},
};

int dtype_block(enum dtype t)
{
    return types[t].block;
}

int dtype_block_bytes(enum dtype t)
{
    return types[t].bytes;
}

const char *dtype_name(enum dtype t)
{
    return types[t].name;
}

size_t mat_row_bytes(const struct mat *w)
{
    return (size_t)(w->cols / types[w->type].block) * (size_t)types[w->type].bytes;
}

void kernels_widen(float *out, const void *in, enum dtype t, size_t n)
{
    const size_t block = (size_t)types[t].block;
    const uint8_t *b = in;
    widen_fn *f = widen_block(t);
    if (n == 0) return;
    if (t == DTYPE_F32) {
        memcpy(out, in, n * sizeof *out);
    } else if (!f) {
        for (size_t i = 0; i < n; i++) out[i] = cpu_load(in, t, i);
    } else {
        for (size_t i = 0; i + block <= n; i += block, b += types[t].bytes) f(out + i, b);
    }
}

void kernels_narrow(void *out, enum dtype t, const float *in, size_t n)
{
    for (size_t i = 0; i < n; i++) cpu_store(out, t, i, in[i]);
}
