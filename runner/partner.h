/* partner.h: the job that another one is compared with: of a condition and a prompt's name, with the same values of the axes
 * that both have. Found through an index, so that a hundred thousand jobs cost no more than a look each.
 *
 *     struct partners *p = partner_new(spec, jobs);
 *     int other = partner_of(p, job, jobs->jobs[job].prompt, condition);     // -1: there is none
 *     partner_free(p);
 */
#ifndef RUNNER_PARTNER_H
#define RUNNER_PARTNER_H

#include "job.h"

struct partners;

struct partners *partner_new(const struct spec *s, const struct jobs *jobs);
void partner_free(struct partners *p); /* NULL is fine */
/* The first job of the condition on a prompt with the name of this one (an index into jobs->prompts) that agrees with `job` on
   every axis that both have. */
int partner_of(struct partners *p, int job, int prompt, int condition);

#endif
