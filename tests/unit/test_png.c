/* test_png.c: what libpng reads back is what was given; the colours keep what colour.h says about them. */
#include "../../runner/colour.h"
#include "../../runner/png.h"

#include <math.h>
#include <png.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- png ---- */

static uint64_t seed = 1;

static uint8_t random_byte(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(seed >> 56);
}

/* Pixels through png_encode and libpng's reader and back. */
static size_t check_image(const uint8_t *rgb, size_t w, size_t h, int palette)
{
    struct buf out = {0}, again = {0};
    png_image image = {.version = PNG_IMAGE_VERSION};
    uint8_t *back = mem_array(h, 3 * w);
    size_t n;
    err e = {0};
    buf_str(&out, "before");
    assert_int_equal(png_encode(rgb, 3 * w * h, w, h, &out, &e), 0);
    assert_memory_equal(out.p, "before", 6);
    assert_true(png_image_begin_read_from_memory(&image, out.p + 6, out.n - 6));
    assert_int_equal(image.width, w);
    assert_int_equal(image.height, h);
    assert_int_equal((image.format & PNG_FORMAT_FLAG_COLORMAP) != 0, palette);
    image.format = PNG_FORMAT_RGB;
    assert_true(png_image_finish_read(&image, NULL, back, 0, NULL));
    assert_memory_equal(back, rgb, 3 * w * h);
    assert_int_equal(png_encode(rgb, 3 * w * h, w, h, &again, &e), 0);
    assert_int_equal(again.n, out.n - 6);
    assert_memory_equal(again.p, out.p + 6, again.n);
    n = again.n;
    buf_free(&out);
    buf_free(&again);
    free(back);
    return n;
}

/* Pixel i has one of `colours` colours; 0: any. */
static void check_random(size_t w, size_t h, int colours, int palette)
{
    uint8_t *rgb = mem_array(h, 3 * w);
    size_t i;
    for (i = 0; i < w * h; i++) {
        int c = colours ? (int)(i % (size_t)colours) : 0;
        rgb[3 * i] = colours ? (uint8_t)(c * 7) : random_byte();
        rgb[3 * i + 1] = colours ? (uint8_t)(c >> 8) : random_byte();
        rgb[3 * i + 2] = colours ? (uint8_t)(c * 31) : random_byte();
    }
    check_image(rgb, w, h, palette);
    free(rgb);
}

static void images_come_back(void **state)
{
    (void)state;
    check_random(1, 1, 1, 1);
    check_random(1, 300, 2, 1);
    check_random(300, 1, 17, 1);
    check_random(64, 64, 256, 1);
    check_random(64, 64, 257, 0); /* 64 x 64 pixels hold 257 colours */
    check_random(161, 1024, 0, 0);
    check_random(7, 5, 0, 1); /* 35 pixels */
}

static void bad_sizes_are_errors(void **state)
{
    static const uint8_t rgb[12] = {0};
    static const struct {
        size_t n, w, h;
    } bad[] = {{0, 0, 0},
               {12, 0, 4},
               {12, 4, 0},
               {12, 2, 3},
               {11, 2, 2},
               {12, (size_t)-1, 4},
               {12, 4, (size_t)1 << 63},
               {12, PNG_SIDE_MAX + 1, 1}};
    struct buf out = {0};
    size_t i;
    (void)state;
    buf_str(&out, "as it was");
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = {0};
        assert_int_equal(png_encode(rgb, bad[i].n, bad[i].w, bad[i].h, &out, &e), -1);
        assert_int_equal(e.code, ERR_INPUT);
        assert_string_equal(out.p, "as it was");
    }
    buf_free(&out);
}

/* A heat map: its colours fit the palette, so that it takes about a byte a pixel and not three. */
static void heat_maps_are_small(void **state)
{
    enum { W = 512, H = 160 };
    uint8_t *rgb = mem_array(H, 3 * W);
    size_t i;
    (void)state;
    for (i = 0; i < (size_t)W * H; i++) {
        struct colour c = colour_diverging(i == 5 ? NAN : random_byte() / 128.0 - 1, 0.9);
        memcpy(rgb + 3 * i, &c, 3);
    }
    assert_true(check_image(rgb, W, H, 1) < (size_t)W * H * 11 / 10);
    free(rgb);
}

/* ---- colour ---- */

static double linear(uint8_t c)
{
    double x = c / 255.0;
    return x <= 0.04045 ? x / 12.92 : pow((x + 0.055) / 1.055, 2.4);
}

/* Ottosson 2020, "A perceptual color space for image processing". */
static void oklab(struct colour c, double out[3])
{
    double r = linear(c.r), g = linear(c.g), b = linear(c.b);
    double l = cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
    double m = cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
    double s = cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
    out[0] = 0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s;
    out[1] = 1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s;
    out[2] = 0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s;
}

static double lightness(struct colour c)
{
    double lab[3];
    oklab(c, lab);
    return lab[0];
}

static double distance(struct colour a, struct colour b)
{
    double x[3], y[3];
    oklab(a, x);
    oklab(b, y);
    return sqrt((x[0] - y[0]) * (x[0] - y[0]) + (x[1] - y[1]) * (x[1] - y[1]) + (x[2] - y[2]) * (x[2] - y[2]));
}

static void assert_colour(struct colour c, int r, int g, int b)
{
    assert_int_equal(c.r, r);
    assert_int_equal(c.g, g);
    assert_int_equal(c.b, b);
}

static void zero_is_white_blue_is_positive(void **state)
{
    (void)state;
    assert_colour(colour_diverging(0, 2), 255, 255, 255);
    assert_colour(colour_diverging(-0.0, 2), 255, 255, 255);
    assert_colour(colour_diverging(2, 2), 0x0e, 0x49, 0xbc);
    assert_colour(colour_diverging(3, 2), 0x0e, 0x49, 0xbc);
    assert_colour(colour_diverging(INFINITY, 2), 0x0e, 0x49, 0xbc);
    assert_colour(colour_diverging(-2, 2), 0xa5, 0x00, 0x08);
    assert_colour(colour_diverging(-INFINITY, 2), 0xa5, 0x00, 0x08);
    assert_colour(colour_sequential(0, 2), 255, 255, 255);
    assert_colour(colour_sequential(-1, 2), 255, 255, 255);
    assert_colour(colour_sequential(2, 2), 0x22, 0x29, 0x38);
    assert_colour(colour_sequential(INFINITY, 2), 0x22, 0x29, 0x38);
}

static void odd_numbers_have_a_colour(void **state)
{
    (void)state;
    assert_colour(colour_diverging(NAN, 1), 128, 128, 128);
    assert_colour(colour_diverging(1, NAN), 128, 128, 128);
    assert_colour(colour_diverging(1, -1), 128, 128, 128);
    assert_colour(colour_sequential(NAN, 1), 128, 128, 128);
    assert_colour(colour_diverging(0, 0), 255, 255, 255);
    assert_colour(colour_diverging(1e-300, 0), 0x0e, 0x49, 0xbc);
    assert_colour(colour_diverging(-1e-300, 0), 0xa5, 0x00, 0x08);
    assert_colour(colour_diverging(1e300, INFINITY), 255, 255, 255);
    assert_colour(colour_diverging(INFINITY, INFINITY), 0x0e, 0x49, 0xbc);
    assert_colour(colour_diverging(5e-324, 5e-324), 0x0e, 0x49, 0xbc);
    assert_colour(colour_sequential(0, 0), 255, 255, 255);
}

/* All steps differ, lightness falls, no step is more than twice the mean, and the two arms are equally light. */
static void steps_are_even(void **state)
{
    struct colour (*const scales[])(double, double) = {colour_diverging, colour_sequential};
    static const int signs[] = {1, -1};
    size_t s, k;
    int i;
    (void)state;
    for (s = 0; s < 2; s++)
        for (k = 0; k < (s ? 1 : 2); k++) {
            int n = s ? 254 : 127;
            double sum = 0;
            for (i = 1; i <= n; i++) sum += distance(scales[s](signs[k] * i, n), scales[s](signs[k] * (i - 1), n));
            for (i = 1; i <= n; i++) {
                struct colour a = scales[s](signs[k] * (i - 1), n), b = scales[s](signs[k] * i, n);
                assert_true(memcmp(&a, &b, sizeof a) != 0);
                assert_true(distance(a, b) < 2.5 * sum / n);
                /* one unit of a channel is the finest step there is, hence over four steps */
                if (i >= 4) assert_true(lightness(scales[s](signs[k] * (i - 4), n)) > lightness(b));
            }
        }
    for (i = 0; i <= 127; i++)
        assert_true(fabs(lightness(colour_diverging(i, 127)) - lightness(colour_diverging(-i, 127))) < 0.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images_come_back),          cmocka_unit_test(bad_sizes_are_errors),
        cmocka_unit_test(heat_maps_are_small),       cmocka_unit_test(zero_is_white_blue_is_positive),
        cmocka_unit_test(odd_numbers_have_a_colour), cmocka_unit_test(steps_are_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
