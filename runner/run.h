/* run.h: a spec becomes answers in the database; the whole way of `kvrun FILE`, `kvrun plan` and `kvrun tokens`.
 *
 * run_open loads the spec, the model and the jobs, printing diagnostics to stderr; everything it made is freed by run_close.
 *
 *     struct run r;
 *     rc = run_open(&r, &options, e);        // exit code, 0: go on
 *     if (rc == 0) rc = run_jobs(&r, e);
 *     run_close(&r);
 */
#ifndef RUNNER_RUN_H
#define RUNNER_RUN_H

#include "job.h"
#include "only.h"
#include "options.h"

struct run {
    const struct options *o;
    struct spec *spec;
    struct diag *diag;
    engine *en;
    arena *mem; /* of the prompts */
    struct bound_prompt *prompts;
    struct jobs *jobs;
    struct only only;
    const char *db;     /* decisions.md 6 */
    int64_t loading_ms; /* what run_open took: most of it is reading, hashing and uploading the model */
};

/* These return the program's exit code; a message is in e unless it was printed as diagnostics. */
int run_open(struct run *r, const struct options *o, err *e);
int run_jobs(struct run *r, int argc, char **argv, err *e);
int run_plan(struct run *r, err *e); /* prints the plan; computes nothing */
void run_close(struct run *r);

#endif
