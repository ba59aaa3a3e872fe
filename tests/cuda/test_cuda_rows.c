/* test_cuda_rows.c: memory, and the operations on rows or numbers on their own: the bits of the CPU. */
#include "cuda_test.h"

static void memory_is_zeroed_copied_and_brought_back(void **unused)
{
    const size_t n = 9u << 20; /* more than the two buffers of a get */
    unsigned char *host = malloc(n), *back = malloc(n), *a, *b;
    (void)unused;
    for (size_t i = 0; i < n; i++) host[i] = (unsigned char)(i * 2654435761u >> 24);
    a = cuda->alloc(n);
    b = cuda->alloc(n);
    cuda->get(back, a, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(back[i], 0);
    cuda->put(a, host, n);
    cuda->copy(b, a, 1000);
    cuda->copy(b + 1000, a + 1000, n - 1000); /* one copy with the one before */
    cuda->zero(b + 5, 7);
    for (size_t i = 0; i < 6; i++) cuda->copy(b + 5000 + i * 100, b + 5100 + i * 100, 100); /* rows move up, one by one */
    cuda->copy_rows(b + 100, 50, a, 20, 10, 30);
    cuda->get(back, b, n);
    memset(host + 5, 0, 7);
    memmove(host + 5000, host + 5100, 600);
    for (size_t i = 0; i < 30; i++)
        for (size_t c = 0; c < 10; c++) host[100 + i * 50 + c] = (unsigned char)((i * 20 + c) * 2654435761u >> 24);
    assert_memory_equal(back, host, n);
    cuda->release(a);
    cuda->release(b);
    cuda->release(NULL);
    for (int i = 0; i < 40; i++) { /* blocks that come back are zero again */
        unsigned char *p = cuda->alloc(777), some[777];
        cuda->get(some, p, sizeof some);
        for (size_t c = 0; c < sizeof some; c++) assert_int_equal(some[c], 0);
        memset(some, 0xa5, sizeof some);
        cuda->put(p, some, sizeof some);
        cuda->release(p);
    }
    no_trouble();
    free(host);
    free(back);
}

static void weights_are_uploaded_once(void **unused)
{
    enum { N = 5u << 20 };
    unsigned char *host = malloc(N), *back = malloc(N);
    const void *first, *again, *other;
    (void)unused;
    for (size_t i = 0; i < N; i++) host[i] = (unsigned char)random_u32();
    first = cuda->weights(host, N);
    assert_non_null(first);
    again = cuda->weights(host, N);
    assert_ptr_equal(again, first);
    other = cuda->weights(host, N / 2);
    assert_ptr_not_equal(other, first);
    cuda->get(back, first, N);
    assert_memory_equal(back, host, N);
    for (size_t i = 0; i < N; i++) host[i] ^= 1; /* another model at the same address */
    other = cuda->weights(host, N);
    assert_ptr_not_equal(other, first);
    cuda->get(back, other, N);
    assert_memory_equal(back, host, N);
    no_trouble();
    free(host);
    free(back);
}

static void embed_equals_the_cpu_for_every_type(void **unused)
{
    const int ids[] = {4, 0, 6, 6};
    int *device_ids = up(ids, sizeof ids);
    (void)unused;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        int block = dtype_block((enum dtype)t), cols = 3 * (block == 1 ? 113 : block);
        struct mat w = random_mat((enum dtype)t, 7, cols), d = mat_up(&w, mat_row_bytes(&w) * 7);
        float *want = malloc((size_t)cols * 16), *x = cuda->alloc((size_t)cols * 16);
        cpu->embed(want, &w, ids, 4);
        cuda->embed(x, &d, device_ids, 4);
        x = down(x, (size_t)cols * 4);
        check_same(x, want, (size_t)cols * 4, "embed", t, cols);
        cuda->release((void *)d.data);
        free((void *)w.data);
        free(want);
        free(x);
    }
    cuda->release(device_ids);
}

static void norms_equal_the_cpu(void **unused)
{
    static const int widths[] = {1, 7, 16, 17, 33, 576, 1536, 2049, 12000};
    (void)unused;
    for (int i = 0; i < rounds(18); i++) {
        int D = widths[i % 9], B = i < 9 ? 1 + random_below(4) : 20;
        size_t n = (size_t)B * (size_t)D;
        float *x = random_floats(n, i % 3 ? 3 : 60), *w = random_floats((size_t)D, 1), *b = random_floats((size_t)D, 1);
        float *want = malloc(n * 4), *dx = up(x, n * 4), *dw = up(w, (size_t)D * 4), *db = up(b, (size_t)D * 4);
        float *y = cuda->alloc(n * 4), *got;
        cpu->rmsnorm(want, x, w, 1e-5f, B, D);
        cuda->rmsnorm(y, dx, dw, 1e-5f, B, D);
        got = down(y, n);
        check_same(got, want, n, "rmsnorm", B, D);
        free(got);
        cpu->layernorm(want, x, w, b, 1e-5f, B, D);
        cuda->layernorm(dx, dx, dw, db, 1e-5f, B, D); /* in place */
        got = down(dx, n);
        check_same(got, want, n, "layernorm", B, D);
        free(got);
        cuda->release(dw);
        cuda->release(db);
        free(x);
        free(w);
        free(b);
        free(want);
    }
}

static void functions_of_one_number_equal_the_cpu(void **unused)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e30f, -1e30f, 1e-42f, 100, -100, 88.8f, -87.4f};
    (void)unused;
    for (int i = 0; i < rounds(12); i++) {
        int F = i % 2 ? 1 + random_below(700) : 1536, B = 1 + random_below(5);
        size_t n = (size_t)B * (size_t)F;
        float *x = random_floats(n, i % 3 ? 8 : 150), *u = random_floats(n, 1), *want = malloc(n * 4), *got;
        float *dx, *du = up(u, n * 4), *y;
        for (size_t c = 0; c < sizeof odd / sizeof *odd && c < n; c++) x[c * n / 12] = odd[c];
        dx = up(x, n * 4);
#define CHECK(operation, cpu_call, cuda_call)  \
    y = up(x, n * 4);                          \
    memcpy(want, x, n * 4);                    \
    cpu_call;                                  \
    cuda_call;                                 \
    got = down(y, n);                          \
    check_same(got, want, n, operation, B, F); \
    free(got)
        CHECK("swiglu", cpu->swiglu(want, x, u, B, F), cuda->swiglu(y, dx, du, B, F));
        CHECK("gelu", cpu->gelu(want, x, NULL, GELU_EXACT, B, F), cuda->gelu(y, dx, NULL, GELU_EXACT, B, F));
        CHECK("gelu up", cpu->gelu(want, x, u, GELU_EXACT, B, F), cuda->gelu(y, y, du, GELU_EXACT, B, F));
        CHECK("gelu tanh", cpu->gelu(want, x, NULL, GELU_TANH, B, F), cuda->gelu(y, dx, NULL, GELU_TANH, B, F));
        CHECK("gelu tanh up", cpu->gelu(want, x, u, GELU_TANH, B, F), cuda->gelu(y, dx, du, GELU_TANH, B, F));
        CHECK("softcap", cpu->softcap(want, x, 30, n), cuda->softcap(y, y, 30, n));
        CHECK("scale", cpu->scale(want, x, 0.3f, n), cuda->scale(y, dx, 0.3f, n));
        CHECK("add", cpu->add(want, u, F, B, F), cuda->add(y, du, F, B, F));
        CHECK("bias", cpu->add(want, u, 0, B, F), cuda->add(y, du, 0, B, F));
#undef CHECK
        cuda->release(dx);
        cuda->release(du);
        free(x);
        free(u);
        free(want);
    }
}

static void pick_equals_the_cpu(void **unused)
{
    static const int sizes[] = {1, 2, 15, 16, 17, 100, 4099, 12000};
    (void)unused;
    for (int i = 0; i < rounds(80); i++) {
        int V = sizes[i % 8], B = 1 + i % 5;
        size_t n = (size_t)V * (size_t)B;
        float *x = random_floats(n, 1), *dx;
        struct pick want[5], got[5], *out = cuda->alloc(sizeof got);
        for (size_t j = 0; j < n; j++) x[j] = i % 2 ? floorf(x[j] * 3) : x[j] * 40; /* ties; a wide range */
        if (i % 10 == 9) x[random_below((int)n)] = i % 20 == 9 ? NAN : -INFINITY;
        if (i % 10 == 7) memset(x, 0, sizeof *x * n);
        if (i % 10 == 7) x[random_below((int)n)] = -0.0f;
        dx = up(x, n * 4);
        cpu->pick(want, x, B, V);
        cuda->pick(out, dx, B, V);
        cuda->get(got, out, (size_t)B * sizeof *got);
        no_trouble();
        for (int b = 0; b < B; b++) {
            assert_int_equal(got[b].token, want[b].token);
            check_same(&got[b].logprob, &want[b].logprob, 1, "logprob", V, b);
            check_same(&got[b].margin, &want[b].margin, 1, "margin", V, b);
        }
        cuda->release(out);
        cuda->release(dx);
        free(x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_copied_and_brought_back), cmocka_unit_test(weights_are_uploaded_once),
        cmocka_unit_test(embed_equals_the_cpu_for_every_type),      cmocka_unit_test(norms_equal_the_cpu),
        cmocka_unit_test(functions_of_one_number_equal_the_cpu),    cmocka_unit_test(pick_equals_the_cpu),
    };
    int skip = open_or_skip();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
