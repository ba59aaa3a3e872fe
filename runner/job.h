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

/* What an `add` adds: rows of a file, or the vector of one place minus that of another, each of an unedited pass. */
struct job_vector {
    const float *rows;  /* (n_rows, width); NULL: a difference */
    int n_rows;         /* 1: the same in every layer; else the operation's layers in their order */
    uint8_t sha256[32]; /* of the rows' f32 bytes */
    const char *file;   /* as the spec names it */
    struct job_place {
        int prompt, at;
    } from, minus;
};

struct job_op {
    enum edit_op op;
    enum op_when when;
    int tensors;              /* CACHE_K | CACHE_V, or one of SITE_* */
    int *layers, *heads, *at; /* (n_*) resolved, rising; a layer -1 is the embeddings; a site without heads has n_heads 0 */
    int n_layers, n_heads, n_at;
    int donor_prompt; /* index of the donor's prompt, or -1 */
    int *donor_at;    /* (n_at) */
    bool rerotate;
    float by;                        /* scale, add */
    const struct job_vector *vector; /* add; else NULL */
};

/* What is recorded at one site while the prompt is fed. No two of a job share a site and a layer. */
struct job_record {
    int site;
    const int *layers, *at; /* (n_layers), (n_at) rising; a layer -1 is the embeddings, that of SITE_LOGITS is 0 */
    int n_layers, n_at;
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
    enum after_edit after; /* AFTER_NONE without edits of the finished cache */
    int moments;           /* MOMENT_* to capture */
    const struct job_record *records;
    int n_records;
    int baseline; /* index of the first job of this prompt without edits, or -1 */
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

/* The words of the spec: "zero"; "kv", "resid"; "prefill". layer -1 of SITE_RESID is "embed". */
const char *job_op_name(enum edit_op op);
const char *job_tensor_name(int tensors, int layer);
const char *job_when_name(enum op_when when);
/* x as the shortest decimal that reads back as the same float: what a key says of `by`. out: 16 bytes are enough. */
void job_number(float x, char out[16]);
/* Bytes of f32 that a job's records take. */
int64_t job_record_bytes(const engine *en, const struct jobs *jobs, const struct job *j);

#endif
