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

static void hex_of(const uint8_t *bytes, char out[65])
{
    int i;
    for (i = 0; i < 32; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* What makes a spec the same spec: its bytes, the model, and the labels and keys of all its jobs. NULL: not UTF-8. */
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
    hex_of(sha, jobs);
    hex_of(info->spec->sha256, source);
    hex_of(engine_info(info->en)->sha256, model);
    json = json_pack("{s:s, s:s, s:s, s:i, s:s}", "experiment", info->spec->experiment, "source_sha256", source, "model_sha256",
                     model, "n_jobs", info->jobs->n, "jobs_sha256", jobs);
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
    for (i = 0; i < b->info->spec->n_prompts; i++) {
        const struct bound_prompt *p = &b->info->jobs->prompts[i];
        b->prompt_ids[i] = put_prompt(b, p, e);
        if (b->prompt_ids[i] < 0) return err_in(e, "prompt '%s'", b->info->spec->prompts[i].name);
        if (known) continue;
        b->spec_prompt_ids[i] = db_id(st->db, &b->stmts[BEGIN_SPEC_PROMPT], e,
                                      "INSERT INTO spec_prompt(spec_id,name,prompt_id) VALUES(?,?,?) RETURNING id", "isi",
                                      st->spec_id, b->info->spec->prompts[i].name, b->prompt_ids[i]);
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
    int64_t donor, minus; /* rows of `prompt`, or -1 */
    const char *donor_at, *minus_at;
    const uint8_t *vector; /* hash of a file's numbers, or NULL */
};

static struct sources sources_of(struct begin *b, const struct job_op *o)
{
    struct sources s = {.donor = -1, .minus = -1};
    const struct job_vector *v = o->vector;
    if (o->op == EDIT_TRANSPLANT && o->donor_prompt >= 0) {
        s.donor = b->prompt_ids[o->donor_prompt];
        s.donor_at = json_list(&b->d, o->donor_at, o->n_at);
    } else if (v && v->rows) {
        s.vector = v->sha256;
    } else if (v) {
        s.donor = b->prompt_ids[v->from.prompt];
        s.donor_at = json_list(&b->d, &v->from.at, 1);
        s.minus = b->prompt_ids[v->minus.prompt];
        s.minus_at = json_list(&b->e, &v->minus.at, 1);
    }
    return s;
}

static int put_edits(struct begin *b, int64_t job_id, const struct job *j, err *e)
{
    int i;
    for (i = 0; i < j->n_ops; i++) {
        const struct job_op *o = &j->ops[i];
        struct sources s = sources_of(b, o);
        double by = o->op == EDIT_SCALE || o->op == EDIT_ADD ? (double)o->by : (double)NAN; /* NaN becomes NULL */
        if (db_run(b->st->db, &b->stmts[BEGIN_EDIT], e,
                   "INSERT INTO intervention(job_id,ord,op,tensor,timing,layers_json,heads_json,positions_json,donor_prompt_id,"
                   "donor_positions_json,rerotate,amount,vector_sha256,minus_prompt_id,minus_positions_json)"
                   " VALUES(?,?,?,?,?,?,?,?,nullif(?,-1),?,?,?,?,nullif(?,-1),?)",
                   "iissssssisidbis", job_id, (int64_t)i, job_op_name(o->op), job_tensor_name(o->tensors, o->layers[0]),
                   job_when_name(o->when), json_list(&b->a, o->layers, o->n_layers), json_list(&b->b, o->heads, o->n_heads),
                   json_list(&b->c, o->at, o->n_at), s.donor, s.donor_at, (int64_t)o->rerotate, by, s.vector, (size_t)32,
                   s.minus, s.minus_at))
            return -1;
    }
    return 0;
}

static int64_t put_job(struct begin *b, const struct job *j, err *e)
{
    static const char *const after[] = {"none", "rerun_last", "reuse_logits"};
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

static int put_spec_job(struct begin *b, int i, int64_t first, err *e)
{
    store *st = b->st;
    const struct job *j = &b->info->jobs->jobs[i];
    int k;
    if (db_run(st->db, &b->stmts[BEGIN_SPEC_JOB], e, "INSERT INTO spec_job VALUES(?,?,?,?,?,?,?,nullif(?,-1))", "iiiiissi",
               first + i, st->spec_id, st->job_ids[i], (int64_t)i, b->spec_prompt_ids[j->prompt], j->condition_name, j->label,
               j->baseline < 0 ? (int64_t)-1 : first + j->baseline))
        return -1;
    for (k = 0; k < j->n_values; k++) {
        const struct axis_value *v = &j->values[k];
        char *end;
        double num = strtod(v->text, &end);
        bool is_num = *v->text && !*end && num - num == 0 && strspn(v->text, "0123456789+-.eE") == strlen(v->text);
        if (db_run(st->db, &b->stmts[BEGIN_FACTOR], e, "INSERT INTO factor VALUES(?,?,?,?)", is_num ? "issd" : "issn",
                   first + i, b->info->spec->axes[v->axis].name, v->text, num))
            return -1;
    }
    return 0;
}

static int put_jobs(struct begin *b, bool known, err *e)
{
    store *st = b->st;
    int i, n = b->info->jobs->n;
    int64_t first = db_id(st->db, NULL, e, "SELECT coalesce(max(id),0)+1 FROM spec_job", "");
    if (first < 0) return -1;
    for (i = 0; i < n; i++) {
        const struct job *j = &b->info->jobs->jobs[i];
        st->job_ids[i] = j->same_as >= 0 && j->same_as < i ? st->job_ids[j->same_as] : put_job(b, j, e);
        if (st->job_ids[i] < 0 || (!known && put_spec_job(b, i, first, e))) return err_in(e, "job '%s'", j->label);
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
    b.prompt_ids = mem_array((size_t)info->spec->n_prompts, sizeof *b.prompt_ids);
    b.spec_prompt_ids = mem_array((size_t)info->spec->n_prompts, sizeof *b.spec_prompt_ids);
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
