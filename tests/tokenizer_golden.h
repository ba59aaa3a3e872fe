/* tokenizer_golden.h: the vocabularies and texts of tests/golden/tokenizer (made by tests/oracle/pack_vocab.py), and what
 * tokens of a text have to fulfil. For cmocka tests that run in the repository's root. */
#ifndef TESTS_TOKENIZER_GOLDEN_H
#define TESTS_TOKENIZER_GOLDEN_H

#include "../engine/tokenizer.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <zstd.h>

#define GOLDEN "tests/golden/tokenizer/"

static inline char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct buf b = {0};
    char part[65536];
    size_t k;
    if (!f) fail_msg("cannot open %s", path);
    while ((k = fread(part, 1, sizeof part, f)) > 0) buf_add(&b, part, k);
    fclose(f);
    *n = b.n;
    return buf_take(&b);
}

/* The golden vocabulary as a GGUF file in *bytes, which outlives the gguf. */
static inline gguf *open_golden(const char *name, char **bytes)
{
    char path[256], *packed;
    size_t n_packed, n;
    gguf *g;
    err e = {0};
    snprintf(path, sizeof path, GOLDEN "%s.gguf.zst", name);
    packed = read_file(path, &n_packed);
    n = (size_t)ZSTD_getFrameContentSize(packed, n_packed);
    assert_in_range(n, 1, 64 << 20);
    *bytes = mem_alloc(n);
    assert_int_equal(ZSTD_decompress(*bytes, n, packed, n_packed), n);
    free(packed);
    if (gguf_parse(&g, *bytes, n, &e)) fail_msg("%s: %s", name, e.msg);
    return g;
}

static inline tokenizer *load_golden(const char *name)
{
    tokenizer *t = NULL;
    err e = {0};
    size_t n;
    char *bytes;
    gguf *g = open_golden(name, &bytes);
    if (tokenizer_load(&t, g, &e)) fail_msg("%s: %s", name, e.msg);
    gguf_bytes(g, &n);
    gguf_close(g);
    memset(bytes, 0xee, n); /* the tokenizer stands on its own */
    free(bytes);
    assert_non_null(t);
    return t;
}

static inline struct tokens encode(const tokenizer *t, const char *text, size_t n)
{
    struct tokens out;
    err e = {0};
    if (tokenizer_encode(t, text, n, 0, &out, &e)) fail_msg("encoding failed: %s", e.msg);
    return out;
}

/* Offsets cover the text in order, and each token's bytes are those of the text there. */
static inline void check_bytes(const tokenizer *t, const struct tokens *out, const char *text, size_t n)
{
    int i, at = 0;
    for (i = 0; i < out->n; i++) {
        const struct token *k = &out->t[i];
        size_t len = 0;
        const char *bytes = tokenizer_bytes(t, k->id, &len);
        assert_non_null(bytes);
        assert_int_equal(k->start, at);
        assert_int_equal((size_t)(k->end - k->start), len);
        assert_true((size_t)k->end <= n);
        assert_memory_equal(bytes, text + k->start, len);
        at = k->end;
    }
    assert_int_equal(at, n);
}

/* SentencePiece puts a space in front: offsets cover the text in order, and all bytes together are " " and the text. */
static inline void check_bytes_after_space(const tokenizer *t, const struct tokens *out, const char *text, size_t n)
{
    struct buf all = {0};
    int i, at = 0;
    for (i = 0; i < out->n; i++) {
        size_t len = 0;
        const char *bytes = tokenizer_bytes(t, out->t[i].id, &len);
        assert_non_null(bytes);
        assert_int_equal(out->t[i].start, at);
        assert_in_range(out->t[i].end, at, n);
        at = out->t[i].end;
        buf_add(&all, bytes, len);
    }
    assert_int_equal(at, n);
    assert_int_equal(all.n, n ? n + 1 : 0);
    if (n) assert_memory_equal(all.p + 1, text, n);
    buf_free(&all);
}

typedef void check_fn(const tokenizer *t, const struct tokens *out, const char *text, size_t n);

static inline void check_row(const char *name, const tokenizer *t, json_t *row, check_fn *check)
{
    const char *text = json_string_value(json_object_get(row, "text"));
    size_t n = json_string_length(json_object_get(row, "text")), i;
    json_t *ids = json_object_get(row, "ids");
    struct tokens out = encode(t, text, n);
    if ((size_t)out.n != json_array_size(ids))
        fail_msg("%s: '%s': %d tokens, not %zu", name, text, out.n, json_array_size(ids));
    for (i = 0; i < (size_t)out.n; i++)
        if (out.t[i].id != json_integer_value(json_array_get(ids, i)))
            fail_msg("%s: '%s': token %zu is %d, not %d", name, text, i, out.t[i].id,
                     (int)json_integer_value(json_array_get(ids, i)));
    check(t, &out, text, n);
    free(out.t);
}

/* The ids of every text in GOLDEN/rows.jsonl, of which there are at least so many. */
static inline void check_rows(const char *rows, const tokenizer *t, size_t least_rows, check_fn *check)
{
    char path[256], *all, *line, *end;
    size_t n, n_rows = 0;
    snprintf(path, sizeof path, GOLDEN "%s.jsonl", rows);
    all = read_file(path, &n);
    for (line = all; line < all + n; line = end + 1, n_rows++) {
        json_t *row;
        end = memchr(line, '\n', (size_t)(all + n - line));
        assert_non_null(end);
        row = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        check_row(rows, t, row, check);
        json_decref(row);
    }
    assert_true(n_rows >= least_rows);
    free(all);
}

#endif
