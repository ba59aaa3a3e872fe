/* store_peek.c: what the file knows of the jobs of a plan: reads, and makes no file. */
#include "map.h"
#include "store_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct peeking {
    sqlite3 *db;
    sqlite3_stmt *attempts, *moments, *chunks;
    struct map *runs; /* row of `run` -> index */
    struct peek *out;
};

/* Moments that the job wants and the attempt has not: MOMENT_* bits; -1: error. *records: whether what is recorded is there. */
static int lacking(struct peeking *p, int64_t attempt, const struct job *j, int *records, err *e)
{
    int lacks = j->moments, r = 0;
    *records = store_has_records(p->db, &p->chunks, attempt, j, e);
    if (*records < 0) return -1;
    if (lacks)
        r = db_query(p->db, &p->moments, e, "SELECT DISTINCT moment FROM kv_capture WHERE attempt_id=? AND complete=1", "i",
                     attempt);
    for (; r == 1; r = db_next(p->db, p->moments, e)) {
        const char *moment = (const char *)sqlite3_column_text(p->moments, 0);
        int i;
        for (i = 0; i < STORE_MOMENTS; i++)
            if (strcmp(moment, store_moments[i]) == 0) lacks &= ~(MOMENT_PREFILL << i);
    }
    return r < 0 ? -1 : lacks;
}

static int run_index(struct peeking *p, int64_t run)
{
    struct peek *o = p->out;
    int i = map_put(p->runs, &run, sizeof run, o->n_runs);
    if (i >= 0) return i;
    o->runs = mem_grow(o->runs, (size_t)o->n_runs + 1, sizeof *o->runs);
    o->runs[o->n_runs] = (struct peek_run){.id = run};
    return o->n_runs++;
}

/* The newest attempt that is good enough, else the most that can be said. */
static int peek_job(struct peeking *p, const struct job *j, const char *numerics, int i, err *e)
{
    struct peek *o = p->out;
    int r = db_query(p->db, &p->attempts, e,
                     "SELECT a.id, a.run_id, a.status='done', a.numerics=? FROM job JOIN attempt a ON a.job_id=job.id"
                     " WHERE job.key=? ORDER BY a.id DESC",
                     "sb", numerics, j->key, sizeof j->key);
    for (; r == 1; r = db_next(p->db, p->attempts, e)) {
        bool done = sqlite3_column_int(p->attempts, 2), same = sqlite3_column_int(p->attempts, 3);
        enum stored what = !done ? STORED_FAILED : same ? STORED_LESS : STORED_ELSEWHERE;
        int lacks, records;
        if (what == STORED_LESS) {
            lacks = lacking(p, sqlite3_column_int64(p->attempts, 0), j, &records, e);
            if (lacks < 0) r = -1;
            if (lacks == 0 && records) what = STORED_ANSWER;
            if (what == STORED_LESS && o->what[i] < STORED_LESS) o->lacks[i] = lacks > 0 ? lacks : 0;
        }
        if (r < 0) break;
        if (what > o->what[i]) o->what[i] = what;
        if (what != STORED_ANSWER) continue;
        o->run[i] = run_index(p, sqlite3_column_int64(p->attempts, 1));
        o->runs[o->run[i]].n++;
        sqlite3_reset(p->attempts);
        return 0;
    }
    return r < 0 ? -1 : 0;
}

static int name_runs(struct peeking *p, err *e)
{
    sqlite3_stmt *find = NULL;
    int i, r = 0;
    for (i = 0; i < p->out->n_runs && r >= 0; i++) {
        struct peek_run *run = &p->out->runs[i];
        r = db_query(p->db, &find, e, "SELECT uuid, date(started_ms / 1000, 'unixepoch') FROM run WHERE id=?", "i", run->id);
        if (r != 1) continue;
        snprintf(run->uuid, sizeof run->uuid, "%s", sqlite3_column_text(find, 0));
        snprintf(run->day, sizeof run->day, "%s", sqlite3_column_text(find, 1));
    }
    sqlite3_finalize(find);
    return r < 0 ? -1 : 0;
}

int store_peek(const char *path, const struct jobs *j, const char *numerics, struct peek *out, err *e)
{
    struct peeking p = {.out = out};
    int i, rc = 0;
    *out = (struct peek){.what = mem_array((size_t)j->n, sizeof *out->what),
                         .run = mem_array((size_t)j->n, sizeof *out->run),
                         .lacks = mem_array((size_t)j->n, sizeof *out->lacks)};
    if (access(path, F_OK) != 0) return 0;
    if (db_open_read(&p.db, path, e)) {
        peek_free(out);
        return -1;
    }
    p.runs = map_new();
    for (i = 0; i < j->n && rc == 0; i++) {
        int first = j->jobs[i].same_as;
        if (first < 0) {
            rc = peek_job(&p, &j->jobs[i], numerics, i, e);
            continue;
        }
        out->what[i] = out->what[first];
        out->run[i] = out->run[first];
        out->lacks[i] = out->lacks[first];
    }
    if (rc == 0) rc = name_runs(&p, e);
    sqlite3_finalize(p.attempts);
    sqlite3_finalize(p.moments);
    sqlite3_finalize(p.chunks);
    db_close(p.db);
    map_free(p.runs);
    if (rc) peek_free(out);
    return rc;
}

void peek_free(struct peek *p)
{
    free(p->what);
    free(p->run);
    free(p->lacks);
    free(p->runs);
    *p = (struct peek){0};
}
