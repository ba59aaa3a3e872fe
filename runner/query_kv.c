/* query_kv.c: chunks of caches out of the file again, and the SQL functions that compute with them. */
#include "kvcodec.h"
#include "query_in.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { RAW_MAX = 64 << 20 /* bytes of a chunk that are believed; real ones are below 1 MiB */ };

static int type_from_name(const char *name, enum kv_type *t)
{
    if (!name) return -1;
    if (!strcmp(name, "f32"))
        *t = KV_F32;
    else if (!strcmp(name, "f16"))
        *t = KV_F16;
    else if (!strcmp(name, "bf16"))
        *t = KV_BF16;
    else
        return -1;
    return 0;
}

/* The chunk in the row that stmt stands on. */
static int unpack_row(sqlite3_stmt *stmt, struct buf *raw, enum kv_type *type, err *e)
{
    int64_t n = sqlite3_column_int64(stmt, 0);
    const char *codec_name = (const char *)sqlite3_column_text(stmt, 2);
    const void *hash = sqlite3_column_blob(stmt, 3), *data = sqlite3_column_blob(stmt, 4);
    size_t n_hash = (size_t)sqlite3_column_bytes(stmt, 3), n_data = (size_t)sqlite3_column_bytes(stmt, 4);
    XXH128_canonical_t real;
    enum kv_codec codec;
    if (type_from_name((const char *)sqlite3_column_text(stmt, 1), type)) return err_set(e, ERR_DB, "its type is not known");
    if (n < 0 || n > RAW_MAX || (size_t)n % engine_kv_bytes(*type)) return err_set(e, ERR_DB, "its size is %lld", (long long)n);
    if (!codec_name || kvcodec_from_name(codec_name, &codec))
        return err_set(e, ERR_DB, "this kvrun cannot unpack codec '%s'", codec_name ? codec_name : "");
    if (raw->cap < (size_t)n + 1) {
        raw->p = mem_grow(raw->p, (size_t)n + 1, 1);
        raw->cap = (size_t)n + 1;
    }
    raw->n = (size_t)n;
    if (kvcodec_unpack(codec, data, n_data, raw->p, raw->n, e)) return -1;
    XXH128_canonicalFromHash(&real, XXH3_128bits(raw->p, raw->n));
    if (n_hash != sizeof real.digest || memcmp(hash, real.digest, n_hash))
        return err_set(e, ERR_DB, "its bytes are not those that were stored");
    return 0;
}

int query_chunk(sqlite3 *db, sqlite3_stmt **slot, int64_t blob_id, struct buf *raw, enum kv_type *type, err *e)
{
    int r = db_query(db, slot, e,
                     "SELECT b.raw_bytes, b.dtype, b.codec, b.xxh128, d.data FROM blob b JOIN blob_data d ON d.blob_id=b.id"
                     " WHERE b.id=?",
                     "i", blob_id);
    if (r == 0) err_set(e, ERR_DB, "it is not there");
    if (r == 1)
        r = unpack_row(*slot, raw, type, e);
    else
        r = -1;
    if (*slot) sqlite3_reset(*slot);
    return r ? err_in(e, "blob %lld", (long long)blob_id) : 0;
}

/* ---- SQL functions ---- */

/* A chunk as float32: questions about single tokens ask for the same few again and again. */
struct decoded {
    int64_t blob; /* 0: none */
    float *v;     /* (n) */
    size_t n;
};
enum { KEPT = 4 };

struct functions {
    struct buf raw;
    struct decoded kept[KEPT];
    int next; /* of kept, to be replaced */
    int refs; /* registered functions that use it */
};

static void functions_free(void *p)
{
    struct functions *f = p;
    if (--f->refs) return;
    for (int i = 0; i < KEPT; i++) free(f->kept[i].v);
    buf_free(&f->raw);
    free(f);
}

static void fail(sqlite3_context *ctx, const err *e)
{
    sqlite3_result_error(ctx, e->msg, -1);
    if (e->code == ERR_DB) sqlite3_result_error_code(ctx, SQLITE_CORRUPT);
}

/* The chunk's numbers; NULL: the error is set. Good until KEPT others were asked for. */
static const struct decoded *decoded(sqlite3_context *ctx, struct functions *f, int64_t blob)
{
    sqlite3_stmt *find = NULL; /* not kept: a statement that outlives the query would keep the connection open */
    struct decoded *d;
    enum kv_type type;
    err e = {0};
    for (int i = 0; i < KEPT; i++)
        if (f->kept[i].blob == blob && blob) return &f->kept[i];
    d = &f->kept[f->next];
    f->next = (f->next + 1) % KEPT;
    if (query_chunk(sqlite3_context_db_handle(ctx), &find, blob, &f->raw, &type, &e)) {
        fail(ctx, &e);
        d = NULL;
    } else {
        free(d->v);
        d->blob = blob;
        d->n = f->raw.n / engine_kv_bytes(type);
        d->v = mem_array(d->n, sizeof *d->v);
        engine_kv_to_f32(type, f->raw.p, d->v, d->n);
    }
    sqlite3_finalize(find);
    return d;
}

/* kv_decode(blob_id): the chunk's numbers as a blob of float32. */
static void kv_decode(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    const struct decoded *d;
    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL) return;
    d = decoded(ctx, sqlite3_user_data(ctx), sqlite3_value_int64(argv[0]));
    if (d) sqlite3_result_blob64(ctx, d->v, d->n * sizeof *d->v, SQLITE_TRANSIENT);
}

/* Both arguments as float32 vectors of one length. 0; 1: one is NULL; -1: not such vectors, the error is set. */
static int vectors(sqlite3_context *ctx, sqlite3_value **argv, const char **a, const char **b, size_t *n)
{
    size_t na, nb;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || sqlite3_value_type(argv[1]) == SQLITE_NULL) return 1;
    *a = sqlite3_value_blob(argv[0]);
    na = (size_t)sqlite3_value_bytes(argv[0]);
    *b = sqlite3_value_blob(argv[1]);
    nb = (size_t)sqlite3_value_bytes(argv[1]);
    if (na != nb || na % sizeof(float) || sqlite3_value_type(argv[0]) != SQLITE_BLOB ||
        sqlite3_value_type(argv[1]) != SQLITE_BLOB) {
        sqlite3_result_error(ctx, "vec_l2 and vec_cos take two blobs of float32 of one length, as kv_decode gives them", -1);
        return -1;
    }
    *n = na / sizeof(float);
    return 0;
}

static double at(const char *v, size_t i)
{
    float f;
    memcpy(&f, v + i * sizeof f, sizeof f);
    return (double)f;
}

/* kv_row(blob_id, heads, tokens, t): of a chunk (heads, tokens, E) the vector of its token t, (heads, E) float32. */
static void kv_row(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct functions *f = sqlite3_user_data(ctx);
    int64_t heads = sqlite3_value_int64(argv[1]), tokens = sqlite3_value_int64(argv[2]), t = sqlite3_value_int64(argv[3]);
    const struct decoded *d;
    size_t E;
    float *out;
    (void)argc;
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL) return;
    d = decoded(ctx, f, sqlite3_value_int64(argv[0]));
    if (!d) return;
    if (heads < 1 || tokens < 1 || t < 0 || t >= tokens || heads > (int64_t)d->n / tokens || d->n % (size_t)(heads * tokens)) {
        sqlite3_result_error(ctx, "kv_row takes a chunk, its heads, its tokens and one of these, counted from 0", -1);
        return;
    }
    E = d->n / (size_t)(heads * tokens);
    out = mem_array((size_t)heads * E, sizeof *out);
    for (int64_t g = 0; g < heads; g++) memcpy(out + (size_t)g * E, d->v + (size_t)(g * tokens + t) * E, E * sizeof *out);
    sqlite3_result_blob64(ctx, out, (size_t)heads * E * sizeof *out, free);
}

/* vec_max(a, b): largest absolute difference, each taken in float32 as a picture of it is. */
static void vec_max(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    const char *a, *b;
    double most = 0;
    size_t i, n;
    (void)argc;
    if (vectors(ctx, argv, &a, &b, &n)) return;
    for (i = 0; i < n; i++) most = fmax(most, fabs((double)((float)at(a, i) - (float)at(b, i))));
    sqlite3_result_double(ctx, most);
}

/* vec_l2(a, b): Euclidean distance. */
static void vec_l2(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    const char *a, *b;
    double sum = 0;
    size_t i, n;
    (void)argc;
    if (vectors(ctx, argv, &a, &b, &n)) return;
    for (i = 0; i < n; i++) sum += (at(a, i) - at(b, i)) * (at(a, i) - at(b, i));
    sqlite3_result_double(ctx, sqrt(sum));
}

/* vec_cos(a, b): cosine of the angle between them; NULL when one has no length. */
static void vec_cos(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    const char *a, *b;
    double ab = 0, aa = 0, bb = 0;
    size_t i, n;
    (void)argc;
    if (vectors(ctx, argv, &a, &b, &n)) return;
    for (i = 0; i < n; i++) {
        ab += at(a, i) * at(b, i);
        aa += at(a, i) * at(a, i);
        bb += at(b, i) * at(b, i);
    }
    if (aa > 0 && bb > 0) sqlite3_result_double(ctx, ab / (sqrt(aa) * sqrt(bb)));
}

/* token_text(tokenizer_id, token_id): how the token is shown; NULL when it never occurred. */
static void token_text(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    sqlite3_stmt *find = NULL;
    err e = {0};
    int r;
    (void)argc;
    r = db_query(sqlite3_context_db_handle(ctx), &find, &e, "SELECT display FROM token WHERE tokenizer_id=? AND token_id=?",
                 "ii", (int64_t)sqlite3_value_int64(argv[0]), (int64_t)sqlite3_value_int64(argv[1]));
    if (r < 0) fail(ctx, &e);
    if (r == 1) sqlite3_result_value(ctx, sqlite3_column_value(find, 0));
    sqlite3_finalize(find);
}

int query_functions(sqlite3 *db, err *e)
{
    static const struct {
        const char *name;
        int n_args;
        void (*call)(sqlite3_context *, int, sqlite3_value **);
    } table[] = {{"kv_decode", 1, kv_decode}, {"kv_row", 4, kv_row},   {"vec_l2", 2, vec_l2},
                 {"vec_max", 2, vec_max},     {"vec_cos", 2, vec_cos}, {"token_text", 2, token_text}};
    struct functions *f = mem_alloc(sizeof *f);
    size_t i;
    f->refs = 1; /* held while registering, since a failed registration lets go at once */
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        f->refs++;
        if (sqlite3_create_function_v2(db, table[i].name, table[i].n_args, SQLITE_UTF8 | SQLITE_DIRECTONLY, f, table[i].call,
                                       NULL, NULL, functions_free)) {
            functions_free(f);
            return db_error(db, e);
        }
    }
    functions_free(f);
    return 0;
}
