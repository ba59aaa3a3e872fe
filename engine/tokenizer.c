/* tokenizer.c: loading from GGUF metadata, and the way of a text through special tokens, pieces and merges. */
#include "tokenizer_impl.h"

#include <limits.h>
#include <math.h>
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

static int load_tokens(tokenizer *t, const gguf *g, enum spelling spelling, err *e)
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
    tokenizer_vocab_new(&t->vocab, (int)n, spelling);
    if (load_id(g, "tokenizer.ggml.unknown_token_id", (int)n, &t->vocab.unk, e)) goto out;
    for (i = 0; i < n; i++) {
        if (type && check_type(type[i], i, e)) goto out;
        if (tokenizer_vocab_set(&t->vocab, (int)i, text[i], type ? (enum token_type)type[i] : TOKEN_NORMAL, e)) goto out;
    }
    if (tokenizer_vocab_add_markers(&t->vocab, e)) goto out;
    tokenizer_vocab_index(&t->vocab);
    rc = 0;
out:
    free(text);
    free(type);
    return rc;
}

static int load_merges(tokenizer *t, const gguf *g, err *e)
{
    struct gguf_str *text = NULL;
    struct bpe_pair *pair;
    size_t n, i;
    int rc = 0;
    if (gguf_strings(g, "tokenizer.ggml.merges", &text, &n, e)) return -1;
    pair = mem_array(n, sizeof *pair);
    for (i = 0; i < n && !rc; i++)
        if (tokenizer_bpe_cut(text[i], &pair[i]))
            rc = err_set(e, ERR_ENV, "merge %zu '%.*s' is not of two tokens", i, text[i].n > 80 ? 80 : (int)text[i].n,
                         text[i].p);
    if (!rc) rc = tokenizer_bpe_load(&t->bpe, &t->vocab, pair, n, e);
    free(pair);
    free(text);
    return rc;
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
    if (gguf_has(g, "tokenizer.ggml.add_bos_token") && gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, e)) return -1;
    if (t->bos < 0) t->add_bos = false;
    return tokenizer_finish(t, end, 3, NULL, 0, e);
}

static int load_bpe(tokenizer *t, const gguf *g, err *e)
{
    struct pre_traits traits;
    struct gguf_str pre;
    if (gguf_string(g, "tokenizer.ggml.pre", &pre, e)) return -1;
    t->pre = tokenizer_pre_named(pre, &traits, e);
    if (!t->pre) return -1;
    snprintf(t->kind, sizeof t->kind, "bpe:%.*s", traits.n_name, traits.name);
    t->bpe.ignore_merges = traits.ignore_merges;
    t->add_bos = traits.add_bos;
    if (traits.nfc) t->norm.op[t->norm.n++] = (struct norm_op){.kind = NORM_NFC};
    t->piece = tokenizer_bpe_piece;
    return load_tokens(t, g, SPELLING_BYTES, e) || load_merges(t, g, e) ? -1 : 0;
}

static int load_scores(tokenizer *t, const gguf *g, err *e)
{
    size_t n, i;
    if (gguf_f32s(g, "tokenizer.ggml.scores", &t->score, &n, e)) return -1;
    if (n != (size_t)t->vocab.n)
        return err_set(e, ERR_ENV, "tokenizer.ggml.scores has %zu entries for %d tokens", n, t->vocab.n);
    for (i = 0; i < n; i++)
        if (!isfinite(t->score[i]))
            return err_set(e, ERR_ENV, "tokenizer.ggml.scores: the score of token %zu is not finite", i);
    return 0;
}

/* Integers in the order of the scores, the greatest score first: the bits of a float, turned so that they compare. The
   user-defined tokens of spaces come before all, and none of them before another: a run grows from the left, a space at a
   time, to the longest of them before a word can take its last space. Gemma 3's scores for them (-1000 each) would let
   common words go first; with this, 460 texts of 460 have the ids of the `tokenizers` library (2026-11). */
static void set_ranks(tokenizer *t)
{
    int i;
    t->rank = mem_array((size_t)t->vocab.n, sizeof *t->rank);
    for (i = 0; i < t->vocab.n; i++) {
        float f = t->score[i] + 0.0f; /* -0 is 0 */
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        t->rank[i] = bits >> 31 ? bits : ~(bits | 0x80000000u);
        if (tokenizer_vocab_merges_spaces(&t->vocab, i)) t->rank[i] = 0;
    }
}

/* The text gets a space in front, after each special token too, unless the file says no. */
static int load_spaces(tokenizer *t, const gguf *g, err *e)
{
    static const char prefix_key[] = "tokenizer.ggml.add_space_prefix";
    static const char collapse_key[] = "tokenizer.ggml.remove_extra_whitespaces";
    bool prefix = true, collapse = false;
    if (gguf_has(g, prefix_key) && gguf_bool(g, prefix_key, &prefix, e)) return -1;
    if (gguf_has(g, collapse_key) && gguf_bool(g, collapse_key, &collapse, e)) return -1;
    t->fuse_unk = true;
    t->norm.op[t->norm.n++] = (struct norm_op){.kind = NORM_REPLACE, .from = "\xe2\x96\x81", .to = " "};
    if (collapse) t->norm.op[t->norm.n++] = (struct norm_op){.kind = NORM_COLLAPSE};
    if (prefix) t->norm.op[t->norm.n++] = (struct norm_op){.kind = NORM_PREPEND, .to = " "};
    return load_tokens(t, g, SPELLING_SPACES, e) || load_scores(t, g, e) ? -1 : 0;
}

static int load_spm(tokenizer *t, const gguf *g, err *e)
{
    snprintf(t->kind, sizeof t->kind, "spm");
    t->add_bos = true;
    t->piece = tokenizer_bpe_piece;
    t->vocab.merge_spaces = true;
    if (load_spaces(t, g, e)) return -1;
    set_ranks(t);
    return 0;
}

static int load_unigram(tokenizer *t, const gguf *g, err *e)
{
    static const char charsmap[] = "tokenizer.ggml.precompiled_charsmap";
    int i;
    snprintf(t->kind, sizeof t->kind, "unigram");
    t->piece = tokenizer_unigram_piece;
    if (gguf_has(g, charsmap) && gguf_array_len(g, charsmap) != 0)
        return err_set(e, ERR_ENV, "%s: this kind of normalisation is not supported", charsmap);
    if (load_spaces(t, g, e)) return -1;
    for (i = 0; i < t->vocab.n; i++)
        if (t->vocab.t[i].type == TOKEN_NORMAL && t->score[i] < t->min_score) t->min_score = t->score[i];
    return 0;
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
static int set_sha256(tokenizer *t, const char *source, size_t n_source, err *e)
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
    for (i = 0; t->score && i < t->vocab.n; i++) {
        uint32_t bits;
        memcpy(&bits, &t->score[i], sizeof bits);
        hash_u32(c, bits);
    }
    for (i = 0; i < t->norm.n; i++) hash_u32(c, (uint32_t)t->norm.op[i].kind);
    hash_u32(c, (uint32_t)t->vocab.unk);
    hash_u32(c, t->add_bos);
    hash_u32(c, (uint32_t)t->bos);
    hash_u32(c, (uint32_t)t->eos);
    for (i = 0; i < t->n_stop; i++) hash_u32(c, (uint32_t)t->stop[i]);
    if (n_source) EVP_DigestUpdate(c, source, n_source);
    ok = EVP_DigestFinal_ex(c, t->sha256, NULL);
    EVP_MD_CTX_free(c);
    return ok ? 0 : err_set(e, ERR_INTERNAL, "SHA-256 failed");
}

int tokenizer_finish(tokenizer *t, const int *end, int n_end, const char *source, size_t n_source, err *e)
{
    set_stop(t, end, n_end);
    return set_sha256(t, source, n_source, e);
}

int tokenizer_set_ids(tokenizer *t, int bos, const int *eos, int n_eos, err *e)
{
    uint8_t before[sizeof t->sha256];
    int i;
    if (bos >= t->vocab.n) return err_set(e, ERR_ENV, "bos id %d is outside 0..%d", bos, t->vocab.n - 1);
    for (i = 0; i < n_eos; i++)
        if (eos[i] < 0 || eos[i] >= t->vocab.n)
            return err_set(e, ERR_ENV, "eos id %d is outside 0..%d", eos[i], t->vocab.n - 1);
    if (t->bos < 0) t->bos = bos;
    if (t->eos < 0 && n_eos) t->eos = eos[0];
    memcpy(before, t->sha256, sizeof before);
    free(t->stop);
    t->n_stop = 0;
    set_stop(t, eos, n_eos);
    return set_sha256(t, (const char *)before, sizeof before, e);
}

int tokenizer_load(tokenizer **out, const gguf *g, err *e)
{
    static const struct {
        const char *name;
        int (*load)(tokenizer *t, const gguf *g, err *e);
    } models[] = {{"gpt2", load_bpe}, {"llama", load_spm}, {"t5", load_unigram}};
    const size_t n_models = sizeof models / sizeof *models;
    struct gguf_str model;
    tokenizer *t;
    size_t i;
    int rc;
    *out = NULL;
    if (!gguf_has(g, "tokenizer.ggml.model")) return 0;
    if (gguf_string(g, "tokenizer.ggml.model", &model, e)) return -1;
    if (is(model, "no_vocab") || is(model, "none")) return 0;
    for (i = 0; i < n_models && !is(model, models[i].name);) i++;
    if (i == n_models)
        return err_set(e, ERR_ENV, "tokenizer model '%.*s' is not known; known are: gpt2 llama t5",
                       model.n > 80 ? 80 : (int)model.n, model.p);
    t = mem_alloc(sizeof *t);
    rc = models[i].load(t, g, e) || load_ids(t, g, e) ? -1 : 0;
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
    tokenizer_vocab_free(&t->vocab);
    free(t->rank);
    free(t->score);
    free(t->stop);
    free(t);
}

/* ---- encoding ---- */

void tokenizer_emit(struct tokenizer_job *j, int id, int start, int end)
{
    if (j->out.n == j->cap) {
        j->cap = j->cap ? j->cap * 2 : 64; /* at most one token per byte of a normalised text: no overflow */
        j->out.t = mem_grow(j->out.t, (size_t)j->cap, sizeof *j->out.t);
    }
    start = j->at ? j->at[start] : j->base + start;
    end = j->at ? j->at[end] : j->base + end;
    j->out.t[j->out.n++] = (struct token){.id = id, .start = start, .end = end};
}

int tokenizer_emit_unknown(struct tokenizer_job *j, int start, int end)
{
    const struct vocab *v = &j->t->vocab;
    int i, missing = start;
    while (missing < end && v->byte[(unsigned char)j->text[missing]] >= 0) missing++;
    if (missing == end) {
        for (i = start; i < end; i++) tokenizer_emit(j, v->byte[(unsigned char)j->text[i]], i, i + 1);
        return 0;
    }
    if (v->spelling == SPELLING_BYTES || v->unk < 0) /* the unknown token of byte-level files is a special one */
        return err_set(j->e, ERR_FAIL, "the vocabulary has no token for byte 0x%02x, at %d of the text",
                       (unsigned char)j->text[missing], j->at ? j->at[missing] : j->base + missing);
    if (j->t->fuse_unk && j->out.n && j->out.n == j->after_unknown)
        j->out.t[j->out.n - 1].end = j->at ? j->at[end] : j->base + end;
    else
        tokenizer_emit(j, v->unk, start, end);
    j->after_unknown = j->out.n;
    return 0;
}

static int encode_segment(struct tokenizer_job *j, const char *text, int start, int end)
{
    int n = end - start;
    if (n == 0) return 0;
    if (tokenizer_norm_apply(j, text + start, n, start, &n)) return -1;
    if (n == 0) return 0;
    return j->t->pre ? tokenizer_pre_split(j->t->pre, j->text, n, j->t->piece, j) : j->t->piece(j, 0, n);
}

/* Bytes of the white space character (Unicode's White_Space) at s, or 0. */
static int space_len(const char *s, int n)
{
    static const char *const wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8",
                                       "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    size_t i;
    if (n == 0) return 0;
    if (*s == ' ' || (*s >= '\t' && *s <= '\r')) return 1;
    if (n >= 3 && memcmp(s, "\xe2\x80", 2) == 0 && (unsigned char)s[2] >= 0x80 && (unsigned char)s[2] <= 0x8a) return 3;
    for (i = 0; i < sizeof wide / sizeof *wide; i++)
        if ((size_t)n >= strlen(wide[i]) && memcmp(s, wide[i], strlen(wide[i])) == 0) return (int)strlen(wide[i]);
    return 0;
}

static int spaces_before(const char *text, int from, int at)
{
    int k;
    for (;; at -= k) {
        for (k = 1; k <= 3 && at - k >= from; k++)
            if (space_len(text + at - k, k) == k) break;
        if (k > 3 || at - k < from) return at;
    }
}

static int encode_text(struct tokenizer_job *j, const char *text, int n)
{
    int done = 0, at, end, len;
    const struct vocab_special *s;
    while ((s = tokenizer_vocab_special(&j->t->vocab, text, done, n, &at))) {
        end = at + s->n;
        if (s->lstrip) at = spaces_before(text, done, at);
        while (s->rstrip && (len = space_len(text + end, n - end)) > 0) end += len;
        if (encode_segment(j, text, done, at)) return -1;
        j->base = 0;
        j->at = NULL;
        tokenizer_emit(j, s->id, at, end);
        done = end;
    }
    return encode_segment(j, text, done, n);
}

/* Text that normalisation dropped belongs to the token after it, at the end to the last one. */
static void close_gaps(struct tokens *out, int first, int n_text)
{
    int i, at = 0;
    for (i = first; i < out->n; i++) {
        out->t[i].start = at;
        at = out->t[i].end;
    }
    if (out->n > first) out->t[out->n - 1].end = n_text;
}

int tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, struct tokens *out, err *e)
{
    struct tokenizer_job j = {.t = t, .e = e};
    int rc, i, n_bos;
    *out = (struct tokens){0};
    if (n > TEXT_MAX) return err_set(e, ERR_INPUT, "a text of %zu bytes; at most %d can be tokenised", n, TEXT_MAX);
    if (flags & TOKENIZE_BOS) {
        if (t->bos < 0) return err_set(e, ERR_INPUT, "the tokenizer has no BOS token");
        tokenizer_emit(&j, t->bos, 0, 0);
    }
    n_bos = j.out.n;
    rc = encode_text(&j, text, (int)n);
    if (!rc) close_gaps(&j.out, n_bos, (int)n);
    for (i = 0; i < 2; i++) {
        buf_free(&j.norm[i].text);
        free(j.norm[i].at);
    }
    free(j.sym);
    free(j.heap);
    free(j.lattice);
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
