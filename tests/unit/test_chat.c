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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_templates_render_as_in_jinja2),
        cmocka_unit_test(features_behave_as_in_jinja2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
