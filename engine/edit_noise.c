/* edit_noise.c: the normal numbers of EDIT_NOISE, from integers and IEEE double arithmetic alone, so that they are the same
 * bits on every machine and any other program can repeat them (tests/oracle/edits.py does).
 *
 * h = mix(seed), then h = mix(h ^ a) for each of site, layer, position, element, as 64-bit numbers (layer -1 is all ones).
 * u = (h / 2^12 + 1/2) / 2^52 is never 0 nor 1, and 1 - u is exact. The number is the inverse of the normal distribution at u.
 */
#include "internal.h"

#include <math.h>
#include <string.h>

/* SplitMix64's step and output: Steele, Lea and Flood 2014, fig. 12. */
static uint64_t mix(uint64_t h)
{
    h += 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

/* Natural logarithm of 2^-54 < x < 1, to about one unit in the last place: x = 2^e m with m in (sqrt(1/2), sqrt(2)], then
   log m = 2 artanh f with f = (m - 1) / (m + 1), by its series up to f^23. ln 2 is split so that e times its head is exact. */
static double logarithm(double x)
{
    uint64_t bits;
    double f, z, sum = 0;
    int e, k;
    memcpy(&bits, &x, sizeof bits);
    e = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    memcpy(&x, &bits, sizeof x);
    if (x > 0x1.6a09e667f3bcdp+0) {
        x *= 0.5;
        e++;
    }
    f = (x - 1) / (x + 1);
    z = f * f;
    for (k = 23; k >= 3; k -= 2) sum = (sum + 1.0 / k) * z;
    return e * 0x1.62e42fee00000p-1 + (2 * f + (2 * f * sum + e * 0x1.a39ef35793c76p-33));
}

/* a[0] + a[1] r + ... + a[7] r^7, by Horner's rule. */
static double polynomial(const double *a /* (8) */, double r)
{
    double sum = a[7];
    int i;
    for (i = 6; i >= 0; i--) sum = sum * r + a[i];
    return sum;
}

/* Wichura 1988, algorithm AS 241 (PPND16): the middle, the tails, and the far tails. */
static const double middle[2][8] = {
    {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
    {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}};
static const double tail[2][8] = {
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
static const double far_tail[2][8] = {
    {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
    {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};

static double inverse_normal(double u)
{
    double q = u - 0.5, r, x;
    if (q >= -0.425 && q <= 0.425) {
        r = 0.180625 - q * q;
        return q * polynomial(middle[0], r) / polynomial(middle[1], r);
    }
    r = sqrt(-logarithm(q < 0 ? u : 1 - u)); /* IEEE says what a square root is */
    if (r <= 5)
        x = polynomial(tail[0], r - 1.6) / polynomial(tail[1], r - 1.6);
    else
        x = polynomial(far_tail[0], r - 5) / polynomial(far_tail[1], r - 5);
    return q < 0 ? -x : x;
}

double edit_noise(uint64_t seed, int site, int layer, int pos, int element)
{
    uint64_t h = mix(seed);
    h = mix(h ^ (uint64_t)site);
    h = mix(h ^ (uint64_t)layer);
    h = mix(h ^ (uint64_t)pos);
    h = mix(h ^ (uint64_t)element);
    return inverse_normal(((double)(h >> 12) + 0.5) * 0x1p-52);
}
