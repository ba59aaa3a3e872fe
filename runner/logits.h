/* logits.h: what is read from one row of logits: a token's place in it, and how far two rows are apart. All sums in double, in
 * the order of the vocabulary.
 *
 *     double lse = logits_sum(row, V);
 *     struct answer a = logits_answer(row, V, lse, token);
 *     double kl = logits_kl(p, logits_sum(p, V), q, logits_sum(q, V), V);      // nats
 */
#ifndef RUNNER_LOGITS_H
#define RUNNER_LOGITS_H

/* What logits say of one token. */
struct answer {
    int token, step; /* of the new token that the logits are for, from 0 */
    double logit, logprob;
    int rank; /* 1: no token has a larger logit */
};

double logits_sum(const float *row, int n); /* log of the sum of exp(row[i]) */
struct answer logits_answer(const float *row, int n, double sum, int token);
/* KL(p || q): what p's distribution loses when q stands for it. Never below 0; 0 exactly where the rows are equal. */
double logits_kl(const float *p, double sum_p, const float *q, double sum_q, int n);
/* The largest logit's token, the lowest id of equals, and its distance to the second largest: as greedy decoding picks. */
int logits_best(const float *row, int n, float *margin);

#endif
