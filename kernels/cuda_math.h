/* cuda_math.h: beside the functions of one number that cpu.h and cpu_ops.h have for both, those of the device alone, step by
 * step as in cpu_rope.c and widen.h, so that the bits are the same; internal to kernels/. The build forbids contraction here,
 * too
 * (-fmad=false).
 */
#ifndef KERNELS_CUDA_MATH_H
#define KERNELS_CUDA_MATH_H

#include "cuda_in.h"

/* cpu_log for sums of exponentials: x is a normal number, at least 1. */
static __device__ inline double cuda_log(double x)
{
    const double high = 0x1.62e42fee00000p-1, low = 0x1.a39ef35793c76p-33;
    double f, z, s = 0;
    int e = 0;
    if (!(x > 0) || x - x != 0) return NAN;
    while (x >= 2) { /* exact, as taking the exponent is */
        x *= 0.5;
        e++;
    }
    if (x > 1.4142135623730951) {
        x *= 0.5;
        e++;
    }
    f = (x - 1) / (x + 1);
    z = f * f;
    for (int k = 23; k >= 3; k -= 2) s = (s + 1.0 / k) * z;
    return e * high + (2 * f + (2 * f * s + e * low));
}

/* ---- elements in memory ---- */

/* Element i of plain type T. */
template <int T> static __device__ __forceinline__ float cuda_element(const void *p, size_t i)
{
    if (T == DTYPE_F32) return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return T == DTYPE_F16 ? cuda_half_to_float(h) : f32_from_bits((uint32_t)h << 16);
}

static __device__ __forceinline__ void cuda_element_set(void *p, int type, size_t i, float f)
{
    if (type == DTYPE_F32)
        ((float *)p)[i] = f;
    else
        ((uint16_t *)p)[i] = type == DTYPE_F16 ? f32_to_f16(f) : f32_to_bf16(f);
}

/* ---- blocks of weights: widen.h one element at a time; the product and the minimum are rounded one after the other ---- */

template <int T> struct cuda_block; /* size: elements; bytes */
#define CUDA_BLOCK(T, n, b)            \
    template <> struct cuda_block<T> { \
        enum { size = n, bytes = b };  \
    };
CUDA_BLOCK(DTYPE_F32, 16, 64)
CUDA_BLOCK(DTYPE_F16, 16, 32)
CUDA_BLOCK(DTYPE_BF16, 16, 32)
CUDA_BLOCK(DTYPE_Q4_0, 32, 18)
CUDA_BLOCK(DTYPE_Q4_1, 32, 20)
CUDA_BLOCK(DTYPE_Q8_0, 32, 34)
CUDA_BLOCK(DTYPE_Q5_0, 32, 22)
CUDA_BLOCK(DTYPE_Q5_1, 32, 24)
CUDA_BLOCK(DTYPE_Q2_K, 256, 84)
CUDA_BLOCK(DTYPE_Q3_K, 256, 110)
CUDA_BLOCK(DTYPE_Q4_K, 256, 144)
CUDA_BLOCK(DTYPE_Q5_K, 256, 176)
CUDA_BLOCK(DTYPE_Q6_K, 256, 210)
CUDA_BLOCK(DTYPE_IQ4_NL, 32, 18)
#undef CUDA_BLOCK

static __device__ __forceinline__ float cuda_scale_at(const uint8_t *p)
{
    return cuda_half_to_float(*(const uint16_t *)p);
}

static __device__ __forceinline__ void cuda_scale6(const uint8_t *p, int i, int *s, int *m)
{
    if (i < 4) {
        *s = p[i] & 63;
        *m = p[4 + i] & 63;
    } else {
        *s = (p[4 + i] & 15) | p[i - 4] >> 6 << 4;
        *m = p[4 + i] >> 4 | p[i] >> 6 << 4;
    }
}

/* The value of iq4_nl's nibble i, out of two words instead of a table, which would lie in local memory. */
static __device__ __forceinline__ float cuda_iq4_value(int i)
{
    const uint64_t low = 0xf6eaddcfbfad9881u, high = 0x7159453526190d01u;
    return (float)(int8_t)((i < 8 ? low : high) >> (i & 7) * 8);
}

/* Element 16 n + j of the block at b, 0 <= j < 16. n is known when this is compiled where speed matters. */
template <int T> static __device__ __forceinline__ float cuda_weight(const uint8_t *b, int n, int j)
{
    if (T == DTYPE_F32 || T == DTYPE_F16 || T == DTYPE_BF16) return cuda_element<T>(b, (size_t)j);
    if (T == DTYPE_Q4_0) return (float)((b[2 + j] >> 4 * n & 15) - 8) * cuda_scale_at(b);
    if (T == DTYPE_Q4_1) return (float)(b[4 + j] >> 4 * n & 15) * cuda_scale_at(b) + cuda_scale_at(b + 2);
    if (T == DTYPE_Q8_0) return (float)(int8_t)b[2 + 16 * n + j] * cuda_scale_at(b);
    if (T == DTYPE_IQ4_NL) return cuda_iq4_value(b[2 + j] >> 4 * n & 15) * cuda_scale_at(b);
    if (T == DTYPE_Q5_0 || T == DTYPE_Q5_1) {
        const uint8_t *h = b + (T == DTYPE_Q5_0 ? 2 : 4);
        int q = (h[4 + j] >> 4 * n & 15) + (h[2 * n + j / 8] >> j % 8 & 1) * 16;
        return T == DTYPE_Q5_0 ? (float)(q - 16) * cuda_scale_at(b) : (float)q * cuda_scale_at(b) + cuda_scale_at(b + 2);
    }
    if (T == DTYPE_Q2_K) {
        float s = cuda_scale_at(b + 80) * (float)(b[n] & 15), m = cuda_scale_at(b + 82) * (float)(b[n] >> 4);
        return s * (float)(b[16 + n / 8 * 32 + n % 2 * 16 + j] >> n / 2 % 4 * 2 & 3) - m;
    }
    if (T == DTYPE_Q3_K) {
        const uint8_t *packed = b + 96;
        int low = packed[n % 8] >> n / 8 * 4 & 15, high = packed[8 + n % 4] >> n / 4 * 2 & 3;
        float s = cuda_scale_at(b + 108) * (float)(low + 16 * high - 32);
        int q = b[32 + n / 8 * 32 + n % 2 * 16 + j] >> n / 2 % 4 * 2 & 3, h = b[n % 2 * 16 + j] >> n / 2 & 1;
        return s * (float)(q + h * 4 - 4);
    }
    if (T == DTYPE_Q4_K || T == DTYPE_Q5_K) {
        int i = n / 2, at = n % 2 * 16 + j, small, minimum,
            q = b[(T == DTYPE_Q4_K ? 16 : 48) + i / 2 * 32 + at] >> i % 2 * 4 & 15;
        cuda_scale6(b + 4, i, &small, &minimum);
        if (T == DTYPE_Q5_K) q += (b[16 + at] >> i & 1) * 16;
        return cuda_scale_at(b) * (float)small * (float)q - cuda_scale_at(b + 2) * (float)minimum;
    }
    /* Q6_K */
    int low = b[n / 8 * 64 + n % 4 * 16 + j] >> n / 4 % 2 * 4 & 15,
        high = b[128 + n / 8 * 32 + n % 2 * 16 + j] >> n / 2 % 4 * 2 & 3;
    return cuda_scale_at(b + 208) * (float)(int8_t)b[192 + n] * (float)(low + high * 16 - 32);
}

/* Calls f<T>(arguments) for the matrix type t. */
#define CUDA_EACH_TYPE(t, CALL)                   \
    switch (t) {                                  \
    case DTYPE_F32: CALL(DTYPE_F32); break;       \
    case DTYPE_F16: CALL(DTYPE_F16); break;       \
    case DTYPE_BF16: CALL(DTYPE_BF16); break;     \
    case DTYPE_Q4_0: CALL(DTYPE_Q4_0); break;     \
    case DTYPE_Q4_1: CALL(DTYPE_Q4_1); break;     \
    case DTYPE_Q8_0: CALL(DTYPE_Q8_0); break;     \
    case DTYPE_Q5_0: CALL(DTYPE_Q5_0); break;     \
    case DTYPE_Q5_1: CALL(DTYPE_Q5_1); break;     \
    case DTYPE_Q2_K: CALL(DTYPE_Q2_K); break;     \
    case DTYPE_Q3_K: CALL(DTYPE_Q3_K); break;     \
    case DTYPE_Q4_K: CALL(DTYPE_Q4_K); break;     \
    case DTYPE_Q5_K: CALL(DTYPE_Q5_K); break;     \
    case DTYPE_Q6_K: CALL(DTYPE_Q6_K); break;     \
    case DTYPE_IQ4_NL: CALL(DTYPE_IQ4_NL); break; \
    case DTYPE_COUNT: break;                      \
    }

/* The tree over the sixteen lanes of a half warp; every lane gets the sum. */
static __device__ __forceinline__ float cuda_tree16(float v)
{
    for (int step = 8; step; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* d += a b over 32 columns of which lane q of four has 8q..8q+7 of all its rows, as they lie in memory: low and high are those
   of rows l/4 and l/4 + 8 of a, w those of row l/4 of b. The first product takes the first four of each lane, the second the
   rest. */
template <int BF>
static __device__ __forceinline__ void cuda_two_products(float *d, const uint32_t *low, const uint32_t *high, uint4 w)
{
    const uint32_t a0[4] = {low[0], high[0], low[1], high[1]}, b0[2] = {w.x, w.y};
    const uint32_t a1[4] = {low[2], high[2], low[3], high[3]}, b1[2] = {w.z, w.w};
    cuda_mma<BF>(d, a0, b0);
    cuda_mma<BF>(d, a1, b1);
}

#endif
