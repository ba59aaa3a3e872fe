/* metric_answer.c: what the logits say of answers, from answer_token, and recoveries of other metrics. */
#include "metric_in.h"

#include <math.h>
#include <string.h>

/* ---- answers ---- */

/* 1: what is stored of the token at the metric's step, 0: nothing, -1. */
static int stored(struct computing *c, const struct metric *m, int job, int token, double *logit, double *logprob, double *rank,
                  err *e)
{
    int r = db_query(c->db, &c->answer, e,
                     "SELECT logit, logprob, rank FROM answer_token WHERE attempt_id=? AND step=? AND token_id=?", "iii",
                     c->newest[job].attempt, (int64_t)m->step, (int64_t)token);
    if (r != 1) return r;
    *logit = sqlite3_column_double(c->answer, 0);
    *logprob = sqlite3_column_double(c->answer, 1);
    *rank = sqlite3_column_double(c->answer, 2);
    sqlite3_reset(c->answer);
    return 1;
}

/* 1: *out is the value, 0: it is not known, -1. A text that ended before the step has none. */
static int answer(struct computing *c, const struct metric *m, int job, const struct job_answer *a, struct value *out, err *e)
{
    double logit, logprob, rank, second, unused;
    int r;
    *out = (struct value){false, 0};
    if (a->a < 0 || (m->kind == METRIC_LOGIT_DIFF && a->b < 0) || m->step >= c->newest[job].n_gen) return 1;
    r = stored(c, m, job, a->a, &logit, &logprob, &rank, e);
    if (r == 1 && m->kind == METRIC_LOGIT_DIFF) r = stored(c, m, job, a->b, &second, &unused, &unused, e);
    if (r != 1) return r;
    out->defined = true;
    switch (m->kind) {
    case METRIC_LOGIT: out->v = logit; break;
    case METRIC_LOGPROB: out->v = logprob; break;
    case METRIC_PROB: out->v = exp(logprob); break;
    case METRIC_RANK: out->v = rank; break;
    default: out->v = logit - second;
    }
    return 1;
}

int metric_answers(struct computing *c, int metric, err *e)
{
    const struct metric *m = &c->s->metrics[metric];
    int i;
    for (i = 0; c->j->answers && i < c->j->n; i++) {
        const struct job_answer *a = &c->j->answers[(size_t)metric * (size_t)c->j->n_prompts + (size_t)c->j->jobs[i].prompt];
        struct value v;
        int r = c->newest[i].attempt ? answer(c, m, i, a, &v, e) : 0;
        if (r < 0 || (r == 1 && metric_put(c, metric, i, 0, v, e))) return -1;
    }
    return 0;
}

/* ---- recoveries ---- */

static int place(struct computing *c, const struct metric_place *p, int job)
{
    int prompt = c->j->jobs[job].prompt;
    if (p->other) prompt = c->j->prompts[prompt].prompt->other;
    if (p->prompt >= 0) prompt = p->prompt;
    return prompt < 0 ? -1 : partner_of(c->partners, job, prompt, p->condition);
}

/* 1: *out is the other metric's value of this job's newest answer, 0: there is none, -1. */
static int value_of(struct computing *c, int metric, int job, struct value *out, err *e)
{
    int r;
    if (job < 0 || !c->newest[job].attempt) return 0;
    r = db_query(c->db, &c->value, e, "SELECT value FROM metric WHERE metric_id=? AND spec_job_id=? AND attempt_id=?", "iii",
                 c->ids[metric], c->newest[job].spec_job, c->newest[job].attempt);
    if (r != 1) return r;
    *out = (struct value){sqlite3_column_type(c->value, 0) != SQLITE_NULL, sqlite3_column_double(c->value, 0)};
    sqlite3_reset(c->value);
    return 1;
}

int metric_recovery(struct computing *c, int metric, err *e)
{
    const struct metric *m = &c->s->metrics[metric];
    int i;
    for (i = 0; i < c->j->n; i++) {
        struct value own, clean, corrupt, v;
        int r = value_of(c, m->of_metric, i, &own, e);
        if (r == 1) r = value_of(c, m->of_metric, place(c, &m->clean, i), &clean, e);
        if (r == 1) r = value_of(c, m->of_metric, place(c, &m->corrupt, i), &corrupt, e);
        if (r < 0) return -1;
        if (r == 0) continue;
        v.defined = own.defined && clean.defined && corrupt.defined && clean.v != corrupt.v;
        v.v = v.defined ? (own.v - corrupt.v) / (clean.v - corrupt.v) : 0;
        if (metric_put(c, metric, i, 0, v, e)) return -1;
    }
    return 0;
}
