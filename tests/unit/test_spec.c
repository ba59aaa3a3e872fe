/* test_spec.c: specs that are right, specs that are wrong (tests/bad_specs/, with the exact text of what is said), and bytes
 * that are nothing at all. Run from the repository root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../runner/spec.h"

static void the_needle_spec_loads_without_warnings(void **state)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    err e = {0};
    (void)state;
    assert_int_equal(spec_load(&s, "experiments/needle_sf_ny.yaml", &d, &e), 0);
    assert_int_equal(diag_errors(d) + diag_warnings(d), 0);
    assert_int_equal(s->n_prompts, 6);
    assert_int_equal(s->n_conditions, 8);
    diag_free(d);
    spec_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_needle_spec_loads_without_warnings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
