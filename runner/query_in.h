/* query_in.h: what query*.c share. */
#ifndef RUNNER_QUERY_IN_H
#define RUNNER_QUERY_IN_H

#include "db.h"
#include "query.h"

/* The row of `spec_job` that a label means; ERR_NOTHING with near labels, ERR_INPUT when several experiments have it. */
int64_t query_label(sqlite3 *db, const char *experiment, const char *label, err *e);

/* The raw bytes of a chunk, checked against its hash, replace what is in raw. slot: as in db.h. Damage: ERR_DB. */
int query_chunk(sqlite3 *db, sqlite3_stmt **slot, int64_t blob_id, struct buf *raw, enum kv_type *type, err *e);
/* Registers kv_decode, kv_row, vec_l2, vec_max, vec_cos, token_text. */
int query_functions(sqlite3 *db, err *e);

/* Steps through the statement and writes its rows. Returns SQLite's last code: SQLITE_DONE when all went well. */
int query_write(sqlite3_stmt *stmt, enum query_format format, int width, FILE *out);

/* Text for a terminal: control characters and what is not UTF-8 become visible, so that data cannot drive the terminal. */
void query_printable(struct buf *out, const char *text, size_t n);

#endif
