/* fuzz_tokenizer_json.c: a tokenizer.json, a NUL, and a text. Whatever loads must cover the text without gap or overlap. */
#include "../../engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(const tokenizer *t, const char *text, size_t n)
{
    struct tokens out;
    err e = {0};
    int i, at = 0;
    if (tokenizer_encode(t, text, n, 0, &out, &e)) return;
    for (i = 0; i < out.n; i++) {
        size_t len = 0;
        if (!tokenizer_bytes(t, out.t[i].id, &len)) abort();
        if (out.t[i].start != at || out.t[i].end < at || (size_t)out.t[i].end > n) abort();
        at = out.t[i].end;
    }
    if (out.n && (size_t)at != n) abort();
    free(out.t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *end = n ? memchr(data, 0, n) : NULL;
    size_t n_json = end ? (size_t)(end - data) : n;
    tokenizer *t;
    err e = {0};
    if (tokenizer_load_json(&t, (const char *)data, n_json, &e)) return 0;
    if (end) check(t, (const char *)end + 1, n - n_json - 1);
    tokenizer_free(t);
    return 0;
}
