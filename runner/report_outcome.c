/* report_outcome.c: what the model said: a row per condition, a column per prompt, with the words that `mentions` metrics look
 * for and the first token that is not the baseline's marked; then what the metrics say of each condition. */
#include "report_in.h"

#include "words.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 60, COLUMNS_MAX = 12 };

/* ---- words to mark ---- */

struct needle {
    char *word;
    bool casefold;
};

struct needles {
    struct needle *v;
    int n;
};

static void needle_add(struct needles *l, const char *word, bool casefold)
{
    if ((l->n & (l->n - 1)) == 0) l->v = mem_grow(l->v, l->n ? 2 * (size_t)l->n : 1, sizeof *l->v);
    l->v[l->n++] = (struct needle){mem_strdup(word), casefold};
}

static void needles_free(struct needles *l)
{
    for (int i = 0; i < l->n; i++) free(l->v[i].word);
    free(l->v);
}

/* A definition is {"mentions": {key: [words]}, "casefold": bool, ..}. */
static void needles_of(struct needles *l, const char *definition)
{
    json_t *d = json_loads(definition, 0, NULL), *mentions = json_object_get(d, "mentions"), *list, *word;
    bool casefold = json_is_true(json_object_get(d, "casefold"));
    const char *key;
    size_t i;
    json_object_foreach(mentions, key, list) json_array_foreach(list, i, word)
    {
        if (json_is_string(word)) needle_add(l, json_string_value(word), casefold);
    }
    json_decref(d);
}

static int load_needles(struct report *r, struct needles *l, err *e)
{
    sqlite3_stmt *row = NULL;
    int got = db_query(r->db, &row, e, "SELECT definition_json FROM metric_def WHERE spec_id=? ORDER BY id", "i", r->spec_id);
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *s = (const char *)sqlite3_column_text(row, 0);
        if (s) needles_of(l, s);
    }
    sqlite3_finalize(row);
    return got;
}

/* ---- one answer ---- */

enum { WORD = 1, OTHER = 2 };

/* Sets WORD in the flags of every byte of a whole word that is looked for. */
static void flag_words(const struct needles *l, const char *s, size_t n, unsigned char *flags)
{
    bool inside = false;
    size_t len;
    for (size_t i = 0; i < n; i += len) {
        for (int k = 0; !inside && k < l->n; k++) {
            size_t found = words_at(s + i, n - i, l->v[k].word, l->v[k].casefold);
            for (size_t b = 0; b < found; b++) flags[i + b] |= WORD;
        }
        inside = words_letter(words_point(s + i, n - i, &len));
    }
}

static void draw_flagged(struct buf *out, const char *s, size_t n, const unsigned char *flags)
{
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && flags[end] == flags[i];) end++;
        if (flags[i] & OTHER) buf_str(out, "<b class=diff title=\"the first token that is not the baseline's\">");
        if (flags[i] & WORD) buf_str(out, "<mark>");
        html_text(out, s + i, end - i);
        if (flags[i] & WORD) buf_str(out, "</mark>");
        if (flags[i] & OTHER) buf_str(out, "</b>");
    }
}

/* The tokens of an attempt one after the other; `other`: the step that first differs from the baseline, or -1. */
static int draw_answer(struct report *r, const struct needles *l, int64_t attempt, int64_t other, struct buf *out, err *e)
{
    sqlite3_stmt *row = NULL;
    struct buf text = {0};
    size_t from = 0, to = 0;
    unsigned char *flags;
    int got = db_query(r->db, &row, e,
                       "SELECT st.step, t.bytes, st.token_id FROM step st JOIN attempt a ON a.id=st.attempt_id"
                       " JOIN job j ON j.id=a.job_id JOIN prompt p ON p.id=j.prompt_id"
                       " LEFT JOIN token t ON t.tokenizer_id=p.tokenizer_id AND t.token_id=st.token_id"
                       " WHERE st.attempt_id=? ORDER BY st.step",
                       "i", attempt);
    for (; got == 1; got = db_next(r->db, row, e)) {
        const void *bytes = sqlite3_column_blob(row, 1);
        size_t before = text.n;
        if (bytes)
            buf_add(&text, bytes, (size_t)sqlite3_column_bytes(row, 1));
        else
            buf_printf(&text, "%lld ", (long long)sqlite3_column_int64(row, 2));
        if (sqlite3_column_int64(row, 0) == other) from = before, to = text.n;
    }
    sqlite3_finalize(row);
    flags = mem_array(text.n + 1, 1);
    flag_words(l, text.p ? text.p : "", text.n, flags);
    for (size_t i = from; i < to; i++) flags[i] |= OTHER;
    draw_flagged(out, text.p ? text.p : "", text.n, flags);
    free(flags);
    buf_free(&text);
    return got;
}

/* ---- the table ---- */

struct grid {
    char *rows[ROWS_MAX], *columns[COLUMNS_MAX];
    struct cell {
        int64_t attempt, other;
        char *label;
    } cells[ROWS_MAX][COLUMNS_MAX];
    int n_rows, n_columns, left_out;
};

static int index_of(char **names, int *n, int max, const char *name)
{
    for (int i = 0; i < *n; i++)
        if (!strcmp(names[i], name)) return i;
    if (*n == max) return -1;
    names[*n] = mem_strdup(name);
    return (*n)++;
}

static void grid_free(struct grid *g)
{
    for (int i = 0; i < g->n_rows; i++) {
        free(g->rows[i]);
        for (int k = 0; k < g->n_columns; k++) free(g->cells[i][k].label);
    }
    for (int k = 0; k < g->n_columns; k++) free(g->columns[k]);
    free(g);
}

static void grid_row(struct grid *g, sqlite3_stmt *row)
{
    const char *prompt = (const char *)sqlite3_column_text(row, 0), *condition = (const char *)sqlite3_column_text(row, 1),
               *label = (const char *)sqlite3_column_text(row, 2);
    int i, k;
    if (!prompt || !condition || !label) return;
    k = index_of(g->columns, &g->n_columns, COLUMNS_MAX, prompt);
    i = k < 0 ? -1 : index_of(g->rows, &g->n_rows, ROWS_MAX, condition);
    if (i < 0 || g->cells[i][k].label) {
        g->left_out++;
        return;
    }
    g->cells[i][k] =
        (struct cell){sqlite3_column_int64(row, 4),
                      sqlite3_column_type(row, 3) == SQLITE_NULL ? -1 : sqlite3_column_int64(row, 3), mem_strdup(label)};
}

static int draw_grid(struct report *r, const struct grid *g, const struct needles *l, err *e)
{
    buf_str(r->out, "<div class=wide tabindex=0><table><tr><th>condition");
    for (int k = 0; k < g->n_columns; k++) {
        buf_str(r->out, "<th>");
        html_str(r->out, g->columns[k]);
    }
    buf_str(r->out, "</tr>\n");
    for (int i = 0; i < g->n_rows; i++) {
        buf_str(r->out, "<tr><th>");
        html_str(r->out, g->rows[i]);
        for (int k = 0; k < g->n_columns; k++) {
            const struct cell *c = &g->cells[i][k];
            buf_str(r->out, "<td class=answer>");
            if (!c->label) continue;
            buf_str(r->out, "<div tabindex=0 title=\"");
            html_str(r->out, c->label);
            buf_str(r->out, "\">");
            if (draw_answer(r, l, c->attempt, c->other, r->out, e)) return -1;
            buf_str(r->out, "</div>");
            if (c->other >= 0)
                buf_printf(r->out, "<span class=dim>leaves its baseline at step <data value=\"%lld\">%lld</data></span>",
                           (long long)c->other, (long long)c->other);
        }
        buf_str(r->out, "</tr>\n");
    }
    buf_str(r->out,
            "</table></div>\n<p class=dim><mark>marked</mark>: words that a metric looks for; <b class=diff>underlined</b>: "
            "the first token that is not the baseline's.</p>\n");
    return 0;
}

static int answers(struct report *r, const struct needles *l, err *e)
{
    struct grid *g = mem_alloc(sizeof *g);
    struct buf sql = {0};
    sqlite3_stmt *row = NULL;
    int got;
    buf_printf(&sql,
               "SELECT l.prompt, l.condition, l.label, d.first_diff_step, l.attempt_id, g.text, g.stop\n"
               "FROM v_latest l JOIN generation g USING (attempt_id) LEFT JOIN v_divergence d USING (spec_job_id)\n"
               "WHERE l.experiment=%s AND NOT EXISTS (SELECT 1 FROM factor f WHERE f.spec_job_id=l.spec_job_id)\n"
               "ORDER BY l.spec_job_id",
               r->quoted);
    got = report_ask(r, &row, sql.p, e);
    for (; got == 1; got = db_next(r->db, row, e)) grid_row(g, row);
    sqlite3_finalize(row);
    if (!got && g->n_rows) got = draw_grid(r, g, l, e);
    if (!got && !g->n_rows) buf_str(r->out, "<p class=dim>Every job stands along an axis; see below.</p>\n");
    if (g->left_out) buf_printf(r->out, "<p class=dim>%d more answers are not shown here.</p>\n", g->left_out);
    html_sql(r->out, sql.p);
    buf_free(&sql);
    grid_free(g);
    return got;
}

static int numbers(struct report *r, err *e)
{
    struct buf sql = {0};
    sqlite3_stmt *row = NULL;
    int got, n = 0;
    buf_printf(&sql,
               "SELECT condition, prompt, metric, count(value) AS jobs, avg(value) AS mean, min(value) AS least,\n"
               "       max(value) AS most, sum(flag IS NOT NULL) AS undefined\n"
               "FROM v_metric WHERE experiment=%s GROUP BY condition, prompt, metric ORDER BY min(spec_job_id), metric",
               r->quoted);
    got = report_ask(r, &row, sql.p, e);
    for (; got == 1; got = db_next(r->db, row, e)) {
        if (n++ == 0)
            buf_str(r->out, "<details><summary>what the metrics say</summary><div class=wide tabindex=0><table><tr><th>"
                            "condition<th>prompt<th>metric<th>jobs<th>mean<th>least<th>most<th>undefined</tr>\n");
        buf_str(r->out, "<tr>");
        for (int i = 0; i < 8; i++) {
            buf_str(r->out, i < 3 ? "<td>" : "<td class=n>");
            if (i < 3)
                html_column(r->out, row, i);
            else
                html_column_number(r->out, row, i, 4);
        }
        buf_str(r->out, "</tr>\n");
    }
    sqlite3_finalize(row);
    if (n) {
        buf_str(r->out, "</table></div></details>\n");
        html_sql(r->out, sql.p);
    }
    buf_free(&sql);
    return got;
}

int report_outcome(struct report *r, err *e)
{
    struct needles l = {0};
    int rc;
    buf_str(r->out, "<section id=outcome><h2>What the model said</h2>\n");
    rc = load_needles(r, &l, e);
    if (!rc) rc = answers(r, &l, e);
    if (!rc) rc = numbers(r, e);
    buf_str(r->out, "</section>\n");
    needles_free(&l);
    return rc;
}
