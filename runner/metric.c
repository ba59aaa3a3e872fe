/* metric.c: which metrics are computed when, and how their values come into the file; see metric.h. Definitions are kept beside
 * the values, so that a value can be told even when the spec has changed since. */
#include "metric_in.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- answers that there are ---- */

int metric_tokens(struct computing *c, int64_t attempt, struct tokens_of *t, err *e)
{
    int r;
    if (t->attempt == attempt) return 0;
    t->n = 0;
    t->attempt = 0;
    r = db_query(c->db, &c->steps, e, "SELECT token_id, margin FROM step WHERE attempt_id=? ORDER BY step", "i", attempt);
    for (; r == 1; r = db_next(c->db, c->steps, e)) {
        if (t->n == t->cap) {
            t->cap = t->cap * 2 + 128;
            t->ids = mem_grow(t->ids, t->cap, sizeof *t->ids);
            t->margin = mem_grow(t->margin, t->cap, sizeof *t->margin);
        }
        t->ids[t->n] = sqlite3_column_int(c->steps, 0);
        t->margin[t->n++] = sqlite3_column_type(c->steps, 1) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(c->steps, 1);
    }
    if (r == 0) t->attempt = attempt;
    return r;
}

void metric_tokens_free(struct tokens_of *t)
{
    free(t->ids);
    free(t->margin);
}

static int load_newest(struct computing *c, err *e)
{
    const char *numerics = engine_info(store_engine(c->st))->numerics;
    sqlite3_stmt *rows = NULL;
    int r = db_query(c->db, &rows, e,
                     "SELECT sj.ordinal, sj.id, a.id, a.numerics<>?2, g.n_gen FROM spec_job sj JOIN attempt a ON a.id="
                     "(SELECT max(x.id) FROM attempt x WHERE x.job_id=sj.job_id AND x.status='done')"
                     " JOIN generation g ON g.attempt_id=a.id WHERE sj.spec_id=?1",
                     "is", store_spec_id(c->st), numerics);
    for (; r == 1; r = db_next(c->db, rows, e)) {
        int64_t job = sqlite3_column_int64(rows, 0);
        if (job < 0 || job >= c->j->n) continue;
        c->newest[job] = (struct newest){.attempt = sqlite3_column_int64(rows, 2),
                                         .spec_job = sqlite3_column_int64(rows, 1),
                                         .foreign = sqlite3_column_int(rows, 3) != 0,
                                         .n_gen = sqlite3_column_int(rows, 4)};
    }
    sqlite3_finalize(rows);
    return r;
}

int metric_partner(struct computing *c, const struct metric *m, int job)
{
    int other = partner_of(c->partners, job, c->j->jobs[job].prompt, m->against);
    return other >= 0 && c->newest[other].attempt ? other : -1;
}

/* ---- definitions ---- */

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

static json_t *answers_json(const struct metric *m)
{
    json_t *all = m->answers[0].key ? json_object() : json_array();
    int i;
    for (i = 0; i < m->n_answers; i++)
        if (m->answers[i].key)
            json_object_set_new(all, m->answers[i].key, json_string(m->answers[i].text));
        else
            json_array_append_new(all, json_string(m->answers[i].text));
    return all;
}

static json_t *place_json(const struct spec *s, const struct metric_place *p)
{
    json_t *o = json_pack("{s:s}", "condition", s->conditions[p->condition].name);
    if (p->other || p->prompt >= 0)
        json_object_set_new(o, "prompt", json_string(p->other ? "other" : s->prompts[p->prompt].name));
    return o;
}

static json_t *per_json(int per)
{
    static const char *const words[] = {"step", "layer", "position", "head", "tensor"};
    json_t *list = json_array();
    int i;
    for (i = 0; i < 5; i++)
        if (per & 1 << i) json_array_append_new(list, json_string(words[i]));
    return list;
}

static void define_delta(const struct metric *m, json_t *o)
{
    static const char *const norms[] = {"l2", "cosine", "max"};
    json_object_set_new(o, "norm", json_string(norms[m->norm]));
    json_object_set_new(o, "moment",
                        json_string(m->moment == MOMENT_PREFILL  ? "prefill"
                                    : m->moment == MOMENT_EDITED ? "edited"
                                                                 : "end"));
    if (m->between[0]) json_object_set_new(o, "between", json_pack("[s,s]", m->between[0], m->between[1]));
}

/* What the metric is, as JSON: all that its values depend on beside the attempts, and nothing else. */
static char *define(const struct spec *s, const struct metric *m)
{
    static const char *const which[] = {"any", "own", "other"};
    json_t *o = json_pack("{s:s}", "metric", spec_metric_kind(m->kind));
    char *text;
    if (m->against >= 0) json_object_set_new(o, "against", json_string(s->conditions[m->against].name));
    if (m->per) json_object_set_new(o, "per", per_json(m->per));
    if (m->kind == METRIC_MENTIONS) {
        json_object_set_new(o, "mentions", words_json(m));
        json_object_set_new(o, "casefold", json_boolean(m->casefold));
    }
    if (m->kind == METRIC_MENTIONS || m->n_answers) json_object_set_new(o, "which", json_string(which[m->which]));
    if (m->n_answers) {
        json_object_set_new(o, "answers", answers_json(m));
        json_object_set_new(o, "step", json_integer(m->step));
    }
    if (m->kind == METRIC_RECOVERY) {
        json_object_set_new(o, "of", json_string(s->metrics[m->of_metric].name));
        json_object_set_new(o, "clean", place_json(s, &m->clean));
        json_object_set_new(o, "corrupt", place_json(s, &m->corrupt));
    }
    if (m->kind == METRIC_EDIT_DISTANCE) json_object_set_new(o, "unit", json_string(m->unit_token ? "token" : "character"));
    if (m->kind == METRIC_KV_DELTA) define_delta(m, o);
    text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(o);
    return text ? text : mem_strdup("{}");
}

/* Values of another definition under this name are no longer true. */
static int put_definition(struct computing *c, int metric, err *e)
{
    const char *text = c->definitions[metric] = define(c->s, &c->s->metrics[metric]);
    int64_t id = db_id(c->db, NULL, e,
                       "INSERT INTO metric_def(spec_id,name,definition_json) VALUES(?1,?2,?3) ON CONFLICT(spec_id,name)"
                       " DO UPDATE SET name=excluded.name RETURNING id",
                       "iss", store_spec_id(c->st), c->s->metrics[metric].name, text);
    c->ids[metric] = id;
    if (id < 0) return -1;
    if (db_run(c->db, NULL, e,
               "DELETE FROM metric WHERE metric_id=?1 AND ?2<>(SELECT definition_json FROM metric_def WHERE id=?1)", "is", id,
               text) ||
        db_run(c->db, NULL, e,
               "DELETE FROM metric_part WHERE metric_id=?1 AND ?2<>(SELECT definition_json FROM metric_def WHERE id=?1)", "is",
               id, text))
        return -1;
    return db_run(c->db, NULL, e, "UPDATE metric_def SET definition_json=? WHERE id=?", "si", text, id);
}

/* ---- values ---- */

int metric_begin(struct computing *c, err *e)
{
    return db_run(c->db, NULL, e, "BEGIN IMMEDIATE", "");
}

int metric_commit(struct computing *c, err *e)
{
    return db_run(c->db, NULL, e, "COMMIT", "");
}

static int drop_parts(struct computing *c, int metric, int job, err *e)
{
    return db_run(c->db, &c->drop_parts, e, "DELETE FROM metric_part WHERE metric_id=? AND spec_job_id=?", "ii", c->ids[metric],
                  c->newest[job].spec_job);
}

int metric_put(struct computing *c, int metric, int job, int64_t against, struct value v, err *e)
{
    static const char sql[] =
        "INSERT INTO metric(metric_id,spec_job_id,attempt_id,against_id,value,flag) VALUES(?,?,?,nullif(?,0),?,?)"
        " ON CONFLICT(metric_id,spec_job_id) DO UPDATE SET attempt_id=excluded.attempt_id, against_id=excluded.against_id,"
        " value=excluded.value, flag=excluded.flag";
    const struct newest *n = &c->newest[job];
    if (!isfinite(v.v)) v.defined = false;
    if ((c->s->metrics[metric].per || c->s->metrics[metric].kind == METRIC_STATE_SIZE) && drop_parts(c, metric, job, e))
        return -1;
    if (!v.defined)
        return db_run(c->db, &c->put, e, sql, "iiiins", c->ids[metric], n->spec_job, n->attempt, against, "undefined");
    return db_run(c->db, &c->put, e, sql, "iiiidn", c->ids[metric], n->spec_job, n->attempt, against, v.v);
}

int metric_put_part(struct computing *c, int metric, int job, const struct part *p, err *e)
{
    static const char sql[] = "INSERT INTO metric_part(metric_id,spec_job_id,attempt_id,tensor,layer,head,pos,step,value,flag)"
                              " VALUES(?,?,?,?,nullif(?,-1),nullif(?,-1),nullif(?,-1),nullif(?,-1),?,?)";
    const struct newest *n = &c->newest[job];
    int64_t layer = p->layer, head = p->head, pos = p->pos, step = p->step;
    if (!p->value.defined || !isfinite(p->value.v))
        return db_run(c->db, &c->put_part, e, sql, "iiisiiiins", c->ids[metric], n->spec_job, n->attempt, p->tensor, layer,
                      head, pos, step, "undefined");
    return db_run(c->db, &c->put_part, e, sql, "iiisiiiidn", c->ids[metric], n->spec_job, n->attempt, p->tensor, layer, head,
                  pos, step, p->value.v);
}

/* The value and the parts that another metric or label has of the same attempts. */
static int copy_value(struct computing *c, int metric, int job, int64_t from, int64_t from_job, err *e)
{
    const struct newest *n = &c->newest[job];
    if (drop_parts(c, metric, job, e)) return -1;
    if (db_run(c->db, &c->copy, e,
               "INSERT OR REPLACE INTO metric(metric_id,spec_job_id,attempt_id,against_id,value,flag)"
               " SELECT ?,?,attempt_id,against_id,value,flag FROM metric WHERE metric_id=? AND spec_job_id=?",
               "iiii", c->ids[metric], n->spec_job, from, from_job))
        return -1;
    return db_run(c->db, &c->copy_parts, e,
                  "INSERT INTO metric_part(metric_id,spec_job_id,attempt_id,tensor,layer,head,pos,step,value,flag)"
                  " SELECT ?,?,attempt_id,tensor,layer,head,pos,step,value,flag FROM metric_part"
                  " WHERE metric_id=? AND spec_job_id=? AND attempt_id=?",
                  "iiiii", c->ids[metric], n->spec_job, from, from_job, n->attempt);
}

int metric_kept(struct computing *c, int metric, int job, int64_t against, err *e)
{
    const struct newest *n = &c->newest[job];
    int64_t from, from_job;
    int r = db_query(c->db, &c->kept, e,
                     "SELECT 1 FROM metric WHERE metric_id=? AND spec_job_id=? AND attempt_id=? AND against_id IS nullif(?,0)",
                     "iiii", c->ids[metric], n->spec_job, n->attempt, against);
    if (r) {
        sqlite3_reset(c->kept);
        return r;
    }
    r = db_query(c->db, &c->find_same, e,
                 "SELECT m.metric_id, m.spec_job_id FROM metric m JOIN metric_def d ON d.id=m.metric_id"
                 " WHERE m.attempt_id=? AND m.against_id IS nullif(?,0) AND d.definition_json=? LIMIT 1",
                 "iis", n->attempt, against, c->definitions[metric]);
    if (r <= 0) return r;
    from = sqlite3_column_int64(c->find_same, 0);
    from_job = sqlite3_column_int64(c->find_same, 1);
    sqlite3_reset(c->find_same);
    return copy_value(c, metric, job, from, from_job, e) ? -1 : 1;
}

/* ---- all of them ---- */

static int compute_one(struct computing *c, int metric, err *e)
{
    switch (c->s->metrics[metric].kind) {
    case METRIC_MENTIONS:
    case METRIC_FIRST_DIVERGENCE:
    case METRIC_EDIT_DISTANCE: return metric_text(c, metric, e);
    case METRIC_RECOVERY: return metric_recovery(c, metric, e);
    case METRIC_KV_DELTA: return metric_delta(c, metric, e);
    case METRIC_STATE_SIZE: return metric_state(c, metric, e);
    case METRIC_KL:
    case METRIC_LOGPROB_DIFF: return 0; /* metric_forced has done them */
    default: return metric_answers(c, metric, e);
    }
}

/* In one transaction; those that take long commit on their way, and metric_begin follows. */
static int compute_kind(struct computing *c, bool recovery, err *e)
{
    int i, r = 0;
    for (i = 0; !r && i < c->s->n_metrics; i++) {
        if ((c->s->metrics[i].kind == METRIC_RECOVERY) != recovery) continue;
        r = metric_begin(c, e);
        if (!r) r = compute_one(c, i, e);
        if (r >= 0 && metric_commit(c, e)) r = -1;
        if (r < 0) err_in(e, "metric '%s'", c->s->metrics[i].name);
    }
    return r;
}

static int start(struct computing *c, err *e)
{
    int i, r = metric_begin(c, e);
    for (i = 0; !r && i < c->s->n_metrics; i++) r = put_definition(c, i, e);
    if (!r) r = load_newest(c, e);
    return r ? -1 : metric_commit(c, e);
}

/* Never in silence: the newest answers may be those of another machine. */
static void tell_left_out(const struct computing *c)
{
    int i, n = 0;
    for (i = 0; i < c->j->n; i++) n += c->newest[i].left_out;
    if (n)
        fprintf(stderr,
                "metrics: the newest answers of %d jobs are of other numerics than %s; what needs their logits is left out"
                " (--fresh makes answers here)\n",
                n, engine_info(store_engine(c->st))->numerics);
}

static void finish(struct computing *c)
{
    sqlite3_stmt *const all[] = {c->steps, c->put,        c->put_part, c->drop_parts, c->kept, c->find_same,
                                 c->copy,  c->copy_parts, c->answer,   c->chunks,     c->blob, c->value};
    size_t k;
    int i;
    for (k = 0; k < sizeof all / sizeof *all; k++) sqlite3_finalize(all[k]);
    for (i = 0; i < c->s->n_metrics; i++) free(c->definitions[i]);
    partner_free(c->partners);
    free(c->newest);
    free(c->ids);
    free(c->definitions);
}

int metric_compute(store *st, const struct spec *s, const struct jobs *j, const struct metric_passes *passes, err *e)
{
    struct computing c = {.st = st, .db = store_sqlite(st), .s = s, .j = j, .passes = passes};
    int r, stopped;
    if (s->n_metrics == 0) return 0;
    c.partners = partner_new(s, j);
    c.newest = mem_array((size_t)j->n, sizeof *c.newest);
    c.ids = mem_array((size_t)s->n_metrics, sizeof *c.ids);
    c.definitions = mem_array((size_t)s->n_metrics, sizeof *c.definitions);
    r = start(&c, e);
    stopped = r ? -1 : metric_forced(&c, e);
    if (stopped < 0) r = -1;
    if (!r) r = compute_kind(&c, false, e);
    if (!r) r = compute_kind(&c, true, e);
    if (r < 0) db_rollback(c.db);
    tell_left_out(&c);
    finish(&c);
    return r ? r : stopped;
}
