/* table.h: the outcome table of a run, from what is stored: the last thing `kvrun FILE` prints. */
#ifndef RUNNER_TABLE_H
#define RUNNER_TABLE_H

#include "store.h"

/* Appends the table to out: a row per condition (with axis values), a column per prompt. A sweep of more than 40 rows shows
   the conditions without axes and says where the rest is. shown: (j->n) jobs that have a row. colour: "auto", "always", "never"
   or NULL. */
int table_outcome(const struct spec *s, const struct jobs *j, const bool *shown, store *st, const char *colour, struct buf *out,
                  err *e);

/* Appends the numbers of the metrics, a table each; those of mentions and first_divergence are seen in the texts. */
int table_metrics(const struct spec *s, const struct jobs *j, const bool *shown, store *st, struct buf *out, err *e);

#endif
