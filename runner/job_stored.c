/* job_stored.c: values that an earlier run stored, read from its database when the jobs are made: their hash goes into the key,
 * so that the answer stands for these very numbers. */
#include "job_parts.h"

#include "query_in.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

struct job_stored {
    char *path;
    sqlite3 *db; /* NULL: it cannot be read, which has been told */
    sqlite3_stmt *find, *chunk, *blob;
    struct buf raw;
};

/* ---- the database ---- */

void job_stored_close(struct job_stored *s)
{
    if (!s) return;
    sqlite3_finalize(s->find);
    sqlite3_finalize(s->chunk);
    sqlite3_finalize(s->blob);
    db_close(s->db);
    buf_free(&s->raw);
    free(s->path);
    free(s);
}

/* The one that was read last stays open: the jobs of a sweep all ask the same. */
static struct job_stored *open_stored(struct expand *x, const char *path, err *e)
{
    struct job_stored *s = x->stored;
    if (s && s->db && strcmp(s->path, path) == 0) return s;
    job_stored_close(s);
    x->stored = s = mem_alloc(sizeof *s);
    s->path = mem_strdup(path);
    return db_open_read(&s->db, path, e) ? NULL : s;
}

/* ---- one capture ---- */

struct capture_of {
    struct job_stored *s;
    int64_t id;
    int n_tokens, G, width; /* G: heads of a vector in a chunk of K and V, else 0 */
    const char *moment;
};

static int find_capture(const struct donor_stored *d, struct capture_of *c, err *e)
{
    int r = db_query(c->s->db, &c->s->find, e,
                     "SELECT k.id, k.tok_end, l.experiment FROM v_latest l JOIN kv_capture k ON k.attempt_id=l.attempt_id"
                     " WHERE l.label=?1 AND (?2 IS NULL OR l.experiment=?2) AND k.moment=?3 AND k.complete=1 ORDER BY k.id",
                     "sss", d->label, d->experiment, c->moment);
    if (r < 0) return -1;
    if (r == 0)
        return err_set(e, ERR_NOTHING, "'%s' has no capture of '%s' at the moment '%s'", c->s->path, d->label, c->moment);
    c->id = sqlite3_column_int64(c->s->find, 0);
    c->n_tokens = (int)sqlite3_column_int64(c->s->find, 1);
    r = db_next(c->s->db, c->s->find, e);
    if (r == 1) sqlite3_reset(c->s->find);
    if (r == 1) return err_set(e, ERR_INPUT, "'%s' is a label of several experiments; say which: experiment: NAME", d->label);
    return r;
}

/* The vector of the position that lies in a chunk of n_tok tokens from `first` on. out: (width). */
static void take(const struct capture_of *c, enum kv_type type, int n_tok, int pos, float *out)
{
    size_t size = engine_kv_bytes(type), E = c->G ? (size_t)(c->width / c->G) : (size_t)c->width;
    int g, heads = c->G ? c->G : 1;
    for (g = 0; g < heads; g++) {
        size_t from = c->G ? ((size_t)g * (size_t)n_tok + (size_t)pos) * E : (size_t)pos * E;
        engine_kv_to_f32(type, c->s->raw.p + from * size, out + (size_t)g * E, E);
    }
}

/* The vectors of positions at (n) of one layer and tensor; out: (n, width). */
static int read_layer(const struct capture_of *c, int layer, const char *tensor, const int *at, int n, float *out, err *e)
{
    sqlite3_stmt **chunk = &c->s->chunk;
    int i, found = 0;
    int r = db_query(
        c->s->db, chunk, e,
        "SELECT tok_start, n_tok, blob_id FROM kv_chunk WHERE capture_id=? AND layer=? AND tensor=? ORDER BY tok_start", "iis",
        c->id, (int64_t)layer, tensor);
    for (; r == 1; r = db_next(c->s->db, *chunk, e)) {
        int64_t first = sqlite3_column_int64(*chunk, 0), n_tok = sqlite3_column_int64(*chunk, 1);
        enum kv_type type;
        bool loaded = false;
        for (i = 0; i < n; i++) {
            if (at[i] < first || at[i] >= first + n_tok) continue;
            if (!loaded && query_chunk(c->s->db, &c->s->blob, sqlite3_column_int64(*chunk, 2), &c->s->raw, &type, e)) return -1;
            if (!loaded && (int64_t)c->s->raw.n != n_tok * c->width * (int64_t)engine_kv_bytes(type))
                return err_set(e, ERR_INPUT, "'%s' of layer %d is stored by a model of another size", tensor, layer);
            loaded = true;
            take(c, type, (int)n_tok, (int)(at[i] - first), out + (size_t)i * (size_t)c->width);
            found++;
        }
    }
    if (r < 0) return -1;
    return found == n ? 0 : err_set(e, ERR_NOTHING, "%s of layer %d is not stored at all these positions", tensor, layer);
}

/* ---- the values of an operation ---- */

static int read_values(struct expand *x, struct capture_of *c, const struct job_op *op, const int *from, int n,
                       struct job_vector *v, err *e)
{
    size_t rows = (size_t)op->n_layers * (size_t)n;
    int one, l, kv = op->tensors == (CACHE_K | CACHE_V) ? 2 : 1;
    float *out;
    v->rows = out = arena_array(x->mem, (size_t)kv * rows * (size_t)c->width, sizeof *out);
    v->n_rows = (int)((size_t)kv * rows);
    for (one = op->tensors & -op->tensors; one && one <= op->tensors; one *= 2)
        for (l = 0; l < op->n_layers; l++) {
            if (read_layer(c, op->layers[l], job_tensor_name(one, op->layers[l]), from, n, out, e)) return -1;
            out += (size_t)n * (size_t)c->width;
        }
    SHA256((const unsigned char *)v->rows, (size_t)v->n_rows * (size_t)c->width * sizeof *v->rows, v->sha256);
    return 0;
}

static int stored_values(struct expand *x, const struct op *op, struct job_op *out, err *e)
{
    static const char *const moments[] = {"pass", "prefill", "edited", NULL, "end"};
    const struct donor_stored *d = op->donor.stored;
    const char *path = d->db ? d->db : x->s->db ? x->s->db : "results.db";
    bool kept = !(out->tensors & ~(CACHE_K | CACHE_V));
    struct job_vector *v = arena_alloc(x->mem, sizeof *v);
    struct capture_of c = {.width = engine_site_width(x->en, out->tensors & -out->tensors, 0),
                           .G = kept ? x->info->n_kv_head : 0,
                           .moment = kept ? moments[d->moment ? d->moment : MOMENT_PREFILL] : "pass"};
    int n;
    const int *at = job_op_places(out, &n), *from = at;
    c.s = open_stored(x, path, e);
    if (!c.s || find_capture(d, &c, e)) return -1;
    if (op->donor.select.tokens.n || op->donor.select.tokens.all) {
        int *list, m;
        if (bind_ranges(&op->donor.select.tokens, c.n_tokens, "token", d->label, x->mem, x->d, &list, &m)) return -1;
        if (m != n) return err_set(e, ERR_INPUT, "the target is %d tokens, the stored values are of %d", n, m);
        from = list;
    }
    if (read_values(x, &c, out, from, n, v, e)) return -1;
    v->file = d->label;
    out->vector = v;
    out->donor_at = arena_array(x->mem, (size_t)n, sizeof *out->donor_at);
    memcpy(out->donor_at, from, (size_t)n * sizeof *from);
    return 0;
}

int job_stored_resolve(struct expand *x, const struct op *op, struct job_op *out)
{
    err e = {0};
    int n, i;
    const int *at;
    if (stored_values(x, op, out, &e)) {
        if (e.code) diag_add(x->d, DIAG_ERROR, "E397", op->donor.at, op->donor.width, "stored values: %s", e.msg);
        return -1;
    }
    at = job_op_places(out, &n);
    for (i = 0; i < n && !out->n_gen_at && at[i] == out->donor_at[i];) i++;
    if (i == n || !(out->tensors & CACHE_K)) return 0;
    if (!op->rope_given) {
        diag_add(x->d, DIAG_ERROR, "E323", op->donor.at, op->donor.width,
                 "target and donor stand at different positions; say what happens to the rotation of the keys");
        diag_help(x->d, "help: rope: keep, or rope: rerotate");
        return -1;
    }
    out->rerotate = op->rerotate;
    return 0;
}
