/* job.h: a bound spec becomes jobs, in a fixed order, each with an id made of its content.
 *
 * Order: prompts (file order) x conditions (file order, then controls) x axes (declared order, last fastest); behind them the
 * jobs on prompts that controls made.
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

/* Numbers that an operation brings along. An `add`: rows of a file, or the vector of one place minus that of another, each of
   an unedited pass. A mean: the places that it is taken over. A transplant of stored values: those values. */
struct job_vector {
    const float *rows;  /* (n_rows, width), or stored values (tensors K before V, layers, positions, width); NULL: none */
    int n_rows;         /* 1: the same in every layer; else the operation's layers in their order */
    uint8_t sha256[32]; /* of the rows' f32 bytes */
    const char *file;   /* as the spec names it; of stored values the label */
    struct job_place {
        int prompt, at;
    } from, minus;
    struct job_set {
        int prompt, job; /* job: see job_op.donor_job */
        const int *at;   /* (n) */
        int n;
    } * sets; /* (n_sets) of a mean */
    int n_sets;
};

/* Which of the candidates an operation takes is known only when the job runs: the rule stands in the key instead. */
struct job_score {
    enum select_score score;
    bool highest;
    int count; /* of the candidates, which are the operation's `at` */
};

struct job_op {
    enum edit_op op;
    enum op_when when;
    int tensors;              /* CACHE_K | CACHE_V, or one of SITE_* */
    int *layers, *heads, *at; /* (n_*) resolved, rising; a layer -1 is the embeddings; a site without heads has n_heads 0 */
    int n_layers, n_heads, n_at;
    const struct job_score *score; /* NULL: `at` is all there is to say */
    int first_step, last_step;     /* WHEN_STEPS: the passes that feed these new tokens, from 0 */
    int *gen_at;                   /* (n_gen_at) WHEN_STEPS: new tokens edited as they are fed; n_at is 0 then */
    int n_gen_at;
    int donor_prompt; /* index of the donor's prompt, or -1 */
    int donor_job;    /* index of the job whose edited cache or pass is taken, or -1: the prompt's unedited one */
    int *donor_at;    /* (n_at), or (n_gen_at); swap: the other places */
    bool rerotate;
    float by;                        /* scale, add */
    const struct job_vector *vector; /* add, mean, and transplants of stored values; else NULL */
    float sigma;                     /* noise */
    uint64_t seed;
    int bits; /* quantise */
    bool per_channel;
    bool compact; /* evict */
    int *queries; /* (n_queries) knockout; NULL: all */
    int n_queries;
};

/* What a control must show, see control.h. */
enum control {
    CONTROL_NONE,
    CONTROL_SAME,  /* noop, self_transplant: every token and number of the job `against`, bit for bit */
    CONTROL_CLOSE, /* absent: the tokens of `against`, numbers up to rounding */
    CONTROL_SHOWN, /* non_needle: nothing must hold; the reader compares */
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
    enum control control;
    int against;    /* index of the job that a control is held against, or -1 */
    int control_of; /* index of the job of a condition that it is a control of, or -1: of all the prompt's edits */
    uint8_t key[32];
    const char *key_json; /* the exact bytes that were hashed */
    int same_as;          /* index of the earlier job with this key, or -1 */
};

/* How many jobs a condition has, and why. */
struct job_sum {
    int *counts;     /* (n_written prompts, n_over) values of the axes */
    int64_t product; /* of them, over all prompts */
    int *removed;    /* (n_excludes) by the rules, in their order */
    int included;
};

/* Tokens that a metric's answers begin with on one prompt; -1: it has none there. b: the second one of a logit_diff. */
struct job_answer {
    int a, b;
};

/* Tokens that the metrics ask for behind a prompt, rising. */
struct job_asked {
    const int *ids; /* (n) */
    int n;
};

struct jobs {
    arena *mem;
    struct job *jobs; /* (n) */
    int n;
    struct bound_prompt
        *prompts; /* (n_prompts) the spec's, borrowed, then those that controls need: prompts without a needle */
    int n_prompts;
    int *feed;                  /* (n_prompts) last tokens that are fed behind an edit of the finished cache */
    const struct job_sum *sums; /* (n_conditions) of the spec */
    struct job_answer *answers; /* (spec's n_metrics, n_prompts) */
    struct job_asked *asked;    /* (n_prompts); NULL where jobs were made by hand */
};

/* *out only on success; job_free frees it. -1: d tells, or e. */
int job_expand(struct jobs **out, const struct spec *s, const engine *en, struct bound_prompt *prompts, struct diag *d, err *e);
void job_free(struct jobs *j); /* NULL is fine */

/* Index among the prompts as written: those of a name that differ along axes are one; a job on a prompt that was made for a
 * control belongs to the prompt it was made of. */
int job_spec_prompt(const struct spec *s, const struct jobs *jobs, int job);

/* The words of the spec: "zero"; "kv", "resid"; "prefill". layer -1 of SITE_RESID is "embed". */
const char *job_op_name(enum edit_op op);
const char *job_tensor_name(int tensors, int layer);
const char *job_when_name(enum op_when when);
/* x as the shortest decimal that reads back as the same float: what a key says of `by`. out: 16 bytes are enough. */
void job_number(float x, char out[16]);
/* What else an operation's JSON says, in the key and in the database: sigma, bits, queries, ... */
struct json_t;
void job_op_params(const struct job_op *op, struct json_t *o);
/* Appends bytes that are equal for two operations of one run that do the same. */
void job_op_bytes(const struct job_op *op, struct buf *b);
/* The positions or new tokens that an operation edits, and how many they are. */
const int *job_op_places(const struct job_op *op, int *n);
/* The moment at which the job's stored cache is what it was at `moment`: that one, or its twin where no edit lies between them;
   0: it is not captured. */
int job_moment(const struct jobs *all, int job, int moment);
/* Whether a kv_delta against a condition is of this job. */
bool job_in_delta(const struct spec *s, const struct metric *m, const struct job *j);
/* Bytes of f32 that a job's records take. */
int64_t job_record_bytes(const engine *en, const struct jobs *jobs, const struct job *j);

#endif
