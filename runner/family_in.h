/* family_in.h: the inside of the families, for family*.c alone. */
#ifndef RUNNER_FAMILY_IN_H
#define RUNNER_FAMILY_IN_H

#include "family.h"
#include "map.h"

struct base {
    cache *cache;          /* the finished cache, or NULL: not computed yet, or no longer needed */
    cache *whole;          /* the same with the last token fed, for edits in flight that take it; or NULL */
    struct gen_pick first; /* with reuse_logits: the pick before any edit */
    int64_t us;
    int users; /* jobs to run that need it, as prompt or as donor */
};

/* Vectors of a prompt's unedited pass. */
struct recording {
    int prompt, site;
    const int *layers, *at;
    int n_layers, n_at;
    float *values; /* (n_layers, n_at, width), or NULL: not recorded yet, or no longer needed */
    int users;     /* jobs to run that need it */
};

struct families {
    const struct spec *spec;
    const struct jobs *jobs;
    engine *en;
    struct base *bases; /* (n_prompts) */
    struct map *known;  /* prompt, site, layers and positions -> index into recordings */
    struct recording *recordings;
    int n_recordings;
    bool logits; /* those behind the prompt are wanted of every job */
};

/* The prompt's finished cache, computed when it is not there. */
int family_base(struct families *f, int prompt, struct base **out, err *e);
/* What an operation is for the engine; ed borrows from f and op. A vector made for it goes to *made: caller frees. */
int family_edit(struct families *f, const struct job_op *op, struct edit *ed, float **made, err *e);
void family_snapshot(struct finished *out, int moment, cache *c, int n_tok);
/* Applies the operations on a finished cache, which makes the moments before and after them. */
int family_finish(struct families *f, const struct job *j, struct finished *out, err *e);

/* ---- family_record.c: vectors of unedited passes ---- */

/* Adds `by` to the users of every recording that the operation needs; one without users is freed. */
void family_count_recordings(struct families *f, const struct job_op *op, int by);
/* The recorded vectors of a transplant at a site that no cache holds, (n_layers, n_at, width). */
int family_recorded(struct families *f, const struct job_op *op, const float **out, err *e);
/* What an `add` adds: (n_layers, width). Caller frees. */
int family_vector(struct families *f, const struct job_op *op, float **out, err *e);

/* ---- family_pass.c: jobs that are edited or recorded in flight ---- */

/* Whether the logits behind the job's prompt are wanted. */
bool family_wants_logits(const struct families *f, const struct job *j);
/* Makes the cache of such a job and feeds its whole prompt. */
int family_pass(struct families *f, const struct job *j, struct finished *out, err *e);

#endif
