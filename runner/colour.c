/* colour.c: see colour.h. The anchors lie on straight lines in OKLab: white to L 0.45, C 0.19, hue 262 (blue) and 27 (red); the
   sequential ones go down in lightness by 0.09 each, hue 110 to 265. Between two anchors sRGB is even enough: the test measures
   how much the steps differ. */
#include "colour.h"

#include <math.h>

enum { ANCHORS = 9, ARM = 127, STEPS = 254 };

static const struct colour blue[ANCHORS] = {{0xff, 0xff, 0xff}, {0xe0, 0xe9, 0xf9}, {0xc1, 0xd3, 0xf2},
                                            {0xa3, 0xbd, 0xea}, {0x85, 0xa6, 0xe2}, {0x68, 0x90, 0xda},
                                            {0x4c, 0x7a, 0xd0}, {0x2f, 0x62, 0xc6}, {0x0e, 0x49, 0xbc}};
static const struct colour red[ANCHORS] = {{0xff, 0xff, 0xff}, {0xf8, 0xe3, 0xe0}, {0xf0, 0xc7, 0xc1},
                                           {0xe6, 0xab, 0xa3}, {0xdc, 0x8f, 0x86}, {0xd0, 0x73, 0x69},
                                           {0xc3, 0x55, 0x4c}, {0xb5, 0x34, 0x2f}, {0xa5, 0x00, 0x08}};
static const struct colour dark[ANCHORS] = {{0xff, 0xff, 0xff}, {0xd6, 0xe9, 0xc3}, {0x9e, 0xd4, 0xa6},
                                            {0x61, 0xbc, 0x9c}, {0x27, 0xa0, 0x97}, {0x03, 0x81, 0x8d},
                                            {0x1c, 0x60, 0x79}, {0x26, 0x43, 0x5b}, {0x22, 0x29, 0x38}};
static const struct colour not_a_number = {0x80, 0x80, 0x80};

/* (a * (n - at) + b * at) / n, rounded. */
static uint8_t between(uint8_t a, uint8_t b, int at, int n)
{
    return (uint8_t)((a * (n - at) + b * at + n / 2) / n);
}

/* Colour of step 0..n along the anchors. */
static struct colour along(const struct colour *anchors, int step, int n)
{
    int place = step * (ANCHORS - 1), at = place % n;
    const struct colour *a = &anchors[place / n], *b = at ? a + 1 : a;
    return (struct colour){between(a->r, b->r, at, n), between(a->g, b->g, at, n), between(a->b, b->b, at, n)};
}

/* value / limit as a step of 0..n, for value >= 0; infinities are beyond. */
static int step_of(double value, double limit, int n)
{
    if (value >= limit) return value > 0 ? n : 0;
    return (int)(value / limit * n + 0.5);
}

struct colour colour_diverging(double value, double limit)
{
    if (isnan(value) || !(limit >= 0)) return not_a_number;
    return along(value < 0 ? red : blue, step_of(fabs(value), limit, ARM), ARM);
}

struct colour colour_sequential(double value, double limit)
{
    if (isnan(value) || !(limit >= 0)) return not_a_number;
    return along(dark, step_of(value > 0 ? value : 0, limit, STEPS), STEPS);
}
