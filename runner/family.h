/* family.h: the prompts' finished caches, computed once, kept while a job that is still to run needs them.
 *
 * Jobs of one prompt are a family: they fork one cache. A transplant also needs the donor prompt's cache. The families own
 * these caches; a fork belongs to the job.
 */
#ifndef RUNNER_FAMILY_H
#define RUNNER_FAMILY_H

#include "writer.h"

struct families;

struct families *family_open(const struct spec *s, engine *en, const struct jobs *jobs, const int *pending, int n);
void family_close(struct families *f); /* NULL is fine */
/* From now on every fork has out's logits, or leaves the last prompt token to feed. */
void family_keep_logits(struct families *f);
/* Makes the job's cache: prefill if it is the first of its family, fork, edits. Fills out's row (cache, feed), job, captures
   of the moments before decoding, prefill time; and the logits behind the prompt when a metric asks for tokens there. */
int family_fork(struct families *f, int job, struct finished *out, err *e);
/* Whether the job feeds its prompt by itself: it is edited or recorded in flight. */
bool family_watched(const struct job *j);
/* The job is computed: caches that no later job needs are freed. */
void family_done(struct families *f, int job);

#endif
