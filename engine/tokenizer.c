/* tokenizer.c: loading from GGUF metadata, and the way of a text through special tokens, pieces and merges. */
#include "tokenizer_impl.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Positions are ints; a normalised text may be longer than the original. */
enum { TEXT_MAX = INT_MAX / 8 };

/* ---- loading ---- */

static int check_type(int32_t type, size_t id, err *e)
{
    if (type >= TOKEN_NORMAL && type <= TOKEN_BYTE) return 0;
    return err_set(e, ERR_ENV, "tokenizer.ggml.token_type: token %zu has the unknown type %d", id, (int)type);
}

/* Tokens that merges make are spelled byte by byte, the others are written as they are. A normal token with characters
   that stand for no byte is its own text when decoded, and never the result of encoding. */
static void set_token(struct vocab *v, int id, struct gguf_str s, enum token_type type)
{
    struct vocab_token *t = &v->t[id];
    char *copy = arena_strndup(v->a, s.p, s.n);
    int n = (int)s.n, spelled = -1;
    t->type = type;
    t->key = t->bytes = copy;
    if (type != TOKEN_CONTROL && type != TOKEN_USER && type != TOKEN_UNKNOWN) {
        char *bytes = arena_alloc(v->a, s.n + 1);
        spelled = tokenizer_vocab_unspell(copy, n, bytes);
        if (spelled < 0)
            t->key = NULL;
        else
            t->key = t->bytes = bytes;
    }
    if (type == TOKEN_UNKNOWN) t->key = NULL;
    t->n_bytes = spelled < 0 ? n : spelled;
    t->n_key = t->key ? t->n_bytes : 0;
}

static int load_tokens(tokenizer *t, const gguf *g, err *e)
{
    struct gguf_str *text = NULL;
    int32_t *type = NULL;
    size_t n, n_type, i;
    int rc = -1;
    if (gguf_strings(g, "tokenizer.ggml.tokens", &text, &n, e)) return -1;
    if (n == 0 || n > INT_MAX / 4) {
        err_set(e, ERR_ENV, "tokenizer.ggml.tokens has %zu tokens", n);
        goto out;
    }
    if (gguf_has(g, "tokenizer.ggml.token_type")) {
        if (gguf_i32s(g, "tokenizer.ggml.token_type", &type, &n_type, e)) goto out;
        if (n_type != n) {
            err_set(e, ERR_ENV, "tokenizer.ggml.token_type has %zu entries for %zu tokens", n_type, n);
            goto out;
        }
    }
    t->vocab.n = (int)n;
    t->vocab.t = arena_array(t->vocab.a, n, sizeof *t->vocab.t);
    for (i = 0; i < n; i++) {
        if (type && check_type(type[i], i, e)) goto out;
        if (text[i].n > INT_MAX / 4) {
            err_set(e, ERR_ENV, "token %zu has %zu bytes", i, text[i].n);
            goto out;
        }
        set_token(&t->vocab, (int)i, text[i], type ? (enum token_type)type[i] : TOKEN_NORMAL);
    }
    rc = tokenizer_vocab_index(&t->vocab, e);
out:
    free(text);
    free(type);
    return rc;
}

static int load_merges(tokenizer *t, const gguf *g, err *e)
{
    struct gguf_str *merges = NULL;
    size_t n;
    int rc;
    if (gguf_strings(g, "tokenizer.ggml.merges", &merges, &n, e)) return -1;
    rc = tokenizer_bpe_load(&t->bpe, &t->vocab, merges, n, e);
    free(merges);
    return rc;
}

/* *out stays -1 when the key is not there. */
static int load_id(const gguf *g, const char *key, int n_vocab, int *out, err *e)
{
    uint64_t id;
    *out = -1;
    if (!gguf_has(g, key)) return 0;
    if (gguf_u64(g, key, &id, e)) return -1;
    if (id >= (uint64_t)n_vocab) return err_set(e, ERR_ENV, "%s is %llu of %d tokens", key, (unsigned long long)id, n_vocab);
    *out = (int)id;
    return 0;
}

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* Many files of chat models name only the end of text as eos; their end-of-turn token is known by its spelling. */
static bool is_end_by_name(const struct vocab_token *t)
{
    static const char *const names[] = {"<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"};
    size_t i;
    if (t->type != TOKEN_CONTROL) return false;
    for (i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == (size_t)t->n_bytes && memcmp(names[i], t->bytes, (size_t)t->n_bytes) == 0) return true;
    return false;
}

static void set_stop(tokenizer *t, const int *ids, int n_ids)
{
    int i, n = 0;
    t->stop = mem_array((size_t)(n_ids + t->vocab.n), sizeof *t->stop);
    for (i = 0; i < n_ids; i++)
        if (ids[i] >= 0) t->stop[n++] = ids[i];
    for (i = 0; i < t->vocab.n; i++)
        if (is_end_by_name(&t->vocab.t[i])) t->stop[n++] = i;
    qsort(t->stop, (size_t)n, sizeof *t->stop, compare_ints);
    for (i = 0; i < n; i++)
        if (i == 0 || t->stop[i] != t->stop[i - 1]) t->stop[t->n_stop++] = t->stop[i];
    t->stop = mem_grow(t->stop, (size_t)t->n_stop, sizeof *t->stop);
}

static int load_ids(tokenizer *t, const gguf *g, err *e)
{
    int end[3], n = t->vocab.n;
    if (load_id(g, "tokenizer.ggml.bos_token_id", n, &t->bos, e)) return -1;
    if (load_id(g, "tokenizer.ggml.eos_token_id", n, &t->eos, e)) return -1;
    if (load_id(g, "tokenizer.ggml.eot_token_id", n, &end[1], e)) return -1;
    if (load_id(g, "tokenizer.ggml.eom_token_id", n, &end[2], e)) return -1;
    end[0] = t->eos;
    set_stop(t, end, 3);
    if (gguf_has(g, "tokenizer.ggml.add_bos_token") && gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, e)) return -1;
    if (t->bos < 0) t->add_bos = false;
    return 0;
}

static int load_bpe(tokenizer *t, const gguf *g, err *e)
{
    struct pre_traits traits;
    struct gguf_str pre;
    if (gguf_string(g, "tokenizer.ggml.pre", &pre, e)) return -1;
    t->pre = tokenizer_pre_new(pre, &traits, e);
    if (!t->pre) return -1;
    snprintf(t->kind, sizeof t->kind, "bpe:%.*s", traits.n_name, traits.name);
    t->bpe.ignore_merges = traits.ignore_merges;
    t->add_bos = traits.add_bos;
    return load_tokens(t, g, e) || load_merges(t, g, e) ? -1 : 0;
}

static bool is(struct gguf_str s, const char *word)
{
    return s.n == strlen(word) && memcmp(s.p, word, s.n) == 0;
}

/* ---- identity ---- */

static void hash_u32(EVP_MD_CTX *c, uint32_t x)
{
    uint8_t b[4] = {(uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), (uint8_t)(x >> 24)};
    EVP_DigestUpdate(c, b, sizeof b);
}

/* Over numbers and bytes in a fixed order, each text with its length in front; integers little endian. */
static int set_sha256(tokenizer *t, err *e)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    size_t k;
    int i, ok;
    if (!c || !EVP_DigestInit_ex(c, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(c);
        return err_set(e, ERR_INTERNAL, "SHA-256 is not available");
    }
    hash_u32(c, (uint32_t)strlen(t->kind));
    EVP_DigestUpdate(c, t->kind, strlen(t->kind));
    hash_u32(c, (uint32_t)t->vocab.n);
    for (i = 0; i < t->vocab.n; i++) {
        const struct vocab_token *v = &t->vocab.t[i];
        hash_u32(c, (uint32_t)v->type);
        hash_u32(c, (uint32_t)v->n_bytes);
        EVP_DigestUpdate(c, v->bytes, (size_t)v->n_bytes);
    }
    hash_u32(c, (uint32_t)t->bpe.n);
    for (k = 0; k < t->bpe.n; k++) {
        hash_u32(c, (uint32_t)t->bpe.merge[k].left);
        hash_u32(c, (uint32_t)t->bpe.merge[k].right);
        hash_u32(c, (uint32_t)t->bpe.merge[k].id);
    }
    hash_u32(c, t->add_bos);
    hash_u32(c, (uint32_t)t->bos);
    hash_u32(c, (uint32_t)t->eos);
    for (i = 0; i < t->n_stop; i++) hash_u32(c, (uint32_t)t->stop[i]);
    ok = EVP_DigestFinal_ex(c, t->sha256, NULL);
    EVP_MD_CTX_free(c);
    return ok ? 0 : err_set(e, ERR_INTERNAL, "SHA-256 failed");
}

int tokenizer_load(tokenizer **out, const gguf *g, err *e)
{
    struct gguf_str model;
    tokenizer *t;
    int rc;
    *out = NULL;
    if (!gguf_has(g, "tokenizer.ggml.model")) return 0;
    if (gguf_string(g, "tokenizer.ggml.model", &model, e)) return -1;
    if (is(model, "no_vocab") || is(model, "none")) return 0;
    if (!is(model, "gpt2"))
        return err_set(e, ERR_ENV, "tokenizer model '%.*s' is not known; known are: gpt2", model.n > 80 ? 80 : (int)model.n,
                       model.p);
    t = mem_alloc(sizeof *t);
    t->vocab.a = arena_new();
    rc = load_bpe(t, g, e) || load_ids(t, g, e) || set_sha256(t, e) ? -1 : 0;
    if (rc)
        tokenizer_free(t);
    else
        *out = t;
    return rc;
}

void tokenizer_free(tokenizer *t)
{
    if (!t) return;
    tokenizer_pre_free(t->pre);
    tokenizer_bpe_free(&t->bpe);
    arena_free(t->vocab.a);
    free(t->stop);
    free(t);
}

/* ---- encoding ---- */

void tokenizer_emit(struct tokenizer_job *j, int id, int start, int end)
{
    if (j->out.n == j->cap) {
        j->cap = j->cap ? j->cap * 2 : 64; /* at most one token per byte: no overflow */
        j->out.t = mem_grow(j->out.t, (size_t)j->cap, sizeof *j->out.t);
    }
    j->out.t[j->out.n++] = (struct token){.id = id, .start = j->base + start, .end = j->base + end};
}

static int encode_segment(struct tokenizer_job *j, const char *text, int start, int end)
{
    if (start == end) return 0;
    j->text = text + start;
    j->base = start;
    return tokenizer_pre_split(j->t->pre, j->text, end - start, tokenizer_bpe_piece, j);
}

static int encode_text(struct tokenizer_job *j, const char *text, int n)
{
    int done = 0, at;
    const struct vocab_special *s;
    while ((s = tokenizer_vocab_special(&j->t->vocab, text, done, n, &at))) {
        if (encode_segment(j, text, done, at)) return -1;
        j->base = 0;
        tokenizer_emit(j, s->id, at, at + s->n);
        done = at + s->n;
    }
    return encode_segment(j, text, done, n);
}

int tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, struct tokens *out, err *e)
{
    struct tokenizer_job j = {.t = t, .e = e};
    int rc;
    *out = (struct tokens){0};
    if (n > TEXT_MAX) return err_set(e, ERR_INPUT, "a text of %zu bytes; at most %d can be tokenised", n, TEXT_MAX);
    if (flags & TOKENIZE_BOS) {
        if (t->bos < 0) return err_set(e, ERR_INPUT, "the tokenizer has no BOS token");
        tokenizer_emit(&j, t->bos, 0, 0);
    }
    rc = encode_text(&j, text, (int)n);
    free(j.sym);
    free(j.heap);
    if (rc)
        free(j.out.t);
    else
        *out = j.out;
    return rc;
}

/* ---- what it is ---- */

const char *tokenizer_bytes(const tokenizer *t, int id, size_t *n)
{
    if (id < 0 || id >= t->vocab.n) return NULL;
    *n = (size_t)t->vocab.t[id].n_bytes;
    return t->vocab.t[id].bytes;
}

bool tokenizer_special(const tokenizer *t, int id)
{
    if (id < 0 || id >= t->vocab.n) return false;
    return t->vocab.t[id].type == TOKEN_CONTROL || t->vocab.t[id].type == TOKEN_UNKNOWN;
}

int tokenizer_n_vocab(const tokenizer *t)
{
    return t->vocab.n;
}

int tokenizer_bos(const tokenizer *t)
{
    return t->bos;
}

int tokenizer_eos(const tokenizer *t)
{
    return t->eos;
}

bool tokenizer_add_bos(const tokenizer *t)
{
    return t->add_bos;
}

const char *tokenizer_kind(const tokenizer *t)
{
    return t->kind;
}

const int *tokenizer_stop(const tokenizer *t, int *n)
{
    *n = t->n_stop;
    return t->stop;
}

void tokenizer_sha256(const tokenizer *t, uint8_t out[32])
{
    memcpy(out, t->sha256, sizeof t->sha256);
}
