/* bench.h: speed of this machine with a model: decoding, prefill, every operation, beside limits measured on the spot. */
#ifndef RUNNER_BENCH_H
#define RUNNER_BENCH_H

#include "options.h"

int bench(const struct options *o, FILE *out, err *e);

#endif
