/* test_job_op.c: what the operations, their donors and their controls become, against a made-up engine. */
#include "fake_engine.h"

#include "job_case.h"

#define TOKENS "prompts:\n  - { name: a, tokens: [5, 6, 7, 8] }\n  - { name: b, tokens: [5, 6, 9, 8] }\n"

/* What a key says of the operations of a job. */
static const char *ops_of(const char *label)
{
    return strstr(job_of(label)->key_json, "\"ops\":");
}

static void keys_of_new_operations_hold_what_they_do(void **state)
{
    static const struct {
        const char *op, *says;
    } cases[] = {
        {"op: noise, sigma: 0.50, seed: 7, tensor: k, layers: [0], at: { tokens: [1] }, when: finished_cache",
         "\"op\":\"noise\",\"seed\":7,\"sigma\":\"0.5\",\"tensor\":\"k\""},
        {"op: quantise, bits: 4, per: channel, tensor: v, layers: [0], at: { tokens: [1] }, when: finished_cache",
         "\"bits\":4,\"heads\":\"all\",\"layers\":[[0,0]],\"op\":\"quantise\",\"per\":\"channel\""},
        {"op: evict, position_policy: compact_rerotate, at: { tokens: [1] }, when: finished_cache",
         "\"position_policy\":\"compact_rerotate\""},
        {"op: knockout, heads: [3], at: { tokens: [1] }, queries: { tokens: [2, 3] }, when: prefill",
         "\"heads\":[[3,3]],\"layers\":[[0,31]],\"op\":\"knockout\",\"queries\":[[2,3]]"},
        {"op: knockout, at: { tokens: [1] }, when: every_step",
         "\"queries\":\"all\",\"steps\":[0,3],\"tensor\":\"kv\",\"when\":\"steps\""},
        {"op: scale, by: 2, tensor: resid, layers: [1], at: { gen: '0..2' }, when: { steps: '1..9' }",
         "\"at\":[],\"by\":\"2\",\"gen\":[[1,2]],\"layers\":[[1,1]],\"op\":\"scale\",\"steps\":[1,3]"},
        {"op: swap, tensor: v, at: { tokens: [0] }, with: { tokens: [2] }, when: finished_cache",
         "\"rope\":\"keep\",\"tensor\":\"v\""},
        {"op: mean, tensor: v, at: { tokens: [0] }, over: { tokens: [1, 2] }, when: finished_cache",
         "\"over\":[{\"at\":[1,2],\"cache\":\"sha256:"},
        {"op: mask, at: { score: attention, lowest: 2, among: { tokens: [0, 1, 2] } }, when: finished_cache",
         "\"score\":{\"count\":2,\"of\":\"attention\",\"take\":\"lowest\"}"},
        {"op: transplant, tensor: v, at: { tokens: [0, 1, 2] }, align: right, from: { prompt: b, at: { tokens: [3] } }, when: "
         "prefill",
         "\"at\":[2],\"from\":{\"at\":[3],\"cache\":"},
    };
    uint8_t keys[sizeof cases / sizeof *cases][32];
    size_t i, k;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text,
                 HEAD TOKENS "conditions:\n  - name: base\n  - name: x\n    apply: [{ %s }]\nallow: [W107]\n" DECODE,
                 cases[i].op);
        bound_good(&b, text);
        if (!strstr(ops_of("a/x"), cases[i].says)) fail_msg("%s\nis not in\n%s", cases[i].says, ops_of("a/x"));
        memcpy(keys[i], job_of("a/x")->key, 32);
        for (k = 0; k < i; k++) assert_memory_not_equal(keys[i], keys[k], 32);
    }
}

static const char donors[] = HEAD TOKENS
    "axes: { l: [0, 1] }\nconditions:\n  - name: base\n  - name: late\n    over: [l]\n"
    "    apply: [{ op: transplant, tensor: resid, layers: [$l], at: { tokens: [2] }, from: { prompt: b, condition: cut }, "
    "when: prefill }]\n  - name: cut\n    over: [l]\n"
    "    apply: [{ op: zero, tensor: v, layers: [$l], at: { tokens: [1] }, when: prefill }]\n  - name: fixed\n"
    "    apply: [{ op: mean, tensor: v, at: { tokens: [0] }, from: [{ prompt: same, condition: cut, l: 1, at: { tokens: [1] } "
    "}, "
    "{ prompt: b, at: { tokens: [3] } }], when: prefill }]\nallow: [W107]\n" DECODE;

static void donors_with_edits_are_jobs_with_the_same_values(void **state)
{
    const struct job *j;
    char hex[65];
    int i;
    (void)state;
    bound_good(&b, donors);
    j = job_of("a/late/l=1");
    assert_string_equal(b.j->jobs[j->ops[0].donor_job].label, "b/cut/l=1");
    for (i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", job_of("b/cut/l=1")->key[i]);
    assert_non_null(strstr(j->key_json, "\"from\":{\"at\":[2],\"job\":\"sha256:"));
    assert_non_null(strstr(j->key_json, hex));
    j = job_of("b/fixed");
    assert_int_equal(j->ops[0].vector->n_sets, 2);
    assert_string_equal(b.j->jobs[j->ops[0].vector->sets[0].job].label, "b/cut/l=1");
    assert_int_equal(j->ops[0].vector->sets[1].job, -1);
}

#define LONG \
    "prompts:\n  - name: [sf, ny]\n    slots: { city: [SF, NY] }\n    text: 'I go to {{city}} and stay there for a week.'\n"

static void controls_of_a_condition_are_named_after_it(void **state)
{
    static const char *const want[] = {"sf/base",      "sf/zero/t=k",        "sf/zero/t=v",
                                       "sf/mask",      "sf/zero~noop",       "sf/zero~non_needle",
                                       "sf/mask~noop", "sf/mask~non_needle", "sf/mask~absent"};
    const struct job *j, *again;
    size_t i;
    int k;
    (void)state;
    bound_good(&b, HEAD LONG "axes: { t: [k, v] }\nconditions:\n  - name: base\n  - name: zero\n    over: [t]\n"
                             "    apply: [{ op: zero, tensor: $t, at: { slot: city }, when: finished_cache }]\n  - name: mask\n"
                             "    apply: [{ op: mask, at: { slot: city }, when: prefill }]\n"
                             "controls: [noop, { non_needle: { seed: 3 } }, absent]\ncontrols_for: all\n" DECODE);
    for (i = 0; i < sizeof want / sizeof *want; i++) assert_string_equal(b.j->jobs[i].label, want[i]);
    j = job_of("sf/zero~noop");
    assert_int_equal(j->control, CONTROL_SAME);
    assert_string_equal(b.j->jobs[j->against].label, "sf/base");
    assert_string_equal(b.j->jobs[j->control_of].label, "sf/zero/t=k");
    assert_int_equal(j->n_ops, 2);
    j = job_of("sf/zero~non_needle");
    assert_int_equal(j->control, CONTROL_SHOWN);
    assert_int_equal(j->n_ops, 2);
    assert_int_equal(j->ops[0].op, EDIT_ZERO);
    assert_int_equal(j->ops[0].at[0], j->ops[1].at[0]); /* the same place for both */
    assert_true(j->ops[0].at[0] > 0 && j->ops[0].at[0] != 3 && j->ops[0].at[0] < b.p[0].n_tokens - 1);
    again = job_of("ny/zero~non_needle");
    assert_int_equal(j->ops[0].at[0], again->ops[0].at[0]);
    j = job_of("ny/mask~absent");
    assert_int_equal(j->control, CONTROL_CLOSE);
    assert_int_equal(j->ops[0].op, EDIT_EVICT);
    assert_true(j->ops[0].compact);
    assert_string_equal(b.j->jobs[j->against].label, "ny/mask~without");
    j = &b.j->jobs[j->against];
    assert_true(j->prompt >= b.s->n_prompts && j->prompt < b.j->n_prompts);
    assert_int_equal(b.j->prompts[j->prompt].n_tokens, b.p[1].n_tokens - 1);
    for (k = 0; k < b.j->prompts[j->prompt].n_tokens; k++)
        assert_int_equal(b.j->prompts[j->prompt].ids[k], b.p[1].ids[k < 3 ? k : k + 1]);
}

static void feeds_are_counted_in_tokens(void **state)
{
    (void)state;
    bound_good(&b, HEAD PAIR "conditions: [{ name: z, apply: [" ZERO
                             "] }]\ndecode: { max_tokens: 4, after_edit: { feed: ' and stay.' } }\n");
    assert_int_equal(job_of("sf/z")->after, AFTER_FEED);
    assert_int_equal(b.j->feed[0], 3);
    assert_non_null(strstr(job_of("sf/z")->key_json, "{\"after_edit\":\"feed\",\"feed\":3,"));
    bound_make(&b, HEAD PAIR "conditions: [{ name: z, apply: [{ op: zero, at: { tokens: [-2] }, when: finished_cache }] }]\n"
                             "decode: { max_tokens: 4, after_edit: { feed: ' and stay.' } }\n");
    assert_null(b.j);
    assert_non_null(strstr(b.said, "error E340"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(keys_of_new_operations_hold_what_they_do, setup, teardown),
        cmocka_unit_test_setup_teardown(donors_with_edits_are_jobs_with_the_same_values, setup, teardown),
        cmocka_unit_test_setup_teardown(controls_of_a_condition_are_named_after_it, setup, teardown),
        cmocka_unit_test_setup_teardown(feeds_are_counted_in_tokens, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
