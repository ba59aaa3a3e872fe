/* store_put.c: one answer into the file: attempt, text, steps, tokens, caches, activations; all of it or nothing.
 *
 * Caches are cut into chunks of one layer, K or V, and 64 tokens, addressed by what they hold (XXH3-128 of the raw bytes).
 * A chunk that is there already, from a sibling that shares the page or an earlier run, is neither packed nor stored again. */
#include "kvcodec.h"
#include "store_in.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- tokens ---- */

/* How a token's bytes are shown: control characters and what is not UTF-8 as escapes. */
static void add_display(struct buf *out, const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int len = utf8_len(s + i, n - i);
        unsigned char c = (unsigned char)s[i];
        if (c == '\n')
            buf_str(out, "\\n");
        else if (c == '\t')
            buf_str(out, "\\t");
        else if (c == '\r')
            buf_str(out, "\\r");
        else if (len == 0 || c < 0x20 || c == 0x7f)
            buf_printf(out, "\\x%02x", c);
        else if (len == 2 && c == 0xc2 && (unsigned char)s[i + 1] < 0xa0)
            buf_printf(out, "\\u%04x", (unsigned char)s[i + 1]);
        else
            buf_add(out, s + i, (size_t)len);
        i += len ? (size_t)len : 1;
    }
}

int store_token(store *st, int id, err *e)
{
    struct buf display = {0};
    const char *bytes;
    size_t n;
    int r;
    if (id < 0 || id >= engine_info(st->info.en)->n_vocab || st->token_known[id]) return 0;
    bytes = engine_token_bytes(st->info.en, id, &n);
    if (!bytes) return 0;
    buf_add(&display, "", 0);
    add_display(&display, bytes, n);
    r = db_run(st->db, &st->stmts[STMT_TOKEN], e,
               "INSERT INTO token VALUES(?,?,?,?) ON CONFLICT(tokenizer_id,token_id) DO NOTHING", "iibt", st->tokenizer_id,
               (int64_t)id, bytes, n, display.p, display.n);
    buf_free(&display);
    if (!r) st->token_known[id] = 1;
    return r;
}

/* ---- caches ---- */

static const char *const types[] = {[KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16"};

/* A chunk before it is packed. */
struct chunk {
    const void *raw;
    size_t n; /* bytes */
    enum kv_type type;
};

static int64_t put_blob(store *st, const XXH128_canonical_t *hash, const struct chunk *c, err *e)
{
    enum kv_codec codec;
    int64_t id;
    st->packed.n = 0;
    codec = kvcodec_pack(c->raw, c->n, c->type, &st->packed);
    id = db_id(st->db, &st->stmts[STMT_BLOB], e,
               "INSERT INTO blob(xxh128,raw_bytes,dtype,stored_bytes,codec,created_ms) VALUES(?,?,?,?,?,?) RETURNING id",
               "bisisi", hash->digest, sizeof hash->digest, (int64_t)c->n, types[c->type], (int64_t)st->packed.n,
               kvcodec_name(codec), store_now_ms());
    if (id < 0) return -1;
    if (db_run(st->db, &st->stmts[STMT_DATA], e, "INSERT INTO blob_data VALUES(?,?)", "ib", id, st->packed.p, st->packed.n))
        return -1;
    return id;
}

/* The row of the chunk, which is made when no equal chunk is there. */
static int64_t find_blob(store *st, const struct chunk *c, err *e)
{
    XXH128_hash_t h = XXH3_128bits(c->raw, c->n);
    struct known_blob *known = &st->blobs[h.low64 % BLOB_SLOTS];
    XXH128_canonical_t hash;
    sqlite3_stmt **find = &st->stmts[STMT_FIND_BLOB];
    int64_t id;
    int r;
    if (known->id && known->low == h.low64 && known->high == h.high64 && known->raw_bytes == (int64_t)c->n &&
        known->type == c->type)
        return known->id;
    XXH128_canonicalFromHash(&hash, h);
    r = db_query(st->db, find, e, "SELECT id FROM blob WHERE xxh128=? AND raw_bytes=? AND dtype=?", "bis", hash.digest,
                 sizeof hash.digest, (int64_t)c->n, types[c->type]);
    if (r < 0) return -1;
    id = r == 1 ? sqlite3_column_int64(*find, 0) : put_blob(st, &hash, c, e);
    sqlite3_reset(*find);
    if (id >= 0) *known = (struct known_blob){h.low64, h.high64, (int64_t)c->n, id, c->type};
    return id;
}

/* Tokens first..first+n_tok-1 of a tensor of a layer. */
static int put_chunk(store *st, int64_t capture, int layer, const char *tensor, int first, int n_tok, const struct chunk *c,
                     err *e)
{
    int64_t blob = find_blob(st, c, e);
    if (blob < 0) return -1;
    return db_run(st->db, &st->stmts[STMT_CHUNK], e, "INSERT INTO kv_chunk VALUES(?,?,?,?,?,?)", "iisiii", capture,
                  (int64_t)layer, tensor, (int64_t)first, (int64_t)n_tok, blob);
}

static int put_chunks(store *st, int64_t capture, const struct snapshot *s, int layer, int tensor, err *e)
{
    const struct engine_info *m = engine_info(st->info.en);
    size_t per_token = (size_t)m->n_kv_head * (size_t)m->head_dim * engine_kv_bytes(m->kv); /* G * E elements */
    int first;
    if (st->raw_cap < per_token * STORE_BLOCK) {
        st->raw_cap = per_token * STORE_BLOCK;
        st->raw = mem_grow(st->raw, st->raw_cap, 1);
    }
    for (first = 0; first < s->n_tok; first += STORE_BLOCK) {
        int n = s->n_tok - first < STORE_BLOCK ? s->n_tok - first : STORE_BLOCK;
        struct chunk c = {st->raw, per_token * (size_t)n, m->kv};
        cache_read(s->cache, layer, tensor, first, n, st->raw);
        if (put_chunk(st, capture, layer, job_tensor_name(tensor, layer), first, n, &c, e)) return -1;
    }
    return 0;
}

static const char insert_capture[] =
    "INSERT INTO kv_capture(attempt_id,moment,dtype,k_space,tok_start,tok_end,block_tokens,complete)"
    " VALUES(?,?,?,?,0,?,?,1) RETURNING id";

static int put_snapshot(store *st, int64_t attempt, const struct snapshot *s, err *e)
{
    const struct engine_info *m = engine_info(st->info.en);
    const char *moment = s->moment == MOMENT_PREFILL ? "prefill" : s->moment == MOMENT_EDITED ? "edited" : "end";
    int64_t capture;
    int layer;
    if (s->n_tok < 0 || s->n_tok > cache_len(s->cache))
        return err_set(e, ERR_INTERNAL, "capture '%s' of %d tokens from a cache of %d", moment, s->n_tok, cache_len(s->cache));
    capture = db_id(st->db, &st->stmts[STMT_CAPTURE], e, insert_capture, "isssii", attempt, moment, m->kv_dtype, "k_post",
                    (int64_t)s->n_tok, (int64_t)STORE_BLOCK);
    if (capture < 0) return -1;
    for (layer = 0; layer < m->n_layer; layer++)
        if (put_chunks(st, capture, s, layer, CACHE_K, e) || put_chunks(st, capture, s, layer, CACHE_V, e)) return -1;
    return 0;
}

/* ---- activations ---- */

/* Runs of positions that follow one another, of at most STORE_BLOCK and, unless one alone is larger, CHUNK_MAX bytes. */
static int put_layer(store *st, int64_t capture, const struct activation *a, int l, err *e)
{
    enum { CHUNK_MAX = 4 << 20 };
    const struct job_record *rec = a->record;
    size_t bytes = (size_t)a->width * sizeof *a->values;
    int most = bytes < CHUNK_MAX / STORE_BLOCK ? STORE_BLOCK : bytes < CHUNK_MAX ? (int)(CHUNK_MAX / bytes) : 1, i, n;
    for (i = 0; i < rec->n_at; i += n) {
        const float *first = a->values + ((size_t)l * (size_t)rec->n_at + (size_t)i) * (size_t)a->width;
        for (n = 1; n < most && i + n < rec->n_at && rec->at[i + n] == rec->at[i] + n;) n++;
        if (put_chunk(st, capture, rec->layers[l], job_tensor_name(rec->site, rec->layers[l]), rec->at[i], n,
                      &(struct chunk){first, bytes * (size_t)n, KV_F32}, e))
            return -1;
    }
    return 0;
}

static int put_activations(store *st, int64_t attempt, const struct result *r, err *e)
{
    const struct jobs *jobs = st->info.jobs;
    int64_t capture;
    int i, l;
    if (r->n_activations == 0) return 0;
    capture = db_id(st->db, &st->stmts[STMT_CAPTURE], e, insert_capture, "issnii", attempt, "pass", "f32",
                    (int64_t)jobs->prompts[jobs->jobs[r->job].prompt].n_tokens, (int64_t)STORE_BLOCK);
    if (capture < 0) return -1;
    for (i = 0; i < r->n_activations; i++)
        for (l = 0; l < r->activations[i].record->n_layers; l++)
            if (put_layer(st, capture, &r->activations[i], l, e)) return -1;
    return 0;
}

/* ---- the answer ---- */

/* text with U+FFFD for each byte that is not part of a character. Returns 1 when there was one. */
static int add_utf8(struct buf *out, const char *text, size_t n)
{
    int lossy = 0;
    size_t i = 0;
    buf_add(out, "", 0);
    while (i < n) {
        size_t good = utf8_valid(text + i, n - i);
        buf_add(out, text + i, good);
        i += good;
        if (i == n) break;
        buf_str(out, "\xef\xbf\xbd");
        lossy = 1;
        i++;
    }
    return lossy;
}

static void hash_tokens(const struct result *r, uint8_t sha[32])
{
    struct buf ids = {0};
    int i;
    for (i = 0; i < r->n; i++) {
        uint32_t id = (uint32_t)r->picks[i].token;
        uint8_t le[4] = {(uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16), (uint8_t)(id >> 24)};
        buf_add(&ids, le, sizeof le);
    }
    store_sha256(&(struct store_bytes){ids.p, ids.n}, 1, sha);
    buf_free(&ids);
}

/* Infinities are kept out of the file, since readers do not agree on how to write them; SQLite stores NaN as NULL. */
static double finite_or_null(float x)
{
    return isfinite(x) ? (double)x : (double)NAN;
}

static int put_generation(store *st, int64_t attempt, const struct result *r, err *e)
{
    static const char *const stops[] = {
        [GEN_STOP_LENGTH] = "length", [GEN_STOP_EOS] = "eos", [GEN_STOP_CONTEXT] = "context", [GEN_STOP_FAILED] = "failed"};
    const struct jobs *jobs = st->info.jobs;
    struct buf text = {0};
    int lossy = add_utf8(&text, r->text, r->text_len), rc, i;
    uint8_t sha[32];
    hash_tokens(r, sha);
    rc = db_run(st->db, &st->stmts[STMT_GENERATION], e, "INSERT INTO generation VALUES(?,?,?,?,?,?,?,?,?)", "itiiisbii",
                attempt, text.p, text.n, (int64_t)lossy, (int64_t)jobs->prompts[jobs->jobs[r->job].prompt].n_tokens,
                (int64_t)r->n, stops[r->stop], sha, sizeof sha, r->prefill_us, r->decode_us);
    buf_free(&text);
    for (i = 0; !rc && i < r->n; i++) {
        const struct gen_pick *p = &r->picks[i];
        rc = store_token(st, p->token, e);
        if (!rc)
            rc = db_run(st->db, &st->stmts[STMT_STEP], e, "INSERT INTO step VALUES(?,?,?,?,?)", "iiidd", attempt, (int64_t)i,
                        (int64_t)p->token, finite_or_null(p->logprob), finite_or_null(p->margin));
    }
    return rc;
}

int store_answer(store *st, int64_t attempt, const struct answer *a, err *e)
{
    if (store_token(st, a->token, e)) return -1;
    return db_run(st->db, &st->stmts[STMT_ANSWER], e, "INSERT INTO answer_token VALUES(?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                  "iiiddi", attempt, (int64_t)a->step, (int64_t)a->token, a->logit, a->logprob, (int64_t)a->rank);
}

static int put_all(store *st, const struct result *r, err *e)
{
    int64_t attempt;
    int i;
    attempt =
        db_id(st->db, &st->stmts[STMT_ATTEMPT], e,
              "INSERT INTO attempt(job_id,run_id,numerics,status,started_ms,ended_ms,error_code,error_message)"
              " VALUES(?,?,?,?,?,?,nullif(?,0),?) RETURNING id",
              "iissiiis", st->job_ids[r->job], st->run_id, engine_info(st->info.en)->numerics, r->failed ? "failed" : "done",
              r->started_ms, store_now_ms(), (int64_t)(r->failed ? (r->failed->code ? r->failed->code : ERR_FAIL) : 0),
              r->failed ? r->failed->msg : NULL);
    if (attempt < 0) return -1;
    if (r->failed) return 0;
    if (put_generation(st, attempt, r, e)) return -1;
    for (i = 0; i < r->n_snapshots; i++)
        if (put_snapshot(st, attempt, &r->snapshots[i], e)) return -1;
    for (i = 0; i < r->n_answers; i++)
        if (store_answer(st, attempt, &r->answers[i], e)) return -1;
    return put_activations(st, attempt, r, e);
}

int store_put(store *st, const struct result *r, err *e)
{
    int rc = db_run(st->db, NULL, e, "BEGIN IMMEDIATE", "");
    if (!rc) rc = put_all(st, r, e);
    if (!rc && !r->failed && r->n_snapshots) rc = engine_lost(st->info.en, e);
    if (!rc) rc = db_run(st->db, NULL, e, "COMMIT", "");
    if (rc) {
        db_rollback(st->db);
        memset(st->blobs, 0, BLOB_SLOTS * sizeof *st->blobs);
        memset(st->token_known, 0, (size_t)engine_info(st->info.en)->n_vocab);
        return err_in(e, "storing job '%s'", st->info.jobs->jobs[r->job].label);
    }
    return 0;
}
