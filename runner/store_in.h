/* store_in.h: the inside of a store, for store*.c alone. */
#ifndef RUNNER_STORE_IN_H
#define RUNNER_STORE_IN_H

#include "db.h"
#include "store.h"

enum { STORE_BLOCK = 64 /* tokens of a chunk: decisions.md 12, and the pages of a cache */ };

/* Statements of store_has and store_put, prepared at first use. */
enum store_stmt {
    STMT_HAS,
    STMT_HAS_CHUNKS,
    STMT_ATTEMPT,
    STMT_GENERATION,
    STMT_STEP,
    STMT_ANSWER,
    STMT_TOKEN,
    STMT_CAPTURE,
    STMT_CHUNK,
    STMT_FIND_BLOB,
    STMT_BLOB,
    STMT_DATA,
    STMT_N
};

/* Blobs met lately, so that the chunks siblings share cost one look here instead of one in the file's index. Slots by the
   hash; a slot holds the last one that fell on it. Emptied when a transaction fails: its ids were never there. */
enum { BLOB_SLOTS = 1 << 16 };
struct known_blob {
    uint64_t low, high;
    int64_t raw_bytes, id; /* id 0: empty */
    enum kv_type type;
};

struct store {
    sqlite3 *db;
    sqlite3_stmt *stmts[STMT_N];
    struct run_info info; /* what it points to is the caller's; spec NULL: not begun */
    int64_t spec_id, run_id, model_id, tokenizer_id;
    char uuid[37];
    int64_t *job_ids;         /* (info.jobs->n) rows of `job` */
    uint8_t *token_known;     /* (n_vocab) 1: the token's row is in the file */
    struct known_blob *blobs; /* (BLOB_SLOTS) */
    void *raw;                /* one chunk */
    size_t raw_cap;
    struct buf packed;
};

enum { STORE_MOMENTS = 3 };
extern const char *const store_moments[STORE_MOMENTS]; /* in the order of their MOMENT_* bits */
/* Whether all that the job records is stored with the attempt: 1, 0, or -1. *chunks: a statement kept for the next call. */
int store_has_records(sqlite3 *db, sqlite3_stmt **chunks, int64_t attempt, const struct job *j, err *e);

int64_t store_now_ms(void);
/* Puts the token into `token` when it is not there. A model without a tokenizer has no rows there. */
int store_token(store *st, int id, err *e);
/* SHA-256 of `n_parts` stretches of bytes, one after the other. */
struct store_bytes {
    const void *p;
    size_t n;
};
void store_sha256(const struct store_bytes *parts, int n_parts, uint8_t out[32]);

#endif
