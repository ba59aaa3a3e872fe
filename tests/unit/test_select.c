/* test_select.c: every form of a position, as it is written in a spec, against a made-up tokenizer. */
#include "fake_engine.h"

#include "bound_case.h"

#include "../../runner/regex.h"

/* Positions that `at` means in the spec's first prompt, "1 2 3"; else what is said. */
static const char *positions(const char *prompt, const char *at, const char *value)
{
    static char out[4096];
    struct buf yaml = {0}, said = {0};
    struct axis_value v = {.axis = 0, .text = value, .at = {5, 1}};
    struct op *ops;
    int *list, n, i, k = 0;
    err e = {0};
    bound_free(&b);
    buf_printf(&yaml,
               "kvrun: 1\nexperiment: x\nmodel: { path: fake.gguf }\naxes: { a: [\"%s\"] }\nprompts:\n%s"
               "conditions:\n  - name: baseline\n  - name: edit\n    over: [a]\n    apply:\n"
               "      - { op: zero, at: %s, when: prefill }\nallow: [W106, W107, W109]\n",
               value, prompt, at);
    b.mem = arena_new();
    out[0] = 0;
    if (spec_parse(&b.s, "x.yaml", yaml.p, yaml.n, &b.d) == 0 && bind_prompts(b.s, &fake, b.mem, b.d, &b.p, &e) == 0 &&
        spec_ops(b.s, &b.s->conditions[1], &v, 1, b.mem, b.d, &ops, &n) == 0 &&
        bind_select(&b.p[0], &ops[0].select, b.mem, b.d, &list, &n) == 0) {
        for (i = 0; i < n; i++) k += snprintf(out + k, sizeof out - (size_t)k, i ? " %d" : "%d", list[i]);
        bind_decided(&b.p[0], &ops[0].select);
    } else {
        diag_text(b.d, &said);
        snprintf(out, sizeof out, "%s", said.p ? said.p : e.msg);
    }
    buf_free(&yaml);
    buf_free(&said);
    return out;
}

#define TEXT                                                                                                      \
    "  - name: p\n    add_bos: true\n    slots: { x: to be, q: the question }\n    text: 'or {{x}} or not {{x}}," \
    " is {{q}}?'\n"
/* 0 BOS, 1 or, 2 to, 3 be, 4 or, 5 not, 6 to, 7 be, 8 ',', 9 is, 10 the, 11 question, 12 ? */

static void forms_of_text(void **state)
{
    static const struct {
        const char *at, *want;
    } cases[] = {
        {"{ slot: q }", "10 11"},
        {"{ slot: x, nth: last }", "6 7"},
        {"{ slot: x, nth: all }", "2 3 6 7"},
        {"{ slot: q, expand: [1, 1] }", "9 10 11 12"},
        {"{ slot: x, nth: all, expand: [0, 1] }", "2 3 4 6 7 8"},
        {"{ slot: x, nth: all, expand: [1, 0] }", "1 2 3 5 6 7"},
        {"{ text: 'not to be' }", "5 6 7"},
        {"{ text: \"$a\" }", "10"},
        {"{ text: 'uest', edges: include }", "11"},
        {"{ text: 'ot to b', edges: exclude }", "6"},
        {"{ text: ' not', edges: exact }", "5"},
        {"{ regex: 'o[rt]', nth: all, edges: include }", "1 4 5"},
        {"{ regex: '\\b(?i)BE\\b', nth: 2 }", "7"},
        {"{ regex: '\\w+\\?', nth: 1 }", "11 12"},
        {"{ regex: '^or\\b' }", "1"},
        {"{ regex: 'x*|be', nth: all }", "3 7"},
        {"{ tokens: all }", "0 1 2 3 4 5 6 7 8 9 10 11 12"},
        {"{ tokens: [7, \"9..12\", -1] }", "7 9 10 11 12"},
        {"{ bos: true }", "0"},
        {"{ last: true }", "12"},
        {"{ all: true }", "0 1 2 3 4 5 6 7 8 9 10 11 12"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) assert_string_equal(positions(TEXT, cases[i].at, "the"), cases[i].want);
}

static void set_algebra(void **state)
{
    static const struct {
        const char *at, *want;
    } cases[] = {
        {"{ after: q }", "12"},
        {"{ after: { text: \"$a\" } }", "11 12"},
        {"{ before: { slot: x, nth: 1 } }", "0 1"},
        {"{ before: { slot: x, nth: all } }", "0 1"},
        {"{ after: { slot: x, nth: all } }", "8 9 10 11 12"},
        {"{ between: [{ slot: x, nth: 1 }, q] }", "4 5 6 7 8 9"},
        {"{ between: [{ bos: true }, { text: not }] }", "1 2 3 4"},
        {"{ not: { between: [{ tokens: 0 }, q] } }", "0 10 11 12"},
        {"{ any: [q, { last: true }, { tokens: [10, 1] }] }", "1 10 11 12"},
        {"{ both: [{ after: { text: not } }, { tokens: \"0..7\" }] }", "6 7"},
        {"{ both: [{ not: { last: true } }, { not: { bos: true } }, { after: { tokens: 9 } }] }", "10 11"},
        {"{ before: q, expand: [0, 3] }", "0 1 2 3 4 5 6 7 8 9 10 11 12"},
        {"{ score: position, lowest: 2 }", "0 1"},
        {"{ score: position, highest: 3 }", "9 10 11"},
        {"{ score: position, highest: \"50 %\", among: { tokens: \"1..5\" } }", "3 4 5"},
        {"{ score: position, lowest: 100%, among: q }", "10 11"},
        {"{ not: { score: position, lowest: 11 } }", "11 12"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) assert_string_equal(positions(TEXT, cases[i].at, "the"), cases[i].want);
}

static void an_axis_stands_in_every_scalar(void **state)
{
    (void)state;
    assert_string_equal(positions(TEXT, "{ tokens: [$a] }", "7"), "7");
    assert_string_equal(positions(TEXT, "{ slot: x, nth: $a }", "last"), "6 7");
    assert_string_equal(positions(TEXT, "{ not: { tokens: $a } }", "0..10"), "11 12");
    assert_string_equal(positions(TEXT, "{ slot: q, expand: [$a, 0] }", "2"), "8 9 10 11");
    assert_string_equal(positions(TEXT, "{ after: $a }", "q"), "12");
    assert_string_equal(positions(TEXT, "{ text: ' be', nth: 1, edges: $a }", "exact"), "3");
    assert_string_equal(positions(TEXT, "{ score: position, lowest: $a }", "25 %"), "0 1 2");
    assert_string_equal(positions(TEXT, "{ regex: $a, nth: 1 }", "n.t"), "5");
}

#define CHAT                                                                                                     \
    "  - name: p\n    chat:\n      - system: Be short.\n      - user: Where is it?\n      - assistant: There.\n" \
    "      - user: And now?\n    ask: assistant\n    answer_starts: Well\n"
/* <|im_start|> system \n Be short . <|im_end|> \n = 0..7, user 8.. content 11..14, 15 16, assistant 17.. content 20 21,
   22 23, user 24.. content 27..29, 30 31, assistant 32 33 34, Well 35 */

static void turns_of_a_chat(void **state)
{
    (void)state;
    assert_string_equal(positions(CHAT, "{ role: system }", "1"), "3 4 5");
    assert_string_equal(positions(CHAT, "{ role: system, with_markers: true }", "1"), "0 1 2 3 4 5 6 7");
    assert_string_equal(positions(CHAT, "{ role: user, turn: 1 }", "1"), "11 12 13 14");
    assert_string_equal(positions(CHAT, "{ role: user, turn: 1, with_markers: true }", "1"), "8 9 10 11 12 13 14 15 16");
    assert_string_equal(positions(CHAT, "{ role: user, turn: last }", "1"), "27 28 29");
    assert_string_equal(positions(CHAT, "{ role: user, turn: all }", "1"), "11 12 13 14 27 28 29");
    assert_string_equal(positions(CHAT, "{ role: assistant }", "1"), "20 21");
    assert_string_equal(positions(CHAT, "{ role: assistant, with_markers: true }", "1"), "17 18 19 20 21 22 23");
    assert_string_equal(positions(CHAT, "{ after: { role: user, turn: 2, with_markers: true } }", "1"), "32 33 34 35");
}

static void turns_that_a_template_trims(void **state)
{
    const char *chat =
        "  - name: p\n    chat:\n      - user: ' hello you'\n      - assistant: x\n      - user: y\n    ask: assistant\n";
    (void)state;
    fake.trim = true;
    assert_string_equal(positions(chat, "{ role: user, turn: 1 }", "1"), "3 4");
    assert_string_equal(positions(chat, "{ role: user, turn: 1, with_markers: true }", "1"), "0 1 2 3 4 5 6");
    chat = "  - name: p\n    chat:\n      - user: '  hello you'\n    ask: assistant\n";
    assert_string_equal(positions(chat, "{ role: user }", "1"), "3 4");
    fake.trim = false; /* then the white space is the turn's own: \n|space| hello| you */
    assert_string_equal(positions(chat, "{ role: user }", "1"), "3 4 5");
}

static void a_decision_about_edges_is_kept(void **state)
{
    const char *prompt = "  - name: p\n    slots: { x: nation }\n    text: 'inter{{x}}al flight'\n";
    (void)state;
    assert_non_null(strstr(positions(prompt, "{ slot: x }", "1"), "E310"));
    assert_string_equal(b.p[0].spans[0].edges, "partial");
    assert_string_equal(positions(prompt, "{ any: [{ slot: x, edges: include }] }", "1"), "0");
    assert_string_equal(b.p[0].spans[0].edges, "include");
    prompt = "  - name: p\n    slots: { x: national fli }\n    text: 'an inter{{x}}ghts home'\n";
    assert_non_null(strstr(positions(prompt, "{ slot: x, edges: exclude }", "1"), "E313"));
    prompt = "  - name: p\n    slots: { x: national and short fli }\n    text: 'an inter{{x}}ghts home'\n";
    assert_string_equal(positions(prompt, "{ slot: x, edges: exclude }", "1"), "2 3");
    assert_string_equal(b.p[0].spans[0].edges, "exclude");
}

static void scores_that_only_a_run_can_tell(void **state)
{
    const char *said;
    int *at, n, count;
    struct op *ops;
    struct axis_value v = {.axis = 0, .text = "", .at = {5, 1}};
    (void)state;
    said = positions(TEXT, "{ score: key_norm, lowest: \"30 %\" }", "1");
    assert_non_null(strstr(said, "E334"));
    assert_int_equal(spec_ops(b.s, &b.s->conditions[1], &v, 1, b.mem, b.d, &ops, &n), 0);
    assert_int_equal(bind_score(&b.p[0], &ops[0].select, b.mem, b.d, &at, &n, &count), 0);
    assert_int_equal(n, 12); /* all but the last */
    assert_int_equal(at[11], 11);
    assert_int_equal(count, 4); /* 3.6 */
    positions(TEXT, "{ score: attention, highest: 3, among: { slot: x, nth: 1 } }", "1");
    assert_int_equal(spec_ops(b.s, &b.s->conditions[1], &v, 1, b.mem, b.d, &ops, &n), 0);
    assert_int_equal(bind_score(&b.p[0], &ops[0].select, b.mem, b.d, &at, &n, &count), -1);
}

/* ---- regular expressions ---- */

static void hostile_patterns_end(void **state)
{
    static const char *const patterns[] = {"(a+)+$",      "(a|a)*b",           "(a*)*c",      "(?:a?){30}a{30}b", "(.*)*x",
                                           "(.*.*.*.*)=", "((a{1,9}){1,9})+b", "^(?=(a+))*b", "(?R)?a(?R)?b",     "(a|aa)+$"};
    enum { N = 20000 };
    char *text = mem_alloc(N + 1), why[REGEX_WHY];
    struct regex_hit *h;
    size_t i;
    int n;
    (void)state;
    memset(text, 'a', N);
    text[N - 1] = '!';
    for (i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        size_t work = regex_work(N);
        if (regex_find(patterns[i], text, N, &work, &h, &n, why) == 0) free(h);
    }
    free(text);
}

static void matches_are_found_in_unicode(void **state)
{
    const char *text = "Äpfel, \xe4\xba\x93, caf\xc3\xa9 ÄPFEL";
    char why[REGEX_WHY];
    struct regex_hit *h;
    size_t n_text = strlen(text), work = regex_work(n_text);
    int n;
    (void)state;
    assert_int_equal(regex_find("(?i)äpfel", text, n_text, &work, &h, &n, why), 0);
    assert_int_equal(n, 2);
    assert_int_equal(h[1].end, (int)n_text);
    free(h);
    assert_int_equal(regex_find("\\w\\b", text, n_text, &work, &h, &n, why), 0);
    assert_int_equal(n, 4);
    assert_int_equal(h[1].end - h[1].start, 3);
    free(h);
    assert_int_equal(regex_find("", text, n_text, &work, &h, &n, why), -1);
    assert_int_equal(regex_find("(", text, n_text, &work, &h, &n, why), -1);
    assert_int_equal(regex_find("a", "a\xff", 2, &work, &h, &n, why), -1);
    assert_int_equal(regex_find("a", "", 0, &work, &h, &n, why), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(forms_of_text, setup, teardown),
        cmocka_unit_test_setup_teardown(set_algebra, setup, teardown),
        cmocka_unit_test_setup_teardown(an_axis_stands_in_every_scalar, setup, teardown),
        cmocka_unit_test_setup_teardown(turns_of_a_chat, setup, teardown),
        cmocka_unit_test_setup_teardown(turns_that_a_template_trims, setup, teardown),
        cmocka_unit_test_setup_teardown(a_decision_about_edges_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(scores_that_only_a_run_can_tell, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_patterns_end, setup, teardown),
        cmocka_unit_test_setup_teardown(matches_are_found_in_unicode, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
