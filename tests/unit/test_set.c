/* test_set.c: values of the command line, -s path=value. What is said about wrong ones: tests/bad_specs/set_wrong.set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../../runner/spec.h"

static void values_of_the_command_line_stand_over_the_file(void **state)
{
    static const char text[] = "kvrun: 1\nexperiment: x\nmodel: { path: m.gguf }\n"
                               "prompts: [{ name: a, text: &t Hello }, { name: b, text: *t }]\n"
                               "conditions: [&c { name: one }, { name: two }]\n";
    static const char *const sets[] = {"decode.max_tokens=20",
                                       "conditions.0.name=first",
                                       "conditions.two.name=second",
                                       "prompts.1.text=\"a=b.c\"",
                                       "run.db=a.db",
                                       "run.db=b.db",
                                       "model={ path: n.gguf, kv: f16 }"};
    struct spec *s = NULL;
    struct diag *d = NULL;
    (void)state;
    assert_int_equal(spec_parse_set(&s, "x.yaml", text, sizeof text - 1, sets, 7, &d), 0);
    assert_int_equal(diag_warnings(d), 0);
    assert_int_equal(s->decode.max_tokens, 20);
    assert_string_equal(s->conditions[0].name, "first");
    assert_string_equal(s->conditions[1].name, "second");
    assert_string_equal(s->prompts[0].text.pieces[0].text, "Hello");
    assert_string_equal(s->prompts[1].text.pieces[0].text, "a=b.c");
    assert_string_equal(s->db, "b.db");
    assert_string_equal(s->model_path, "n.gguf");
    assert_int_equal(s->kv, KV_F16);
    assert_string_equal(s->source, text);
    assert_int_equal(s->n_sets, 7);
    assert_string_equal(s->sets[6], sets[6]);
    spec_free(s);
    diag_free(d);
}

/* Any bytes as an argument of -s: an error or a spec, never a crash. */
static void mutated_arguments_are_read_or_refused(void **state)
{
    static const char text[] = "kvrun: 1\nexperiment: x\nmodel: { path: m.gguf }\nprompts: [{ name: a, text: Hello }]\n"
                               "axes: { l: { layers: all } }\nconditions: [&c { name: one }, { name: two }, *c]\n";
    static const char *const seeds[] = {"conditions.0.name=x", "axes.l={ from: 0, to: 1, step: 0.1 }",
                                        "prompts=[{ name: b, text: |\n  a\n  b }]", "axes.z={ zip: { a: [1, 2], b: [3, 4] } }",
                                        "exclude=[{ when: { l: 3 }, why: w }]"};
    unsigned r = 1;
    (void)state;
    for (int i = 0; i < 4000; i++) {
        char set[128];
        const char *sets[2] = {set, seeds[i % 5]};
        struct spec *s = NULL;
        struct diag *d = NULL;
        struct buf said = {0};
        size_t n;
        snprintf(set, sizeof set, "%s", seeds[i / 5 % 5]);
        n = strlen(set);
        for (int k = 0; k < 1 + i % 3; k++) {
            r = r * 1103515245u + 12345u;
            set[r / 65536 % n] = (char)("=.:{}[]&*!|>\n\t\"'#-0a\x80\xe6"[r / 7919 % 22]);
        }
        spec_parse_set(&s, "x.yaml", text, sizeof text - 1, sets, 2, &d);
        diag_text(d, &said);
        buf_free(&said);
        diag_free(d);
        spec_free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_the_command_line_stand_over_the_file),
        cmocka_unit_test(mutated_arguments_are_read_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
