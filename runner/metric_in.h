/* metric_in.h: the inside of the metrics, for metric*.c alone. */
#ifndef RUNNER_METRIC_IN_H
#define RUNNER_METRIC_IN_H

#include "db.h"
#include "metric.h"
#include "partner.h"

struct value {
    bool defined;
    double v;
};

/* What a part is of; -1 and NULL: not split by that. */
struct part {
    const char *tensor;
    int layer, head, pos, step;
    struct value value;
};
#define NO_PART ((struct part){NULL, -1, -1, -1, -1, {false, 0}})

/* The newest good answer to a job. */
struct newest {
    int64_t attempt, spec_job; /* rows; attempt 0: there is no answer */
    bool foreign;              /* of other numerics than this engine's: its cache cannot be made again bit for bit */
    bool left_out;             /* for that reason it lacks a value */
    int n_gen;
};

/* The tokens of one attempt. */
struct tokens_of {
    int64_t attempt;
    int *ids;       /* (n) */
    double *margin; /* (n) as stored; NaN: not finite */
    size_t n, cap;
};

struct computing {
    store *st;
    sqlite3 *db;
    const struct spec *s;
    const struct jobs *j;
    const struct metric_passes *passes;
    struct partners *partners;
    struct newest *newest; /* (j->n) */
    int64_t *ids;          /* (n_metrics) rows of metric_def */
    char **definitions;    /* (n_metrics) JSON */
    sqlite3_stmt *steps, *put, *put_part, *drop_parts, *kept, *find_same, *copy, *copy_parts, *answer, *chunks, *blob, *value;
};

int metric_tokens(struct computing *c, int64_t attempt, struct tokens_of *t, err *e);
void metric_tokens_free(struct tokens_of *t);
/* The job that metric m compares `job` with, if both have answers; -1: there is none. */
int metric_partner(struct computing *c, const struct metric *m, int job);

/* The value of a job, with the attempt that it is held against (0: none); its old parts go. */
int metric_put(struct computing *c, int metric, int job, int64_t against, struct value v, err *e);
int metric_put_part(struct computing *c, int metric, int job, const struct part *p, err *e);
/* 1: the value of the job from these very attempts is there, or was copied from another place with the same definition; 0: not.
 */
int metric_kept(struct computing *c, int metric, int job, int64_t against, err *e);

int metric_begin(struct computing *c, err *e);
int metric_commit(struct computing *c, err *e);

/* One metric for all jobs. 1: stopped. */
int metric_text(struct computing *c, int metric, err *e);     /* mentions, first_divergence, edit_distance */
int metric_answers(struct computing *c, int metric, err *e);  /* logit .. logit_diff */
int metric_recovery(struct computing *c, int metric, err *e); /* after the metric that it is of */
int metric_delta(struct computing *c, int metric, err *e);    /* kv_delta */
int metric_state(struct computing *c, int metric, err *e);    /* state_size */
/* What the spec needs of logits that are not stored: answers into answer_token, values of kl and logprob_diff. 1: stopped. */
int metric_forced(struct computing *c, err *e);

#endif
