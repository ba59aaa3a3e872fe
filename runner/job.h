/* job.h: a bound spec becomes jobs, in a fixed order, each with an id made of its content.
 *
 * Order: prompts (file order) x conditions (file order, then controls) x axes (declared order, last fastest).
 * Label: prompt/condition[/axis=value...]. Key: SHA-256 of a canonical JSON (sorted keys, no spaces) that holds all that can
 * change the answer and nothing else: model hash, tokenizer hash, token ids, cache type, decode settings, resolved operations
 * (a donor by the key of its job). Two labels may have one key: then the job runs once.
 *
 *     struct jobs *j;
 *     if (job_expand(&j, s, en, prompts, d, e)) ...
 *     for (i = 0; i < j->n; i++) use(&j->jobs[i]);
 *     job_free(j);
 */
#ifndef RUNNER_JOB_H
#define RUNNER_JOB_H

#include "bind.h"

struct job_op {
    enum edit_op op;
    int tensors;
    int *layers, *heads, *at; /* (n_*) resolved, rising */
    int n_layers, n_heads, n_at;
    int donor_prompt; /* index of the donor's prompt, or -1 */
    int *donor_at;    /* (n_at) */
    bool rerotate;
};

struct job {
    const char *label;
    const char *condition_name; /* as in the label: "zero", "noop" */
    int prompt;                 /* index into prompts */
    int condition;              /* index into spec->conditions, or -1: a control made by kvrun */
    struct axis_value *values;  /* (n_values) */
    int n_values;
    struct job_op *ops; /* (n_ops) */
    int n_ops;
    enum after_edit after; /* AFTER_NONE without edits */
    int moments;           /* MOMENT_* to capture */
    int baseline;          /* index of the first job of this prompt without edits, or -1 */
    uint8_t key[32];
    const char *key_json; /* the exact bytes that were hashed */
    int same_as;          /* index of the earlier job with this key, or -1 */
};

struct jobs {
    arena *mem;
    struct job *jobs; /* (n) */
    int n;
    struct bound_prompt *prompts; /* borrowed, (spec->n_prompts) */
};

/* *out only on success; job_free frees it. -1: d tells, or e. */
int job_expand(struct jobs **out, const struct spec *s, const engine *en, struct bound_prompt *prompts, struct diag *d, err *e);
void job_free(struct jobs *j); /* NULL is fine */

#endif
