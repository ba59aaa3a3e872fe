/* metric_cache.c: metrics of caches: how far two stored ones are apart, and how many bytes one takes. */
#include "metric_in.h"
#include "query_in.h"
#include "signals.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COMMIT_EACH = 16 /* jobs */ };

/* ---- kv_delta ---- */

/* What one group of numbers adds up to: of differences their squares or the largest; for a cosine three products. */
struct sum {
    double ab, aa, bb;
};

struct delta {
    struct computing *c;
    const struct metric *m;
    int layers, heads, tensors, n_tok; /* groups along each; 1: not split by it */
    int E, G, n_layer;
    struct sum all, *groups; /* (layers, heads, n_tok or 1, tensors) */
    struct buf raw[2];
    float *numbers[2]; /* (G, n, E) of both chunks */
    size_t cap;
};

static void add(struct sum *s, enum metric_norm norm, double a, double b)
{
    if (norm == NORM_L2)
        s->ab += (a - b) * (a - b);
    else if (norm == NORM_MAX)
        s->ab = fabs(a - b) > s->ab ? fabs(a - b) : s->ab;
    else
        s->ab += a * b, s->aa += a * a, s->bb += b * b;
}

static struct value value_of(const struct sum *s, enum metric_norm norm)
{
    if (norm == NORM_L2) return (struct value){true, sqrt(s->ab)};
    if (norm == NORM_MAX) return (struct value){true, s->ab};
    if (s->aa <= 0 || s->bb <= 0) return (struct value){false, 0};
    return (struct value){true, s->ab / (sqrt(s->aa) * sqrt(s->bb))};
}

static size_t group_of(const struct delta *d, int layer, int head, int pos, int tensor)
{
    size_t positions = d->m->per & PER_POSITION ? (size_t)d->n_tok : 1, i;
    i = d->layers > 1 ? (size_t)layer : 0;
    i = i * (size_t)d->heads + (d->heads > 1 ? (size_t)head : 0);
    i = i * positions + (positions > 1 ? (size_t)pos : 0);
    return i * (size_t)d->tensors + (d->tensors > 1 ? (size_t)tensor : 0);
}

static int load(struct delta *d, int which, int64_t blob, int n, err *e)
{
    enum kv_type type;
    size_t count = (size_t)d->G * (size_t)n * (size_t)d->E;
    if (query_chunk(d->c->db, &d->c->blob, blob, &d->raw[which], &type, e)) return -1;
    if (d->raw[which].n != count * engine_kv_bytes(type))
        return err_set(e, ERR_DB, "blob %lld does not hold %d tokens of a layer", (long long)blob, n);
    if (count > d->cap) {
        d->cap = count;
        d->numbers[0] = mem_grow(d->numbers[0], count, sizeof(float));
        d->numbers[1] = mem_grow(d->numbers[1], count, sizeof(float));
    }
    engine_kv_to_f32(type, d->raw[which].p, d->numbers[which], count);
    return 0;
}

/* One chunk of each; n: tokens that each has, first: of both. */
static void add_chunk(struct delta *d, int layer, int tensor, int first, const int n[2])
{
    int common = n[0] < n[1] ? n[0] : n[1], h, t, i;
    for (h = 0; h < d->G; h++)
        for (t = 0; t < common; t++) {
            const float *a = d->numbers[0] + ((size_t)h * (size_t)n[0] + (size_t)t) * (size_t)d->E;
            const float *b = d->numbers[1] + ((size_t)h * (size_t)n[1] + (size_t)t) * (size_t)d->E;
            struct sum *s = &d->groups[group_of(d, layer, h, first + t, tensor)];
            for (i = 0; i < d->E; i++) add(s, d->m->norm, (double)a[i], (double)b[i]);
        }
}

static int row_chunk(struct delta *d, sqlite3_stmt *row, err *e)
{
    int layer = sqlite3_column_int(row, 0), tensor = sqlite3_column_int(row, 1), first = sqlite3_column_int(row, 2);
    int n[2] = {sqlite3_column_int(row, 3), sqlite3_column_int(row, 4)}, i;
    int64_t blobs[2] = {sqlite3_column_int64(row, 5), sqlite3_column_int64(row, 6)};
    if (layer < 0 || layer >= d->n_layer || first < 0 || n[0] < 1 || n[1] < 1 || n[0] > 4096 || n[1] > 4096 ||
        (n[0] < n[1] ? n[0] : n[1]) > d->n_tok - first)
        return err_set(e, ERR_DB, "a chunk of layer %d from token %d is not possible", layer, first);
    if (blobs[0] == blobs[1] && d->m->norm != NORM_COSINE) return 0; /* equal bytes */
    for (i = 0; i < 2; i++)
        if (load(d, i, blobs[i], n[i], e)) return -1;
    add_chunk(d, layer, tensor, first, n);
    return 0;
}

static int add_all(struct delta *d, const int64_t captures[2], err *e)
{
    int r = db_query(d->c->db, &d->c->chunks, e,
                     "SELECT a.layer, a.tensor='v', a.tok_start, a.n_tok, b.n_tok, a.blob_id, b.blob_id FROM kv_chunk a"
                     " JOIN kv_chunk b ON b.capture_id=?2 AND b.layer=a.layer AND b.tensor=a.tensor AND b.tok_start=a.tok_start"
                     " WHERE a.capture_id=?1 AND a.tensor IN ('k','v') ORDER BY a.layer, a.tensor, a.tok_start",
                     "ii", captures[0], captures[1]);
    for (; r == 1; r = db_next(d->c->db, d->c->chunks, e))
        if (row_chunk(d, d->c->chunks, e)) {
            sqlite3_reset(d->c->chunks);
            return -1;
        }
    return r;
}

/* 1: the capture of the job's newest answer at the moment, 0: it is not there, -1. */
static int capture_of(struct computing *c, int job, int moment, int64_t *id, int *n_tok, err *e)
{
    static const char *const names[] = {[MOMENT_PREFILL] = "prefill", [MOMENT_EDITED] = "edited", [MOMENT_END] = "end"};
    int real = job_moment(c->j, job, moment), r;
    sqlite3_stmt *find = NULL;
    if (!real) return 0;
    r = db_query(c->db, &find, e, "SELECT id, tok_end FROM kv_capture WHERE attempt_id=? AND moment=? AND complete=1", "is",
                 c->newest[job].attempt, names[real]);
    if (r == 1) {
        *id = sqlite3_column_int64(find, 0);
        *n_tok = sqlite3_column_int(find, 1);
    }
    sqlite3_finalize(find);
    return r;
}

static int put_groups(struct delta *d, int metric, int job, int other, err *e)
{
    int positions = d->m->per & PER_POSITION ? d->n_tok : 1, l, h, p, t;
    for (l = 0; l < d->layers; l++)
        for (h = 0; h < d->heads; h++)
            for (p = 0; p < positions; p++)
                for (t = 0; t < d->tensors; t++) {
                    const struct sum *s =
                        &d->groups[(((size_t)l * (size_t)d->heads + (size_t)h) * (size_t)positions + (size_t)p) *
                                       (size_t)d->tensors +
                                   (size_t)t];
                    if (d->m->norm == NORM_MAX)
                        d->all.ab = s->ab > d->all.ab ? s->ab : d->all.ab;
                    else
                        d->all.ab += s->ab, d->all.aa += s->aa, d->all.bb += s->bb;
                }
    if (metric_put(d->c, metric, job, d->c->newest[other].attempt, value_of(&d->all, d->m->norm), e)) return -1;
    for (l = 0; d->m->per && l < d->layers; l++)
        for (h = 0; h < d->heads; h++)
            for (p = 0; p < positions; p++)
                for (t = 0; t < d->tensors; t++) {
                    struct part x = NO_PART;
                    if (d->m->per & PER_LAYER) x.layer = l;
                    if (d->m->per & PER_HEAD) x.head = h;
                    if (d->m->per & PER_POSITION) x.pos = p;
                    if (d->m->per & PER_TENSOR) x.tensor = t ? "v" : "k";
                    x.value = value_of(&d->groups[(((size_t)l * (size_t)d->heads + (size_t)h) * (size_t)positions + (size_t)p) *
                                                      (size_t)d->tensors +
                                                  (size_t)t],
                                       d->m->norm);
                    if (metric_put_part(d->c, metric, job, &x, e)) return -1;
                }
    return 0;
}

/* 1: done, 0: a capture is not there, -1. */
static int delta_pair(struct computing *c, int metric, int job, int other, err *e)
{
    const struct engine_info *info = engine_info(store_engine(c->st));
    const struct metric *m = &c->s->metrics[metric];
    struct delta d = {.c = c, .m = m, .E = info->head_dim, .G = info->n_kv_head, .n_layer = info->n_layer};
    int64_t captures[2];
    int n_tok[2], rc = capture_of(c, job, m->moment, &captures[0], &n_tok[0], e);
    if (rc == 1) rc = capture_of(c, other, m->moment, &captures[1], &n_tok[1], e);
    if (rc != 1) return rc;
    d.n_tok = n_tok[0] < n_tok[1] ? n_tok[0] : n_tok[1];
    d.layers = m->per & PER_LAYER ? info->n_layer : 1;
    d.heads = m->per & PER_HEAD ? info->n_kv_head : 1;
    d.tensors = m->per & PER_TENSOR ? 2 : 1;
    d.groups = mem_array((size_t)d.layers * (size_t)d.heads * (size_t)d.tensors,
                         (m->per & PER_POSITION ? (size_t)(d.n_tok > 0 ? d.n_tok : 0) : 1) * sizeof *d.groups);
    rc = d.n_tok < 0 ? err_set(e, ERR_DB, "a capture of %d tokens", d.n_tok) : add_all(&d, captures, e);
    if (!rc) rc = put_groups(&d, metric, job, other, e);
    free(d.groups);
    free(d.numbers[0]);
    free(d.numbers[1]);
    buf_free(&d.raw[0]);
    buf_free(&d.raw[1]);
    return rc ? err_in(e, "'%s' and '%s'", c->j->jobs[job].label, c->j->jobs[other].label) : 1;
}

static int find_label(const struct jobs *j, const char *label)
{
    int i;
    for (i = 0; i < j->n; i++)
        if (!strcmp(j->jobs[i].label, label)) return i;
    return -1;
}

static void tell(const struct computing *c, const char *what, int done)
{
    if (c->passes) c->passes->progress(c->passes->arg, what, done, c->j->n);
}

int metric_delta(struct computing *c, int metric, err *e)
{
    const struct metric *m = &c->s->metrics[metric];
    int i, r = 0, since = 0;
    for (i = 0; i < c->j->n && !r; i++) {
        bool in = m->between[0] ? !strcmp(c->j->jobs[i].label, m->between[0]) : job_in_delta(c->s, m, &c->j->jobs[i]);
        int other = !in || !c->newest[i].attempt ? -1
                    : m->between[0]              ? find_label(c->j, m->between[1])
                                                 : metric_partner(c, m, i);
        if (other < 0 || !c->newest[other].attempt) continue;
        r = metric_kept(c, metric, i, c->newest[other].attempt, e);
        if (r == 0) {
            r = delta_pair(c, metric, i, other, e);
            if (r == 1 && ++since % COMMIT_EACH == 0) {
                if (metric_commit(c, e) || metric_begin(c, e)) r = -1;
                tell(c, "caches", i);
            }
        }
        r = r < 0 ? -1 : *signals_flag() ? 1 : 0;
    }
    if (since >= COMMIT_EACH) tell(c, NULL, i);
    return r;
}

/* ---- state_size ---- */

static bool has(const int *list, int n, int x)
{
    int i;
    for (i = 0; i < n; i++)
        if (list[i] == x) return true;
    return false;
}

/* Tokens that the cache of a job does not hold any more in the end, for one layer and head. gone: (tokens) scratch. */
static int evicted(const struct job *j, int n_prompt, int n_gen, int layer, int head, unsigned char *gone)
{
    int fed = n_prompt + n_gen - 1, i, k, n = 0;
    memset(gone, 0, (size_t)fed);
    for (i = 0; i < j->n_ops; i++) {
        const struct job_op *o = &j->ops[i];
        if (o->op != EDIT_EVICT || !has(o->layers, o->n_layers, layer) || !has(o->heads, o->n_heads, head)) continue;
        if (o->when == WHEN_STEPS && o->first_step > n_gen - 2) continue; /* that token was never fed */
        if (o->score) {                                                   /* which ones is not known here, how many is */
            n += o->score->count < o->n_at ? o->score->count : o->n_at;
            continue;
        }
        for (k = 0; k < o->n_at; k++)
            if (o->at[k] < fed) gone[o->at[k]] = 1;
        for (k = 0; k < o->n_gen_at; k++)
            if (n_prompt + o->gen_at[k] < fed) gone[n_prompt + o->gen_at[k]] = 1;
    }
    for (i = 0; i < fed; i++) n += gone[i];
    return n < fed ? n : fed;
}

/* Bytes of K, V, S and z of one layer; S and z do not grow with the tokens. */
static void layer_bytes(const struct engine_info *m, int64_t tokens, double out[4])
{
    double element = (double)engine_kv_bytes(m->kv), E = m->head_dim, G = m->n_kv_head;
    out[0] = out[1] = (double)tokens * E * element;
    out[2] = G * E * E * element;
    out[3] = G * E * element;
}

int metric_state(struct computing *c, int metric, err *e)
{
    static const char *const tensors[] = {"k", "v", "s", "z"};
    const struct engine_info *m = engine_info(store_engine(c->st));
    bool per_layer = c->s->metrics[metric].per & PER_LAYER;
    double *bytes = mem_array((size_t)m->n_layer, 4 * sizeof *bytes);
    int i, l, h, t, rc = 0;
    for (i = 0; i < c->j->n && !rc; i++) {
        const struct job *j = &c->j->jobs[i];
        int n_prompt = c->j->prompts[j->prompt].n_tokens, n_gen = c->newest[i].n_gen, fed = n_prompt + n_gen - 1;
        double sum[4] = {0};
        unsigned char *gone;
        if (!c->newest[i].attempt || fed < 0) continue;
        gone = mem_array((size_t)fed, 1);
        for (l = 0; l < m->n_layer; l++) {
            int64_t tokens = 0;
            for (h = 0; h < m->n_kv_head; h++) tokens += fed - evicted(j, n_prompt, n_gen, l, h, gone);
            layer_bytes(m, tokens, bytes + 4 * l);
            for (t = 0; t < 4; t++) sum[t] += bytes[4 * l + t];
        }
        free(gone);
        rc = metric_put(c, metric, i, 0, (struct value){true, sum[0] + sum[1]}, e);
        for (l = 0; l < (per_layer ? m->n_layer : 1); l++)
            for (t = 0; t < 4 && !rc; t++) {
                struct part p = {tensors[t], per_layer ? l : -1, -1, -1, -1, {true, per_layer ? bytes[4 * l + t] : sum[t]}};
                rc = metric_put_part(c, metric, i, &p, e);
            }
    }
    free(bytes);
    return rc;
}
