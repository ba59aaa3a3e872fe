/* test_tokenizer_gemma.c: Gemma's own vocabulary against the tokenizers library, 460 texts. The file is fetched, not committed:
 * KVRUN_MODELS or models/ has it after ci/fetch-model gemma3-270m; without it the test is skipped. */
#include "../../engine/engine.h"

#include <jansson.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void compare(const engine *en, const json_t *line)
{
    const json_t *text = json_object_get(line, "text"), *ids = json_object_get(line, "ids");
    struct tokens out = {0};
    err e = {0};
    size_t i;
    if (engine_tokenize(en, json_string_value(text), json_string_length(text), 0, &out, &e)) fail_msg("%s", e.msg);
    for (i = 0; i < json_array_size(ids) && i < (size_t)out.n; i++)
        if (out.t[i].id != json_integer_value(json_array_get(ids, i))) break;
    if (i != json_array_size(ids) || i != (size_t)out.n) fail_msg("'%s': token %zu differs", json_string_value(text), i);
    free(out.t);
}

static void ids_are_those_of_the_tokenizers_library(void **state)
{
    const char *models = getenv("KVRUN_MODELS");
    char path[1024], line[1 << 16];
    engine *en = NULL;
    int n = 0;
    err e = {0};
    FILE *f;
    (void)state;
    snprintf(path, sizeof path, "%s/gemma-3-270m-q4_k_m.gguf", models ? models : "models");
    if (access(path, R_OK) != 0) {
        printf("skipped: no %s (ci/fetch-model gemma3-270m)\n", path);
        skip();
    }
    if (engine_open(&en, &(struct engine_opts){.path = path, .vocab_only = true}, &e)) fail_msg("%s", e.msg);
    f = fopen("tests/golden/tokenizer/gemma3.jsonl", "r");
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); n++) {
        json_t *j = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(j);
        compare(en, j);
        json_decref(j);
    }
    fclose(f);
    assert_int_equal(n, 460);
    engine_free(en);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ids_are_those_of_the_tokenizers_library)};
    return cmocka_run_group_tests_name("tokenizer_gemma", tests, NULL, NULL);
}
