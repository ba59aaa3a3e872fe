/* job_parts.h: what job.c, job_op.c and job_key.c share while a spec is expanded. */
#ifndef RUNNER_JOB_PARTS_H
#define RUNNER_JOB_PARTS_H

#include "job.h"
#include "map.h"

/* Positions that a selector means in a prompt; n = -1: it means none, which has been told. */
struct chosen {
    int *at, n;
};

/* The values of an axis on a prompt. */
struct axis_list {
    struct axis_value *v;
    int n;
};

/* The jobs of a condition on a prompt, each by its values of the axes. */
struct combinations {
    struct axis_value **values; /* (n) each (n_over), freed by the caller; what it points to is in mem */
    int n, cap, n_over;
};

enum { JOBS_MAX = 1000000 };

struct expand {
    const struct spec *s;
    const engine *en;
    const struct engine_info *info;
    struct bound_prompt *prompts;
    struct diag *d;
    arena *mem;          /* of the jobs */
    const char *model;   /* for messages */
    struct map *selects; /* prompt and selector -> index into chosen */
    struct chosen *chosen;
    int n_chosen;
    const char **ids, **caches; /* (n_prompts) "sha256:..": the prompt's ids; its finished, unedited cache */
    const char *model_hash, *tokenizer_hash;
    int *stop; /* (n_stop) ids that end a text here: rising, no doubles */
    int n_stop;
    struct map *files; /* vector file and tensor -> index into vectors */
    struct job_file *vectors;
    int n_vectors;
    const struct job *job;   /* whose operations are being resolved */
    int *feed;               /* (n_prompts) see struct jobs */
    struct job_wish *wishes; /* (n_wishes) donors with edits, see job_donor.c */
    int n_wishes;
    struct job_stored *stored; /* the database of stored donors that was read last, or NULL */
    int *absent_of;            /* of each prompt behind the spec's: index of the job that is held against it */
    int n_prompts;             /* the spec's, then those that controls need */
    struct axis_list *axes;    /* (n_prompts, n_axes) */
    struct job_sum *sums;      /* (n_conditions) */
    int *matched;              /* (n_excludes) combinations that a rule means, removed or not */
    struct job_wanted *wanted; /* (n_prompts, n_conditions + 1) records of a condition, the last one of controls */
};

/* ---- job_axis.c: grids ---- */

int job_axes(struct expand *x); /* fills x->axes; -1: d tells */
void job_sums_start(struct expand *x);
const struct axis_list *job_axis(const struct expand *x, int prompt, int axis);
/* Combinations of a condition on a prompt before exclude and include, max + 1 when there are more. */
int64_t job_grid_size(const struct expand *x, int prompt, int condition, int64_t max);
/* In the order of jobs. Once per prompt and condition: they are counted in x->sums. -1: d tells. */
int job_combinations(struct expand *x, int prompt, int condition, struct combinations *out);
int job_rules_check(const struct expand *x); /* every rule has removed something, else -1: d tells */

/* Positions of a prompt that a selector means; found once. warn: an operation will change them. n = -1: told why not. */
struct chosen job_choose(struct expand *x, int prompt, const struct select *sel, bool warn);
/* Positions 0..n-1 of a prompt are in its finished cache when that is edited. */
int job_held(const struct expand *x, int prompt);
/* Counts the tokens of every prompt that are fed behind an edit of its finished cache. -1: d tells. */
int job_feeds(struct expand *x);

/* Layers, heads, positions and donor of an operation on a prompt. -1: d tells. */
int job_op_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out);
/* Heads that an operation can choose: kv heads, query heads, or 0. */
int job_op_heads(const struct engine_info *info, enum edit_op op, int tensors);

/* ---- job_donor.c ---- */

/* The prompt that a donor of an operation on `prompt` names, or -1: d tells. */
int job_donor(const struct expand *x, int prompt, const struct donor *d);
/* Where a transplant or a swap takes its values; the places of out that get none are left out. -1: d tells. */
int job_donor_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out);
/* The places whose mean is taken. -1: d tells. */
int job_mean_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out);
/* Finds the jobs that are donors, when all are made. -1: d tells. */
int job_donors_find(struct expand *x, struct jobs *all);
int job_check_held(const struct expand *x, int prompt, const struct select *sel, const int *at, int n, bool donor);

/* ---- job_stored.c ---- */

/* Values that an earlier run stored, for the places of out. -1: d tells. */
int job_stored_resolve(struct expand *x, const struct op *op, struct job_op *out);
void job_stored_close(struct job_stored *s); /* NULL is fine */

/* ---- job_control.c ---- */

/* The most controls that the spec may make, in jobs and in prompts, for the room of all. */
void job_control_room(const struct spec *s, int *jobs, int *prompts);
/* The controls of a prompt, whose jobs start at `first`. -1: d tells. */
int job_controls(struct expand *x, struct jobs *all, int prompt, int first);
/* The jobs on prompts that controls made, behind all others. -1: d tells of a control that no condition has. */
int job_controls_end(struct expand *x, struct jobs *all);
const char *job_label(arena *mem, const struct spec *s, const struct job *j);
void job_finish_parts(struct expand *x, struct job *j); /* after, moments */

/* The vector of an `add`, whose other parts are in out. -1: d tells. */
int job_vector_resolve(struct expand *x, int prompt, const struct op_vector *v, struct job_op *out);

/* What the captures of the spec record of a job; condition -1: a control. -1: d tells. */
int job_records(struct expand *x, struct job *j);
/* Adds to `to` what `from`, a job with the same key, records. */
void job_records_join(struct expand *x, struct job *to, const struct job *from);

/* Tokens of the answers that metrics name, and whether the caches that they need are captured. -1: d tells. */
int job_metrics(struct expand *x, struct jobs *all);

/* Fills what all keys share: model_hash .. n_stop. -1: e. */
int job_key_start(struct expand *x, err *e);
/* Fills key_json and key; those of the jobs that are donors are there. -1: e. */
int job_key(const struct expand *x, const struct jobs *all, struct job *j, err *e);

#endif
