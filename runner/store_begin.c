/* store_begin.c: registering a run: experiment, spec, model, prompts, jobs, in one transaction before the first job runs, so
 * that a killed run can still be told what it was. */
#include "store_in.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* What is only needed while registering. */
enum begin_stmt {
    BEGIN_PROMPT_FIND,
    BEGIN_PROMPT,
    BEGIN_PROMPT_TOKEN,
    BEGIN_SPEC_PROMPT,
    BEGIN_SPAN,
    BEGIN_JOB_FIND,
    BEGIN_JOB,
    BEGIN_EDIT,
    BEGIN_SPEC_JOB,
    BEGIN_FACTOR,
    BEGIN_N
};

struct begin {
    store *st;
    const struct run_info *info;
    sqlite3_stmt *stmts[BEGIN_N];
    int64_t *prompt_ids;      /* (n_prompts) rows of `prompt` */
    int64_t *spec_prompt_ids; /* (n_prompts) rows of `spec_prompt` */
    struct buf a, b, c, d, e; /* JSON lists of one edit */
};

/* ---- who, where, with what ---- */

/* A run of this host whose process is gone can no longer say how it ended. */
static int mark_lost(store *st, const char *host, err *e)
{
    sqlite3_stmt *find = NULL;
    int r = db_query(st->db, &find, e,
                     "SELECT r.id, r.pid FROM run r JOIN environment v ON v.id=r.environment_id"
                     " WHERE r.status='running' AND v.host=?",
                     "s", host);
    for (; r == 1; r = db_next(st->db, find, e)) {
        int64_t pid = sqlite3_column_int64(find, 1);
        bool alive = pid > 0 && pid <= INT32_MAX && pid != getpid() && (kill((pid_t)pid, 0) == 0 || errno == EPERM);
        if (!alive && db_run(st->db, NULL, e, "UPDATE run SET status='lost' WHERE id=?", "i", sqlite3_column_int64(find, 0)))
            r = -1;
        if (r < 0) break;
    }
    sqlite3_finalize(find);
    return r < 0 ? -1 : 0;
}

static int put_model(store *st, const struct engine_info *m, err *e)
{
    st->model_id =
        db_id(st->db, NULL, e,
              "INSERT INTO model(sha256,name,arch,format,path_seen,file_bytes,weight_dtype,n_layer,n_head,n_kv_head,head_dim,"
              "n_embd,n_vocab,n_ctx_train,rope_base) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
              " ON CONFLICT(sha256) DO UPDATE SET path_seen=excluded.path_seen RETURNING id",
              "bssssisiiiiiiid", m->sha256, (size_t)32, m->name, m->arch, m->format, m->path, m->file_bytes, m->weight_dtype,
              (int64_t)m->n_layer, (int64_t)m->n_head, (int64_t)m->n_kv_head, (int64_t)m->head_dim, (int64_t)m->n_embd,
              (int64_t)m->n_vocab, (int64_t)m->n_ctx_train, m->rope_base);
    if (st->model_id < 0) return -1;
    st->tokenizer_id = db_id(st->db, NULL, e,
                             "INSERT INTO tokenizer(sha256,kind,bos,eos) VALUES(?,?,nullif(?,-1),nullif(?,-1))"
                             " ON CONFLICT(sha256) DO UPDATE SET kind=excluded.kind RETURNING id",
                             "bsii", m->tokenizer_sha256, (size_t)32, m->tokenizer_kind, (int64_t)m->bos, (int64_t)m->eos);
    return st->tokenizer_id < 0 ? -1 : 0;
}

static int64_t put_environment(store *st, const struct environment *v, const struct engine_info *m, err *e)
{
    struct buf all = {0};
    uint8_t sha[32];
    int64_t id;
    const char *const texts[] = {v->host,       v->os,       v->cpu,         v->isa,       v->version,
                                 v->git_commit, v->compiler, v->build_flags, v->libs_json, m->numerics};
    size_t i;
    for (i = 0; i < sizeof texts / sizeof *texts; i++) buf_add(&all, texts[i], strlen(texts[i]) + 1);
    buf_printf(&all, "%lld %d %d", (long long)v->ram_bytes, v->threads, !!v->git_dirty);
    if (v->gpu_name) buf_add(&all, v->gpu_name, strlen(v->gpu_name) + 1); /* without one, the hash is what it always was */
    store_sha256(&(struct store_bytes){all.p, all.n}, 1, sha);
    id = db_id(st->db, NULL, e,
               "INSERT INTO environment(sha256,host,os,cpu,ram_bytes,gpu_name,isa,threads,kvrun_version,git_commit,git_dirty,"
               "compiler,build_flags,libs_json,numerics) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
               " ON CONFLICT(sha256) DO UPDATE SET host=excluded.host RETURNING id",
               "bsssissississss", sha, sizeof sha, v->host, v->os, v->cpu, v->ram_bytes, v->gpu_name, v->isa,
               (int64_t)v->threads, v->version, v->git_commit, (int64_t) !!v->git_dirty, v->compiler, v->build_flags,
               v->libs_json, m->numerics);
    buf_free(&all);
    return id;
}

/* RFC 9562, version 7: 48 bits of milliseconds, then random bits, so that later runs sort behind earlier ones. */
static void make_uuid(char out[37])
{
    uint64_t ms = (uint64_t)store_now_ms();
    uint8_t u[16];
    int i, n = 0;
    if (getrandom(u, sizeof u, 0) != sizeof u) memset(u, (int)getpid(), sizeof u);
    for (i = 0; i < 6; i++) u[i] = (uint8_t)(ms >> (40 - 8 * i));
    u[6] = (uint8_t)(0x70 | (u[6] & 0x0f));
    u[8] = (uint8_t)(0x80 | (u[8] & 0x3f));
    for (i = 0; i < 16; i++)
        n += snprintf(out + n, 37 - (size_t)n, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
}

static int put_run(store *st, const struct run_info *info, err *e)
{
    int64_t env = put_environment(st, info->env, engine_info(info->en), e);
    if (env < 0) return -1;
    make_uuid(st->uuid);
    st->run_id = db_id(st->db, NULL, e,
                       "INSERT INTO run(uuid,spec_id,environment_id,argv_json,cwd,pid,started_ms,status)"
                       " VALUES(?,?,?,?,?,?,?,'running') RETURNING id",
                       "siissii", st->uuid, st->spec_id, env, info->argv_json, info->cwd, (int64_t)getpid(), store_now_ms());
    return st->run_id < 0 ? -1 : 0;
}

/* ---- the spec ---- */

/* What makes a spec the same spec: its bytes, what the command line put over them, the model, and the labels and keys of all
 * its jobs. NULL: not UTF-8. */
static char *identity_of(const struct run_info *info)
{
    char source[65], model[65], jobs[65];
    uint8_t sha[32];
    struct buf list = {0};
    json_t *json;
    char *text;
    int i;
    for (i = 0; i < info->jobs->n; i++) {
        const struct job *j = &info->jobs->jobs[i];
        buf_add(&list, j->label, strlen(j->label) + 1);
        buf_add(&list, j->key, sizeof j->key);
    }
    store_sha256(&(struct store_bytes){list.p, list.n}, 1, sha);
    buf_free(&list);
    hex_text(jobs, sha, 32);
    hex_text(source, info->spec->sha256, 32);
    hex_text(model, engine_info(info->en)->sha256, 32);
    json = json_pack("{s:s, s:s, s:s, s:i, s:s}", "experiment", info->spec->experiment, "source_sha256", source, "model_sha256",
                     model, "n_jobs", info->jobs->n, "jobs_sha256", jobs);
    if (info->spec->n_sets) {
        json_t *sets = json_array();
        for (i = 0; i < info->spec->n_sets; i++) json_array_append_new(sets, json_string(info->spec->sets[i]));
        json_object_set_new(json, "set", sets);
    }
    text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(json);
    return text;
}

/* *known: this very spec was registered before, with all its jobs. */
static int put_spec(store *st, const struct run_info *info, bool *known, err *e)
{
    const struct spec *s = info->spec;
    sqlite3_stmt *find = NULL;
    char *identity = identity_of(info);
    uint8_t sha[32];
    int64_t experiment;
    int r = -1;
    if (!identity) return err_set(e, ERR_INPUT, "the experiment's name is not UTF-8");
    store_sha256(&(struct store_bytes){identity, strlen(identity)}, 1, sha);
    experiment = db_id(st->db, NULL, e,
                       "INSERT INTO experiment(name,title,created_ms) VALUES(?,?,?)"
                       " ON CONFLICT(name) DO UPDATE SET title=excluded.title RETURNING id",
                       "ssi", s->experiment, s->title, store_now_ms());
    if (experiment < 0) goto out;
    r = db_query(st->db, &find, e, "SELECT id FROM spec WHERE sha256=?", "b", sha, sizeof sha);
    *known = r == 1;
    if (r == 1) st->spec_id = sqlite3_column_int64(find, 0);
    if (r == 0) {
        st->spec_id = db_id(st->db, NULL, e,
                            "INSERT INTO spec(experiment_id,sha256,identity_json,source_yaml,source_path,created_ms)"
                            " VALUES(?,?,?,?,?,?) RETURNING id",
                            "ibstsi", experiment, sha, sizeof sha, identity, s->source, s->source_len, s->path, store_now_ms());
        r = st->spec_id < 0 ? -1 : 0;
    }
out:
    sqlite3_finalize(find);
    free(identity);
    return r < 0 ? -1 : 0;
}

/* ---- prompts ---- */

/* A prompt's row: the same tokens with another text (given as ids, say) are another prompt. */
static int64_t put_prompt(struct begin *b, const struct bound_prompt *p, err *e)
{
    store *st = b->st;
    uint8_t sha[32];
    int64_t id;
    int i, r;
    store_sha256((struct store_bytes[]){{p->sha256, 32}, {p->text, (size_t)p->n_bytes}}, 2, sha);
    r = db_query(st->db, &b->stmts[BEGIN_PROMPT_FIND], e, "SELECT id FROM prompt WHERE sha256=?", "b", sha, sizeof sha);
    if (r < 0) return -1;
    if (r == 1) {
        id = sqlite3_column_int64(b->stmts[BEGIN_PROMPT_FIND], 0);
        sqlite3_reset(b->stmts[BEGIN_PROMPT_FIND]);
        return id;
    }
    id = db_id(st->db, &b->stmts[BEGIN_PROMPT], e,
               "INSERT INTO prompt(sha256,tokenizer_id,text,n_tokens) VALUES(?,?,?,?) RETURNING id", "biti", sha, sizeof sha,
               st->tokenizer_id, p->text, (size_t)p->n_bytes, (int64_t)p->n_tokens);
    if (id < 0) return -1;
    for (i = 0; i < p->n_tokens; i++) {
        const struct token *t = &p->tokens[i];
        if (store_token(st, t->id, e)) return -1;
        if (db_run(st->db, &b->stmts[BEGIN_PROMPT_TOKEN], e, "INSERT INTO prompt_token VALUES(?,?,?,?,?)", "iiiii", id,
                   (int64_t)i, (int64_t)t->id, (int64_t)t->start, (int64_t)t->end))
            return -1;
    }
    return id;
}

static int put_prompts(struct begin *b, bool known, err *e)
{
    store *st = b->st;
    int i, k;
    for (i = 0; i < b->info->jobs->n_prompts; i++) {
        const struct bound_prompt *p = &b->info->jobs->prompts[i];
        const char *name = p->prompt->name, *variant = p->label ? p->label + strlen(name) : "";
        if (p->n_tokens == 0) continue; /* excluded: no job has it */
        b->prompt_ids[i] = put_prompt(b, p, e);
        if (b->prompt_ids[i] < 0) return err_in(e, "prompt '%s'", p->prompt->name);
        if (known) continue;
        b->spec_prompt_ids[i] = db_id(st->db, &b->stmts[BEGIN_SPEC_PROMPT], e,
                                      "INSERT INTO spec_prompt(spec_id,name,variant,prompt_id) VALUES(?,?,?,?) RETURNING id",
                                      "issi", st->spec_id, name, variant + (*variant == '/'), b->prompt_ids[i]);
        if (b->spec_prompt_ids[i] < 0) return -1;
        for (k = 0; k < p->n_spans; k++) {
            const struct span *s = &p->spans[k];
            if (db_run(st->db, &b->stmts[BEGIN_SPAN], e, "INSERT INTO prompt_span VALUES(?,?,?,?,?,?,?,?)", "isiiiiis",
                       b->spec_prompt_ids[i], s->name, (int64_t)s->nth, (int64_t)s->byte_start, (int64_t)s->byte_end,
                       (int64_t)s->tok_start, (int64_t)s->tok_end, s->edges))
                return -1;
        }
    }
    return 0;
}

/* ---- jobs ---- */

static const char *json_list(struct buf *b, const int *v, int n)
{
    int i;
    b->n = 0;
    buf_char(b, '[');
    for (i = 0; i < n; i++) buf_printf(b, i ? ",%d" : "%d", v[i]);
    buf_char(b, ']');
    return b->p;
}

/* Where values come from: a donor's cache or pass, and for a difference also what is taken off. */
struct sources {
    int64_t donor, minus, job; /* rows of `prompt` and of `job`, or -1 */
    const char *donor_at, *minus_at;
    const uint8_t *vector; /* hash of a file's or of stored numbers, or NULL */
};

static int64_t job_row(struct begin *b, int i, err *e);

static int sources_of(struct begin *b, const struct job_op *o, struct sources *s, err *e)
{
    const struct job_vector *v = o->vector;
    int n;
    job_op_places(o, &n);
    *s = (struct sources){.donor = -1, .minus = -1, .job = -1};
    if (o->op == EDIT_TRANSPLANT) {
        if (o->donor_prompt >= 0) s->donor = b->prompt_ids[o->donor_prompt];
        s->donor_at = json_list(&b->d, o->donor_at, n);
        if (v) s->vector = v->sha256;
        if (o->donor_job >= 0 && (s->job = job_row(b, o->donor_job, e)) < 0) return -1;
    } else if (v && v->rows) {
        s->vector = v->sha256;
    } else if (v && !v->sets) {
        s->donor = b->prompt_ids[v->from.prompt];
        s->donor_at = json_list(&b->d, &v->from.at, 1);
        s->minus = b->prompt_ids[v->minus.prompt];
        s->minus_at = json_list(&b->e, &v->minus.at, 1);
    }
    return 0;
}

/* What a mean is taken over: prompts by the hash of their tokens and text, as `prompt` has it; jobs by their key. */
static json_t *sets_json(const struct begin *b, const struct job_vector *v)
{
    const struct jobs *jobs = b->info->jobs;
    json_t *sets = json_array(), *one, *at;
    char hex[65];
    int i, k;
    for (i = 0; i < v->n_sets; i++) {
        const struct job_set *set = &v->sets[i];
        one = json_object();
        json_object_set_new(one, "prompt_id", json_integer(b->prompt_ids[set->prompt]));
        if (set->job >= 0) {
            hex_text(hex, jobs->jobs[set->job].key, 32);
            json_object_set_new(one, "job_key", json_string(hex));
        }
        at = json_array();
        for (k = 0; k < set->n; k++) json_array_append_new(at, json_integer(set->at[k]));
        json_object_set_new(one, "at", at);
        json_array_append_new(sets, one);
    }
    return sets;
}

/* What only this operation has, as JSON; NULL: nothing. Caller frees. */
static char *params_of(const struct begin *b, const struct job_op *o)
{
    json_t *p = json_object();
    char *text = NULL;
    job_op_params(o, p);
    json_object_del(p, "steps"); /* has columns of its own */
    if (o->vector && o->vector->sets) json_object_set_new(p, "over", sets_json(b, o->vector));
    if (json_object_size(p)) text = json_dumps(p, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(p);
    return text;
}

static int put_edit(struct begin *b, int64_t job_id, int i, const struct job_op *o, err *e)
{
    struct sources s;
    double by = o->op == EDIT_SCALE || o->op == EDIT_ADD ? (double)o->by : (double)NAN; /* NaN becomes NULL */
    bool steps = o->when == WHEN_STEPS;
    char *params;
    int rc;
    if (sources_of(b, o, &s, e)) return -1;
    params = params_of(b, o);
    rc = db_run(b->st->db, &b->stmts[BEGIN_EDIT], e,
                "INSERT INTO intervention(job_id,ord,op,tensor,timing,layers_json,heads_json,positions_json,donor_prompt_id,"
                "donor_positions_json,rerotate,amount,vector_sha256,minus_prompt_id,minus_positions_json,first_step,last_step,"
                "donor_job_id,params_json)"
                " VALUES(?,?,?,?,?,?,?,?,nullif(?,-1),?,?,?,?,nullif(?,-1),?,nullif(?,-1),nullif(?,-1),nullif(?,-1),?)",
                "iissssssisidbisiiis", job_id, (int64_t)i, job_op_name(o->op), job_tensor_name(o->tensors, o->layers[0]),
                job_when_name(o->when), json_list(&b->a, o->layers, o->n_layers), json_list(&b->b, o->heads, o->n_heads),
                json_list(&b->c, o->at, o->n_at), s.donor, s.donor_at, (int64_t)o->rerotate, by, s.vector, (size_t)32, s.minus,
                s.minus_at, (int64_t)(steps ? o->first_step : -1), (int64_t)(steps ? o->last_step : -1), s.job, params);
    free(params);
    return rc;
}

static int put_edits(struct begin *b, int64_t job_id, const struct job *j, err *e)
{
    int i;
    for (i = 0; i < j->n_ops; i++) /* the row of a donor first: its statements and lists are shared */
        if (j->ops[i].donor_job >= 0 && job_row(b, j->ops[i].donor_job, e) < 0) return -1;
    for (i = 0; i < j->n_ops; i++)
        if (put_edit(b, job_id, i, &j->ops[i], e)) return -1;
    return 0;
}

static int64_t put_job(struct begin *b, const struct job *j, err *e)
{
    static const char *const after[] = {"none", "rerun_last", "reuse_logits", "feed"};
    const struct decode *d = &b->info->spec->decode;
    char decode[128];
    int64_t id;
    int r = db_query(b->st->db, &b->stmts[BEGIN_JOB_FIND], e, "SELECT id FROM job WHERE key=?", "b", j->key, sizeof j->key);
    if (r < 0) return -1;
    if (r == 1) {
        id = sqlite3_column_int64(b->stmts[BEGIN_JOB_FIND], 0);
        sqlite3_reset(b->stmts[BEGIN_JOB_FIND]);
        return id;
    }
    snprintf(decode, sizeof decode, "{\"after_edit\":\"%s\",\"max_tokens\":%d,\"stop\":\"%s\"}", after[j->after], d->max_tokens,
             d->stop_eos ? "eos" : "none");
    id = db_id(b->st->db, &b->stmts[BEGIN_JOB], e,
               "INSERT INTO job(key,model_id,prompt_id,decode_json,key_json) VALUES(?,?,?,?,?) RETURNING id", "biiss", j->key,
               sizeof j->key, b->st->model_id, b->prompt_ids[j->prompt], decode, j->key_json);
    return id < 0 || put_edits(b, id, j, e) ? -1 : id;
}

/* number: what the value counts as, or NULL: the number it is, if it is one. */
static int put_factor(struct begin *b, int64_t spec_job, const char *name, const char *text, const double *number, err *e)
{
    char *end;
    double num = number ? *number : strtod(text, &end);
    bool is_num = number || (*text && !*end && num - num == 0 && strspn(text, "0123456789+-.eE") == strlen(text));
    return db_run(b->st->db, &b->stmts[BEGIN_FACTOR], e, "INSERT INTO factor VALUES(?,?,?,?)", is_num ? "issd" : "issn",
                  spec_job, name, text, num);
}

/* The value of an axis; of a zip also those of its lists, as "axis.list". */
static int put_factors(struct begin *b, int64_t spec_job, const struct axis_value *v, err *e)
{
    const struct axis *a = &b->info->spec->axes[v->axis];
    int m;
    if (put_factor(b, spec_job, a->name, v->text, v->has_number ? &v->number : NULL, e)) return -1;
    for (m = 0; a->kind == AXIS_ZIP && m < a->n_members; m++)
        if (put_factor(b, spec_job, a->members[m].full, a->members[m].values[v->choice]->text, NULL, e)) return -1;
    return 0;
}

static int put_spec_job(struct begin *b, int i, int64_t first, err *e)
{
    store *st = b->st;
    const struct job *j = &b->info->jobs->jobs[i];
    int k;
    if (db_run(st->db, &b->stmts[BEGIN_SPEC_JOB], e, "INSERT INTO spec_job VALUES(?,?,?,?,?,?,?,nullif(?,-1))", "iiiiissi",
               first + i, st->spec_id, st->job_ids[i], (int64_t)i, b->spec_prompt_ids[j->prompt], j->condition_name, j->label,
               j->baseline < 0 ? (int64_t)-1 : first + j->baseline))
        return -1;
    for (k = 0; k < j->n_values; k++)
        if (put_factors(b, first + i, &j->values[k], e)) return -1;
    return 0;
}

/* The job's row, made at first need: a job's donors come before it. -1: e. */
static int64_t job_row(struct begin *b, int i, err *e)
{
    const struct job *j = &b->info->jobs->jobs[i];
    int64_t *id = &b->st->job_ids[i];
    if (*id == 0) *id = j->same_as >= 0 && j->same_as < i ? job_row(b, j->same_as, e) : put_job(b, j, e);
    return *id;
}

static int put_jobs(struct begin *b, bool known, err *e)
{
    int i, n = b->info->jobs->n;
    store *st = b->st;
    int64_t first = db_id(st->db, NULL, e, "SELECT coalesce(max(id),0)+1 FROM spec_job", "");
    if (first < 0) return -1;
    for (i = 0; i < n; i++) {
        const struct job *j = &b->info->jobs->jobs[i];
        if (job_row(b, i, e) < 0 || (!known && put_spec_job(b, i, first, e))) return err_in(e, "job '%s'", j->label);
    }
    return 0;
}

/* ---- all of it ---- */

static int registered(struct begin *b, err *e)
{
    store *st = b->st;
    bool known = false;
    if (mark_lost(st, b->info->env->host, e)) return -1;
    if (put_model(st, engine_info(b->info->en), e)) return -1;
    if (put_spec(st, b->info, &known, e)) return -1;
    if (put_prompts(b, known, e)) return -1;
    if (put_jobs(b, known, e)) return -1;
    return put_run(st, b->info, e);
}

int store_begin(store *st, const struct run_info *info, err *e)
{
    struct begin b = {.st = st, .info = info};
    int i, r;
    free(st->job_ids);
    free(st->token_known);
    st->job_ids = mem_array((size_t)info->jobs->n, sizeof *st->job_ids);
    st->token_known = mem_array((size_t)engine_info(info->en)->n_vocab, 1);
    st->info = *info;
    b.prompt_ids = mem_array((size_t)info->jobs->n_prompts, sizeof *b.prompt_ids);
    b.spec_prompt_ids = mem_array((size_t)info->jobs->n_prompts, sizeof *b.spec_prompt_ids);
    r = db_run(st->db, NULL, e, "BEGIN IMMEDIATE", "");
    if (!r) r = registered(&b, e);
    for (i = 0; i < BEGIN_N; i++) sqlite3_finalize(b.stmts[i]);
    if (!r) r = db_run(st->db, NULL, e, "COMMIT", "");
    if (r) {
        db_rollback(st->db);
        st->info.spec = NULL;
    }
    free(b.prompt_ids);
    free(b.spec_prompt_ids);
    buf_free(&b.a);
    buf_free(&b.b);
    buf_free(&b.c);
    buf_free(&b.d);
    buf_free(&b.e);
    return r;
}
