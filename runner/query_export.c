/* query_export.c: a stored cache as a safetensors file: 8 bytes with the length of a JSON header, the header, the numbers.
 * Written layer by layer to a file beside the target, which takes its name only when it is whole. */
#include "query_in.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TENSOR_MAX = 1 << 30 /* bytes of one layer's K or V that are believed */ };

struct export
{
    sqlite3 *db;
    const char *experiment, *label, *moment;
    int64_t capture, attempt, spec_job;
    int layers, G, T, E;
    sqlite3_stmt *chunks, *find;
    struct buf raw;
    float *numbers; /* (G, T, E) one layer's K or V */
    float *part;    /* (G, n, E) one chunk */
    size_t part_cap;
};

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
    int64_t layers, G, T, E, first;
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
                     "SELECT k.id, k.tok_start, k.tok_end, m.n_layer, m.n_kv_head, m.head_dim FROM kv_capture k"
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
    sqlite3_finalize(row);
    if (first != 0 || layers < 1 || layers > 100000 || G < 1 || G > 100000 || E < 1 || E > 100000 || T < 0 ||
        T > TENSOR_MAX / 4 / E / G)
        return err_set(e, ERR_DB, "the sizes of the cache of '%s' are not possible: %lld layers of (%lld, %lld, %lld)",
                       x->label, (long long)layers, (long long)G, (long long)T, (long long)E);
    x->layers = (int)layers;
    x->G = (int)G;
    x->T = (int)T;
    x->E = (int)E;
    return 0;
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

static json_t *metadata(struct export *x, err *e)
{
    static const char *const keys[] = {"experiment", "dtype", "k_space", "numerics", "model", "model_sha256", "run"};
    sqlite3_stmt *row = NULL;
    json_t *m = json_object();
    char *tokens = tokens_of(x, e);
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
        for (i = 0; i < (int)(sizeof keys / sizeof *keys); i++)
            json_object_set_new(m, keys[i], text_json((const char *)sqlite3_column_text(row, i)));
    }
    sqlite3_finalize(row);
    free(tokens);
    if (r == 1) return m;
    json_decref(m);
    return NULL;
}

/* The JSON of the header, padded so that the numbers start at a multiple of 8. NULL: e. */
static char *header(struct export *x, err *e)
{
    json_t *root = json_object(), *m = metadata(x, e);
    json_int_t size = (json_int_t)x->G * x->T * x->E * 4, at = 0;
    struct buf out = {0};
    char *text = NULL;
    char name[32];
    int layer, tensor;
    if (m) {
        json_object_set_new(root, "__metadata__", m);
        for (layer = 0; layer < x->layers; layer++)
            for (tensor = 0; tensor < 2; tensor++, at += size) {
                snprintf(name, sizeof name, "%c.%d", "kv"[tensor], layer);
                json_object_set_new(root, name,
                                    json_pack("{s:s, s:[i,i,i], s:[I,I]}", "dtype", "F32", "shape", x->G, x->T, x->E,
                                              "data_offsets", at, at + size));
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
    if (x->raw.n != elements * query_element(type))
        return err_set(e, ERR_DB, "blob %lld holds %zu bytes, %d tokens need %zu", (long long)blob, x->raw.n, n,
                       elements * query_element(type));
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

static int write_error(const char *path, err *e)
{
    return err_set(e, errno == ENOSPC || errno == EDQUOT ? ERR_DISK : ERR_INPUT, "cannot write %s: %s", path, strerror(errno));
}

static int write_all(struct export *x, FILE *f, const char *path, err *e)
{
    char *head = header(x, e);
    uint64_t n_head;
    size_t n = (size_t)x->G * (size_t)x->T * (size_t)x->E;
    int layer, tensor, r = -1;
    if (!head) return -1;
    n_head = strlen(head);
    x->numbers = mem_array(n, sizeof *x->numbers);
    if (fwrite(&n_head, sizeof n_head, 1, f) != 1 || fwrite(head, 1, n_head, f) != n_head) {
        write_error(path, e);
        goto out;
    }
    for (layer = 0; layer < x->layers; layer++)
        for (tensor = 0; tensor < 2; tensor++) {
            if (load_tensor(x, layer, tensor ? "v" : "k", e)) goto out;
            if (fwrite(x->numbers, sizeof *x->numbers, n, f) != n) {
                write_error(path, e);
                goto out;
            }
        }
    r = 0;
out:
    free(head);
    return r;
}

static int write_file(struct export *x, const char *path, err *e)
{
    struct buf part = {0};
    FILE *f = NULL;
    int r = -1, fd;
    buf_printf(&part, "%s.part.%d", path, (int)getpid());
    fd = open(part.p, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd >= 0) f = fdopen(fd, "wb");
    if (!f) {
        r = write_error(part.p, e);
        if (fd >= 0) close(fd);
        buf_free(&part);
        return r;
    }
    r = write_all(x, f, path, e);
    if (!r && (fflush(f) || fsync(fd))) r = write_error(path, e);
    if (fclose(f) && !r) r = write_error(path, e);
    if (!r && rename(part.p, path)) r = write_error(path, e);
    if (r) unlink(part.p);
    buf_free(&part);
    return r;
}

int query_export(const char *db, const char *experiment, const char *label, const char *moment, const char *path, err *e)
{
    struct export x = {.experiment = experiment, .label = label, .moment = moment};
    int r;
    if (db_open_read(&x.db, db, e)) return -1;
    r = find_capture(&x, e);
    if (!r) r = write_file(&x, path, e);
    sqlite3_finalize(x.chunks);
    sqlite3_finalize(x.find);
    db_close(x.db);
    free(x.numbers);
    free(x.part);
    buf_free(&x.raw);
    return r;
}
