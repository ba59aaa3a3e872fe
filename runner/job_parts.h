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
};

/* Layers, heads, positions and donor of an operation on a prompt. -1: d tells. */
int job_op_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out);

/* Fills what all keys share: model_hash .. n_stop. -1: e. */
int job_key_start(struct expand *x, err *e);
/* Fills key_json and key. -1: e. */
int job_key(const struct expand *x, struct job *j, err *e);

#endif
