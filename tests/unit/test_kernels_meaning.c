/* test_kernels_meaning.c: the operations mean what kernels.h says: against double arithmetic, libm and cases worked by hand.
 * It looks at every table this processor has; that the tables agree in every bit is test_kernels.c's matter. */
#include "../../kernels/kernels.h"
#include "one_layer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint32_t state = 2463534242u;

static float random_float(void) /* -1..1 */
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return (float)(state % 2000001) * 1e-6f - 1;
}

static void randomise(float *f, size_t n)
{
    for (size_t i = 0; i < n; i++) f[i] = random_float();
}

static void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) fail_msg("%.9g is not within %.3g of %.9g", got, tolerance, want);
}

/* Calls f with every table there is. */
static void each_table(void (*f)(const struct kernels *))
{
    static const enum kernels_isa isas[] = {KERNELS_SCALAR, KERNELS_AVX2, KERNELS_AVX512};
    for (int i = 0; i < 3; i++)
        if (kernels_cpu(isas[i])) f(kernels_cpu(isas[i]));
}

/* ---- types ---- */

static double f16_value(unsigned h)
{
    double sign = h & 0x8000 ? -1 : 1;
    int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 0x3ff);
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static void every_f16_and_bf16_widens_to_its_value(void **unused)
{
    (void)unused;
    for (unsigned h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h;
        uint32_t bits = h << 16, got;
        float f;
        kernels_widen(&f, &in, DTYPE_F16, 1);
        if (isnan(f16_value(h)))
            assert_true(isnan(f));
        else
            assert_true(f == (float)f16_value(h) && !signbit(f) == !(h & 0x8000));
        kernels_widen(&f, &in, DTYPE_BF16, 1);
        memcpy(&got, &f, 4);
        if (!isnan(f)) assert_int_equal(got, bits);
    }
}

/* What the cache of a table makes of n <= 256 floats. */
static void cache_round(const struct kernels *k, uint16_t *out, const float *in, int n, enum dtype t)
{
    float q[HEAD_MAX] = {0}, key[HEAD_MAX] = {0};
    static uint16_t page_k[PAGE_TOKENS * HEAD_MAX], page_v[PAGE_TOKENS * HEAD_MAX];
    struct kv_page page = {page_k, page_v, NULL}, *table[] = {&page}, *const * rows[] = {table};
    struct rope r = {NULL, NULL, 0, 0};
    struct attn a = {1, 1, n, t, 1};
    int pos = 0;
    k->rope_append(q, key, in, &r, one_layer(rows, &pos, 1), 0, &a);
    memcpy(out, page_v, (size_t)n * sizeof *out);
}

static void rounding_is_to_nearest_and_ties_go_to_even_in(const struct kernels *k)
{
    for (unsigned h = 0; h < 0x7c00; h += 32) {
        float in[96], low, high;
        uint16_t out[96];
        for (unsigned i = 0; i < 32; i++) {
            low = (float)f16_value(h + i), high = h + i == 0x7bff ? 65536.0f : (float)f16_value(h + i + 1);
            in[3 * i + 1] = (low + high) / 2; /* exact */
            in[3 * i] = nextafterf(in[3 * i + 1], 0);
            in[3 * i + 2] = -nextafterf(in[3 * i + 1], INFINITY);
        }
        cache_round(k, out, in, 96, DTYPE_F16);
        for (unsigned i = 0; i < 32; i++) {
            assert_int_equal(out[3 * i], h + i);
            assert_int_equal(out[3 * i + 1], (h + i + 1) & ~1u);
            assert_int_equal(out[3 * i + 2], (h + i + 1) | 0x8000);
        }
    }
    for (uint32_t b = 0; b < 0x7f80; b += 8) {
        float in[24];
        uint16_t out[24];
        for (uint32_t i = 0; i < 24; i++) {
            uint32_t bits = (b + i / 3) << 16 | (0x7fff + i % 3);
            memcpy(&in[i], &bits, 4);
        }
        cache_round(k, out, in, 24, DTYPE_BF16);
        for (uint32_t i = 0; i < 24; i++) {
            uint32_t h = b + i / 3;
            assert_int_equal(out[i], i % 3 == 0 ? h : i % 3 == 2 ? h + 1 : (h + 1) & ~1u);
        }
    }
}

static void caches_round_to_nearest_even(void **unused)
{
    (void)unused;
    each_table(rounding_is_to_nearest_and_ties_go_to_even_in);
}

static void blocks_of_four_and_eight_bits_widen_as_their_format_says(void **unused)
{
    uint8_t q4_0[18] = {0x00, 0x38}, q4_1[20] = {0x00, 0x38, 0x00, 0xbc}, q8_0[34] = {0x00, 0x38}; /* d = 0.5, m = -1 */
    float f[32];
    (void)unused;
    for (int i = 0; i < 16; i++) q4_0[2 + i] = q4_1[4 + i] = (uint8_t)(i | (15 - i) << 4);
    for (int i = 0; i < 32; i++) q8_0[2 + i] = (uint8_t)(i * 8 - 128);
    kernels_widen(f, q4_0, DTYPE_Q4_0, 32);
    for (int i = 0; i < 16; i++) assert_true(f[i] == 0.5f * (float)(i - 8) && f[16 + i] == 0.5f * (float)(7 - i));
    kernels_widen(f, q4_1, DTYPE_Q4_1, 32);
    for (int i = 0; i < 16; i++) assert_true(f[i] == 0.5f * (float)i - 1 && f[16 + i] == 0.5f * (float)(15 - i) - 1);
    kernels_widen(f, q8_0, DTYPE_Q8_0, 32);
    for (int i = 0; i < 32; i++) assert_true(f[i] == 0.5f * (float)(i * 8 - 128));
    assert_string_equal(dtype_name(DTYPE_Q4_1), "q4_1");
    assert_int_equal(mat_row_bytes(&(struct mat){DTYPE_Q4_1, 1, 64, NULL}), 40);
}

/* ---- operations against double arithmetic ---- */

static void matmul_norm_and_swiglu_of(const struct kernels *k)
{
    enum { B = 7, D = 100, R = 9 };
    float x[B * D], w[R * D], g[D], y[B * R], n[B * D];
    struct mat m = {DTYPE_F32, R, D, w};
    randomise(x, B * D);
    randomise(w, R * D);
    randomise(g, D);
    for (int i = 0; i < B * R; i++) y[i] = 1;
    k->matmul(y, R, &m, x, B, MATMUL_ADD);
    for (int b = 0; b < B; b++)
        for (int r = 0; r < R; r++) {
            double s = 1;
            for (int i = 0; i < D; i++) s += (double)x[b * D + i] * w[r * D + i];
            assert_near(y[b * R + r], s, 1e-5);
        }
    k->rmsnorm(n, x, g, 1e-2f, B, D);
    for (int b = 0; b < B; b++) {
        double s = 0;
        for (int i = 0; i < D; i++) s += (double)x[b * D + i] * x[b * D + i];
        for (int i = 0; i < D; i++) assert_near(n[b * D + i], x[b * D + i] / sqrt(s / D + 1e-2) * g[i], 1e-6);
    }
    for (int i = 0; i < B * D; i++) x[i] *= 90;
    for (int i = 0; i < B * D; i++) n[i] = (float)i;
    k->swiglu(y, x, n, 1, B * R);
    for (int i = 0; i < B * R; i++) {
        double want = (double)x[i] / (1 + exp(-(double)x[i])) * i;
        assert_near(y[i], want, 1e-6 * fabs(want) + 1e-30);
    }
}

static void matmul_norm_and_swiglu_equal_double_arithmetic(void **unused)
{
    (void)unused;
    each_table(matmul_norm_and_swiglu_of);
}

/* Two kv heads with two query heads each over 1 to 150 tokens, every fifth of them hidden from kv head 1. */
static void attention_of(const struct kernels *k)
{
    enum { H = 4, G = 2, E = 24, PAGES = 3, N = G * PAGE_TOKENS * E };
    static float key[PAGES][N], value[PAGES][N];
    static const int last[] = {0, 1, 62, 63, 64, 127, 149};
    uint64_t hidden[PAGES][G] = {{0}};
    struct kv_page page[PAGES], *table[PAGES], *const *rows[] = {table};
    struct attn a = {H, G, E, DTYPE_F32, 0.7f};
    float q[H * E], out[H * E];
    randomise(q, H * E);
    for (int p = 0; p < PAGES; p++) {
        randomise(key[p], N);
        randomise(value[p], N);
        for (int t = 0; t < PAGE_TOKENS; t++) hidden[p][1] |= (uint64_t)((p * PAGE_TOKENS + t) % 5 == 0) << t;
        page[p] = (struct kv_page){key[p], value[p], hidden[p]};
        table[p] = &page[p];
    }
    for (size_t i = 0; i < sizeof last / sizeof *last; i++) {
        k->attend(out, q, one_layer(rows, &last[i], 1), 0, NULL, &a);
        for (int h = 0; h < H; h++) {
            double d = 0, o[E] = {0};
            int g = h / 2;
            for (int t = 0; t <= last[i]; t++) {
                size_t at = ((size_t)g * PAGE_TOKENS + (size_t)(t % PAGE_TOKENS)) * E;
                double s = 0;
                if (g == 1 && t % 5 == 0) continue;
                for (int e = 0; e < E; e++) s += (double)q[h * E + e] * key[t / PAGE_TOKENS][at + (size_t)e];
                s = exp(s * 0.7);
                d += s;
                for (int e = 0; e < E; e++) o[e] += s * value[t / PAGE_TOKENS][at + (size_t)e];
            }
            for (int e = 0; e < E; e++) assert_near(out[h * E + e], d > 0 ? o[e] / d : 0, 1e-6);
        }
    }
}

static void attention_equals_double_arithmetic_and_is_zero_when_nothing_is_seen(void **unused)
{
    (void)unused;
    each_table(attention_of);
}

static void a_nan_among_the_keys_never_becomes_a_number_in(const struct kernels *k)
{
    static float key[PAGE_TOKENS * 16], value[PAGE_TOKENS * 16];
    struct kv_page page = {key, value, NULL}, *table[] = {&page}, *const * rows[] = {table};
    struct attn a = {1, 1, 16, DTYPE_F32, 1};
    float q[16], out[16];
    int pos = 0;
    randomise(q, 16);
    key[3] = NAN;
    for (pos = 0; pos < 64; pos += 9) {
        k->attend(out, q, one_layer(rows, &pos, 1), 0, NULL, &a);
        for (int e = 0; e < 16; e++) assert_true(isnan(out[e]));
    }
}

static void a_nan_among_the_keys_reaches_the_output(void **unused)
{
    (void)unused;
    each_table(a_nan_among_the_keys_never_becomes_a_number_in);
}

static void rope_of(const struct kernels *k)
{
    enum { E = 12, N_ROT = 8, HALF = 4 };
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        float q[E], key[E], v[E], before[E], memory[2][PAGE_TOKENS * E] = {{0}}, c[HALF], s[HALF], freq[HALF];
        struct kv_page page = {memory[0], memory[1], NULL}, *table[] = {&page, &page}, *const * rows[] = {table};
        struct rope r = {c, s, N_ROT, interleaved};
        struct attn a = {1, 1, E, DTYPE_F32, 1};
        int pos = 70;
        kernels_rope_freqs(freq, 100.0, N_ROT);
        kernels_rope_table(c, s, freq, &pos, HALF, 1);
        randomise(q, E);
        randomise(v, E);
        memcpy(before, q, sizeof q);
        memcpy(key, q, sizeof q);
        k->rope_append(q, key, v, &r, one_layer(rows, &pos, 1), 0, &a);
        for (int i = 0; i < HALF; i++) {
            double t = 70 * pow(100.0, -2.0 * i / N_ROT);
            double x = before[interleaved ? 2 * i : i], y = before[interleaved ? 2 * i + 1 : i + HALF];
            assert_near(q[i], x * cos(t) - y * sin(t), 1e-5);
            assert_near(q[i + HALF], x * sin(t) + y * cos(t), 1e-5);
        }
        assert_memory_equal(q + N_ROT, before + N_ROT, (E - N_ROT) * sizeof *q);
        assert_memory_equal(q, key, sizeof q);
        assert_memory_equal(memory[0] + 6 * E, key, sizeof key); /* token 70 % 64 */
        assert_memory_equal(memory[1] + 6 * E, v, sizeof v);
        for (int i = 0; i < PAGE_TOKENS * E; i++)
            if (i / E != 6) assert_true(memory[0][i] == 0 && memory[1][i] == 0);
    }
}

static void rope_turns_pairs_by_their_angle_and_writes_one_token(void **unused)
{
    (void)unused;
    each_table(rope_of);
}

/* ---- rope tables ---- */

static float one_ulp(double x)
{
    float f = fabsf((float)x);
    return nextafterf(f, INFINITY) - f;
}

static void rope_tables_equal_libm_within_one_ulp(void **unused)
{
    static const double bases[] = {10000, 500000, 1000000, 10000000, 100};
    static const int pos[] = {0, 1, 2, 3, 7, 100, 1023, 2047, 8191, 16384, 32767, 65535, 100003, 131071, 1048575, 4194303};
    enum { N = sizeof pos / sizeof *pos };
    (void)unused;
    for (int i = 0; i < 5; i++) {
        float freq[64], c[N * 64], s[N * 64];
        kernels_rope_freqs(freq, bases[i], 128);
        kernels_rope_table(c, s, freq, pos, 64, N);
        for (int j = 0; j < 64; j++) assert_true(freq[j] == (float)pow(bases[i], -2.0 * j / 128));
        for (int j = 0; j < N * 64; j++) {
            float angle = (float)pos[j / 64] * freq[j % 64];
            assert_near(c[j], cos(angle), one_ulp(cos(angle)));
            assert_near(s[j], sin(angle), one_ulp(sin(angle)));
        }
    }
}

static void angles_far_out_or_missing_are_total(void **unused)
{
    float freq[] = {1, 1e30f, NAN, -1, 0.75f}, c[5], s[5];
    int pos = 2147483647;
    (void)unused;
    kernels_rope_table(c, s, freq, &pos, 5, 1);
    assert_true(isnan(c[0]) && isnan(c[1]) && isnan(c[2]) && isnan(c[3]));
    assert_near(c[4], cos(2147483648.0 * 0.75), 1e-7);
    pos = 1;
    kernels_rope_table(c, s, freq, &pos, 5, 1);
    assert_near(s[3], -sin(1), 1e-7);
    kernels_rope_freqs(freq, -1, 4);
    assert_true(isnan(freq[1]));
}

/* ---- greedy choice ---- */

static void choice_of(const struct kernels *k)
{
    enum { V = 1000 };
    float x[V], odd[] = {NAN, INFINITY, -INFINITY};
    struct pick p;
    double sum = 0;
    randomise(x, V);
    for (int i = 0; i < V; i++) x[i] *= 20;
    x[500] = 25;
    x[123] = 24.5;
    for (int i = 0; i < V; i++) sum += exp((double)x[i] - 25);
    k->pick(&p, x, 1, V);
    assert_int_equal(p.token, 500);
    assert_true(p.margin == 0.5f);
    assert_near(p.logprob, -log(sum), 1e-6);
    x[501] = x[502] = x[999] = 25; /* of equals the lowest */
    k->pick(&p, x, 1, V);
    assert_int_equal(p.token, 500);
    assert_true(p.margin == 0);
    for (int at = 0; at < V; at += 37)
        for (int i = 0; i < 3; i++) {
            float old = x[at];
            x[at] = odd[i];
            k->pick(&p, x, 1, V);
            assert_int_equal(p.token, -1);
            assert_true(isnan(p.logprob) && isnan(p.margin));
            x[at] = old;
        }
    for (int i = 0; i < V; i++) x[i] = i == 7 ? 100 : -100; /* certain */
    k->pick(&p, x, 1, V);
    assert_int_equal(p.token, 7);
    assert_true(p.logprob == 0 && !signbit(p.logprob));
}

static void pick_takes_the_largest_and_the_lowest_of_equals_and_refuses_what_is_not_finite(void **unused)
{
    (void)unused;
    each_table(choice_of);
}

/* ---- memory, threads ---- */

static void memory_is_zeroed_aligned_and_none_when_there_is_none(void **unused)
{
    const struct kernels *k = kernels_cpu(KERNELS_BEST);
    char *p = k->alloc(1000), back[4];
    (void)unused;
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(p[i], 0);
    memcpy(p, "abc", 4);
    k->copy(p + 100, p, 4);
    k->get(back, p + 100, 4);
    assert_string_equal(back, "abc");
    k->zero(p + 100, 4);
    assert_int_equal(p[100], 0);
    k->release(p);
    k->release(NULL);
    assert_null(k->alloc(SIZE_MAX));
    assert_int_equal(kernels_cpu_threads(3), 3);
    assert_true(kernels_cpu_threads(0) >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_and_bf16_widens_to_its_value),
        cmocka_unit_test(caches_round_to_nearest_even),
        cmocka_unit_test(blocks_of_four_and_eight_bits_widen_as_their_format_says),
        cmocka_unit_test(matmul_norm_and_swiglu_equal_double_arithmetic),
        cmocka_unit_test(attention_equals_double_arithmetic_and_is_zero_when_nothing_is_seen),
        cmocka_unit_test(a_nan_among_the_keys_reaches_the_output),
        cmocka_unit_test(rope_turns_pairs_by_their_angle_and_writes_one_token),
        cmocka_unit_test(rope_tables_equal_libm_within_one_ulp),
        cmocka_unit_test(angles_far_out_or_missing_are_total),
        cmocka_unit_test(pick_takes_the_largest_and_the_lowest_of_equals_and_refuses_what_is_not_finite),
        cmocka_unit_test(memory_is_zeroed_aligned_and_none_when_there_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
