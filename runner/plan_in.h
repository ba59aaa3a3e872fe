/* plan_in.h: what the parts of a plan share, for plan*.c alone. */
#ifndef RUNNER_PLAN_IN_H
#define RUNNER_PLAN_IN_H

#include "plan.h"

struct plan {
    const struct spec *s;
    const engine *en;
    const struct engine_info *info;
    const struct jobs *jobs;
    const struct planned *what;
    arena *mem;
    struct buf *out;
};

enum fate { FATE_NONE, FATE_RUN, FATE_REUSE, FATE_SAME };

/* NONE: not asked for. A job that shares its key with an earlier one does not run, and one with a stored answer does not. */
enum fate plan_fate(const struct plan *p, int job);
void plan_pad(struct buf *b, const char *s, int width); /* s and spaces, to `width` columns */

/* plan_jobs.c */
void plan_counts(const struct plan *p);  /* how many run, and why */
void plan_grid(const struct plan *p);    /* by condition and prompt */
void plan_sums(const struct plan *p);    /* how sweeps add up */
void plan_reasons(const struct plan *p); /* by condition */
/* "new", "needs capture end", ... */
const char *plan_why(const struct plan *p, int job);

/* plan_disk.c: bytes of the chunks that no other of this run equals, before packing and at most; what the disk of a database
   has room for, or -1 */
double plan_unique_bytes(const struct plan *p);
double plan_free_bytes(const char *db);

#endif
