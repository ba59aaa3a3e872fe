/* simd_limits.c: loops that only read and loops that only multiply and add, see limits.h. */
#include "limits_in.h"
#include "simd_vec.h"

enum { CHAINS = 10 }; /* more than latency times units; with AVX2 twenty registers would not fit, which the compiler spills */

float SIMD_FN(limit_read)(const float *x, size_t n)
{
    v16 a = v_zero(), b = v_zero(), c = v_zero(), d = v_zero();
    size_t i;
    for (i = 0; i + 64 <= n; i += 64) {
        a = v_add(a, v_load(x + i));
        b = v_add(b, v_load(x + i + 16));
        c = v_add(c, v_load(x + i + 32));
        d = v_add(d, v_load(x + i + 48));
    }
    return v_first(v_add(v_add(a, b), v_add(c, d)));
}

double SIMD_FN(limit_fma)(long rounds)
{
#ifdef __AVX512F__
    enum { N = CHAINS };
#else
    enum { N = CHAINS / 2 }; /* a v16 is two registers here */
#endif
    v16 a[N], m = v_set1(0.999f), p = v_set1(0.5f), s = v_zero();
    volatile float sink;
    UNROLL
    for (int j = 0; j < N; j++) a[j] = v_set1((float)j);
    for (long i = 0; i < rounds; i++) {
        UNROLL
        for (int j = 0; j < N; j++) a[j] = v_fma(a[j], m, p);
    }
    UNROLL
    for (int j = 0; j < N; j++) s = v_add(s, a[j]);
    sink = v_first(s);
    (void)sink;
    return 2.0 * 16 * N * (double)rounds;
}
