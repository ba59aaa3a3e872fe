/* query.c: one SQL statement against a results database that it cannot change; finding a label. */
#include "query_in.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Only questions: everything but reading is refused while the statement is compiled, before anything runs. */
static int authorize(void *arg, int action, const char *a, const char *b, const char *schema, const char *trigger)
{
    static const char *const pragmas[] = {
        "table_info",       "table_xinfo",       "table_list",      "index_list",  "index_info",     "index_xinfo",
        "foreign_key_list", "foreign_key_check", "integrity_check", "quick_check", "database_list",  "collation_list",
        "function_list",    "compile_options",   "page_count",      "page_size",   "freelist_count", "user_version",
        "application_id",   "journal_mode",      "encoding",
    };
    size_t i;
    (void)arg, (void)b, (void)schema, (void)trigger;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_FUNCTION:
    case SQLITE_RECURSIVE: return SQLITE_OK;
    case SQLITE_PRAGMA:
        for (i = 0; a && i < sizeof pragmas / sizeof *pragmas; i++)
            if (!sqlite3_stricmp(a, pragmas[i])) return SQLITE_OK;
        return SQLITE_DENY;
    default: return SQLITE_DENY;
    }
}

/* A failed question is the asker's; a failed file is the file's. */
static int failed(sqlite3 *db, err *e)
{
    switch (sqlite3_errcode(db) & 0xff) {
    case SQLITE_AUTH:
    case SQLITE_READONLY:
        return err_set(e, ERR_INPUT, "only questions are answered here: this statement would change something");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_IOERR:
    case SQLITE_BUSY:
    case SQLITE_CANTOPEN:
    case SQLITE_FULL: return db_error(db, e);
    default: return err_set(e, ERR_INPUT, "SQL: %s", sqlite3_errmsg(db));
    }
}

/* True when nothing but spaces, comments and semicolons is left. */
static bool nothing_left(sqlite3 *db, const char *sql)
{
    while (*sql) {
        sqlite3_stmt *stmt = NULL;
        const char *tail;
        int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, &tail);
        bool empty = rc == SQLITE_OK && !stmt;
        sqlite3_finalize(stmt);
        if (!empty) return false;
        if (tail == sql) break;
        sql = tail;
    }
    return true;
}

/* JSON objects with a name twice lose a value in most readers. */
static int check_names(sqlite3_stmt *stmt, err *e)
{
    int i, k, n = sqlite3_column_count(stmt);
    for (i = 0; i < n; i++)
        for (k = 0; k < i; k++)
            if (!strcmp(sqlite3_column_name(stmt, i), sqlite3_column_name(stmt, k)))
                return err_set(e, ERR_INPUT, "two columns are named '%s'; name one of them with AS",
                               sqlite3_column_name(stmt, i));
    return 0;
}

/* schema: of the file; an older one lacks some views. */
static int compile(sqlite3 *db, const char *sql, int schema, enum query_format format, sqlite3_stmt **out, err *e)
{
    sqlite3_stmt *stmt = NULL;
    const char *tail;
    int r = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, &tail) != SQLITE_OK) {
        err why = {0};
        failed(db, &why);
        return schema < DB_SCHEMA ? err_set(e, why.code, "%s (the file is of schema %d: kvrun SPEC --db FILE brings it to %d)",
                                            why.msg, schema, DB_SCHEMA)
                                  : err_set(e, why.code, "%s", why.msg);
    }
    if (!stmt)
        r = err_set(e, ERR_INPUT, "SQL: there is no statement");
    else if (!nothing_left(db, tail))
        r = err_set(e, ERR_INPUT, "SQL: one statement at a time; behind the first: %.40s", tail);
    else if (!sqlite3_stmt_readonly(stmt))
        r = err_set(e, ERR_INPUT, "only questions are answered here: this statement would change something");
    else if (sqlite3_bind_parameter_count(stmt))
        r = err_set(e, ERR_INPUT, "SQL: parameters are not filled in; write the value in place of %s",
                    sqlite3_bind_parameter_name(stmt, 1) ? sqlite3_bind_parameter_name(stmt, 1) : "?");
    else
        r = format == QUERY_JSON || format == QUERY_JSONL ? check_names(stmt, e) : 0;
    if (r)
        sqlite3_finalize(stmt);
    else
        *out = stmt;
    return r;
}

int query_sql(const char *path, const char *sql, enum query_format format, int width, FILE *out, err *e)
{
    sqlite3 *db;
    sqlite3_stmt *stmt = NULL;
    int r, schema;
    if (db_open_read(&db, path, e)) return -1;
    schema = (int)db_id(db, NULL, e, "PRAGMA user_version", "");
    r = schema < 0 ? -1 : query_functions(db, e);
    if (!r) {
        sqlite3_set_authorizer(db, authorize, NULL);
        r = compile(db, sql, schema, format, &stmt, e);
    }
    if (!r) {
        if (query_write(stmt, format, width, out) != SQLITE_DONE) r = failed(db, e);
        errno = 0;
        if (!r && (fflush(out) || ferror(out)))
            r = err_set(e, errno == ENOSPC ? ERR_DISK : ERR_FAIL, "cannot write the rows: %s",
                        errno ? strerror(errno) : "the stream is broken");
        sqlite3_finalize(stmt);
    }
    db_close(db);
    return r;
}

/* ---- labels ---- */

enum { NEAR = 5 /* labels that are suggested */ };

static void add_near(struct buf *out, const char *s)
{
    buf_str(out, out->n ? ", " : "");
    query_printable(out, s, strlen(s));
}

static int no_label(sqlite3 *db, const char *experiment, const char *label, err *e)
{
    sqlite3_stmt *rows = NULL;
    char **labels = NULL;
    struct buf near = {0};
    const char *nearest;
    size_t n = 0, i, shown = 0;
    int r = db_query(db, &rows, e,
                     "SELECT sj.label FROM v_spec s JOIN spec_job sj ON sj.spec_id=s.spec_id"
                     " WHERE ?1 IS NULL OR s.experiment=?1 ORDER BY sj.id LIMIT 100000",
                     "s", experiment);
    for (; r == 1; r = db_next(db, rows, e)) {
        const char *s = (const char *)sqlite3_column_text(rows, 0);
        if ((n & (n - 1)) == 0) labels = mem_grow(labels, n ? 2 * n + 1 : 2, sizeof *labels);
        labels[n++] = mem_strdup(s ? s : "");
    }
    sqlite3_finalize(rows);
    if (labels) labels[n] = NULL;
    nearest = n ? nearest_word(label, (const char *const *)labels) : NULL;
    if (nearest) add_near(&near, nearest), shown++;
    for (i = 0; i < n && shown < NEAR; i++)
        if (labels[i] != nearest && *label && strstr(labels[i], label)) add_near(&near, labels[i]), shown++;
    for (i = 0; i < n && !near.n && i < NEAR; i++) add_near(&near, labels[i]);
    if (r == 0)
        err_set(e, ERR_NOTHING, "no job '%s'%s%s; %s %s", label, experiment ? " in experiment " : "",
                experiment ? experiment : "",
                nearest || shown ? "did you mean"
                : n              ? "there are"
                                 : "there are none",
                near.p ? near.p : "");
    for (i = 0; i < n; i++) free(labels[i]);
    free(labels);
    buf_free(&near);
    return -1;
}

int64_t query_label(sqlite3 *db, const char *experiment, const char *label, err *e)
{
    sqlite3_stmt *rows = NULL;
    struct buf names = {0};
    int64_t id = -1;
    int n = 0, r;
    r = db_query(db, &rows, e,
                 "SELECT sj.id, s.experiment FROM v_spec s JOIN spec_job sj ON sj.spec_id=s.spec_id"
                 " WHERE sj.label=?1 AND (?2 IS NULL OR s.experiment=?2)",
                 "ss", label, experiment);
    for (; r == 1; r = db_next(db, rows, e), n++) {
        const char *name = (const char *)sqlite3_column_text(rows, 1);
        id = sqlite3_column_int64(rows, 0);
        add_near(&names, name ? name : "");
    }
    sqlite3_finalize(rows);
    if (r == 0 && n == 0) no_label(db, experiment, label, e);
    if (n > 1)
        err_set(e, ERR_INPUT, "several experiments have a job '%s' (%s); --experiment says which is meant", label, names.p);
    buf_free(&names);
    return r == 0 && n == 1 ? id : -1;
}
