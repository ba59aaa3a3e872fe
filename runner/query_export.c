/* query_export.c: a stored cache, or recorded activations, as a safetensors file: 8 bytes with the length of a JSON header, the
 * header, the numbers. Written layer by layer to a file beside the target, which takes its name only when it is whole. */
#include "query_export.h"

#include "whole_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSOR_MAX = 1 << 30 /* bytes of one layer's K or V that are believed */ };

struct piece *export_add(struct export *x)
{
    if ((x->n_pieces & (x->n_pieces - 1)) == 0)
        x->pieces = mem_grow(x->pieces, x->n_pieces ? 2 * (size_t)x->n_pieces : 1, sizeof *x->pieces);
    x->pieces[x->n_pieces] = (struct piece){0};
    return &x->pieces[x->n_pieces++];
}

int64_t export_bytes(const struct piece *p)
{
    int64_t n = 4;
    int i;
    for (i = 0; i < p->n_dims; i++) n *= p->dims[i];
    return n;
}

/* ---- what is there ---- */

static int no_capture(struct export *x, err *e)
{
    sqlite3_stmt *rows = NULL;
    struct buf names = {0};
    int r = db_query(x->db, &rows, e, "SELECT moment FROM kv_capture WHERE attempt_id=? AND complete=1 ORDER BY id", "i",
                     x->attempt);
    for (; r == 1; r = db_next(x->db, rows, e)) {
        const char *s = (const char *)sqlite3_column_text(rows, 0);
        if (names.n) buf_str(&names, ", ");
        query_printable(&names, s ? s : "", s ? strlen(s) : 0);
    }
    sqlite3_finalize(rows);
    if (names.n)
        err_set(e, ERR_NOTHING, "'%s' has no cache of the moment '%s'; there are: %s", x->label, x->moment, names.p);
    else
        err_set(e, ERR_NOTHING, "no cache of '%s' was kept; 'capture' in the spec says which are", x->label);
    buf_free(&names);
    return -1;
}

static int find_capture(struct export *x, err *e)
{
    sqlite3_stmt *row = NULL;
    int64_t layers, G, T, E, H, D, V, first;
    int r;
    x->spec_job = query_label(x->db, x->experiment, x->label, e);
    if (x->spec_job < 0) return -1;
    r = db_query(x->db, &row, e, "SELECT attempt_id FROM v_latest WHERE spec_job_id=?", "i", x->spec_job);
    if (r == 1) x->attempt = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    row = NULL;
    if (r == 0) return err_set(e, ERR_NOTHING, "'%s' has no answer yet", x->label);
    if (r == 1)
        r = db_query(x->db, &row, e,
                     "SELECT k.id, k.tok_start, k.tok_end, m.n_layer, m.n_kv_head, m.head_dim, m.n_head, m.n_embd, m.n_vocab "
                     "FROM kv_capture k"
                     " JOIN attempt a ON a.id=k.attempt_id JOIN job j ON j.id=a.job_id JOIN model m ON m.id=j.model_id"
                     " WHERE k.attempt_id=? AND k.moment=? AND k.complete=1",
                     "is", x->attempt, x->moment);
    if (r < 1) {
        sqlite3_finalize(row);
        return r < 0 ? -1 : no_capture(x, e);
    }
    x->capture = sqlite3_column_int64(row, 0);
    first = sqlite3_column_int64(row, 1);
    T = sqlite3_column_int64(row, 2);
    layers = sqlite3_column_int64(row, 3);
    G = sqlite3_column_int64(row, 4);
    E = sqlite3_column_int64(row, 5);
    H = sqlite3_column_int64(row, 6);
    D = sqlite3_column_int64(row, 7);
    V = sqlite3_column_int64(row, 8);
    sqlite3_finalize(row);
    if (first != 0 || layers < 1 || layers > 100000 || G < 1 || G > 100000 || E < 1 || E > 100000 || T < 0 ||
        T > TENSOR_MAX / 4 / E / G || H < 1 || H > 100000 || D < 1 || D > 1 << 24 || V < 1 || V > 1 << 28)
        return err_set(e, ERR_DB, "the sizes of the cache of '%s' are not possible: %lld layers of (%lld, %lld, %lld)",
                       x->label, (long long)layers, (long long)G, (long long)T, (long long)E);
    x->layers = (int)layers;
    x->G = (int)G;
    x->T = (int)T;
    x->E = (int)E;
    x->H = (int)H;
    x->D = (int)D;
    x->V = (int)V;
    return 0;
}

static void cache_pieces(struct export *x)
{
    int layer, tensor;
    for (layer = 0; layer < x->layers; layer++)
        for (tensor = 0; tensor < 2; tensor++) {
            struct piece *p = export_add(x);
            *p = (struct piece){.tensor = tensor ? "v" : "k", .layer = layer, .dims = {x->G, x->T, x->E}, .n_dims = 3};
            snprintf(p->name, sizeof p->name, "%s.%d", p->tensor, layer);
        }
}

/* ---- the header ---- */

/* The ids of tokens 0..T-1: the prompt's, then the generated ones that were fed. NULL: e. */
static char *tokens_of(struct export *x, err *e)
{
    sqlite3_stmt *rows = NULL;
    struct buf out = {0};
    int n = 0, r;
    r = db_query(x->db, &rows, e,
                 "SELECT t.token_id FROM spec_job sj JOIN spec_prompt sp ON sp.id=sj.spec_prompt_id"
                 " JOIN prompt_token t ON t.prompt_id=sp.prompt_id WHERE sj.id=?1"
                 " UNION ALL SELECT token_id FROM (SELECT token_id FROM step WHERE attempt_id=?2 ORDER BY step)",
                 "ii", x->spec_job, x->attempt);
    buf_char(&out, '[');
    for (; r == 1 && n < x->T; r = db_next(x->db, rows, e), n++)
        buf_printf(&out, n ? ",%lld" : "%lld", (long long)sqlite3_column_int64(rows, 0));
    buf_char(&out, ']');
    sqlite3_finalize(rows);
    if (r >= 0) return buf_take(&out);
    buf_free(&out);
    return NULL;
}

/* Text of the database as JSON: what is not UTF-8 there becomes visible. */
static json_t *text_json(const char *s)
{
    struct buf b = {0};
    json_t *j = json_string(s ? s : "");
    if (!j) {
        query_printable(&b, s, strlen(s));
        j = json_string(b.p);
        buf_free(&b);
    }
    return j;
}

static json_t *ints(const int *v, int n)
{
    json_t *list = json_array();
    int i;
    for (i = 0; i < n; i++) json_array_append_new(list, json_integer(v[i]));
    return list;
}

/* {"resid.3": [0, 1, 7], ..} as text, since metadata of a safetensors file are strings. NULL: these are caches. */
static char *positions_of(const struct export *x)
{
    json_t *all;
    char *text;
    int i;
    if (x->n_pieces == 0 || !x->pieces[0].at) return NULL;
    all = json_object();
    for (i = 0; i < x->n_pieces; i++) json_object_set_new(all, x->pieces[i].name, ints(x->pieces[i].at, x->pieces[i].dims[0]));
    text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return text;
}

static json_t *metadata(struct export *x, err *e)
{
    static const char *const keys[] = {"experiment", "dtype", "k_space", "numerics", "model", "model_sha256", "run"};
    sqlite3_stmt *row = NULL;
    json_t *m = json_object();
    char *tokens = tokens_of(x, e), *positions = positions_of(x);
    int i, r = !tokens ? -1
                       : db_query(x->db, &row, e,
                                  "SELECT e.name, k.dtype, k.k_space, a.numerics, m.name, lower(hex(m.sha256)), r.uuid"
                                  " FROM kv_capture k JOIN attempt a ON a.id=k.attempt_id JOIN run r ON r.id=a.run_id"
                                  " JOIN job j ON j.id=a.job_id JOIN model m ON m.id=j.model_id"
                                  " JOIN spec_job sj ON sj.id=?1 JOIN spec s ON s.id=sj.spec_id"
                                  " JOIN experiment e ON e.id=s.experiment_id WHERE k.id=?2",
                                  "ii", x->spec_job, x->capture);
    if (r == 0) err_set(e, ERR_DB, "the run of '%s' is not in the database", x->label);
    if (r == 1) {
        json_object_set_new(m, "format", json_string("kvrun 1"));
        json_object_set_new(m, "label", text_json(x->label));
        json_object_set_new(m, "moment", text_json(x->moment));
        json_object_set_new(m, "tokens", json_string(tokens));
        if (positions) json_object_set_new(m, "positions", json_string(positions));
        for (i = 0; i < (int)(sizeof keys / sizeof *keys); i++)
            if (sqlite3_column_type(row, i) != SQLITE_NULL)
                json_object_set_new(m, keys[i], text_json((const char *)sqlite3_column_text(row, i)));
    }
    sqlite3_finalize(row);
    free(tokens);
    free(positions);
    if (r == 1) return m;
    json_decref(m);
    return NULL;
}

/* The JSON of the header, padded so that the numbers start at a multiple of 8. NULL: e. */
static char *header(struct export *x, err *e)
{
    json_t *root = json_object(), *m = metadata(x, e);
    json_int_t at = 0;
    struct buf out = {0};
    char *text = NULL;
    int i;
    if (m) {
        json_object_set_new(root, "__metadata__", m);
        for (i = 0; i < x->n_pieces; i++) {
            const struct piece *p = &x->pieces[i];
            json_int_t size = export_bytes(p);
            json_object_set_new(root, p->name,
                                json_pack("{s:s, s:o, s:[I,I]}", "dtype", "F32", "shape", ints(p->dims, p->n_dims),
                                          "data_offsets", at, at + size));
            at += size;
        }
        text = json_dumps(root, JSON_COMPACT);
        if (!text) err_set(e, ERR_INTERNAL, "the header could not be written as JSON");
    }
    json_decref(root);
    if (!text) return NULL;
    buf_str(&out, text);
    free(text);
    while (out.n % 8) buf_char(&out, ' ');
    return buf_take(&out);
}

/* ---- the numbers ---- */

/* Puts the chunk of tokens first..first+n-1 to its place in x->numbers. */
static int place(struct export *x, int64_t blob, int first, int n, err *e)
{
    size_t elements = (size_t)x->G * (size_t)n * (size_t)x->E, row = (size_t)n * (size_t)x->E;
    enum kv_type type;
    int g;
    if (query_chunk(x->db, &x->find, blob, &x->raw, &type, e)) return -1;
    if (x->raw.n != elements * engine_kv_bytes(type))
        return err_set(e, ERR_DB, "blob %lld holds %zu bytes, %d tokens need %zu", (long long)blob, x->raw.n, n,
                       elements * engine_kv_bytes(type));
    if (x->part_cap < elements) {
        x->part = mem_grow(x->part, elements, sizeof *x->part);
        x->part_cap = elements;
    }
    engine_kv_to_f32(type, x->raw.p, x->part, elements);
    for (g = 0; g < x->G; g++)
        memcpy(x->numbers + ((size_t)g * (size_t)x->T + (size_t)first) * (size_t)x->E, x->part + (size_t)g * row,
               row * sizeof *x->part);
    return 0;
}

static int load_tensor(struct export *x, int layer, const char *tensor, err *e)
{
    int64_t next = 0;
    int r = db_query(
        x->db, &x->chunks, e,
        "SELECT tok_start, n_tok, blob_id FROM kv_chunk WHERE capture_id=? AND layer=? AND tensor=? ORDER BY tok_start", "iis",
        x->capture, (int64_t)layer, tensor);
    for (; r == 1; r = db_next(x->db, x->chunks, e)) {
        int64_t first = sqlite3_column_int64(x->chunks, 0), n = sqlite3_column_int64(x->chunks, 1);
        if (first != next || n < 1 || n > x->T - first) break;
        if (place(x, sqlite3_column_int64(x->chunks, 2), (int)first, (int)n, e)) return -1;
        next = first + n;
    }
    if (r < 0) return -1;
    if (r == 1 || next != x->T)
        return err_set(e, ERR_DB, "layer %d of the cache of '%s' is not whole: %lld of %d tokens", layer, x->label,
                       (long long)next, x->T);
    return 0;
}

/* One layer's K or V, whole before it is written: chunks are (G, n, E). */
static int write_cache(struct export *x, const struct piece *p, FILE *f, const char *path, err *e)
{
    size_t n = (size_t)x->G * (size_t)x->T * (size_t)x->E;
    if (!x->numbers) x->numbers = mem_array(n, sizeof *x->numbers);
    if (load_tensor(x, p->layer, p->tensor, e)) return -1;
    return fwrite(x->numbers, sizeof *x->numbers, n, f) == n ? 0 : whole_error(path, e);
}

static int write_all(struct export *x, FILE *f, const char *path, err *e)
{
    char *head = header(x, e);
    uint64_t n_head;
    int i, r = 0;
    if (!head) return -1;
    n_head = strlen(head);
    if (fwrite(&n_head, sizeof n_head, 1, f) != 1 || fwrite(head, 1, n_head, f) != n_head) r = whole_error(path, e);
    for (i = 0; i < x->n_pieces && !r; i++)
        r = x->pieces[i].at ? pass_write(x, &x->pieces[i], f, path, e) : write_cache(x, &x->pieces[i], f, path, e);
    free(head);
    return r;
}

static int write_file(struct export *x, const char *path, err *e)
{
    struct whole_file w;
    if (whole_open(&w, path, e)) return -1;
    return whole_close(&w, write_all(x, w.f, path, e), e);
}

int query_export(const char *db, const char *experiment, const char *label, const char *moment, const char *path, err *e)
{
    struct export x = {.experiment = experiment, .label = label, .moment = moment};
    int r, i;
    if (db_open_read(&x.db, db, e)) return -1;
    r = find_capture(&x, e);
    if (!r && !strcmp(moment, "pass"))
        r = pass_pieces(&x, e);
    else if (!r)
        cache_pieces(&x);
    if (!r) r = write_file(&x, path, e);
    sqlite3_finalize(x.chunks);
    sqlite3_finalize(x.find);
    db_close(x.db);
    for (i = 0; i < x.n_pieces; i++) free(x.pieces[i].at);
    free(x.pieces);
    free(x.numbers);
    free(x.part);
    buf_free(&x.raw);
    return r;
}
