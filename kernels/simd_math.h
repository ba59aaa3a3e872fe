/* simd_math.h: tanh and gelu of sixteen lanes, operation by operation as in cpu_ops.h. */
#ifndef KERNELS_SIMD_MATH_H
#define KERNELS_SIMD_MATH_H

#include "cpu_ops.h"
#include "simd_vec.h"

INLINE v16 v_tanh(v16 x)
{
    v16 one = v_set1(1.0f), z = v_mul(x, x), p = v_fma(v_set1(TANH_C4), z, v_set1(TANH_C3)), large;
    unsigned small = v_equal(v_min(z, v_set1(TANH_SMALL)), z);
    p = v_fma(p, z, v_set1(TANH_C2));
    p = v_fma(p, z, v_set1(TANH_C1));
    p = v_fma(p, z, v_set1(TANH_C0));
    large = v_sub(one, v_div(v_set1(2.0f), v_add(one, v_exp(v_add(x, x)))));
    return v_pick(v_fma(v_mul(x, z), p, x), large, small);
}

INLINE v16 v_gelu_tanh(v16 x)
{
    v16 w = v_mul(x, v_fma(v_mul(x, x), v_set1(GELU_B), v_set1(GELU_A)));
    return v_div(x, v_add(v_set1(1.0f), v_exp(w)));
}

INLINE v16 v_gelu(v16 x)
{
    v16 one = v_set1(1.0f), t, p, tail;
    unsigned positive = v_equal(v_max(x, v_zero()), x); /* or zero; not a NaN */
    t = v_div(one, v_fma(v_pick(x, v_sub(v_zero(), x), positive), v_set1(PHI_T), one));
    p = v_fma(v_set1(PHI_C9), t, v_set1(PHI_C8));
    p = v_fma(p, t, v_set1(PHI_C7));
    p = v_fma(p, t, v_set1(PHI_C6));
    p = v_fma(p, t, v_set1(PHI_C5));
    p = v_fma(p, t, v_set1(PHI_C4));
    p = v_fma(p, t, v_set1(PHI_C3));
    p = v_fma(p, t, v_set1(PHI_C2));
    p = v_fma(p, t, v_set1(PHI_C1));
    p = v_fma(p, t, v_set1(PHI_C0));
    tail = v_mul(v_mul(t, p), v_exp(v_mul(v_mul(x, v_set1(-0.5f)), x)));
    return v_mul(x, v_pick(v_sub(one, tail), tail, positive));
}

#endif
