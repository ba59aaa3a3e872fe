/* job_vector.c: what an `add` adds: a tensor of a safetensors file, read once, or the difference of two recorded places.
 *
 * A safetensors file is 8 bytes with the length of a JSON header, the header, the numbers. It is hostile input like any other:
 * only the header and the bytes of the one tensor are read, and both have limits. */
#include "job_parts.h"

#include "snippet.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 16 << 20, TENSOR_MAX = 256 << 20 };

/* One tensor of one file; dims (1) or (2). */
struct job_file {
    float *rows; /* NULL: it cannot be read, which has been told */
    int64_t dims[2];
    int n_dims;
    uint8_t sha256[32];
};

/* ---- the file ---- */

struct source {
    FILE *f;
    const char *path, *tensor;
    json_t *header;
    enum kv_type type;
    int64_t dims[2], start, bytes; /* start: in the file */
    int n_dims;
};

/* The header as JSON. A file that ends early, too long a header and what is no JSON are all "no safetensors". */
static int read_header(struct source *s, err *e)
{
    unsigned char size[8];
    uint64_t n = 0;
    char *text;
    int i;
    if (fread(size, 1, 8, s->f) != 8) return err_set(e, ERR_INPUT, "'%s' is not a safetensors file", s->path);
    for (i = 7; i >= 0; i--) n = n << 8 | size[i];
    if (n < 2 || n > HEADER_MAX) return err_set(e, ERR_INPUT, "'%s' is not a safetensors file", s->path);
    text = mem_alloc((size_t)n + 1);
    if (fread(text, 1, (size_t)n, s->f) == n) s->header = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    s->start = (int64_t)n + 8;
    if (!json_is_object(s->header)) return err_set(e, ERR_INPUT, "'%s' is not a safetensors file", s->path);
    return 0;
}

static int no_tensor(const struct source *s, err *e)
{
    struct buf names = {0};
    const char *name;
    json_t *v;
    int n = 0;
    json_object_foreach(s->header, name, v) if (strcmp(name, "__metadata__") != 0 && n++ < 12) buf_printf(&names, " %s", name);
    err_set(e, ERR_INPUT, "'%s' has no tensor '%s'; it has%s%s", s->path, s->tensor, names.n ? names.p : " none",
            n > 12 ? " ..." : "");
    buf_free(&names);
    return -1;
}

static int read_type(struct source *s, const char *dtype, err *e)
{
    if (dtype && strcmp(dtype, "F32") == 0)
        s->type = KV_F32;
    else if (dtype && strcmp(dtype, "F16") == 0)
        s->type = KV_F16;
    else if (dtype && strcmp(dtype, "BF16") == 0)
        s->type = KV_BF16;
    else
        return err_set(e, ERR_INPUT, "tensor '%s' of '%s' has the type %.16s; F32, F16 and BF16 are read", s->tensor, s->path,
                       dtype ? dtype : "?");
    return 0;
}

/* Where the tensor lies; shape, type and offsets must agree. */
static int find_tensor(struct source *s, err *e)
{
    json_t *t = json_object_get(s->header, s->tensor), *shape = json_object_get(t, "shape"),
           *offsets = json_object_get(t, "data_offsets");
    int64_t first = json_integer_value(json_array_get(offsets, 0)), end = json_integer_value(json_array_get(offsets, 1)), n = 1;
    size_t i, dims = json_array_size(shape);
    if (!json_is_object(t)) return no_tensor(s, e);
    if (read_type(s, json_string_value(json_object_get(t, "dtype")), e)) return -1;
    if (dims < 1 || dims > 2)
        return err_set(e, ERR_INPUT, "tensor '%s' of '%s' has %zu dimensions; 1 or 2 are read", s->tensor, s->path, dims);
    for (i = 0; i < dims; i++) {
        s->dims[i] = json_integer_value(json_array_get(shape, i));
        if (s->dims[i] < 1 || s->dims[i] > TENSOR_MAX / 4 / n)
            return err_set(e, ERR_INPUT, "tensor '%s' of '%s' is empty or larger than %d MiB", s->tensor, s->path,
                           TENSOR_MAX >> 20);
        n *= s->dims[i];
    }
    s->n_dims = (int)dims;
    s->bytes = n * (int64_t)engine_kv_bytes(s->type);
    if (first < 0 || end - first != s->bytes || first > INT64_MAX / 2)
        return err_set(e, ERR_INPUT, "the offsets of tensor '%s' in '%s' do not fit its shape", s->tensor, s->path);
    s->start += first;
    return 0;
}

static int read_rows(struct source *s, arena *mem, struct job_file *out, err *e)
{
    size_t n = (size_t)s->bytes / engine_kv_bytes(s->type), i;
    void *raw = mem_alloc((size_t)s->bytes);
    int rc = 0;
    if (fseeko(s->f, (off_t)s->start, SEEK_SET) || fread(raw, 1, (size_t)s->bytes, s->f) != (size_t)s->bytes)
        rc = err_set(e, ERR_INPUT, "'%s' ends before tensor '%s' does", s->path, s->tensor);
    if (!rc) {
        out->rows = arena_array(mem, n, sizeof *out->rows);
        engine_kv_to_f32(s->type, raw, out->rows, n);
        for (i = 0; i < n && !rc; i++)
            if (!isfinite(out->rows[i]))
                rc = err_set(e, ERR_INPUT, "tensor '%s' of '%s' holds a number that is not finite", s->tensor, s->path);
    }
    free(raw);
    if (rc) {
        out->rows = NULL;
        return rc;
    }
    memcpy(out->dims, s->dims, sizeof out->dims);
    out->n_dims = s->n_dims;
    SHA256((const unsigned char *)out->rows, n * sizeof *out->rows, out->sha256);
    return 0;
}

/* A relative path counts from the folder of the spec. */
static int read_file(const char *path, const struct expand *x, const struct op_vector *v, struct job_file *out, err *e)
{
    struct source s = {.path = v->file, .tensor = v->tensor};
    int rc;
    s.f = fopen(path, "rb");
    if (!s.f) return err_set(e, ERR_INPUT, "cannot read '%s': %s", path, strerror(errno));
    rc = read_header(&s, e) || find_tensor(&s, e) || read_rows(&s, x->mem, out, e) ? -1 : 0;
    json_decref(s.header);
    fclose(s.f);
    return rc;
}

/* The tensor, read at the first use of it. */
static const struct job_file *file_of(struct expand *x, const struct op_vector *v)
{
    const char *slash = strrchr(x->s->path, '/');
    size_t folder = slash && v->file[0] != '/' ? (size_t)(slash - x->s->path) + 1 : 0;
    struct buf key = {0};
    struct job_file *file;
    err e = {0};
    int found;
    buf_add(&key, x->s->path, folder);
    buf_str(&key, v->file);
    buf_add(&key, "", 1); /* ends the path */
    buf_str(&key, v->tensor);
    found = map_put(x->files, key.p, key.n, x->n_vectors);
    if (found < 0) {
        if ((x->n_vectors & (x->n_vectors - 1)) == 0)
            x->vectors = mem_grow(x->vectors, x->n_vectors ? 2 * (size_t)x->n_vectors : 1, sizeof *x->vectors);
        file = &x->vectors[found = x->n_vectors++];
        *file = (struct job_file){0};
        if (read_file(key.p, x, v, file, &e)) diag_add(x->d, DIAG_ERROR, "E342", v->at, v->width, "vector: %s", e.msg);
    }
    buf_free(&key);
    return x->vectors[found].rows ? &x->vectors[found] : NULL;
}

/* ---- the vector of an operation ---- */

static int from_file(struct expand *x, const struct op_vector *v, const struct job_op *op, struct job_vector *out)
{
    const struct job_file *f = file_of(x, v);
    int width = engine_site_width(x->en, op->tensors, 0);
    struct buf b = {0};
    if (!f) return -1;
    if (f->dims[f->n_dims - 1] != width || (f->n_dims == 2 && f->dims[0] != op->n_layers)) {
        buf_printf(&b, f->n_dims == 2 ? "(%lld, %lld)" : "(%lld)", (long long)f->dims[0], (long long)f->dims[1]);
        diag_add(x->d, DIAG_ERROR, "E343", v->at, v->width,
                 "vector: tensor '%s' of '%s' is %s; %s in %d layer%s takes (%d) or (%d, %d)", v->tensor, v->file, b.p,
                 job_tensor_name(op->tensors, op->layers[0]), op->n_layers, op->n_layers == 1 ? "" : "s", width, op->n_layers,
                 width);
        buf_free(&b);
        return -1;
    }
    out->rows = f->rows;
    out->n_rows = f->n_dims == 2 ? op->n_layers : 1;
    memcpy(out->sha256, f->sha256, 32);
    out->file = v->file;
    return 0;
}

static int place_of(struct expand *x, int prompt, const struct donor *d, struct job_place *out)
{
    struct chosen c = {NULL, -1};
    out->prompt = job_donor(x, prompt, d);
    if (out->prompt >= 0) c = job_choose(x, out->prompt, &d->select, false);
    if (c.n < 0) return -1;
    out->at = c.at[0];
    if (c.n == 1) return 0;
    diag_add(x->d, DIAG_ERROR, "E344", d->select.at, d->select.width,
             "a vector is that of one position; in prompt '%s' these are %d", x->s->prompts[out->prompt].name, c.n);
    diag_help(x->d, "pos %s  %s", snippet_positions(x->mem, c.at, c.n),
              snippet_at(x->mem, &x->prompts[out->prompt], c.at, c.n));
    return -1;
}

int job_vector_resolve(struct expand *x, int prompt, const struct op_vector *v, struct job_op *out)
{
    struct job_vector *made = arena_alloc(x->mem, sizeof *made);
    int rc;
    if (v->file)
        rc = from_file(x, v, out, made);
    else
        rc = place_of(x, prompt, &v->from, &made->from) | place_of(x, prompt, &v->minus, &made->minus);
    out->vector = made;
    return rc ? -1 : 0;
}
