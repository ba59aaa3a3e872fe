/* control.c: see control.h. */
#include "control.h"

#include "db.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double MARGIN_TIE = 2e-3, LOGPROB_TOLERANCE = 1e-3;

struct newest {
    int64_t attempt, spec_job; /* attempt 0: no answer */
};

struct judging {
    store *st;
    sqlite3 *db;
    const struct jobs *j;
    struct newest *newest; /* (j->n) */
    sqlite3_stmt *steps, *chunks, *put;
};

struct verdict {
    const char *word;
    char detail[200];
};

static struct verdict failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static struct verdict failed(const char *fmt, ...)
{
    struct verdict v = {.word = "fail"};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(v.detail, sizeof v.detail, fmt, ap);
    va_end(ap);
    return v;
}

/* Every spec_job has its row here, also those without an answer. Answers of other numerics are none: only those of one kind
   need be equal. */
static int load_newest(struct judging *g, err *e)
{
    const char *numerics = engine_info(store_engine(g->st))->numerics;
    sqlite3_stmt *rows = NULL;
    int r = db_query(g->db, &rows, e,
                     "SELECT sj.ordinal, sj.id, (SELECT max(a.id) FROM attempt a WHERE a.job_id=sj.job_id AND a.status='done'"
                     " AND a.numerics=?2) FROM spec_job sj WHERE sj.spec_id=?1",
                     "is", store_spec_id(g->st), numerics);
    for (; r == 1; r = db_next(g->db, rows, e)) {
        int64_t job = sqlite3_column_int64(rows, 0);
        if (job >= 0 && job < g->j->n)
            g->newest[job] = (struct newest){sqlite3_column_int64(rows, 2), sqlite3_column_int64(rows, 1)};
    }
    sqlite3_finalize(rows);
    return r;
}

/* ---- bit for bit ---- */

/* A number as it is stored: what is not finite is NULL. */
static bool equal(sqlite3_stmt *row, int a, int b)
{
    bool null = sqlite3_column_type(row, a) == SQLITE_NULL;
    if (null || sqlite3_column_type(row, b) == SQLITE_NULL) return null && sqlite3_column_type(row, b) == SQLITE_NULL;
    return sqlite3_column_double(row, a) == sqlite3_column_double(row, b);
}

static struct verdict judge_same_step(sqlite3_stmt *row)
{
    int step = sqlite3_column_int(row, 0);
    if (sqlite3_column_type(row, 1) == SQLITE_NULL || sqlite3_column_type(row, 2) == SQLITE_NULL)
        return failed("step %d: one text has ended, the other has not", step);
    if (sqlite3_column_int(row, 1) != sqlite3_column_int(row, 2))
        return failed("step %d: token %d, not %d", step, sqlite3_column_int(row, 1), sqlite3_column_int(row, 2));
    if (!equal(row, 3, 4))
        return failed("step %d: log-probability %.9g, not %.9g", step, sqlite3_column_double(row, 3),
                      sqlite3_column_double(row, 4));
    if (!equal(row, 5, 6))
        return failed("step %d: margin %.9g, not %.9g", step, sqlite3_column_double(row, 5), sqlite3_column_double(row, 6));
    return (struct verdict){.word = "pass"};
}

/* Chunks of one place that both have and that are not the same blob: equal bytes are one blob. */
static int judge_chunks(struct judging *g, int64_t a, int64_t b, struct verdict *v, err *e)
{
    int r = db_query(g->db, &g->chunks, e,
                     "SELECT x.moment, c.layer, c.tensor, c.tok_start FROM kv_capture x JOIN kv_capture y ON y.attempt_id=?2"
                     " AND y.moment=x.moment AND y.complete=1 JOIN kv_chunk c ON c.capture_id=x.id JOIN kv_chunk d"
                     " ON d.capture_id=y.id AND d.layer=c.layer AND d.tensor=c.tensor AND d.tok_start=c.tok_start"
                     " AND d.n_tok=c.n_tok WHERE x.attempt_id=?1 AND x.complete=1 AND d.blob_id<>c.blob_id"
                     " ORDER BY x.id, c.layer, c.tensor, c.tok_start LIMIT 1",
                     "ii", a, b);
    if (r != 1) return r;
    *v = failed("what is stored at moment '%s' differs: %s of layer %d from token %d on",
                (const char *)sqlite3_column_text(g->chunks, 0), (const char *)sqlite3_column_text(g->chunks, 2),
                sqlite3_column_int(g->chunks, 1), sqlite3_column_int(g->chunks, 3));
    sqlite3_reset(g->chunks);
    return 0;
}

/* ---- close ---- */

/* 1: go on with the next step, 0: the verdict is final. */
static int judge_close_step(sqlite3_stmt *row, struct verdict *v)
{
    int step = sqlite3_column_int(row, 0);
    double a = sqlite3_column_double(row, 3), b = sqlite3_column_double(row, 4), margin = sqlite3_column_double(row, 6);
    bool ended = sqlite3_column_type(row, 1) == SQLITE_NULL || sqlite3_column_type(row, 2) == SQLITE_NULL;
    if (ended) {
        *v = failed("step %d: one text has ended, the other has not", step);
    } else if (sqlite3_column_int(row, 1) != sqlite3_column_int(row, 2)) {
        if (margin < MARGIN_TIE)
            snprintf(v->detail, sizeof v->detail, "equal up to a tie at step %d (margin %.2g)", step, margin);
        else
            *v = failed("step %d: token %d, not %d, which led by %.3g", step, sqlite3_column_int(row, 1),
                        sqlite3_column_int(row, 2), margin);
    } else if (!equal(row, 3, 4) && !(fabs(a - b) <= LOGPROB_TOLERANCE)) {
        *v = failed("step %d: log-probability %.6g, not %.6g", step, a, b);
    } else
        return 1;
    return 0;
}

/* ---- one control ---- */

static int compare(struct judging *g, enum control kind, int64_t a, int64_t b, struct verdict *v, err *e)
{
    int r =
        db_query(g->db, &g->steps, e,
                 "SELECT s.step, x.token_id, y.token_id, x.logprob, y.logprob, x.margin, y.margin"
                 " FROM (SELECT step FROM step WHERE attempt_id=?1 UNION SELECT step FROM step WHERE attempt_id=?2) s"
                 " LEFT JOIN step x ON x.attempt_id=?1 AND x.step=s.step LEFT JOIN step y ON y.attempt_id=?2 AND y.step=s.step"
                 " ORDER BY s.step",
                 "ii", a, b);
    *v = (struct verdict){.word = "pass"};
    while (r == 1) {
        bool go_on;
        if (kind == CONTROL_SAME) {
            *v = judge_same_step(g->steps);
            go_on = !strcmp(v->word, "pass");
        } else
            go_on = judge_close_step(g->steps, v);
        if (!go_on) {
            sqlite3_reset(g->steps);
            return 0;
        }
        r = db_next(g->db, g->steps, e);
    }
    if (r < 0 || kind != CONTROL_SAME) return r;
    return judge_chunks(g, a, b, v, e);
}

static int judge(struct judging *g, const struct job *c, const struct newest *n, struct verdict *v, err *e)
{
    const struct newest *against = c->against >= 0 ? &g->newest[c->against] : NULL;
    const char *label = c->against >= 0 ? g->j->jobs[c->against].label : "";
    *v = (struct verdict){.word = "missing"};
    if (!n->attempt) {
        snprintf(v->detail, sizeof v->detail, "it has no answer");
    } else if (c->control == CONTROL_SHOWN) {
        v->word = "shown";
        snprintf(v->detail, sizeof v->detail, "to be compared by the reader");
    } else if (!against) {
        snprintf(v->detail, sizeof v->detail, "there is no job without edits to hold it against");
    } else if (!against->attempt) {
        snprintf(v->detail, sizeof v->detail, "'%.150s' has no answer", label);
    } else {
        if (compare(g, c->control, n->attempt, against->attempt, v, e)) return -1;
        if (!strcmp(v->word, "pass") && !*v->detail)
            snprintf(v->detail, sizeof v->detail, "%s %.150s", c->control == CONTROL_SAME ? "bit-equal to" : "as", label);
    }
    return 0;
}

/* "noop" of "zero~noop". */
static const char *kind_of(const struct job *c)
{
    const char *tilde = strrchr(c->condition_name, '~');
    return tilde ? tilde + 1 : c->condition_name;
}

static void count(struct control_sum *sum, const struct job *c, const struct verdict *v)
{
    bool pass = !strcmp(v->word, "pass");
    sum->same += c->control == CONTROL_SAME;
    sum->same_pass += c->control == CONTROL_SAME && pass;
    sum->close += c->control == CONTROL_CLOSE;
    sum->close_pass += c->control == CONTROL_CLOSE && pass;
    sum->shown += !strcmp(v->word, "shown");
    sum->missing += !strcmp(v->word, "missing");
    if (!strcmp(v->word, "fail") && !sum->fail++)
        snprintf(sum->failed, sizeof sum->failed, "%.100s: %.150s", c->label, v->detail);
}

static int judge_all(struct judging *g, struct control_sum *sum, err *e)
{
    int i;
    if (load_newest(g, e)) return -1;
    for (i = 0; i < g->j->n; i++) {
        const struct job *c = &g->j->jobs[i];
        struct verdict v;
        if (c->control == CONTROL_NONE) continue;
        if (judge(g, c, &g->newest[i], &v, e)) return -1;
        count(sum, c, &v);
        if (db_run(g->db, &g->put, e,
                   "INSERT OR REPLACE INTO control(spec_job_id,kind,of_id,against_id,verdict,detail)"
                   " VALUES(?,?,nullif(?,-1),nullif(?,-1),?,?)",
                   "isiiss", g->newest[i].spec_job, kind_of(c),
                   c->control_of < 0 ? (int64_t)-1 : g->newest[c->control_of].spec_job,
                   c->against < 0 ? (int64_t)-1 : g->newest[c->against].spec_job, v.word, v.detail))
            return -1;
    }
    return 0;
}

int control_judge(store *st, const struct jobs *j, struct control_sum *sum, err *e)
{
    struct judging g = {.st = st, .db = store_sqlite(st), .j = j};
    int i, r, any = 0;
    *sum = (struct control_sum){0};
    for (i = 0; i < j->n && !any; i++) any = j->jobs[i].control != CONTROL_NONE;
    if (!any) return 0;
    g.newest = mem_array((size_t)j->n, sizeof *g.newest);
    r = db_run(g.db, NULL, e, "BEGIN IMMEDIATE", "");
    if (!r) r = judge_all(&g, sum, e);
    if (!r) r = db_run(g.db, NULL, e, "COMMIT", "");
    if (r) db_rollback(g.db);
    sqlite3_finalize(g.steps);
    sqlite3_finalize(g.chunks);
    sqlite3_finalize(g.put);
    free(g.newest);
    return r ? err_in(e, "controls") : 0;
}
