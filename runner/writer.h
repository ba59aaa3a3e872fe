/* writer.h: the thread that packs and stores finished jobs while the next batch is computed.
 *
 * It is the only one that touches the store between writer_start and writer_finish. The queue is bounded: when packing is
 * slower than computing, writer_put waits, so memory does not grow with the number of jobs.
 *
 *     writer *w = writer_start(st, 32);
 *     writer_put(w, finished);            // takes it over; freed after it is stored
 *     if (writer_finish(w, e)) ...        // waits for the last one; the first failure of the store
 */
#ifndef RUNNER_WRITER_H
#define RUNNER_WRITER_H

#include "store.h"

typedef struct writer writer;

/* A result that owns what it points to. */
struct flight;
struct finished {
    struct result result;
    struct gen_row row; /* picks */
    char *text;
    cache *caches[3];               /* of result.snapshots */
    struct activation *activations; /* (result.n_activations) and their values */
    float *logits;                  /* (V) behind the prompt, or NULL: not wanted */
    struct answer *answers;         /* (result.n_answers) */
    struct flight *flight;          /* what the row points to while it is decoded: family.h's, until family_done */
    err error;                      /* of a failed job */
    struct finished *next;
};

void writer_drop(struct finished *f); /* frees one that was never put; NULL is fine */

writer *writer_start(store *st, int room);
/* Never fails by itself: after a failure of the store, results are dropped and writer_failed says so. */
void writer_put(writer *w, struct finished *f);
bool writer_failed(writer *w);
int writer_finish(writer *w, err *e); /* frees w */

#endif
