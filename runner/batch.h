/* batch.h: the jobs of a run that have no answer yet, computed batch by batch.
 *
 * The loop belongs to run.c: it fills r, st, pending, opens families, writer and progress, and closes them again.
 *
 *     l.w = writer_start(l.st, batch_writer_room(&l));
 *     rc = batch_run(&l, e);
 */
#ifndef RUNNER_BATCH_H
#define RUNNER_BATCH_H

#include "control.h"
#include "family.h"
#include "progress.h"
#include "run.h"
#include "writer.h"

struct loop {
    struct run *r;
    store *st;
    writer *w;
    struct families *fam;
    struct progress progress;
    int64_t started_ms; /* behind the loading, before the database is opened */
    int *pending;       /* (n_pending) indices of jobs */
    int n_pending, n_reused, n_failed;
    struct control_sum controls;
    int rows;  /* jobs of a batch; halved when memory runs out */
    int tried; /* 1 + the job that found no memory even alone */
};

/* Finished jobs that may wait for the writer. */
int batch_writer_room(const struct loop *l);
/* Computes the pending jobs and hands each to the writer. Single jobs that fail are stored as failed and counted. -1: what
   stopped it all is in e, or a signal came, or the writer's failure is for writer_finish to tell. */
int batch_run(struct loop *l, err *e);

#endif
