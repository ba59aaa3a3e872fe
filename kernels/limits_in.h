/* limits_in.h: the loops of simd_limits.c; internal to kernels/. */
#ifndef KERNELS_LIMITS_IN_H
#define KERNELS_LIMITS_IN_H

#include "cpu.h"

float simd_limit_read_avx2(const float *x, size_t n);
float simd_limit_read_avx512(const float *x, size_t n);
double simd_limit_fma_avx2(long rounds);
double simd_limit_fma_avx512(long rounds);

#endif
