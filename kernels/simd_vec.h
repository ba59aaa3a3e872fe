/* simd_vec.h: v16, sixteen f32 lanes: one AVX-512 register or two of AVX2. The simd_*.c files are written over it once and
 * compiled per instruction set with SIMD_NAME. A function here gives the same bits in both versions.
 *
 * Sums of lanes follow the contract's tree (+8, +4, +2, +1). Several accumulators are summed together: each step takes two
 * registers, puts the halves that belong to each in one register and adds, so that 16 accumulators cost 15 steps.
 */
#ifndef KERNELS_SIMD_VEC_H
#define KERNELS_SIMD_VEC_H

#include "cpu.h"

#include <immintrin.h>

#define SIMD_PASTE_(op, name) simd_##op##_##name
#define SIMD_PASTE(op, name) SIMD_PASTE_(op, name)
#define SIMD_FN(op) SIMD_PASTE(op, SIMD_NAME)

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#ifdef __AVX512F__

typedef __m512 v16;

INLINE v16 v_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE v16 v_set1(float f)
{
    return _mm512_set1_ps(f);
}
INLINE v16 v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void v_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}
/* The first n lanes, 0 < n <= 16; the others are zero, or left alone. */
INLINE v16 v_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
INLINE void v_store_n(float *p, v16 a, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a);
}
INLINE v16 v_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
INLINE v16 v_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}
INLINE v16 v_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
INLINE v16 v_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}
INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE v16 v_max(v16 a, v16 b) /* a > b ? a : b */
{
    return _mm512_max_ps(a, b);
}
INLINE v16 v_min(v16 a, v16 b) /* a < b ? a : b */
{
    return _mm512_min_ps(a, b);
}
INLINE float v_largest(v16 a)
{
    return _mm512_reduce_max_ps(a);
}
INLINE float v_first(v16 a)
{
    return _mm512_cvtss_f32(a);
}
/* Bit j set: lane j of a equals lane j of b. */
INLINE unsigned v_equal(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
/* Lane j of a where bit j is set, elsewhere of b. */
INLINE v16 v_pick(v16 a, v16 b, unsigned bits)
{
    return _mm512_mask_blend_ps((__mmask16)bits, b, a);
}
INLINE v16 v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
INLINE v16 v_from_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
INLINE void v_to_f16(uint16_t *p, v16 a)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* exp, operation by operation as cpu_exp */
INLINE v16 v_exp(v16 x)
{
    __mmask16 alive = _mm512_cmp_ps_mask(x, v_set1(EXP_MIN), _CMP_NLT_UQ);
    v16 n, r, p;
    x = v_min(v_set1(EXP_MAX), x);
    n = v_sub(v_fma(x, v_set1(EXP_LOG2E), v_set1(EXP_MAGIC)), v_set1(EXP_MAGIC));
    r = v_fma(n, v_set1(-EXP_LN2_LOW), v_fma(n, v_set1(-EXP_LN2_HIGH), x));
    p = v_fma(v_set1(EXP_C7), r, v_set1(EXP_C6));
    p = v_fma(p, r, v_set1(EXP_C5));
    p = v_fma(p, r, v_set1(EXP_C4));
    p = v_fma(p, r, v_set1(EXP_C3));
    p = v_fma(p, r, v_set1(EXP_C2));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set1(1.0f)));
    return _mm512_maskz_scalef_ps(alive, p, n);
}

/* One step of the tree for two accumulators. Of groups of 2s lanes, the lower half of the result holds a's partial sums and
   the upper half b's; s = 8, 4, 2, 1. */
#define LANES16(f) \
    _mm512_set_epi32(f(15), f(14), f(13), f(12), f(11), f(10), f(9), f(8), f(7), f(6), f(5), f(4), f(3), f(2), f(1), f(0))
#define SWAP4(i) ((i)&4 ? 16 + (i)-4 : (i) + 4) /* upper lanes of a, then lower lanes of b */
#define SWAP1(i) ((i)&1 ? 16 + (i)-1 : (i) + 1)
INLINE v16 v_fold8(v16 a, v16 b)
{
    return v_add(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}
INLINE v16 v_fold4(v16 a, v16 b)
{
    return v_add(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_permutex2var_ps(a, LANES16(SWAP4), b));
}
INLINE v16 v_fold2(v16 a, v16 b)
{
    return v_add(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}
INLINE v16 v_fold1(v16 a, v16 b)
{
    return v_add(_mm512_mask_blend_ps(0xaaaa, a, b), _mm512_permutex2var_ps(a, LANES16(SWAP1), b));
}

INLINE float v_sum(v16 a)
{
    a = v_fold8(a, a);
    a = v_fold4(a, a);
    a = v_fold2(a, a);
    return v_first(v_fold1(a, a));
}

/* out[i] = the sum of accumulator i's lanes; n is a constant, at most 16; out has room for 16. */
INLINE void v_sums(float *out, const v16 *a, const int n)
{
    v16 t[8];
    if (n == 1) {
        out[0] = v_sum(a[0]);
    } else if (n <= 4) {
        UNROLL for (int j = 0; j < 2; j++) t[j] =
            v_fold4(v_fold8(a[j], a[j]), v_fold8(a[j + 2 < n ? j + 2 : j], a[j + 2 < n ? j + 2 : j]));
        t[0] = v_fold2(t[0], t[1]);
        t[0] = v_fold1(t[0], t[0]); /* lanes 0, 2, 4, 6: sums 0, 1, 2, 3 */
        _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x0055, t[0])));
    } else if (n <= 8) {
        UNROLL for (int j = 0; j < 4; j++) t[j] = v_fold8(a[j], a[j + 4 < n ? j + 4 : j]);
        UNROLL for (int j = 0; j < 2; j++) t[j] = v_fold4(t[j], t[j + 2]);
        t[0] = v_fold2(t[0], t[1]);
        t[0] = v_fold1(t[0], t[0]);
        _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_maskz_compress_ps(0x5555, t[0])));
    } else {
        UNROLL for (int j = 0; j < 8; j++) t[j] = v_fold8(a[j], a[j + 8 < n ? j + 8 : j]);
        UNROLL for (int j = 0; j < 4; j++) t[j] = v_fold4(t[j], t[j + 4]);
        UNROLL for (int j = 0; j < 2; j++) t[j] = v_fold2(t[j], t[j + 2]);
        v_store(out, v_fold1(t[0], t[1]));
    }
}

#else /* AVX2 */

typedef struct {
    __m256 low, high;
} v16;

INLINE v16 v_zero(void)
{
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
INLINE v16 v_set1(float f)
{
    return (v16){_mm256_set1_ps(f), _mm256_set1_ps(f)};
}
INLINE v16 v_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void v_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}
INLINE __m256i lanes_below(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE v16 v_load_n(const float *p, int n)
{
    return (v16){_mm256_maskload_ps(p, lanes_below(n)),
                 n > 8 ? _mm256_maskload_ps(p + 8, lanes_below(n - 8)) : _mm256_setzero_ps()};
}
INLINE void v_store_n(float *p, v16 a, int n)
{
    _mm256_maskstore_ps(p, lanes_below(n), a.low);
    if (n > 8) _mm256_maskstore_ps(p + 8, lanes_below(n - 8), a.high);
}
INLINE v16 v_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
INLINE v16 v_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
INLINE v16 v_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
INLINE v16 v_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
INLINE v16 v_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE v16 v_max(v16 a, v16 b) /* a > b ? a : b */
{
    return (v16){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
INLINE v16 v_min(v16 a, v16 b) /* a < b ? a : b */
{
    return (v16){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
INLINE float v_largest(v16 a)
{
    __m256 m = _mm256_max_ps(a.low, a.high);
    m = _mm256_max_ps(m, _mm256_permute2f128_ps(m, m, 1));
    m = _mm256_max_ps(m, _mm256_shuffle_ps(m, m, 0x4e));
    m = _mm256_max_ps(m, _mm256_shuffle_ps(m, m, 0xb1));
    return _mm256_cvtss_f32(m);
}
INLINE float v_first(v16 a)
{
    return _mm256_cvtss_f32(a.low);
}
INLINE unsigned v_equal(v16 a, v16 b)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ)) |
           (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)) << 8;
}
INLINE __m256 pick8(__m256 a, __m256 b, unsigned bits)
{
    __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(set));
}
INLINE v16 v_pick(v16 a, v16 b, unsigned bits)
{
    return (v16){pick8(a.low, b.low, bits), pick8(a.high, b.high, bits >> 8)};
}
INLINE v16 v_from_f16(const uint16_t *p)
{
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)))};
}
INLINE __m256 from_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
INLINE v16 v_from_bf16(const uint16_t *p)
{
    return (v16){from_bf16(p), from_bf16(p + 8)};
}
INLINE void v_to_f16(uint16_t *p, v16 a)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE __m256 exp8(__m256 x)
{
    __m256 alive = _mm256_cmp_ps(x, _mm256_set1_ps(EXP_MIN), _CMP_NLT_UQ), magic = _mm256_set1_ps(EXP_MAGIC), t, n, r, p;
    __m256i i, half, bias = _mm256_set1_epi32(127);
    x = _mm256_min_ps(_mm256_set1_ps(EXP_MAX), x);
    t = _mm256_fmadd_ps(x, _mm256_set1_ps(EXP_LOG2E), magic);
    n = _mm256_sub_ps(t, magic);
    i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(magic));
    half = _mm256_srai_epi32(i, 1);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_LOW), _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_HIGH), x));
    p = _mm256_fmadd_ps(_mm256_set1_ps(EXP_C7), r, _mm256_set1_ps(EXP_C6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C2));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    i = _mm256_sub_epi32(i, half);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(i, bias), 23)));
    return _mm256_and_ps(alive, p);
}
INLINE v16 v_exp(v16 x)
{
    return (v16){exp8(x.low), exp8(x.high)};
}

INLINE __m256 fold4(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
}
INLINE __m256 fold2(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
}

INLINE void v_sums(float *out, const v16 *a, const int n)
{
    UNROLL for (int i = 0; i < n; i += 8)
    {
        __m256 s[8];
        UNROLL for (int j = 0; j < 8; j++) s[j] = i + j < n ? _mm256_add_ps(a[i + j].low, a[i + j].high) : s[0];
        UNROLL for (int j = 0; j < 4; j++) s[j] = fold4(s[j], s[j + 4]);
        /* two lanes each of 0, 1 | 4, 5 and of 2, 3 | 6, 7: the horizontal addition ends both and puts them in order */
        _mm256_storeu_ps(out + i, _mm256_hadd_ps(fold2(s[0], s[1]), fold2(s[2], s[3])));
    }
}

INLINE float v_sum(v16 a)
{
    __m256 s = _mm256_add_ps(a.low, a.high);
    s = fold4(s, s);
    s = fold2(s, s);
    return _mm256_cvtss_f32(_mm256_hadd_ps(s, s));
}

#endif

/* 16 elements from element i on of a plain type; n <= 16 of them exist, the others are zero. */
INLINE v16 v_from(const void *p, enum dtype t, size_t i)
{
    if (t == DTYPE_F32) return v_load((const float *)p + i);
    return t == DTYPE_F16 ? v_from_f16((const uint16_t *)p + i) : v_from_bf16((const uint16_t *)p + i);
}
INLINE v16 v_from_n(const void *p, enum dtype t, size_t i, int n)
{
    uint16_t few[16] = {0};
    if (t == DTYPE_F32) return v_load_n((const float *)p + i, n);
    memcpy(few, (const uint16_t *)p + i, (size_t)n * sizeof *few);
    return v_from(few, t, 0);
}

#endif
