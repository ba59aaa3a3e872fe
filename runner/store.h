/* store.h: the results database: what was asked, what was answered, what the caches were. One SQLite file.
 *
 * One store = one connection with the right to write; one thread at a time. Everything about a job is committed in one
 * transaction or not at all. Tables: results-schema.sql (compiled in). Readers: query.h.
 *
 *     store *st;
 *     store_open(&st, "results.db", e);                       // makes the file when it is missing
 *     store_begin(st, &(struct run_info){...}, e);            // experiment, spec, model, prompts, jobs, run: one transaction
 *     if (!store_has(st, i, e)) { compute; store_put(st, &result, e); }
 *     store_end(st, "done", 0, e);
 *     store_close(st);
 */
#ifndef RUNNER_STORE_H
#define RUNNER_STORE_H

#include "job.h"
#include "logits.h"

typedef struct store store;

/* What can change a bit, or must be told when citing a number; one row of `environment`. */
struct environment {
    const char *host, *os, *cpu;
    int64_t ram_bytes;
    const char *isa;
    int threads;
    const char *version, *git_commit;
    int git_dirty;
    const char *compiler, *build_flags, *libs_json;
};

struct run_info {
    const struct spec *spec;
    const engine *en;
    const struct jobs *jobs;
    const struct environment *env;
    const char *argv_json, *cwd;
    bool fresh; /* earlier answers are not reused */
};

/* What was recorded at one site while the prompt was fed. */
struct activation {
    const struct job_record *record;
    int width;     /* numbers of one position in one layer */
    float *values; /* (record->n_layers, record->n_at, width) */
};

/* The answer to one job. Everything is borrowed until store_put returns. */
struct result {
    int job;                      /* index into jobs; labels with the same key share the attempt */
    const struct gen_pick *picks; /* (n) */
    int n;
    const char *text; /* bytes as generated; the store replaces what is not UTF-8 and says so */
    size_t text_len;
    enum gen_stop stop;
    int64_t prefill_us, decode_us; /* decode: this job's share of its batch */
    int64_t started_ms;
    struct snapshot { /* caches as they were; forks that nobody writes to */
        int moment;   /* one of MOMENT_* */
        const cache *cache;
        int n_tok; /* tokens 0..n_tok-1 are stored */
    } snapshots[3];
    int n_snapshots;
    const struct activation *activations; /* (n_activations) */
    int n_activations;
    const struct answer *answers; /* (n_answers) what the logits behind the prompt say */
    int n_answers;
    const err *failed; /* NULL: done; else the attempt is recorded as failed with this message */
};

/* Opens or creates; application_id, schema version and integrity of the header are checked. ERR_DB; never deletes a file. */
int store_open(store **out, const char *path, err *e);
void store_close(store *st); /* NULL is fine; checkpoints the WAL */

/* Registers the run; runs left 'running' by a dead process on this host become 'lost'. */
int store_begin(store *st, const struct run_info *info, err *e);
/* 1: an answer of this numerics with all wanted captures is there (0 when info.fresh), 0: not, -1: error. */
int store_has(store *st, int job, err *e);
/* One transaction: attempt, generation, steps, tokens, captures. On failure nothing of the job is in the file. */
int store_put(store *st, const struct result *r, err *e);
/* The run's end; metrics (metric.h) and verdicts (control.h) come before it. */
int store_end(store *st, const char *status, int exit_code, err *e);

const char *store_run_uuid(const store *st); /* after store_begin */

/* What a file has of a job; each is worth more than those above it. */
enum stored {
    STORED_NOTHING,
    STORED_FAILED,    /* attempts that failed */
    STORED_ELSEWHERE, /* an answer of other numerics */
    STORED_LESS,      /* an answer without all the captures that are wanted now */
    STORED_ANSWER,    /* store_has would say 1 */
};

struct peek {
    enum stored *what; /* (jobs->n) */
    int *run;          /* (jobs->n) STORED_ANSWER: index into runs */
    int *lacks;        /* (jobs->n) STORED_LESS: MOMENT_* that are missing; 0: activations are */
    struct peek_run {
        int64_t id;
        char uuid[37], day[11]; /* day: 2026-11-21, UTC */
        int n;                  /* jobs whose answer it made */
    } * runs;                   /* (n_runs) */
    int n_runs;
};

/* Reads the file at path; a missing file has nothing. */
int store_peek(const char *path, const struct jobs *j, const char *numerics, struct peek *out, err *e);
void peek_free(struct peek *p);

/* For metric*.c and control.c: the connection, the ids and the engine of the current run. */
struct sqlite3;
struct sqlite3 *store_sqlite(store *st);
int64_t store_spec_id(const store *st);
const engine *store_engine(const store *st);
/* What logits say of a token, into an attempt; one that is there stays. No transaction of its own. */
int store_answer(store *st, int64_t attempt, const struct answer *a, err *e);

/* Prepares sql, binds by `types` ('i' int64_t, 'd' double, 's' string, 'b' bytes + size_t), steps to the end. -1: e. */
int store_exec(store *st, err *e, const char *sql, const char *types, ...);

#endif
