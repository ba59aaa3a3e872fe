/* metric_text.c: metrics of what was said: words, first difference, edit distance. They cost next to nothing and are always
 * made again. */
#include "distance.h"
#include "metric_in.h"
#include "words.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST = 50000 /* characters or tokens; of longer texts the edit distance is undefined: it would take minutes */ };

static struct value mentions(const struct computing *c, const struct metric *m, int prompt, const char *text, size_t n)
{
    const struct prompt *p = c->j->prompts[prompt].prompt;
    const char *who = m->which == WHICH_OWN                      ? p->name
                      : m->which == WHICH_OTHER && p->other >= 0 ? c->s->prompts[p->other].name
                                                                 : NULL;
    struct value out = {false, 0};
    int i, k;
    if (m->which == WHICH_OTHER && !who) return out;
    for (i = 0; i < m->n_words; i++) {
        const struct words *w = &m->words[i];
        if (m->which != WHICH_ANY && (!w->key || strcmp(w->key, who))) continue;
        out.defined = true;
        for (k = 0; k < w->n && out.v == 0; k++) out.v = words_in(text, n, w->words[k], m->casefold);
    }
    return out;
}

/* The partner's text or tokens are kept, since many jobs are compared with the same one. */
struct texts {
    struct tokens_of own, other;
    int64_t attempt; /* whose characters `points` are */
    int32_t *points;
    size_t n_points;
    sqlite3_stmt *find;
};

static int load_points(struct computing *c, struct texts *t, int64_t attempt, err *e)
{
    int r;
    if (t->attempt == attempt) return 0;
    r = db_query(c->db, &t->find, e, "SELECT text FROM generation WHERE attempt_id=?", "i", attempt);
    if (r < 0) return -1;
    free(t->points);
    t->points = r ? distance_points((const char *)sqlite3_column_text(t->find, 0), (size_t)sqlite3_column_bytes(t->find, 0),
                                    &t->n_points)
                  : distance_points("", 0, &t->n_points);
    t->attempt = attempt;
    sqlite3_reset(t->find);
    return 0;
}

static struct value divergence(const struct texts *t)
{
    size_t i = 0;
    while (i < t->own.n && i < t->other.n && t->own.ids[i] == t->other.ids[i]) i++;
    return (struct value){i < t->own.n || i < t->other.n, (double)i};
}

static struct value distance(const int32_t *a, size_t n, const int32_t *b, size_t m)
{
    if (n > LONGEST || m > LONGEST) return (struct value){false, 0};
    return (struct value){true, (double)distance_of(a, n, b, m)};
}

/* What a job's text is compared to that of its partner's. */
static int compare(struct computing *c, const struct metric *m, int job, int other, const char *text, size_t n, struct texts *t,
                   struct value *out, err *e)
{
    int32_t *own;
    size_t n_own;
    if (m->kind == METRIC_FIRST_DIVERGENCE || m->unit_token) {
        if (metric_tokens(c, c->newest[job].attempt, &t->own, e) || metric_tokens(c, c->newest[other].attempt, &t->other, e))
            return -1;
        *out = m->kind == METRIC_FIRST_DIVERGENCE ? divergence(t) : distance(t->own.ids, t->own.n, t->other.ids, t->other.n);
        return 0;
    }
    if (load_points(c, t, c->newest[other].attempt, e)) return -1;
    own = distance_points(text, n, &n_own);
    *out = distance(own, n_own, t->points, t->n_points);
    free(own);
    return 0;
}

static int one(struct computing *c, int metric, int job, const char *text, size_t n, struct texts *t, err *e)
{
    const struct metric *m = &c->s->metrics[metric];
    struct value v;
    int other;
    if (m->kind == METRIC_MENTIONS) return metric_put(c, metric, job, 0, mentions(c, m, c->j->jobs[job].prompt, text, n), e);
    other = metric_partner(c, m, job);
    if (other < 0) return 0;
    if (compare(c, m, job, other, text, n, t, &v, e)) return -1;
    return metric_put(c, metric, job, c->newest[other].attempt, v, e);
}

int metric_text(struct computing *c, int metric, err *e)
{
    sqlite3_stmt *rows = NULL;
    struct texts t = {0};
    int r = db_query(c->db, &rows, e,
                     "SELECT sj.ordinal, g.text FROM spec_job sj JOIN generation g ON g.attempt_id="
                     "(SELECT max(a.id) FROM attempt a WHERE a.job_id=sj.job_id AND a.status='done')"
                     " WHERE sj.spec_id=? ORDER BY sj.ordinal",
                     "i", store_spec_id(c->st));
    for (; r == 1; r = db_next(c->db, rows, e)) {
        int64_t job = sqlite3_column_int64(rows, 0);
        const char *text = (const char *)sqlite3_column_text(rows, 1);
        if (job < 0 || job >= c->j->n || !c->newest[job].attempt) continue;
        if (one(c, metric, (int)job, text ? text : "", (size_t)sqlite3_column_bytes(rows, 1), &t, e)) {
            r = -1;
            break;
        }
    }
    sqlite3_finalize(rows);
    sqlite3_finalize(t.find);
    metric_tokens_free(&t.own);
    metric_tokens_free(&t.other);
    free(t.points);
    return r;
}
