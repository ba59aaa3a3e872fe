/* safetensors.h: the weights of a Hugging Face model, mapped read-only; every offset and size is checked before use.
 *
 * Owns the mappings and the index; names and tensors live until safetensors_close. safetensors_parse is total: any bytes
 * give either a safetensors or an error, never a crash (tests/fuzz/fuzz_safetensors.c).
 * The data of a tensor is aligned to nothing: read it with memcpy or unaligned loads.
 *
 *     safetensors *s;
 *     if (safetensors_open(&s, "SmolLM2-135M", e)) return -1;
 *     const struct safetensor *t = safetensors_find(s, "model.norm.weight");  // NULL: not there
 *     safetensors_close(s);
 */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include "../kernels/kernels.h"
#include "base.h"

typedef struct safetensors safetensors;

struct safetensor {
    const char *name;
    enum dtype type;       /* F32, F16 or BF16; DTYPE_COUNT: a type the kernels cannot read, which only buffers may have */
    const char *type_name; /* as in the file: "BF16", "BOOL"; static */
    int n_dims;            /* 0..4; 0: one number */
    uint64_t dims[4];      /* slowest first: (rows, cols); unused are 1 */
    const void *data;      /* inside a mapping, aligned to nothing */
    size_t bytes;
};

/* A folder with model.safetensors, or else with model.safetensors.index.json and its shards; or one of these files.
   Fails with ERR_ENV; the message names shard and tensor, not the path. */
int safetensors_open(safetensors **out, const char *path, err *e);
/* One file's bytes, which outlive the safetensors; for tests and fuzzing. */
int safetensors_parse(safetensors **out, const void *bytes, size_t n, err *e);
void safetensors_close(safetensors *s); /* NULL is fine */

/* All tensors of all shards, sorted by name. */
int safetensors_n(const safetensors *s);
const struct safetensor *safetensors_at(const safetensors *s, int i); /* NULL: no such index */
const struct safetensor *safetensors_find(const safetensors *s, const char *name);

/* The files, sorted by name: what a checksum of the weights goes over. */
int safetensors_n_files(const safetensors *s);
const void *safetensors_bytes(const safetensors *s, int file, size_t *n);

#endif
