/* test_kernels_ops.c: the operations that only some architectures need, against cpu_scalar.c bit by bit, and their functions
 * against libm in double. */
#include "../../kernels/kernels.h"
#include "one_layer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint32_t random_u32(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static int random_below(int n)
{
    return (int)(random_u32() % (uint32_t)n);
}

static float *random_floats(size_t n, float spread)
{
    float *f = malloc(n * sizeof *f);
    for (size_t i = 0; i < n; i++) f[i] = (float)((int)(random_u32() % 2000001) - 1000000) * 1e-6f * spread;
    return f;
}

/* Fails at the first float that differs in a bit; a NaN equals a NaN. */
static void assert_same(const float *a, const float *b, size_t n, const char *what, int detail)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0 && !(a[i] != a[i] && b[i] != b[i]))
            fail_msg("%s %d: element %zu is %a, the definition has %a", what, detail, i, (double)a[i], (double)b[i]);
}

static const struct kernels *isa_or_skip(void **isa)
{
    const struct kernels *k = kernels_cpu(*(enum kernels_isa *)*isa);
    if (!k) {
        print_message("skipped: this processor lacks %s\n", *(enum kernels_isa *)*isa == KERNELS_AVX2 ? "AVX2" : "AVX-512");
        skip();
    }
    return k;
}

static const struct kernels *scalar(void)
{
    return kernels_cpu(KERNELS_SCALAR);
}

/* ---- rows on their own ---- */

static void the_row_operations_equal_the_definition(void **isa)
{
    static const int widths[] = {1, 5, 16, 17, 40, 768, 2049};
    static const float odd[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e30f, -1e30f, 1e-42f, 100, -100};
    const struct kernels *k = isa_or_skip(isa);
    for (int i = 0; i < 42; i++) {
        int D = widths[i % 7], B = i < 21 ? 1 + random_below(4) : 50;
        size_t n = (size_t)B * (size_t)D;
        float *x = random_floats(n, i % 3 ? 3 : 60), *w = random_floats(n, 1), *b = random_floats((size_t)D, 1);
        float *want = malloc(n * 4), *y = malloc(n * 4);
        kernels_cpu_threads(1 + i % 2);
        scalar()->layernorm(want, x, w, b, 1e-5f, B, D);
        memcpy(y, x, n * 4);
        k->layernorm(y, y, w, b, 1e-5f, B, D);
        assert_same(y, want, n, "layernorm", D);
        memcpy(want, x, n * 4);
        memcpy(y, x, n * 4);
        scalar()->add(want, b, 0, B, D);
        k->add(y, b, 0, B, D);
        scalar()->add(want, w, D, B, D);
        k->add(y, w, D, B, D);
        assert_same(y, want, n, "add", D);
        for (int j = 0; j < 10 && (size_t)j < n; j++) x[random_below((int)n)] = odd[j];
        for (int form = GELU_TANH; form <= GELU_EXACT; form++) {
            scalar()->gelu(want, x, NULL, (enum gelu)form, B, D);
            k->gelu(y, x, NULL, (enum gelu)form, B, D);
            assert_same(y, want, n, "gelu", form);
            scalar()->gelu(want, x, w, (enum gelu)form, B, D);
            memcpy(y, x, n * 4);
            k->gelu(y, y, w, (enum gelu)form, B, D);
            assert_same(y, want, n, "gated gelu", form);
        }
        scalar()->softcap(want, x, 2.5f, n);
        k->softcap(y, x, 2.5f, n);
        assert_same(y, want, n, "softcap", D);
        scalar()->scale(want, x, 0.3f, n);
        k->scale(y, x, 0.3f, n);
        assert_same(y, want, n, "scale", D);
        free(x);
        free(w);
        free(b);
        free(want);
        free(y);
    }
}

static void activations_are_their_functions(void **unused)
{
    enum { N = 40001 };
    static float x[N], tanh_form[N], exact[N], cap[N];
    (void)unused;
    for (int i = 0; i < N; i++) x[i] = (float)(i - N / 2) * 1e-3f;
    scalar()->gelu(tanh_form, x, NULL, GELU_TANH, 1, N);
    scalar()->gelu(exact, x, NULL, GELU_EXACT, 1, N);
    scalar()->softcap(cap, x, 1, N);
    for (int i = 0; i < N; i++) {
        double v = x[i], size = fabs(v) > 1 ? fabs(v) : 1;
        assert_true(fabs(tanh_form[i] - 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)))) < 2e-7 * size);
        assert_true(fabs(exact[i] - v * 0.5 * erfc(-v / sqrt(2))) < 2e-7 * size);
        assert_true(fabs(cap[i] - tanh(v)) < 2e-7 && (v == 0 || fabs(cap[i] / tanh(v) - 1) < 3e-7));
    }
}

static void a_layer_norm_has_mean_zero_and_deviation_one(void **unused)
{
    enum { D = 100 };
    float *x = random_floats(D, 1), w[D], b[D], y[D];
    double mean = 0, square = 0;
    (void)unused;
    for (int i = 0; i < D; i++) {
        x[i] += 5;
        w[i] = 2;
        b[i] = 1;
    }
    scalar()->layernorm(y, x, w, b, 0, 1, D);
    for (int i = 0; i < D; i++) {
        mean += (double)y[i] / D;
        square += ((double)y[i] - 1) * ((double)y[i] - 1) / D;
    }
    assert_true(fabs(mean - 1) < 1e-5 && fabs(square - 4) < 1e-4);
    free(x);
}

static void runs_of_bytes_are_copied(void **unused)
{
    char from[20] = "abcdefghijklmno", to[20] = "...............";
    (void)unused;
    scalar()->copy_rows(to, 4, from + 1, 5, 2, 3);
    assert_memory_equal(to, "bc..gh..lm.....", 15);
}

/* ---- the transposed matmul ---- */

/* The matrix (rows, cols) as it would lie untransposed; the transpose has `extra` more outputs on each side. */
static void check_matmul_t(const struct kernels *k, enum dtype t, int rows, int cols, int B)
{
    const int extra = 3, ldt = rows + 2 * extra, ldy = rows + 2;
    const size_t bytes = (size_t)dtype_block_bytes(t), n = (size_t)B * (size_t)ldy;
    char *turned = malloc((size_t)cols * (size_t)ldt * bytes + 1), *plain = malloc((size_t)rows * (size_t)cols * bytes);
    struct mat wt = {t, rows, cols, turned + 1 + (size_t)extra * bytes, ldt}, w = {t, rows, cols, plain, 0};
    float *x = random_floats((size_t)B * (size_t)cols, 1), *start = random_floats(n, 1), *want = malloc(n * 4),
          *y = malloc(n * 4);
    for (int c = 0; c < cols; c++)
        for (int r = 0; r < ldt; r++) {
            float *f = random_floats(1, 0.5f);
            char *to = turned + 1 + ((size_t)c * (size_t)ldt + (size_t)r) * bytes; /* aligned to nothing */
            if (random_below(50) == 0) *f *= 1e-38f;
            kernels_narrow(plain, t, f, 1);
            memcpy(to, plain, bytes);
            free(f);
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            memcpy(plain + ((size_t)r * (size_t)cols + (size_t)c) * bytes,
                   (const char *)wt.data + ((size_t)c * (size_t)ldt + (size_t)r) * bytes, bytes);
    for (int then = MATMUL_STORE; then <= MATMUL_ADD; then++) {
        memcpy(want, start, n * 4);
        scalar()->matmul(want, ldy, &w, x, B, (enum matmul_then)then);
        for (int threads = 1; threads <= 2; threads++) {
            kernels_cpu_threads(threads);
            memcpy(y, start, n * 4);
            k->matmul_t(y, ldy, &wt, x, B, (enum matmul_then)then);
            assert_same(y, want, n, dtype_name(t), rows * 10000 + cols);
        }
    }
    free(turned);
    free(plain);
    free(x);
    free(start);
    free(want);
    free(y);
}

static void the_transposed_matmul_equals_the_plain_one(void **isa)
{
    /* outputs, columns, rows of x: in place and packed, whole blocks and ends, and columns too many to pack */
    static const int shapes[][3] = {{1, 1, 1},    {5, 7, 3},     {16, 16, 6},  {17, 31, 7},   {48, 48, 5},
                                    {40, 33, 2},  {64, 100, 13}, {30, 768, 9}, {144, 48, 21}, {96, 64, 64},
                                    {300, 20, 1}, {275, 50, 2},  {260, 33, 3}, {50, 4100, 1}, {20, 8300, 5}};
    const struct kernels *k = isa_or_skip(isa);
    for (int t = DTYPE_F32; t <= DTYPE_BF16; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_matmul_t(k, (enum dtype)t, shapes[i][0], shapes[i][1], shapes[i][2]);
}

/* ---- attention with caps and windows ---- */

enum { TOKENS = 400, PAGES = (TOKENS + PAGE_TOKENS - 1) / PAGE_TOKENS, ROWS = 90 };

struct sequence {
    struct attn a;
    struct kv_page pages[PAGES], *table[PAGES];
    struct kv_page *const *rows[ROWS];
    int pos[ROWS];
    float *q; /* (ROWS, H, E) */
};

/* Rows at rising positions of one sequence, as in a prefill, or far apart. */
static void sequence_make(struct sequence *s, struct attn a, int first, int step)
{
    size_t n = (size_t)a.G * PAGE_TOKENS * (size_t)a.E;
    s->a = a;
    for (int p = 0; p < PAGES; p++) {
        float *k = random_floats(n, 2), *v = random_floats(n, 1);
        s->pages[p] = (struct kv_page){malloc(n * 4), malloc(n * 4), NULL};
        kernels_narrow(s->pages[p].k, a.kv_type, k, n);
        kernels_narrow(s->pages[p].v, a.kv_type, v, n);
        s->table[p] = &s->pages[p];
        free(k);
        free(v);
    }
    for (int b = 0; b < ROWS; b++) {
        s->pos[b] = (first + b * step) % TOKENS;
        s->rows[b] = s->table;
    }
    s->q = random_floats((size_t)ROWS * (size_t)a.H * (size_t)a.E, 2);
}

static void sequence_clear(struct sequence *s)
{
    for (int p = 0; p < PAGES; p++) {
        free(s->pages[p].k);
        free(s->pages[p].v);
        free(s->pages[p].hidden);
    }
    free(s->q);
}

static void attend_with_caps_and_windows_equals_the_definition(void **isa)
{
    static const int windows[] = {0, 1, 2, 7, 63, 64, 65, 128, 200, 100000};
    static const int shapes[][3] = {{4, 2, 16}, {3, 3, 24}, {6, 2, 64}, {2, 1, 128}};
    const struct kernels *k = isa_or_skip(isa);
    for (int i = 0; i < 40; i++) {
        const int *h = shapes[i % 4];
        struct attn a = {h[0], h[1], h[2], (enum dtype)(i % 3), 0.3f, i % 2 ? 5.0f : 0, windows[i % 10]};
        size_t row = (size_t)a.H * (size_t)a.E, n = ROWS * row;
        float *want = malloc(n * 4), *out = malloc(n * 4);
        struct sequence s;
        sequence_make(&s, a, random_below(250), i % 4 ? 1 : 37);
        scalar()->attend(want, s.q, one_layer(s.rows, s.pos, ROWS), 0, NULL, &a);
        for (int threads = 1; threads <= 3; threads++) {
            kernels_cpu_threads(threads);
            k->attend(out, s.q, one_layer(s.rows, s.pos, ROWS), 0, NULL, &a);
            assert_same(out, want, n, "window", a.window);
        }
        for (int b = 0; b < ROWS; b += 17) {
            k->attend(out, s.q + (size_t)b * row, one_layer(s.rows + b, s.pos + b, 1), 0, NULL, &a);
            assert_same(out, want + (size_t)b * row, row, "alone, window", a.window);
        }
        free(want);
        free(out);
        sequence_clear(&s);
    }
}

static void a_window_is_the_same_as_hiding_what_lies_before_it(void **unused)
{
    enum { N = 4 * 16 };
    float want[N], out[N];
    (void)unused;
    for (int window = 1; window < 300; window += 13) {
        struct attn a = {4, 2, 16, DTYPE_F32, 0.25f, 0, 0};
        struct sequence s;
        sequence_make(&s, a, 260, 1);
        a.window = window;
        scalar()->attend(want, s.q, one_layer(s.rows, s.pos, 1), 0, NULL, &a);
        a.window = 0;
        for (int t = 0; t <= 260 - window; t++) {
            struct kv_page *p = &s.pages[t / PAGE_TOKENS];
            if (!p->hidden) p->hidden = calloc(2, sizeof *p->hidden);
            p->hidden[0] |= (uint64_t)1 << t % PAGE_TOKENS;
            p->hidden[1] |= (uint64_t)1 << t % PAGE_TOKENS;
        }
        scalar()->attend(out, s.q, one_layer(s.rows, s.pos, 1), 0, NULL, &a);
        assert_same(out, want, N, "window", window);
        sequence_clear(&s);
    }
}

/* The captured weights, times the values, are what attention gives. */
static void captured_weights_are_those_of_attend(void **unused)
{
    struct attn a = {1, 1, 16, DTYPE_F32, 0.25f, 3, 50};
    unsigned char seen[TOKENS] = {0};
    float out[16], weights[TOKENS], *keys = malloc(TOKENS * 16 * sizeof *keys);
    struct sequence s;
    int n = 261;
    (void)unused;
    sequence_make(&s, a, 260, 1);
    scalar()->attend(out, s.q, one_layer(s.rows, s.pos, 1), 0, NULL, &a);
    for (int t = 0; t < n; t++) {
        memcpy(keys + t * 16, (float *)s.pages[t / PAGE_TOKENS].k + t % PAGE_TOKENS * 16, 16 * sizeof *keys);
        seen[t] = t > 260 - 50;
    }
    kernels_attention_row(weights, s.q, keys, seen, n, &a);
    for (int e = 0; e < 16; e++) {
        double sum = 0;
        for (int t = 0; t < n; t++) sum += (double)weights[t] * ((float *)s.pages[t / PAGE_TOKENS].v)[t % PAGE_TOKENS * 16 + e];
        assert_true(fabs(sum - out[e]) < 1e-6);
    }
    assert_true(weights[210] == 0 && weights[211] > 0);
    memset(seen, 0, sizeof seen);
    kernels_attention_row(weights, s.q, keys, seen, n, &a);
    for (int t = 0; t < n; t++) assert_true(weights[t] == 0);
    free(keys);
    sequence_clear(&s);
}

int main(void)
{
    static enum kernels_isa isas[] = {KERNELS_SCALAR, KERNELS_AVX2, KERNELS_AVX512};
#define BOTH(f)                               \
    {#f " avx2", f, NULL, NULL, &isas[1]},    \
    {                                         \
#f " avx512", f, NULL, NULL, &isas[2] \
    }
    const struct CMUnitTest tests[] = {
        BOTH(the_row_operations_equal_the_definition),
        cmocka_unit_test(activations_are_their_functions),
        cmocka_unit_test(a_layer_norm_has_mean_zero_and_deviation_one),
        cmocka_unit_test(runs_of_bytes_are_copied),
        {"the_transposed_matmul_equals_the_plain_one scalar", the_transposed_matmul_equals_the_plain_one, NULL, NULL, &isas[0]},
        BOTH(the_transposed_matmul_equals_the_plain_one),
        BOTH(attend_with_caps_and_windows_equals_the_definition),
        cmocka_unit_test(a_window_is_the_same_as_hiding_what_lies_before_it),
        cmocka_unit_test(captured_weights_are_those_of_attend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
