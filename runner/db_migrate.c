/* db_migrate.c: from schema 1 to 2; see db_migrate.h.
 *
 * A table whose definition has changed keeps its rows under the new one; views are made anew; what is missing is made. All
 * definitions come from the schema's own text, so that a file that was brought along is like one that was just made. This is
 * enough as long as tables only gain columns with a default and looser constraints. */
#include "db_migrate.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { COPIES = 100 };
static const int64_t COPY_MAX = (int64_t)1 << 30; /* bytes of a file that is copied before */

/* ---- the copy ---- */

/* name: of the copy made, or empty: the file is large. */
static int make_copy(sqlite3 *db, const char *path, int from, struct buf *name, err *e)
{
    struct stat st;
    int i;
    if (stat(path, &st) == 0 && st.st_size >= COPY_MAX) return 0;
    for (i = 0; i < COPIES; i++) {
        name->n = 0;
        buf_printf(name, "%s.v%d.bak", path, from);
        if (i) buf_printf(name, ".%d", i);
        if (stat(name->p, &st) == 0) continue; /* an earlier copy stays */
        return db_run(db, NULL, e, "VACUUM INTO ?", "s", name->p) ? err_in(e, "copying %s before it is changed", path) : 0;
    }
    return err_set(e, ERR_DB, "there are %d copies %s.v%d.bak*: remove some", COPIES, path, from);
}

/* ---- the schema's text ---- */

struct statement {
    char kind; /* 'T' table, 'V' view, 'I' index, 0: anything else */
    char name[64];
    const char *sql;
    size_t n;
};

static const char *word(const char *s, char out[64])
{
    size_t n = 0;
    while (*s == ' ' || *s == '\n') s++;
    while (*s && !strchr(" \n(;", *s)) {
        if (n < 63) out[n++] = *s;
        s++;
    }
    out[n] = 0;
    return s;
}

/* Behind spaces and comments. */
static const char *skip(const char *s)
{
    for (;;) {
        while (*s == ' ' || *s == '\n') s++;
        if (s[0] != '-' || s[1] != '-') return s;
        while (*s && *s != '\n') s++;
    }
}

/* The next statement of the text at *s; false at its end. */
static bool next_statement(const char **s, struct statement *out)
{
    struct buf so_far = {0};
    const char *p = skip(*s), *end;
    char w[64];
    bool complete = false;
    *out = (struct statement){.sql = p};
    for (end = p; *end && !complete; end++) {
        if (*end != ';') continue;
        so_far.n = 0;
        buf_add(&so_far, p, (size_t)(end + 1 - p));
        complete = sqlite3_complete(so_far.p); /* not inside a comment or a text */
    }
    buf_free(&so_far);
    *s = end;
    out->n = (size_t)(end - p);
    if (!complete) return false;
    p = word(p, w);
    if (strcmp(w, "CREATE")) return true;
    p = word(p, w);
    if (!strcmp(w, "UNIQUE")) p = word(p, w);
    out->kind = !strcmp(w, "TABLE") || !strcmp(w, "VIEW") || !strcmp(w, "INDEX") ? w[0] : 0;
    word(p, out->name);
    return true;
}

/* ---- the steps ---- */

static int run(sqlite3 *db, const char *sql, size_t n, err *e)
{
    char *text = mem_alloc(n + 1);
    int r;
    memcpy(text, sql, n);
    r = sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(db, e);
    free(text);
    return r;
}

static int run_f(sqlite3 *db, err *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int run_f(sqlite3 *db, err *e, const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;
    int r;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    r = run(db, b.p, b.n, e);
    buf_free(&b);
    return r;
}

/* A definition without comments and line breaks. */
static void plain(const char *sql, size_t n, struct buf *out)
{
    size_t i;
    bool quoted = false;
    out->n = 0;
    buf_add(out, "", 0);
    for (i = 0; i < n; i++) {
        if (sql[i] == '\'') quoted = !quoted;
        while (!quoted && i + 1 < n && sql[i] == '-' && sql[i + 1] == '-')
            while (i < n && sql[i] != '\n') i++;
        if (i == n ||
            (!quoted && (sql[i] == ';' || ((sql[i] == ' ' || sql[i] == '\n') && out->n && out->p[out->n - 1] == ' '))))
            continue;
        buf_char(out, !quoted && sql[i] == '\n' ? ' ' : sql[i]);
    }
    while (out->n && out->p[out->n - 1] == ' ') out->p[--out->n] = 0;
}

enum state { STATE_MISSING, STATE_OLD, STATE_PRESENT };

/* How the file has what a statement defines; -1: e. */
static int state_of(sqlite3 *db, const struct statement *s, err *e)
{
    sqlite3_stmt *find = NULL;
    struct buf there = {0}, wanted = {0};
    int r = db_query(db, &find, e, "SELECT sql FROM sqlite_schema WHERE name=?", "s", s->name), state = r;
    if (r == 1) {
        plain((const char *)sqlite3_column_text(find, 0), (size_t)sqlite3_column_bytes(find, 0), &there);
        plain(s->sql, s->n, &wanted);
        state = there.n == wanted.n && !memcmp(there.p, wanted.p, there.n) ? STATE_PRESENT : STATE_OLD;
    }
    sqlite3_finalize(find);
    buf_free(&there);
    buf_free(&wanted);
    return state;
}

/* Views name the tables that change: all go, and come back in their present form. */
static int drop_views(sqlite3 *db, err *e)
{
    sqlite3_stmt *all = NULL;
    struct buf sql = {0};
    int r = db_query(db, &all, e, "SELECT name FROM sqlite_schema WHERE type='view'", "");
    for (; r == 1; r = db_next(db, all, e)) buf_printf(&sql, "DROP VIEW \"%s\";", (const char *)sqlite3_column_text(all, 0));
    sqlite3_finalize(all);
    if (!r && sql.n) r = run(db, sql.p, sql.n, e);
    buf_free(&sql);
    return r;
}

/* The columns that both tables have, with commas between. */
static int common_columns(sqlite3 *db, const char *a, const char *b, struct buf *out, err *e)
{
    sqlite3_stmt *all = NULL;
    int r =
        db_query(db, &all, e,
                 "SELECT name FROM pragma_table_info(?1) WHERE name IN (SELECT name FROM pragma_table_info(?2)) ORDER BY cid",
                 "ss", a, b);
    for (; r == 1; r = db_next(db, all, e))
        buf_printf(out, "%s%s", out->n ? "," : "", (const char *)sqlite3_column_text(all, 0));
    sqlite3_finalize(all);
    return r;
}

/* A table under its new definition, with all its rows; new columns have their defaults. Its indexes go with the old one. Other
   tables go on naming it, since references are not enforced and not rewritten meanwhile. */
static int rebuild(sqlite3 *db, const struct statement *s, err *e)
{
    struct buf columns = {0}, old = {0};
    int r;
    buf_printf(&old, "old_%s", s->name);
    r = run_f(db, e, "ALTER TABLE %s RENAME TO %s", s->name, old.p);
    if (!r) r = run(db, s->sql, s->n, e);
    if (!r) r = common_columns(db, s->name, old.p, &columns, e);
    if (!r)
        r = run_f(db, e, "INSERT INTO %s(%s) SELECT %s FROM %s; DROP TABLE %s", s->name, columns.p, columns.p, old.p, old.p);
    buf_free(&columns);
    buf_free(&old);
    return r;
}

static int make(sqlite3 *db, const struct statement *s, err *e)
{
    int state = state_of(db, s, e);
    if (state < 0 || state == STATE_PRESENT) return state < 0 ? -1 : 0;
    if (state == STATE_OLD && s->kind == 'T') return rebuild(db, s, e);
    if (state == STATE_OLD && run_f(db, e, "DROP INDEX %s", s->name)) return -1; /* views are gone already */
    return run(db, s->sql, s->n, e);
}

/* Tables first, since indexes and views name them. */
static int make_all(sqlite3 *db, const char *schema, bool tables, err *e)
{
    struct statement s;
    int r = 0;
    while (!r && next_statement(&schema, &s))
        if (s.kind && (s.kind == 'T') == tables) r = make(db, &s, e);
    return r;
}

static int no_broken_reference(sqlite3 *db, err *e)
{
    sqlite3_stmt *find = NULL;
    int r = db_query(db, &find, e, "SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1", "");
    if (r == 1) r = err_set(e, ERR_DB, "a row of '%s' names one that is not there", (const char *)sqlite3_column_text(find, 0));
    sqlite3_finalize(find);
    return r;
}

static int bring(sqlite3 *db, const char *schema, err *e)
{
    if (drop_views(db, e)) return -1;
    if (make_all(db, schema, true, e) || make_all(db, schema, false, e)) return -1;
    if (no_broken_reference(db, e)) return -1;
    return run_f(db, e, "PRAGMA user_version=%d", DB_SCHEMA);
}

/* References are checked at the end of it all instead of row by row; the setting counts outside of transactions alone. */
static void enforce(sqlite3 *db, int on)
{
    int now;
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_FKEY, on, &now);
    sqlite3_db_config(db, SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, !on, &now); /* 1: a rename leaves what other tables say alone */
}

int db_migrate(sqlite3 *db, const char *path, int from, const char *schema, err *e)
{
    struct buf copy = {0};
    sqlite3_stmt *find = NULL;
    int r = make_copy(db, path, from, &copy, e), version = from;
    enforce(db, 0);
    if (!r) r = db_run(db, NULL, e, "BEGIN IMMEDIATE", "");
    if (!r && db_query(db, &find, e, "PRAGMA user_version", "") == 1) version = sqlite3_column_int(find, 0);
    sqlite3_finalize(find);
    if (!r && version == from) r = bring(db, schema, e); /* else another process was faster */
    if (!r) r = db_run(db, NULL, e, "COMMIT", "");
    if (r) db_rollback(db);
    enforce(db, 1);
    if (!r && version == from && copy.n)
        fprintf(stderr, "%s: brought from schema %d to %d; as it was: %s\n", path, from, DB_SCHEMA, copy.p);
    else if (!r && version == from)
        fprintf(stderr, "%s: brought from schema %d to %d; too large for a copy as it was\n", path, from, DB_SCHEMA);
    buf_free(&copy);
    return r ? err_in(e, "bringing %s from schema %d to %d", path, from, DB_SCHEMA) : 0;
}
