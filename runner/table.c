/* table.c: collects the texts of an experiment's jobs into the outcome table (outcome.h draws it). */
#include "table.h"

#include "outcome.h"
#include "width.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS_MAX = 40, WIDTH_OF_A_FILE = 140 };

struct table {
    arena *mem;
    const char **rows; /* (n_rows) labels without their prompt */
    int n_rows;
    struct outcome_cell *cells; /* (n_rows, n_written): prompts that differ along axes share a column */
};

static bool use_colour(const char *colour)
{
    if (colour && strcmp(colour, "always") == 0) return true;
    if (colour && strcmp(colour, "never") == 0) return false;
    return isatty(1) && !getenv("NO_COLOR");
}

/* What follows the prompt's name in a label. */
static const char *row_name(const struct jobs *j, const struct job *job)
{
    return job->label + strlen(j->prompts[job->prompt].prompt->name) + 1;
}

/* The row of a name, made when it is new; a prompt's jobs come in one order, so the search starts behind the last hit. */
static int row_of(struct table *t, const char *name, int *last)
{
    int i;
    for (i = 0; i < t->n_rows; i++) {
        int at = (*last + 1 + i) % t->n_rows;
        if (strcmp(t->rows[at], name) == 0) return *last = at;
    }
    t->rows[t->n_rows] = name;
    return *last = t->n_rows++;
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

static int fill(struct table *t, const struct spec *s, const struct jobs *j, store *st, bool axes, err *e)
{
    static const char *const query =
        "SELECT coalesce(nullif(g.text, ''),"
        " (SELECT group_concat(token_id, ' ') FROM (SELECT token_id FROM step WHERE attempt_id = a.id ORDER BY step)))"
        " FROM spec_job sj JOIN attempt a ON a.job_id = sj.job_id LEFT JOIN generation g ON g.attempt_id = a.id"
        " WHERE sj.spec_id = ?1 AND sj.label = ?2 ORDER BY a.status = 'done' DESC, a.id DESC LIMIT 1";
    sqlite3_stmt *find = NULL;
    int i, row = -1, rc = -1;
    if (sqlite3_prepare_v2(store_sqlite(st), query, -1, &find, NULL) != SQLITE_OK)
        return err_set(e, ERR_DB, "reading the answers: %s", sqlite3_errmsg(store_sqlite(st)));
    sqlite3_bind_int64(find, 1, store_spec_id(st));
    for (i = 0; i < j->n; i++) {
        const struct job *job = &j->jobs[i];
        if (!axes && job->n_values) continue;
        row_of(t, row_name(j, job), &row);
        if (read_cell(find, t, job->label, &t->cells[row * s->n_written + s->prompts[job->prompt].first], e)) goto out;
    }
    rc = 0;
out:
    sqlite3_finalize(find);
    return rc;
}

/* Rows there would be, counted on the first prompt that has most jobs. */
static int count_rows(const struct spec *s, const struct jobs *j, bool axes)
{
    int *per = mem_array((size_t)s->n_prompts, sizeof *per), i, most = 0;
    for (i = 0; i < j->n; i++)
        if ((axes || !j->jobs[i].n_values) && ++per[s->prompts[j->jobs[i].prompt].first] > most)
            most = per[s->prompts[j->jobs[i].prompt].first];
    free(per);
    return most;
}

int table_outcome(const struct spec *s, const struct jobs *j, store *st, const char *colour, struct buf *out, err *e)
{
    struct table t = {.mem = arena_new()};
    struct outcome o = {.n_columns = s->n_written, .width = width_terminal(WIDTH_OF_A_FILE), .colour = use_colour(colour)};
    bool axes = count_rows(s, j, true) <= ROWS_MAX;
    size_t room = (size_t)s->n_conditions + 2 + (axes ? ROWS_MAX : 0);
    const char **columns = arena_array(t.mem, (size_t)s->n_written, sizeof *columns);
    int *groups = arena_array(t.mem, (size_t)s->n_written, sizeof *groups), i, rc;
    t.rows = arena_array(t.mem, room, sizeof *t.rows);
    t.cells = arena_array(t.mem, room * (size_t)s->n_written, sizeof *t.cells);
    rc = fill(&t, s, j, st, axes, e);
    if (rc == 0) {
        for (i = 0; i < s->n_written; i++) {
            columns[i] = s->prompts[i].name;
            groups[i] = s->prompts[i].other >= 0 && s->prompts[i].other < i ? s->prompts[i].other : i;
        }
        o.rows = t.rows;
        o.n_rows = t.n_rows;
        o.columns = columns;
        o.groups = groups;
        o.cells = t.cells;
        o.n_marks = outcome_marks(s, t.mem, &o.marks);
        outcome_text(&o, out);
        if (!axes)
            buf_printf(
                out,
                "%d jobs in all; those along axes: kvrun sql \"SELECT label, text FROM v_result WHERE experiment = '%s'\"\n",
                j->n, s->experiment);
    }
    arena_free(t.mem);
    return rc;
}
