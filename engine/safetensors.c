/* safetensors.c: the parser of safetensors files and of the index over their shards; see safetensors.h.
 *
 * A file is a u64 (little endian), a JSON object of that many bytes and the data. As in the format's own library the data
 * must be covered by the tensors without gap or overlap, which also finds files that were cut short.
 */
#include "safetensors.h"
#include "map.h"

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    JSON_MAX = 100000000, /* bytes of a header; the format's own limit */
    NAME_BYTES = 512,     /* of a tensor */
    FILES_MAX = 1024,
};

static const struct {
    const char *name;
    enum dtype type;
    size_t bytes;
} types[] = {
    {"F32", DTYPE_F32, 4},    {"F16", DTYPE_F16, 2},   {"BF16", DTYPE_BF16, 2}, /* of weights */
    {"BOOL", DTYPE_COUNT, 1}, {"U8", DTYPE_COUNT, 1},  {"I8", DTYPE_COUNT, 1},      {"U16", DTYPE_COUNT, 2},
    {"I16", DTYPE_COUNT, 2},  {"U32", DTYPE_COUNT, 4}, {"I32", DTYPE_COUNT, 4},     {"U64", DTYPE_COUNT, 8},
    {"I64", DTYPE_COUNT, 8},  {"F64", DTYPE_COUNT, 8}, {"F8_E4M3", DTYPE_COUNT, 1}, {"F8_E5M2", DTYPE_COUNT, 1},
};

struct file {
    const char *name;
    const unsigned char *bytes;
    size_t n;
    bool mapped;
};

struct safetensors {
    arena *names;
    struct file *files;
    size_t n_files;
    struct safetensor *tensors; /* sorted by name when all files are read */
    size_t n_tensors;
};

/* ---- JSON ---- */

/* Messages quote names: they must be short text without control characters. (That they are UTF-8, jansson has checked.) */
static bool quotable(const char *s, size_t max)
{
    size_t i;
    for (i = 0; s[i]; i++)
        if (i == max || (unsigned char)s[i] < 0x20 || s[i] == 0x7f) return false;
    return i > 0;
}

static json_t *read_json(const void *bytes, size_t n, err *e)
{
    json_error_t problem;
    json_t *root;
    if (n > JSON_MAX) {
        err_set(e, ERR_ENV, "%zu bytes of JSON, at most %d are allowed", n, JSON_MAX);
        return NULL;
    }
    root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &problem);
    if (root && json_is_object(root)) return root;
    if (root)
        err_set(e, ERR_ENV, "the JSON is not an object");
    else if (json_error_code(&problem) == json_error_duplicate_key)
        err_set(e, ERR_ENV, "the JSON has a key twice (line %d, column %d)", problem.line, problem.column);
    else
        err_set(e, ERR_ENV, "not valid JSON (line %d, column %d)", problem.line, problem.column);
    json_decref(root);
    return NULL;
}

static int read_size(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0) return -1;
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

/* ---- one tensor ---- */

static int read_type(const json_t *v, struct safetensor *t, size_t *bytes, err *e)
{
    const char *name = json_string_value(v);
    size_t i;
    if (!name) return err_set(e, ERR_ENV, "no dtype");
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, name) == 0) {
            t->type = types[i].type;
            t->type_name = types[i].name;
            *bytes = types[i].bytes;
            return 0;
        }
    }
    return err_set(e, ERR_ENV, "dtype %s is not known", quotable(name, 32) ? name : "?");
}

/* What the file says of one tensor; *begin is its place in the data. */
static int read_tensor(const json_t *v, struct safetensor *t, uint64_t *begin, err *e)
{
    const json_t *shape = json_object_get(v, "shape"), *offsets = json_object_get(v, "data_offsets");
    uint64_t end, size;
    size_t bytes = 0, i;
    if (!json_is_object(v)) return err_set(e, ERR_ENV, "not an object");
    if (read_type(json_object_get(v, "dtype"), t, &bytes, e)) return -1;
    if (!json_is_array(shape)) return err_set(e, ERR_ENV, "no shape");
    if (json_array_size(shape) > 4) return err_set(e, ERR_ENV, "%zu dimensions, at most 4 are allowed", json_array_size(shape));
    t->n_dims = (int)json_array_size(shape);
    for (i = 0; i < 4; i++) t->dims[i] = 1;
    for (i = 0, size = bytes; i < (size_t)t->n_dims; i++) {
        if (read_size(json_array_get(shape, i), &t->dims[i]) || t->dims[i] == 0)
            return err_set(e, ERR_ENV, "dimension %zu is no positive integer", i);
        if (__builtin_mul_overflow(size, t->dims[i], &size)) return err_set(e, ERR_ENV, "its size overflows");
    }
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || read_size(json_array_get(offsets, 0), begin) ||
        read_size(json_array_get(offsets, 1), &end) || end < *begin)
        return err_set(e, ERR_ENV, "data_offsets are not two rising integers");
    if (end - *begin != size)
        return err_set(e, ERR_ENV, "its shape needs %llu bytes, the file gives it %llu", (unsigned long long)size,
                       (unsigned long long)(end - *begin));
    t->bytes = (size_t)size;
    return 0;
}

/* ---- one file ---- */

struct span {
    uint64_t begin, end;
    size_t tensor;
};

static int span_compare(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Gives the tensors their places: together they are the data, each byte once. */
static int place(safetensors *s, struct span *spans, size_t n, const unsigned char *data, size_t size, err *e)
{
    uint64_t at = 0;
    size_t i;
    qsort(spans, n, sizeof *spans, span_compare);
    for (i = 0; i < n; i++) {
        struct safetensor *t = &s->tensors[spans[i].tensor];
        if (spans[i].begin != at)
            return err_set(e, ERR_ENV, "tensor '%s': its data begins at byte %llu, the one before ends at %llu", t->name,
                           (unsigned long long)spans[i].begin, (unsigned long long)at);
        if (spans[i].end > size)
            return err_set(e, ERR_ENV, "tensor '%s': its data ends at byte %llu, the file has %zu", t->name,
                           (unsigned long long)spans[i].end, size);
        t->data = data + spans[i].begin;
        at = spans[i].end;
    }
    if (at != size)
        return err_set(e, ERR_ENV, "the tensors end at byte %llu of the data, the file has %zu", (unsigned long long)at, size);
    return 0;
}

static int read_tensors(safetensors *s, json_t *root, const unsigned char *data, size_t size, err *e)
{
    size_t n = 0, all = json_object_size(root);
    struct span *spans = mem_array(all, sizeof *spans);
    const char *name;
    json_t *v;
    int rc = -1;
    if (all > INT_MAX - s->n_tensors) {
        err_set(e, ERR_ENV, "too many tensors");
        goto out;
    }
    s->tensors = mem_grow(s->tensors, s->n_tensors + all, sizeof *s->tensors);
    json_object_foreach(root, name, v)
    {
        struct safetensor *t = &s->tensors[s->n_tensors];
        uint64_t begin = 0;
        if (strcmp(name, "__metadata__") == 0) continue;
        if (!quotable(name, NAME_BYTES)) {
            err_set(e, ERR_ENV, "the name of a tensor is empty, too long or has control characters");
            goto out;
        }
        memset(t, 0, sizeof *t);
        if (read_tensor(v, t, &begin, e)) {
            err_in(e, "tensor '%s'", name);
            goto out;
        }
        t->name = arena_strdup(s->names, name);
        spans[n++] = (struct span){begin, begin + t->bytes, s->n_tensors++};
    }
    rc = place(s, spans, n, data, size, e);
out:
    free(spans);
    return rc;
}

static int read_file(safetensors *s, const struct file *f, err *e)
{
    uint64_t header;
    json_t *root;
    int rc;
    if (f->n < sizeof header) return err_set(e, ERR_ENV, "not a safetensors file");
    memcpy(&header, f->bytes, sizeof header);
    /* Every header begins with a brace; without this other files would be told that their header is too large. */
    if (f->n == sizeof header || f->bytes[sizeof header] != '{') return err_set(e, ERR_ENV, "not a safetensors file");
    if (header > f->n - sizeof header)
        return err_set(e, ERR_ENV, "a header of %llu bytes, the file has %zu", (unsigned long long)header, f->n);
    root = read_json(f->bytes + sizeof header, (size_t)header, e);
    if (!root) return err_in(e, "header");
    rc = read_tensors(s, root, f->bytes + sizeof header + header, f->n - sizeof header - (size_t)header, e);
    json_decref(root);
    return rc;
}

/* ---- all files ---- */

static int tensor_compare(const void *a, const void *b)
{
    return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

static int read_files(safetensors *s, err *e)
{
    size_t i;
    for (i = 0; i < s->n_files; i++)
        if (read_file(s, &s->files[i], e)) return s->n_files > 1 ? err_in(e, "shard '%s'", s->files[i].name) : -1;
    if (s->n_tensors) qsort(s->tensors, s->n_tensors, sizeof *s->tensors, tensor_compare);
    for (i = 1; i < s->n_tensors; i++)
        if (tensor_compare(&s->tensors[i - 1], &s->tensors[i]) == 0)
            return err_set(e, ERR_ENV, "tensor '%s' is in two shards", s->tensors[i].name);
    return 0;
}

static int map_one(safetensors *s, const char *path, const char *name, err *e)
{
    struct file *f;
    const void *bytes;
    size_t n;
    if (map_file(&bytes, &n, path, e)) return -1;
    s->files = mem_grow(s->files, s->n_files + 1, sizeof *s->files);
    f = &s->files[s->n_files++];
    *f = (struct file){arena_strdup(s->names, name), bytes, n, true};
    return 0;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of the shards, sorted, each once; a hostile index could name files elsewhere, so only names in the folder count. */
static int list_shards(const json_t *map, const char **names, size_t *count, err *e)
{
    const char *tensor;
    json_t *v;
    size_t n = 0, i;
    *count = 0;
    json_object_foreach((json_t *)map, tensor, v)
    {
        const char *name = json_string_value(v);
        if (!name || !quotable(name, 255) || strchr(name, '/') || name[0] == '.')
            return err_set(e, ERR_ENV, "weight_map: every value is the name of a file in the same folder");
        names[n++] = name;
    }
    if (n == 0) return err_set(e, ERR_ENV, "weight_map is empty");
    qsort(names, n, sizeof *names, name_compare);
    for (i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[*count - 1]) != 0) names[(*count)++] = names[i];
    if (*count > FILES_MAX) return err_set(e, ERR_ENV, "%zu shards, at most %d are allowed", *count, FILES_MAX);
    return 0;
}

static bool inside(const struct file *f, const void *p)
{
    return (uintptr_t)p - (uintptr_t)f->bytes < f->n;
}

/* Every tensor of the map lies in the shard that the map names. */
static int check_map(const safetensors *s, const json_t *map, err *e)
{
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)map, tensor, v)
    {
        const char *shard = json_string_value(v);
        const struct safetensor *t = safetensors_find(s, tensor);
        size_t i;
        for (i = 0; i < s->n_files; i++)
            if (t && strcmp(s->files[i].name, shard) == 0 && inside(&s->files[i], t->data)) break;
        if (i == s->n_files)
            return err_set(e, ERR_ENV, "tensor '%s' is not in shard '%s'", quotable(tensor, NAME_BYTES) ? tensor : "?", shard);
    }
    return 0;
}

static int open_shards(safetensors *s, const char *folder, const json_t *map, err *e)
{
    const char **names;
    size_t n, i;
    int rc = -1;
    if (!json_is_object(map)) return err_set(e, ERR_ENV, "no weight_map");
    names = mem_array(json_object_size(map), sizeof *names);
    if (list_shards(map, names, &n, e)) goto out;
    for (i = 0; i < n; i++) {
        if (map_one(s, arena_printf(s->names, "%s/%s", folder, names[i]), names[i], e)) {
            err_in(e, "shard '%s'", names[i]);
            goto out;
        }
    }
    if (read_files(s, e) || check_map(s, map, e)) goto out;
    rc = 0;
out:
    free(names);
    return rc;
}

static int open_index(safetensors *s, const char *folder, const char *path, err *e)
{
    const void *bytes;
    size_t n;
    json_t *root;
    int rc = -1;
    if (map_file(&bytes, &n, path, e)) return -1;
    root = read_json(bytes, n, e);
    if (root) rc = open_shards(s, folder, json_object_get(root, "weight_map"), e);
    json_decref(root);
    map_release(bytes, n);
    return rc;
}

static int open_path(safetensors *s, const char *path, err *e)
{
    static const char index_end[] = ".index.json";
    size_t n = strlen(path), tail = sizeof index_end - 1;
    const char *slash = strrchr(path, '/'), *folder, *one, *index;
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        one = arena_printf(s->names, "%s/model.safetensors", path);
        index = arena_printf(s->names, "%s%s", one, index_end);
        if (stat(one, &st) == 0) return map_one(s, one, "model.safetensors", e) ? -1 : read_files(s, e);
        if (stat(index, &st) == 0) return open_index(s, path, index, e);
        return err_set(e, ERR_ENV, "the folder has neither model.safetensors nor model.safetensors%s", index_end);
    }
    if (n >= tail && strcmp(path + n - tail, index_end) == 0) {
        folder = slash ? arena_strndup(s->names, path, (size_t)(slash - path)) : ".";
        return open_index(s, folder, path, e);
    }
    return map_one(s, path, slash ? slash + 1 : path, e) ? -1 : read_files(s, e);
}

int safetensors_open(safetensors **out, const char *path, err *e)
{
    safetensors *s = mem_alloc(sizeof *s);
    s->names = arena_new();
    if (open_path(s, path, e)) {
        safetensors_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

int safetensors_parse(safetensors **out, const void *bytes, size_t n, err *e)
{
    safetensors *s = mem_alloc(sizeof *s);
    s->names = arena_new();
    s->files = mem_array(1, sizeof *s->files);
    s->files[0] = (struct file){"", bytes, n, false};
    s->n_files = 1;
    if (read_files(s, e)) {
        safetensors_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void safetensors_close(safetensors *s)
{
    size_t i;
    if (!s) return;
    for (i = 0; i < s->n_files; i++)
        if (s->files[i].mapped) map_release(s->files[i].bytes, s->files[i].n);
    free(s->files);
    free(s->tensors);
    arena_free(s->names);
    free(s);
}

int safetensors_n(const safetensors *s)
{
    return (int)s->n_tensors;
}

const struct safetensor *safetensors_at(const safetensors *s, int i)
{
    return i >= 0 && (size_t)i < s->n_tensors ? &s->tensors[i] : NULL;
}

const struct safetensor *safetensors_find(const safetensors *s, const char *name)
{
    struct safetensor key = {.name = name};
    return s->n_tensors ? bsearch(&key, s->tensors, s->n_tensors, sizeof key, tensor_compare) : NULL;
}

int safetensors_n_files(const safetensors *s)
{
    return (int)s->n_files;
}

const void *safetensors_bytes(const safetensors *s, int file, size_t *n)
{
    *n = s->files[file].n;
    return s->files[file].bytes;
}
