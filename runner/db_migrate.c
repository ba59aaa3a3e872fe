/* db_migrate.c: from schema 1 to 2; see db_migrate.h.
 *
 * Tables that only grew keep their rows under a new definition; views and indexes are made anew; what is missing is made. All
 * definitions come from the schema's own text, so that a file that was brought along is like one that was just made. */
#include "db_migrate.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { COPIES = 100 };
static const int64_t COPY_MAX = (int64_t)1 << 30; /* bytes of a file that is copied before */

/* Tables whose definition has changed since schema 1. */
static const char *const rebuilt[] = {"intervention", "metric", "spec_prompt", "prompt_span", NULL};

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

static bool is_rebuilt(const char *name)
{
    int i;
    for (i = 0; rebuilt[i]; i++)
        if (!strcmp(rebuilt[i], name)) return true;
    return false;
}

/* 1: there is an object of this name, 0: there is none, -1. */
static int exists(sqlite3 *db, const char *name, err *e)
{
    sqlite3_stmt *find = NULL;
    int r = db_query(db, &find, e, "SELECT 1 FROM sqlite_schema WHERE name=?", "s", name);
    sqlite3_finalize(find);
    return r;
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

/* The names of a table's columns, with commas between. */
static int columns_of(sqlite3 *db, const char *table, struct buf *out, err *e)
{
    sqlite3_stmt *all = NULL;
    int r = db_query(db, &all, e, "SELECT name FROM pragma_table_info(?)", "s", table);
    for (; r == 1; r = db_next(db, all, e))
        buf_printf(out, "%s%s", out->n ? "," : "", (const char *)sqlite3_column_text(all, 0));
    sqlite3_finalize(all);
    return r;
}

/* A table under its new definition, with all its rows; new columns have their defaults. Its indexes go with the old one; what
   refers to it goes on doing so by its name (keep_references). */
static int rebuild(sqlite3 *db, const struct statement *s, err *e)
{
    struct buf columns = {0};
    int r = columns_of(db, s->name, &columns, e);
    if (!r) r = run_f(db, e, "ALTER TABLE %s RENAME TO old_%s", s->name, s->name);
    if (!r) r = run(db, s->sql, s->n, e);
    if (!r)
        r = run_f(db, e, "INSERT INTO %s(%s) SELECT %s FROM old_%s; DROP TABLE old_%s", s->name, columns.p, columns.p, s->name,
                  s->name);
    buf_free(&columns);
    return r;
}

static int make(sqlite3 *db, const struct statement *s, err *e)
{
    int there = exists(db, s->name, e);
    if (there < 0) return -1;
    if (there && s->kind == 'T' && is_rebuilt(s->name)) return rebuild(db, s, e);
    return there ? 0 : run(db, s->sql, s->n, e);
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

/* While a table has another name, nothing that refers to it may follow, and nothing may be deleted along with it. */
static int keep_references(sqlite3 *db, bool on, err *e)
{
    return run_f(db, e, "PRAGMA foreign_keys=%s; PRAGMA legacy_alter_table=%s", on ? "OFF" : "ON", on ? "ON" : "OFF");
}

int db_migrate(sqlite3 *db, const char *path, int from, const char *schema, err *e)
{
    struct buf copy = {0};
    sqlite3_stmt *find = NULL;
    int r = make_copy(db, path, from, &copy, e), version = from;
    if (!r) r = keep_references(db, true, e); /* neither can be changed inside a transaction */
    if (!r) r = db_run(db, NULL, e, "BEGIN IMMEDIATE", "");
    if (!r && db_query(db, &find, e, "PRAGMA user_version", "") == 1) version = sqlite3_column_int(find, 0);
    sqlite3_finalize(find);
    if (!r && version == from) r = bring(db, schema, e); /* else another process was faster */
    if (!r) r = db_run(db, NULL, e, "COMMIT", "");
    if (r) db_rollback(db);
    if (keep_references(db, false, e)) r = -1;
    if (!r && version == from && copy.n)
        fprintf(stderr, "%s: brought from schema %d to %d; as it was: %s\n", path, from, DB_SCHEMA, copy.p);
    else if (!r && version == from)
        fprintf(stderr, "%s: brought from schema %d to %d; too large for a copy as it was\n", path, from, DB_SCHEMA);
    buf_free(&copy);
    return r ? err_in(e, "bringing %s from schema %d to %d", path, from, DB_SCHEMA) : 0;
}
