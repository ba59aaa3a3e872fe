/* plan.h: what a run would do, before it does it.
 *
 *     struct buf out = {0};
 *     plan_text(&(struct planned){.s = s, .en = en, .jobs = jobs}, &out);
 */
#ifndef RUNNER_PLAN_H
#define RUNNER_PLAN_H

#include "only.h"
#include "store.h"

struct planned {
    const struct spec *s;
    const engine *en;
    const struct jobs *jobs;
    const struct peek *peek; /* what is stored; NULL: nothing */
    const struct only *only; /* what is asked for; NULL: all */
    bool reasons;            /* text: why jobs run, condition by condition */
    const char *db;          /* the file whose disk must have room, or NULL */
};

/* Jobs by condition and prompt, how sweeps add up, positions of every slot and edit with the tokens around them, cost. */
void plan_text(const struct planned *what, struct buf *out);
/* One JSON document: {"experiment":..,"jobs":[{"label":..,"key":..,"ops":[..],"key_json":"the hashed
   bytes",..},..],"model":{..}}. Operations are resolved to lists of indices. */
void plan_json(const struct planned *what, struct buf *out);

#endif
