/* test_cuda_library.c: the vendor's matmul, which kvrun bench compares ours with. It recomputes some of each product in double
 * and times only what is right, so that a time is also a verdict; the emulated library can be made wrong to see that. */
#include "in_child.h"

static const char *why;

/* On a device without the library nothing is compared, which is no fault. */
static double seconds_or_skip(int rows, int cols, int B)
{
    double s;
    why = NULL;
    s = cuda->library_matmul(rows, cols, B, &why);
    no_trouble();
    if (s < 0 && strstr(why, "can be loaded")) {
        print_message("not compared: %s\n", why);
        skip();
    }
    if (s < 0) fail_msg("%d x %d, %d rows: %s", rows, cols, B, why);
    return s;
}

/* Lines of /proc/self/maps with the library's name. */
static int mapped(void)
{
    char line[600];
    FILE *f = fopen("/proc/self/maps", "r");
    int n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) n += strstr(line, "libcublas") != NULL;
    fclose(f);
    return n;
}

static void nothing_is_loaded_before_it_is_asked_for(void **unused)
{
    struct mat w = random_mat(DTYPE_BF16, 64, 64), there = mat_up(&w, 64 * 64 * 2);
    float *x = cuda->alloc(64 * 4), *y = cuda->alloc(64 * 4);
    (void)unused;
    cuda->matmul(y, 64, &there, x, 1, MATMUL_STORE);
    free(down(y, 64));
    assert_int_equal(mapped(), 0);
    cuda->release(x);
    cuda->release((void *)there.data);
    free((void *)w.data);
}

static void products_of_many_shapes_are_right_and_take_time(void **unused)
{
    static const int shapes[][3] = {{64, 64, 1},    {1, 8, 1},     {96, 576, 3},   {257, 64, 17},
                                    {512, 256, 64}, {48, 1536, 5}, {192, 576, 32}, {576, 576, 1}};
    int i, n = rounds(80) / 10 + 1;
    (void)unused;
    for (i = 0; i < n && i < (int)(sizeof shapes / sizeof *shapes); i++) {
        double s = seconds_or_skip(shapes[i][0], shapes[i][1], shapes[i][2]);
        assert_true(s > 0 && s < 10);
        assert_string_equal(why, "");
    }
}

static void our_own_products_do_not_notice(void **unused)
{
    enum { B = 5, K = 128, R = 72 };
    struct mat w = random_mat(DTYPE_BF16, R, K), there = mat_up(&w, R * K * 2);
    float *in = random_floats(B * K, 1), *x = up(in, B * K * 4), *y = cuda->alloc(B * R * 4), want[B * R], *got;
    (void)unused;
    cuda->matmul(y, R, &there, x, B, MATMUL_STORE);
    cuda->get(want, y, sizeof want);
    seconds_or_skip(R, K, B);
    cuda->matmul(y, R, &there, x, B, MATMUL_STORE);
    got = down(y, B * R);
    check_same(got, want, B * R, "after the library", B, K);
    cuda->release(x);
    cuda->release((void *)there.data);
    free((void *)w.data);
    free(in);
    free(got);
}

/* ---- an emulated library that is not as it should be ---- */

static void refused(const char *says)
{
    char text[200];
    const struct kernels *k = open_in_child(text, sizeof text);
    double s;
    int i;
    CHECK(k);
    for (i = 0; i < 2; i++) { /* the second time it is not looked for again */
        why = NULL;
        s = k->library_matmul(64, 96, 3, &why);
        if (!why || !strstr(why, says)) fprintf(stderr, "'%s', not '%s'\n", why ? why : "", says);
        CHECK(s < 0 && why && strstr(why, says));
        CHECK(!k->trouble(NULL)); /* a comparison that fails is none of the pass's business */
    }
}

static void none(void)
{
    refused("no libcublas.so.13, .12 or .11 can be loaded");
}

static void old(void)
{
    refused("the cuBLAS found has no cublasGemmEx");
}

static void dead(void)
{
    refused("cuBLAS does not start (status 1)");
}

static void refusing(void)
{
    refused("cublasGemmEx refuses the product (status 15)");
}

static void wrong(void)
{
    refused("its product is wrong: row ");
}

static void too_large(void)
{
    refused("no memory for ");
}

static void what_is_missing_is_told(void **unused)
{
    (void)unused;
    in_child(none, "CUDA_EMU_CUBLAS", "none");
    in_child(old, "CUDA_EMU_CUBLAS", "old");
    in_child(dead, "CUDA_EMU_CUBLAS", "dead");
    in_child(refusing, "CUDA_EMU_CUBLAS", "refusing");
    in_child(too_large, "CUDA_EMU_MEMORY", "10000");
}

static void a_wrong_product_is_not_timed(void **unused)
{
    (void)unused;
    in_child(wrong, "CUDA_EMU_CUBLAS", "wrong");
}

int main(void)
{
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(what_is_missing_is_told),
        cmocka_unit_test(a_wrong_product_is_not_timed),
    };
    const struct CMUnitTest both[] = {
        cmocka_unit_test(nothing_is_loaded_before_it_is_asked_for),
        cmocka_unit_test(products_of_many_shapes_are_right_and_take_time),
        cmocka_unit_test(our_own_products_do_not_notice),
    };
    int failed = is_device() ? 0 : cmocka_run_group_tests(emulated, NULL, NULL), skip = open_or_skip();
    return skip ? skip : failed + cmocka_run_group_tests(both, NULL, NULL);
}
