/* test_backend.c: plug-ins that are missing, wrong or failing, with those of tests/plugin; the environment variable PLUGINS
 * names the folder they are in. */
#include "../../engine/machine.h"
#include "../../kernels/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void use(const char *plugin)
{
    char path[512];
    const char *folder = getenv("PLUGINS");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "build/plugins", plugin);
    setenv("KVRUN_PLUGINS", path, 1);
}

static int clean(void **state)
{
    (void)state;
    unsetenv("KVRUN_FAKE_OPEN");
    unsetenv("KVRUN_FAKE_FAIL");
    unsetenv("KVRUN_FAKE_ROWS");
    unsetenv("KVRUN_FAKE_MEMORY");
    use("fake");
    return 0;
}

static void says(const char *text, const char *words)
{
    if (!strstr(text, words)) fail_msg("'%s' is not in '%s'", words, text);
}

/* ---- the loader ---- */

static void each_missing_thing_is_named(void **state)
{
    struct backend b;
    (void)state;
    use("none");
    assert_int_equal(backend_open(&b, "cuda", 0), -1);
    assert_int_equal(b.state, BACKEND_NO_PLUGIN);
    says(b.why, "no libkvrun_cuda.so in the folder of KVRUN_PLUGINS");
    use("wrong");
    assert_int_equal(backend_open(&b, "cuda", 0), -1);
    assert_int_equal(b.state, BACKEND_BROKEN);
    says(b.why, "is not a plug-in of kvrun");
    use("needy");
    assert_int_equal(backend_open(&b, "cuda", 0), -1);
    assert_int_equal(b.state, BACKEND_NO_LIBRARY);
    says(b.why, "libkvrun_cuda.so needs libcublas_of_tests.so, which is not installed");
    use("fake");
    setenv("KVRUN_FAKE_OPEN", "CUDA driver version is insufficient (35)", 1);
    assert_int_equal(backend_open(&b, "cuda", 0), -1);
    assert_in_range(b.state, BACKEND_NO_DRIVER, BACKEND_REFUSED); /* this machine may have a driver or a GPU */
    says(b.why, "CUDA driver version is insufficient (35)");
}

static void a_usable_one_is_described(void **state)
{
    struct backend b;
    (void)state;
    assert_int_equal(backend_open(&b, "cuda", 0), 0);
    assert_int_equal(b.state, BACKEND_USABLE);
    assert_string_equal(b.device.name, "Fake GPU");
    assert_string_equal(b.why, "");
    says(b.path, "fake/libkvrun_cuda.so");
    assert_int_equal(backend_open(&b, "cuda", 3), -1);
    says(b.why, "there is no device 3");
}

static void the_driver_is_asked_without_a_crash(void **state)
{
    struct backend_gpus g;
    (void)state;
    backend_gpus(&g);
    assert_true(g.n > 0 || g.why[0]);
}

/* ---- choosing ---- */

static engine *opened(const char *backend, const char *isa, err *e)
{
    engine *en = NULL;
    engine_open(&en,
                &(struct engine_opts){
                    .backend = backend, .isa = isa, .threads = 1, .shape = engine_shape_named("tiny"), .shape_weights = "q4_1"},
                e);
    return en;
}

static void auto_takes_the_gpu_where_there_is_one(void **state)
{
    engine *en;
    err e = {0};
    (void)state;
    en = opened(NULL, NULL, &e);
    assert_string_equal(engine_info(en)->backend, "cuda");
    assert_string_equal(engine_info(en)->gpu_name, "Fake GPU");
    assert_string_equal(engine_info(en)->numerics, "n1:cuda-fake:kv-f32");
    assert_string_equal(engine_info(en)->isa, "sm_90");
    engine_free(en);
    en = opened("auto", "scalar", &e);
    assert_string_equal(engine_info(en)->backend, "cpu");
    assert_null(engine_info(en)->no_gpu);
    engine_free(en);
    use("none");
    en = opened("auto", NULL, &e);
    assert_string_equal(engine_info(en)->backend, "cpu");
    assert_null(engine_info(en)->gpu_name);
    says(engine_info(en)->no_gpu, "no libkvrun_cuda.so");
    engine_free(en);
}

static void a_backend_asked_for_is_there_or_an_error(void **state)
{
    err e = {0};
    (void)state;
    use("none");
    assert_null(opened("cuda", NULL, &e));
    assert_int_equal(e.code, ERR_ENV);
    says(e.msg, "backend cuda: no libkvrun_cuda.so");
    e = (err){0};
    assert_null(opened("cuda-emu", NULL, &e));
    says(e.msg, "no libkvrun_cuda_emu.so");
    e = (err){0};
    assert_null(opened("cuda", "avx2", &e));
    assert_int_equal(e.code, ERR_INPUT);
    e = (err){0};
    assert_null(opened("metal", NULL, &e));
    says(e.msg, "not one of cpu, cuda, cuda-emu, auto");
}

static void weights_that_do_not_fit_are_refused_before_they_are_copied(void **state)
{
    char path[512];
    const char *folder = getenv("KVRUN_TINY");
    engine *en = NULL;
    err e = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/f32.gguf", folder ? folder : "build/tiny");
    setenv("KVRUN_FAKE_MEMORY", "200000", 1);
    assert_int_equal(engine_open(&en, &(struct engine_opts){.path = path, .backend = "cuda"}, &e), -1);
    assert_int_equal(e.code, ERR_ENV);
    says(e.msg, "GiB of memory on the GPU");
    setenv("KVRUN_FAKE_MEMORY", "1000000", 1); /* the weights fit, the buffers do not */
    e = (err){0};
    assert_int_equal(engine_open(&en, &(struct engine_opts){.path = path, .backend = "cuda"}, &e), -1);
    says(e.msg, "no memory for passes of 2048 rows");
    e = (err){0};
    assert_null(opened("cuda", NULL, &e));
    says(e.msg, "GiB");
}

static void looking_needs_no_memory(void **state)
{
    engine *en = NULL;
    cache *c;
    err e = {0};
    (void)state;
    setenv("KVRUN_FAKE_MEMORY", "10", 1);
    assert_int_equal(engine_open(&en,
                                 &(struct engine_opts){.backend = "cuda",
                                                       .look_only = true,
                                                       .shape = engine_shape_named("llama-3.1-8b"),
                                                       .shape_weights = "bf16"},
                                 &e),
                     0);
    assert_int_equal(engine_info(en)->n_layer, 32);
    assert_int_equal(cache_new(&c, en, &e), -1);
    engine_free(en);
}

/* ---- errors while it computes ---- */

enum { ROWS = 4, PROMPT = 9 };
static const int prompt[PROMPT] = {5, 17, 300, 2, 77, 140, 8, 1, 250};

static int decode(engine *en, struct gen_row rows[ROWS], err *e)
{
    int i;
    for (i = 0; i < ROWS; i++) {
        rows[i] = (struct gen_row){.feed = prompt, .n_feed = PROMPT - i};
        assert_int_equal(cache_new(&rows[i].cache, en, e), 0);
    }
    return generate(en, rows, ROWS, &(struct gen_opts){.max_tokens = 6}, e);
}

static void clear(struct gen_row rows[ROWS])
{
    int i;
    for (i = 0; i < ROWS; i++) {
        cache_free(rows[i].cache);
        gen_row_clear(&rows[i]);
    }
}

static void made_up_models_give_the_same_bits_on_both(void **state)
{
    struct gen_row there[ROWS], here[ROWS];
    engine *far_away, *cpu;
    err e = {0};
    int i;
    (void)state;
    far_away = opened("cuda", NULL, &e);
    cpu = opened("cpu", NULL, &e);
    assert_int_equal(decode(far_away, there, &e), 0);
    assert_int_equal(decode(cpu, here, &e), 0);
    for (i = 0; i < ROWS; i++) assert_memory_equal(there[i].picks, here[i].picks, 6 * sizeof *here[i].picks);
    assert_memory_not_equal(here[0].picks, here[1].picks, 6 * sizeof *here[i].picks);
    clear(there);
    clear(here);
    engine_free(far_away);
    engine_free(cpu);
}

static void a_failure_names_the_operation_and_the_cause(void **state)
{
    struct gen_row rows[ROWS];
    engine *en;
    err e = {0};
    (void)state;
    en = opened("cuda", NULL, &e);
    setenv("KVRUN_FAKE_ROWS", "2", 1);
    assert_int_equal(decode(en, rows, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    says(e.msg, "begin: out of memory");
    clear(rows);
    unsetenv("KVRUN_FAKE_ROWS"); /* memory that ran out is no end */
    e = (err){0};
    assert_int_equal(decode(en, rows, &e), 0);
    clear(rows);
    setenv("KVRUN_FAKE_FAIL", "swiglu:9", 1);
    assert_int_equal(decode(en, rows, &e), -1);
    assert_int_equal(e.code, ERR_ENV);
    says(e.msg, "swiglu: the fake device fell off the bus");
    clear(rows);
    unsetenv("KVRUN_FAKE_FAIL"); /* a device that is lost stays so */
    e = (err){0};
    assert_int_equal(decode(en, rows, &e), -1);
    clear(rows);
    engine_free(en);
}

static void the_machine_tests_itself(void **state)
{
    struct machine_gpu g;
    const char *bad;
    char why[256];
    int n;
    err e = {0};
    (void)state;
    assert_int_equal(machine_self_test(&n, &bad, &e), 0);
    assert_true(n >= 1);
    assert_null(bad);
    machine_gpu(&g, 0);
    assert_true(g.usable);
    assert_false(machine_emulator(why, sizeof why));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(each_missing_thing_is_named, clean),
        cmocka_unit_test_setup(a_usable_one_is_described, clean),
        cmocka_unit_test_setup(the_driver_is_asked_without_a_crash, clean),
        cmocka_unit_test_setup(auto_takes_the_gpu_where_there_is_one, clean),
        cmocka_unit_test_setup(a_backend_asked_for_is_there_or_an_error, clean),
        cmocka_unit_test_setup(weights_that_do_not_fit_are_refused_before_they_are_copied, clean),
        cmocka_unit_test_setup(looking_needs_no_memory, clean),
        cmocka_unit_test_setup(made_up_models_give_the_same_bits_on_both, clean),
        cmocka_unit_test_setup(the_machine_tests_itself, clean),
        cmocka_unit_test_setup(a_failure_names_the_operation_and_the_cause, clean), /* the last one: its device stays lost */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
