/* Chat templates against what Jinja2 itself writes: tests/golden/chat, made by tests/oracle/jinja_cases.py
 * (features.json) and with published templates of models (jinja2-py.json over templates.json). */
#include "../../engine/chat.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!j) print_error("%s: %s\n", path, error.text);
    assert_non_null(j);
    return j;
}

/* Renders source over the case's messages; 0 and the text, or -1 and the reason. */
static int render(const char *source, size_t n, const json_t *messages, struct chat_env env, struct buf *out, err *e)
{
    chat *c = NULL;
    size_t k = json_array_size(messages), i;
    struct chat_msg *msgs = mem_array(k + 1, sizeof *msgs);
    int rc;
    for (i = 0; i < k; i++) {
        const json_t *m = json_array_get(messages, i);
        msgs[i].role = json_string_value(json_object_get(m, "role"));
        msgs[i].content = json_string_value(json_object_get(m, "content"));
    }
    rc = chat_compile(&c, source, n, e);
    if (rc == 0) rc = chat_render(c, &env, msgs, (int)k, out, e);
    chat_free(c);
    free(msgs);
    return rc;
}

/* 0: as Jinja2; 1: wrong; says what is different. */
static int compare(const char *name, const json_t *t, const json_t *test, const json_t *messages, struct chat_env env)
{
    const json_t *want = json_object_get(test, "out");
    struct buf out = {0};
    err e = {0};
    int rc, wrong;
    env.add_generation_prompt = json_is_true(json_object_get(test, "add_generation_prompt"));
    rc = render(json_string_value(t), json_string_length(t), messages, env, &out, &e);
    if (json_is_true(json_object_get(test, "refused"))) /* Jinja2 can, the interpreter must say that it cannot */
        wrong = rc == 0 || !strstr(e.msg, "not supported");
    else if (json_is_string(want))
        wrong = rc != 0 || out.n != json_string_length(want) || memcmp(out.p ? out.p : "", json_string_value(want), out.n) != 0;
    else
        wrong = rc == 0 || e.code != ERR_INPUT || strncmp(e.msg, "line ", 5) != 0;
    if (wrong) {
        print_error("%s\n  want: %s\n  got:  %s\n", name,
                    json_is_string(want) ? json_string_value(want) : json_string_value(json_object_get(test, "error")),
                    rc      ? e.msg
                    : out.p ? out.p
                            : "");
    }
    buf_free(&out);
    return wrong;
}

static void published_templates_render_as_in_jinja2(void **state)
{
    json_t *templates = load("tests/golden/chat/templates.json"), *cases = load("tests/golden/chat/jinja2-py.json"), *test;
    struct chat_env env = {.bos_token = "<BOS>", .eos_token = "<EOS>", .strftime_now = "DATE"};
    size_t i, wrong = 0;
    (void)state;
    json_array_foreach(cases, i, test)
    {
        const char *name = json_string_value(json_object_get(test, "template"));
        wrong += (size_t)compare(name, json_object_get(templates, name), test, json_object_get(test, "messages"), env);
    }
    assert_true(json_array_size(cases) >= 160);
    assert_int_equal(wrong, 0);
    json_decref(templates);
    json_decref(cases);
}

static void features_behave_as_in_jinja2(void **state)
{
    json_t *file = load("tests/golden/chat/features.json"), *cases = json_object_get(file, "cases"), *test;
    struct chat_env env = {.bos_token = "<s>", .eos_token = "</s>"};
    size_t i, wrong = 0;
    (void)state;
    json_array_foreach(cases, i, test)
    {
        json_t *t = json_object_get(test, "template"), *messages = json_object_get(test, "messages");
        if (!messages) messages = json_object_get(file, "messages");
        wrong += (size_t)compare(json_string_value(t), t, test, messages, env);
    }
    assert_true(json_array_size(cases) >= 300);
    assert_int_equal(wrong, 0);
    json_decref(file);
}

/* ---- without Jinja2 ---- */

static const struct chat_msg hi[] = {{"user", "hi"}};

static int render_text(const char *source, const char *content, struct buf *out, err *e)
{
    const struct chat_msg msgs[] = {{"user", content}};
    const struct chat_env env = {.bos_token = "<s>", .eos_token = "</s>"};
    chat *c = NULL;
    int rc = chat_compile(&c, source, strlen(source), e);
    if (rc == 0) rc = chat_render(c, &env, msgs, 1, out, e);
    chat_free(c);
    return rc;
}

static void an_error_names_its_line_and_cause(void **state)
{
    static const struct {
        const char *source, *want;
    } cases[] = {
        {"a\nb\n{{ x.y }}", "line 3: 'x' is undefined"},
        {"{{ messages[0].tool.name }}", "line 1: 'dict object' has no attribute 'tool'"},
        {"\n{{ raise_exception('roles must alternate') }}", "line 2: roles must alternate"},
        {"{% if true %}\n{% endfor %}", "line 2: unknown tag 'endfor'"},
        {"x\n{% include 'y' %}", "line 2: the tag 'include' is not supported"},
        {"{{ 1 | nosuch }}", "line 1: no filter named 'nosuch'"},
        {"\n\n{{ 'a' | wordwrap }}", "line 3: the filter 'wordwrap' is not supported"},
        {"{# a\nb #}\n{{ 'x' + 1 }}", "line 3: '+' cannot be used between a str and a int"},
        {"{% macro f() %}\n{{ 1 + none }}{% endmacro %}\n\n{{ f() }}", "line 2: '+' cannot be used between a int and a None"},
        {"{{ 'a\nb", "line 1: a string without its closing quote"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out = {0};
        err e = {0};
        assert_int_equal(render_text(cases[i].source, "hi", &out, &e), -1);
        assert_int_equal(e.code, ERR_INPUT);
        assert_string_equal(e.msg, cases[i].want);
        assert_null(out.p);
    }
}

static void a_template_that_wants_too_much_is_stopped(void **state)
{
    static const char *const sources[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for a in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% call f() %}{% endcall %}{{ caller }}{% endmacro %}{{ f() }}",
        "{{ 'a' * 1000000000000 }}",
        "{{ 'ab' * 9000000 }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ 'x'.center(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ range(100001) }}",
        "{{ ['']|tojson(indent=999999999999) }}",
        "{{ range(99999)|list|unique|list }}",
        "{% set x = 'ab' * 1000000 %}{% for a in range(99999) %}{{ 'abc' in x }}{{ x.rfind('abc') }}{% endfor %}",
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct buf out = {0};
        err e = {0};
        if (render_text(sources[i], "hi", &out, &e) == 0) print_error("not stopped: %s\n", sources[i]);
        assert_int_equal(e.code, ERR_INPUT);
        buf_free(&out);
    }
}

static void deep_nesting_is_an_error(void **state)
{
    static const char *const parts[] = {"(", "[", "-", "not ", "{'a':", "a.", "1+", "f(", "a|d(", "1 if ", "a[", "1 ~ ("};
    size_t i;
    int k;
    (void)state;
    for (i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct buf source = {0}, out = {0};
        err e = {0};
        buf_str(&source, "{{ ");
        for (k = 0; k < 100000; k++) buf_str(&source, parts[i]);
        buf_str(&source, "1 }}");
        assert_int_equal(render_text(source.p, "hi", &out, &e), -1);
        assert_int_equal(e.code, ERR_INPUT);
        source.n = 0;
        for (k = 0; k < 50000; k++) buf_str(&source, "{% if 1 %}");
        e.code = 0;
        assert_int_equal(render_text(source.p, "hi", &out, &e), -1);
        buf_free(&source);
    }
}

static void the_date_is_fixed_unless_given(void **state)
{
    static const char source[] = "{{ strftime_now('%A %d %b %Y %j') }}";
    struct chat_env env = {.bos_token = "", .eos_token = ""};
    struct buf out = {0};
    chat *c = NULL;
    err e = {0};
    (void)state;
    assert_int_equal(chat_compile(&c, source, sizeof source - 1, &e), 0);
    assert_int_equal(chat_render(c, &env, hi, 1, &out, &e), 0);
    env.year = 2025, env.month = 12, env.day = 1;
    buf_str(&out, ", ");
    assert_int_equal(chat_render(c, &env, hi, 1, &out, &e), 0);
    env.strftime_now = ", then";
    assert_int_equal(chat_render(c, &env, hi, 1, &out, &e), 0);
    assert_string_equal(out.p, "Friday 26 Jul 2024 208, Monday 01 Dec 2025 335, then");
    buf_free(&out);
    chat_free(c);
}

static void text_that_is_not_utf8_passes_through(void **state)
{
    static const char source[] = "{{ messages[0].content }}|{{ messages[0].content|length }}|{{ messages[0].content[1:]|trim }}"
                                 "|{{ messages[0].content[::-1] }}|{{ messages[0].content.split('b') | length }}";
    struct buf out = {0};
    err e = {0};
    (void)state;
    assert_int_equal(render_text(source, "a\xff\xe4\xb8 b\xc3", &out, &e), 0);
    assert_string_equal(out.p, "a\xff\xe4\xb8 b\xc3|7|\xff\xe4\xb8 b\xc3|\xc3"
                               "b \xb8\xe4\xff"
                               "a|2");
    out.n = 0;
    assert_int_equal(render_text("\xff{{ '\xe4' }}{# \xc3 #}", "", &out, &e), 0);
    assert_string_equal(out.p, "\xff\xe4");
    buf_free(&out);
}

/* xorshift64: the same mutations everywhere */
static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Cuts, doubles, or overwrites a piece of the text. */
static void mutate(struct buf *b, uint64_t *seed)
{
    static const char *const pieces[] = {"{{",
                                         "}}",
                                         "{%",
                                         "%}",
                                         "-%}",
                                         "'",
                                         "(",
                                         ")",
                                         "[",
                                         "]",
                                         "|",
                                         ".",
                                         " if ",
                                         " in ",
                                         "~",
                                         "-1",
                                         "loop",
                                         "messages",
                                         "{% endfor %}",
                                         "{% endif %}",
                                         "{% set x = ",
                                         "|tojson",
                                         "\xff",
                                         "**"};
    size_t at = b->n ? next_random(seed) % b->n : 0, n = next_random(seed) % 24;
    struct buf out = {0};
    if (n > b->n - at) n = b->n - at;
    buf_add(&out, b->p, at);
    switch (next_random(seed) % 4) {
    case 0: break;
    case 1:
        buf_add(&out, b->p + at, n);
        buf_add(&out, b->p + at, n);
        break;
    case 2: n = 0; /* fall through */
    default: buf_str(&out, pieces[next_random(seed) % (sizeof pieces / sizeof *pieces)]); break;
    }
    buf_add(&out, b->p + at + n, b->n - at - n);
    buf_free(b);
    *b = out;
}

static void two_thousand_broken_templates_do_no_harm(void **state)
{
    static const struct chat_msg msgs[] = {
        {"system", "s"}, {"user", " u\n"}, {"assistant", "<think>x</think> a"}, {"user", "\xc3\xa9"}};
    const struct chat_env env = {.bos_token = "<s>", .eos_token = "</s>", .add_generation_prompt = true};
    json_t *templates = load("tests/golden/chat/templates.json"), *t;
    int made = 0, rendered = 0;
    uint64_t seed = 20240726;
    const char *name;
    (void)state;
    while (made < 2000) {
        json_object_foreach(templates, name, t)
        {
            struct buf source = {0}, out = {0};
            uint64_t times = 1 + next_random(&seed) % 3;
            chat *c = NULL;
            err e = {0};
            int rc;
            buf_add(&source, json_string_value(t), json_string_length(t));
            while (times--) mutate(&source, &seed);
            rc = chat_compile(&c, source.p, source.n, &e);
            if (rc == 0) rc = chat_render(c, &env, msgs, 4, &out, &e);
            assert_int_equal(rc == 0, e.code == 0);
            rendered += rc == 0;
            made++;
            chat_free(c);
            buf_free(&source);
            buf_free(&out);
        }
    }
    assert_true(rendered > 100 && rendered < made);
    json_decref(templates);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_templates_render_as_in_jinja2),
        cmocka_unit_test(features_behave_as_in_jinja2),
        cmocka_unit_test(an_error_names_its_line_and_cause),
        cmocka_unit_test(a_template_that_wants_too_much_is_stopped),
        cmocka_unit_test(deep_nesting_is_an_error),
        cmocka_unit_test(the_date_is_fixed_unless_given),
        cmocka_unit_test(text_that_is_not_utf8_passes_through),
        cmocka_unit_test(two_thousand_broken_templates_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
