/* table.c: collects the texts of an experiment's jobs into the outcome table (outcome.h draws it). */
#include "table.h"

#include "map.h"
#include "outcome.h"
#include "width.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS_MAX = 40, WIDTH_OF_A_FILE = 140 };

struct table {
    arena *mem;
    const struct spec *s;
    const struct jobs *j;
    const bool *shown; /* (j->n) */
    bool axes;         /* jobs along axes have rows, too */
    struct map *names; /* name of a row -> row */
    const char **rows; /* (n_rows) labels without their prompt */
    int *columns;      /* (n_written) the prompt's column, or -1: it has no job here */
    int n_rows, n_columns;
    struct outcome_cell *cells; /* (n_rows, n_columns) */
};

static bool use_colour(const char *colour)
{
    if (colour && strcmp(colour, "always") == 0) return true;
    if (colour && strcmp(colour, "never") == 0) return false;
    return isatty(1) && !getenv("NO_COLOR");
}

/* What follows the prompt's name in a label. */
static const char *row_name(const struct table *t, int job)
{
    return t->j->jobs[job].label + strlen(t->s->prompts[job_spec_prompt(t->s, t->j, job)].name) + 1;
}

static bool has_row(const struct table *t, int job)
{
    return t->shown[job] && (t->axes || !t->j->jobs[job].n_values);
}

/* Finds rows and columns; without `axes` when there would be too many rows with them. */
static void lay_out(struct table *t)
{
    int i, p;
    t->names = map_new();
    t->rows = arena_array(t->mem, (size_t)t->j->n, sizeof *t->rows);
    for (i = 0; i < t->j->n && (t->n_rows <= ROWS_MAX || !t->axes); i++) {
        const char *name = row_name(t, i);
        if (has_row(t, i) && map_put(t->names, name, strlen(name), t->n_rows) < 0) t->rows[t->n_rows++] = name;
    }
    if (t->axes && t->n_rows > ROWS_MAX) {
        map_free(t->names);
        t->axes = false;
        t->n_rows = 0;
        lay_out(t);
        return;
    }
    t->columns = arena_array(t->mem, (size_t)t->s->n_written, sizeof *t->columns);
    for (p = 0; p < t->s->n_written; p++) t->columns[p] = -1;
    for (i = 0; i < t->j->n; i++)
        if (has_row(t, i)) t->columns[job_spec_prompt(t->s, t->j, i)] = 0;
    for (p = 0; p < t->s->n_written; p++)
        if (t->columns[p] == 0) t->columns[p] = t->n_columns++;
    t->cells = arena_array(t->mem, (size_t)t->n_rows * (size_t)t->n_columns, sizeof *t->cells);
}

/* The newest answer of a job, as token ids where there is no text (a model without a tokenizer); note "failed" where there is
 * none but an attempt was made. */
static int read_cell(sqlite3_stmt *find, struct table *t, const char *label, struct outcome_cell *cell, err *e)
{
    int rc;
    sqlite3_reset(find);
    sqlite3_bind_text(find, 2, label, -1, SQLITE_STATIC);
    rc = sqlite3_step(find);
    if (rc == SQLITE_DONE) return 0;
    if (rc != SQLITE_ROW) return err_set(e, ERR_DB, "reading the answers: %s", sqlite3_errmsg(sqlite3_db_handle(find)));
    if (sqlite3_column_type(find, 0) == SQLITE_NULL) {
        cell->note = "failed";
    } else {
        cell->n = (size_t)sqlite3_column_bytes(find, 0);
        cell->text = arena_strndup(t->mem, (const char *)sqlite3_column_text(find, 0), cell->n);
    }
    return 0;
}

static int fill(struct table *t, store *st, err *e)
{
    static const char *const query =
        "SELECT coalesce(nullif(g.text, ''),"
        " (SELECT group_concat(token_id, ' ') FROM (SELECT token_id FROM step WHERE attempt_id = a.id ORDER BY step)))"
        " FROM spec_job sj JOIN attempt a ON a.job_id = sj.job_id LEFT JOIN generation g ON g.attempt_id = a.id"
        " WHERE sj.spec_id = ?1 AND sj.label = ?2 ORDER BY a.status = 'done' DESC, a.id DESC LIMIT 1";
    sqlite3_stmt *find = NULL;
    int i, rc = -1;
    if (sqlite3_prepare_v2(store_sqlite(st), query, -1, &find, NULL) != SQLITE_OK)
        return err_set(e, ERR_DB, "reading the answers: %s", sqlite3_errmsg(store_sqlite(st)));
    sqlite3_bind_int64(find, 1, store_spec_id(st));
    for (i = 0; i < t->j->n; i++) {
        const struct job *job = &t->j->jobs[i];
        const char *name = row_name(t, i);
        struct outcome_cell *row;
        if (!has_row(t, i)) continue;
        row = t->cells + (size_t)map_get(t->names, name, strlen(name)) * (size_t)t->n_columns;
        if (read_cell(find, t, job->label, &row[t->columns[job_spec_prompt(t->s, t->j, i)]], e)) goto out;
    }
    rc = 0;
out:
    sqlite3_finalize(find);
    return rc;
}

/* The marks of the prompts that have columns. */
static int marks_of(const struct table *t, const struct outcome_mark **out)
{
    const struct outcome_mark *all;
    struct outcome_mark *kept;
    int i, k = 0, n = outcome_marks(t->s, t->mem, &all);
    kept = arena_array(t->mem, (size_t)n, sizeof *kept);
    for (i = 0; i < n; i++) {
        if (all[i].column >= 0 && t->columns[all[i].column] < 0) continue;
        kept[k] = all[i];
        if (kept[k].column >= 0) kept[k].column = t->columns[kept[k].column];
        k++;
    }
    *out = kept;
    return k;
}

int table_outcome(const struct spec *s, const struct jobs *j, const bool *shown, store *st, const char *colour, struct buf *out,
                  err *e)
{
    struct table t = {.mem = arena_new(), .s = s, .j = j, .shown = shown, .axes = true};
    struct outcome o = {.width = width_terminal(WIDTH_OF_A_FILE), .colour = use_colour(colour)};
    const char **columns;
    int *groups, i, rc, n = 0;
    lay_out(&t);
    columns = arena_array(t.mem, (size_t)t.n_columns, sizeof *columns);
    groups = arena_array(t.mem, (size_t)t.n_columns, sizeof *groups);
    rc = fill(&t, st, e);
    if (rc == 0) {
        for (i = 0; i < s->n_written; i++) {
            int other = s->prompts[i].other, c = t.columns[i];
            if (c < 0) continue;
            columns[c] = s->prompts[i].name;
            groups[c] = other >= 0 && other < i && t.columns[other] >= 0 ? t.columns[other] : c;
        }
        o.rows = t.rows;
        o.n_rows = t.n_rows;
        o.columns = columns;
        o.n_columns = t.n_columns;
        o.groups = groups;
        o.cells = t.cells;
        o.n_marks = marks_of(&t, &o.marks);
        if (t.n_rows) outcome_text(&o, out);
        for (i = 0; i < j->n; i++) n += shown[i];
        if (!t.axes)
            buf_printf(
                out,
                "%d jobs in all; those along axes: kvrun sql \"SELECT label, text FROM v_result WHERE experiment = '%s'\"\n", n,
                s->experiment);
    }
    map_free(t.names);
    arena_free(t.mem);
    return rc;
}
