/* test_sweep.c: values of axes and the combinations of them that become jobs, against a made-up engine. */
#include "fake_engine.h"

#include "job_case.h"

#define BASE "conditions:\n  - name: baseline\n"
#define ZERO_LAYERS(over, layers)                                                                                             \
    "  - name: zero\n    over: [" over "]\n    apply: [{ op: zero, tensor: v, layers: " layers ", at: { slot: city }, when: " \
    "finished_cache }]\n"

static void labels_are(const char *const *want, int n)
{
    int i;
    for (i = 0; i < b.j->n && i < n; i++) assert_string_equal(b.j->jobs[i].label, want[i]);
    assert_int_equal(b.j->n, n);
}

static void numbers_of_a_range_are_counted_exactly(void **state)
{
    static const char *const tenths[] = {"0",   "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1",
                                         "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8", "1.9", "2"};
    static const char *const down[] = {"1", "0.25", "-0.5"};
    int i;
    (void)state;
    bound_good(&b, HEAD PAIR "axes: { by: { from: 0, to: 2, step: 0.1 } }\n" BASE
                             "  - name: s\n    over: [by]\n    apply: [{ op: scale, by: $by, layers: all, at: { slot: city }, "
                             "when: finished_cache }]\n" DECODE);
    assert_int_equal(b.j->n, 2 * 22);
    for (i = 0; i < 21; i++) {
        assert_string_equal(b.j->jobs[1 + i].values[0].text, tenths[i]);
        assert_true(b.j->jobs[1 + i].ops[0].by == strtof(tenths[i], NULL));
    }
    bound_good(&b, HEAD PAIR "axes: { by: { from: 1, to: -1, step: -0.75 } }\n" BASE
                             "  - name: s\n    over: [by]\n    apply: [{ op: scale, by: $by, layers: all, at: { slot: city }, "
                             "when: finished_cache }]\n" DECODE);
    assert_int_equal(b.j->n, 2 * 4);
    for (i = 0; i < 3; i++) assert_string_equal(b.j->jobs[1 + i].values[0].text, down[i]);
}

static void a_window_of_layers_ends_where_the_model_ends(void **state)
{
    static const char *const want[] = {"sf/baseline", "sf/zero/w=0..4", "sf/zero/w=0..9", "sf/zero/w=26..31",
                                       "ny/baseline", "ny/zero/w=0..4", "ny/zero/w=0..9", "ny/zero/w=26..31"};
    static const double centres[] = {0, 5, 31};
    int i;
    (void)state;
    bound_good(&b,
               HEAD PAIR "axes: { w: { windows: { size: 10, centres: [0, 5, -1] } } }\n" BASE ZERO_LAYERS("w", "[$w]") DECODE);
    labels_are(want, 8);
    for (i = 0; i < 3; i++) {
        assert_true(b.j->jobs[1 + i].values[0].has_number);
        assert_true(b.j->jobs[1 + i].values[0].number == centres[i]);
    }
    assert_int_equal(b.j->jobs[2].ops[0].n_layers, 10);
    assert_int_equal(b.j->jobs[3].ops[0].layers[0], 26);
    assert_int_equal(b.j->jobs[3].ops[0].n_layers, 6);
    bound_good(&b, HEAD PAIR "axes: { w: { windows: { size: 3 } } }\n" BASE ZERO_LAYERS("w", "$w") DECODE);
    assert_int_equal(b.j->n, 2 * 33);
    assert_string_equal(b.j->jobs[1].label, "sf/zero/w=0..1");
    assert_string_equal(b.j->jobs[2].label, "sf/zero/w=0..2");
    assert_string_equal(b.j->jobs[32].label, "sf/zero/w=30..31");
    bound_good(&b, HEAD PAIR "axes: { w: { windows: { size: 1, centres: [4] } } }\n" BASE ZERO_LAYERS("w", "$w") DECODE);
    assert_string_equal(b.j->jobs[1].label, "sf/zero/w=4");
    bound_good(&b, HEAD PAIR "axes: { l: [0, 5, -1] }\n" BASE ZERO_LAYERS("l", "{ window: 10, centre: $l }") DECODE);
    assert_int_equal(b.j->jobs[1].ops[0].n_layers, 5);
    assert_int_equal(b.j->jobs[2].ops[0].n_layers, 10);
    assert_int_equal(b.j->jobs[3].ops[0].layers[0], 26);
}

static void positions_are_each_prompt_s_own(void **state)
{
    static const char *const want[] = {"a/zero/pos=2", "a/zero/pos=3", "b/zero/pos=2", "b/zero/pos=3", "b/zero/pos=4"};
    (void)state;
    bound_good(
        &b, HEAD
        "prompts:\n  - name: [a, b]\n    slots: { city: [New York, San Jose Town] }\n    text: 'I fly {{city}} and stay.'\n"
        "axes: { pos: { positions: { slot: city } } }\nconditions:\n  - name: zero\n    over: [pos]\n"
        "    apply: [{ op: zero, layers: all, at: { tokens: [$pos] }, when: finished_cache }]\n" DECODE);
    labels_are(want, 5);
    assert_int_equal(b.j->jobs[4].ops[0].at[0], 4);
    assert_int_equal(b.j->sums[0].product, 5);
    assert_int_equal(b.j->sums[0].counts[1], 3);
}

static void lists_of_a_zip_travel_together(void **state)
{
    static const char *const want[] = {"sf/e/edit=zero+k/l=0",  "sf/e/edit=zero+k/l=1", "sf/e/edit=scale+v/l=0",
                                       "sf/e/edit=scale+v/l=1", "ny/e/edit=zero+k/l=0", "ny/e/edit=zero+k/l=1",
                                       "ny/e/edit=scale+v/l=0", "ny/e/edit=scale+v/l=1"};
    (void)state;
    bound_good(&b, HEAD PAIR
               "axes: { edit: { zip: { op: [zero, noop], t: [k, v] }, names: [off, on] }, l: [0, 1] }\n"
               "conditions:\n  - name: e\n    over: [edit, l]\n    apply: [{ op: $edit.op, tensor: $edit.t, layers: [$l], "
               "at: { slot: city }, when: finished_cache }]\n" DECODE);
    assert_string_equal(b.j->jobs[0].label, "sf/e/edit=off/l=0");
    assert_string_equal(b.j->jobs[3].label, "sf/e/edit=on/l=1");
    assert_int_equal(b.j->jobs[3].ops[0].op, EDIT_NOOP);
    assert_int_equal(b.j->jobs[3].ops[0].tensors, CACHE_V);
    assert_int_equal(b.j->jobs[3].values[0].choice, 1);
    bound_good(&b, HEAD PAIR
               "axes: { edit: { zip: { op: [zero, scale], t: [k, v] } }, l: [0, 1] }\n"
               "conditions:\n  - name: e\n    over: [edit, l]\n    apply: [{ op: zero, tensor: $edit.t, layers: [$l], "
               "at: { slot: city }, when: finished_cache }]\n" DECODE);
    labels_are(want, 8);
}

#define GRID                                                                                                                   \
    HEAD PAIR "axes: { l: { layers: [0, 1, 2] }, t: [k, v] }\n" BASE                                                           \
              "  - name: zero\n    over: [l, t]\n    apply: [{ op: zero, tensor: $t, layers: [$l], at: { slot: city }, when: " \
              "finished_cache }]\n" DECODE

static void what_exclude_removes_and_include_adds_is_counted(void **state)
{
    static const char *const want[] = {"sf/baseline",     "sf/zero/l=0/t=k", "sf/zero/l=1/t=k", "sf/zero/l=1/t=v",
                                       "sf/zero/l=2/t=k", "sf/zero/l=7/t=v", "ny/zero/l=0/t=k", "ny/zero/l=0/t=v",
                                       "ny/zero/l=1/t=k", "ny/zero/l=1/t=v", "ny/zero/l=7/t=v"};
    (void)state;
    bound_good(&b, GRID
               "exclude:\n  - { when: { prompt: ny, condition: baseline }, why: known }\n"
               "  - { when: { l: [0, -30], t: v, prompt: sf }, why: dull }\n  - { when: { l: 2, prompt: ny }, why: late }\n"
               "include:\n  - { l: 7, t: v }\n");
    labels_are(want, 11);
    assert_int_equal(b.j->sums[1].product, 12);
    assert_int_equal(b.j->sums[1].removed[0], 0);
    assert_int_equal(b.j->sums[1].removed[1], 2);
    assert_int_equal(b.j->sums[1].removed[2], 2);
    assert_int_equal(b.j->sums[1].included, 2);
    assert_int_equal(b.j->sums[0].removed[0], 1);
    assert_int_equal(b.j->jobs[6].baseline, -1);
    bound_good(&b, GRID "exclude:\n  - { when: { l: 0, t: v }, why: dull }\ninclude:\n  - { l: 0, t: v, prompt: sf }\n"
                        "  - { l: -1, t: kv, condition: zero, prompt: [sf, ny] }\n");
    assert_string_equal(b.j->jobs[6].label, "sf/zero/l=0/t=v"); /* removed, and asked for again */
    assert_string_equal(b.j->jobs[7].label, "sf/zero/l=31/t=kv");
    assert_int_equal(b.j->jobs[7].ops[0].tensors, CACHE_K | CACHE_V);
}

static void the_sweep_of_the_design_has_131_jobs(void **state)
{
    (void)state;
    bound_good(&b, HEAD "prompts: [{ name: niah, text: 'I go to NY and stay.' }]\n"
                        "axes:\n  ctx: [1024, 2048, 4096]\n  depth: { from: 0, to: 100, step: 25 }\n  edit:\n    zip:\n"
                        "      op: [noop, zero, mask, scale]\n      tensor: [k, v, kv, kv]\n  seed: [1, 2, 3]\n"
                        "exclude:\n  - { when: { ctx: 4096, depth: [25, 75] }, why: too long }\n"
                        "  - { when: { edit.op: noop, seed: [2, 3] }, why: greedy }\n"
                        "include:\n  - { ctx: 8192, depth: 50, edit: zero, seed: 1 }\n"
                        "conditions:\n  - name: edited\n    over: [ctx, depth, edit, seed]\n    apply: [{ op: zero, tensor: "
                        "$edit.tensor, layers: all, at: { text: NY }, when: finished_cache }]\nallow: [W109]\n" DECODE);
    assert_int_equal(b.j->sums[0].product, 180);
    assert_int_equal(b.j->sums[0].removed[0], 24);
    assert_int_equal(b.j->sums[0].removed[1], 26);
    assert_int_equal(b.j->n, 131);
    assert_string_equal(b.j->jobs[130].label, "niah/edited/ctx=8192/depth=50/edit=zero+v/seed=1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(numbers_of_a_range_are_counted_exactly, setup, teardown),
        cmocka_unit_test_setup_teardown(a_window_of_layers_ends_where_the_model_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(positions_are_each_prompt_s_own, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_of_a_zip_travel_together, setup, teardown),
        cmocka_unit_test_setup_teardown(what_exclude_removes_and_include_adds_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(the_sweep_of_the_design_has_131_jobs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
