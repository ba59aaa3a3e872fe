/* store.c: a store's life: opening, what was answered before, the end of a run. Registering: store_begin.c; answers:
 * store_put.c. */
#include "store_in.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <time.h>

const char *const store_moments[STORE_MOMENTS] = {"prefill", "edited", "end"};

int store_open(store **out, const char *path, err *e)
{
    sqlite3 *db;
    store *st;
    if (db_open(&db, path, e)) return -1;
    st = mem_alloc(sizeof *st);
    st->db = db;
    st->blobs = mem_array(BLOB_SLOTS, sizeof *st->blobs);
    *out = st;
    return 0;
}

void store_close(store *st)
{
    int i;
    if (!st) return;
    db_rollback(st->db);
    for (i = 0; i < STMT_N; i++) sqlite3_finalize(st->stmts[i]);
    sqlite3_wal_checkpoint_v2(st->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL); /* best effort: readers may be there */
    db_close(st->db);
    free(st->job_ids);
    free(st->token_known);
    free(st->blobs);
    free(st->raw);
    buf_free(&st->packed);
    free(st);
}

/* Whether the positions of a record are stored with the attempt in each of its layers: 1, 0, or -1: error. */
static int has_record(sqlite3 *db, sqlite3_stmt **chunks, int64_t attempt, const struct job_record *rec, err *e)
{
    int l, i, r = 0;
    for (l = 0; l < rec->n_layers && r == 0; l++) {
        r = db_query(
            db, chunks, e,
            "SELECT c.tok_start, c.n_tok FROM kv_capture k JOIN kv_chunk c ON c.capture_id=k.id"
            " WHERE k.attempt_id=? AND k.moment='pass' AND k.complete=1 AND c.layer=? AND c.tensor=? ORDER BY c.tok_start",
            "iis", attempt, (int64_t)rec->layers[l], job_tensor_name(rec->site, rec->layers[l]));
        for (i = 0; r == 1; r = db_next(db, *chunks, e)) {
            int64_t first = sqlite3_column_int64(*chunks, 0), end = first + sqlite3_column_int64(*chunks, 1);
            while (i < rec->n_at && rec->at[i] >= first && rec->at[i] < end) i++;
        }
        if (r < 0) return -1;
        if (i < rec->n_at) return 0;
    }
    return 1;
}

int store_has_records(sqlite3 *db, sqlite3_stmt **chunks, int64_t attempt, const struct job *j, err *e)
{
    int i, r = 1;
    for (i = 0; i < j->n_records && r == 1; i++) r = has_record(db, chunks, attempt, &j->records[i], e);
    return r;
}

int store_has(store *st, int job, err *e)
{
    const struct job *j = &st->info.jobs->jobs[job];
    const char *want[STORE_MOMENTS];
    int i, r, has = 0;
    if (st->info.fresh) return 0;
    for (i = 0; i < STORE_MOMENTS; i++) want[i] = j->moments & (MOMENT_PREFILL << i) ? store_moments[i] : NULL;
    r = db_query(st->db, &st->stmts[STMT_HAS], e,
                 "WITH has AS (SELECT k.attempt_id, k.moment FROM kv_capture k WHERE k.complete=1)"
                 "SELECT a.id FROM attempt a WHERE a.job_id=?1 AND a.status='done' AND a.numerics=?2"
                 " AND (?3 IS NULL OR EXISTS (SELECT 1 FROM has WHERE attempt_id=a.id AND moment=?3))"
                 " AND (?4 IS NULL OR EXISTS (SELECT 1 FROM has WHERE attempt_id=a.id AND moment=?4))"
                 " AND (?5 IS NULL OR EXISTS (SELECT 1 FROM has WHERE attempt_id=a.id AND moment=?5)) ORDER BY a.id DESC",
                 "issss", st->job_ids[job], engine_info(st->info.en)->numerics, want[0], want[1], want[2]);
    while (r == 1 && !has) {
        has = store_has_records(st->db, &st->stmts[STMT_HAS_CHUNKS], sqlite3_column_int64(st->stmts[STMT_HAS], 0), j, e);
        if (!has) r = db_next(st->db, st->stmts[STMT_HAS], e);
    }
    if (r == 1) sqlite3_reset(st->stmts[STMT_HAS]);
    return r < 0 ? -1 : has;
}

int store_end(store *st, const char *status, int exit_code, err *e)
{
    return db_run(st->db, NULL, e, "UPDATE run SET ended_ms=?,status=?,exit_code=? WHERE id=?", "isii", store_now_ms(), status,
                  (int64_t)exit_code, st->run_id);
}

const char *store_run_uuid(const store *st)
{
    return st->uuid;
}

struct sqlite3 *store_sqlite(store *st)
{
    return st->db;
}

int64_t store_spec_id(const store *st)
{
    return st->spec_id;
}

const engine *store_engine(const store *st)
{
    return st->info.en;
}

int store_exec(store *st, err *e, const char *sql, const char *types, ...)
{
    va_list ap;
    int r;
    va_start(ap, types);
    r = db_run_list(st->db, NULL, e, sql, types, ap);
    va_end(ap);
    return r;
}

int64_t store_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void store_sha256(const struct store_bytes *parts, int n_parts, uint8_t out[32])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int i, ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL);
    for (i = 0; ok && i < n_parts; i++)
        if (parts[i].n) ok = EVP_DigestUpdate(md, parts[i].p, parts[i].n);
    if (ok) ok = EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
    if (!ok) abort(); /* SHA-256 of bytes in memory can only fail without memory */
}
