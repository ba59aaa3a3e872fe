/* fuzz_spec.c: any bytes as a spec. What is right is read out to the last operation, what is wrong is printed. */
#include "../../runner/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_all_ops(const struct spec *s, struct diag *d)
{
    for (int i = 0; i < s->n_conditions; i++) {
        const struct condition *c = &s->conditions[i];
        struct axis_value values[64];
        arena *mem = arena_new();
        struct op *ops;
        int n, n_values = 0;
        for (int k = 0; k < c->n_over && n_values < 64; k++) {
            const struct axis *a = &s->axes[c->over[k]];
            const char *text = a->kind == AXIS_LIST ? a->values[a->n - 1]->text : "0";
            values[n_values++] = (struct axis_value){c->over[k], text, a->at};
        }
        spec_ops(s, c, values, n_values, mem, d, &ops, &n);
        arena_free(mem);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct buf text = {0};
    int result = spec_parse(&s, "fuzz.yaml", (const char *)data, n, &d);
    if ((result == 0) != (diag_errors(d) == 0)) __builtin_trap();
    if (result == 0) read_all_ops(s, d);
    diag_text(d, &text);
    if (utf8_valid(text.p ? text.p : "", text.n) != text.n) __builtin_trap();
    buf_free(&text);
    diag_free(d);
    spec_free(s);
    return 0;
}
