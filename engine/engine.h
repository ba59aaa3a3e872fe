/* engine.h: tokens in, tokens and caches out. The header of the engine that the runner includes (with base.h; state.h is a
 * module of its own that needs no engine).
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

/* KV_AUTO, of the options alone: bf16 where a GPU computes with bf16 weights, else f32. */
enum kv_type { KV_F32, KV_F16, KV_BF16, KV_AUTO };

/* Bytes of an element. */
static inline size_t engine_kv_bytes(enum kv_type t)
{
    return t == KV_F32 ? 4 : 2;
}

struct engine_opts {
    const char *path;    /* GGUF file, or Hugging Face folder with config.json and safetensors */
    const char *isa;     /* NULL: best of this processor; "scalar", "avx2", "avx512" */
    const char *backend; /* "cpu", "cuda", "cuda-emu"; NULL or "auto": cuda where it can be used and isa is NULL, else cpu */
    int gpu;             /* number of the device, from 0; of cuda alone */
    const char *chat_template; /* NULL: the model's own; else Jinja source */
    int year, month, day;      /* the date strftime_now tells a chat template; 0: 2024-07-26 */
    enum kv_type kv;
    int threads;     /* < 1: one per processor (OMP_NUM_THREADS counts) */
    int max_rows;    /* rows of one pass; scratch is sized by it once. 0: 256, on a GPU 2048. Results do not depend on it */
    bool vocab_only; /* tokenizer and metadata only; no tensors are needed, nothing can be computed */
    bool look_only;  /* all that engine_info tells; weights stay where they are, nothing can be computed */
    /* Instead of path: a model with made-up weights of one type (NULL: bf16), for measuring and self-tests. */
    const struct engine_shape *shape;
    const char *shape_weights;
    int shape_layers; /* 0: as many as the shape has */
};

/* Sizes of a llama model. */
struct engine_shape {
    const char *name;
    int n_layer, D, H, G, E, F, V, n_ctx;
    double rope_base;
    bool tied; /* the head is the embedding */
};
const struct engine_shape *engine_shape_named(const char *name); /* "llama-3.1-8b", "smollm2-135m", "tiny"; else NULL */

/* The tensors of one type. */
struct engine_weights {
    const char *type; /* "q4_1"; also types that nothing computes with */
    int n_tensors;
    int64_t elements, bytes;
};

struct engine_info {
    const char *arch, *name, *format, *path;
    const char *weight_dtype;             /* the type most weight bytes have: "q4_1" */
    const struct engine_weights *weights; /* (n_weights) by type, most bytes first; none: the file is a vocabulary alone */
    int n_weights;
    const char *backend;  /* "cpu", "cuda", "cuda-emu" */
    const char *isa;      /* "avx512", "avx2", "scalar"; of a GPU "sm_90" */
    const char *gpu_name; /* NULL: computes on the CPU */
    const char *no_gpu;   /* why `auto` did not take the GPU; NULL: it did, or was not asked */
    bool gpu_odd;         /* and that is worth telling: a part of the way to a GPU is there */
    int64_t gpu_free;     /* bytes of the GPU's memory left for caches; 0: computes on the CPU */
    int64_t weight_bytes; /* in the backend's memory, or mapped */
    enum kv_type kv;      /* never KV_AUTO */
    const char *kv_dtype; /* its name: "f32", "f16", "bf16" */
    const char *numerics; /* what may change a bit: "n1:cpu:kv-f32" */
    int threads;
    int n_layer, n_head, n_kv_head, head_dim, n_embd, n_ff, n_vocab, n_ctx_train;
    const int *windows;       /* (n_layer) keys that a query sees at most, 0: all; NULL: all in every layer */
    double rope_base;         /* 0: learned positions */
    const char *rope_scaling; /* "none", "linear 8", "llama3" */
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
    const char *chat_error; /* why the chat template cannot be used; NULL: it can, or there is none */
};

/* Opens and checks everything; computes nothing. *out only on success. Missing or broken file: ERR_ENV. With vocab_only the
   sizes of the model are what the metadata say, 0 where they say nothing. A chat template that cannot be compiled is no
   failure here, since it matters only to who renders a chat: see engine_info.chat_error. */
int engine_open(engine **out, const struct engine_opts *o, err *e);
void engine_free(engine *en);                            /* NULL is fine */
const struct engine_info *engine_info(const engine *en); /* lives as long as the engine */
/* Whether the device was lost: ERR_ENV and why. What was read from caches since then means nothing. In any thread. */
int engine_lost(const engine *en, err *e);

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

struct chat_msg {
    const char *role, *content; /* UTF-8, NUL-terminated */
};
/* The model's chat template over msgs, with add_generation_prompt. Appends to out. */
int engine_chat(const engine *en, const struct chat_msg *msgs, int n, bool add_generation_prompt, struct buf *out, err *e);

/* ---- caches ---- */

/* Where a pass can be edited or recorded; a set of bits. Width of a position's vector there: kv heads x E for K, V and
   K_PRE, D for RESID, ATTN_OUT and MLP_OUT, query heads x E for HEAD_OUT. */
enum {
    CACHE_K = 1,         /* key after rotary embedding, as the cache holds it */
    CACHE_V = 2,         /* value */
    SITE_K_PRE = 4,      /* key before rotary embedding */
    SITE_RESID = 8,      /* residual stream behind a block; layer -1: the embeddings */
    SITE_ATTN_OUT = 16,  /* what attention adds to the residual stream */
    SITE_MLP_OUT = 32,   /* what the feed-forward part adds */
    SITE_HEAD_OUT = 64,  /* each query head's output, before the output projection */
    SITE_ATTN = 128,     /* recording alone: attention weights, query heads x tokens 0..last */
    SITE_LOGITS = 256,   /* recording alone: V logits; the layer is 0 */
    SITE_RECEIVED = 512, /* recording alone: the attention that each key got from all queries of the call: query heads x tokens
                            0..n_tokens-1, one vector per layer (n_at counts as 1) */
};
/* Elements of one position's vector at a site, given how many tokens the cache holds in the end (SITE_ATTN). */
int engine_site_width(const engine *en, int site, int n_tokens);

/* What greedy decoding takes from one row of logits. */
struct gen_pick {
    int token;
    float logprob; /* natural log */
    float margin;  /* largest minus second largest logit */
};

int cache_new(cache **out, engine *en, err *e); /* holds no token */
cache *cache_fork(cache *c);                    /* shares every page; never fails */
void cache_free(cache *c);                      /* NULL is fine */
int cache_len(const cache *c);                  /* tokens held; one that was masked counts, and one that left during a pass: its
                                                   place is kept. One behind which a finished cache closed up does not */
/* A fork that holds the first n tokens of c. */
int cache_fork_at(cache **out, cache *c, int n, err *e);
/* Feeds n tokens at positions len.. . With `last`, also the pick from the last token's logits (n > 0 then). */
int cache_feed(cache *c, const int *tokens, int n, struct gen_pick *last, err *e);
struct edit;
/* What to record of a pass: out (n_layers, n_at, width), f32, in the order of the lists. Positions that the pass does not
   feed are left as they are. */
struct record {
    int site; /* one bit */
    const int *layers, *at;
    int n_layers, n_at;
    int n_tokens; /* SITE_ATTN: tokens of a row, behind the query's position zero */
    float *out;
};
/* Changes and records of a pass that feeds tokens; heads of an edit are kv heads for K, V, K_PRE, query heads for HEAD_OUT and
   a knockout, and ignored elsewhere. An edit of K or V, a mask, an evict is made before that layer's attention: the query at
   the position sees it, too. Positions are places in the cache. An evict that closes up gives the tokens behind it the position
   ids they would have without it, while it keeps its place in the cache, hidden: it must name all layers and all heads. Windows
   count places. What was closed up stays so in forks and in shorter forks. */
struct watch {
    const struct edit *edits;
    const struct record *records;
    int n_edits, n_records;
};
/* cache_feed with edits made as each layer writes, in their order, and records taken after them. Every index is checked;
   positions that this call does not feed are not touched. */
int cache_feed_watched(cache *c, const int *tokens, int n, const struct watch *w, struct gen_pick *last, err *e);

/* What one cache is fed in a call that feeds many. Tokens behind the cache's end are new. Or positions that it holds are
   computed anew from a layer on: then first + n is cache_len, the layers below keep what they have, and their pages stay shared
   with whoever shares them. Patching a late layer at a late position so costs only what lies above and behind it. */
struct feed {
    cache *cache;              /* no two feeds of a call name the same one */
    const int *tokens;         /* (n) */
    int n;                     /* > 0 */
    int first;                 /* position of tokens[0]: cache_len, or less */
    int layer;                 /* first layer computed; 0 where first is cache_len */
    const float *resid;        /* (n, D) what enters `layer`, as recorded at SITE_RESID of the layer below; NULL: layer is 0 */
    const struct watch *watch; /* NULL: nothing is edited or recorded */
    bool want_last;            /* in: the pick behind the last token is wanted */
    struct gen_pick last;      /* out */
    err error;                 /* out: of this feed alone; its cache must be dropped then */
};
/* Feeds all of them together, which reads the weights less often; no feed's bits depend on the others. 0 even when single feeds
   failed. */
int cache_feed_all(engine *en, struct feed *f, int n, err *e);
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
    EDIT_SCALE,      /* times `by` */
    EDIT_ADD,        /* plus `by` times `vector` */
    EDIT_MEAN,       /* becomes `vector`, a mean that the caller took */
    EDIT_NOISE,      /* plus sigma times a normal number that seed, site, layer, position and element decide, see edit_noise */
    EDIT_SWAP,     /* the values at `at` and at donor_at change places; of a finished cache alone, both lists apart, no position
                      twice */
    EDIT_QUANTISE, /* rounded to 2^bits levels between the least and the largest of a group and widened again: round((x - min)
                      / s) * s + min, halves to even, in f32, with s = (max - min) / (2^bits - 1). Group: one head of one
                      position (the whole vector where there are no heads), or with per_channel one element of one head over all
                      of `at` */
    EDIT_EVICT,    /* hidden and zeroed; with `compact` of a finished cache the tokens behind move up and their keys are turned
                      back: all layers and heads then, and rotary positions */
    EDIT_KNOCKOUT, /* in flight alone: the query heads `heads` at `queries` do not see `at`; tensors is ignored */
};

struct edit {
    enum edit_op op;
    int tensors;       /* CACHE_K | CACHE_V */
    const int *layers; /* (n_layers) */
    const int *heads;  /* (n_heads) kv heads; EDIT_KNOCKOUT: query heads */
    const int *at;     /* (n_at) positions held by the cache */
    int n_layers, n_heads, n_at;
    const cache *donor; /* of the same engine; of a finished cache's edit it may be the cache itself, else nothing that the
                           call feeds */
    const int
        *donor_at; /* (n_at) positions held by the donor; may repeat. Of recorded keys: where they come from, to rerotate */
    bool rerotate; /* turn keys from the donor's position to the target's; Su et al. 2021, eq. 34 */
    float by;
    const float *vector; /* EDIT_ADD, EDIT_MEAN: (n_layers, width) one vector for all positions. EDIT_TRANSPLANT without a
                            donor, and always at a site that no cache holds: (n_layers, n_at, width) as recorded or stored; K
                            and V are two edits then */
    float sigma;         /* EDIT_NOISE */
    uint64_t seed;
    int bits; /* EDIT_QUANTISE: 2..8 */
    bool per_channel;
    bool compact;       /* EDIT_EVICT */
    const int *queries; /* EDIT_KNOCKOUT: (n_queries) positions, rising; NULL: all behind and at the key */
    int n_queries;
};

/* The normal number of EDIT_NOISE: inverse of the normal distribution (Wichura 1988, AS 241) at a uniform number made of the
   arguments by SplitMix64 (Steele et al. 2014); the same on every machine. element counts through the whole vector of the site.
 */
double edit_noise(uint64_t seed, int site, int layer, int pos, int element);

/* Applies e to c, copying the pages it writes if they are shared. Every index is checked; on failure c is unchanged, unless it
   was the backend that failed (ERR_ENV, or ERR_MEMORY that names its operation): then c must be dropped. */
int cache_edit(cache *c, const struct edit *ed, err *e);

/* ---- generation ---- */

/* LENGTH: max_tokens made. EOS: a stop token made. CONTEXT: the model's context is full. FAILED: see gen_row.error. */
enum gen_stop { GEN_STOP_LENGTH, GEN_STOP_EOS, GEN_STOP_CONTEXT, GEN_STOP_FAILED };

/* A change of a row's cache right before the passes that feed its new tokens number first..last (counted from 0). */
struct step_edit {
    int first, last;
    struct edit edit;
};

struct gen_row {
    cache *cache;    /* in: what was seen so far; advances */
    const int *feed; /* (n_feed) in: prompt tokens not in the cache yet; the first pick comes from the last of them */
    int n_feed;      /* 0: the first token is `first`, picked before */
    struct gen_pick first;
    const struct watch *watch;     /* NULL, or what is edited and recorded in all passes of the row, the prompt's part too */
    const struct step_edit *steps; /* (n_steps) changes of the cache between the passes */
    int n_steps;
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
