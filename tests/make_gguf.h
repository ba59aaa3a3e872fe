/* make_gguf.h: metadata of a GGUF file made in memory, for tests and fuzzing of what reads it.
 *
 *     struct make_gguf m = {0};
 *     make_text(&m, "tokenizer.ggml.model", "gpt2");
 *     make_finish(&m);                      // m.file: header and pairs, no tensors
 *     gguf_parse(&g, m.file.p, m.file.n, e); ... gguf_close(g); make_free(&m);
 */
#ifndef TESTS_MAKE_GGUF_H
#define TESTS_MAKE_GGUF_H

#include "../engine/base.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { MAKE_U32 = 4, MAKE_I32 = 5, MAKE_F32 = 6, MAKE_BOOL = 7, MAKE_STRING = 8, MAKE_ARRAY = 9 };

struct make_gguf {
    struct buf pairs, file;
    uint64_t n;
};

static inline void make_le(struct buf *b, uint64_t x, int bytes)
{
    for (; bytes > 0; bytes--, x >>= 8) buf_char(b, (char)(x & 0xff));
}

static inline void make_bytes(struct buf *b, const void *p, size_t n)
{
    make_le(b, n, 8);
    buf_add(b, p, n);
}

static inline void make_key(struct make_gguf *m, const char *key, int type)
{
    make_bytes(&m->pairs, key, strlen(key));
    make_le(&m->pairs, (uint64_t)type, 4);
    m->n++;
}

static inline void make_text(struct make_gguf *m, const char *key, const char *text)
{
    make_key(m, key, MAKE_STRING);
    make_bytes(&m->pairs, text, strlen(text));
}

static inline void make_u32(struct make_gguf *m, const char *key, uint32_t x)
{
    make_key(m, key, MAKE_U32);
    make_le(&m->pairs, x, 4);
}

static inline void make_bool(struct make_gguf *m, const char *key, bool x)
{
    make_key(m, key, MAKE_BOOL);
    make_le(&m->pairs, x, 1);
}

/* The n items follow: make_bytes for strings, make_le for numbers, to m->pairs. */
static inline void make_array(struct make_gguf *m, const char *key, int type, size_t n)
{
    make_key(m, key, MAKE_ARRAY);
    make_le(&m->pairs, (uint64_t)type, 4);
    make_le(&m->pairs, n, 8);
}

static inline void make_finish(struct make_gguf *m)
{
    buf_str(&m->file, "GGUF");
    make_le(&m->file, 3, 4);
    make_le(&m->file, 0, 8);
    make_le(&m->file, m->n, 8);
    if (m->pairs.n) buf_add(&m->file, m->pairs.p, m->pairs.n);
}

static inline void make_free(struct make_gguf *m)
{
    buf_free(&m->pairs);
    buf_free(&m->file);
}

#endif
