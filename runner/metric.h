/* metric.h: numbers computed after the run from what is stored, so that adding one costs no new run.
 *
 *   mentions          1 when the text holds one of the words as a whole word, else 0. `own`/`other`: words of the prompt's own
 *                     name or of the other one of its pair. casefold: compared after Unicode case folding (utf8proc).
 *   first_divergence  first step at which the tokens differ from the same prompt's job of the condition `against`; a text that
 *                     ends earlier differs at its end; undefined when they never differ.
 *   kl, logprob_diff  both jobs are fed the tokens of `against`'s job: KL(against || job) in nats over the whole vocabulary;
 * the job's log-probability of that token minus that of `against`. Mean over the steps; per: step, each. logit, logprob, prob,
 * rank, logit_diff  of the token that an answer begins with, behind the prompt or at a later step recovery          (job -
 * corrupt) / (clean - corrupt) of another metric; undefined where the two are equal edit_distance     Levenshtein's, of
 * characters or tokens kv_delta          distance of two stored caches over the positions that both have: Euclidean, largest
 * difference, or cosine state_size        bytes of K and V of the tokens that the cache holds in the end, evicted ones left out
 *
 * Logits behind the prompt are read while a job runs (answer_token); all others come from feeding the job's cache, made again,
 * given tokens. Such values are kept for as long as the attempts that they are of are the newest ones, and copied to whoever
 * asks the same of them again. Each batch of them is committed by itself: a run that is stopped goes on from there.
 */
#ifndef RUNNER_METRIC_H
#define RUNNER_METRIC_H

#include "store.h"

/* Jobs that are fed tokens which need not be their own. */
struct forced {
    const int *jobs; /* (n) */
    int n;
    int reference; /* a job that is fed the same beside them, or -1 */
    const int *tokens;
    int n_steps; /* logits of steps 0..n_steps-1: what the model says before it sees tokens[step] */
    /* Called for each job and step with rows of V logits; ref NULL: there is no reference. */
    int (*visit)(void *arg, int k, int step, const float *ref, const float *row, err *e);
    void *arg;
};

/* Who feeds them: metric_pass.h, with an engine. */
struct metric_passes {
    void *arg;
    int (*open)(void *arg, const int *jobs, int n, err *e); /* every job of all feeds to come, as often as it is in them */
    int (*feed)(void *arg, const struct forced *f, err *e); /* 1: stopped by the user */
    void (*close)(void *arg);
    void (*progress)(void *arg, const char *what, int done, int all); /* what NULL: that was all, or it was stopped */
};

/* Computes the metrics of the spec for every stored answer of its jobs. passes NULL: those that need logits that are not stored
   are left out. 1: stopped by the user, what was done is kept. */
int metric_compute(store *st, const struct spec *s, const struct jobs *j, const struct metric_passes *passes, err *e);

#endif
