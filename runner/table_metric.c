/* table_metric.c: the numbers of an experiment as tables, one per metric: a row per condition, a column per prompt. A condition
 * over axes with many jobs is told by its range and by the job that has the largest value. */
#include "table.h"

#include "db.h"
#include "outcome.h"
#include "width.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EACH_MAX = 8, WIDTH_OF_A_FILE = 140 }; /* jobs of a condition that get a row each */

/* All jobs of one condition, or one job. */
struct row {
    const char *name, *most_name; /* of the row, and of the one that tells where the largest value is */
    bool many;
};

struct cell {
    int n, undefined;
    double least, most;
    const char *where; /* axes of the job with the largest value */
};

struct numbers {
    arena *mem;
    const struct spec *s;
    const struct jobs *j;
    const bool *shown; /* (j->n) */
    const struct metric *m;
    int *column_of;       /* (spec's n_prompts) prompts of one name share a column */
    const char **columns; /* (n_columns) names */
    int n_columns;
    int *row_of; /* (jobs) -1: not shown */
    struct row *rows;
    int n_rows;
    struct cell *cells; /* (n_rows, n_columns) */
};

/* What a text table says better, or nothing by itself. */
static bool is_shown(const struct metric *m)
{
    return m->kind != METRIC_MENTIONS && m->kind != METRIC_FIRST_DIVERGENCE;
}

static bool in_table(const struct numbers *t, const struct job *j)
{
    return t->shown[j - t->j->jobs] && j->prompt < t->s->n_prompts &&
           (j->control == CONTROL_NONE || j->control == CONTROL_SHOWN);
}

static const char *behind_prompt(const struct numbers *t, const struct job *j)
{
    size_t n = strlen(t->j->prompts[j->prompt].prompt->name);
    return strlen(j->label) > n ? j->label + n + 1 : j->label;
}

/* The axes of a job: what follows its condition in the label. */
static const char *axes_of(const struct numbers *t, const struct job *j)
{
    const char *s = behind_prompt(t, j);
    size_t n = strlen(j->condition_name);
    return strlen(s) > n ? s + n + 1 : s;
}

static void make_columns(struct numbers *t)
{
    int i, k;
    t->columns = arena_array(t->mem, (size_t)t->s->n_prompts, sizeof *t->columns);
    t->column_of = arena_array(t->mem, (size_t)t->s->n_prompts, sizeof *t->column_of);
    for (i = 0; i < t->s->n_prompts; i++) {
        const char *name = t->s->prompts[i].name;
        for (k = t->n_columns - 1; k >= 0 && strcmp(t->columns[k], name);) k--; /* they mostly follow one another */
        if (k < 0) t->columns[k = t->n_columns++] = name;
        t->column_of[i] = k;
    }
}

static int column_of(const struct numbers *t, const struct job *j)
{
    return t->column_of[j->prompt];
}

/* ---- rows ---- */

/* Jobs of each condition on the prompt that has most of them. */
static int *count_jobs(const struct numbers *t)
{
    int n = t->s->n_conditions, i, p, *most = mem_array((size_t)n, sizeof *most);
    int *per = mem_array((size_t)n * (size_t)t->n_columns, sizeof *per);
    for (i = 0; i < t->j->n; i++)
        if (t->j->jobs[i].condition >= 0 && in_table(t, &t->j->jobs[i]))
            per[t->j->jobs[i].condition * t->n_columns + column_of(t, &t->j->jobs[i])]++;
    for (i = 0; i < n; i++)
        for (p = 0; p < t->n_columns; p++)
            if (per[i * t->n_columns + p] > most[i]) most[i] = per[i * t->n_columns + p];
    free(per);
    return most;
}

static int find_row(struct numbers *t, const char *name, int *last)
{
    int i;
    for (i = 0; i < t->n_rows; i++) {
        int at = (*last + 1 + i) % t->n_rows;
        if (strcmp(t->rows[at].name, name) == 0) return *last = at;
    }
    t->rows[t->n_rows].name = name;
    return *last = t->n_rows++;
}

static void make_rows(struct numbers *t)
{
    int *most = count_jobs(t), i, last = -1, *of_condition = mem_array((size_t)t->s->n_conditions, sizeof *of_condition);
    size_t room = 0;
    for (i = 0; i < t->s->n_conditions; i++) {
        room += most[i] > EACH_MAX ? 1 : (size_t)most[i];
        of_condition[i] = -1;
    }
    for (i = 0; i < t->j->n; i++) room += t->j->jobs[i].condition < 0 && in_table(t, &t->j->jobs[i]);
    room += (size_t)t->s->n_conditions * EACH_MAX; /* prompts may differ in which of them they have */
    t->rows = arena_array(t->mem, room, sizeof *t->rows);
    t->row_of = arena_array(t->mem, (size_t)t->j->n, sizeof *t->row_of);
    for (i = 0; i < t->j->n; i++) {
        const struct job *j = &t->j->jobs[i];
        int c = j->condition;
        t->row_of[i] = -1;
        if (!in_table(t, j)) continue;
        if (c < 0 || most[c] <= EACH_MAX) {
            if (t->n_rows < (int)room) t->row_of[i] = find_row(t, behind_prompt(t, j), &last);
            continue;
        }
        if (of_condition[c] < 0) {
            of_condition[c] = t->n_rows++;
            t->rows[of_condition[c]] =
                (struct row){arena_printf(t->mem, "%s, %d jobs", j->condition_name, most[c]), "  largest", true};
        }
        t->row_of[i] = of_condition[c];
    }
    free(most);
    free(of_condition);
}

/* ---- values ---- */

static int read_values(struct numbers *t, store *st, err *e)
{
    sqlite3_stmt *rows = NULL;
    int r = db_query(store_sqlite(st), &rows, e,
                     "SELECT sj.ordinal, mt.value FROM metric_def d JOIN metric mt ON mt.metric_id=d.id"
                     " JOIN spec_job sj ON sj.id=mt.spec_job_id WHERE d.spec_id=?1 AND d.name=?2 AND mt.attempt_id="
                     "(SELECT max(a.id) FROM attempt a WHERE a.job_id=sj.job_id AND a.status='done') ORDER BY sj.ordinal",
                     "is", store_spec_id(st), t->m->name);
    for (; r == 1; r = db_next(store_sqlite(st), rows, e)) {
        int64_t job = sqlite3_column_int64(rows, 0);
        struct cell *c;
        double v = sqlite3_column_double(rows, 1);
        if (job < 0 || job >= t->j->n || t->row_of[job] < 0) continue;
        c = &t->cells[(size_t)t->row_of[job] * (size_t)t->n_columns + (size_t)column_of(t, &t->j->jobs[job])];
        if (sqlite3_column_type(rows, 1) == SQLITE_NULL) {
            c->undefined++;
            continue;
        }
        if (!c->n || v < c->least) c->least = v;
        if (!c->n || v > c->most) {
            c->most = v;
            c->where = axes_of(t, &t->j->jobs[job]);
        }
        c->n++;
    }
    sqlite3_finalize(rows);
    return r;
}

/* ---- text ---- */

static const char *number(const struct numbers *t, double v)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    if (t->m->kind == METRIC_STATE_SIZE) {
        for (; u < 4 && v >= 1024; u++) v /= 1024;
        return arena_printf(t->mem, "%.4g %s", v, units[u]);
    }
    if (v == floor(v) && fabs(v) < 1e6) return arena_printf(t->mem, "%.0f", v);
    return arena_printf(t->mem, fabs(v) >= 1e-3 && fabs(v) < 1e6 ? "%.4g" : "%.3g", v);
}

static struct outcome_cell text_cell(const char *s)
{
    return s ? (struct outcome_cell){.text = s, .n = strlen(s)} : (struct outcome_cell){.note = NULL};
}

static const char *value_text(const struct numbers *t, const struct cell *c)
{
    if (c->n == 0) return c->undefined ? "undefined" : NULL;
    if (c->n == 1 || c->least == c->most) return number(t, c->most);
    return arena_printf(t->mem, "%s .. %s", number(t, c->least), number(t, c->most));
}

/* The rows that have a value, those of many jobs with a second one. Returns how many. */
static int draw_rows(const struct numbers *t, const char **names, struct outcome_cell *cells)
{
    int n = 0, i, p, columns = t->n_columns;
    for (i = 0; i < t->n_rows; i++) {
        const struct cell *c = &t->cells[(size_t)i * (size_t)columns];
        int any = 0;
        for (p = 0; p < columns; p++) any |= c[p].n + c[p].undefined > 0;
        if (!any) continue;
        names[n] = t->rows[i].name;
        for (p = 0; p < columns; p++) cells[(size_t)n * (size_t)columns + (size_t)p] = text_cell(value_text(t, &c[p]));
        n++;
        if (!t->rows[i].many) continue;
        names[n] = t->rows[i].most_name;
        for (p = 0; p < columns; p++)
            cells[(size_t)n * (size_t)columns + (size_t)p] = text_cell(c[p].n == 0               ? NULL
                                                                       : c[p].least == c[p].most ? "all equal"
                                                                                                 : c[p].where);
        n++;
    }
    return n;
}

/* True when all jobs have one value, which is told in a line. */
static bool all_equal(const struct numbers *t, struct buf *out)
{
    const struct cell *first = NULL;
    size_t i, n = (size_t)t->n_rows * (size_t)t->n_columns;
    int jobs = 0;
    for (i = 0; i < n; i++) {
        const struct cell *c = &t->cells[i];
        if (c->undefined) return false;
        if (!c->n) continue;
        if (!first) first = c;
        if (c->least != first->least || c->most != first->least) return false;
        jobs += c->n;
    }
    if (!first) return true;
    if (jobs > 1)
        buf_printf(out, "\n%s  %s for each of %d jobs\n", t->m->name, number(t, first->most), jobs);
    else
        buf_printf(out, "\n%s  %s\n", t->m->name, number(t, first->most));
    return true;
}

static int draw_metric(struct numbers *t, store *st, struct buf *out, err *e)
{
    size_t columns = (size_t)t->n_columns, room = 2 * (size_t)t->n_rows;
    const char **names = arena_array(t->mem, room, sizeof *names);
    struct outcome_cell *cells = arena_array(t->mem, room * columns, sizeof *cells);
    struct outcome o = {.rows = names,
                        .columns = t->columns,
                        .n_columns = (int)columns,
                        .cells = cells,
                        .corner = t->m->name,
                        .width = width_terminal(WIDTH_OF_A_FILE)};
    t->cells = arena_array(t->mem, (size_t)t->n_rows * columns, sizeof *t->cells);
    if (read_values(t, st, e)) return -1;
    if (all_equal(t, out)) return 0;
    o.n_rows = draw_rows(t, names, cells);
    buf_char(out, '\n');
    outcome_text(&o, out);
    return 0;
}

int table_metrics(const struct spec *s, const struct jobs *j, const bool *shown, store *st, struct buf *out, err *e)
{
    struct numbers t = {.mem = arena_new(), .s = s, .j = j, .shown = shown};
    int i, rc = 0;
    make_columns(&t);
    make_rows(&t);
    for (i = 0; i < s->n_metrics && !rc; i++) {
        t.m = &s->metrics[i];
        if (is_shown(t.m)) rc = draw_metric(&t, st, out, e);
    }
    arena_free(t.mem);
    return rc;
}
