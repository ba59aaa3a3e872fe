/* report.c: which experiment, the parts in their order, and the file; see report.h. */
#include "report.h"

#include "report_in.h"
#include "whole_file.h"

#include <stdlib.h>
#include <string.h>

static int find_experiment(struct report *r, const char *name, err *e)
{
    sqlite3_stmt *row = NULL;
    struct buf names = {0};
    int n = 0, got = db_query(r->db, &row, e, "SELECT experiment, spec_id FROM v_spec ORDER BY experiment", "");
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *found = (const char *)sqlite3_column_text(row, 0);
        if (!found) continue;
        if (n++) buf_str(&names, ", ");
        query_printable(&names, found, strlen(found));
        if (name ? strcmp(name, found) != 0 : n > 1) continue;
        free(r->experiment);
        r->experiment = mem_strdup(found);
        r->spec_id = sqlite3_column_int64(row, 1);
    }
    sqlite3_finalize(row);
    if (got == 0 && n == 0)
        got = err_set(e, ERR_NOTHING, "the database holds no experiment yet");
    else if (got == 0 && name && !r->experiment)
        got = err_set(e, ERR_NOTHING, "no experiment '%s'; there are: %s", name, names.p);
    else if (got == 0 && !name && n > 1)
        got = err_set(e, ERR_NOTHING, "the database holds several experiments; name one with --experiment: %s", names.p);
    buf_free(&names);
    if (got) return -1;
    r->quoted = html_quoted(r->experiment);
    return 0;
}

static int title(struct report *r, err *e)
{
    sqlite3_stmt *row = NULL;
    struct buf text = {0};
    int got = db_query(r->db, &row, e, "SELECT title FROM experiment WHERE name=?", "s", r->experiment);
    const char *s = got == 1 ? (const char *)sqlite3_column_text(row, 0) : NULL;
    buf_str(&text, s && *s ? s : r->experiment);
    sqlite3_finalize(row);
    html_begin(r->out, text.p);
    buf_str(r->out, "<header><p class=dim>kvrun report</p><h1>");
    html_str(r->out, text.p);
    buf_str(r->out, "</h1><p class=dim>experiment ");
    html_str(r->out, r->experiment);
    buf_str(r->out, "</p></header>\n<main>\n");
    buf_free(&text);
    return got < 0 ? -1 : 0;
}

static int page(struct report *r, err *e)
{
    static int (*const parts[])(struct report *, err *) = {title,         report_controls, report_outcome, report_sweeps,
                                                           report_caches, report_facts,    report_sources};
    /* One state of the database for the whole page, also while a run goes on. */
    if (db_run(r->db, NULL, e, "BEGIN", "")) return -1;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i](r, e)) return -1;
    buf_str(r->out, "</main>\n");
    html_end(r->out);
    return 0;
}

static int put_file(const char *path, const struct buf *b, err *e)
{
    struct whole_file w;
    if (whole_open(&w, path, e)) return -1;
    return whole_close(&w, fwrite(b->p, 1, b->n, w.f) == b->n ? 0 : whole_error(path, e), e);
}

int report_write(const char *db, const char *experiment, const char *path, err *e)
{
    struct buf out = {0};
    struct report r = {.out = &out};
    int rc = db_open_read(&r.db, db, e);
    if (!rc) rc = query_functions(r.db, e);
    if (!rc) rc = find_experiment(&r, experiment, e);
    if (!rc) rc = page(&r, e);
    if (r.db) db_rollback(r.db);
    db_close(r.db);
    if (!rc) rc = put_file(path, &out, e);
    buf_free(&out);
    free(r.experiment);
    free(r.quoted);
    return rc;
}
