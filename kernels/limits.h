/* limits.h: what this processor does at most, as loops that do nothing else; whoever calls takes the time. `kvrun bench` prints
 * what the kernels reach of it. All threads of the CPU's operations take part.
 */
#ifndef KERNELS_LIMITS_H
#define KERNELS_LIMITS_H

#include "kernels.h"

/* Reads n floats once, in order, as a matrix of one row reads its weights. isa: as of the kernels measured. */
void limits_read(enum kernels_isa isa, const float *x, size_t n);
/* Makes `rounds` rounds of independent fused multiply-adds in each part of `parts`; returns the multiplications and additions
   of all. */
double limits_fma(enum kernels_isa isa, int parts, long rounds);

#endif
