/* only.h: the jobs that --only asks for, and those whose answers or caches they need.
 *
 *     struct only o;
 *     if (only_choose(&o, s, jobs, globs, n, e)) ...     // ERR_INPUT: a pattern that no label has
 *     if (o.needed[i]) compute; if (o.asked[i]) show;
 *     only_free(&o);
 */
#ifndef RUNNER_ONLY_H
#define RUNNER_ONLY_H

#include "job.h"

struct only {
    bool *asked;  /* (jobs->n) its label is like one of the patterns; without patterns all are */
    bool *needed; /* (jobs->n) asked for, or what such a job is made from or measured against */
    int n_asked, n_needed;
};

/* A pattern is a label with * ? [..], where * also stands for slashes. */
int only_choose(struct only *o, const struct spec *s, const struct jobs *jobs, const char *const *globs, int n, err *e);
void only_free(struct only *o);

#endif
