/* logits.c: see logits.h. */
#include "logits.h"

#include <math.h>

double logits_sum(const float *row, int n)
{
    double top = -INFINITY, sum = 0;
    int i;
    for (i = 0; i < n; i++)
        if ((double)row[i] > top) top = (double)row[i];
    if (!isfinite(top)) return top;
    for (i = 0; i < n; i++) sum += exp((double)row[i] - top);
    return top + log(sum);
}

struct answer logits_answer(const float *row, int n, double sum, int token)
{
    struct answer a = {.token = token, .logit = (double)row[token], .logprob = (double)row[token] - sum, .rank = 1};
    int i;
    for (i = 0; i < n; i++) a.rank += row[i] > row[token];
    return a;
}

double logits_kl(const float *p, double sum_p, const float *q, double sum_q, int n)
{
    double kl = 0;
    int i;
    for (i = 0; i < n; i++) {
        double log_p = (double)p[i] - sum_p, mass = exp(log_p);
        if (mass > 0) kl += mass * (log_p - ((double)q[i] - sum_q));
    }
    return kl < 0 ? 0 : kl; /* rounding, where the rows are nearly equal */
}

int logits_best(const float *row, int n, float *margin)
{
    float first = -INFINITY, second = -INFINITY;
    int best = -1, i;
    for (i = 0; i < n; i++) {
        if (row[i] > first) {
            second = first;
            first = row[i];
            best = i;
        } else if (row[i] > second)
            second = row[i];
    }
    *margin = first - second;
    return best;
}
