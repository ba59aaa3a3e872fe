/* test_kernels_dequant.c: widening of every quantised type against tests/golden/dequant.bin, which tests/oracle/dequant.py
 * makes with the reference Python package of the GGUF format; bit by bit, through every table this processor has. */
#include "../../kernels/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ROWS_MAX = 24, VALUES_MAX = 8 * 256, BYTES_MAX = 8 * 210 };

struct record {
    char name[8];
    uint32_t n_blocks;
    uint8_t blocks[BYTES_MAX];
    float values[VALUES_MAX];
};

/* Type of a record, checked against its sizes. */
static enum dtype record_read(struct record *r, FILE *f)
{
    int t = 0;
    size_t n, bytes;
    assert_int_equal(fread(&r->n_blocks, 4, 1, f), 1);
    while (t < DTYPE_COUNT && strncmp(dtype_name((enum dtype)t), r->name, sizeof r->name)) t++;
    assert_true(t < DTYPE_COUNT);
    n = (size_t)r->n_blocks * (size_t)dtype_block((enum dtype)t);
    bytes = (size_t)r->n_blocks * (size_t)dtype_block_bytes((enum dtype)t);
    assert_true(r->n_blocks <= ROWS_MAX && n <= VALUES_MAX && bytes <= sizeof r->blocks);
    assert_int_equal(fread(r->blocks, 1, bytes, f), bytes);
    assert_int_equal(fread(r->values, sizeof *r->values, n, f), n);
    return (enum dtype)t;
}

static void check(const struct record *r, enum dtype t)
{
    static const enum kernels_isa isas[] = {KERNELS_SCALAR, KERNELS_AVX2, KERNELS_AVX512};
    static float out[VALUES_MAX];
    int block = dtype_block(t), n = (int)r->n_blocks * block, ids[ROWS_MAX];
    struct mat rows = {t, (int)r->n_blocks, block, r->blocks};
    kernels_widen(out, r->blocks, t, (size_t)n);
    assert_memory_equal(out, r->values, (size_t)n * sizeof *out);
    for (int i = 0; i < rows.rows; i++) ids[i] = i;
    for (int i = 0; i < 3; i++) {
        const struct kernels *k = kernels_cpu(isas[i]);
        if (!k) continue;
        memset(out, 0xff, sizeof out);
        k->embed(out, &rows, ids, rows.rows);
        assert_memory_equal(out, r->values, (size_t)n * sizeof *out);
        /* a one at column c of x picks that column of every row, in the batch of one as in that of five */
        for (int c = 0; c < block; c += 1 + block / 37)
            for (int B = 1; B <= 5; B += 4) {
                static float x[5 * 256], y[5 * ROWS_MAX];
                memset(x, 0, sizeof x);
                x[(B - 1) * block + c] = 1;
                k->matmul(y, ROWS_MAX, &rows, x, B, MATMUL_STORE);
                for (int row = 0; row < rows.rows; row++)
                    assert_true(y[(B - 1) * ROWS_MAX + row] == r->values[row * block + c]);
            }
    }
}

static void every_quantised_type_widens_as_the_reference_does(void **unused)
{
    static struct record r;
    int seen[DTYPE_COUNT] = {0};
    FILE *f = fopen("tests/golden/dequant.bin", "rb");
    (void)unused;
    assert_non_null(f);
    while (fread(r.name, 1, sizeof r.name, f) == sizeof r.name) {
        enum dtype t = record_read(&r, f);
        check(&r, t);
        seen[t]++;
    }
    fclose(f);
    for (int t = 0; t < DTYPE_COUNT; t++) assert_int_equal(seen[t], dtype_block((enum dtype)t) > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_quantised_type_widens_as_the_reference_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
