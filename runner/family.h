/* family.h: what jobs share, computed once, kept while a job that is still to run needs it.
 *
 * Jobs of one prompt are a family: they fork one cache. Donors are caches or vectors of other prompts, or of jobs with edits.
 * Jobs that are edited in flight start from the pass they share and compute what lies behind and above their own edits. The
 * families own all this; a fork belongs to the job.
 */
#ifndef RUNNER_FAMILY_H
#define RUNNER_FAMILY_H

#include "writer.h"

struct families;

struct families *family_open(const struct spec *s, engine *en, const struct jobs *jobs, const int *pending, int n);
void family_close(struct families *f); /* NULL is fine */
/* From now on every fork has out's logits, or leaves the last prompt token to feed. */
void family_keep_logits(struct families *f);
/* Makes the jobs' caches, together: prefill if it is the first of its family, fork, edits. Fills each out's row (cache, feed,
   watch, steps), job, captures of the moments before decoding, prefill time; the logits behind the prompt when a metric asks
   for tokens there; error when this one failed. */
void family_fork_all(struct families *f, const int *jobs, int n, struct finished **out);
/* The same for one. */
int family_fork(struct families *f, int job, struct finished *out, err *e);
/* Whether the job feeds its prompt by itself: it is edited or recorded in flight. */
bool family_watched(const struct job *j);
/* The job is computed: what no later job needs is freed, and what its row pointed to. */
void family_done(struct families *f, struct finished *out);

#endif
