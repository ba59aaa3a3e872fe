/* metric_pass.h: jobs' caches made again and fed tokens, for metrics that need logits which are not stored.
 *
 * A cache is made by the families as for a run; tokens follow in blocks, cut only where a job changes its cache between steps.
 * By the arithmetic contract the logits have the bits of the run's.
 *
 *     struct pass_feeder feeder = {.spec = s, .en = en, .jobs = jobs, .how = PROGRESS_AUTO};
 *     struct metric_passes passes = metric_pass_with(&feeder);
 *     metric_compute(st, s, jobs, &passes, e);
 */
#ifndef RUNNER_METRIC_PASS_H
#define RUNNER_METRIC_PASS_H

#include "family.h"
#include "metric.h"
#include "progress.h"

struct pass_feeder {
    const struct spec *spec;
    engine *en;
    const struct jobs *jobs;
    enum progress_how how;
    struct families *families; /* between open and close */
    struct progress progress;
    bool telling;
    int64_t since_ms;
};

struct metric_passes metric_pass_with(struct pass_feeder *f);

#endif
