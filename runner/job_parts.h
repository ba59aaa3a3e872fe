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
    const struct job *job;     /* whose operations are being resolved */
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
/* Of the prompts with the name of `named`, the one with the values of the job that is being made, or -1: d tells. */
int job_same_values(const struct expand *x, int named, struct mark at);
/* The prompt that a donor of an operation on `prompt` names, or -1: d tells. */
int job_donor(const struct expand *x, int prompt, const struct donor *d);

/* Heads that can be chosen at a site: kv heads, query heads, or 0. */
int job_heads(const struct engine_info *info, int tensors);
/* Layers, heads, positions and donor of an operation on a prompt. -1: d tells. */
int job_op_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out);

/* The vector of an `add`, whose other parts are in out. -1: d tells. */
int job_vector_resolve(struct expand *x, int prompt, const struct op_vector *v, struct job_op *out);

/* What the captures of the spec record of a job; condition -1: a control. -1: d tells. */
int job_records(struct expand *x, struct job *j);
/* Adds to `to` what `from`, a job with the same key, records. */
void job_records_join(struct expand *x, struct job *to, const struct job *from);

/* Fills what all keys share: model_hash .. n_stop. -1: e. */
int job_key_start(struct expand *x, err *e);
/* Fills key_json and key. -1: e. */
int job_key(const struct expand *x, struct job *j, err *e);

#endif
