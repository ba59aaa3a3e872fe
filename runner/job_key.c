/* job_key.c: the canonical JSON of a job and its SHA-256.
 *
 * It holds all that can change the answer, resolved to numbers and hashes, and no name, label, path, capture or metric:
 * those may change and the stored answer still counts. Integers and strings only, so that there is one way to write it; a
 * number that is not whole is a string of as many digits as it takes to read the same float back.
 */
#include "job_parts.h"

#include <jansson.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *hash_text(arena *mem, const uint8_t h[32])
{
    char hex[65];
    int i;
    for (i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", h[i]);
    return arena_printf(mem, "sha256:%s", hex);
}

/* The one way to write v, in mem; takes v. NULL: e. */
static const char *canonical(arena *mem, json_t *v, err *e)
{
    char *text = v ? json_dumps(v, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    const char *out = text ? arena_strdup(mem, text) : NULL;
    if (!out) err_set(e, ERR_INTERNAL, "a job's key could not be written as JSON");
    free(text);
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
    return when == WHEN_PREFILL ? "prefill" : "finished_cache";
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

int job_heads(const struct engine_info *info, int tensors)
{
    if (tensors & (CACHE_K | CACHE_V | SITE_K_PRE)) return info->n_kv_head;
    return tensors == SITE_HEAD_OUT ? info->n_head : 0;
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

static json_t *place_json(const struct expand *x, const struct job_place *p)
{
    return json_pack("{s:s, s:[i]}", "cache", x->caches[p->prompt], "at", p->at);
}

static json_t *vector_json(const struct expand *x, const struct job_vector *v)
{
    if (v->rows) return json_string(hash_text(x->mem, v->sha256));
    return json_pack("{s:o, s:o}", "from", place_json(x, &v->from), "minus", place_json(x, &v->minus));
}

static json_t *op_json(const struct expand *x, const struct job_op *op)
{
    json_t *o = json_pack("{s:s, s:s, s:s}", "op", job_op_name(op->op), "tensor", job_tensor_name(op->tensors, op->layers[0]),
                          "when", job_when_name(op->when));
    int heads = job_heads(x->info, op->tensors);
    char by[16];
    if (op->layers[0] >= 0) json_object_set_new(o, "layers", runs(op->layers, op->n_layers));
    if (heads) json_object_set_new(o, "heads", op->n_heads == heads ? json_string("all") : runs(op->heads, op->n_heads));
    json_object_set_new(o, "at", list(op->at, op->n_at));
    if (op->op == EDIT_TRANSPLANT) {
        json_t *from = json_pack("{s:s}", "cache", x->caches[op->donor_prompt]);
        json_object_set_new(from, "at", list(op->donor_at, op->n_at));
        json_object_set_new(o, "from", from);
        if (op->tensors <= (CACHE_K | CACHE_V) && memcmp(op->at, op->donor_at, (size_t)op->n_at * sizeof *op->at) != 0)
            json_object_set_new(o, "rope", json_string(op->rerotate ? "rerotate" : "keep"));
    }
    if (op->op == EDIT_SCALE || op->op == EDIT_ADD) {
        job_number(op->by, by);
        json_object_set_new(o, "by", json_string(by));
    }
    if (op->op == EDIT_ADD) json_object_set_new(o, "vector", vector_json(x, op->vector));
    return o;
}

int job_key(const struct expand *x, struct job *j, err *e)
{
    static const char *const after[] = {"none", "rerun_last", "reuse_logits"};
    json_t *ops = json_array(), *decode, *job;
    int i;
    for (i = 0; i < j->n_ops; i++) json_array_append_new(ops, op_json(x, &j->ops[i]));
    decode = json_pack("{s:b, s:i}", "greedy", 1, "max_tokens", x->s->decode.max_tokens);
    json_object_set_new(decode, "stop", list(x->stop, x->n_stop));
    if (j->after != AFTER_NONE) json_object_set_new(decode, "after_edit", json_string(after[j->after]));
    job = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "ids", x->ids[j->prompt], "kv", x->info->kv_dtype, "model", x->model_hash,
                    "tokenizer", x->tokenizer_hash, "seed", 0, "v", 1);
    json_object_set_new(job, "decode", decode);
    json_object_set_new(job, "ops", ops);
    j->key_json = canonical(x->mem, job, e);
    if (!j->key_json) return -1;
    SHA256((const unsigned char *)j->key_json, strlen(j->key_json), j->key);
    return 0;
}

static int by_value(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static void set_stop(struct expand *x)
{
    int i, n = x->s->decode.stop_eos ? x->info->n_stop : 0;
    x->stop = arena_array(x->mem, (size_t)n, sizeof *x->stop);
    if (n) memcpy(x->stop, x->info->stop, (size_t)n * sizeof *x->stop);
    qsort(x->stop, (size_t)n, sizeof *x->stop, by_value);
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
    x->ids = arena_array(x->mem, (size_t)x->s->n_prompts, sizeof *x->ids);
    x->caches = arena_array(x->mem, (size_t)x->s->n_prompts, sizeof *x->caches);
    set_stop(x);
    for (i = 0; i < x->s->n_prompts; i++) {
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
