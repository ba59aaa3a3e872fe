/* job_key.c: the canonical JSON of a job and its SHA-256.
 *
 * It holds all that can change the answer, resolved to numbers and hashes, and no name, label, path, capture or metric:
 * those may change and the stored answer still counts. Integers and strings only, so that there is one way to write it; a
 * number that is not whole is a string of as many digits as it takes to read the same float back.
 */
#include "job_parts.h"

#include "json_text.h"
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *hash_text(arena *mem, const uint8_t h[32])
{
    char hex[65];
    return arena_printf(mem, "sha256:%s", hex_text(hex, h, 32));
}

/* The one way to write v, in mem; takes v. NULL: e. */
static const char *canonical(arena *mem, json_t *v, err *e)
{
    struct buf text = {0};
    const char *out = NULL;
    if (v) json_text(v, &text);
    if (v) out = arena_strndup(mem, text.p, text.n);
    if (!out) err_set(e, ERR_INTERNAL, "a job's key could not be written as JSON");
    buf_free(&text);
    json_decref(v);
    return out;
}

static json_t *list(const int *v, int n)
{
    json_t *a = json_array();
    int i;
    for (i = 0; i < n; i++) json_array_append_new(a, json_integer(v[i]));
    return a;
}

/* Rising indices as [[first,last],..]. */
static json_t *runs(const int *v, int n)
{
    json_t *a = json_array();
    int i, end;
    for (i = 0; i < n; i = end) {
        for (end = i + 1; end < n && v[end] == v[end - 1] + 1;) end++;
        json_array_append_new(a, json_pack("[ii]", v[i], v[end - 1]));
    }
    return a;
}

/* ---- words ---- */

const char *job_op_name(enum edit_op op)
{
    static const char *const names[] = {[EDIT_NOOP] = "noop",         [EDIT_ZERO] = "zero",   [EDIT_TRANSPLANT] = "transplant",
                                        [EDIT_MASK] = "mask",         [EDIT_SCALE] = "scale", [EDIT_ADD] = "add",
                                        [EDIT_MEAN] = "mean",         [EDIT_NOISE] = "noise", [EDIT_SWAP] = "swap",
                                        [EDIT_QUANTISE] = "quantise", [EDIT_EVICT] = "evict", [EDIT_KNOCKOUT] = "knockout"};
    return names[op];
}

const char *job_when_name(enum op_when when)
{
    return when == WHEN_PREFILL ? "prefill" : when == WHEN_STEPS ? "steps" : "finished_cache";
}

const char *job_tensor_name(int tensors, int layer)
{
    switch (tensors) {
    case CACHE_K: return "k";
    case CACHE_V: return "v";
    case CACHE_K | CACHE_V: return "kv";
    case SITE_K_PRE: return "k_pre";
    case SITE_RESID: return layer < 0 ? "embed" : "resid";
    case SITE_ATTN_OUT: return "attn_out";
    case SITE_MLP_OUT: return "mlp_out";
    case SITE_HEAD_OUT: return "head_out";
    case SITE_ATTN: return "attn";
    case SITE_LOGITS: return "logits";
    default: return "";
    }
}

int job_op_heads(const struct engine_info *info, enum edit_op op, int tensors)
{
    if (op == EDIT_KNOCKOUT || tensors == SITE_HEAD_OUT) return info->n_head;
    return tensors & (CACHE_K | CACHE_V | SITE_K_PRE) ? info->n_kv_head : 0;
}

void job_number(float x, char out[16])
{
    int digits;
    for (digits = 1; digits <= 9; digits++) {
        snprintf(out, 16, "%.*g", digits, (double)x);
        if (strtof(out, NULL) == x) return;
    }
}

/* ---- operations ---- */

const int *job_op_places(const struct job_op *op, int *n)
{
    *n = op->n_gen_at ? op->n_gen_at : op->n_at;
    return op->n_gen_at ? op->gen_at : op->at;
}

static void vector_bytes(const struct job_vector *v, struct buf *b)
{
    int i;
    if (v->rows) {
        buf_add(b, v->sha256, sizeof v->sha256);
        return;
    }
    map_key_ints(b, (const int[]){v->from.prompt, v->from.at, v->minus.prompt, v->minus.at}, 4);
    for (i = 0; i < v->n_sets; i++) {
        map_key_ints(b, (const int[]){v->sets[i].prompt, v->sets[i].job}, 2);
        map_key_ints(b, v->sets[i].at, v->sets[i].n);
    }
}

void job_op_bytes(const struct job_op *op, struct buf *b)
{
    int n;
    job_op_places(op, &n);
    map_key_ints(b,
                 (const int[]){(int)op->op, (int)op->when, op->tensors, op->first_step, op->last_step, op->donor_prompt,
                               op->donor_job, op->bits, op->per_channel, op->compact, op->rerotate},
                 11);
    map_key_ints(b, op->layers, op->n_layers);
    map_key_ints(b, op->heads, op->n_heads);
    map_key_ints(b, op->at, op->n_at);
    map_key_ints(b, op->gen_at, op->n_gen_at);
    map_key_ints(b, op->donor_at, op->donor_at ? n : 0);
    map_key_ints(b, op->queries, op->queries ? op->n_queries : 0);
    if (op->score) map_key_ints(b, (const int[]){(int)op->score->score, op->score->highest, op->score->count}, 3);
    buf_add(b, &op->by, sizeof op->by);
    buf_add(b, &op->sigma, sizeof op->sigma);
    buf_add(b, &op->seed, sizeof op->seed);
    if (op->vector) vector_bytes(op->vector, b);
}

static json_t *place_json(const struct expand *x, const struct job_place *p)
{
    return json_pack("{s:s, s:[i]}", "cache", x->caches[p->prompt], "at", p->at);
}

static json_t *vector_json(const struct expand *x, const struct job_vector *v)
{
    if (v->rows) return json_string(hash_text(x->mem, v->sha256));
    return json_pack("{s:o, s:o}", "from", place_json(x, &v->from), "minus", place_json(x, &v->minus));
}

/* A donor: the prompt as it is, by its cache, or as a job leaves it, by that job's key. */
static json_t *source_json(const struct expand *x, const struct jobs *all, int prompt, int job, const int *at, int n)
{
    if (job >= 0) return json_pack("{s:s, s:o}", "job", hash_text(x->mem, all->jobs[job].key), "at", list(at, n));
    return json_pack("{s:s, s:o}", "cache", x->caches[prompt], "at", list(at, n));
}

static json_t *sets_json(const struct expand *x, const struct jobs *all, const struct job_vector *v)
{
    json_t *sets = json_array();
    int i;
    for (i = 0; i < v->n_sets; i++)
        json_array_append_new(sets, source_json(x, all, v->sets[i].prompt, v->sets[i].job, v->sets[i].at, v->sets[i].n));
    return sets;
}

static void set_number(json_t *o, const char *key, float x)
{
    char text[16];
    job_number(x, text);
    json_object_set_new(o, key, json_string(text));
}

static void score_json(const struct job_score *s, json_t *o)
{
    static const char *const names[] = {"position", "attention", "key_norm"};
    json_object_set_new(
        o, "score",
        json_pack("{s:s, s:s, s:i}", "of", names[s->score], "take", s->highest ? "highest" : "lowest", "count", s->count));
}

void job_op_params(const struct job_op *op, struct json_t *o)
{
    if (op->when == WHEN_STEPS) json_object_set_new(o, "steps", json_pack("[ii]", op->first_step, op->last_step));
    if (op->n_gen_at) json_object_set_new(o, "gen", runs(op->gen_at, op->n_gen_at));
    if (op->score) score_json(op->score, o);
    switch (op->op) {
    case EDIT_NOISE:
        set_number(o, "sigma", op->sigma);
        json_object_set_new(o, "seed", json_integer((json_int_t)op->seed));
        break;
    case EDIT_QUANTISE:
        json_object_set_new(o, "bits", json_integer(op->bits));
        json_object_set_new(o, "per", json_string(op->per_channel ? "channel" : "token"));
        break;
    case EDIT_EVICT:
        json_object_set_new(o, "position_policy", json_string(op->compact ? "compact_rerotate" : "keep_holes"));
        break;
    case EDIT_KNOCKOUT:
        json_object_set_new(o, "queries", op->queries ? runs(op->queries, op->n_queries) : json_string("all"));
        break;
    case EDIT_SWAP: json_object_set_new(o, "with", list(op->donor_at, op->n_at)); break;
    default: break;
    }
}

static json_t *op_json(const struct expand *x, const struct jobs *all, const struct job_op *op)
{
    json_t *o = json_pack("{s:s, s:s, s:s}", "op", job_op_name(op->op), "tensor", job_tensor_name(op->tensors, op->layers[0]),
                          "when", job_when_name(op->when));
    int heads = job_op_heads(x->info, op->op, op->tensors), n;
    const int *places = job_op_places(op, &n);
    if (op->layers[0] >= 0) json_object_set_new(o, "layers", runs(op->layers, op->n_layers));
    if (heads) json_object_set_new(o, "heads", op->n_heads == heads ? json_string("all") : runs(op->heads, op->n_heads));
    json_object_set_new(o, "at", list(op->at, op->n_at));
    job_op_params(op, o);
    if (op->op == EDIT_TRANSPLANT && op->vector)
        json_object_set_new(
            o, "from", json_pack("{s:s, s:o}", "values", hash_text(x->mem, op->vector->sha256), "at", list(op->donor_at, n)));
    else if (op->op == EDIT_TRANSPLANT)
        json_object_set_new(o, "from", source_json(x, all, op->donor_prompt, op->donor_job, op->donor_at, n));
    if ((op->op == EDIT_TRANSPLANT || op->op == EDIT_SWAP) && op->tensors <= (CACHE_K | CACHE_V) &&
        (op->n_gen_at || memcmp(places, op->donor_at, (size_t)n * sizeof *places) != 0))
        json_object_set_new(o, "rope", json_string(op->rerotate ? "rerotate" : "keep"));
    if (op->op == EDIT_SCALE || op->op == EDIT_ADD) set_number(o, "by", op->by);
    if (op->op == EDIT_ADD) json_object_set_new(o, "vector", vector_json(x, op->vector));
    if (op->op == EDIT_MEAN) json_object_set_new(o, "over", sets_json(x, all, op->vector));
    return o;
}

static json_t *decode_json(const struct expand *x, const struct job *j)
{
    static const char *const after[] = {"none", "rerun_last", "reuse_logits", "feed"};
    json_t *decode = json_pack("{s:b, s:i}", "greedy", 1, "max_tokens", x->s->decode.max_tokens);
    json_object_set_new(decode, "stop", list(x->stop, x->n_stop));
    if (j->after != AFTER_NONE) json_object_set_new(decode, "after_edit", json_string(after[j->after]));
    if (j->after == AFTER_FEED) json_object_set_new(decode, "feed", json_integer(x->feed[j->prompt]));
    return decode;
}

int job_key(const struct expand *x, const struct jobs *all, struct job *j, err *e)
{
    json_t *ops = json_array(), *job;
    int i;
    for (i = 0; i < j->n_ops; i++) json_array_append_new(ops, op_json(x, all, &j->ops[i]));
    job = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "ids", x->ids[j->prompt], "kv", x->info->kv_dtype, "model", x->model_hash,
                    "tokenizer", x->tokenizer_hash, "seed", 0, "v", 1);
    json_object_set_new(job, "decode", decode_json(x, j));
    json_object_set_new(job, "ops", ops);
    j->key_json = canonical(x->mem, job, e);
    if (!j->key_json) return -1;
    SHA256((const unsigned char *)j->key_json, strlen(j->key_json), j->key);
    return 0;
}

static void set_stop(struct expand *x)
{
    int i, n = x->s->decode.stop_eos ? x->info->n_stop : 0;
    x->stop = arena_array(x->mem, (size_t)n, sizeof *x->stop);
    if (n) memcpy(x->stop, x->info->stop, (size_t)n * sizeof *x->stop);
    qsort(x->stop, (size_t)n, sizeof *x->stop, order_ints);
    for (i = 0, x->n_stop = 0; i < n; i++)
        if (x->n_stop == 0 || x->stop[i] != x->stop[x->n_stop - 1]) x->stop[x->n_stop++] = x->stop[i];
}

/* SHA-256 of the ids as little-endian 32-bit numbers. */
static const char *ids_hash(arena *mem, const struct bound_prompt *p)
{
    unsigned char *bytes = mem_array((size_t)p->n_tokens, 4), *b = bytes;
    uint8_t h[32];
    int i;
    for (i = 0; i < p->n_tokens; i++) {
        unsigned id = (unsigned)p->ids[i];
        *b++ = id & 255, *b++ = id >> 8 & 255, *b++ = id >> 16 & 255, *b++ = id >> 24 & 255;
    }
    SHA256(bytes, (size_t)(b - bytes), h);
    free(bytes);
    return hash_text(mem, h);
}

int job_key_start(struct expand *x, err *e)
{
    int i;
    x->model_hash = hash_text(x->mem, x->info->sha256);
    x->tokenizer_hash = hash_text(x->mem, x->info->tokenizer_sha256);
    x->ids = arena_array(x->mem, (size_t)x->n_prompts, sizeof *x->ids);
    x->caches = arena_array(x->mem, (size_t)x->n_prompts, sizeof *x->caches);
    set_stop(x);
    for (i = 0; i < x->n_prompts; i++) {
        const char *text;
        uint8_t h[32];
        x->ids[i] = ids_hash(x->mem, &x->prompts[i]);
        text = canonical(x->mem,
                         json_pack("{s:s, s:s, s:s, s:s, s:i}", "ids", x->ids[i], "kv", x->info->kv_dtype, "model",
                                   x->model_hash, "tokenizer", x->tokenizer_hash, "v", 1),
                         e);
        if (!text) return -1;
        SHA256((const unsigned char *)text, strlen(text), h);
        x->caches[i] = hash_text(x->mem, h);
    }
    return 0;
}
