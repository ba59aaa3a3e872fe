/* gguf.h: a GGUF v2/v3 file, mapped read-only; every offset, size, count and string is checked before use.
 *
 * Owns the mapping and the index; strings and tensors point into the mapping (strings are not NUL-terminated) and live
 * until gguf_close. gguf_parse is total: any bytes give either a gguf or an error, never a crash (tests/fuzz/fuzz_gguf.c).
 *
 *     gguf *g;
 *     if (gguf_open(&g, path, e)) return -1;
 *     uint64_t n; if (gguf_u64(g, "llama.block_count", &n, e)) ...      // missing or wrong type: an error naming the key
 *     const struct gguf_tensor *t = gguf_find_tensor(g, "output.weight");  // NULL: not there
 *     gguf_close(g);
 */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include "../kernels/kernels.h"
#include "base.h"

#include <stdbool.h>

typedef struct gguf gguf;

struct gguf_str {
    const char *p;
    size_t n;
};

struct gguf_tensor {
    struct gguf_str name;
    enum dtype type;       /* DTYPE_COUNT: a type the kernels cannot read; model_load refuses it by type_name */
    const char *type_name; /* "q4_1", "iq2_xxs"; static */
    int n_dims;
    uint64_t dims[4]; /* as in the file: fastest first; unused are 1 */
    const void *data; /* inside the mapping */
    size_t bytes;
};

/* Fails with ERR_ENV. The file is mapped, not read. */
int gguf_open(gguf **out, const char *path, err *e);
/* The same over bytes that outlive the gguf and are aligned to 8; for tests and fuzzing. */
int gguf_parse(gguf **out, const void *bytes, size_t n, err *e);
void gguf_close(gguf *g); /* NULL is fine */

const void *gguf_bytes(const gguf *g, size_t *n); /* the whole file */
int gguf_n_tensors(const gguf *g);
const struct gguf_tensor *gguf_tensor_at(const gguf *g, int i);
const struct gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* Metadata by key. gguf_has tells presence; the getters fail (-1, ERR_ENV, key named) when missing or of another type.
   gguf_u64 takes any integer type that holds a non-negative value; gguf_f64 any float or integer. */
bool gguf_has(const gguf *g, const char *key);
int gguf_u64(const gguf *g, const char *key, uint64_t *out, err *e);
int gguf_f64(const gguf *g, const char *key, double *out, err *e);
int gguf_bool(const gguf *g, const char *key, bool *out, err *e);
int gguf_string(const gguf *g, const char *key, struct gguf_str *out, err *e);

/* Arrays. gguf_array_len: -1 when missing or no array. Element getters check index and element type. */
int64_t gguf_array_len(const gguf *g, const char *key);
/* All strings of an array, at once (arrays of strings have no index in the file). out: caller frees. */
int gguf_strings(const gguf *g, const char *key, struct gguf_str **out, size_t *n, err *e);
int gguf_i32s(const gguf *g, const char *key, int32_t **out, size_t *n,
              err *e); /* any integer type that fits, bools too; caller frees */
int gguf_f32s(const gguf *g, const char *key, float **out, size_t *n, err *e); /* caller frees */

#endif
