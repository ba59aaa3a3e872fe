/* test_spec.c: specs that are right, specs that are wrong, and bytes that are nothing at all. Run from the repository root.
 *
 * tests/bad_specs/NAME.yaml is wrong (or, named warn_*, doubtful) and NAME.expected is the exact text of what is said about it.
 * NAME.set, where it is there, holds the values of -s, one a line.
 * UPDATE_EXPECTED=1 in the environment writes the .expected files anew; read the difference before you commit it.
 * Files named bind_* need a model and belong to another test. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../runner/spec.h"

#define FOLDER "tests/bad_specs/"
#define NEEDLE "experiments/needle_sf_ny.yaml"

/* The bytes of a file, NUL-terminated; NULL when it is not there. Caller frees. */
static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct buf b = {0};
    char bytes[4096];
    size_t got;
    if (!f) return NULL;
    while ((got = fread(bytes, 1, sizeof bytes, f)) > 0) buf_add(&b, bytes, got);
    fclose(f);
    *n = b.n;
    return buf_take(&b);
}

static struct spec *parse_good(const char *text)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct buf said = {0};
    spec_parse(&s, "good.yaml", text, strlen(text), &d);
    diag_text(d, &said);
    if (said.n) print_error("%s", said.p);
    assert_int_equal(said.n, 0);
    assert_non_null(s);
    buf_free(&said);
    diag_free(d);
    return s;
}

/* ---- what is said about wrong specs ---- */

static const char *line_end(const char *s)
{
    return s + strcspn(s, "\n");
}

static void print_difference(const char *name, const char *want, const char *got)
{
    print_error("%s\n", name);
    while (*want || *got) {
        size_t w = (size_t)(line_end(want) - want), g = (size_t)(line_end(got) - got);
        if (w == g && !memcmp(want, got, w)) {
            print_error("   %.*s\n", (int)w, want);
        } else {
            if (*want) print_error(" - %.*s\n", (int)w, want);
            if (*got) print_error(" + %.*s\n", (int)g, got);
        }
        want += w + (want[w] == '\n');
        got += g + (got[g] == '\n');
    }
}

/* The lines of a text, which is cut into them. */
static int lines_of(char *text, const char **lines, int max)
{
    int n = 0;
    for (char *line = text ? strtok(text, "\n") : NULL; line && n < max; line = strtok(NULL, "\n")) lines[n++] = line;
    return n;
}

/* Whether NAME.yaml is refused (or warned about) in exactly the words of NAME.expected. */
static bool golden_holds(const char *name)
{
    char path[512], shown[300];
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct buf got = {0};
    size_t n, n_want = 0, n_set;
    char *text, *want, *set;
    const char *sets[32];
    bool ok, warns = !strncmp(name, "warn_", 5);
    int result;
    snprintf(path, sizeof path, FOLDER "%s.yaml", name);
    snprintf(shown, sizeof shown, "%s.yaml", name);
    text = read_file(path, &n);
    assert_non_null(text);
    snprintf(path, sizeof path, FOLDER "%s.set", name);
    set = read_file(path, &n_set);
    result = spec_parse_set(&s, shown, text, n, sets, lines_of(set, sets, 32), &d);
    diag_text(d, &got);
    snprintf(path, sizeof path, FOLDER "%s.expected", name);
    if (getenv("UPDATE_EXPECTED")) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        fwrite(got.p, 1, got.n, f);
        fclose(f);
    }
    want = read_file(path, &n_want);
    ok = want && n_want == got.n && !memcmp(want, got.p, got.n);
    if (!ok) print_difference(want ? shown : path, want ? want : "", got.n ? got.p : "");
    if ((result == 0) != warns) {
        print_error("%s: a spec named warn_* loads, any other is refused\n", shown);
        ok = false;
    }
    free(text);
    free(want);
    free(set);
    buf_free(&got);
    diag_free(d);
    spec_free(s);
    return ok;
}

static void wrong_specs_are_refused_in_the_expected_words(void **state)
{
    DIR *dir = opendir(FOLDER);
    struct dirent *entry;
    int cases = 0, failed = 0;
    (void)state;
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        char name[256];
        const char *dot = strrchr(entry->d_name, '.');
        size_t n = dot ? (size_t)(dot - entry->d_name) : 0;
        if (!dot || !strncmp(entry->d_name, "bind_", 5)) continue;
        snprintf(name, sizeof name, "%.*s", (int)n, entry->d_name);
        if (!strcmp(dot, ".expected")) {
            char path[512];
            snprintf(path, sizeof path, FOLDER "%s.yaml", name);
            assert_int_equal(access(path, F_OK), 0);
        }
        if (strcmp(dot, ".yaml")) continue;
        cases++;
        failed += !golden_holds(name);
    }
    closedir(dir);
    assert_true(cases >= 60);
    assert_int_equal(failed, 0);
}

static void a_chat_template_is_read_and_the_date_is_a_day(void **state)
{
    struct spec *s = parse_good("kvrun: 1\nexperiment: x\n"
                                "model: { path: m.gguf, chat_template: tests/golden/gemma3-chat.jinja, date: 2024-02-29 }\n"
                                "prompts: [{ name: a, text: Hello }]\nconditions: [{ name: baseline }]\n");
    size_t n;
    char *want = read_file("tests/golden/gemma3-chat.jinja", &n);
    (void)state;
    assert_non_null(want);
    assert_string_equal(s->chat_template, want);
    assert_string_equal(s->chat_template_path->text, "tests/golden/gemma3-chat.jinja");
    assert_int_equal(s->chat_template_path->at.line, 3);
    assert_int_equal(s->year * 10000 + s->month * 100 + s->day, 20240229);
    free(want);
    spec_free(s);
    s = parse_good("kvrun: 1\nexperiment: x\nmodel: { path: m.gguf }\nprompts: [{ name: a, text: Hello }]\n"
                   "conditions: [{ name: baseline }]\n");
    assert_null(s->chat_template);
    assert_int_equal(s->year, 0);
    spec_free(s);
}

static void a_file_that_cannot_be_read_is_an_input_error(void **state)
{
    struct spec *s = NULL;
    struct diag *d = (struct diag *)1;
    err e = {0};
    (void)state;
    assert_int_equal(spec_load(&s, "tests/no_such_spec.yaml", &d, &e), -1);
    assert_int_equal(e.code, ERR_INPUT);
    assert_null(d);
    e = (err){0};
    assert_int_equal(spec_load(&s, "tests", &d, &e), -1);
    assert_int_equal(e.code, ERR_INPUT);
    assert_null(s);
}

static void a_file_over_the_limit_is_refused(void **state)
{
    size_t n = ((size_t)16 << 20) + 1;
    char *text = mem_alloc(n + 1);
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct buf said = {0};
    (void)state;
    memset(text, '#', n);
    assert_int_equal(spec_parse(&s, "big.yaml", text, n, &d), -1);
    diag_text(d, &said);
    assert_string_equal(said.p, "big.yaml: error E105: the file is larger than 16 MiB\n1 error; no job was run.\n");
    buf_free(&said);
    diag_free(d);
    free(text);
}

/* ---- what right specs mean ---- */

static void the_needle_spec_loads_without_warnings(void **state)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    err e = {0};
    (void)state;
    assert_int_equal(spec_load(&s, NEEDLE, &d, &e), 0);
    assert_int_equal(diag_errors(d) + diag_warnings(d), 0);
    assert_string_equal(s->experiment, "needle_sf_ny");
    assert_string_equal(s->model_path, "$KVRUN_MODELS/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert_string_equal(s->model_sha256, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
    assert_int_equal(s->kv, KV_AUTO);
    assert_int_equal(s->n_prompts, 6);
    assert_string_equal(s->prompts[3].name, "trip_ny");
    assert_int_equal(s->prompts[3].other, 2);
    assert_int_equal(s->prompts[2].other, 3);
    assert_int_equal(s->prompts[3].n_turns, 3);
    assert_string_equal(s->prompts[3].slots[0].value, "New York");
    assert_int_equal(s->prompts[3].add_bos, -1);
    assert_string_equal(s->prompts[5].turns[2].role, "user");
    assert_memory_equal(s->prompts[4].answer.pieces[0].text, "Here are the places you should visit:\n\n1. **", 44);
    assert_int_equal(s->n_conditions, 8);
    assert_null(s->conditions[0].apply);
    assert_true(s->control_noop && s->control_self_transplant);
    assert_int_equal(s->decode.max_tokens, 100);
    assert_false(s->decode.stop_eos);
    assert_int_equal(s->decode.after_edit, AFTER_RERUN_LAST);
    assert_int_equal(s->n_captures, 2);
    assert_int_equal(s->captures[1].n, 2);
    assert_int_equal(s->captures[1].conditions[1], 2);
    assert_int_equal(s->captures[1].moments, MOMENT_EDITED);
    assert_int_equal(s->n_metrics, 3);
    assert_true(s->metrics[0].casefold);
    assert_null(s->metrics[0].words[0].key);
    assert_string_equal(s->metrics[0].words[0].words[2], "Golden Gate");
    assert_int_equal(s->metrics[2].kind, METRIC_FIRST_DIVERGENCE);
    assert_string_equal(s->db, "results.db");
    diag_free(d);
    spec_free(s);
}

static void operations_of_the_needle_spec_are_typed(void **state)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    struct op *ops;
    arena *mem = arena_new();
    err e = {0};
    int n;
    (void)state;
    assert_int_equal(spec_load(&s, NEEDLE, &d, &e), 0);
    assert_int_equal(spec_ops(s, &s->conditions[0], NULL, 0, mem, d, &ops, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(spec_ops(s, &s->conditions[7], NULL, 0, mem, d, &ops, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ops[0].op, EDIT_TRANSPLANT);
    assert_int_equal(ops[0].tensors, CACHE_K | CACHE_V);
    assert_false(ops[0].layers.all);
    assert_int_equal(ops[0].layers.n, 1);
    assert_int_equal(ops[0].layers.r[0].first, 0);
    assert_int_equal(ops[0].layers.r[0].last, 9);
    assert_true(ops[0].heads.all);
    assert_int_equal(ops[0].select.kind, SELECT_SLOT);
    assert_string_equal(ops[0].donor.select.text, "city");
    assert_int_equal(ops[0].select.nth, SELECT_ONLY);
    assert_true(ops[0].donor.other);
    assert_false(ops[0].rope_given);
    assert_int_equal(ops[0].at.line, 58);
    arena_free(mem);
    diag_free(d);
    spec_free(s);
}

static void edits_in_flight_and_captures_of_tensors_are_typed(void **state)
{
    struct spec *s = parse_good(
        "kvrun: 1\nexperiment: x\nmodel: { path: m.gguf }\nprompts:\n  - { name: [a, b], slots: { w: [x, y] }, text: 'An "
        "{{w}}' }\n"
        "axes: { by: [0.5, '-1e-3'] }\nconditions:\n  - name: base\n  - name: e\n    over: [by]\n    apply:\n"
        "      - { op: scale, by: $by, tensor: embed, at: { slot: w }, when: prefill }\n"
        "      - { op: add, tensor: head_out, heads: [1], layers: [2], at: { slot: w }, vector: { file: v.safetensors, tensor: "
        "d }, "
        "when: prefill }\n"
        "      - { op: add, tensor: k_pre, at: { slot: w }, vector: { from: { prompt: other, at: { slot: w } }, minus: { "
        "prompt: b, "
        "at: { tokens: [0] } } }, when: prefill }\n"
        "      - { op: transplant, tensor: resid, at: { slot: w }, from: { prompt: other }, when: prefill }\n"
        "capture:\n  tensors:\n    - { of: [base], tensors: [resid, embed, logits], layers: '0..1', at: { slot: w } }\n"
        "    - { tensors: [attn] }\n");
    struct axis_value value = {.axis = 0, .text = "-1e-3"};
    struct diag *d = diag_new("x", "", 0);
    arena *mem = arena_new();
    struct op *ops;
    int n;
    (void)state;
    assert_int_equal(spec_ops(s, &s->conditions[1], &value, 1, mem, d, &ops, &n), 0);
    assert_int_equal(n, 4);
    assert_true(ops[0].embed && ops[0].tensors == SITE_RESID && ops[0].when == WHEN_PREFILL && ops[0].op == EDIT_SCALE);
    assert_float_equal(ops[0].by, -1e-3f, 0);
    assert_true(ops[1].op == EDIT_ADD && ops[1].tensors == SITE_HEAD_OUT && !ops[1].embed);
    assert_float_equal(ops[1].by, 1, 0);
    assert_string_equal(ops[1].vector.file, "v.safetensors");
    assert_string_equal(ops[1].vector.tensor, "d");
    assert_null(ops[2].vector.file);
    assert_true(ops[2].vector.from.other);
    assert_string_equal(ops[2].vector.minus.prompt, "b");
    assert_int_equal(ops[2].vector.minus.select.kind, SELECT_TOKENS);
    assert_true(ops[3].donor.other && ops[3].tensors == SITE_RESID);
    assert_int_equal(s->n_tensors, 2);
    assert_int_equal(s->n_captures, 0);
    assert_int_equal(s->tensors[0].sites, SITE_RESID | SITE_LOGITS);
    assert_true(s->tensors[0].embed && !s->tensors[0].layers.all);
    assert_string_equal(s->tensors[0].select.text, "w");
    assert_null(s->tensors[1].conditions);
    assert_true(s->tensors[1].layers.all && s->tensors[1].select.tokens.all);
    assert_int_equal(s->decode.after_edit, AFTER_NONE);
    diag_free(d);
    arena_free(mem);
    spec_free(s);
}

#define HEAD "kvrun: 1\nexperiment: x\nmodel: { path: m.gguf }\n"

/* The prompt's text with slot values put in. */
static char *rendered(const struct prompt *p, const struct template *t)
{
    struct buf b = {0};
    for (int i = 0; i < t->n; i++) {
        const struct piece *piece = &t->pieces[i];
        if (piece->slot < 0)
            buf_add(&b, piece->text, piece->len);
        else
            buf_str(&b, p->slots[piece->slot].value);
    }
    return buf_take(&b);
}

static void slots_are_filled_once_and_four_braces_are_two(void **state)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"{{a}}", "A"},
        {"x{{a}}y{{b}}z{{a}}", "xAy{{a}}zA"},
        {"{{a}}{{b}}", "A{{a}}"},
        {"{{{{a}}", "{{a}}"},
        {"{{{{{{a}}", "{{A"},
        {"{{a}}{{{{", "A{{"},
        {"{{{{{{{{", "{{{{"},
        {"}} } { {a} }}", "}} } { {a} }}"},
        {"{{a}}}}", "A}}"},
        {"$a $$ {$b}", "$a $$ {$b}"},
        {"", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char spec[600], *got;
        struct spec *s;
        snprintf(
            spec, sizeof spec,
            HEAD
            "prompts:\n  - name: p\n    slots: { a: A, b: '{{a}}' }\n    chat: [{ user: \"%s\" }, { user: \"{{a}}{{b}}\" }]\n"
            "    ask: assistant\nconditions: [{ name: baseline }]\n",
            cases[i].text);
        s = parse_good(spec);
        got = rendered(&s->prompts[0], &s->prompts[0].turns[0].content);
        assert_string_equal(got, cases[i].want);
        free(got);
        spec_free(s);
    }
}

static void strings_keep_their_bytes(void **state)
{
    struct spec *s = parse_good(HEAD "title: 010\nprompts:\n"
                                     "  - { name: NO, text: yes }\n"
                                     "  - { name: \"1.0\", text: '~' }\n"
                                     "  - { name: n, text: \"tab\\tline\\n\\u6771\", add_bos: false }\n"
                                     "conditions: [{ name: on }]\nallow: [W111]\n");
    (void)state;
    assert_string_equal(s->title, "010");
    assert_string_equal(s->prompts[0].name, "NO");
    assert_string_equal(s->prompts[0].text.pieces[0].text, "yes");
    assert_string_equal(s->prompts[1].name, "1.0");
    assert_string_equal(s->prompts[1].text.pieces[0].text, "~");
    assert_string_equal(s->prompts[2].text.pieces[0].text, "tab\tline\n\xe6\x9d\xb1");
    assert_int_equal(s->prompts[2].add_bos, 0);
    assert_int_equal(s->prompts[0].other, -1);
    spec_free(s);
}

static void tokens_may_differ_by_name(void **state)
{
    struct spec *s =
        parse_good(HEAD "prompts:\n  - { name: [a, b], tokens: [[1, 2], [3]] }\n  - { name: [c, d, e], tokens: [7] }\n"
                        "conditions: [{ name: baseline }]\n");
    (void)state;
    assert_int_equal(s->prompts[0].n_tokens, 2);
    assert_int_equal(s->prompts[1].tokens[0], 3);
    assert_int_equal(s->prompts[4].tokens[0], 7);
    assert_int_equal(s->prompts[4].kind, PROMPT_TOKENS);
    assert_int_equal(s->prompts[1].other, 0);
    assert_int_equal(s->prompts[3].other, -1);
    spec_free(s);
}

static const char axes_spec[] = HEAD
    "prompts: [{ name: [a, b], slots: { city: [SF, NY] }, text: \"To {{city}} for $5\" }]\n"
    "axes: { tensor: [kv, k, v], layer: { layers: \"0..3\" }, price: [$5] }\n"
    "conditions:\n"
    "  - name: baseline\n"
    "  - name: zero\n"
    "    over: [layer, tensor]\n"
    "    apply:\n"
    "      - { op: zero, tensor: $tensor, layers: [$layer, -1], heads: 1, at: { text: $5, nth: last }, when: finished_cache }\n"
    "  - name: dear\n"
    "    over: [price]\n"
    "    apply: [{ op: mask, at: { text: $price }, when: finished_cache }]\n"
    "  - name: more\n"
    "    extends: zero\n"
    "  - name: less\n"
    "    extends: more\n"
    "    over: [tensor]\n"
    "    apply:\n"
    "      - op: transplant\n"
    "        tensor: \"$tensor\"\n"
    "        at: { tokens: [1, \"3..4\", -1] }\n"
    "        from: { prompt: b, condition: baseline, at: { slot: city, nth: 1 } }\n"
    "        align: same_length\n"
    "        rope: rerotate\n"
    "        when: finished_cache\n"
    "decode: { after_edit: reuse_logits, stop: eos }\n"
    "capture: { kv: [{ moments: [prefill, edited, end] }] }\n"
    "metrics:\n"
    "  - { name: own, mentions: { a: [SF], b: [NY, New York], which: own } }\n"
    "  - { name: fd, first_divergence: , against: baseline }\n"
    "  - { name: fd2, first_divergence: { against: zero } }\n";

static void axis_values_are_put_in_for_whole_scalars(void **state)
{
    struct spec *s = parse_good(axes_spec);
    struct diag *d = diag_new("x", "", 0);
    struct axis_value values[] = {{0, "k", {1, 1}}, {1, "2", {1, 2}}}, price = {2, "$5", {1, 1}};
    arena *mem = arena_new();
    struct op *ops;
    int n;
    (void)state;
    assert_int_equal(s->n_axes, 3);
    assert_int_equal(s->axes[1].kind, AXIS_LAYERS);
    assert_int_equal(s->axes[1].layers.r[0].last, 3);
    assert_int_equal(s->conditions[1].n_over, 2);
    assert_int_equal(s->conditions[1].over[0], 0); /* declared order, not the order of `over` */
    assert_int_equal(spec_ops(s, &s->conditions[1], values, 2, mem, d, &ops, &n), 0);
    assert_int_equal(ops[0].tensors, CACHE_K);
    assert_int_equal(ops[0].layers.n, 2);
    assert_int_equal(ops[0].layers.r[0].first, 2);
    assert_int_equal(ops[0].layers.r[0].at.col, 2);
    assert_int_equal(ops[0].layers.r[1].last, -1);
    assert_int_equal(ops[0].heads.r[0].first, 1);
    assert_string_equal(ops[0].select.text, "$5"); /* no axis of that name: literal */
    assert_int_equal(ops[0].select.nth, SELECT_LAST);
    assert_int_equal(spec_ops(s, &s->conditions[2], &price, 1, mem, d, &ops, &n), 0);
    assert_string_equal(ops[0].select.text, "$5");
    values[0].text = "q";
    assert_int_equal(spec_ops(s, &s->conditions[1], values, 2, mem, d, &ops, &n), -1);
    assert_int_equal(spec_ops(s, &s->conditions[1], values, 2, mem, d, &ops, &n), -1);
    assert_int_equal(diag_errors(d), 1);
    arena_free(mem);
    diag_free(d);
    spec_free(s);
}

static void extends_copies_and_replaces_whole_keys(void **state)
{
    struct spec *s = parse_good(axes_spec);
    struct diag *d = diag_new("x", "", 0);
    struct axis_value value = {0, "v", {1, 1}};
    arena *mem = arena_new();
    struct op *ops;
    int n;
    (void)state;
    assert_int_equal(s->conditions[3].n_over, 2);
    assert_ptr_equal(s->conditions[3].apply, s->conditions[1].apply);
    assert_int_equal(s->conditions[4].n_over, 1);
    assert_int_equal(spec_ops(s, &s->conditions[4], &value, 1, mem, d, &ops, &n), 0);
    assert_int_equal(ops[0].op, EDIT_TRANSPLANT);
    assert_int_equal(ops[0].tensors, CACHE_V);
    assert_true(ops[0].rope_given && ops[0].rerotate);
    assert_false(ops[0].donor.other);
    assert_string_equal(ops[0].donor.prompt, "b");
    assert_int_equal(ops[0].select.tokens.n, 3);
    assert_int_equal(ops[0].select.tokens.r[1].last, 4);
    assert_int_equal(ops[0].donor.select.kind, SELECT_SLOT);
    assert_int_equal(ops[0].donor.select.nth, 1);
    assert_int_equal(s->decode.after_edit, AFTER_REUSE_LOGITS);
    assert_int_equal(s->captures[0].moments, MOMENT_PREFILL | MOMENT_EDITED | MOMENT_END);
    assert_null(s->captures[0].conditions);
    assert_int_equal(s->metrics[0].which, WHICH_OWN);
    assert_string_equal(s->metrics[0].words[1].key, "b");
    assert_int_equal(s->metrics[1].against, 0);
    assert_int_equal(s->metrics[2].against, 1);
    arena_free(mem);
    diag_free(d);
    spec_free(s);
}

static void the_models_folder_comes_from_the_environment_or_lies_beside(void **state)
{
    struct spec *s = NULL;
    struct diag *d = NULL;
    static const char text[] = "kvrun: 1\nexperiment: x\nmodel: { path: $KVRUN_MODELS/no_such.gguf }\n"
                               "prompts: [{ name: a, text: x }]\nconditions: [{ name: baseline }]\n";
    char *path;
    (void)state;
    assert_int_equal(spec_parse(&s, "experiments/x.yaml", text, strlen(text), &d), 0);
    setenv("KVRUN_MODELS", "/some/where", 1);
    path = spec_model_path(s);
    assert_string_equal(path, "/some/where/no_such.gguf");
    free(path);
    unsetenv("KVRUN_MODELS");
    path = spec_model_path(s);
    assert_string_equal(path, "models/no_such.gguf");
    free(path);
    diag_free(d);
    spec_free(s);
}

static void a_model_beside_the_specs_folder_is_found(void **state)
{
    char dir[] = "/tmp/test_spec_XXXXXX", path[300], want[300];
    static const char *const parts[] = {"/experiments", "/models"};
    static const char text[] = "kvrun: 1\nexperiment: x\nmodel: { path: $KVRUN_MODELS/there.gguf }\n"
                               "prompts: [{ name: a, text: x }]\nconditions: [{ name: baseline }]\n";
    struct spec *s = NULL;
    struct diag *d = NULL;
    char *got;
    (void)state;
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", dir, parts[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof path, "%s/models/there.gguf", dir);
    fclose(fopen(path, "wb"));
    snprintf(want, sizeof want, "%s/experiments/../models/there.gguf", dir);
    snprintf(path, sizeof path, "%s/experiments/x.yaml", dir);
    unsetenv("KVRUN_MODELS");
    assert_int_equal(spec_parse(&s, path, text, strlen(text), &d), 0);
    got = spec_model_path(s);
    assert_string_equal(got, want);
    free(got);
    diag_free(d);
    spec_free(s);
    snprintf(path, sizeof path, "%s/models/there.gguf", dir);
    unlink(path);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s%s", dir, parts[i]);
        rmdir(path);
    }
    rmdir(dir);
}

/* ---- size and hostility ---- */

static void a_hundred_thousand_combinations_load_within_a_second(void **state)
{
    struct buf b = {0};
    struct spec *s;
    struct timespec from, to;
    double seconds;
    (void)state;
    buf_str(&b, HEAD "prompts: [{ name: a, text: x }]\naxes:\n  t: [kv, k, v]\n");
    for (int axis = 0; axis < 2; axis++) {
        buf_printf(&b, "  l%d: [0", axis);
        for (int i = 1; i < 200; i++) buf_printf(&b, ", %d", i);
        buf_str(&b, "]\n");
    }
    buf_str(&b,
            "conditions:\n  - { name: baseline }\n  - name: zero\n    over: [t, l0, l1]\n    apply: [{ op: zero, tensor: $t, "
            "layers: [$l0, $l1], at: { tokens: [0] }, when: finished_cache }]\ndecode: { after_edit: rerun_last }\n");
    clock_gettime(CLOCK_MONOTONIC, &from);
    s = parse_good(b.p);
    clock_gettime(CLOCK_MONOTONIC, &to);
    seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    assert_true(seconds < 1.0);
    spec_free(s);
    buf_free(&b);
}

static uint64_t rng = 0x9e3779b97f4a7c15u;

static size_t below(size_t n)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return n ? (size_t)(rng % n) : 0;
}

/* One to four small changes: a byte, a cut, a repeated stretch, a word of the language in the wrong place. */
static void mutate(struct buf *out, const char *text, size_t n)
{
    static const char *const words[] = {
        "{{", "}}",   "*trip", "&a ",  "- ",   ": ",    "$tensor", "[",   "]",  "{",     "}",     "\n", "\t", "|-", "\"",
        "'",  "\xff", "#",     "!!a ", "<<: ", "apply", "name",    "all", "-1", "99..1", "other", "\r", ",",  "?",  "---\n"};
    buf_add(out, text, n);
    for (size_t k = below(4) + 1; k > 0; k--) {
        size_t at = below(out->n), len = below(40), room = out->n - at;
        struct buf next = {0};
        if (len > room) len = room;
        buf_add(&next, out->p, at);
        switch (below(4)) {
        case 0: buf_char(&next, (char)below(256)), len = 1; break;
        case 1: break;
        case 2: buf_add(&next, out->p + at, len), buf_add(&next, out->p + at, len); break;
        default: buf_str(&next, words[below(sizeof words / sizeof *words)]), len = 0;
        }
        if (len > room) len = room;
        buf_add(&next, out->p + at + len, room - len);
        buf_free(out);
        *out = next;
    }
}

static void mutated_specs_are_read_or_refused_but_never_break(void **state)
{
    size_t n;
    char *needle = read_file(NEEDLE, &n);
    int good = 0;
    (void)state;
    assert_non_null(needle);
    for (int i = 0; i < 2000; i++) {
        struct buf text = {0}, said = {0};
        struct spec *s = NULL;
        struct diag *d = NULL;
        mutate(&text, i % 2 ? needle : axes_spec, i % 2 ? n : strlen(axes_spec));
        if (spec_parse(&s, "mutated.yaml", text.p, text.n, &d) == 0) good++;
        assert_int_equal(s != NULL, diag_errors(d) == 0);
        diag_text(d, &said);
        assert_int_equal(utf8_valid(said.n ? said.p : "", said.n), said.n);
        diag_free(d);
        spec_free(s);
        buf_free(&said);
        buf_free(&text);
    }
    assert_true(good > 20 && good < 1900);
    free(needle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_specs_are_refused_in_the_expected_words),
        cmocka_unit_test(a_chat_template_is_read_and_the_date_is_a_day),
        cmocka_unit_test(a_file_that_cannot_be_read_is_an_input_error),
        cmocka_unit_test(a_file_over_the_limit_is_refused),
        cmocka_unit_test(the_needle_spec_loads_without_warnings),
        cmocka_unit_test(operations_of_the_needle_spec_are_typed),
        cmocka_unit_test(edits_in_flight_and_captures_of_tensors_are_typed),
        cmocka_unit_test(slots_are_filled_once_and_four_braces_are_two),
        cmocka_unit_test(strings_keep_their_bytes),
        cmocka_unit_test(tokens_may_differ_by_name),
        cmocka_unit_test(axis_values_are_put_in_for_whole_scalars),
        cmocka_unit_test(extends_copies_and_replaces_whole_keys),
        cmocka_unit_test(the_models_folder_comes_from_the_environment_or_lies_beside),
        cmocka_unit_test(a_model_beside_the_specs_folder_is_found),
        cmocka_unit_test(a_hundred_thousand_combinations_load_within_a_second),
        cmocka_unit_test(mutated_specs_are_read_or_refused_but_never_break),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
