/* test_haystack.c: texts cut to a budget around a needle, and the prompts that axes make of them, with a made-up tokenizer. */
#include "fake_engine.h"

#include "bound_case.h"

static int haystack_setup(void **state)
{
    setup(state);
    fake.info.n_ctx_train = 1000;
    return 0;
}

#define HEAD                                                                                                      \
    "kvrun: 1\nexperiment: x\nmodel: { path: fake.gguf }\nfiles: { essay: { path: tests/bad_specs/haystack } }\n" \
    "allow: [W106, W107, W109]\n"
#define NEEDLE "needle: { name: needle, text: \"The word is cinnamon.\" }"
#define TAIL                                                                              \
    "conditions:\n  - name: baseline\n  - name: zero\n    over: [tensor]\n    apply:\n"   \
    "      - { op: zero, tensor: $tensor, at: { slot: needle }, when: finished_cache }\n" \
    "decode: { max_tokens: 4, after_edit: rerun_last }\n"
#define PROMPT \
    "prompts:\n  - name: niah\n    text: \"Read this. {{hay}} What is the word?\"\n    slots:\n      hay:\n        haystack: "

static const struct span *span_of(const struct bound_prompt *p, const char *name)
{
    int i;
    for (i = 0; i < p->n_spans; i++)
        if (strcmp(p->spans[i].name, name) == 0) return &p->spans[i];
    fail_msg("no span '%s'", name);
    return NULL;
}

static const struct job *job_of(const char *label)
{
    int i;
    for (i = 0; i < b.j->n; i++)
        if (strcmp(b.j->jobs[i].label, label) == 0) return &b.j->jobs[i];
    fail_msg("no job '%s'", label);
    return NULL;
}

static void the_whole_prompt_keeps_to_the_budget(void **state)
{
    int i;
    (void)state;
    bound_good(&b, HEAD
               "axes: { ctx: [30, 47, 80, 120], depth: [0, 1, 33, 50, 99, 100], seed: [0, 1, 2, 77], tensor: [k] }\n" PROMPT
               "{ file: essay, tokens: $ctx, depth_percent: $depth, seed: $seed }\n        " NEEDLE "\n" TAIL);
    assert_int_equal(b.s->n_prompts, 96);
    assert_int_equal(b.s->n_written, 1);
    for (i = 0; i < b.s->n_prompts; i++) {
        const struct bound_prompt *p = &b.p[i];
        const struct span *n = span_of(p, "needle"), *hay = span_of(p, "hay");
        int ctx = atoi(p->prompt->values[0].text), depth = atoi(p->prompt->values[1].text);
        const char *found = strstr(p->text, "The word is cinnamon.");
        assert_true(p->n_tokens <= ctx);
        assert_true(p->n_tokens > ctx - 20); /* a sentence */
        assert_non_null(found);
        assert_int_equal(found - p->text, n->byte_start);
        assert_int_equal(n->byte_end - n->byte_start, 21);
        assert_int_equal(n->tok_end - n->tok_start, 5);
        assert_true(hay->byte_start <= n->byte_start && n->byte_end <= hay->byte_end);
        if (depth == 0) assert_int_equal(hay->byte_start, n->byte_start);
        if (depth == 100) assert_int_equal(hay->byte_end, n->byte_end);
        if (depth > 0 && ctx >= 80) assert_true(p->text[n->byte_start - 2] == '.' && p->text[n->byte_start - 1] == ' ');
        if (ctx >= 80) assert_int_equal(p->text[hay->byte_end - 1], '.'); /* the end of a sentence is near */
    }
}

static void the_needle_moves_with_its_depth_and_the_text_with_its_seed(void **state)
{
    const char *zero, *one;
    int last = -1, i;
    (void)state;
    bound_good(&b, HEAD "axes: { depth: [0, 25, 50, 75, 100], tensor: [k] }\n" PROMPT
                        "{ file: essay, tokens: 120, depth_percent: $depth }\n        " NEEDLE "\n" TAIL);
    for (i = 0; i < 5; i++) {
        const struct span *n = span_of(&b.p[i], "needle");
        assert_true(n->byte_start > last);
        last = n->byte_start;
    }
    assert_non_null(strstr(b.p[4].text, "Read this. First comes this.")); /* a.txt stands before b.txt */
    bound_good(&b, HEAD "axes: { seed: [0, 1], tensor: [k] }\n" PROMPT
                        "{ file: essay, tokens: 100, depth_percent: 100, seed: $seed }\n        " NEEDLE "\n" TAIL);
    zero = b.p[0].text;
    one = b.p[1].text;
    assert_null(strstr(one, "Read this. First comes this."));
    assert_string_not_equal(zero, one);
}

static void equal_specs_make_equal_prompts(void **state)
{
    static const char yaml[] = HEAD "axes: { ctx: [50, 90], tensor: [k] }\n" PROMPT
                                    "{ file: essay, tokens: $ctx, depth_percent: 40, seed: 5 }\n        " NEEDLE "\n" TAIL;
    uint8_t before[32];
    (void)state;
    bound_good(&b, yaml);
    memcpy(before, b.j->jobs[b.j->n - 1].key, 32);
    bound_good(&b, yaml);
    assert_memory_equal(before, b.j->jobs[b.j->n - 1].key, 32);
}

static void every_condition_runs_along_the_axes_of_its_prompt(void **state)
{
    const struct job *j;
    (void)state;
    bound_good(&b, HEAD "axes: { tensor: [k, v], ctx: [50, 90] }\ncontrols: [noop]\n" PROMPT
                        "{ file: essay, tokens: $ctx, depth_percent: 40 }\n        " NEEDLE "\n" TAIL);
    assert_int_equal(b.j->n, 2 * (1 + 2 + 1));
    j = job_of("niah/baseline/ctx=90");
    assert_int_equal(j->n_ops, 0);
    assert_true(b.j->prompts[j->prompt].n_tokens > 60);
    j = job_of("niah/zero/tensor=v/ctx=50");
    assert_true(b.j->prompts[j->prompt].n_tokens <= 50);
    assert_string_equal(b.j->jobs[j->baseline].label, "niah/baseline/ctx=50");
    assert_int_equal(j->ops[0].n_at, 5);
    assert_int_equal(j->ops[0].at[0], span_of(&b.j->prompts[j->prompt], "needle")->tok_start);
    j = job_of("niah/noop/ctx=90");
    assert_int_equal(j->ops[0].at[0], span_of(&b.j->prompts[j->prompt], "needle")->tok_start);
}

static void excluded_prompts_are_not_bound_and_included_ones_are(void **state)
{
    int i, bound = 0;
    (void)state;
    bound_good(&b, HEAD "axes: { ctx: [50, 90, 5000], depth: [0, 100], tensor: [k] }\n"
                        "exclude:\n  - { when: { ctx: 5000 }, why: more text than there is }\n"
                        "include:\n  - { ctx: 70, depth: 100, tensor: k }\n" PROMPT
                        "{ file: essay, tokens: $ctx, depth_percent: $depth }\n        " NEEDLE "\n" TAIL);
    assert_int_equal(b.j->n, 4 + 4 + 1);
    job_of("niah/zero/ctx=70/depth=100/tensor=k");
    for (i = 0; i < b.s->n_prompts; i++) bound += b.p[i].n_tokens > 0;
    assert_int_equal(bound, 5);
}

static void a_pair_has_needles_of_its_own(void **state)
{
    const struct job *j;
    (void)state;
    bound_good(&b, HEAD "axes: { ctx: [50, 90] }\nprompts:\n  - name: [sf, ny]\n    chat: [{ user: \"{{hay}} Which?\" }]\n"
                        "    ask: assistant\n    slots:\n      hay:\n"
                        "        haystack: { file: essay, tokens: $ctx, depth_percent: 50 }\n"
                        "        needle: { name: city, text: [\"Go to SF.\", \"Go to NY.\"] }\n"
                        "conditions:\n  - name: baseline\n  - name: swap\n    apply:\n"
                        "      - { op: transplant, at: { slot: city }, from: { prompt: other }, when: finished_cache }\n"
                        "decode: { max_tokens: 4, after_edit: rerun_last }\n");
    j = job_of("ny/swap/ctx=90");
    assert_string_equal(b.j->prompts[j->ops[0].donor_prompt].label, "sf/ctx=90");
    assert_string_equal(b.j->prompts[j->prompt].label, "ny/ctx=90");
    assert_non_null(strstr(b.j->prompts[j->prompt].text, "Go to NY."));
}

static void a_prompt_without_axes_takes_a_donor_with_the_values_of_the_job(void **state)
{
    const struct job *j;
    (void)state;
    bound_good(&b,
               HEAD "axes: { ctx: [50, 90], tensor: [k] }\n" PROMPT
                    "{ file: essay, tokens: $ctx, depth_percent: 40 }\n        " NEEDLE "\n"
                    "  - { name: short, text: \"What is the word?\" }\n"
                    "conditions:\n  - name: baseline\n  - name: take\n    apply:\n"
                    "      - { op: transplant, at: { tokens: 1 }, from: { prompt: niah }, rope: keep, when: finished_cache }\n"
                    "decode: { max_tokens: 4, after_edit: rerun_last }\n");
    j = job_of("short/take/ctx=90");
    assert_string_equal(b.j->prompts[j->ops[0].donor_prompt].label, "niah/ctx=90");
    assert_true(job_of("short/baseline/ctx=90")->same_as >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_whole_prompt_keeps_to_the_budget, haystack_setup, teardown),
        cmocka_unit_test_setup_teardown(the_needle_moves_with_its_depth_and_the_text_with_its_seed, haystack_setup, teardown),
        cmocka_unit_test_setup_teardown(equal_specs_make_equal_prompts, haystack_setup, teardown),
        cmocka_unit_test_setup_teardown(every_condition_runs_along_the_axes_of_its_prompt, haystack_setup, teardown),
        cmocka_unit_test_setup_teardown(excluded_prompts_are_not_bound_and_included_ones_are, haystack_setup, teardown),
        cmocka_unit_test_setup_teardown(a_pair_has_needles_of_its_own, haystack_setup, teardown),
        cmocka_unit_test_setup_teardown(a_prompt_without_axes_takes_a_donor_with_the_values_of_the_job, haystack_setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
