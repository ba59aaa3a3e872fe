/* engine.h: tokens in, tokens and caches out. The one header of the engine that the runner includes (with base.h).
 *
 * Objects and lifetimes
 *   engine   a model file, its tokenizer and the kernels; read-only after engine_open, outlives every cache
 *   cache    K and V of one token sequence: pages of 64 tokens per layer, reference counted. cache_fork copies pointers;
 *            whoever writes a shared page copies it first, so a fork never sees what its sibling does.
 *
 *     engine *en; cache *base, *job; struct gen_row row = {0}; err e = {0};
 *     engine_open(&en, &(struct engine_opts){.path = "m.gguf"}, &e);
 *     cache_new(&base, en, &e);
 *     cache_feed(base, tokens, n - 1, NULL, &e);              // all but the last prompt token
 *     job = cache_fork(base);
 *     cache_edit(job, &(struct edit){.op = EDIT_ZERO, ...}, &e);
 *     row.cache = job; row.feed = tokens + n - 1; row.n_feed = 1;
 *     generate(en, &row, 1, &(struct gen_opts){.max_tokens = 100}, &e);   // the first new token sees the edit
 *     gen_row_clear(&row); cache_free(job); cache_free(base); engine_free(en);
 *
 * One thread at a time computes with an engine. cache_fork, cache_read and cache_free may run in another thread on a
 * fork of its own: that is how finished caches are packed while the next batch runs.
 *
 * Letters of shapes: kernels.h. Layers, heads and positions count from 0. Keys are stored after rotary embedding, in
 * rotate-half order. What a result may depend on: the arithmetic contract in kernels.h.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct engine engine;
typedef struct cache cache;

/* ---- model ---- */

enum kv_type { KV_F32, KV_F16, KV_BF16 };

struct engine_opts {
    const char *path;          /* GGUF file, or Hugging Face folder with config.json and safetensors */
    const char *isa;           /* NULL: best of this processor; "scalar", "avx2", "avx512" */
    const char *chat_template; /* NULL: the model's own; else Jinja source */
    enum kv_type kv;
    int threads;     /* < 1: one per processor (OMP_NUM_THREADS counts) */
    int max_rows;    /* rows of one pass; scratch is sized by it once. 0: 256. Results do not depend on it */
    bool vocab_only; /* tokenizer and metadata only; no tensors are needed, nothing can be computed */
};

struct engine_info {
    const char *arch, *name, *format, *path;
    const char *weight_dtype; /* the type most weight bytes have: "q4_1" */
    const char *isa;          /* "avx512", "avx2", "scalar" */
    const char *kv_dtype;     /* "f32", "f16", "bf16" */
    const char *numerics;     /* what may change a bit: "n1:cpu:kv-f32" */
    int threads;
    int n_layer, n_head, n_kv_head, head_dim, n_embd, n_ff, n_vocab, n_ctx_train;
    double rope_base;
    int64_t file_bytes;
    int64_t kv_bytes_per_token; /* all layers, K and V */
    uint8_t sha256[32];         /* of the model file; of a folder: over the digests of config.json and its weight files */
    const char *tokenizer_kind; /* "bpe:smollm", "none", ... */
    uint8_t tokenizer_sha256[32];
    int bos, eos;    /* -1: none */
    const int *stop; /* (n_stop) ids that end a text: eos and end-of-turn */
    int n_stop;
    bool add_bos; /* what the tokenizer says about plain text */
    bool has_chat_template;
};

/* Opens and checks everything; computes nothing. *out only on success. Missing or broken file: ERR_ENV. */
int engine_open(engine **out, const struct engine_opts *o, err *e);
void engine_free(engine *en);                            /* NULL is fine */
const struct engine_info *engine_info(const engine *en); /* lives as long as the engine */

/* ---- text ---- */

/* A token and the bytes of the text it stands for, half open. BOS stands for no bytes: start == end. */
struct token {
    int id, start, end;
};
struct tokens {
    struct token *t;
    int n;
};

enum tokenize_flags { TOKENIZE_BOS = 1 /* put BOS in front */ };

/* Special tokens written out in the text become those tokens, as transformers does. out->t: caller frees. */
int engine_tokenize(const engine *en, const char *text, size_t n, unsigned flags, struct tokens *out, err *e);
/* The bytes a token stands for, not always whole UTF-8 characters; NULL for a bad id or without a tokenizer. */
const char *engine_token_bytes(const engine *en, int id, size_t *n);
/* Whether the token is a control token (eos, <|im_start|>, ...), which stands for no text of its own. */
bool engine_token_special(const engine *en, int id);

struct chat_msg {
    const char *role, *content; /* UTF-8, NUL-terminated */
};
/* The model's chat template over msgs, with add_generation_prompt. Appends to out. */
int engine_chat(const engine *en, const struct chat_msg *msgs, int n, bool add_generation_prompt, struct buf *out, err *e);

/* ---- caches ---- */

enum { CACHE_K = 1, CACHE_V = 2 };

/* What greedy decoding takes from one row of logits. */
struct gen_pick {
    int token;
    float logprob; /* natural log */
    float margin;  /* largest minus second largest logit */
};

int cache_new(cache **out, engine *en, err *e); /* holds no token */
cache *cache_fork(cache *c);                    /* shares every page; never fails */
void cache_free(cache *c);                      /* NULL is fine */
int cache_len(const cache *c);                  /* tokens held */
/* Feeds n tokens at positions len.. . With `last`, also the pick from the last token's logits (n > 0 then). */
int cache_feed(cache *c, const int *tokens, int n, struct gen_pick *last, err *e);
/* Positions first..first+n-1 of one layer of CACHE_K or CACHE_V to out, (G, n, E) in the cache's type. */
void cache_read(const cache *c, int layer, int tensor, int first, int n, void *out);
/* True when both hold the very same page for this layer and position (not merely equal bytes). */
bool cache_shares(const cache *a, const cache *b, int layer, int pos);

/* ---- edits of a finished cache ---- */

enum edit_op {
    EDIT_NOOP,       /* copies the values out and writes them back */
    EDIT_ZERO,       /* zeros; a zeroed key still takes softmax mass */
    EDIT_TRANSPLANT, /* values of the donor at donor_at */
    EDIT_MASK,       /* the position stays, nobody attends to it; tensors is ignored */
};

struct edit {
    enum edit_op op;
    int tensors;       /* CACHE_K | CACHE_V */
    const int *layers; /* (n_layers) */
    const int *heads;  /* (n_heads) kv heads */
    const int *at;     /* (n_at) positions held by the cache */
    int n_layers, n_heads, n_at;
    const cache *donor;  /* of the same engine; may be the cache itself or a fork of it */
    const int *donor_at; /* (n_at) positions held by the donor */
    bool rerotate;       /* turn keys from the donor's position to the target's; Su et al. 2021, eq. 34 */
};

/* Applies e to c, copying the pages it writes if they are shared. Every index is checked; on failure c is unchanged. */
int cache_edit(cache *c, const struct edit *ed, err *e);

/* ---- generation ---- */

/* LENGTH: max_tokens made. EOS: a stop token made. CONTEXT: the model's context is full. FAILED: see gen_row.error. */
enum gen_stop { GEN_STOP_LENGTH, GEN_STOP_EOS, GEN_STOP_CONTEXT, GEN_STOP_FAILED };

struct gen_row {
    cache *cache;    /* in: what was seen so far; advances */
    const int *feed; /* (n_feed) in: prompt tokens not in the cache yet; the first pick comes from the last of them */
    int n_feed;      /* 0: the first token is `first`, picked before */
    struct gen_pick first;
    /* out, all but the scalars owned by the row until gen_row_clear: */
    struct gen_pick *picks; /* (n) the new tokens; the last one is not fed, so the cache holds fed + n - 1 */
    int n;
    enum gen_stop stop;
    err error; /* of this row alone when stop is GEN_STOP_FAILED, e.g. a logit that is not finite */
};

struct gen_opts {
    int max_tokens;  /* > 0 */
    const int *stop; /* (n_stop) a row ends with the first of these tokens, which is kept as its last */
    int n_stop;
    void (*on_step)(void *arg, int step); /* NULL, or told after each step of the batch */
    void *arg;
    const volatile int *cancel; /* NULL, or nonzero: stop soon, generate fails with ERR_INTERNAL "cancelled" */
};

/* Greedy decoding of all rows together. A row's result does not depend on the others. 0 even when single rows failed. */
int generate(engine *en, struct gen_row *rows, int n_rows, const struct gen_opts *o, err *e);
void gen_row_clear(struct gen_row *r); /* frees picks; not the cache */

/* Elements of the cache's type to f32: in (n), out (n). */
void engine_kv_to_f32(enum kv_type t, const void *in, float *out, size_t n);

#endif
