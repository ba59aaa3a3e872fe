/* metric.h: numbers computed after the run from what is stored, so that adding one costs no new run.
 *
 *   mentions          1 when the text holds one of the words as a whole word, else 0. `own`/`other`: words of the prompt's own
 *                     name or of the other one of its pair. casefold: compared after Unicode case folding (utf8proc).
 *   first_divergence  first step at which the tokens differ from the same prompt's job of the condition `against`; a text that
 *                     ends earlier differs at its end; NULL with flag 'undefined' when they never differ.
 */
#ifndef RUNNER_METRIC_H
#define RUNNER_METRIC_H

#include "store.h"

/* Computes all metrics of the spec for every stored answer of its jobs, in one transaction. */
int metric_compute(store *st, const struct spec *s, const struct jobs *j, err *e);

#endif
