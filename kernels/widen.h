/* widen.h: one block of each quantised type to f32, as ggml's formats define it. Every file that includes this compiles the
 * loops for its own instruction set; the bits are the same, since each value is one or two separate roundings (a product, and
 * for some types the addition of a minimum) and contraction is off.
 *
 * Layouts, little endian; d and m are f16; bits of an element may be spread over several arrays of a block:
 *   q4_0    d, 16 bytes q         (q - 8) d, nibbles: low ones are elements 0..15, high ones 16..31
 *   q4_1    d, m, 16 bytes q      q d + m
 *   q5_0    d, 4 bytes h, 16 q    (q + 16 h - 16) d, bit i of h belongs to element i
 *   q5_1    d, m, 4 bytes h, 16 q (q + 16 h) d + m
 *   q8_0    d, 32 signed q        q d
 *   iq4_nl  d, 16 bytes q         value[q] d
 * Blocks of 256 have sub-blocks with small scales s (and minima) of their own:
 *   q2_k    16 bytes s (low nibble) and m (high), 64 q, d, dm           (d s) q - (dm m), 16 elements each
 *   q3_k    32 bytes h, 64 q, 16 s of 6 bits in 12 bytes, d             (d (s - 32)) (q - (h ? 0 : 4)), 16 each
 *   q4_k    d, dm, 8 s and 8 m of 6 bits in 12 bytes, 128 q             (d s) q - (dm m), 32 each
 *   q5_k    the same with 32 bytes h before q                           (d s) (q + 16 h) - (dm m), 32 each
 *   q6_k    128 bytes of low nibbles, 64 of high pairs, 16 signed s, d  (d s) (q - 32), 16 each
 */
#ifndef KERNELS_WIDEN_H
#define KERNELS_WIDEN_H

#include "cpu.h"

static inline float widen_f16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return f16_to_f32(h);
}

static inline void widen_q4_0(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b);
    for (int i = 0; i < 16; i++) out[i] = (float)((b[2 + i] & 15) - 8) * d;
    for (int i = 0; i < 16; i++) out[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
}

static inline void widen_q4_1(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b), m = widen_f16(b + 2);
    for (int i = 0; i < 16; i++) out[i] = (float)(b[4 + i] & 15) * d + m;
    for (int i = 0; i < 16; i++) out[i + 16] = (float)(b[4 + i] >> 4) * d + m;
}

static inline void widen_q5_0(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b);
    uint32_t h;
    memcpy(&h, b + 2, 4);
    for (int i = 0; i < 16; i++) out[i] = (float)((int)(b[6 + i] & 15) + (int)(h >> i & 1) * 16 - 16) * d;
    for (int i = 0; i < 16; i++) out[i + 16] = (float)((int)(b[6 + i] >> 4) + (int)(h >> (i + 16) & 1) * 16 - 16) * d;
}

static inline void widen_q5_1(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b), m = widen_f16(b + 2);
    uint32_t h;
    memcpy(&h, b + 4, 4);
    for (int i = 0; i < 16; i++) out[i] = (float)((int)(b[8 + i] & 15) + (int)(h >> i & 1) * 16) * d + m;
    for (int i = 0; i < 16; i++) out[i + 16] = (float)((int)(b[8 + i] >> 4) + (int)(h >> (i + 16) & 1) * 16) * d + m;
}

static inline void widen_q8_0(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b);
    for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

static inline void widen_iq4_nl(float *restrict out, const uint8_t *restrict b)
{
    static const float value[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    float d = widen_f16(b);
    for (int i = 0; i < 16; i++) out[i] = value[b[2 + i] & 15] * d;
    for (int i = 0; i < 16; i++) out[i + 16] = value[b[2 + i] >> 4] * d;
}

static inline void widen_q2_k(float *restrict out, const uint8_t *restrict b)
{
    const uint8_t *q = b + 16;
    float d = widen_f16(b + 80), dm = widen_f16(b + 82);
    for (int i = 0; i < 16; i++, out += 16) { /* 128 elements share 32 bytes, two bits each */
        float s = d * (float)(b[i] & 15), m = dm * (float)(b[i] >> 4);
        const uint8_t *from = q + i / 8 * 32 + i % 2 * 16;
        int shift = i / 2 % 4 * 2;
        for (int j = 0; j < 16; j++) out[j] = s * (float)(from[j] >> shift & 3) - m;
    }
}

static inline void widen_q3_k(float *restrict out, const uint8_t *restrict b)
{
    const uint8_t *q = b + 32, *packed = b + 96;
    float d = widen_f16(b + 108);
    for (int i = 0; i < 16; i++, out += 16) {
        int low = packed[i % 8] >> i / 8 * 4 & 15, high = packed[8 + i % 4] >> i / 4 * 2 & 3;
        float s = d * (float)(low + 16 * high - 32);
        const uint8_t *from = q + i / 8 * 32 + i % 2 * 16, *h = b + i % 2 * 16;
        int shift = i / 2 % 4 * 2, bit = i / 2;
        for (int j = 0; j < 16; j++) out[j] = s * (float)((from[j] >> shift & 3) + (h[j] >> bit & 1) * 4 - 4);
    }
}

/* The i-th of 8 scales and minima of 6 bits: the first four of each lie in bytes 0..3 and 4..7; of the others, byte 8 + i has
   the low nibbles and the top bits of those bytes the rest. */
static inline void widen_scale6(const uint8_t *p, int i, int *s, int *m)
{
    if (i < 4) {
        *s = p[i] & 63;
        *m = p[4 + i] & 63;
    } else {
        *s = (p[4 + i] & 15) | p[i - 4] >> 6 << 4;
        *m = p[4 + i] >> 4 | p[i] >> 6 << 4;
    }
}

static inline void widen_q4_k(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b), dm = widen_f16(b + 2);
    for (int i = 0; i < 8; i++, out += 32) {
        const uint8_t *q = b + 16 + i / 2 * 32;
        int small, minimum, shift = i % 2 * 4;
        float s, m;
        widen_scale6(b + 4, i, &small, &minimum);
        s = d * (float)small;
        m = dm * (float)minimum;
        for (int j = 0; j < 32; j++) out[j] = s * (float)(q[j] >> shift & 15) - m;
    }
}

static inline void widen_q5_k(float *restrict out, const uint8_t *restrict b)
{
    const uint8_t *h = b + 16;
    float d = widen_f16(b), dm = widen_f16(b + 2);
    for (int i = 0; i < 8; i++, out += 32) {
        const uint8_t *q = b + 48 + i / 2 * 32;
        int small, minimum, shift = i % 2 * 4;
        float s, m;
        widen_scale6(b + 4, i, &small, &minimum);
        s = d * (float)small;
        m = dm * (float)minimum;
        for (int j = 0; j < 32; j++) out[j] = s * (float)((q[j] >> shift & 15) + (h[j] >> i & 1) * 16) - m;
    }
}

static inline void widen_q6_k(float *restrict out, const uint8_t *restrict b)
{
    float d = widen_f16(b + 208);
    for (int i = 0; i < 16; i++, out += 16) {
        const uint8_t *low = b + i / 8 * 64 + i % 4 * 16, *high = b + 128 + i / 8 * 32 + i % 2 * 16;
        int low_shift = i / 4 % 2 * 4, high_shift = i / 2 % 4 * 2;
        float s = d * (float)(int8_t)b[192 + i];
        for (int j = 0; j < 16; j++) out[j] = s * (float)((low[j] >> low_shift & 15) + (high[j] >> high_shift & 3) * 16 - 32);
    }
}

typedef void widen_fn(float *restrict, const uint8_t *restrict);

/* NULL for the plain types. */
static inline widen_fn *widen_block(enum dtype t)
{
    static widen_fn *const of[DTYPE_COUNT] = {
        [DTYPE_Q4_0] = widen_q4_0, [DTYPE_Q4_1] = widen_q4_1, [DTYPE_Q8_0] = widen_q8_0,    [DTYPE_Q5_0] = widen_q5_0,
        [DTYPE_Q5_1] = widen_q5_1, [DTYPE_Q2_K] = widen_q2_k, [DTYPE_Q3_K] = widen_q3_k,    [DTYPE_Q4_K] = widen_q4_k,
        [DTYPE_Q5_K] = widen_q5_k, [DTYPE_Q6_K] = widen_q6_k, [DTYPE_IQ4_NL] = widen_iq4_nl};
    return of[t];
}

#endif
