/* report_facts.c: the parts of the page that are plain facts: verdicts of the controls, what it cost, where it comes from. */
#include "report_in.h"

#include <stdlib.h>
#include <string.h>

/* A query of the experiment: `sql` with its quoted name for each %s. Caller frees. */
static char *about(const struct report *r, const char *before, const char *after)
{
    struct buf b = {0};
    buf_printf(&b, "%s%s%s", before, r->quoted, after);
    return buf_take(&b);
}

/* ---- controls ---- */

static void verdict_line(struct buf *out, const int n[3])
{
    int held = n[0] + n[1];
    if (n[1])
        buf_printf(out, "<p class=bad>%d of %d controls do not hold: this experiment is not to be trusted.</p>\n", n[1], held);
    else if (held)
        buf_printf(out, "<p class=good>%d of %d controls hold.</p>\n", n[0], held);
    if (n[2])
        buf_printf(out, "<p class=dim>%d more %s nothing that must hold, or have no answer yet.</p>\n", n[2],
                   n[2] == 1 ? "shows" : "show");
}

int report_controls(struct report *r, err *e)
{
    char *sql = about(
        r, "SELECT label, kind, \"of\", against, verdict, detail FROM v_control WHERE experiment=", " ORDER BY spec_job_id");
    sqlite3_stmt *row = NULL;
    struct buf table = {0};
    int n[3] = {0}, got = report_ask(r, &row, sql, e);
    buf_str(r->out, "<section id=controls><h2>Controls</h2>\n");
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *verdict = (const char *)sqlite3_column_text(row, 4);
        int kind = verdict && !strcmp(verdict, "pass") ? 0 : verdict && !strcmp(verdict, "fail") ? 1 : 2;
        n[kind]++;
        buf_str(&table, "<tr>");
        for (int i = 0; i < 6; i++) {
            buf_str(&table, i != 4 ? "<td>" : kind == 0 ? "<td class=good>" : kind == 1 ? "<td class=bad>" : "<td class=dim>");
            html_column(&table, row, i);
            buf_str(&table, "</td>");
        }
        buf_str(&table, "</tr>\n");
    }
    sqlite3_finalize(row);
    if (table.n == 0) buf_str(r->out, "<p class=dim>None was asked for.</p>\n");
    verdict_line(r->out, n);
    if (table.n) {
        buf_printf(r->out,
                   "<details%s><summary>each of them</summary><div class=wide tabindex=0><table><tr><th>job<th>kind<th>of"
                   "<th>held against<th>verdict<th>why</tr>\n",
                   n[1] ? " open" : "");
        buf_add(r->out, table.p, table.n);
        buf_str(r->out, "</table></div></details>\n");
    }
    html_sql(r->out, sql);
    buf_str(r->out, "</section>\n");
    buf_free(&table);
    free(sql);
    return got;
}

/* ---- storage and speed ---- */

static int costs(struct report *r, err *e)
{
    char *sql = about(r,
                      "SELECT count(*) AS answers, sum(n_gen) AS tokens, sum(prefill_us)/1e6 AS prefill_s,\n"
                      "       sum(decode_us)/1e6 AS decode_s, 1e6*sum(n_gen)/nullif(sum(decode_us), 0) AS tokens_per_s\n"
                      "FROM (SELECT DISTINCT l.attempt_id, g.n_gen, g.prefill_us, g.decode_us\n"
                      "      FROM v_latest l JOIN generation g USING (attempt_id) WHERE l.experiment=",
                      ")");
    char *stored = about(r,
                         "SELECT chunks, blobs, logical_bytes/1048576.0 AS whole_mib, stored_bytes/1048576.0 AS stored_mib\n"
                         "FROM v_storage WHERE experiment=",
                         "");
    static const char *const speed_names[] = {"answers", "new tokens", "seconds of prefill", "seconds of decoding",
                                              "new tokens a second"};
    static const char *const stored_names[] = {"chunks of caches", "stored blobs", "MiB as they are", "MiB as stored"};
    sqlite3_stmt *row = NULL;
    int got = report_ask(r, &row, sql, e);
    buf_str(r->out, "<section id=costs><h2>Storage and speed</h2>\n<dl>\n");
    for (int i = 0; got == 1 && i < 5; i++) {
        buf_printf(r->out, "<dt>%s</dt><dd>", speed_names[i]);
        html_column_number(r->out, row, i, i < 2 ? 12 : 4);
        buf_str(r->out, "</dd>\n");
    }
    sqlite3_finalize(row);
    row = NULL;
    if (got >= 0) got = report_ask(r, &row, stored, e);
    for (int i = 0; got == 1 && i < 4; i++) {
        buf_printf(r->out, "<dt>%s</dt><dd>", stored_names[i]);
        html_column_number(r->out, row, i, i < 2 ? 12 : 4);
        buf_str(r->out, "</dd>\n");
    }
    sqlite3_finalize(row);
    buf_str(r->out, "</dl>\n");
    html_sql(r->out, sql);
    html_sql(r->out, stored);
    buf_str(r->out, "</section>\n");
    free(sql);
    free(stored);
    return got < 0 ? -1 : 0;
}

int report_facts(struct report *r, err *e)
{
    char *sql =
        about(r,
              "SELECT DISTINCT m.name AS model, lower(hex(m.sha256)) AS model_sha256, m.arch, m.weight_dtype AS weights,\n"
              "       v.kvrun_version AS kvrun, v.git_commit AS \"commit\", iif(v.git_dirty, 'yes', 'no') AS changed,\n"
              "       v.numerics, v.cpu, v.isa, v.threads, v.gpu_name AS gpu, v.host, run.uuid AS run,\n"
              "       strftime('%Y-%m-%d %H:%M:%S UTC', run.started_ms/1000, 'unixepoch') AS started\n"
              "FROM v_latest l JOIN attempt a ON a.id=l.attempt_id JOIN run ON run.id=a.run_id\n"
              "JOIN environment v ON v.id=run.environment_id JOIN job j ON j.id=a.job_id JOIN model m ON m.id=j.model_id\n"
              "WHERE l.experiment=",
              " ORDER BY run.id");
    sqlite3_stmt *row = NULL;
    int got, n = 0;
    if (costs(r, e)) {
        free(sql);
        return -1;
    }
    got = report_ask(r, &row, sql, e);
    buf_str(r->out, "<section id=provenance><h2>Where it comes from</h2>\n");
    for (; got == 1; got = db_next(r->db, row, e)) {
        buf_printf(r->out, "<h3>run %d</h3><dl>\n", ++n);
        for (int i = 0; i < sqlite3_column_count(row); i++) {
            if (sqlite3_column_type(row, i) == SQLITE_NULL) continue;
            buf_str(r->out, "<dt>");
            html_str(r->out, sqlite3_column_name(row, i));
            buf_str(r->out, "</dt><dd>");
            html_column(r->out, row, i);
            buf_str(r->out, "</dd>\n");
        }
        buf_str(r->out, "</dl>\n");
    }
    sqlite3_finalize(row);
    html_sql(r->out, sql);
    buf_str(r->out, "</section>\n");
    free(sql);
    return got;
}

/* ---- the spec ---- */

int report_sources(struct report *r, err *e)
{
    char *sql =
        about(r, "SELECT s.source_path, s.source_yaml FROM v_spec v JOIN spec s ON s.id=v.spec_id WHERE v.experiment=", "");
    sqlite3_stmt *row = NULL;
    int got = report_ask(r, &row, sql, e);
    buf_str(r->out, "<section id=spec><h2>The spec</h2>\n");
    if (got == 1) {
        buf_str(r->out, "<p class=dim>");
        html_column(r->out, row, 0);
        buf_str(r->out, ", word for word</p>\n<pre tabindex=0>");
        html_column(r->out, row, 1);
        buf_str(r->out, "</pre>\n");
    }
    sqlite3_finalize(row);
    html_sql(r->out, sql);
    buf_str(r->out, "</section>\n");
    free(sql);
    return got < 0 ? -1 : 0;
}
