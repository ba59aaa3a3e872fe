/* metric.c: metrics from what is stored; see metric.h. Definitions are kept beside the values, so that a value can be told
 * even when the spec has changed since. */
#include "metric.h"
#include "db.h"
#include "words.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

struct value {
    bool defined;
    double v;
};

static struct value mentions(const struct spec *s, const struct metric *m, int prompt, const char *text, size_t n)
{
    bool own = prompt < s->n_prompts; /* else it was made by a control */
    int who = m->which == WHICH_OWN && own ? prompt : m->which == WHICH_OTHER && own ? s->prompts[prompt].other : -1;
    struct value out = {false, 0};
    int i, k;
    if (m->which != WHICH_ANY && who < 0) return out;
    for (i = 0; i < m->n_words; i++) {
        const struct words *w = &m->words[i];
        if (m->which != WHICH_ANY && (!w->key || strcmp(w->key, s->prompts[who].name))) continue;
        out.defined = true;
        for (k = 0; k < w->n && out.v == 0; k++) out.v = words_in(text, n, w->words[k], m->casefold);
    }
    return out;
}

/* The tokens of one attempt, kept because many jobs are compared with the same one. */
struct tokens_of {
    int64_t attempt;
    int64_t *ids; /* (n) */
    size_t n, cap;
};

struct computing {
    store *st;
    sqlite3 *db;
    const struct spec *s;
    const struct jobs *j;
    sqlite3_stmt *steps, *put;
    int64_t *attempts; /* (j->n) newest good answer, 0: none */
    struct tokens_of own, other;
};

static int load_tokens(struct computing *c, int64_t attempt, struct tokens_of *t, err *e)
{
    int r;
    if (t->attempt == attempt) return 0;
    t->n = 0;
    t->attempt = 0;
    r = db_query(c->db, &c->steps, e, "SELECT token_id FROM step WHERE attempt_id=? ORDER BY step", "i", attempt);
    for (; r == 1; r = db_next(c->db, c->steps, e)) {
        if (t->n == t->cap) {
            t->cap = t->cap * 2 + 128;
            t->ids = mem_grow(t->ids, t->cap, sizeof *t->ids);
        }
        t->ids[t->n++] = sqlite3_column_int64(c->steps, 0);
    }
    if (r == 0) t->attempt = attempt;
    return r;
}

/* The job of this prompt and the condition `against` whose axes, as far as this job has them too, have the same values; -1. */
static int partner(const struct jobs *j, const struct job *of, int against)
{
    int i, a, b;
    for (i = 0; i < j->n; i++) {
        const struct job *x = &j->jobs[i];
        bool same = x->prompt == of->prompt && x->condition == against;
        for (a = 0; same && a < x->n_values; a++)
            for (b = 0; same && b < of->n_values; b++)
                same = x->values[a].axis != of->values[b].axis || !strcmp(x->values[a].text, of->values[b].text);
        if (same) return i;
    }
    return -1;
}

/* 1: *out is the value, 0: the partner has no answer, -1. */
static int first_divergence(struct computing *c, const struct metric *m, int job, int *last_prompt, int *last,
                            struct value *out, err *e)
{
    const struct job *of = &c->j->jobs[job];
    size_t i = 0;
    /* Without axes the partner is that of the whole prompt; jobs come prompt by prompt. */
    if (*last_prompt != of->prompt || c->s->conditions[m->against].n_over) *last = partner(c->j, of, m->against);
    *last_prompt = of->prompt;
    if (*last < 0 || !c->attempts[*last]) return 0;
    if (load_tokens(c, c->attempts[job], &c->own, e) || load_tokens(c, c->attempts[*last], &c->other, e)) return -1;
    while (i < c->own.n && i < c->other.n && c->own.ids[i] == c->other.ids[i]) i++;
    *out = (struct value){i < c->own.n || i < c->other.n, (double)i};
    return 1;
}

/* ---- into the file ---- */

static json_t *words_json(const struct metric *m)
{
    json_t *all = json_object();
    int i, k;
    for (i = 0; i < m->n_words; i++) {
        json_t *list = json_array();
        for (k = 0; k < m->words[i].n; k++) json_array_append_new(list, json_string(m->words[i].words[k]));
        json_object_set_new(all, m->words[i].key ? m->words[i].key : "any", list);
    }
    return all;
}

static int64_t put_definition(struct computing *c, const struct metric *m, err *e)
{
    static const char *const which[] = {"any", "own", "other"};
    json_t *json = m->kind == METRIC_MENTIONS ? json_pack("{s:o, s:s, s:b}", "mentions", words_json(m), "which",
                                                          which[m->which], "casefold", m->casefold)
                                              : json_pack("{s:s}", "against", c->s->conditions[m->against].name);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    int64_t id = db_id(c->db, NULL, e,
                       "INSERT INTO metric_def(spec_id,name,definition_json) VALUES(?,?,?) ON CONFLICT(spec_id,name)"
                       " DO UPDATE SET definition_json=excluded.definition_json RETURNING id",
                       "iss", store_spec_id(c->st), m->name, text ? text : "{}");
    json_decref(json);
    free(text);
    return id;
}

static int put_value(struct computing *c, int64_t metric, int64_t spec_job, int64_t attempt, struct value v, err *e)
{
    static const char sql[] = "INSERT INTO metric VALUES(?,?,?,?,?) ON CONFLICT(metric_id,spec_job_id) DO UPDATE"
                              " SET attempt_id=excluded.attempt_id, value=excluded.value, flag=excluded.flag";
    if (!v.defined) return db_run(c->db, &c->put, e, sql, "iiins", metric, spec_job, attempt, "undefined");
    return db_run(c->db, &c->put, e, sql, "iiidn", metric, spec_job, attempt, v.v);
}

static int compute_one(struct computing *c, const struct metric *m, err *e)
{
    sqlite3_stmt *rows = NULL;
    int64_t metric = put_definition(c, m, e);
    int last_prompt = -1, last = -1;
    int r = metric < 0 ? -1
                       : db_query(c->db, &rows, e,
                                  "SELECT sj.ordinal, sj.id, g.text FROM spec_job sj JOIN generation g ON g.attempt_id="
                                  "(SELECT max(a.id) FROM attempt a WHERE a.job_id=sj.job_id AND a.status='done')"
                                  " WHERE sj.spec_id=? ORDER BY sj.ordinal",
                                  "i", store_spec_id(c->st));
    for (; r == 1; r = db_next(c->db, rows, e)) {
        int64_t job = sqlite3_column_int64(rows, 0);
        const char *text = (const char *)sqlite3_column_text(rows, 2);
        struct value v;
        int there = 1;
        if (job < 0 || job >= c->j->n || !c->attempts[job]) continue;
        if (m->kind == METRIC_MENTIONS)
            v = mentions(c->s, m, c->j->jobs[job].prompt, text ? text : "", (size_t)sqlite3_column_bytes(rows, 2));
        else
            there = first_divergence(c, m, (int)job, &last_prompt, &last, &v, e);
        if (there < 0 || (there && put_value(c, metric, sqlite3_column_int64(rows, 1), c->attempts[job], v, e))) {
            r = -1;
            break;
        }
    }
    sqlite3_finalize(rows);
    return r;
}

static int load_attempts(struct computing *c, err *e)
{
    sqlite3_stmt *rows = NULL;
    int r = db_query(c->db, &rows, e,
                     "SELECT sj.ordinal, max(a.id) FROM spec_job sj JOIN attempt a ON a.job_id=sj.job_id AND a.status='done'"
                     " WHERE sj.spec_id=? GROUP BY sj.id",
                     "i", store_spec_id(c->st));
    for (; r == 1; r = db_next(c->db, rows, e)) {
        int64_t job = sqlite3_column_int64(rows, 0);
        if (job >= 0 && job < c->j->n) c->attempts[job] = sqlite3_column_int64(rows, 1);
    }
    sqlite3_finalize(rows);
    return r;
}

int metric_compute(store *st, const struct spec *s, const struct jobs *j, err *e)
{
    struct computing c = {.st = st, .db = store_sqlite(st), .s = s, .j = j};
    int i, r;
    c.attempts = mem_array((size_t)j->n, sizeof *c.attempts);
    r = db_run(c.db, NULL, e, "BEGIN IMMEDIATE", "");
    if (!r)
        r = db_run(c.db, NULL, e, "DELETE FROM metric WHERE metric_id IN (SELECT id FROM metric_def WHERE spec_id=?)", "i",
                   store_spec_id(st));
    if (!r) r = load_attempts(&c, e);
    for (i = 0; !r && i < s->n_metrics; i++) {
        r = compute_one(&c, &s->metrics[i], e);
        if (r) err_in(e, "metric '%s'", s->metrics[i].name);
    }
    sqlite3_finalize(c.steps);
    sqlite3_finalize(c.put);
    if (!r) r = db_run(c.db, NULL, e, "COMMIT", "");
    if (r) db_rollback(c.db);
    free(c.attempts);
    free(c.own.ids);
    free(c.other.ids);
    return r;
}
