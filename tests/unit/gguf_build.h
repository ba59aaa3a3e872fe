/* gguf_build.h: GGUF bytes for tests, right or wrong, put together piece by piece.
 *
 *     struct gguf_build b = {.version = 3};
 *     build_u32(&b, "general.alignment", 64);
 *     build_tensor(&b, "x", GGML_F32, 2, (uint64_t[]){8, 4}, data, 128);
 *     bytes = build_done(&b, &n); ... free(bytes);
 */
#ifndef TESTS_GGUF_BUILD_H
#define TESTS_GGUF_BUILD_H

#include "../../engine/base.h"

#include <stdlib.h>
#include <string.h>

enum { GGML_F32 = 0, GGML_F16 = 1, GGML_Q4_0 = 2, GGML_Q4_1 = 3, GGML_Q8_0 = 8, GGML_IQ2_XXS = 16, GGML_BF16 = 30 };
enum {
    META_U8,
    META_I8,
    META_U16,
    META_I16,
    META_U32,
    META_I32,
    META_F32,
    META_BOOL,
    META_STRING,
    META_ARRAY,
    META_U64,
    META_I64,
    META_F64
};

struct gguf_build {
    uint32_t version;
    uint64_t align; /* of the data; 0: 32 */
    uint64_t n_entries, n_tensors;
    struct buf entries, infos, data;
};

static inline void put_u32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, sizeof v);
}

static inline void put_u64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, sizeof v);
}

static inline void put_string(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    buf_str(b, s);
}

/* Any value: its type and its raw bytes. */
static inline void build_raw(struct gguf_build *b, const char *key, uint32_t type, const void *p, size_t n)
{
    put_string(&b->entries, key);
    put_u32(&b->entries, type);
    buf_add(&b->entries, p, n);
    b->n_entries++;
}

static inline void build_u32(struct gguf_build *b, const char *key, uint32_t v)
{
    build_raw(b, key, META_U32, &v, sizeof v);
}

static inline void build_f32(struct gguf_build *b, const char *key, float v)
{
    build_raw(b, key, META_F32, &v, sizeof v);
}

static inline void build_string(struct gguf_build *b, const char *key, const char *v)
{
    struct buf s = {0};
    put_string(&s, v);
    build_raw(b, key, META_STRING, s.p, s.n);
    buf_free(&s);
}

/* An array that claims n elements; the bytes may be fewer. */
static inline void build_array(struct gguf_build *b, const char *key, uint32_t type, uint64_t n, const void *p, size_t bytes)
{
    struct buf s = {0};
    put_u32(&s, type);
    put_u64(&s, n);
    buf_add(&s, p, bytes);
    build_raw(b, key, META_ARRAY, s.p, s.n);
    buf_free(&s);
}

static inline void build_strings(struct gguf_build *b, const char *key, const char *const *v, size_t n)
{
    struct buf s = {0};
    size_t i;
    for (i = 0; i < n; i++) put_string(&s, v[i]);
    build_array(b, key, META_STRING, n, s.n ? s.p : "", s.n);
    buf_free(&s);
}

static inline void build_info(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                              uint64_t offset)
{
    uint32_t i;
    put_string(&b->infos, name);
    put_u32(&b->infos, n_dims);
    for (i = 0; i < n_dims; i++) put_u64(&b->infos, dims[i]);
    put_u32(&b->infos, type);
    put_u64(&b->infos, offset);
    b->n_tensors++;
}

/* data NULL: zeros */
static inline void build_tensor(struct gguf_build *b, const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                                const void *data, size_t bytes)
{
    uint64_t align = b->align ? b->align : 32;
    char *zeros = mem_alloc(bytes);
    while (b->data.n % align) buf_char(&b->data, 0);
    build_info(b, name, type, n_dims, dims, b->data.n);
    buf_add(&b->data, data ? data : zeros, bytes);
    free(zeros);
}

/* The file, in memory of exactly its size so that a read behind it is seen; empties b. */
static inline unsigned char *build_done(struct gguf_build *b, size_t *n)
{
    struct buf f = {0};
    uint64_t align = b->align ? b->align : 32;
    unsigned char *bytes;
    buf_str(&f, "GGUF");
    put_u32(&f, b->version);
    put_u64(&f, b->n_tensors);
    put_u64(&f, b->n_entries);
    buf_add(&f, b->entries.n ? b->entries.p : "", b->entries.n);
    buf_add(&f, b->infos.n ? b->infos.p : "", b->infos.n);
    while (b->data.n && f.n % align) buf_char(&f, 0);
    buf_add(&f, b->data.n ? b->data.p : "", b->data.n);
    *n = f.n;
    bytes = mem_alloc(f.n);
    memcpy(bytes, f.p, f.n);
    buf_free(&f);
    buf_free(&b->entries);
    buf_free(&b->infos);
    buf_free(&b->data);
    return bytes;
}

#endif
