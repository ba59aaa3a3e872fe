/* db.h: SQLite as the store and the readers use it: our files opened and checked, statements in one call, errors as err.
 *
 * A slot is a pointer to a prepared statement that starts as NULL and is finalized by its owner; NULL instead of a slot
 * means: prepare for this call alone.
 *
 *     sqlite3 *db; sqlite3_stmt *find = NULL;
 *     db_open(&db, "results.db", e);
 *     if (db_query(db, &find, e, "SELECT id FROM job WHERE key=?", "b", key, (size_t)32) == 1)
 *         id = sqlite3_column_int64(find, 0);
 *     sqlite3_finalize(find);
 *     db_close(db);
 */
#ifndef RUNNER_DB_H
#define RUNNER_DB_H

#include "../engine/base.h"

#include <sqlite3.h>
#include <stdbool.h>

enum { DB_SCHEMA = 2 /* user_version that this program writes, and the newest that it reads */ };

/* Opens for writing; makes the file when it is missing or holds nothing. Two processes may do so at once. ERR_DB, ERR_DISK. */
int db_open(sqlite3 **out, const char *path, err *e);
/* Opens for reading: the file is never changed, also not by SQL that tries to. */
int db_open_read(sqlite3 **out, const char *path, err *e);
/* True when the file lies where the shared memory of WAL or its locks cannot be trusted: another machine may open it. */
bool db_on_network(const char *path);
void db_close(sqlite3 *db); /* NULL is fine */

/* Binds by `types`: 'i' int64_t, 'd' double, 's' string, 'b' bytes + size_t, 't' text + size_t, 'n' NULL (takes no argument);
   a NULL pointer binds NULL. What is bound must live until the statement is reset. Steps once: 1 a row is there,
   0 done (and reset), -1 error (and reset). */
int db_query(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, ...);
/* The next row of a slot: as db_query. */
int db_next(sqlite3 *db, sqlite3_stmt *stmt, err *e);
/* As db_query with all rows skipped: 0 or -1. slot may be NULL. */
int db_run(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, ...);
int db_run_list(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, va_list ap);
/* The integer in the first column of the only row, e.g. of INSERT ... RETURNING id; -1: error or no row. */
int64_t db_id(sqlite3 *db, sqlite3_stmt **slot, err *e, const char *sql, const char *types, ...);

/* Turns the connection's last error into e: ERR_DISK when the disk is full, else ERR_DB. Always -1. */
int db_error(sqlite3 *db, err *e);
void db_rollback(sqlite3 *db); /* when a transaction is open */

#endif
