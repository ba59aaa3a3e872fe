/* cpu_widen.c: the weight types: names, block sizes, and their widening to f32, block by block as the format defines it. */
#include "cpu.h"

/* ggml's block layouts, little endian: Q4_0 = f16 d, 16 bytes of nibbles; Q4_1 = f16 d, f16 m, 16 bytes; Q8_0 = f16 d,
   32 signed bytes. The low nibbles are elements 0..15, the high ones 16..31. */
static const struct {
    const char *name;
    int block, bytes;
} types[DTYPE_COUNT] = {
    [DTYPE_F32] = {"f32", 1, 4},     [DTYPE_F16] = {"f16", 1, 2},     [DTYPE_BF16] = {"bf16", 1, 2},
    [DTYPE_Q4_0] = {"q4_0", 32, 18}, [DTYPE_Q4_1] = {"q4_1", 32, 20}, [DTYPE_Q8_0] = {"q8_0", 32, 34},
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

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return f16_to_f32(h);
}

static void widen_q4_0(float *out, const uint8_t *b)
{
    float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)((b[2 + i] & 15) - 8) * d;
        out[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
    }
}

static void widen_q4_1(float *out, const uint8_t *b)
{
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)(b[4 + i] & 15) * d + m;
        out[i + 16] = (float)(b[4 + i] >> 4) * d + m;
    }
}

static void widen_q8_0(float *out, const uint8_t *b)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

void kernels_widen(float *out, const void *in, enum dtype t, size_t n)
{
    static void (*const blocks[DTYPE_COUNT])(float *, const uint8_t *) = {
        [DTYPE_Q4_0] = widen_q4_0, [DTYPE_Q4_1] = widen_q4_1, [DTYPE_Q8_0] = widen_q8_0};
    const uint8_t *b = in;
    if (n == 0) return;
    if (t == DTYPE_F32) {
        memcpy(out, in, n * sizeof *out);
    } else if (!blocks[t]) {
        for (size_t i = 0; i < n; i++) out[i] = cpu_load(in, t, i);
    } else {
        size_t size = (size_t)types[t].block;
        for (size_t i = 0; i + size <= n; i += size, b += types[t].bytes) blocks[t](out + i, b);
    }
}

void kernels_narrow(void *out, enum dtype t, const float *in, size_t n)
{
    for (size_t i = 0; i < n; i++) cpu_store(out, t, i, in[i]);
}
