/* test_plan.c: what plan and tokens print, to the byte, against a made-up engine. */
#include "fake_engine.h"

#include "bound_case.h"

#include "../../runner/json_text.h"
#include "../../runner/plan.h"
#include "../../runner/tokens.h"

#include <jansson.h>

static struct buf out;

static int plan_teardown(void **state)
{
    buf_free(&out);
    return teardown(state);
}

static const char needle[] =
    "kvrun: 1\nexperiment: needle\nmodel: { path: fake.gguf }\n"
    "prompts:\n  - name: [sf, ny]\n    slots: { city: [San Francisco, New York] }\n"
    "    text: \"User: I am flying to {{city}} city.\\nAssistant:\"\n"
    "conditions:\n  - name: baseline\n  - name: again\n  - name: zero\n"
    "    apply: [{ op: zero, tensor: kv, layers: all, at: { slot: city }, when: finished_cache }]\n"
    "  - name: swap\n    apply:\n      - { op: transplant, tensor: k, layers: [0, 2], heads: [1], at: { tokens: [0, '2..3'] }, "
    "when: "
    "finished_cache,\n          from: { prompt: other, condition: baseline, at: { tokens: [1, '2..3'] } }, rope: rerotate }\n"
    "controls: [noop]\ndecode: { greedy: true, max_tokens: 10, after_edit: rerun_last }\n"
    "capture: { kv: [{ of: [baseline], moments: [prefill, end] }] }\n";

static void the_plan_shows_jobs_positions_and_cost(void **state)
{
    (void)state;
    bound_good(&b, needle);
    plan_text(&(struct planned){.s = b.s, .en = &fake, .jobs = b.j}, &out);
    /* 2 baselines x (12 tokens at prefill + 22 at the end) x 2048 bytes = 139264 */
    assert_string_equal(out.p, "needle: 10 jobs\n"
                               "  run        8\n"
                               "  same       2  as a job above, one answer for both labels\n"
                               "jobs        sf  ny\n"
                               "  baseline   1   1\n"
                               "  again      1   1\n"
                               "  zero       1   1\n"
                               "  swap       1   1\n"
                               "  noop       1   1\n"
                               "positions\n"
                               "  sf  tokens   13  slot city    → 6..7      … flying| to|[ San]|[ Francisco]| city|.|\\n| …\n"
                               "  sf  tokens   13  edited       → 0, 2..3   [User]|:|[ I]|[ am]| flying| to| San| …\n"
                               "  ny  tokens   13  slot city    → 6..7      … flying| to|[ New]|[ York]| city|.|\\n| …\n"
                               "  ny  tokens   13  edited       → 0, 2..3   [User]|:|[ I]|[ am]| flying| to| New| …\n"
                               "cost   2 prefills, 26 tokens, shared by 8 jobs · decode 8 × 10 tokens at most · KV to store "
                               "139 kB raw, 139 kB of it in different chunks\n");
}

static void stored_answers_are_taken_off_the_plan(void **state)
{
    enum stored what[10] = {STORED_ANSWER, STORED_ANSWER, STORED_ANSWER,    STORED_LESS,  STORED_LESS,
                            STORED_ANSWER, STORED_ANSWER, STORED_ELSEWHERE, STORED_FAILED};
    int run[10] = {0, 0, 1, 0, 0, 1, 1}, lacks[10] = {0, 0, 0, MOMENT_END | MOMENT_PREFILL};
    struct peek_run runs[2] = {{.uuid = "0193a7c2-1", .day = "2026-11-20"}, {.uuid = "0193b000-2", .day = "2026-11-21"}};
    struct peek peek = {what, run, lacks, runs, 2};
    (void)state;
    bound_good(&b, needle);
    assert_int_equal(b.j->n, 10);
    plan_text(&(struct planned){.s = b.s, .en = &fake, .jobs = b.j, .peek = &peek, .reasons = true}, &out);
    assert_non_null(strstr(
        out.p,
        "  run        5  1 new · 1 needs capture of activations · 1 needs capture prefill end · 1 answered under other "
        "numerics · 1 failed before\n"
        "  reuse      3  answers are in the database: 2 from run 0193b000 (2026-11-21), 1 from run 0193a7c2 (2026-11-20)\n"
        "  same       2"));
    assert_non_null(strstr(out.p, "why            run   reuse    same\n"
                                  "  baseline       0       2       0\n"
                                  "  again          0       0       2\n"));
    assert_non_null(strstr(out.p, "decode 5 × 10 tokens at most"));
}

static void the_plan_as_json_holds_every_job_resolved(void **state)
{
    json_t *v, *job, *op, *from;
    (void)state;
    bound_good(&b, needle);
    plan_json(&(struct planned){.s = b.s, .en = &fake, .jobs = b.j}, &out);
    v = json_loads(out.p, 0, NULL);
    assert_non_null(v);
    assert_string_equal(json_string_value(json_object_get(v, "experiment")), "needle");
    assert_int_equal(json_array_size(json_object_get(v, "jobs")), 10);
    job = json_array_get(json_object_get(v, "jobs"), 3);
    assert_string_equal(json_string_value(json_object_get(job, "label")), "sf/swap");
    assert_string_equal(json_string_value(json_object_get(job, "key_json")), b.j->jobs[3].key_json);
    assert_int_equal(strlen(json_string_value(json_object_get(job, "key"))), 64);
    assert_int_equal(json_integer_value(json_object_get(job, "n_prompt")), b.p[0].n_tokens);
    op = json_array_get(json_object_get(job, "ops"), 0);
    from = json_object_get(op, "from");
    assert_string_equal(json_string_value(json_object_get(from, "prompt")), "ny");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(from, "at"), 0)), 1);
    assert_int_equal(json_array_size(json_object_get(op, "layers")), 2);
    assert_string_equal(json_string_value(json_object_get(op, "rope")), "rerotate");
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(v, "jobs"), 1), "same_as")),
                        "sf/baseline");
    json_decref(v);
}

static const char flight[] =
    "kvrun: 1\nexperiment: flight\nmodel: { path: fake.gguf }\n"
    "prompts:\n  - name: [sf, ny]\n    slots: { city: [SF, NY] }\n    text: I go to {{city}} and stay.\n"
    "conditions:\n  - name: baseline\n  - name: zero\n"
    "    apply: [{ op: zero, tensor: v, layers: ['0..1'], heads: [1], at: { slot: city }, when: prefill }]\n"
    "  - name: swap\n    apply: [{ op: transplant, tensor: embed, at: { slot: city }, from: { prompt: other }, when: prefill "
    "}]\n"
    "  - name: steer\n    apply:\n      - { op: add, tensor: resid, layers: [3], by: 0.5, at: { tokens: [-1] }, when: "
    "prefill,\n"
    "          vector: { from: { prompt: sf, at: { slot: city } }, minus: { prompt: ny, at: { slot: city } } } }\n"
    "      - { op: add, tensor: resid, layers: [3], at: { tokens: [-1] }, when: prefill,\n"
    "          vector: { file: tests/bad_specs/vectors.safetensors, tensor: steer } }\n"
    "decode: { max_tokens: 10 }\n"
    "capture: { tensors: [{ of: [baseline, zero], tensors: [resid, embed, logits], layers: [0, 3], at: { tokens: [-1] } }] }\n";

static void the_plan_tells_edits_in_flight_and_what_is_recorded(void **state)
{
    json_t *v, *job, *op;
    (void)state;
    bound_good(&b, flight);
    plan_text(&(struct planned){.s = b.s, .en = &fake, .jobs = b.j}, &out);
    /* 4 jobs record (2 + 1) vectors of 16 and one of 1000 numbers: 4 * 1048 * 4 bytes */
    assert_non_null(strstr(out.p, "edits in flight\n"
                                  "  sf/zero  zero v  layers 0..1  heads 1  at 3\n"
                                  "  sf/swap  transplant embed  at 3  from ny at 3\n"
                                  "  sf/steer  add resid  layers 3  at 6  by 0.5  sf at 3 minus ny at 3\n"
                                  "  sf/steer  add resid  layers 3  at 6  by 1  tests/bad_specs/vectors.safetensors "));
    assert_non_null(strstr(out.p, "recorded\n"
                                  "  sf/baseline  embed  at 6\n"
                                  "  sf/baseline  resid  layers 0, 3  at 6\n"
                                  "  sf/baseline  logits  at 6\n"
                                  "  sf/zero  embed  at 6\n"));
    assert_non_null(strstr(out.p,
                           "cost   2 prefills, 14 tokens · 8 jobs with a prefill of their own · decode 8 × 10 tokens at most "
                           "· KV to store 0 kB raw · activations to store 17 kB raw\n"));
    out.n = 0;
    plan_json(&(struct planned){.s = b.s, .en = &fake, .jobs = b.j}, &out);
    v = json_loads(out.p, 0, NULL);
    job = json_array_get(json_object_get(v, "jobs"), 3);
    op = json_array_get(json_object_get(job, "ops"), 0);
    assert_string_equal(json_string_value(json_object_get(op, "op")), "add");
    assert_string_equal(json_string_value(json_object_get(op, "when")), "prefill");
    assert_float_equal(json_real_value(json_object_get(op, "by")), 0.5, 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json_object_get(op, "vector"), "minus"), "prompt")),
                        "ny");
    op = json_array_get(json_object_get(job, "ops"), 1);
    assert_int_equal(strlen(json_string_value(json_object_get(json_object_get(op, "vector"), "sha256"))), 64);
    assert_null(json_object_get(job, "records"));
    job = json_array_get(json_object_get(v, "jobs"), 0);
    assert_int_equal(json_array_size(json_object_get(job, "records")), 3);
    json_decref(v);
}

/* A tree with all that JSON has, made of a seeded row of numbers. */
static json_t *some_tree(unsigned *seed, int depth)
{
    static const char *const texts[] = {"", "a", "B\"\\/", "\b\f\n\r\t\x01\x1f\x7f", "naïve 東京 🙂", "key", "zz", "z"};
    unsigned r = (*seed = *seed * 1103515245u + 12345u) >> 16;
    json_t *v;
    int i, n = (int)(r >> 4) % 40;
    switch (depth ? r % 9 : r % 7) {
    case 0: return json_null();
    case 1: return json_true();
    case 2: return json_false();
    case 3: return json_integer((json_int_t)r * (r % 2 ? -1 : 1) * ((json_int_t)1 << (r % 40)));
    case 4: return json_real((double)r / 7 * (r % 2 ? -1e-9 : 1e12));
    case 5: return json_integer(r % 2 ? INT64_MIN : INT64_MAX);
    case 6: return json_string(texts[r / 8 % 8]);
    case 7:
        v = json_array();
        for (i = 0; i < n; i++) json_array_append_new(v, some_tree(seed, depth - 1));
        return v;
    default:
        v = json_object();
        for (i = 0; i < n; i++) {
            char key[64];
            snprintf(key, sizeof key, "%s%u", texts[*seed / 3 % 8], *seed % 97);
            json_object_set_new(v, key, some_tree(seed, depth - 1));
        }
        return v;
    }
}

static void json_is_written_as_jansson_writes_it(void **state)
{
    unsigned seed = 1;
    int i;
    (void)state;
    for (i = 0; i < 300; i++) {
        json_t *v = some_tree(&seed, 3);
        char *want = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
        out.n = 0;
        json_text(v, &out);
        assert_string_equal(out.p, want);
        free(want);
        json_decref(v);
    }
}

static void tokens_show_text_bytes_and_slots(void **state)
{
    (void)state;
    fake.info.add_bos = true;
    bound_good(
        &b, "kvrun: 1\nexperiment: x\nmodel: { path: fake.gguf }\nprompts:\n  - name: a\n    slots: { x: New York, y: ork }\n"
            "    text: \"To {{x}}\\n\\u6771 {{y}}s \\u00e9\"\nconditions: [{ name: baseline }]\ndecode: { greedy: true }\n");
    tokens_text(&b.p[0], &fake, &out);
    assert_string_equal(out.p, "a: 11 tokens, 23 bytes\n"
                               "  pos     id  text       bytes         slot\n"
                               "    0      0  [<|bos|>]  0..0\n"
                               "    1      3  [To]       0..2\n"
                               "    2      4  [ New]     2..6          x\n"
                               "    3      5  [ York]    6..11         x\n"
                               "    4      6  [\\n]       11..12\n"
                               "    5      7  [\\xe6]     12..13\n"
                               "    6      8  [\\x9d]     13..14\n"
                               "    7      9  [\\xb1]     14..15\n"
                               "    8     10  [ orks]    15..20        y (in part)\n"
                               "    9     11  [ \\xc3]    20..22\n"
                               "   10     12  [\\xa9]     22..23\n");
}

static void tokens_as_json_replace_what_is_no_utf8(void **state)
{
    err e = {0};
    (void)state;
    fake.info.add_bos = true;
    bound_good(&b, "kvrun: 1\nexperiment: x\nmodel: { path: fake.gguf }\nprompts:\n  - { name: a, text: \"Hi \\u00e9\\n\" }\n"
                   "conditions: [{ name: baseline }]\ndecode: { greedy: true }\n");
    assert_int_equal(tokens_json(NULL, &b.p[0], &fake, &out, &e), 0);
    assert_string_equal(
        out.p, "{\"text\": \"Hi é\\n\", \"tokens\": [{\"id\": 0, \"text\": \"<|bos|>\", \"start\": 0, \"end\": 0}, {\"id\": 3, "
               "\"text\": \"Hi\", \"start\": 0, \"end\": 2}, {\"id\": 4, \"text\": \" �\", \"start\": 2, \"end\": 4}, {\"id\": "
               "5, \"text\": \"�\", \"start\": 4, \"end\": 5}, {\"id\": 6, \"text\": \"\\n\", \"start\": 5, \"end\": 6}]}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_plan_shows_jobs_positions_and_cost, setup, plan_teardown),
        cmocka_unit_test_setup_teardown(stored_answers_are_taken_off_the_plan, setup, plan_teardown),
        cmocka_unit_test_setup_teardown(the_plan_as_json_holds_every_job_resolved, setup, plan_teardown),
        cmocka_unit_test_setup_teardown(the_plan_tells_edits_in_flight_and_what_is_recorded, setup, plan_teardown),
        cmocka_unit_test_setup_teardown(json_is_written_as_jansson_writes_it, setup, plan_teardown),
        cmocka_unit_test_setup_teardown(tokens_show_text_bytes_and_slots, setup, plan_teardown),
        cmocka_unit_test_setup_teardown(tokens_as_json_replace_what_is_no_utf8, setup, plan_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
