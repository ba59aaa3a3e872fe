/* query_show.c: one job as a page: what was asked, what was answered, what was measured, and where it comes from. */
#include "query_in.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct show {
    sqlite3 *db;
    FILE *out;
    int64_t spec_job, job, attempt; /* attempt 0: no good answer */
    char *edited;                   /* (n_tokens) 1: an operation names the position */
    int n_tokens;
    struct buf line;
};

static const char *text_of(struct show *s, sqlite3_stmt *row, int col)
{
    const char *t = (const char *)sqlite3_column_text(row, col);
    s->line.n = 0;
    query_printable(&s->line, t ? t : "", t ? (size_t)sqlite3_column_bytes(row, col) : 0);
    return s->line.p;
}

/* Prints "name  value" with the names in one column. */
static void field(struct show *s, const char *name, sqlite3_stmt *row, int col)
{
    fprintf(s->out, "  %-12s%s\n", name, text_of(s, row, col));
}

/* ---- the question ---- */

static int head(struct show *s, err *e)
{
    sqlite3_stmt *row = NULL;
    int r = db_query(s->db, &row, e,
                     "SELECT sj.label, e.name, e.title, sp.name, sj.condition, lower(hex(j.key)), j.id, p.n_tokens,"
                     " (SELECT label FROM spec_job b WHERE b.id=sj.baseline_id), sj.baseline_id=sj.id, l.attempt_id"
                     " FROM spec_job sj JOIN spec s ON s.id=sj.spec_id JOIN experiment e ON e.id=s.experiment_id"
                     " JOIN spec_prompt sp ON sp.id=sj.spec_prompt_id JOIN prompt p ON p.id=sp.prompt_id"
                     " JOIN job j ON j.id=sj.job_id LEFT JOIN v_latest l ON l.spec_job_id=sj.id WHERE sj.id=?",
                     "i", s->spec_job);
    if (r == 0) r = err_set(e, ERR_DB, "the job's prompt or experiment is not in the database");
    if (r == 1) {
        int64_t n = sqlite3_column_int64(row, 7);
        fprintf(s->out, "%s\n", text_of(s, row, 0));
        field(s, "experiment", row, 1);
        if (sqlite3_column_type(row, 2) != SQLITE_NULL) field(s, "title", row, 2);
        field(s, "condition", row, 4);
        if (sqlite3_column_type(row, 8) != SQLITE_NULL && !sqlite3_column_int(row, 9)) field(s, "baseline", row, 8);
        field(s, "key", row, 5);
        s->job = sqlite3_column_int64(row, 6);
        s->attempt = sqlite3_column_int64(row, 10);
        s->n_tokens = n > 0 && n < 1 << 24 ? (int)n : 0;
        s->edited = mem_array((size_t)s->n_tokens, 1);
        fprintf(s->out, "\nprompt %s, %lld tokens\n", text_of(s, row, 3), (long long)n);
    }
    sqlite3_finalize(row);
    return r < 0 ? -1 : 0;
}

/* "[0,1,2,7]" as "0..2,7"; text that is no list of whole numbers as it is. marks: positions to mark, or NULL. */
static void add_list(struct buf *out, const char *json, char *marks, int n_marks)
{
    json_t *list = json ? json_loads(json, 0, NULL) : NULL;
    size_t i, k, n = json_is_array(list) ? json_array_size(list) : 0;
    bool whole = json_is_array(list);
    for (i = 0; i < n; i++) whole = whole && json_is_integer(json_array_get(list, i));
    if (!whole) query_printable(out, json ? json : "", json ? strlen(json) : 0);
    for (i = 0; whole && i < n; i = k) {
        json_int_t first = json_integer_value(json_array_get(list, i)), last = first;
        for (k = i + 1; k < n && last < INT32_MAX && json_integer_value(json_array_get(list, k)) == last + 1; k++) last++;
        buf_printf(out, last > first ? "%s%lld..%lld" : "%s%lld", i ? "," : "", (long long)first, (long long)last);
    }
    for (i = 0; whole && marks && i < n; i++) {
        json_int_t at = json_integer_value(json_array_get(list, i));
        if (at >= 0 && at < n_marks) marks[at] = 1;
    }
    json_decref(list);
}

/* Where values come from: "from ny at 3", "from a at 3 minus b at 4", or the start of a file's hash. */
static void add_sources(struct show *s, struct buf *ops, sqlite3_stmt *row)
{
    if (sqlite3_column_type(row, 5) != SQLITE_NULL) {
        const char *job = sqlite3_column_type(row, 12) != SQLITE_NULL ? text_of(s, row, 12) : NULL;
        buf_printf(ops, "  from %s at ",
                   job                                          ? job
                   : sqlite3_column_type(row, 7) == SQLITE_NULL ? "a stored run"
                                                                : text_of(s, row, 7));
        add_list(ops, (const char *)sqlite3_column_text(row, 5), NULL, 0);
    }
    if (sqlite3_column_type(row, 10) != SQLITE_NULL) {
        buf_printf(ops, " minus %s at ", text_of(s, row, 9));
        add_list(ops, (const char *)sqlite3_column_text(row, 10), NULL, 0);
    }
    if (sqlite3_column_type(row, 11) != SQLITE_NULL) buf_printf(ops, "  vector %.12s…", text_of(s, row, 11));
    if (sqlite3_column_int(row, 6)) buf_str(ops, "  rerotated");
}

/* What only this operation has: "  steps 2..5  bits 4  per token". */
static void add_params(struct buf *ops, sqlite3_stmt *row)
{
    json_t *params = json_loads(sqlite3_column_type(row, 13) == SQLITE_NULL ? "{}" : (const char *)sqlite3_column_text(row, 13),
                                0, NULL),
           *v;
    const char *key;
    if (sqlite3_column_type(row, 14) != SQLITE_NULL)
        buf_printf(ops, "  steps %d..%d", sqlite3_column_int(row, 14), sqlite3_column_int(row, 15));
    json_object_foreach(params, key, v)
    {
        char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        const char *shown = json_is_string(v) ? json_string_value(v) : text;
        buf_str(ops, "  ");
        query_printable(ops, key, strlen(key));
        buf_char(ops, ' ');
        query_printable(ops, shown, strlen(shown));
        free(text);
    }
    json_decref(params);
}

#define OPERATIONS(NEWER)                                                                                       \
    "SELECT i.op, i.tensor, i.layers_json, i.heads_json, i.positions_json, i.donor_positions_json, i.rerotate," \
    " (SELECT name FROM spec_prompt d WHERE d.prompt_id=i.donor_prompt_id AND d.spec_id=sj.spec_id LIMIT 1),"   \
    " i.amount,"                                                                                                \
    " (SELECT name FROM spec_prompt d WHERE d.prompt_id=i.minus_prompt_id AND d.spec_id=sj.spec_id LIMIT 1),"   \
    " i.minus_positions_json, iif(i.vector_sha256 IS NULL, NULL, lower(hex(i.vector_sha256)))," NEWER           \
    " FROM intervention i JOIN spec_job sj ON sj.id=?2 WHERE i.job_id=?1 AND i.timing=?3 ORDER BY i.ord"

/* Fills `ops` with the lines about operations of one timing and marks the positions they name. */
static int operations(struct show *s, const char *timing, struct buf *ops, err *e)
{
    sqlite3_stmt *row = NULL;
    int r = db_query(s->db, &row, e, "SELECT 1 FROM pragma_table_info('intervention') WHERE name='params_json'", "");
    const char *sql = r == 1
                          ? OPERATIONS(" (SELECT label FROM spec_job o WHERE o.job_id=i.donor_job_id AND o.spec_id=sj.spec_id"
                                       " LIMIT 1), i.params_json, i.first_step, i.last_step")
                          : OPERATIONS(" NULL, NULL, NULL, NULL"); /* schema 1 */
    sqlite3_finalize(row);
    row = NULL;
    if (r >= 0) r = db_query(s->db, &row, e, sql, "iis", s->job, s->spec_job, timing);
    for (; r == 1; r = db_next(s->db, row, e)) {
        const char *layers = (const char *)sqlite3_column_text(row, 2), *heads;
        buf_printf(ops, "  %s ", text_of(s, row, 0));
        buf_str(ops, text_of(s, row, 1));
        if (!layers || strcmp(layers, "[-1]")) {
            buf_str(ops, "  layers ");
            add_list(ops, layers, NULL, 0);
        }
        heads = (const char *)sqlite3_column_text(row, 3);
        if (!heads || strcmp(heads, "[]")) {
            buf_str(ops, "  heads ");
            add_list(ops, heads, NULL, 0);
        }
        buf_str(ops, "  at ");
        add_list(ops, (const char *)sqlite3_column_text(row, 4), s->edited, s->n_tokens);
        if (sqlite3_column_type(row, 8) != SQLITE_NULL) buf_printf(ops, "  by %.7g", sqlite3_column_double(row, 8));
        add_sources(s, ops, row);
        add_params(ops, row);
        buf_char(ops, '\n');
    }
    sqlite3_finalize(row);
    return r;
}

/* The prompt's tokens one after the other as they read, line by line, edited ones between brackets of their own. */
static int prompt(struct show *s, err *e)
{
    sqlite3_stmt *row = NULL;
    bool line_start = true, inside = false;
    int r =
        db_query(s->db, &row, e,
                 "SELECT t.pos, t.token_id, k.display FROM spec_job sj JOIN spec_prompt sp ON sp.id=sj.spec_prompt_id"
                 " JOIN prompt p ON p.id=sp.prompt_id JOIN prompt_token t ON t.prompt_id=p.id"
                 " LEFT JOIN token k ON k.tokenizer_id=p.tokenizer_id AND k.token_id=t.token_id WHERE sj.id=? ORDER BY t.pos",
                 "i", s->spec_job);
    for (; r == 1; r = db_next(s->db, row, e)) {
        int64_t pos = sqlite3_column_int64(row, 0);
        const char *word;
        bool edited = pos >= 0 && pos < s->n_tokens && s->edited[pos];
        if (inside && !edited) fputs("\xe2\x9f\xa7", s->out); /* closes the bracket */
        if (line_start) fputs("  ", s->out);
        if (edited && !inside) fputs("\xe2\x9f\xa6", s->out);
        inside = edited;
        word = text_of(s, row, 2);
        if (sqlite3_column_type(row, 2) == SQLITE_NULL)
            fprintf(s->out, "%lld ", (long long)sqlite3_column_int64(row, 1));
        else
            fputs(word, s->out);
        line_start = s->line.n >= 2 && !strcmp(word + s->line.n - 2, "\\n");
        if (line_start) fputc('\n', s->out);
    }
    if (inside) fputs("\xe2\x9f\xa7", s->out);
    if (!line_start) fputc('\n', s->out);
    sqlite3_finalize(row);
    return r;
}

/* ---- the answer ---- */

/* Text with its line breaks, each line moved in. */
static void print_text(struct show *s, const char *t, size_t n)
{
    while (n) {
        const char *end = memchr(t, '\n', n);
        size_t line = end ? (size_t)(end - t) : n;
        s->line.n = 0;
        query_printable(&s->line, t, line);
        fprintf(s->out, "  %s\n", s->line.p);
        line += end ? 1 : 0;
        t += line;
        n -= line;
    }
}

static int no_answer(struct show *s, err *e)
{
    sqlite3_stmt *row = NULL;
    int r =
        db_query(s->db, &row, e,
                 "SELECT error_message FROM attempt WHERE job_id=? AND status='failed' ORDER BY id DESC LIMIT 1", "i", s->job);
    if (r == 1) fprintf(s->out, "\nfailed: %s\n", text_of(s, row, 0));
    if (r == 0) fputs("\nno answer yet\n", s->out);
    sqlite3_finalize(row);
    return r < 0 ? -1 : 0;
}

static int answer(struct show *s, err *e)
{
    sqlite3_stmt *row = NULL;
    int r =
        db_query(s->db, &row, e, "SELECT text, n_gen, stop, text_lossy FROM generation WHERE attempt_id=?", "i", s->attempt);
    if (r == 1) {
        const char *text = (const char *)sqlite3_column_text(row, 0);
        fprintf(s->out, "\nanswer, %lld tokens, stop %s%s\n", (long long)sqlite3_column_int64(row, 1), text_of(s, row, 2),
                sqlite3_column_int(row, 3) ? " (bytes that are not UTF-8 were replaced)" : "");
        print_text(s, text ? text : "", text ? (size_t)sqlite3_column_bytes(row, 0) : 0);
    }
    sqlite3_finalize(row);
    row = NULL;
    if (r >= 0)
        r = db_query(s->db, &row, e, "SELECT metric, value, flag FROM v_metric WHERE spec_job_id=? ORDER BY metric", "i",
                     s->spec_job);
    if (r == 1) fputs("\nmetrics\n", s->out);
    for (; r == 1; r = db_next(s->db, row, e)) {
        fprintf(s->out, "  %-28s", text_of(s, row, 0));
        if (sqlite3_column_type(row, 1) == SQLITE_NULL)
            fprintf(s->out, "%s\n", text_of(s, row, 2));
        else
            fprintf(s->out, "%g\n", sqlite3_column_double(row, 1));
    }
    sqlite3_finalize(row);
    row = NULL;
    if (r >= 0)
        r = db_query(s->db, &row, e,
                     "SELECT k.moment, k.tok_end, k.dtype, count(*), sum(b.raw_bytes)/1048576.0, sum(b.stored_bytes)/1048576.0,"
                     " iif(k.moment='pass', '  ' || (SELECT group_concat(tensor) FROM"
                     " (SELECT DISTINCT tensor FROM kv_chunk WHERE capture_id=k.id ORDER BY tensor)), '')"
                     " FROM kv_capture k JOIN kv_chunk c ON c.capture_id=k.id JOIN blob b ON b.id=c.blob_id"
                     " WHERE k.attempt_id=? AND k.complete=1 GROUP BY k.id ORDER BY k.id",
                     "i", s->attempt);
    if (r == 1) fputs("\ncaches and activations\n", s->out);
    for (; r == 1; r = db_next(s->db, row, e)) {
        fprintf(s->out, "  %-10s", text_of(s, row, 0));
        fprintf(s->out, "%lld tokens  %s", (long long)sqlite3_column_int64(row, 1), text_of(s, row, 2));
        fprintf(s->out, "  %lld chunks  %.2f MiB, packed %.2f MiB", (long long)sqlite3_column_int64(row, 3),
                sqlite3_column_double(row, 4), sqlite3_column_double(row, 5));
        fprintf(s->out, "%s\n", text_of(s, row, 6));
    }
    sqlite3_finalize(row);
    return r;
}

static int provenance(struct show *s, err *e)
{
    static const char *const names[] = {"run", "ended", "model", "model hash", "numerics", "program", "machine", "spec"};
    sqlite3_stmt *row = NULL;
    int i,
        r = db_query(s->db, &row, e,
                     "SELECT r.uuid || '  attempt ' || a.id, strftime('%Y-%m-%dT%H:%M:%SZ', a.ended_ms/1000, 'unixepoch'),"
                     " m.name || '  ' || m.path_seen, lower(hex(m.sha256)), a.numerics,"
                     " 'kvrun ' || v.kvrun_version || ', commit ' || v.git_commit || iif(v.git_dirty, ' with changes', ''),"
                     " v.host || ', ' || v.cpu || ', ' || v.isa || ', ' || v.threads || ' threads', s.source_path"
                     " FROM attempt a JOIN run r ON r.id=a.run_id JOIN environment v ON v.id=r.environment_id"
                     " JOIN spec s ON s.id=r.spec_id JOIN job j ON j.id=a.job_id JOIN model m ON m.id=j.model_id WHERE a.id=?",
                     "i", s->attempt);
    if (r == 1) {
        fputs("\nwhere it comes from\n", s->out);
        for (i = 0; i < (int)(sizeof names / sizeof *names); i++) field(s, names[i], row, i);
    }
    sqlite3_finalize(row);
    return r < 0 ? -1 : 0;
}

static int page(struct show *s, err *e)
{
    struct buf flight = {0}, finished = {0}, steps = {0};
    int r;
    if (head(s, e)) return -1;
    r = operations(s, "prefill", &flight, e);
    if (!r) r = operations(s, "finished_cache", &finished, e);
    if (!r) r = operations(s, "steps", &steps, e);
    if (!r) r = prompt(s, e);
    if (!r && flight.n) fprintf(s->out, "\nedits while the prompt was fed\n%s", flight.p);
    if (!r && finished.n) fprintf(s->out, "\noperations on the finished cache\n%s", finished.p);
    if (!r && steps.n) fprintf(s->out, "\nedits while new tokens were fed\n%s", steps.p);
    buf_free(&flight);
    buf_free(&finished);
    buf_free(&steps);
    if (r) return -1;
    if (!s->attempt) return no_answer(s, e);
    if (answer(s, e)) return -1;
    return provenance(s, e);
}

int query_show(const char *db, const char *experiment, const char *label, FILE *out, err *e)
{
    struct show s = {.out = out};
    int r = -1;
    if (db_open_read(&s.db, db, e)) return -1;
    s.spec_job = query_label(s.db, experiment, label, e);
    if (s.spec_job >= 0) r = page(&s, e);
    if (!r && (fflush(out) || ferror(out))) r = err_set(e, ERR_FAIL, "cannot write the page");
    db_close(s.db);
    free(s.edited);
    buf_free(&s.line);
    return r;
}
