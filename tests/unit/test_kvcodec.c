/* test_kvcodec.c: what is packed comes back to the bit; what was tampered with comes back as an error. */
#include "../../runner/kvcodec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include <cmocka.h>

static const enum kv_type types[] = {KV_F32, KV_F16, KV_BF16};
static const size_t sizes[] = {0, 1, 2, 3, 7, 63, 64, 255, 256, 257, 1000, 4096, 12288, 65536, 100003};
enum { MAX = 100003 };

static size_t element(enum kv_type t)
{
    return t == KV_F32 ? 4 : 2;
}

static uint64_t seed = 1;

static double uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) / 9007199254740992.0;
}

/* Elements as caches have them: channels of their own mean and spread, normal around it. n in elements. */
static void fill_realistic(uint8_t *raw, size_t n, enum kv_type t)
{
    size_t i;
    for (i = 0; i < n; i++) {
        int channel = (int)(i % 64);
        double normal = uniform() + uniform() + uniform() + uniform() + uniform() + uniform() - 3;
        float f = (float)((channel % 7 - 3) * 0.3 + normal * (0.2 + channel % 5 * 0.3));
        uint32_t u;
        memcpy(&u, &f, 4);
        if (t == KV_F32)
            memcpy(raw + i * 4, &u, 4);
        else {
            uint16_t h = (uint16_t)(u >> 16);
            if (t == KV_F16) { /* sign, exponent 8 to 5 bits, mantissa 23 to 10 bits; subnormals become zero */
                int exponent = (int)(u >> 23 & 0xff) - 127 + 15;
                h = (uint16_t)(u >> 16 & 0x8000);
                if (exponent > 0) h = (uint16_t)(h | exponent << 10 | (u >> 13 & 0x3ff));
            }
            memcpy(raw + i * 2, &h, 2);
        }
    }
}

static void fill_random(uint8_t *raw, size_t bytes)
{
    size_t i;
    for (i = 0; i < bytes; i++) raw[i] = (uint8_t)(uniform() * 256);
}

/* Packs behind some bytes that must stay, unpacks, compares; the size packed. */
static size_t round_trip(const uint8_t *raw, size_t bytes, enum kv_type t)
{
    struct buf packed = {0};
    uint8_t *back = malloc(bytes + 1);
    enum kv_codec c;
    size_t n;
    err e = {0};
    buf_str(&packed, "before");
    c = kvcodec_pack(raw, bytes, t, &packed);
    n = packed.n - 6;
    assert_memory_equal(packed.p, "before", 6);
    assert_int_equal(kvcodec_unpack(c, packed.p + 6, n, back, bytes, &e), 0);
    assert_memory_equal(raw, back, bytes);
    assert_true(n <= bytes);
    free(back);
    buf_free(&packed);
    return n;
}

static void every_type_and_size_comes_back(void **state)
{
    uint8_t *raw = malloc(MAX * 4 + 1);
    size_t i, k;
    (void)state;
    for (i = 0; i < 3; i++)
        for (k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            size_t bytes = sizes[k] * element(types[i]);
            fill_realistic(raw, sizes[k], types[i]);
            round_trip(raw, bytes, types[i]);
            fill_random(raw, bytes);
            round_trip(raw, bytes, types[i]);
            memset(raw, 0, bytes);
            round_trip(raw, bytes, types[i]);
            memset(raw, 0xff, bytes); /* NaNs keep their bits, too */
            round_trip(raw, bytes, types[i]);
            fill_realistic(raw + 1, sizes[k], types[i]);
            round_trip(raw + 1, bytes, types[i]); /* not aligned */
        }
    free(raw);
}

static void a_half_element_is_stored_as_it_is(void **state)
{
    const uint8_t raw[401] = {1, 2, 3};
    (void)state;
    assert_int_equal(round_trip(raw, 401, KV_F32), 401);
}

static void caches_get_smaller_as_promised(void **state)
{
    static const double at_least[] = {1.19, 1.16, 1.48}; /* the goals for real caches */
    uint8_t *raw = malloc(MAX * 4);
    size_t i;
    (void)state;
    for (i = 0; i < 3; i++) {
        size_t bytes = 12288 * element(types[i]);
        fill_realistic(raw, 12288, types[i]);
        double ratio = (double)bytes / (double)round_trip(raw, bytes, types[i]);
        print_message("ratio %.3f\n", ratio);
        assert_true(ratio >= at_least[i]);
    }
    free(raw);
}

static void noise_is_stored(void **state)
{
    uint8_t raw[4096];
    (void)state;
    fill_random(raw, sizeof raw);
    assert_int_equal(round_trip(raw, sizeof raw, KV_BF16), sizeof raw);
}

/* The format is what the header says, written down here a second time. */
static void packed_bytes_are_as_documented(void **state)
{
    float values[512];
    struct buf packed = {0};
    uint8_t top[512];
    size_t frame, i;
    (void)state;
    for (i = 0; i < 512; i++) values[i] = (float)(i % 9) - 4;
    assert_int_equal(kvcodec_pack(values, sizeof values, KV_F32, &packed), KV_CODEC_EXPH);
    const uint8_t *p = (const uint8_t *)packed.p;
    assert_int_equal(p[0], 1);
    assert_int_equal(p[1], 4);
    frame = p[4] | (size_t)p[5] << 8;
    assert_int_equal(packed.n, 8 + frame + 3 * 512);
    assert_int_equal(ZSTD_decompress(top, sizeof top, p + 8, frame), 512);
    for (i = 0; i < 512; i++) {
        uint32_t u, r = (uint32_t)top[i] << 24;
        int k;
        for (k = 0; k < 3; k++) r |= (uint32_t)p[8 + frame + (size_t)k * 512 + i] << 8 * k;
        memcpy(&u, &values[i], 4);
        assert_int_equal(r, u << 1 | u >> 31);
    }
    buf_free(&packed);
}

static void names_are_those_of_the_database(void **state)
{
    enum kv_codec c;
    (void)state;
    assert_string_equal(kvcodec_name(KV_CODEC_EXPH), "exph");
    assert_string_equal(kvcodec_name(KV_CODEC_STORED), "stored");
    assert_int_equal(kvcodec_from_name("exph", &c), 0);
    assert_int_equal(c, KV_CODEC_EXPH);
    assert_int_equal(kvcodec_from_name("stored", &c), 0);
    assert_int_equal(c, KV_CODEC_STORED);
    assert_int_equal(kvcodec_from_name("sib2", &c), -1);
    assert_int_equal(kvcodec_from_name("", &c), -1);
}

static void mutated_chunks_give_errors_or_bytes_never_crashes(void **state)
{
    enum { N = 3000, ROUNDS = 2000 };
    uint8_t *raw = malloc(N * 4), *back = malloc(N * 4);
    int i, k, errors = 0;
    (void)state;
    for (i = 0; i < ROUNDS; i++) {
        enum kv_type t = types[i % 3];
        size_t bytes = N * element(t), n, want;
        struct buf packed = {0};
        err e = {0};
        char *copy;
        fill_realistic(raw, N, t);
        enum kv_codec c = kvcodec_pack(raw, bytes, t, &packed);
        n = packed.n;
        want = bytes;
        for (k = 0; k < 1 + i % 5; k++) {
            size_t at = (size_t)(uniform() * (double)(i % 2 ? n : 64)); /* half of them in header and frame header */
            packed.p[at] = (char)(uniform() * 256);
        }
        if (i % 7 == 0) n = (size_t)(uniform() * (double)n);
        if (i % 11 == 0) want = (size_t)(uniform() * (double)bytes);
        copy = malloc(n + 1); /* exactly as long, so that a read behind the end is seen */
        copy = realloc(memcpy(copy, packed.p, n), n ? n : 1);
        if (kvcodec_unpack(c, copy, n, back, want, &e)) {
            errors++;
            assert_int_equal(e.code, ERR_DB);
            assert_true(e.msg[0] != 0);
        }
        free(copy);
        buf_free(&packed);
    }
    print_message("%d of %d refused\n", errors, ROUNDS);
    assert_true(errors > ROUNDS / 4);
    free(raw);
    free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_and_size_comes_back),
        cmocka_unit_test(a_half_element_is_stored_as_it_is),
        cmocka_unit_test(caches_get_smaller_as_promised),
        cmocka_unit_test(noise_is_stored),
        cmocka_unit_test(packed_bytes_are_as_documented),
        cmocka_unit_test(names_are_those_of_the_database),
        cmocka_unit_test(mutated_chunks_give_errors_or_bytes_never_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
