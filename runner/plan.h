/* plan.h: what a run would do, before it does it.
 *
 *     struct buf out = {0};
 *     plan_text(s, en, jobs, NULL, &out);
 */
#ifndef RUNNER_PLAN_H
#define RUNNER_PLAN_H

#include "job.h"

/* Jobs by condition and prompt, positions of every slot and edit with the tokens around them, cost.
   reuse: (jobs->n) true where a stored answer counts; NULL: nowhere. */
void plan_text(const struct spec *s, const engine *en, const struct jobs *jobs, const bool *reuse, struct buf *out);
/* One JSON document: {"experiment":..,"jobs":[{"label":..,"key":..,"ops":[..],"key_json":"the hashed
   bytes",..},..],"model":{..}}. Operations are resolved to lists of indices. */
int plan_json(const struct spec *s, const engine *en, const struct jobs *jobs, const bool *reuse, struct buf *out, err *e);

#endif
