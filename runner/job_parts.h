/* job_parts.h: what job.c, job_op.c and job_key.c share while a spec is expanded. */
#ifndef RUNNER_JOB_PARTS_H
#define RUNNER_JOB_PARTS_H

#include "job.h"
#include "map.h"

/* Positions that a selector means in a prompt; n = -1: it means none, which has been told. */
struct chosen {
    int *at, n;
};

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
    struct job_wanted *wanted; /* (n_prompts, n_conditions + 1) records of a condition, the last one of controls */
};

/* Positions of a prompt that a selector means; found once. warn: an operation will change them. n = -1: told why not. */
struct chosen job_choose(struct expand *x, int prompt, const struct select *sel, bool warn);
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

/* Tokens of the answers that metrics name, and whether the caches that they need are captured. -1: d tells. */
int job_metrics(struct expand *x, struct jobs *all);

/* Fills what all keys share: model_hash .. n_stop. -1: e. */
int job_key_start(struct expand *x, err *e);
/* Fills key_json and key. -1: e. */
int job_key(const struct expand *x, struct job *j, err *e);

#endif
