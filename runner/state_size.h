/* state_size.h: how large the state of models is, for `kvrun state-size`.
 *
 *     struct options o; struct buf out = {0};       // words of o: the models; --ctx, --dtype, --json
 *     if (state_size(&o, &out, e)) ...              // ERR_INPUT: options; ERR_ENV: a model that cannot be counted
 */
#ifndef RUNNER_STATE_SIZE_H
#define RUNNER_STATE_SIZE_H

#include "../engine/state.h"
#include "options.h"

/* Append to out: a page for people, or with --json one array of objects. */
int state_size(const struct options *o, struct buf *out, err *e);
/* The state sizes that the article behind this program printed, beside computed ones; state_seed.c. */
int state_seed(const struct options *o, struct buf *out, err *e);

/* Bytes of a number of --dtype; NULL is f16. */
int state_size_element(const char *dtype);
/* 46080 as "46,080"; 23592960 as "22.50 MiB". */
void state_size_grouped(char out[32], int64_t n);
void state_size_human(char out[32], int64_t bytes);

#endif
