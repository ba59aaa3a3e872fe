/* control.h: the controls' verdicts, from what is stored. A control is a job that must not differ from another one; where it
 * does, something between the edit and the answer is broken, and no result of the experiment is to be trusted.
 *
 *   CONTROL_SAME   every token, log-probability and margin of `against`, bit for bit, and equal chunks of every cache and
 *                  activation that both have stored
 *   CONTROL_CLOSE  the tokens of `against` up to a first difference at which the two best logits are closer than 2e-3;
 *                  log-probabilities within 1e-3 up to there
 *   CONTROL_SHOWN  nothing must hold: its numbers stand beside those of the condition
 *
 *     struct control_sum sum;
 *     if (control_judge(st, jobs, &sum, e)) ...
 *     if (sum.fail) exit code 1
 */
#ifndef RUNNER_CONTROL_H
#define RUNNER_CONTROL_H

#include "store.h"

struct control_sum {
    int same, same_pass;      /* those that must be bit-equal, and that are */
    int close, close_pass;    /* those that need only be close */
    int fail, shown, missing; /* missing: one of the two has no answer; it is in same or close, too */
    char failed[256];         /* the first one that fails, and where */
};

/* Puts a row into `control` for every control; in one transaction. */
int control_judge(store *st, const struct jobs *j, struct control_sum *sum, err *e);

#endif
