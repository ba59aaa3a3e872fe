/* test_job.c: expansion, controls, captures and keys of jobs, against a made-up engine. */
#include "fake_engine.h"

#include "job_case.h"

#include <time.h>

#define TRANSPLANT                                                                                                         \
    "{ op: transplant, tensor: kv, layers: '0..9', at: { slot: city }, from: { prompt: other, condition: baseline, at: { " \
    "slot: city "                                                                                                          \
    "} }, when: finished_cache }"

static void jobs_come_by_prompt_condition_and_axes_last_fastest(void **state)
{
    static const char *const want[] = {"sf/baseline",      "sf/zero/l=0/t=k",   "sf/zero/l=0/t=v",    "sf/zero/l=31/t=k",
                                       "sf/zero/l=31/t=v", "sf/noop",           "sf/self_transplant", "ny/baseline",
                                       "ny/zero/l=0/t=k",  "ny/zero/l=0/t=v",   "ny/zero/l=31/t=k",   "ny/zero/l=31/t=v",
                                       "ny/noop",          "ny/self_transplant"};
    int i;
    (void)state;
    bound_good(&b, HEAD PAIR "axes: { l: { layers: [0, -1] }, t: [k, v] }\nconditions:\n  - name: baseline\n  - name: zero\n"
                             "    over: [t, l]\n    apply: [{ op: zero, tensor: $t, layers: [$l], at: { slot: city }, when: "
                             "finished_cache }]\ncontrols: [noop, self_transplant]\n" DECODE);
    assert_int_equal(b.j->n, sizeof want / sizeof *want);
    for (i = 0; i < b.j->n; i++) assert_string_equal(b.j->jobs[i].label, want[i]);
    assert_int_equal(b.j->jobs[3].ops[0].layers[0], 31);
    assert_int_equal(b.j->jobs[3].ops[0].tensors, CACHE_K);
    assert_int_equal(b.j->jobs[3].n_values, 2);
    assert_string_equal(b.j->jobs[3].values[0].text, "31");
    for (i = 0; i < b.j->n; i++) assert_int_equal(b.j->jobs[i].baseline, i < 7 ? 0 : 7);
}

static void an_operation_is_resolved_to_indices(void **state)
{
    const struct job_op *op;
    (void)state;
    bound_good(&b, HEAD PAIR "conditions:\n  - name: baseline\n  - name: t\n    apply: [" TRANSPLANT "]\n" DECODE);
    assert_int_equal(b.j->n, 4);
    op = &job_of("ny/t")->ops[0];
    assert_int_equal(op->op, EDIT_TRANSPLANT);
    assert_int_equal(op->tensors, CACHE_K | CACHE_V);
    assert_int_equal(op->n_layers, 10);
    assert_int_equal(op->layers[9], 9);
    assert_int_equal(op->n_heads, 2);
    assert_int_equal(op->n_at, 1);
    assert_int_equal(op->at[0], 3);
    assert_int_equal(op->donor_prompt, 0);
    assert_int_equal(op->donor_at[0], 3);
    assert_false(op->rerotate);
    assert_int_equal(job_of("ny/t")->after, AFTER_RERUN_LAST);
    assert_int_equal(job_of("ny/baseline")->after, AFTER_NONE);
}

static void controls_touch_every_edit_of_their_prompt_once(void **state)
{
    const struct job *noop, *self;
    (void)state;
    bound_good(&b, HEAD PAIR
               "conditions:\n  - name: baseline\n  - name: zero\n    apply: [" ZERO "]\n  - name: t\n    apply: [" TRANSPLANT
               "]\n  - name: mask\n    apply: [{ op: mask, layers: all, at: { slot: city }, when: finished_cache }]\n"
               "controls: [noop, self_transplant]\n" DECODE);
    noop = job_of("sf/noop");
    self = job_of("sf/self_transplant");
    assert_int_equal(noop->condition, -1);
    assert_int_equal(noop->n_ops, 2); /* zero and mask touch the same; the transplant touches ten layers of it */
    assert_int_equal(noop->ops[0].op, EDIT_NOOP);
    assert_int_equal(noop->ops[0].n_layers, 32);
    assert_int_equal(noop->ops[1].n_layers, 10);
    assert_int_equal(noop->ops[1].donor_prompt, -1);
    assert_int_equal(self->n_ops, 2);
    assert_int_equal(self->ops[1].op, EDIT_TRANSPLANT);
    assert_int_equal(self->ops[1].donor_prompt, 0);
    assert_int_equal(self->ops[1].donor_at[0], self->ops[1].at[0]);
    assert_memory_not_equal(noop->key, job_of("sf/baseline")->key, 32);
    assert_int_equal(noop->after, AFTER_RERUN_LAST);
}

static void without_controls_asked_for_there_are_none(void **state)
{
    (void)state;
    bound_good(&b, HEAD PAIR "conditions: [{ name: zero, apply: [" ZERO "] }]\n" DECODE);
    assert_int_equal(b.j->n, 2);
    assert_int_equal(b.j->jobs[0].baseline, -1);
}

static void a_slot_s_value_elsewhere_and_position_0_are_warned_of(void **state)
{
    (void)state;
    bound_good(&b, HEAD "prompts:\n  - name: sf\n    slots: { city: SF }\n    text: '{{city}} it is: SFO is not SF.'\n"
                        "conditions: [{ name: zero, apply: [" ZERO "] }]\n" DECODE);
    assert_non_null(strstr(b.said, "warning W106: 'SF' also stands outside slot 'city' in prompt 'sf', at bytes 21..23"));
    assert_non_null(strstr(b.said, "warning W107: position 0 of prompt 'sf' is edited"));
    assert_int_equal(diag_warnings(b.d), 2);
    bound_good(&b, HEAD "prompts:\n  - name: sf\n    slots: { city: SF }\n    text: '{{city}} it is: SFO is not SF.'\n"
                        "conditions: [{ name: zero, apply: [" ZERO "] }]\nallow: [W106]\n" DECODE);
    assert_int_equal(diag_warnings(b.d), 1);
    assert_null(strstr(b.said, "W106"));
}

static void captures_follow_their_conditions(void **state)
{
    (void)state;
    bound_good(&b, HEAD PAIR
               "conditions:\n  - name: baseline\n  - name: zero\n    apply: [" ZERO "]\ncontrols: [noop]\n" DECODE
               "capture:\n  kv:\n    - { of: [baseline], moments: [prefill] }\n    - { of: [zero], moments: [edited, end] }\n");
    assert_int_equal(job_of("sf/baseline")->moments, MOMENT_PREFILL);
    assert_int_equal(job_of("sf/zero")->moments, MOMENT_EDITED | MOMENT_END);
    assert_int_equal(job_of("sf/noop")->moments, 0);
}

static void a_capture_without_conditions_is_for_every_job(void **state)
{
    (void)state;
    bound_good(&b, HEAD PAIR "conditions:\n  - name: baseline\n  - name: zero\n    apply: [" ZERO "]\ncontrols: [noop]\n" DECODE
                             "capture:\n  kv:\n    - { moments: [prefill, edited] }\n");
    assert_int_equal(job_of("sf/baseline")->moments, MOMENT_PREFILL | MOMENT_EDITED);
    assert_int_equal(job_of("sf/zero")->moments, MOMENT_PREFILL | MOMENT_EDITED);
    assert_int_equal(job_of("sf/noop")->moments, MOMENT_PREFILL | MOMENT_EDITED);
}

static void labels_with_one_key_run_once_and_capture_for_both(void **state)
{
    (void)state;
    bound_good(&b, HEAD PAIR "conditions:\n  - name: baseline\n  - name: again\n  - name: zero\n    apply: [" ZERO "]\n" DECODE
                             "capture:\n  kv:\n    - { of: [again], moments: [end] }\n");
    assert_int_equal(job_of("sf/baseline")->same_as, -1);
    assert_int_equal(job_of("sf/again")->same_as, 0);
    assert_int_equal(job_of("ny/again")->same_as, 3);
    assert_int_equal(job_of("ny/again")->baseline, 3);
    assert_int_equal(job_of("sf/zero")->same_as, -1);
    assert_int_equal(job_of("sf/baseline")->moments, MOMENT_END);
    assert_memory_equal(job_of("sf/again")->key, job_of("sf/baseline")->key, 32);
}

/* ---- keys ---- */

/* SHA-256 of the ids 5 6 7 8 as little-endian 32-bit numbers, and of the JSON that names their cache, by Python's hashlib. */
#define IDS "f3e0813c89d0991f07fbb5027a68c0cb809e1effc0c1e8974664bd2e57b50024"
#define CACHE "76442daa2539647d51577389c0931dd5ebc1a7e74fb8899738ba1a87d41a2725"
#define AA "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define BB "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void a_key_is_the_hash_of_what_can_change_the_answer(void **state)
{
    (void)state;
    bound_good(
        &b,
        HEAD "prompts:\n  - { name: a, tokens: [5, 6, 7, 8] }\nconditions:\n  - name: baseline\n  - name: t\n    apply:\n"
             "      - { op: zero, tensor: v, layers: [0, '2..3'], heads: [1], at: { tokens: [0, 2] }, when: finished_cache }\n"
             "      - { op: transplant, tensor: kv, layers: all, at: { tokens: [1] }, from: { prompt: a, condition: baseline, "
             "at: { tokens: [2] } }, rope: rerotate, when: finished_cache }\n" DECODE);
    assert_string_equal(job_of("a/baseline")->key_json,
                        "{\"decode\":{\"greedy\":true,\"max_tokens\":4,\"stop\":[0,2]},"
                        "\"ids\":\"sha256:" IDS "\",\"kv\":\"f32\",\"model\":\"sha256:" AA "\",\"ops\":[],\"seed\":0,"
                        "\"tokenizer\":\"sha256:" BB "\",\"v\":1}");
    assert_string_equal(
        job_of("a/t")->key_json,
        "{\"decode\":{\"after_edit\":\"rerun_last\",\"greedy\":true,\"max_tokens\":4,\"stop\":[0,2]},\"ids\":\"sha256:" IDS
        "\",\"kv\":\"f32\",\"model\":\"sha256:" AA
        "\",\"ops\":[{\"at\":[0,2],\"heads\":[[1,1]],\"layers\":[[0,0],[2,3]],\"op\":\"zero\",\"tensor\":\"v\",\"when\":"
        "\"finished_cache\"},{\"at\":[1],\"from\":{\"at\":[2],\"cache\":\"sha256:" CACHE
        "\"},\"heads\":\"all\",\"layers\":[[0,31]],\"op\":\"transplant\",\"rope\":\"rerotate\",\"tensor\":\"kv\",\"when\":"
        "\"finished_cache\"}],\"seed\":0,\"tokenizer\":\"sha256:" BB "\",\"v\":1}");
}

/* The key of the job `label` of a spec. */
static void key_of(const char *yaml, const char *label, uint8_t key[32])
{
    bound_good(&b, yaml);
    memcpy(key, job_of(label)->key, 32);
}

static void names_titles_and_captures_do_not_change_a_key(void **state)
{
    uint8_t first[32], second[32];
    (void)state;
    key_of(HEAD PAIR "conditions:\n  - name: baseline\n  - name: zero\n    apply: [" ZERO "]\n" DECODE, "sf/zero", first);
    key_of("kvrun: 1\nexperiment: y\ntitle: other\nmodel: { path: other.gguf }\nprompts:\n  - name: p\n    slots: { c: SF }\n"
           "    text: 'I go to {{c}} and stay.'\nconditions:\n  - name: z\n    apply: [{ op: zero, tensor: kv, layers: "
           "'0..31', heads: "
           "[0, 1], at: { tokens: [3] }, when: finished_cache }]\n" DECODE "capture: { kv: [{ of: [z], moments: [end] }] }\n",
           "p/z", second);
    assert_memory_equal(first, second, 32);
}

static void whatever_can_change_the_answer_changes_the_key(void **state)
{
    static const char *const specs[] = {
        HEAD PAIR "conditions: [{ name: z, apply: [" ZERO "] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z, apply: [" ZERO ", " ZERO "] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z, apply: [" ZERO
                  "] }]\ndecode: { greedy: true, max_tokens: 5, after_edit: rerun_last }\n",
        HEAD PAIR "conditions: [{ name: z, apply: [" ZERO
                  "] }]\ndecode: { greedy: true, max_tokens: 4, after_edit: reuse_logits }\n",
        HEAD PAIR "conditions: [{ name: z, apply: [" ZERO
                  "] }]\ndecode: { greedy: true, max_tokens: 4, stop: none, after_edit: rerun_last }\n",
        HEAD PAIR "conditions: [{ name: baseline }, { name: z, apply: [" TRANSPLANT "] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z, apply: [{ op: zero, tensor: k, layers: all, at: { slot: city }, when: "
                  "finished_cache }] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z, apply: [{ op: mask, tensor: kv, layers: all, at: { slot: city }, when: "
                  "finished_cache }] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z, apply: [{ op: zero, tensor: kv, layers: [1], at: { slot: city }, when: "
                  "finished_cache }] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z, apply: [{ op: zero, tensor: kv, layers: all, heads: [1], at: { slot: city }, when: "
                  "finished_cache }] }]\n" DECODE,
        HEAD PAIR
        "conditions: [{ name: z, apply: [{ op: zero, tensor: kv, layers: all, at: { tokens: [2] }, when: finished_cache }] "
        "}]\n" DECODE,
        HEAD "prompts:\n  - name: [sf, ny]\n    slots: { city: [LA, NY] }\n    text: 'I go to {{city}} and stay.'\n"
             "conditions: [{ name: z, apply: [" ZERO "] }]\n" DECODE,
        HEAD PAIR "conditions: [{ name: z }]\n" DECODE,
    };
    enum { N = sizeof specs / sizeof *specs };
    uint8_t keys[N + 2][32];
    int i, k;
    (void)state;
    for (i = 0; i < N; i++) key_of(specs[i], "sf/z", keys[i]);
    fake.info.sha256[31] ^= 1;
    key_of(specs[0], "sf/z", keys[N]);
    fake.info.tokenizer_sha256[0] ^= 1;
    key_of(specs[0], "sf/z", keys[N + 1]);
    for (i = 0; i < N + 2; i++)
        for (k = 0; k < i; k++)
            if (memcmp(keys[i], keys[k], 32) == 0) fail_msg("variants %d and %d have one key", k, i);
}

static void a_donor_counts_by_its_cache_and_not_by_decode_settings(void **state)
{
    char *first;
    (void)state;
    bound_good(&b, HEAD PAIR "conditions: [{ name: baseline }, { name: t, apply: [" TRANSPLANT "] }]\n" DECODE);
    first = strstr(job_of("sf/t")->key_json, "\"from\"");
    assert_non_null(first);
    assert_non_null(strstr(first, "\"cache\":\"sha256:"));
    assert_null(strstr(first, "\"rope\""));
    first = arena_strdup(b.mem, first);
    assert_string_equal(first, strstr(job_of("sf/t")->key_json, "\"from\""));
}

static void the_last_token_may_be_edited_with_reuse_logits(void **state)
{
    static const char last[] =
        HEAD PAIR "conditions: [{ name: z, apply: [{ op: zero, tensor: kv, layers: all, at: { tokens: [-1] }, when: "
                  "finished_cache }] }]\ndecode: { greedy: true, max_tokens: 4, after_edit: ";
    char text[1024];
    (void)state;
    snprintf(text, sizeof text, "%sreuse_logits }\n", last);
    bound_good(&b, text);
    snprintf(text, sizeof text, "%srerun_last }\n", last);
    bound_make(&b, text);
    assert_null(b.j);
    assert_non_null(strstr(b.said, "error E340"));
}

static void different_positions_need_rope_only_where_keys_move(void **state)
{
    static const char spec[] =
        HEAD PAIR "conditions: [{ name: baseline }, { name: t, apply: [{ op: transplant, tensor: %s, layers: all, at: { "
                  "slot: city }, from: { prompt: other, condition: "
                  "baseline, at: { tokens: [1] } }, when: finished_cache%s }] }]\n" DECODE;
    char text[1024];
    (void)state;
    snprintf(text, sizeof text, spec, "kv", "");
    bound_make(&b, text);
    assert_null(b.j);
    assert_non_null(strstr(b.said, "error E323"));
    snprintf(text, sizeof text, spec, "v", "");
    bound_good(&b, text);
    snprintf(text, sizeof text, spec, "kv", ", rope: rerotate");
    bound_good(&b, text);
    assert_true(job_of("sf/t")->ops[0].rerotate);
    assert_non_null(strstr(job_of("sf/t")->key_json, "\"rope\":\"rerotate\""));
    snprintf(text, sizeof text, spec, "kv", ", rope: keep");
    bound_good(&b, text);
    assert_non_null(strstr(job_of("sf/t")->key_json, "\"rope\":\"keep\""));
}

/* ---- edits in flight ---- */

#define VECTORS "tests/bad_specs/vectors.safetensors"
/* SHA-256 of the 16 floats 0, 1/8, .. 15/8, by Python's hashlib. */
#define STEER "806e458ed0389357c545b813780b66074cccb8120ed7fcb289565d7395a166b8"

static const char flight[] = HEAD
    "prompts:\n  - { name: a, tokens: [5, 6, 7, 8] }\n  - { name: b, tokens: [5, 6, 9, 8] }\nconditions:\n  - name: z\n"
    "    apply: [{ op: zero, tensor: v, layers: [1], at: { tokens: [-1] }, when: prefill }]\n  - name: s\n"
    "    apply: [{ op: scale, tensor: head_out, layers: [0, 1], heads: [3], by: 0.10, at: { tokens: [2] }, when: prefill }]\n"
    "  - name: t\n    apply: [{ op: transplant, tensor: embed, at: { tokens: [2] }, from: { prompt: b, condition: base }, "
    "when: prefill }]\n  - name: f\n    apply: [{ op: add, tensor: resid, layers: [31], by: -2.50, at: { tokens: [0, 1] }, "
    "vector: { file: " VECTORS ", tensor: steer }, when: prefill }]\n  - name: d\n    apply: [{ op: add, tensor: k, layers: "
    "[2], at: { tokens: [0] }, vector: { from: { prompt: a, at: { tokens: [-1] } }, minus: { prompt: b, at: { tokens: [2] } "
    "} }, when: prefill }]\n  - name: base\n";

static void an_edit_in_flight_needs_no_after_edit_and_may_be_at_the_last_token(void **state)
{
    const struct job *j;
    (void)state;
    bound_good(&b, flight);
    j = job_of("a/z");
    assert_int_equal(j->after, AFTER_NONE);
    assert_int_equal(j->ops[0].when, WHEN_PREFILL);
    assert_int_equal(j->ops[0].at[0], 3);
    assert_int_equal(job_of("a/s")->ops[0].n_heads, 1);
    assert_int_equal(job_of("a/f")->ops[0].n_heads, 0);
    assert_int_equal(job_of("a/t")->ops[0].layers[0], -1);
    assert_int_equal(job_of("b/t")->ops[0].donor_prompt, 1); /* itself: a self-transplant */
    assert_int_equal(job_of("a/f")->ops[0].vector->n_rows, 1);
    assert_float_equal(job_of("a/f")->ops[0].vector->rows[15], 15.0 / 8, 0);
    assert_null(job_of("a/d")->ops[0].vector->rows);
    assert_int_equal(job_of("a/d")->ops[0].vector->from.at, 3);
    assert_int_equal(job_of("a/d")->ops[0].vector->minus.prompt, 1);
}

static void the_key_of_an_edit_in_flight_holds_what_it_does_alone(void **state)
{
    static const char *const ops[][2] = {
        {"a/z", "[{\"at\":[3],\"heads\":\"all\",\"layers\":[[1,1]],\"op\":\"zero\",\"tensor\":\"v\",\"when\":\"prefill\"}]"},
        {"a/s", "[{\"at\":[2],\"by\":\"0.1\",\"heads\":[[3,3]],\"layers\":[[0,1]],\"op\":\"scale\",\"tensor\":\"head_out\","
                "\"when\":\"prefill\"}]"},
        {"a/f", "[{\"at\":[0,1],\"by\":\"-2.5\",\"layers\":[[31,31]],\"op\":\"add\",\"tensor\":\"resid\","
                "\"vector\":\"sha256:" STEER "\",\"when\":\"prefill\"}]"},
    };
    char *first[5];
    static const char *const labels[] = {"a/z", "a/s", "a/t", "a/f", "a/d"};
    struct buf text = {0};
    size_t i;
    (void)state;
    bound_good(&b, flight);
    for (i = 0; i < sizeof ops / sizeof *ops; i++)
        if (!strstr(job_of(ops[i][0])->key_json, ops[i][1])) fail_msg("%s", job_of(ops[i][0])->key_json);
    assert_null(strstr(job_of("a/z")->key_json, "after_edit"));
    assert_non_null(strstr(job_of("a/t")->key_json, "\"tensor\":\"embed\""));
    assert_null(strstr(job_of("a/t")->key_json, "layers"));
    assert_null(strstr(job_of("a/t")->key_json, "rope"));
    assert_non_null(strstr(job_of("a/d")->key_json, "\"by\":\"1\""));
    assert_non_null(strstr(job_of("a/d")->key_json, "\"vector\":{\"from\":{\"at\":[3],\"cache\":\"sha256:" CACHE
                                                    "\"},\"minus\":{\"at\":[2],\"cache\":\"sha256:"));
    for (i = 0; i < 5; i++) first[i] = mem_strdup(job_of(labels[i])->key_json);
    buf_printf(&text, "%sdecode: { after_edit: reuse_logits }\n", flight); /* says nothing of these jobs */
    bound_good(&b, text.p);
    for (i = 0; i < 5; i++) {
        assert_string_equal(job_of(labels[i])->key_json, first[i]);
        free(first[i]);
    }
    buf_free(&text);
}

static void numbers_are_written_with_the_digits_that_read_them_back(void **state)
{
    static const struct {
        float x;
        const char *text;
    } cases[] = {{1, "1"},
                 {0.1f, "0.1"},
                 {-2.5f, "-2.5"},
                 {1e-3f, "0.001"},
                 {1.0f / 3, "0.33333334"},
                 {16777216, "16777216"},
                 {3.4028235e38f, "3.4028235e+38"},
                 {1e-45f, "1e-45"},
                 {0, "0"}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[16];
        job_number(cases[i].x, out);
        assert_string_equal(out, cases[i].text);
    }
}

static void controls_repeat_edits_in_flight_in_flight(void **state)
{
    const struct job *noop, *self;
    struct buf text = {0};
    int i;
    (void)state;
    buf_printf(&text, "%scontrols: [noop, self_transplant]\n", flight);
    bound_good(&b, text.p);
    buf_free(&text);
    noop = job_of("a/noop");
    self = job_of("a/self_transplant");
    assert_int_equal(noop->n_ops, 5);
    assert_int_equal(noop->after, AFTER_NONE);
    for (i = 0; i < 5; i++) {
        assert_int_equal(noop->ops[i].when, WHEN_PREFILL);
        assert_null(noop->ops[i].vector);
        assert_int_equal(self->ops[i].donor_prompt, 0);
        assert_int_equal(self->ops[i].donor_at[0], self->ops[i].at[0]);
    }
}

/* ---- records ---- */

static const struct job_record *record_of(const struct job *j, int site, int layer)
{
    int i, l;
    for (i = 0; i < j->n_records; i++)
        for (l = 0; l < j->records[i].n_layers; l++)
            if (j->records[i].site == site && j->records[i].layers[l] == layer) return &j->records[i];
    return NULL;
}

static void records_are_the_union_of_what_captures_ask_for(void **state)
{
    const struct job *j;
    (void)state;
    bound_good(&b, HEAD PAIR
               "conditions:\n  - name: baseline\n  - name: again\n  - name: zero\n    apply: [" ZERO "]\n" DECODE
               "capture:\n  tensors:\n    - { of: [baseline], tensors: [resid, embed], layers: '0..2', at: { slot: city } }\n"
               "    - { of: [zero], tensors: [attn, logits], layers: [-1] }\n"
               "    - { of: [again], tensors: [resid], layers: [1], at: { tokens: [0, -1] } }\n");
    j = job_of("sf/baseline"); /* runs for `again`, too */
    assert_int_equal(j->n_records, 3);
    assert_int_equal(record_of(j, SITE_RESID, 0)->n_layers, 2);
    assert_int_equal(record_of(j, SITE_RESID, 0)->layers[1], 2);
    assert_int_equal(record_of(j, SITE_RESID, 0)->n_at, 1);
    assert_int_equal(record_of(j, SITE_RESID, 1)->n_at, 3);
    assert_int_equal(record_of(j, SITE_RESID, 1)->at[1], 3);
    assert_int_equal(record_of(j, SITE_RESID, -1)->n_layers, 1);
    assert_null(record_of(j, SITE_RESID, 3));
    j = job_of("sf/zero");
    assert_int_equal(j->n_records, 2);
    assert_int_equal(record_of(j, SITE_ATTN, 31)->n_at, b.p[0].n_tokens);
    assert_int_equal(record_of(j, SITE_LOGITS, 0)->n_layers, 1);
    assert_null(strstr(j->key_json, "attn"));
    assert_int_equal(job_record_bytes(&fake, b.j, j), 4 * 7 * (4 * 7 + FAKE_VOCAB));
}

static void a_capture_larger_than_memory_is_refused(void **state)
{
    (void)state;
    fake.info.n_vocab = 1 << 28;
    bound_make(&b, HEAD PAIR "conditions: [{ name: baseline }]\ncapture: { tensors: [{ tensors: [logits] }] }\n");
    assert_null(b.j);
    assert_non_null(strstr(b.said, "error E360: what is recorded of one job of prompt 'sf' takes 7.5 GB; at most 4 GB"));
}

/* ---- size ---- */

static void a_hundred_thousand_jobs_expand_in_seconds(void **state)
{
    struct buf spec = {0};
    struct timespec t0, t1;
    double s;
    int i;
    (void)state;
    buf_str(&spec, HEAD "prompts:\n");
    for (i = 0; i < 21; i++)
        buf_printf(&spec, "  - { name: p%d, text: 'a%d b c d e f g h i j k l m n o p q r s t u v w x y z' }\n", i, i);
    buf_str(&spec, "axes:\n  layer: { layers: all }\n  tensor: [k, v, kv]\n  pos: [0");
    for (i = 1; i < 25; i++) buf_printf(&spec, ", %d", i);
    buf_str(&spec, "]\n  head: [0, 1]\nconditions:\n  - name: baseline\n  - name: zero\n    over: [layer, tensor, pos, head]\n"
                   "    apply: [{ op: zero, tensor: $tensor, layers: [$layer], heads: [$head], at: { tokens: [$pos] }, when: "
                   "finished_cache }]\n" DECODE);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    bound_good(&b, spec.p);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    s = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
    print_message("%d jobs in %.2f s\n", b.j->n, s);
    assert_int_equal(b.j->n, 21 * (1 + 32 * 3 * 25 * 2));
    assert_true(s < 30); /* under 2 s in a release build; sanitizers on a busy machine take longer */
    buf_free(&spec);
}

static void a_metric_of_millions_of_numbers_is_refused(void **state)
{
    static const char *const pers[] = {"layer, head", "layer, position, head, tensor"};
    int many;
    (void)state;
    for (many = 0; many < 2; many++) {
        struct buf spec = {0};
        int i;
        buf_str(&spec, HEAD "prompts:\n");
        for (i = 0; i < 21; i++)
            buf_printf(&spec, "  - { name: p%d, text: 'a%d b c d e f g h i j k l m n o p q r s t u v w x y z' }\n", i, i);
        buf_str(&spec, "axes:\n  layer: { layers: all }\n  tensor: [k, v, kv]\nconditions:\n  - name: baseline\n"
                       "  - name: zero\n    over: [layer, tensor]\n"
                       "    apply: [{ op: zero, tensor: $tensor, layers: [$layer], at: { tokens: [3] }, when: "
                       "finished_cache }]\ncapture: { kv: [{ moments: [edited] }] }\n" DECODE);
        buf_printf(&spec, "metrics: [{ name: far, kv_delta: l2, against: baseline, per: [%s] }]\n", pers[many]);
        bound_make(&b, spec.p);
        if (many) assert_non_null(strstr(b.said, "E395: metric 'far' would make 6"));
        assert_int_equal(b.j == NULL, many);
        buf_free(&spec);
    }
}

static void too_many_jobs_are_refused_before_they_are_made(void **state)
{
    struct buf spec = {0};
    int i;
    (void)state;
    buf_str(&spec, HEAD PAIR "axes:\n");
    for (i = 0; i < 8; i++) buf_printf(&spec, "  a%d: { layers: all }\n", i);
    buf_str(&spec, "conditions:\n  - name: z\n    over: [a0, a1, a2, a3, a4, a5, a6, a7]\n    apply: [" ZERO "]\n" DECODE);
    bound_make(&b, spec.p);
    buf_free(&spec);
    assert_null(b.j);
    assert_non_null(strstr(b.said, "error E351: with condition 'z' there are more than 1000000 jobs"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_come_by_prompt_condition_and_axes_last_fastest, setup, teardown),
        cmocka_unit_test_setup_teardown(an_operation_is_resolved_to_indices, setup, teardown),
        cmocka_unit_test_setup_teardown(controls_touch_every_edit_of_their_prompt_once, setup, teardown),
        cmocka_unit_test_setup_teardown(without_controls_asked_for_there_are_none, setup, teardown),
        cmocka_unit_test_setup_teardown(a_slot_s_value_elsewhere_and_position_0_are_warned_of, setup, teardown),
        cmocka_unit_test_setup_teardown(captures_follow_their_conditions, setup, teardown),
        cmocka_unit_test_setup_teardown(a_capture_without_conditions_is_for_every_job, setup, teardown),
        cmocka_unit_test_setup_teardown(labels_with_one_key_run_once_and_capture_for_both, setup, teardown),
        cmocka_unit_test_setup_teardown(a_key_is_the_hash_of_what_can_change_the_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(names_titles_and_captures_do_not_change_a_key, setup, teardown),
        cmocka_unit_test_setup_teardown(whatever_can_change_the_answer_changes_the_key, setup, teardown),
        cmocka_unit_test_setup_teardown(a_donor_counts_by_its_cache_and_not_by_decode_settings, setup, teardown),
        cmocka_unit_test_setup_teardown(the_last_token_may_be_edited_with_reuse_logits, setup, teardown),
        cmocka_unit_test_setup_teardown(different_positions_need_rope_only_where_keys_move, setup, teardown),
        cmocka_unit_test_setup_teardown(an_edit_in_flight_needs_no_after_edit_and_may_be_at_the_last_token, setup, teardown),
        cmocka_unit_test_setup_teardown(the_key_of_an_edit_in_flight_holds_what_it_does_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_are_written_with_the_digits_that_read_them_back, setup, teardown),
        cmocka_unit_test_setup_teardown(controls_repeat_edits_in_flight_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(records_are_the_union_of_what_captures_ask_for, setup, teardown),
        cmocka_unit_test_setup_teardown(a_capture_larger_than_memory_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_hundred_thousand_jobs_expand_in_seconds, setup, teardown),
        cmocka_unit_test_setup_teardown(a_metric_of_millions_of_numbers_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_jobs_are_refused_before_they_are_made, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
