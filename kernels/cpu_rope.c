/* cpu_rope.c: logarithm, power, sine and cosine in plain double arithmetic, so that rope tables and log-probabilities are
 * the same bits with every libm. All of it is far more exact than the float it is rounded to. The build forbids contraction.
 */
#include "cpu.h"

static const double LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33; /* the first has 32 bits */

double cpu_log(double x)
{
    uint64_t u;
    double f, z, s;
    int e;
    if (!(x > 0) || x - x != 0) return NAN;
    memcpy(&u, &x, 8);
    if (u >> 52 == 0) return cpu_log(x * 0x1p60) - 60 * (LN2_HIGH + LN2_LOW); /* denormal */
    e = (int)(u >> 52) - 1023;
    u = (u & 0xfffffffffffff) | (uint64_t)1023 << 52;
    memcpy(&x, &u, 8);
    if (x > 1.4142135623730951) {
        x *= 0.5;
        e++;
    }
    /* log x = 2 artanh f = 2 (f + f^3/3 + f^5/5 + ...), |f| < 0.172; the next term is below 1e-19 */
    f = (x - 1) / (x + 1);
    z = f * f;
    s = 0;
    for (int k = 23; k >= 3; k -= 2) s = (s + 1.0 / k) * z;
    return e * LN2_HIGH + (2 * f + (2 * f * s + e * LN2_LOW));
}

/* e^y, |y| at most 700 (beyond, 0 or infinity): y = n ln 2 + r, Taylor's series for r. */
static double exp_double(double y)
{
    uint64_t u;
    double r, p = 1, scale;
    int n;
    if (y != y) return y;
    if (y < -700) return 0;
    if (y > 700) return INFINITY;
    n = (int)(y * 1.4426950408889634 + (y < 0 ? -0.5 : 0.5));
    r = (y - n * LN2_HIGH) - n * LN2_LOW;
    for (int k = 18; k >= 1; k--) p = p * r / k + 1;
    u = (uint64_t)(n + 1023) << 52;
    memcpy(&scale, &u, 8);
    return p * scale;
}

void kernels_rope_freqs(float *inv_freq, double base, int n_rot)
{
    double ln = cpu_log(base);
    for (int i = 0; i < n_rot / 2; i++) inv_freq[i] = (float)exp_double(-(2.0 * i) / n_rot * ln);
}

/* pi/2 in three parts of 22 bits and the rest: n times a part is exact for n up to 2^31, and so is what the first
   subtractions leave when the angle is near a multiple (Cody and Waite 1980). */
static const double HALF_PI[4] = {0x1.921fb00000000p+0, 0x1.5110b00000000p-22, 0x1.1846980000000p-44, 0x1.3198a2e037073p-69};

static void sin_cos(double a, double *s, double *c)
{
    double r, z, sine = 0, cosine = 0;
    int64_t n;
    if (!(a < 0x1p31 && a > -0x1p31)) {
        *s = *c = NAN;
        return;
    }
    n = (int64_t)(a * 0x1.45f306dc9c883p-1 + (a < 0 ? -0.5 : 0.5));
    r = a;
    for (int i = 0; i < 4; i++) r -= (double)n * HALF_PI[i];
    /* Taylor's series on |r| <= pi/4: the next terms are below 1e-18 */
    z = r * r;
    for (int k = 17; k >= 3; k -= 2) sine = (1 - sine) * z / (k * (k - 1));
    for (int k = 18; k >= 2; k -= 2) cosine = (1 - cosine) * z / (k * (k - 1));
    sine = r - r * sine;
    cosine = 1 - cosine;
    switch (n & 3) {
    case 0: *s = sine, *c = cosine; break;
    case 1: *s = cosine, *c = -sine; break;
    case 2: *s = -sine, *c = -cosine; break;
    default: *s = -cosine, *c = sine; break;
    }
}

void kernels_rope_table(float *cos, float *sin, const float *inv_freq, const int *pos, int n, int B)
{
    for (int b = 0; b < B; b++) {
        for (int i = 0; i < n; i++) {
            float angle = (float)pos[b] * inv_freq[i]; /* rounded to f32 before it is widened */
            double s, c;
            sin_cos(angle, &s, &c);
            cos[(size_t)b * (size_t)n + (size_t)i] = (float)c;
            sin[(size_t)b * (size_t)n + (size_t)i] = (float)s;
        }
    }
}
