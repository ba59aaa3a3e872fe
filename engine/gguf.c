/* gguf.c: the parser of GGUF files; see gguf.h. The format: ggml's docs/gguf.md, versions 2 and 3, little endian.
 *
 * One pass over the header fills two arrays, metadata entries and tensors; each has an index sorted by name, which finds
 * doubles and answers lookups. Values are read from the mapping when they are asked for: the pass has checked their bounds.
 */
#include "gguf.h"
#include "map.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "values are copied out of the file as they are: little-endian machines only"
#endif

enum {
    KEY_MAX = 65535,     /* bytes; the format's own limit */
    NAME_MAX_BYTES = 64, /* of a tensor; the format's own limit */
    KEY_SHOWN = 80,      /* bytes of a key that a message quotes */
    ENTRY_MIN = 13,      /* bytes of the smallest metadata entry: length, type, one byte */
    TENSOR_MIN = 32,     /* bytes of the smallest tensor entry: length, n_dims, one dim, type, offset */
    ALIGN_DEFAULT = 32,
    ALIGN_MIN = 8,
};

enum value {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_COUNT
};

static const struct {
    const char *name;
    size_t bytes; /* 0: not of fixed size */
} values[VALUE_COUNT] = {{"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
                         {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};

/* The tensor types of ggml by their number, from ggml.h; a gap has no name. `type` is DTYPE_COUNT where no kernel reads it. */
static const struct {
    const char *name;
    int block, bytes; /* elements and bytes of a block */
    enum dtype type;
} types[] = {
    [0] = {"f32", 1, 4, DTYPE_F32},           [1] = {"f16", 1, 2, DTYPE_F16},
    [2] = {"q4_0", 32, 18, DTYPE_Q4_0},       [3] = {"q4_1", 32, 20, DTYPE_Q4_1},
    [6] = {"q5_0", 32, 22, DTYPE_Q5_0},       [7] = {"q5_1", 32, 24, DTYPE_Q5_1},
    [8] = {"q8_0", 32, 34, DTYPE_Q8_0},       [9] = {"q8_1", 32, 36, DTYPE_COUNT},
    [10] = {"q2_k", 256, 84, DTYPE_Q2_K},     [11] = {"q3_k", 256, 110, DTYPE_Q3_K},
    [12] = {"q4_k", 256, 144, DTYPE_Q4_K},    [13] = {"q5_k", 256, 176, DTYPE_Q5_K},
    [14] = {"q6_k", 256, 210, DTYPE_Q6_K},    [15] = {"q8_k", 256, 292, DTYPE_COUNT},
    [16] = {"iq2_xxs", 256, 66, DTYPE_COUNT}, [17] = {"iq2_xs", 256, 74, DTYPE_COUNT},
    [18] = {"iq3_xxs", 256, 98, DTYPE_COUNT}, [19] = {"iq1_s", 256, 50, DTYPE_COUNT},
    [20] = {"iq4_nl", 32, 18, DTYPE_IQ4_NL},  [21] = {"iq3_s", 256, 110, DTYPE_COUNT},
    [22] = {"iq2_s", 256, 82, DTYPE_COUNT},   [23] = {"iq4_xs", 256, 136, DTYPE_COUNT},
    [24] = {"i8", 1, 1, DTYPE_COUNT},         [25] = {"i16", 1, 2, DTYPE_COUNT},
    [26] = {"i32", 1, 4, DTYPE_COUNT},        [27] = {"i64", 1, 8, DTYPE_COUNT},
    [28] = {"f64", 1, 8, DTYPE_COUNT},        [29] = {"iq1_m", 256, 56, DTYPE_COUNT},
    [30] = {"bf16", 1, 2, DTYPE_BF16},        [34] = {"tq1_0", 256, 54, DTYPE_COUNT},
    [35] = {"tq2_0", 256, 66, DTYPE_COUNT},   [39] = {"mxfp4", 32, 17, DTYPE_COUNT},
};

struct entry {
    struct gguf_str key;
    enum value type, element; /* element: of an array */
    uint64_t n;               /* elements of an array; bytes of a string */
    const uint8_t *p;         /* the value; of a string its bytes, of an array its first element */
};

struct gguf {
    const uint8_t *bytes;
    size_t n;
    bool mapped;
    struct entry *entries; /* (n_entries), sorted by key */
    size_t n_entries;
    struct gguf_tensor *tensors; /* (n_tensors), in the order of the file */
    size_t n_tensors;
    const struct gguf_tensor **by_name; /* (n_tensors), sorted */
};

/* ---- reading with bounds ---- */

struct reader {
    const uint8_t *p;
    size_t at, n;
};

static size_t left(const struct reader *r)
{
    return r->n - r->at;
}

/* The next n bytes, or NULL and an error. */
static const uint8_t *take(struct reader *r, uint64_t n, err *e)
{
    const uint8_t *p = r->p + r->at;
    if (n > left(r)) {
        err_set(e, ERR_ENV, "%llu bytes are needed at byte %zu, the file has %zu left", (unsigned long long)n, r->at, left(r));
        return NULL;
    }
    r->at += (size_t)n;
    return p;
}

static int take_u32(struct reader *r, uint32_t *out, err *e)
{
    const uint8_t *p = take(r, sizeof *out, e);
    if (!p) return -1;
    memcpy(out, p, sizeof *out);
    return 0;
}

static int take_u64(struct reader *r, uint64_t *out, err *e)
{
    const uint8_t *p = take(r, sizeof *out, e);
    if (!p) return -1;
    memcpy(out, p, sizeof *out);
    return 0;
}

static int take_string(struct reader *r, struct gguf_str *out, err *e)
{
    const uint8_t *p;
    uint64_t n;
    if (take_u64(r, &n, e) || !(p = take(r, n, e))) return -1;
    *out = (struct gguf_str){(const char *)p, (size_t)n};
    return 0;
}

/* A key or a tensor's name: later messages quote it, so it must be text. */
static int take_name(struct reader *r, size_t max, struct gguf_str *out, err *e)
{
    size_t i;
    if (take_string(r, out, e)) return -1;
    if (out->n == 0) return err_set(e, ERR_ENV, "its name is empty");
    if (out->n > max) return err_set(e, ERR_ENV, "its name has %zu bytes, at most %zu are allowed", out->n, max);
    for (i = 0; i < out->n; i++)
        if ((unsigned char)out->p[i] < 0x20 || out->p[i] == 0x7f)
            return err_set(e, ERR_ENV, "its name has a control character");
    if (utf8_valid(out->p, out->n) != out->n) return err_set(e, ERR_ENV, "its name is not UTF-8");
    return 0;
}

static int compare(struct gguf_str a, struct gguf_str b)
{
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int shown(struct gguf_str s)
{
    return (int)utf8_valid(s.p, s.n < KEY_SHOWN ? s.n : KEY_SHOWN);
}

/* ---- metadata ---- */

static int take_array(struct reader *r, struct entry *v, err *e)
{
    uint32_t type;
    uint64_t i;
    size_t least;
    struct gguf_str s;
    if (take_u32(r, &type, e) || take_u64(r, &v->n, e)) return -1;
    if (type >= VALUE_COUNT) return err_set(e, ERR_ENV, "array of the unknown type %u", type);
    if (type == VALUE_ARRAY) return err_set(e, ERR_ENV, "arrays inside arrays are not supported");
    v->element = (enum value)type;
    v->p = r->p + r->at;
    least = values[type].bytes ? values[type].bytes : sizeof(uint64_t);
    if (v->n > left(r) / least)
        return err_set(e, ERR_ENV, "array of %llu elements, the file has %zu bytes left", (unsigned long long)v->n, left(r));
    if (type != VALUE_STRING) return take(r, v->n * least, e) ? 0 : -1;
    for (i = 0; i < v->n; i++)
        if (take_string(r, &s, e)) return -1;
    return 0;
}

static int take_value(struct reader *r, struct entry *v, err *e)
{
    uint32_t type;
    struct gguf_str s;
    if (take_u32(r, &type, e)) return -1;
    if (type >= VALUE_COUNT) return err_set(e, ERR_ENV, "value of the unknown type %u", type);
    v->type = (enum value)type;
    if (type == VALUE_ARRAY) return take_array(r, v, e);
    if (type != VALUE_STRING) return (v->p = take(r, values[type].bytes, e)) ? 0 : -1;
    if (take_string(r, &s, e)) return -1;
    v->p = (const uint8_t *)s.p;
    v->n = s.n;
    return 0;
}

static int entry_compare(const void *a, const void *b)
{
    return compare(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

static int take_entries(gguf *g, struct reader *r, uint64_t count, err *e)
{
    size_t i;
    if (count > left(r) / ENTRY_MIN)
        return err_set(e, ERR_ENV, "%llu metadata keys do not fit into a file of %zu bytes", (unsigned long long)count, r->n);
    g->entries = mem_array((size_t)count, sizeof *g->entries);
    g->n_entries = (size_t)count;
    for (i = 0; i < g->n_entries; i++) {
        struct entry *v = &g->entries[i];
        if (take_name(r, KEY_MAX, &v->key, e)) return err_in(e, "metadata key %zu", i);
        if (take_value(r, v, e)) return err_in(e, "metadata key '%.*s'", shown(v->key), v->key.p);
    }
    qsort(g->entries, g->n_entries, sizeof *g->entries, entry_compare);
    for (i = 1; i < g->n_entries; i++)
        if (entry_compare(&g->entries[i - 1], &g->entries[i]) == 0)
            return err_set(e, ERR_ENV, "metadata key '%.*s' is there twice", shown(g->entries[i].key), g->entries[i].key.p);
    return 0;
}

/* ---- tensors ---- */

/* Bytes of the tensor from its type and dims. */
static int tensor_size(struct gguf_tensor *t, uint32_t type, err *e)
{
    uint64_t n;
    int i;
    if (type >= sizeof types / sizeof *types || !types[type].name) return err_set(e, ERR_ENV, "unknown type %u", type);
    t->type = types[type].type;
    t->type_name = types[type].name;
    if (t->dims[0] % types[type].block)
        return err_set(e, ERR_ENV, "rows of %llu elements are no whole number of %s blocks of %d",
                       (unsigned long long)t->dims[0], t->type_name, types[type].block);
    n = t->dims[0] / types[type].block;
    for (i = 1; i < t->n_dims; i++)
        if (__builtin_mul_overflow(n, t->dims[i], &n)) return err_set(e, ERR_ENV, "its size overflows");
    if (__builtin_mul_overflow(n, types[type].bytes, &n) || n > SIZE_MAX) return err_set(e, ERR_ENV, "its size overflows");
    t->bytes = (size_t)n;
    return 0;
}

/* Everything after the name. The data's place is known only after the last tensor: *offset is kept until then. */
static int take_tensor(struct reader *r, struct gguf_tensor *t, uint64_t *offset, err *e)
{
    uint32_t n_dims, type;
    uint32_t i;
    if (take_u32(r, &n_dims, e)) return -1;
    if (n_dims < 1 || n_dims > 4) return err_set(e, ERR_ENV, "%u dimensions, expected 1 to 4", n_dims);
    t->n_dims = (int)n_dims;
    for (i = 0; i < 4; i++) t->dims[i] = 1;
    for (i = 0; i < n_dims; i++) {
        if (take_u64(r, &t->dims[i], e)) return -1;
        if (t->dims[i] == 0) return err_set(e, ERR_ENV, "dimension %u is 0", i);
    }
    if (take_u32(r, &type, e) || take_u64(r, offset, e)) return -1;
    return tensor_size(t, type, e);
}

static int place_tensor(const gguf *g, struct gguf_tensor *t, uint64_t start, uint64_t offset, uint64_t align, err *e)
{
    uint64_t end;
    if (offset % align)
        return err_set(e, ERR_ENV, "offset %llu is no multiple of the alignment %llu", (unsigned long long)offset,
                       (unsigned long long)align);
    if (__builtin_add_overflow(start, offset, &start) || __builtin_add_overflow(start, t->bytes, &end))
        return err_set(e, ERR_ENV, "its data lies outside of the file");
    if (end > g->n) return err_set(e, ERR_ENV, "its data ends at byte %llu, the file has %zu", (unsigned long long)end, g->n);
    t->data = g->bytes + start;
    return 0;
}

static int alignment(const gguf *g, uint64_t *out, err *e)
{
    *out = ALIGN_DEFAULT;
    if (!gguf_has(g, "general.alignment")) return 0;
    if (gguf_u64(g, "general.alignment", out, e)) return -1;
    if (*out < ALIGN_MIN || *out > UINT32_MAX || (*out & (*out - 1)))
        return err_set(e, ERR_ENV, "general.alignment is %llu, expected a power of two from %d on", (unsigned long long)*out,
                       ALIGN_MIN);
    return 0;
}

static int name_compare(const void *a, const void *b)
{
    return compare((*(const struct gguf_tensor *const *)a)->name, (*(const struct gguf_tensor *const *)b)->name);
}

static int index_tensors(gguf *g, err *e)
{
    size_t i;
    g->by_name = mem_array(g->n_tensors, sizeof *g->by_name);
    for (i = 0; i < g->n_tensors; i++) g->by_name[i] = &g->tensors[i];
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, name_compare);
    for (i = 1; i < g->n_tensors; i++)
        if (name_compare(&g->by_name[i - 1], &g->by_name[i]) == 0)
            return err_set(e, ERR_ENV, "tensor '%.*s' is there twice", (int)g->by_name[i]->name.n, g->by_name[i]->name.p);
    return 0;
}

static int take_tensors(gguf *g, struct reader *r, uint64_t count, err *e)
{
    uint64_t *offsets, align, start;
    size_t i;
    int rc = -1;
    if (count > left(r) / TENSOR_MIN || count > INT_MAX)
        return err_set(e, ERR_ENV, "%llu tensors do not fit into a file of %zu bytes", (unsigned long long)count, r->n);
    if (alignment(g, &align, e)) return -1;
    offsets = mem_array((size_t)count, sizeof *offsets);
    g->tensors = mem_array((size_t)count, sizeof *g->tensors);
    g->n_tensors = (size_t)count;
    for (i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (take_name(r, NAME_MAX_BYTES, &t->name, e)) {
            err_in(e, "tensor %zu", i);
            goto out;
        }
        if (take_tensor(r, t, &offsets[i], e)) {
            err_in(e, "tensor '%.*s'", (int)t->name.n, t->name.p);
            goto out;
        }
    }
    start = (r->at + align - 1) / align * align; /* align is below 2^32 and a file below 2^63 bytes: no overflow */
    for (i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (place_tensor(g, t, start, offsets[i], align, e)) {
            err_in(e, "tensor '%.*s'", (int)t->name.n, t->name.p);
            goto out;
        }
    }
    rc = index_tensors(g, e);
out:
    free(offsets);
    return rc;
}

/* ---- open and close ---- */

static int parse(gguf *g, err *e)
{
    struct reader r = {g->bytes, 0, g->n};
    uint32_t version;
    uint64_t n_tensors, n_entries;
    if (g->n < 4 || memcmp(g->bytes, "GGUF", 4) != 0) return err_set(e, ERR_ENV, "not a GGUF file");
    r.at = 4;
    if (take_u32(&r, &version, e)) return err_in(e, "header");
    if (version && (version & 0xffff) == 0) return err_set(e, ERR_ENV, "big-endian GGUF files are not supported");
    if (version < 2 || version > 3) return err_set(e, ERR_ENV, "GGUF version %u is not supported", version);
    if (take_u64(&r, &n_tensors, e) || take_u64(&r, &n_entries, e)) return err_in(e, "header");
    if (take_entries(g, &r, n_entries, e)) return -1;
    return take_tensors(g, &r, n_tensors, e);
}

static int make(gguf **out, const void *bytes, size_t n, bool mapped, err *e)
{
    gguf *g = mem_alloc(sizeof *g);
    g->bytes = bytes;
    g->n = n;
    g->mapped = mapped;
    if (parse(g, e)) {
        gguf_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

int gguf_parse(gguf **out, const void *bytes, size_t n, err *e)
{
    return make(out, bytes, n, false, e);
}

int gguf_open(gguf **out, const char *path, err *e)
{
    const void *bytes;
    size_t n;
    if (map_file(&bytes, &n, path, e)) return -1;
    return make(out, bytes, n, true, e);
}

void gguf_close(gguf *g)
{
    if (!g) return;
    if (g->mapped) map_release(g->bytes, g->n);
    free(g->entries);
    free(g->tensors);
    free(g->by_name);
    free(g);
}

const void *gguf_bytes(const gguf *g, size_t *n)
{
    *n = g->n;
    return g->bytes;
}

int gguf_n_tensors(const gguf *g)
{
    return (int)g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const gguf *g, int i)
{
    return i >= 0 && (size_t)i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_find_tensor(const gguf *g, const char *name)
{
    struct gguf_tensor key = {.name = {name, strlen(name)}};
    const struct gguf_tensor *k = &key, **found;
    if (!g->n_tensors) return NULL;
    found = bsearch(&k, g->by_name, g->n_tensors, sizeof *g->by_name, name_compare);
    return found ? *found : NULL;
}

/* ---- values ---- */

static const struct entry *find(const gguf *g, const char *key)
{
    struct entry k = {.key = {key, strlen(key)}};
    return g->n_entries ? bsearch(&k, g->entries, g->n_entries, sizeof k, entry_compare) : NULL;
}

static const struct entry *need(const gguf *g, const char *key, err *e)
{
    const struct entry *v = find(g, key);
    if (!v) err_set(e, ERR_ENV, "metadata key '%s' is missing", key);
    return v;
}

static int wrong_type(const struct entry *v, const char *key, const char *expected, err *e)
{
    if (v->type == VALUE_ARRAY)
        return err_set(e, ERR_ENV, "metadata key '%s' is an array of %s, expected %s", key, values[v->element].name, expected);
    return err_set(e, ERR_ENV, "metadata key '%s' is of type %s, expected %s", key, values[v->type].name, expected);
}

static bool is_integer(enum value type)
{
    return values[type].bytes && type != VALUE_F32 && type != VALUE_F64 && type != VALUE_BOOL;
}

/* An integer as its sign and its amount, so that every u64 and i64 has a place. */
static uint64_t get_integer(enum value type, const uint8_t *p, bool *negative)
{
    bool is_signed = type == VALUE_I8 || type == VALUE_I16 || type == VALUE_I32 || type == VALUE_I64;
    size_t bits = 8 * values[type].bytes;
    uint64_t u = 0;
    memcpy(&u, p, values[type].bytes);
    *negative = is_signed && u >> (bits - 1);
    if (*negative) u = (bits < 64 ? (uint64_t)1 << bits : 0) - u;
    return u;
}

static bool get_float(enum value type, const uint8_t *p, double *out)
{
    float f;
    if (type == VALUE_F32) {
        memcpy(&f, p, sizeof f);
        *out = f;
    } else if (type == VALUE_F64) {
        memcpy(out, p, sizeof *out);
    } else {
        return false;
    }
    return true;
}

bool gguf_has(const gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

int gguf_u64(const gguf *g, const char *key, uint64_t *out, err *e)
{
    const struct entry *v = need(g, key, e);
    bool negative;
    if (!v) return -1;
    if (!is_integer(v->type)) return wrong_type(v, key, "an integer", e);
    *out = get_integer(v->type, v->p, &negative);
    if (negative) return err_set(e, ERR_ENV, "metadata key '%s' is -%llu", key, (unsigned long long)*out);
    return 0;
}

int gguf_f64(const gguf *g, const char *key, double *out, err *e)
{
    const struct entry *v = need(g, key, e);
    uint64_t u;
    bool negative;
    if (!v) return -1;
    if (get_float(v->type, v->p, out)) return 0;
    if (!is_integer(v->type)) return wrong_type(v, key, "a number", e);
    u = get_integer(v->type, v->p, &negative);
    *out = negative ? -(double)u : (double)u;
    return 0;
}

int gguf_bool(const gguf *g, const char *key, bool *out, err *e)
{
    const struct entry *v = need(g, key, e);
    if (!v) return -1;
    if (v->type != VALUE_BOOL) return wrong_type(v, key, "a bool", e);
    *out = *v->p != 0;
    return 0;
}

int gguf_string(const gguf *g, const char *key, struct gguf_str *out, err *e)
{
    const struct entry *v = need(g, key, e);
    if (!v) return -1;
    if (v->type != VALUE_STRING) return wrong_type(v, key, "a string", e);
    *out = (struct gguf_str){(const char *)v->p, (size_t)v->n};
    return 0;
}

int64_t gguf_array_len(const gguf *g, const char *key)
{
    const struct entry *v = find(g, key);
    return v && v->type == VALUE_ARRAY ? (int64_t)v->n : -1;
}

int gguf_strings(const gguf *g, const char *key, struct gguf_str **out, size_t *n, err *e)
{
    const struct entry *v = need(g, key, e);
    const uint8_t *p;
    uint64_t i, len;
    if (!v) return -1;
    if (v->type != VALUE_ARRAY || v->element != VALUE_STRING) return wrong_type(v, key, "an array of strings", e);
    *n = (size_t)v->n;
    *out = mem_array(*n, sizeof **out);
    for (i = 0, p = v->p; i < v->n; i++, p += len) {
        memcpy(&len, p, sizeof len);
        p += sizeof len;
        (*out)[i] = (struct gguf_str){(const char *)p, (size_t)len};
    }
    return 0;
}

int gguf_i32s(const gguf *g, const char *key, int32_t **out, size_t *n, err *e)
{
    const struct entry *v = need(g, key, e);
    int32_t *a;
    uint64_t i, u;
    bool negative;
    if (!v) return -1;
    if (v->type != VALUE_ARRAY || !(is_integer(v->element) || v->element == VALUE_BOOL))
        return wrong_type(v, key, "an array of integers", e);
    a = mem_array((size_t)v->n, sizeof *a);
    for (i = 0; i < v->n; i++) {
        u = get_integer(v->element, v->p + i * values[v->element].bytes, &negative);
        if (u > (uint64_t)INT32_MAX + negative) {
            free(a);
            return err_set(e, ERR_ENV, "metadata key '%s': element %llu does not fit into 32 bits", key, (unsigned long long)i);
        }
        a[i] = (int32_t)(negative ? -(int64_t)u : (int64_t)u);
    }
    *out = a;
    *n = (size_t)v->n;
    return 0;
}

int gguf_f32s(const gguf *g, const char *key, float **out, size_t *n, err *e)
{
    const struct entry *v = need(g, key, e);
    uint64_t i;
    double d = 0;
    if (!v) return -1;
    if (v->type != VALUE_ARRAY || (v->element != VALUE_F32 && v->element != VALUE_F64))
        return wrong_type(v, key, "an array of floats", e);
    *n = (size_t)v->n;
    *out = mem_array(*n, sizeof **out);
    for (i = 0; i < v->n; i++) {
        get_float(v->element, v->p + i * values[v->element].bytes, &d);
        (*out)[i] = (float)d;
    }
    return 0;
}
