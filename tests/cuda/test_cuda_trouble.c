/* test_cuda_trouble.c: what the table says when something fails. The emulator fails as its environment tells it, which is read
 * once: each such case is a process of its own. */
#include "in_child.h"

#include <pthread.h>

static void a_kernel_is_refused(void)
{
    char why[200];
    const struct kernels *k = open_in_child(why, sizeof why);
    float one[4] = {1, 2, 3, 4}, *x;
    const char *said;
    int memory = -1;
    CHECK(k && !k->trouble(&memory) && memory == 0);
    x = k->alloc(sizeof one);
    k->put(x, one, sizeof one);
    k->scale(x, x, 2, 4);
    k->softcap(x, x, 30, 4);
    k->scale(x, x, 2, 4); /* does nothing */
    said = k->trouble(&memory);
    CHECK(said && !strcmp(said, "softcap: unspecified launch failure (CUDA error 719)") && memory == 0);
    CHECK(!k->trouble(&memory));
    k->get(one, x, sizeof one);
    CHECK(one[3] == 8);
    k->scale(x, x, 2, 4); /* and goes on */
    k->get(one, x, sizeof one);
    CHECK(one[3] == 16 && !k->trouble(NULL));
}

/* A product waits for the next one of the same x: what fails then is still the product. */
static void a_product_that_waits_is_refused(void)
{
    enum { K = 64 };
    char why[200];
    const struct kernels *k = open_in_child(why, sizeof why);
    struct mat w = random_mat(DTYPE_BF16, K, K);
    float one[K] = {1}, *x, *y;
    const char *said;
    CHECK(k);
    w.data = k->weights(w.data, K * K * 2);
    x = k->alloc(sizeof one);
    y = k->alloc(sizeof one);
    k->put(x, one, sizeof one);
    k->matmul(y, K, &w, x, 1, MATMUL_STORE);
    said = k->trouble(NULL);
    CHECK(said && !strcmp(said, "matmul: unspecified launch failure (CUDA error 719)"));
    k->matmul(y, K, &w, x, 1, MATMUL_STORE);
    k->scale(x, x, 2, K); /* does nothing */
    said = k->trouble(NULL);
    CHECK(said && !strcmp(said, "matmul: unspecified launch failure (CUDA error 719)") && !k->trouble(NULL));
    k->get(one, x, sizeof one);
    CHECK(one[0] == 1 && !k->trouble(NULL));
}

static int launches(const char *kernel)
{
    FILE *f = fopen(getenv("CUDA_EMU_LOG"), "r");
    char line[200];
    int n = 0;
    CHECK(f);
    while (fgets(line, sizeof line, f)) n += strstr(line, kernel) != NULL;
    fclose(f);
    return n;
}

static void products_are_joined(void)
{
    enum { K = 64, B = 20 };
    char why[200];
    const struct kernels *k = open_in_child(why, sizeof why);
    struct mat w = random_mat(DTYPE_BF16, K, K);
    float *x, *y;
    CHECK(k);
    w.data = k->weights(w.data, K * K * 2);
    x = k->alloc(B * K * 4);
    y = k->alloc(4 * B * K * 4);
    for (int i = 0; i < 3; i++) k->matmul(y + i * B * K, K, &w, x, 1, MATMUL_STORE);
    k->scale(y, y, 2, K);
    CHECK(launches("few_rows") == 1);
    for (int i = 0; i < 4; i++) k->matmul(y + i * B * K, K, &w, x, B, MATMUL_STORE);
    k->release(k->alloc(4));
    CHECK(launches("many_rows") == 2 && launches("narrow_each") == 2 && launches("few_rows") == 1);
    k->matmul(y, K, &w, x, B, MATMUL_STORE);
    k->matmul(y + 8, K, &w, x, B, MATMUL_STORE); /* over the first one's */
    k->matmul(y + 2 * B * K, K, &w, x, B, MATMUL_ADD);
    CHECK(launches("many_rows") == 5 && !k->trouble(NULL));
}

static void memory_runs_out(void)
{
    enum { B = 40, K = 512 };
    char why[200];
    const struct kernels *k = open_in_child(why, sizeof why);
    struct mat w = random_mat(DTYPE_BF16, K, K);
    const char *said;
    float *x;
    int memory = 0;
    CHECK(k && !k->alloc(10 << 20) && !k->trouble(&memory)); /* told by NULL alone */
    w.data = k->weights(w.data, K * K * 2);
    x = k->alloc(B * K * 4);
    CHECK(w.data && x && !k->weights(calloc(1, 1 << 20), 1 << 20));
    k->matmul(x, K, &w, x + 8, B - 1, MATMUL_STORE); /* no room for the rounded rows */
    said = k->trouble(&memory);
    CHECK(said && !strcmp(said, "matmul: out of memory") && memory == 1);
}

static const struct kernels *of_child;

static void *get_one(void *x)
{
    static float one;
    one = 5;
    of_child->get(&one, x, sizeof one);
    return &one;
}

/* Without pinned memory, or without the order of two streams, a thread beside the passes gets zeros, and that is told. */
static void reading_fails(const char *want, int want_memory)
{
    char why[200];
    const char *said;
    pthread_t t;
    void *one;
    int memory = -1;
    of_child = open_in_child(why, sizeof why);
    CHECK(!pthread_create(&t, NULL, get_one, of_child->alloc(sizeof(float))) && !pthread_join(t, &one));
    said = of_child->trouble(&memory);
    CHECK(*(float *)one == 0 && said && !strcmp(said, want) && memory == want_memory);
    CHECK(!of_child->trouble(NULL));
}

static void reading_lacks_memory(void)
{
    reading_fails("get: out of memory", 1);
}

static void reading_cannot_wait(void)
{
    reading_fails("get: unspecified launch failure (CUDA error 719)", 0);
}

static void there_is_no_device(void)
{
    char why[200] = "";
    struct cuda_device about;
    CHECK(!kvrun_cuda_open(KVRUN_CUDA_ABI, 0, &about, why, sizeof why));
    CHECK(!strcmp(why, "no driver (CUDA error 100: no CUDA-capable device is detected)"));
    CHECK(about.runtime > 0 && about.driver == 0 && !about.name[0]);
}

static void a_refused_kernel_is_named(void **unused)
{
    (void)unused;
    in_child(a_kernel_is_refused, "CUDA_EMU_FAIL", "softcap");
}

static void a_refused_product_is_named_though_it_waited(void **unused)
{
    (void)unused;
    in_child(a_product_that_waits_is_refused, "CUDA_EMU_FAIL", "few_rows");
}

static void products_of_one_x_are_one_launch(void **unused)
{
    char path[] = "/tmp/kvrun-launches-XXXXXX";
    int fd = mkstemp(path);
    (void)unused;
    assert_true(fd >= 0);
    in_child(products_are_joined, "CUDA_EMU_LOG", path);
    close(fd);
    unlink(path);
}

static void memory_that_runs_out_is_told_apart(void **unused)
{
    (void)unused;
    in_child(memory_runs_out, "CUDA_EMU_MEMORY", "640000");
}

static void a_get_that_fails_gives_zeros_and_is_told(void **unused)
{
    (void)unused;
    in_child(reading_lacks_memory, "CUDA_EMU_FAIL", "cudaMallocHost");
    in_child(reading_cannot_wait, "CUDA_EMU_FAIL", "cudaStreamWaitEvent");
}

static void a_machine_without_a_device_is_told_so(void **unused)
{
    (void)unused;
    in_child(there_is_no_device, "CUDA_EMU_NODEV", "1");
}

/* What fails in the same way on a device, too: more memory than there is, and an operation that refuses its arguments. */
static void a_refusal_is_named_once_and_passes(void **unused)
{
    struct mat w = random_mat(DTYPE_Q4_0, 32, 32);
    float one[32] = {1}, *x = cuda->alloc(sizeof one), *y = cuda->alloc(sizeof one);
    const char *said;
    int memory = -1;
    (void)unused;
    assert_null(cuda->alloc((size_t)1 << 46));
    no_trouble();
    cuda->put(x, one, sizeof one);
    free((void *)w.data);
    w.data = x;
    w.ldt = 32;
    cuda->matmul_t(y, 32, &w, x, 1, MATMUL_STORE);
    cuda->scale(x, x, 5, 32); /* does nothing */
    said = cuda->trouble(&memory);
    assert_non_null(said);
    assert_string_equal(said, "matmul_t: a transposed matrix is f32, f16 or bf16");
    assert_int_equal(memory, 0);
    cuda->scale(x, x, 2, 32);
    cuda->get(one, x, sizeof one);
    no_trouble();
    assert_true(one[0] == 2);
    cuda->release(x);
    cuda->release(y);
}

int main(void)
{
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(a_refused_kernel_is_named),
        cmocka_unit_test(a_refused_product_is_named_though_it_waited),
        cmocka_unit_test(products_of_one_x_are_one_launch),
        cmocka_unit_test(memory_that_runs_out_is_told_apart),
        cmocka_unit_test(a_get_that_fails_gives_zeros_and_is_told),
        cmocka_unit_test(a_machine_without_a_device_is_told_so),
    };
    const struct CMUnitTest both[] = {cmocka_unit_test(a_refusal_is_named_once_and_passes)};
    int failed = is_device() ? 0 : cmocka_run_group_tests(emulated, NULL, NULL), skip = open_or_skip();
    return skip ? skip : failed + cmocka_run_group_tests(both, NULL, NULL);
}
