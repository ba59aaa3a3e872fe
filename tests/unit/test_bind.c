/* test_bind.c: prompts, slots and selectors against a made-up engine; bad specs against golden messages. */
#include "fake_engine.h"

#include "bound_case.h"

#include <glob.h>

static void tell(void)
{
    struct buf out = {0};
    free(b.said);
    diag_text(b.d, &out);
    b.said = buf_take(&out);
}

static int bind_rc; /* of the last bind_text */

static void bind_text(const char *yaml)
{
    err e = {0};
    b.mem = arena_new();
    if (spec_parse(&b.s, "x.yaml", yaml, strlen(yaml), &b.d)) {
        tell();
        fail_msg("spec: %s", b.said);
    }
    bind_rc = bind_prompts(b.s, &fake, b.mem, b.d, &b.p, &e);
    tell();
    assert_int_equal(e.code, 0);
}

#define HEAD "kvrun: 1\nexperiment: x\nmodel: { path: fake.gguf }\n"
#define TAIL "conditions: [{ name: baseline }]\ndecode: { greedy: true, max_tokens: 4, after_edit: rerun_last }\n"

static const char *token_text(const struct bound_prompt *p, int i)
{
    static char s[64];
    snprintf(s, sizeof s, "%.*s", p->tokens[i].end - p->tokens[i].start, p->text + p->tokens[i].start);
    return s;
}

static void assert_positions(const struct select *sel, const struct bound_prompt *p, const char *want)
{
    struct buf got = {0};
    int *at, n, i;
    int rc = bind_select(p, sel, b.mem, b.d, &at, &n);
    for (i = 0; rc == 0 && i < n; i++) buf_printf(&got, i ? " %d" : "%d", at[i]);
    tell();
    assert_string_equal(rc ? b.said : got.p, want);
    buf_free(&got);
}

static struct select select_of(enum select_kind kind, const char *text, int nth)
{
    return (struct select){.kind = kind, .text = text, .nth = nth, .at = {1, 1}, .width = 1};
}

/* ---- prompts ---- */

static void slots_of_a_text_prompt_become_spans(void **state)
{
    (void)state;
    bind_text(HEAD "prompts:\n  - name: [sf, ny]\n    slots: { city: [San Francisco, NY] }\n"
                   "    text: 'I go to {{city}} and {{city}}.'\n" TAIL);
    assert_int_equal(bind_rc, 0);
    assert_string_equal(b.p[0].text, "I go to San Francisco and San Francisco.");
    assert_int_equal(b.p[0].n_tokens, 9);
    assert_int_equal(b.p[0].n_spans, 2);
    assert_string_equal(b.p[0].spans[0].name, "city");
    assert_int_equal(b.p[0].spans[0].nth, 1);
    assert_int_equal(b.p[0].spans[0].byte_start, 8);
    assert_int_equal(b.p[0].spans[0].byte_end, 21);
    assert_int_equal(b.p[0].spans[0].tok_start, 3);
    assert_int_equal(b.p[0].spans[0].tok_end, 5);
    assert_string_equal(b.p[0].spans[0].edges, "space");
    assert_int_equal(b.p[0].spans[1].nth, 2);
    assert_int_equal(b.p[0].spans[1].tok_start, 6);
    assert_string_equal(b.p[1].text, "I go to NY and NY.");
    assert_int_equal(b.p[1].spans[1].tok_start, 5);
    assert_memory_equal(b.p[0].ids, ((int[]){b.p[0].tokens[0].id, b.p[0].tokens[1].id}), 2 * sizeof(int));
    assert_memory_not_equal(b.p[0].sha256, b.p[1].sha256, 32);
}

static void bos_comes_from_the_spec_else_from_the_tokenizer(void **state)
{
    (void)state;
    fake.info.add_bos = true;
    bind_text(HEAD "prompts:\n  - { name: a, text: hi }\n  - { name: b, text: hi, add_bos: false }\n"
                   "  - { name: c, chat: [{ user: hi }], ask: assistant }\n"
                   "  - { name: d, chat: [{ user: hi }], ask: assistant, add_bos: true }\n" TAIL);
    assert_int_equal(bind_rc, 0);
    assert_int_equal(b.p[0].n_tokens, 2);
    assert_int_equal(b.p[0].ids[0], 0);
    assert_int_equal(b.p[1].n_tokens, 1);
    assert_int_equal(b.p[2].ids[0], 1);
    assert_int_equal(b.p[3].ids[0], 0);
    assert_int_equal(b.p[3].n_tokens, b.p[2].n_tokens + 1);
}

static void slots_of_a_chat_are_found_in_the_rendered_text(void **state)
{
    (void)state;
    bind_text(HEAD "prompts:\n  - name: sf\n    slots: { city: SF, verb: go }\n"
                   "    chat:\n      - user: 'I {{verb}} to {{city}}.'\n      - assistant: '{{city}}!'\n      - user: Where?\n"
                   "    ask: assistant\n    answer_starts: 'To {{city}}'\n" TAIL);
    assert_int_equal(bind_rc, 0);
    assert_string_equal(b.p[0].text, "<|im_start|>user\nI go to SF.<|im_end|>\n<|im_start|>assistant\nSF!<|im_end|>\n"
                                     "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\nTo SF");
    assert_int_equal(b.p[0].n_spans, 4);
    assert_string_equal(b.p[0].spans[0].name, "verb");
    assert_string_equal(b.p[0].spans[1].name, "city");
    assert_int_equal(b.p[0].spans[1].nth, 1);
    assert_string_equal(token_text(&b.p[0], b.p[0].spans[1].tok_start), " SF");
    assert_int_equal(b.p[0].spans[2].nth, 2);
    assert_string_equal(b.p[0].spans[2].edges, "exact");
    assert_int_equal(b.p[0].spans[3].nth, 3);
    assert_int_equal(b.p[0].spans[3].byte_end, b.p[0].n_bytes);
}

static void private_characters_in_a_chat_do_not_hide_a_slot(void **state)
{
    (void)state;
    bind_text(HEAD "prompts:\n  - name: sf\n    slots: { city: \"S\\U000F0000F\" }\n"
                   "    chat: [{ user: \"a \\U000F0001 {{city}} b\" }]\n    ask: assistant\n" TAIL);
    assert_int_equal(bind_rc, 0);
    assert_int_equal(b.p[0].n_spans, 1);
    assert_int_equal(b.p[0].spans[0].byte_end - b.p[0].spans[0].byte_start, 6);
}

static void a_template_that_changes_a_slot_s_surroundings_is_refused(void **state)
{
    (void)state;
    fake.trim = true;
    bind_text(
        HEAD
        "prompts:\n  - name: sf\n    slots: { city: 'SF ' }\n    chat: [{ user: 'to {{city}}' }]\n    ask: assistant\n" TAIL);
    assert_int_equal(bind_rc, -1);
    assert_non_null(strstr(b.said, "E307"));
}

static void a_template_that_trims_elsewhere_is_fine(void **state)
{
    (void)state;
    fake.trim = true;
    bind_text(
        HEAD
        "prompts:\n  - name: sf\n    slots: { city: 'SF' }\n    chat: [{ user: ' to {{city}} ' }]\n    ask: assistant\n" TAIL);
    assert_int_equal(bind_rc, 0);
    assert_int_equal(b.p[0].spans[0].byte_start, 20);
}

static void a_template_that_raises_is_an_error_with_a_place(void **state)
{
    (void)state;
    fake.refuse = true;
    bind_text(HEAD "prompts:\n  - { name: a, chat: [{ user: hi }], ask: assistant }\n" TAIL);
    assert_int_equal(bind_rc, -1);
    assert_non_null(strstr(b.said, "x.yaml:5:"));
    assert_non_null(strstr(b.said, "error E306: prompt 'a': the model's chat template: line 3: roles must alternate"));
}

static void text_without_a_tokenizer_is_an_error(void **state)
{
    (void)state;
    fake.info.tokenizer_kind = "none";
    bind_text(HEAD "prompts:\n  - { name: a, text: hi }\n  - { name: b, tokens: [1, 2] }\n" TAIL);
    assert_int_equal(bind_rc, -1);
    assert_non_null(strstr(b.said, "error E301: prompt 'a' is text, but the model fake-8b has no tokenizer"));
    assert_int_equal(diag_errors(b.d), 1);
}

static void a_chat_without_a_template_is_an_error(void **state)
{
    (void)state;
    fake.info.has_chat_template = false;
    bind_text(HEAD "prompts:\n  - { name: a, chat: [{ user: hi }], ask: assistant }\n" TAIL);
    assert_int_equal(bind_rc, -1);
    assert_non_null(strstr(b.said, "error E305: prompt 'a' is a chat, but the model fake-8b has no chat template"));
}

/* ---- selectors ---- */

static void selectors_give_rising_positions(void **state)
{
    struct select tokens = {.kind = SELECT_TOKENS, .at = {1, 1}, .width = 1};
    struct range r[] = {{-1, -1, {1, 1}}, {2, 4, {1, 1}}, {3, 3, {1, 1}}};
    struct select s;
    (void)state;
    bind_text(HEAD "prompts:\n  - name: a\n    slots: { x: to be }\n    text: 'or {{x}} or not {{x}} caf\u00e9 or'\n" TAIL);
    assert_int_equal(bind_rc, 0); /* or| to| be| or| not| to| be| caf|C3|A9| or */
    tokens.tokens = (struct ranges){.n = 3, .r = r};
    assert_positions(&tokens, &b.p[0], "2 3 4 10");
    s = select_of(SELECT_SLOT, "x", 2), assert_positions(&s, &b.p[0], "5 6");
    s = select_of(SELECT_SLOT, "x", SELECT_LAST), assert_positions(&s, &b.p[0], "5 6");
    s = select_of(SELECT_SLOT, "x", SELECT_ALL), assert_positions(&s, &b.p[0], "1 2 5 6");
    s = select_of(SELECT_TEXT, "or", SELECT_ALL), assert_positions(&s, &b.p[0], "0 3 10");
    s = select_of(SELECT_TEXT, " or", 1), assert_positions(&s, &b.p[0], "3");
    s = select_of(SELECT_TEXT, "not to be", SELECT_ONLY), assert_positions(&s, &b.p[0], "4 5 6");
    s = select_of(SELECT_TEXT, "\u00e9", SELECT_ONLY), assert_positions(&s, &b.p[0], "8 9");
}

static void a_missing_text_names_the_nearest_words(void **state)
{
    struct select s = select_of(SELECT_TEXT, "San Fransisco", SELECT_ONLY);
    int *at, n;
    (void)state;
    bind_text(HEAD "prompts:\n  - { name: a, text: 'I go to San Francisco, then home.' }\n" TAIL);
    assert_int_equal(bind_select(&b.p[0], &s, b.mem, b.d, &at, &n), -1);
    tell();
    assert_non_null(strstr(b.said, "error E312: 'San Fransisco' does not occur in prompt 'a'"));
    assert_non_null(strstr(b.said, "help: the prompt says 'San Francisco'"));
}

static void ranges_count_from_both_ends(void **state)
{
    struct range r[] = {{-2, -1, {1, 1}}, {0, 0, {1, 1}}};
    struct ranges g = {.n = 2, .r = r}, all = {.all = true};
    int *out, n;
    (void)state;
    bind_text(HEAD "prompts:\n  - { name: a, text: hi }\n" TAIL);
    assert_int_equal(bind_ranges(&g, 32, "layer", "m", b.mem, b.d, &out, &n), 0);
    assert_int_equal(n, 3);
    assert_memory_equal(out, ((int[]){0, 30, 31}), sizeof(int[3]));
    assert_int_equal(bind_ranges(&all, 3, "head", "m", b.mem, b.d, &out, &n), 0);
    assert_memory_equal(out, ((int[]){0, 1, 2}), sizeof(int[3]));
    r[0].first = -2147483647 - 1;
    assert_int_equal(bind_ranges(&g, 32, "layer", "m", b.mem, b.d, &out, &n), -1);
}

/* ---- golden messages ---- */

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct buf out = {0};
    char part[4096];
    size_t got;
    if (!f) return NULL;
    while ((got = fread(part, 1, sizeof part, f)) > 0) buf_add(&out, part, got);
    fclose(f);
    *n = out.n;
    return buf_take(&out);
}

/* What the program would say about a spec that only the model can show to be wrong. */
static const char *what_it_says(const char *path)
{
    size_t n = 0;
    char *text = read_file(path, &n);
    fake_reset();
    assert_non_null(text);
    bound_make_as(&b, path, text);
    free(text);
    return b.said;
}

static void bad_specs_say_what_is_wrong_and_where(void **state)
{
    bool update = getenv("KVRUN_UPDATE_GOLDEN") != NULL; /* then read the diff */
    glob_t g;
    size_t i, n;
    (void)state;
    assert_int_equal(glob("tests/bad_specs/bind_*.yaml", 0, NULL, &g), 0);
    for (i = 0; i < g.gl_pathc; i++) {
        const char *got = what_it_says(g.gl_pathv[i]);
        char path[512], *want;
        snprintf(path, sizeof path, "%.*s.expected", (int)strlen(g.gl_pathv[i]) - 5, g.gl_pathv[i]);
        if (update) {
            FILE *f = fopen(path, "wb");
            assert_non_null(f);
            fputs(got, f);
            fclose(f);
        }
        want = read_file(path, &n);
        if (!want) fail_msg("%s is missing", path);
        assert_string_equal(got, want);
        free(want);
    }
    assert_true(g.gl_pathc >= 15);
    globfree(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(slots_of_a_text_prompt_become_spans, setup, teardown),
        cmocka_unit_test_setup_teardown(bos_comes_from_the_spec_else_from_the_tokenizer, setup, teardown),
        cmocka_unit_test_setup_teardown(slots_of_a_chat_are_found_in_the_rendered_text, setup, teardown),
        cmocka_unit_test_setup_teardown(private_characters_in_a_chat_do_not_hide_a_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(a_template_that_changes_a_slot_s_surroundings_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_template_that_trims_elsewhere_is_fine, setup, teardown),
        cmocka_unit_test_setup_teardown(a_template_that_raises_is_an_error_with_a_place, setup, teardown),
        cmocka_unit_test_setup_teardown(text_without_a_tokenizer_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(a_chat_without_a_template_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(selectors_give_rising_positions, setup, teardown),
        cmocka_unit_test_setup_teardown(a_missing_text_names_the_nearest_words, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_count_from_both_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_specs_say_what_is_wrong_and_where, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
