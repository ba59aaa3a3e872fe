/* cpu_ops.h: functions of one number for the operations beside swiglu, and their declarations; internal to kernels/.
 *
 * The polynomials are minimax fits (Remez) in the power basis; the errors below are those of the f32 results.
 */
#ifndef KERNELS_CPU_OPS_H
#define KERNELS_CPU_OPS_H

#include "cpu.h"

/* tanh x = x + x^3 p(x^2) up to |x| = 0.625, else 1 - 2 / (1 + e^2x); error below 2e-7. */
#define TANH_SMALL 0.390625f /* of x^2 */
#define TANH_C4 -6.09671417e-3f
#define TANH_C3 2.09971790e-2f
#define TANH_C2 -5.38509096e-2f
#define TANH_C1 1.33327697e-1f
#define TANH_C0 -3.33333289e-1f

CPU_BOTH float cpu_tanh(float x)
{
    float z = x * x, p = fmaf(TANH_C4, z, TANH_C3);
    p = fmaf(p, z, TANH_C2);
    p = fmaf(p, z, TANH_C1);
    p = fmaf(p, z, TANH_C0);
    return z <= TANH_SMALL ? fmaf(x * z, p, x) : 1.0f - 2.0f / (1.0f + cpu_exp(x + x));
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x / (1 + e^w), w = x (GELU_A + GELU_B x^2): Hendrycks & Gimpel 2016. */
#define GELU_A -1.59576912f
#define GELU_B -7.13548163e-2f

CPU_BOTH float cpu_gelu_tanh(float x)
{
    return x / (1.0f + cpu_exp(x * fmaf(x * x, GELU_B, GELU_A)));
}

/* x Phi(x). The normal distribution's tail Phi(-a) = t p(t) e^(-a^2/2) with t = 1 / (1 + a/4); error of the product below
   2e-7. */
#define PHI_T 0.25f
#define PHI_C9 2.08148884e-2f
#define PHI_C8 -8.53892299e-2f
#define PHI_C7 1.03798857e-1f
#define PHI_C6 -3.97468634e-2f
#define PHI_C5 6.82739957e-2f
#define PHI_C4 5.74462582e-2f
#define PHI_C3 8.18896318e-2f
#define PHI_C2 9.34395147e-2f
#define PHI_C1 9.97373968e-2f
#define PHI_C0 9.97355610e-2f

CPU_BOTH float cpu_gelu(float x)
{
    float t = 1.0f / fmaf(fabsf(x), PHI_T, 1.0f), p = fmaf(PHI_C9, t, PHI_C8), tail;
    p = fmaf(p, t, PHI_C7);
    p = fmaf(p, t, PHI_C6);
    p = fmaf(p, t, PHI_C5);
    p = fmaf(p, t, PHI_C4);
    p = fmaf(p, t, PHI_C3);
    p = fmaf(p, t, PHI_C2);
    p = fmaf(p, t, PHI_C1);
    p = fmaf(p, t, PHI_C0);
    tail = t * p * cpu_exp(x * -0.5f * x);
    return x * (x >= 0 ? 1.0f - tail : tail);
}

#define CPU_DECLARE_OPS(prefix, suffix)                                                                                  \
    void prefix##layernorm##suffix(float *y, const float *x, const float *w, const float *b, float eps, int B, int D);   \
    void prefix##matmul_t##suffix(float *y, int ldy, const struct mat *w, const float *x, int B, enum matmul_then then); \
    void prefix##gelu##suffix(float *y, const float *x, const float *up, enum gelu form, int B, int F);                  \
    void prefix##softcap##suffix(float *y, const float *x, float cap, size_t n);                                         \
    void prefix##scale##suffix(float *y, const float *x, float f, size_t n);                                             \
    void prefix##add##suffix(float *y, const float *x, int ldx, int B, int N);

CPU_DECLARE_OPS(scalar_, )
CPU_DECLARE_OPS(simd_, _avx2)
CPU_DECLARE_OPS(simd_, _avx512)

#endif
