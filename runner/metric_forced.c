/* metric_forced.c: what needs logits that are not stored. Jobs are fed tokens by metric_passes: their own, to read what the
 * logits say of an answer, or those of another job beside that one, to compare both.
 *
 * A job fed its own tokens must choose them again, by the same margins to the bit: else the cache made again is not the one
 * that gave the stored answer, and nothing that is read from it would be true. */
#include "logits.h"
#include "metric_in.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOGETHER = 8 /* jobs beside one reference */ };

/* What is fed in one go. */
struct task {
    int jobs[TOGETHER], n;
    int reference; /* -1: jobs[0] gets its own tokens */
    int n_steps;
};

struct tasks {
    struct task *all; /* (n) */
    int n, cap;
};

static struct task *add_task(struct tasks *t)
{
    if (t->n == t->cap) {
        t->cap = t->cap * 2 + 16;
        t->all = mem_grow(t->all, (size_t)t->cap, sizeof *t->all);
    }
    t->all[t->n] = (struct task){.reference = -1};
    return &t->all[t->n++];
}

/* ---- what is checked ---- */

/* Step `step` of a job that was fed its own tokens so far. */
static int check(const struct computing *c, int job, const struct tokens_of *own, int step, const float *row, err *e)
{
    int V = engine_info(store_engine(c->st))->n_vocab, token;
    float margin;
    if ((size_t)step >= own->n) return 0;
    token = logits_best(row, V, &margin);
    if (token == own->ids[step] && (isfinite(margin) ? (double)margin == own->margin[step] : isnan(own->margin[step])))
        return 0;
    return err_set(e, ERR_FAIL,
                   "the cache of '%s', made again, gives token %d with margin %.9g at step %d; stored is %d with %.9g: "
                   "the stored answer is not this program's (kvrun --fresh makes it anew)",
                   c->j->jobs[job].label, token, (double)margin, step, own->ids[step], own->margin[step]);
}

/* ---- answers ---- */

struct reading {
    struct computing *c;
    int job;
    struct tokens_of *own;
};

/* Whether the logits of a step say something that a metric asks of this prompt and that is not in the file yet; the tokens. */
static int asked(const struct computing *c, int job, int step, int *ids)
{
    int i, n = 0, p = c->j->jobs[job].prompt;
    for (i = 0; i < c->s->n_metrics; i++) {
        const struct job_answer *a = &c->j->answers[(size_t)i * (size_t)c->j->n_prompts + (size_t)p];
        if (!c->s->metrics[i].n_answers || c->s->metrics[i].step != step) continue;
        if (a->a >= 0) ids[n++] = a->a;
        if (a->b >= 0) ids[n++] = a->b;
    }
    return n;
}

static int read_answer(void *arg, int k, int step, const float *ref, const float *row, err *e)
{
    struct reading *r = arg;
    int V = engine_info(store_engine(r->c->st))->n_vocab, *ids, n, i, rc = check(r->c, r->job, r->own, step, row, e);
    double sum;
    (void)k;
    (void)ref;
    if (rc) return -1;
    ids = mem_array(2 * (size_t)r->c->s->n_metrics, sizeof *ids);
    n = asked(r->c, r->job, step, ids);
    sum = n ? logits_sum(row, V) : 0;
    for (i = 0; i < n && !rc; i++) {
        struct answer a = logits_answer(row, V, sum, ids[i]);
        a.step = step;
        rc = store_answer(r->c->st, r->c->newest[r->job].attempt, &a, e);
    }
    free(ids);
    return rc;
}

/* Steps that must be fed so that all answers asked of a job are in the file; 0: they are. */
static int missing_steps(struct computing *c, int job, err *e)
{
    int i, k, need = 0;
    for (i = 0; i < c->s->n_metrics; i++) {
        const struct metric *m = &c->s->metrics[i];
        const struct job_answer *a;
        int ids[2];
        if (!m->n_answers || m->step < need || m->step >= c->newest[job].n_gen) continue;
        a = &c->j->answers[(size_t)i * (size_t)c->j->n_prompts + (size_t)c->j->jobs[job].prompt];
        ids[0] = a->a, ids[1] = a->b;
        for (k = 0; k < 2; k++) {
            int r = ids[k] < 0
                        ? 1
                        : db_query(c->db, &c->answer, e,
                                   "SELECT logit, logprob, rank FROM answer_token WHERE attempt_id=? AND step=? AND token_id=?",
                                   "iii", c->newest[job].attempt, (int64_t)m->step, (int64_t)ids[k]);
            if (r < 0) return -1;
            if (ids[k] >= 0) sqlite3_reset(c->answer);
            if (r == 0) need = m->step + 1;
        }
    }
    return need;
}

/* A job can be fed again: it has an answer, made by this engine or one of equal bits; labels of one key are fed once. */
static bool can_feed(const struct computing *c, int job)
{
    const struct newest *n = &c->newest[job];
    int first = c->j->jobs[job].same_as;
    return n->attempt && !n->foreign && (first < 0 || c->newest[first].attempt != n->attempt);
}

static int plan_answers(struct computing *c, struct tasks *t, err *e)
{
    int i, any = 0;
    for (i = 0; i < c->s->n_metrics; i++) any |= c->s->metrics[i].n_answers > 0;
    for (i = 0; any && i < c->j->n; i++) {
        int steps = can_feed(c, i) || c->newest[i].foreign ? missing_steps(c, i, e) : 0;
        struct task *one;
        if (steps < 0) return -1;
        c->newest[i].left_out |= steps && c->newest[i].foreign;
        if (!steps || c->newest[i].foreign) continue;
        one = add_task(t);
        one->jobs[one->n++] = i;
        one->n_steps = steps;
    }
    return 0;
}

/* ---- two jobs ---- */

static bool of_pairs(const struct metric *m)
{
    return m->kind == METRIC_KL || m->kind == METRIC_LOGPROB_DIFF;
}

/* Values where nothing is to be fed: a job held against itself. Not 1: the job must be fed. */
static int kept_pair(struct computing *c, int metric, int job, int other, err *e)
{
    const struct metric *m = &c->s->metrics[metric];
    int64_t against = c->newest[other].attempt;
    struct part p = NO_PART;
    int r = metric_kept(c, metric, job, against, e);
    if (r || c->newest[job].attempt != against) return r;
    if (metric_put(c, metric, job, against, (struct value){true, 0}, e)) return -1;
    p.value.defined = true;
    for (p.step = 0; m->per & PER_STEP && p.step < c->newest[job].n_gen; p.step++)
        if (metric_put_part(c, metric, job, &p, e)) return -1;
    return 1;
}

/* Whether a job must be fed its partner's tokens for the metrics against this condition; 1, 0 or -1. */
static int wants_pair(struct computing *c, int against, int job, int other, err *e)
{
    int i, want = 0;
    for (i = 0; i < c->s->n_metrics; i++) {
        int r;
        if (!of_pairs(&c->s->metrics[i]) || c->s->metrics[i].against != against) continue;
        r = kept_pair(c, i, job, other, e);
        if (r < 0) return -1;
        want |= r == 0;
    }
    c->newest[job].left_out |= want && (c->newest[job].foreign || c->newest[other].foreign);
    return want && can_feed(c, job) && !c->newest[other].foreign;
}

/* Jobs that follow one another mostly have the same partner. */
static int plan_pairs(struct computing *c, int against, struct tasks *t, err *e)
{
    struct task *one = NULL;
    int i;
    for (i = 0; i < c->j->n; i++) {
        struct metric m = {.against = against};
        int other = c->newest[i].attempt ? metric_partner(c, &m, i) : -1, want;
        if (other < 0) continue;
        want = wants_pair(c, against, i, other, e);
        if (want < 0) return -1;
        if (!want) continue;
        if (!one || one->reference != other || one->n == TOGETHER) {
            one = add_task(t);
            one->reference = other;
            one->n_steps = c->newest[other].n_gen;
        }
        one->jobs[one->n++] = i;
    }
    return 0;
}

struct comparing {
    struct computing *c;
    const struct task *task;
    struct tokens_of *reference, own[TOGETHER];
    size_t same[TOGETHER]; /* tokens that both have in common from the start */
    double *kl, *diff;     /* (n, n_steps) */
};

static int compare_rows(void *arg, int k, int step, const float *ref, const float *row, err *e)
{
    struct comparing *x = arg;
    int V = engine_info(store_engine(x->c->st))->n_vocab, token = x->reference->ids[step];
    size_t at = (size_t)k * (size_t)x->task->n_steps + (size_t)step;
    double sum_p = logits_sum(ref, V), sum_q = logits_sum(row, V);
    if (k == 0 && check(x->c, x->task->reference, x->reference, step, ref, e)) return -1;
    if ((size_t)step <= x->same[k] && check(x->c, x->task->jobs[k], &x->own[k], step, row, e)) return -1;
    x->kl[at] = logits_kl(ref, sum_p, row, sum_q, V);
    x->diff[at] = ((double)row[token] - sum_q) - ((double)ref[token] - sum_p);
    return 0;
}

/* The mean, and each step where it is asked for. */
static int put_pair(struct computing *c, int metric, int job, int other, const double *steps, int n, err *e)
{
    struct part p = NO_PART;
    double sum = 0;
    int i;
    for (i = 0; i < n; i++) sum += steps[i];
    if (metric_put(c, metric, job, c->newest[other].attempt, (struct value){n > 0, n ? sum / n : 0}, e)) return -1;
    for (i = 0; c->s->metrics[metric].per & PER_STEP && i < n; i++) {
        p.step = i;
        p.value = (struct value){true, steps[i]};
        if (metric_put_part(c, metric, job, &p, e)) return -1;
    }
    return 0;
}

static int put_pairs(struct computing *c, int against, const struct comparing *x, err *e)
{
    int i, k, n = x->task->n_steps;
    for (i = 0; i < c->s->n_metrics; i++) {
        const struct metric *m = &c->s->metrics[i];
        const double *all = m->kind == METRIC_KL ? x->kl : x->diff;
        if (!of_pairs(m) || m->against != against) continue;
        for (k = 0; k < x->task->n; k++)
            if (put_pair(c, i, x->task->jobs[k], x->task->reference, all + (size_t)k * (size_t)n, n, e)) return -1;
    }
    return 0;
}

/* ---- feeding ---- */

static int feed_answers(struct computing *c, const struct task *t, struct tokens_of *own, err *e)
{
    struct reading r = {c, t->jobs[0], own};
    struct forced f = {.jobs = t->jobs, .n = 1, .reference = -1, .n_steps = t->n_steps, .visit = read_answer, .arg = &r};
    int rc;
    if (metric_tokens(c, c->newest[t->jobs[0]].attempt, own, e) || metric_begin(c, e)) return -1;
    f.tokens = own->ids;
    if ((size_t)f.n_steps > own->n) f.n_steps = (int)own->n;
    rc = c->passes->feed(c->passes->arg, &f, e);
    return rc < 0 || metric_commit(c, e) ? -1 : rc;
}

static int feed_pairs(struct computing *c, int against, const struct task *t, struct tokens_of *reference, err *e)
{
    size_t n = (size_t)t->n * (size_t)t->n_steps;
    struct comparing x = {
        .c = c, .task = t, .reference = reference, .kl = mem_array(n, sizeof(double)), .diff = mem_array(n, sizeof(double))};
    struct forced f = {
        .jobs = t->jobs, .n = t->n, .reference = t->reference, .n_steps = t->n_steps, .visit = compare_rows, .arg = &x};
    int rc = metric_tokens(c, c->newest[t->reference].attempt, reference, e), k;
    for (k = 0; k < t->n && !rc; k++) {
        rc = metric_tokens(c, c->newest[t->jobs[k]].attempt, &x.own[k], e);
        while (!rc && x.same[k] < x.own[k].n && x.same[k] < reference->n &&
               x.own[k].ids[x.same[k]] == reference->ids[x.same[k]])
            x.same[k]++;
    }
    if (!rc && reference->n != (size_t)t->n_steps)
        rc = err_set(e, ERR_DB, "the steps of '%s' are not whole", c->j->jobs[t->reference].label);
    f.tokens = reference->ids;
    if (!rc) rc = c->passes->feed(c->passes->arg, &f, e);
    if (!rc) rc = metric_begin(c, e) || put_pairs(c, against, &x, e) || metric_commit(c, e) ? -1 : 0;
    for (k = 0; k < t->n; k++) metric_tokens_free(&x.own[k]);
    free(x.kl);
    free(x.diff);
    return rc;
}

/* against: the condition of the pairs; -1: answers. */
static int feed_all(struct computing *c, const struct tasks *t, int against, err *e)
{
    struct tokens_of tokens = {0};
    int *jobs = NULL, n = 0, i, k, rc;
    if (t->n == 0 || !c->passes) return 0;
    jobs = mem_array((size_t)t->n * (TOGETHER + 1), sizeof *jobs);
    for (i = 0; i < t->n; i++) {
        if (t->all[i].reference >= 0) jobs[n++] = t->all[i].reference;
        for (k = 0; k < t->all[i].n; k++) jobs[n++] = t->all[i].jobs[k];
    }
    rc = c->passes->open(c->passes->arg, jobs, n, e);
    for (i = k = 0; i < t->n && !rc; i++) {
        c->passes->progress(c->passes->arg, against < 0 ? "answers" : "comparing", k, n);
        rc = against < 0 ? feed_answers(c, &t->all[i], &tokens, e) : feed_pairs(c, against, &t->all[i], &tokens, e);
        k += t->all[i].n + (t->all[i].reference >= 0);
    }
    c->passes->progress(c->passes->arg, NULL, k, n);
    c->passes->close(c->passes->arg);
    metric_tokens_free(&tokens);
    free(jobs);
    return rc;
}

static int forced_answers(struct computing *c, err *e)
{
    struct tasks t = {0};
    int rc = !c->j->answers || plan_answers(c, &t, e) == 0 ? feed_all(c, &t, -1, e) : -1;
    free(t.all);
    return rc;
}

/* Labels with the key of another one, which was fed for them. */
static int copy_doubles(struct computing *c, int against, err *e)
{
    int i, rc = metric_begin(c, e);
    for (i = 0; i < c->j->n && rc >= 0; i++) {
        struct metric m = {.against = against};
        int other = c->j->jobs[i].same_as >= 0 && c->newest[i].attempt ? metric_partner(c, &m, i) : -1;
        if (other >= 0) rc = wants_pair(c, against, i, other, e);
    }
    return rc < 0 ? -1 : metric_commit(c, e);
}

/* What is kept is copied in one transaction; then the jobs left are fed, with one for each few. */
static int forced_pairs(struct computing *c, int against, err *e)
{
    struct tasks t = {0};
    int rc = metric_begin(c, e) || plan_pairs(c, against, &t, e) || metric_commit(c, e) ? -1 : 0;
    if (!rc) rc = feed_all(c, &t, against, e);
    free(t.all);
    return rc ? rc : copy_doubles(c, against, e);
}

int metric_forced(struct computing *c, err *e)
{
    int rc = forced_answers(c, e), against, i;
    for (against = 0; !rc && against < c->s->n_conditions; against++) {
        int any = 0;
        for (i = 0; i < c->s->n_metrics; i++) any |= of_pairs(&c->s->metrics[i]) && c->s->metrics[i].against == against;
        if (any) rc = forced_pairs(c, against, e);
    }
    return rc;
}
