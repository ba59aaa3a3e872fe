/* test_angles.c: the kept angles are those that would be made, whatever was asked before. */
#include "../../engine/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above it */
#include <cmocka.h>

enum { HALF = 5, ROWS = 6 };

static void kept_angles_are_those_that_are_made(void **unused)
{
    static const int asked[][ROWS] = {{0, 1, 2, 3, 4, 5},
                                      {300, 300, 7, 255, 256, 257},
                                      {16383, 16384, 16385, 100000, 0, 12345},
                                      {99999, 99999, 99999, 99999, 99999, 99999},
                                      {511, 512, 8191, 8192, 1, 1}};
    float freqs[MODEL_ROPES][HALF], cos[ROWS * HALF], sin[ROWS * HALF], want_cos[ROWS * HALF], want_sin[ROWS * HALF];
    engine *en = calloc(1, sizeof *en);
    (void)unused;
    en->model.n_rot = 2 * HALF;
    for (int i = 0; i < MODEL_ROPES; i++) {
        kernels_rope_freqs(freqs[i], i ? 500000 : 10000, 2 * HALF);
        en->model.rope_freqs[i] = freqs[i];
    }
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        for (int which = 0; which < MODEL_ROPES; which++) {
            angles_of(en, which, asked[i], ROWS, cos, sin);
            kernels_rope_table(want_cos, want_sin, freqs[which], asked[i], HALF, ROWS);
            assert_memory_equal(cos, want_cos, sizeof cos);
            assert_memory_equal(sin, want_sin, sizeof sin);
        }
    angles_free(en);
    free(en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kept_angles_are_those_that_are_made)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
