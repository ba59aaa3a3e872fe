/* test_cuda_matmul.c: products: the CPU's bits for f32 and quantised weights and the transposed ones, bounds for bf16 and f16,
 * and for all: a row has the same bits alone, in any batch and at any place of it. */
#include "cuda_test.h"

static size_t mat_bytes(const struct mat *w)
{
    return w->ldt ? (size_t)w->cols * (size_t)w->ldt * (size_t)dtype_block_bytes(w->type) : mat_row_bytes(w) * (size_t)w->rows;
}

/* Rows first..first+B-1 of x through the device, onto rows of `start`. x lies at any address now and then, not at one of 16. */
static float *product(const struct mat *d, const float *x, int first, int B, int ldy, const float *start, enum matmul_then then)
{
    size_t n = (size_t)B * (size_t)ldy, K = (size_t)d->cols;
    int off = random_below(4) ? 0 : 1 + random_below(3);
    float *dx = cuda->alloc(((size_t)off + (size_t)B * K) * 4), *y = up(start + (size_t)first * (size_t)ldy, n * 4);
    assert_non_null(dx);
    cuda->put(dx + off, x + (size_t)first * K, (size_t)B * K * 4);
    if (d->ldt)
        cuda->matmul_t(y, ldy, d, dx + off, B, then);
    else
        cuda->matmul(y, ldy, d, dx + off, B, then);
    cuda->release(dx);
    return down(y, n);
}

/* What `most` rows make must come out of every smaller batch, whichever rows it has. */
static void check_batches(const struct mat *d, const float *x, int most, int ldy, const float *start, const float *want,
                          enum matmul_then then)
{
    static const int batches[] = {1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 32, 33, 64, 65, 129, 130};
    for (size_t i = 0; i < sizeof batches / sizeof *batches && batches[i] <= most; i += rounds(100) < 20 ? 3 : 1) {
        int B = batches[i], first = random_below(most - B + 1);
        float *got = product(d, x, first, B, ldy, start, then);
        check_same(got, want + (size_t)first * (size_t)ldy, (size_t)B * (size_t)ldy, dtype_name(d->type), B, d->cols);
        free(got);
    }
}

static void check_exact(enum dtype t, int rows, int cols, int most, int ldt)
{
    int ldy = rows + 3;
    struct mat w = ldt ? random_mat(t, cols, ldt) : random_mat(t, rows, cols), d;
    size_t n = (size_t)ldy * (size_t)most;
    float *x = random_floats((size_t)most * (size_t)cols, 1), *start = random_floats(n, 1), *want = malloc(n * 4);
    w.rows = rows;
    w.cols = cols;
    w.ldt = ldt;
    d = mat_up(&w, mat_bytes(&w));
    for (int then = MATMUL_STORE; then <= MATMUL_ADD; then++) {
        memcpy(want, start, n * 4);
        (ldt ? cpu->matmul_t : cpu->matmul)(want, ldy, &w, x, most, (enum matmul_then)then);
        check_batches(&d, x, most, ldy, start, want, (enum matmul_then)then);
    }
    cuda->release((void *)d.data);
    free((void *)w.data);
    free(x);
    free(start);
    free(want);
}

static void f32_and_quantised_weights_give_the_bits_of_the_cpu(void **unused)
{
    static const int shapes[][3] = {{1, 1, 5}, {33, 10, 65}, {13, 18, 9}, {70, 9, 33}, {37, 48, 4}};
    (void)unused;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        int block = dtype_block((enum dtype)t);
        if (t == DTYPE_F16 || t == DTYPE_BF16) continue;
        for (int i = 0; i < (rounds(100) < 50 ? 2 : 5); i++)
            check_exact((enum dtype)t, shapes[i][0], (shapes[i][1] * 32 + block - 1) / block * block, shapes[i][2], 0);
    }
    for (int cols = 1; cols < 50; cols += 6) check_exact(DTYPE_F32, 9, cols, 5, 0);
    for (int cols = 1; cols < 100; cols += 21) check_exact(DTYPE_F32, 35, cols, cols % 2 ? 33 : 17, 0);
}

static void transposed_weights_give_the_bits_of_the_cpu(void **unused)
{
    (void)unused;
    for (int t = DTYPE_F32; t <= DTYPE_BF16; t++) {
        check_exact((enum dtype)t, 1, 1, 2, 1);
        check_exact((enum dtype)t, 33, 48, 9, 40);
        check_exact((enum dtype)t, 70, 101, 4, 70);
        check_exact((enum dtype)t, 70, 44, 65, 71);
        check_exact((enum dtype)t, 31, 81, 33, 33);
    }
}

/* A sum can be -0, which one more fma of zeros would turn into +0. */
static void sums_of_minus_zero_have_the_sign_of_the_cpu(void **unused)
{
    static const int cols[] = {24, 32, 48};
    (void)unused;
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (int B = 1; B <= 41; B += 20) {
            const int K = cols[i], R = 3;
            struct mat w = {DTYPE_F32, R, K, NULL, 0}, d;
            float *tiny = malloc((size_t)(R * K) * 4), *x = malloc((size_t)(B * K) * 4), *want = calloc((size_t)(B * R), 4),
                  *got;
            for (int k = 0; k < R * K; k++) tiny[k] = -1e-30f;
            for (int k = 0; k < B * K; k++) x[k] = 1e-30f;
            w.data = tiny;
            d = mat_up(&w, mat_bytes(&w));
            got = product(&d, x, 0, B, R, want, MATMUL_STORE);
            cpu->matmul(want, R, &w, x, B, MATMUL_STORE);
            assert_true(!signbit(want[0]) == (K % 16 != 0));
            check_same(got, want, (size_t)(B * R), "minus zero", K, B);
            cuda->release((void *)d.data);
            free(tiny);
            free(x);
            free(want);
            free(got);
        }
}

/* The bound: x and w are exact in their type, so what differs from the sum in double is the f32 addition: for chains of at most
   K/16 products of 16, and what the tensor cores cut off in each, K/8 + 8 half units in the last place of the sum of
   magnitudes. */
static void check_narrow(enum dtype t, int rows, int cols, int most)
{
    int ldy = rows + 1;
    struct mat w = random_mat(t, rows, cols), d = mat_up(&w, mat_bytes(&w));
    size_t n = (size_t)ldy * (size_t)most, K = (size_t)cols;
    float *x = random_floats((size_t)most * K, 2), *start = random_floats(n, 1), *want = malloc(n * 4), *bound = malloc(n * 4);
    float *wide = malloc((size_t)rows * K * 4), *all;
    uint16_t *narrow = malloc((size_t)most * K * 2);
    float *x_narrow = malloc((size_t)most * K * 4);
    kernels_widen(wide, w.data, t, (size_t)rows * K);
    kernels_narrow(narrow, t, x, (size_t)most * K);
    kernels_widen(x_narrow, narrow, t, (size_t)most * K);
    memcpy(want, start, n * 4);
    memset(bound, 0, n * 4);
    for (int b = 0; b < most; b++)
        for (int r = 0; r < rows; r++) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < K; k++) {
                double p = (double)wide[(size_t)r * K + k] * (double)x_narrow[(size_t)b * K + k];
                sum += p;
                size += fabs(p);
            }
            want[(size_t)b * (size_t)ldy + (size_t)r] = (float)sum;
            bound[(size_t)b * (size_t)ldy + (size_t)r] = (float)(size * ((double)cols / 8 + 8) * 0x1p-24);
        }
    all = product(&d, x, 0, most, ldy, start, MATMUL_STORE);
    check_near(all, want, bound, n, dtype_name(t), rows, cols);
    check_batches(&d, x, most, ldy, start, all, MATMUL_STORE);
    for (int b = 0; b < most; b++)
        for (int r = 0; r < rows; r++) all[(size_t)b * (size_t)ldy + (size_t)r] += start[(size_t)b * (size_t)ldy + (size_t)r];
    check_batches(&d, x, most, ldy, start, all, MATMUL_ADD); /* rounded once, after the sum */
    cuda->release((void *)d.data);
    free((void *)w.data);
    free(x);
    free(start);
    free(want);
    free(bound);
    free(wide);
    free(narrow);
    free(x_narrow);
    free(all);
}

static void bf16_and_f16_weights_are_within_bounds_and_the_same_in_every_batch(void **unused)
{
    static const int shapes[][3] = {/* rows, columns, most rows of x */
                                    {1, 1, 2},     {7, 15, 17},      {9, 40, 33},    {130, 72, 65},
                                    {20, 600, 20}, {140, 2056, 130}, {33, 2305, 18}, {8, 520, 9}};
    (void)unused;
    for (int t = DTYPE_F16; t <= DTYPE_BF16; t++)
        for (int i = 0; i < 8; i++)
            if (shapes[i][1] < 1000 || rounds(10) > 5) check_narrow((enum dtype)t, shapes[i][0], shapes[i][1], shapes[i][2]);
}

static void a_second_product_of_the_same_x_and_one_after_it_changed_are_right(void **unused)
{
    enum { B = 20, K = 64 };
    struct mat w = random_mat(DTYPE_BF16, K, K), d = mat_up(&w, mat_bytes(&w));
    float *x = random_floats(B * K, 1), *zero = calloc(B * K, 4), *first = product(&d, x, 0, B, K, zero, MATMUL_STORE), *got,
          *next;
    float *dx = up(x, B * K * 4), *y = cuda->alloc(B * K * 4), *z = cuda->alloc(B * K * 4);
    (void)unused;
    cuda->matmul(y, K, &d, dx, B, MATMUL_STORE);
    cuda->matmul(z, K, &d, dx, B, MATMUL_STORE);
    got = malloc(B * K * 4);
    cuda->get(got, z, B * K * 4);
    check_same(got, first, B * K, "again", B, K);
    next = product(&d, first, 0, B, K, zero, MATMUL_STORE);
    cuda->matmul(dx, K, &d, dx == y ? z : y, B, MATMUL_STORE); /* into what was x */
    cuda->matmul(z, K, &d, dx, B, MATMUL_STORE);
    cuda->get(got, dx, B * K * 4);
    check_same(got, next, B * K, "into x", B, K);
    free(first);
    first = product(&d, next, 0, B, K, zero, MATMUL_STORE);
    cuda->get(got, z, B * K * 4);
    check_same(got, first, B * K, "of the new x", B, K);
    cuda->release(dx);
    cuda->release(y);
    cuda->release(z);
    cuda->release((void *)d.data);
    no_trouble();
    free(x);
    free(zero);
    free(first);
    free(got);
    free(next);
    free((void *)w.data);
}

/* ---- products together ---- */

static void check_together(enum dtype t, int B, int K, const int *rows)
{
    enum { N = 4 };
    float *x = random_floats((size_t)(B * K), 1), *zero = calloc((size_t)(B * 131), 4), *dx = up(x, (size_t)(B * K) * 4), *y[N];
    struct mat w[N], d[N];
    for (int i = 0; i < N; i++) {
        w[i] = random_mat(t, rows[i], K);
        d[i] = mat_up(&w[i], mat_bytes(&w[i]));
        y[i] = up(zero, (size_t)(B * (rows[i] + 1)) * 4);
    }
    for (int i = 0; i < N; i++) cuda->matmul(y[i], rows[i] + 1, &d[i], dx, B, MATMUL_STORE);
    cuda->zero(dx, (size_t)(B * K) * 4);
    for (int i = 0; i < N; i++) {
        size_t n = (size_t)(B * (rows[i] + 1));
        float *alone = product(&d[i], x, 0, B, rows[i] + 1, zero, MATMUL_STORE), *got = down(y[i], n);
        check_same(got, alone, n, dtype_name(t), B, K);
        cuda->release((void *)d[i].data);
        free((void *)w[i].data);
        free(alone);
        free(got);
    }
    cuda->release(dx);
    free(x);
    free(zero);
}

static void products_of_one_x_give_the_bits_that_each_gives_alone(void **unused)
{
    static const int rows[][4] = {{130, 9, 40, 8}, {40, 9, 100, 130}};
    static const int sizes[][2] = {{1, 64}, {5, 72}, {16, 520}, {3, 35}, {20, 35}, {17, 64}, {40, 1032}, {66, 520}};
    int few = rounds(100) < 50;
    (void)unused;
    for (int t = DTYPE_F16; t <= DTYPE_BF16; t++)
        for (int i = few ? t - DTYPE_F16 : 0; i < 8; i += few ? 2 : 1)
            check_together((enum dtype)t, sizes[i][0], sizes[i][1], rows[sizes[i][1] > 500]);
}

/* Products and other operations on places of one buffer, at random, many of them over each other. `alone`: nothing can wait for
   the next one, since each is asked for its result. */
enum { SLOT = 20 * 64, SLOTS = 6, PLACES = SLOT * (SLOTS + 1), MATRICES = 4, STEPS = 60 };

static float *run(uint64_t seed, int alone, int most, const struct mat *w, const float *start)
{
    float *p = up(start, PLACES * 4), *x = p;
    random_state = seed;
    for (int i = 0; i < STEPS; i++) {
        const struct mat *m = &w[random_below(MATRICES)];
        int what = random_below(16), B = random_below(5) ? most : most - 1, slot = random_below(SLOTS),
            from = random_below(SLOTS);
        int off = random_below(3) ? 0 : random_below(SLOT);
        float *y = p + slot * SLOT + off;
        if (random_below(4) == 0) x = p + from * SLOT;
        if (what == 0)
            cuda->scale(x, x, 0.5f, SLOT);
        else if (what == 1)
            cuda->put(p + from * SLOT, start, SLOT * 4);
        else if (what == 2 && slot != from)
            cuda->copy(p + slot * SLOT, p + from * SLOT, SLOT * 2);
        else if (y + B * 64 <= x || x + B * 64 <= y) /* what a product reads, it does not write */
            cuda->matmul(y, random_below(2) ? 64 : m->rows, m, x, B, what < 5 ? MATMUL_ADD : MATMUL_STORE);
        if (alone) {
            float one;
            cuda->get(&one, p, 4);
        }
    }
    return down(p, PLACES);
}

static void products_that_wait_for_the_next_one_are_not_noticed(void **unused)
{
    static const int batches[] = {2, 16, 17, 20};
    (void)unused;
    for (int i = 0; i < rounds(40); i++) {
        struct mat w[MATRICES], d[MATRICES];
        float *start = random_floats(PLACES, 1), *want, *got;
        uint64_t seed = random_state;
        for (int k = 0; k < MATRICES; k++) {
            w[k] = random_mat(k == 0 ? DTYPE_F16 : k == 1 && i % 8 == 0 ? DTYPE_Q8_0 : DTYPE_BF16, 9 + random_below(56), 64);
            d[k] = mat_up(&w[k], mat_bytes(&w[k]));
        }
        want = run(seed, 1, batches[i % 4], d, start);
        got = run(seed, 0, batches[i % 4], d, start);
        check_same(got, want, PLACES, "together", i, 0);
        for (int k = 0; k < MATRICES; k++) {
            cuda->release((void *)d[k].data);
            free((void *)w[k].data);
        }
        free(start);
        free(want);
        free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_and_quantised_weights_give_the_bits_of_the_cpu),
        cmocka_unit_test(transposed_weights_give_the_bits_of_the_cpu),
        cmocka_unit_test(sums_of_minus_zero_have_the_sign_of_the_cpu),
        cmocka_unit_test(bf16_and_f16_weights_are_within_bounds_and_the_same_in_every_batch),
        cmocka_unit_test(a_second_product_of_the_same_x_and_one_after_it_changed_are_right),
        cmocka_unit_test(products_of_one_x_give_the_bits_that_each_gives_alone),
        cmocka_unit_test(products_that_wait_for_the_next_one_are_not_noticed),
    };
    int skip = open_or_skip();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
