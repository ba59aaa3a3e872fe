/* internal.h: what the files of the engine share; nothing outside engine/ includes it.
 *
 * An engine owns its model, tokenizer, chat template, page pool and one scratch area for the widest pass. A cache owns
 * references to pages; a page belongs to all caches that point to it and returns to the pool with the last of them.
 *
 * Weights, scratch and pages lie in the backend's memory, which the host may not be able to read: everything between goes
 * through k->get and k->put. A page's hidden bits, positions and page tables are the host's. tests/plugin/fake_cuda.c finds
 * whoever forgets that.
 */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include "../kernels/backend.h"
#include "chat.h"
#include "engine.h"
#include "info.h"
#include "model.h"
#include "tokenizer.h"

#include <pthread.h>
#include <stdatomic.h>

/* Rows whose logits one pass can make. More would cost V floats each and gain nothing: a batch of 32 already reads the
   weights at the speed of the arithmetic (cpu-kernels measurements in kernels/SPEED.md). */
enum { LOGIT_ROWS = 64 };

/* A page and its count. kv comes first, so that a struct kv_page * from a table is also the page. */
struct page {
    struct kv_page kv;
    atomic_int refs;
    struct page *next;      /* in the pool */
    bool clean;             /* in the pool, and zero as it came from the backend */
    uint64_t hidden_bits[]; /* (G) storage of kv.hidden, which stays NULL until something is hidden */
};

struct cache {
    engine *en;
    int n;                   /* tokens held */
    int n_pages, cap;        /* pages per layer in use (some may still be empty), and room for */
    struct kv_page ***pages; /* (n_layer)(cap) */
    int *closed;             /* (n_closed) places, rising, that left during a pass and do not count in position ids */
    int n_closed;
    bool busy; /* a call feeds it */
};

/* Buffers of one pass, sized by max_rows once: one allocation of the backend, one of the host. What both have, the host
   makes and the backend is given, or the other way round. */
struct scratch {
    int rows;
    size_t bytes; /* of base */
    void *base, *host;
    float *x, *h, *y;                           /* (rows, D): residual, what a part reads, what it adds */
    float *q, *att;                             /* (rows, H, E) */
    float *k, *v;                               /* (rows, G, E) */
    float *qkv;                                 /* (rows, H, 3, E) where the weights have them so */
    float *gate, *up;                           /* (rows, F) */
    float *last;                                /* (LOGIT_ROWS, D) */
    float *logits;                              /* (LOGIT_ROWS, V) */
    float *cos[MODEL_ROPES], *sin[MODEL_ROPES]; /* (rows, n_rot / 2) */
    int *ids, *pos;                             /* (rows) */
    struct pick *picks;                         /* (LOGIT_ROWS) */
    /* on the host */
    float *host_cos, *host_sin;           /* (rows, n_rot / 2) */
    int *host_ids, *host_pos;             /* (rows) */
    struct pick *host_picks;              /* (LOGIT_ROWS) of the last pass */
    int *host_slot;                       /* (rows) places in the caches; host_pos has the position ids */
    struct kv_page *const *const **pages; /* (rows)(L) */
    struct pass_row *tap_rows;            /* (LOGIT_ROWS) */
    struct pass_row *feed_rows;           /* (rows) of feed.c */
    struct rows r, part;                  /* all rows of the pass; those that a layer has */
};

/* One row of a pass: a token that a cache takes at place `pos`. The cache has been reserved; its length is not moved. */
struct pass_row {
    cache *cache;
    int token, pos;
    int layer;                 /* the first that is computed */
    const float *resid;        /* (D) what enters it; NULL: the token's embedding, layer is 0 */
    const struct watch *watch; /* NULL, or what is edited and recorded, for watch_pass */
};

/* Places of a pass that tests and captures can look at and change. */
enum tap_site {
    TAP_EMBED,    /* residual before the first layer; layer is -1 */
    TAP_RESID,    /* residual after each layer (D) */
    TAP_ATTN_OUT, /* what attention adds to it (D) */
    TAP_MLP_OUT,  /* what the ffn adds to it (D) */
    TAP_HEAD_OUT, /* attention's output before the output matrix (H, E) */
    TAP_Q,        /* queries after rotary (H, E) */
    TAP_K_PRE,    /* the rows' new keys before rotary (G, E), in rotate-half order */
    TAP_K,        /* and after it; what the row's page gets */
    TAP_V,        /* values (G, E) */
    TAP_LOGITS,   /* (V) of the wanted rows; layer is n_layer */
    TAP_COUNT
};

/* Called during a pass with x (n, width) of the n rows, on the host; changes of x go on in the pass. Keys and values of all
   rows are tapped before any row attends. `sites` has the bits 1 << site that are wanted: the others cost nothing. */
struct tap {
    void (*at)(void *arg, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width);
    void *arg;
    unsigned sites;
    unsigned looks; /* of these, where x stays as it is */
    /* NULL: all n rows. Else which of them are wanted there: first..end-1; false: none, and the site costs nothing. */
    bool (*range)(void *arg, int layer, enum tap_site site, int n, int *first, int *end);
    /* NULL, or what the layer's queries must not see: as kernels.attend has it for the n rows. */
    const uint64_t *const *(*blocked)(void *arg, int layer, int n);
};

/* Cosines and sines of the positions 0..n-1, as far as passes met them. */
struct angles {
    int n;
    float *cos, *sin; /* (n, n_rot / 2) */
};

struct trouble; /* what the backend told of failures, see trouble.c */

struct engine {
    gguf *file;           /* one of file and weights */
    safetensors *weights; /* of a folder, with its config.json */
    const void *config;
    size_t config_bytes;
    char *folder_template; /* the chat template a folder has beside its config; NULL: none */
    struct model model;
    tokenizer *tok;
    chat *chat;
    err chat_error;       /* why the template could not be compiled */
    int year, month, day; /* for the template */
    const struct kernels *k;
    struct backend gpu; /* .k is NULL on the CPU */
    const void **owned; /* (n_owned) weights in the backend's memory */
    int n_owned;
    const void **uploaded; /* (n_uploaded) the backend's copies of the file's weights */
    int n_uploaded;
    int64_t weight_bytes;
    char isa[16];
    struct attn attn; /* without what differs between layers */
    struct scratch s;
    const struct tap *tap; /* NULL: none */
    float *tap_x;          /* (tap_size) on the host, as large as a tap needed it */
    size_t tap_size;
    struct angles angles[MODEL_ROPES];
    char *edit_scratch; /* (edit_bytes) in the backend, of edit_rows.c; NULL until an edit needs it */
    size_t edit_bytes;
    struct watching *watching; /* of watch_pass.c; NULL until something is watched */
    struct engine_info info;
    struct info_own info_own;
    char numerics[64];
    char *path;
    int *windows; /* (n_layer) of the info, or NULL */

    struct trouble *trouble;
    pthread_mutex_t pool_lock;
    struct page *pool;
    struct slab *slabs; /* the memory of all pages */
};

/* ---- trouble.c ---- */
/* What failed in the backend since this was last asked: ERR_MEMORY once, ERR_ENV from then on. */
int trouble_take(const engine *en, err *e);
/* A pass begins, which trouble_take ends, in this thread. */
void trouble_pass(const engine *en);
/* How often memory ran out; waits until a pass in which it just did is over. What was read between two different answers is
   to be read again. */
unsigned trouble_times(const engine *en);
struct trouble *trouble_new(void);
void trouble_free(struct trouble *t); /* NULL is fine */

/* ---- angles.c ---- */
/* The angles of B position ids for rope_freqs[which]. */
void angles_of(engine *en, int which, const int *pos /* (B) */, int B, float *cos /* (B, n_rot / 2) */,
               float *sin /* (B, n_rot / 2) */);
void angles_free(engine *en);

/* ---- engine.c ---- */
/* The backend's memory at p is released with the engine. */
void engine_owns(engine *en, const void *p);

/* ---- upload.c, made.c ---- */
/* Moves the loaded model to where the backend computes. */
int upload(engine *en, err *e);
/* Gives those copies back, also when upload failed. */
void upload_drop(engine *en);
/* Makes a model up instead of loading one; with look_only its sizes alone. */
int made_model(engine *en, const struct engine_shape *s, const char *weights, int layers, bool look_only, err *e);

/* ---- machine.c ---- */
/* Bytes of this machine's memory that are not taken; 0: not known. */
double mem_available(void);

/* ---- folder.c: Hugging Face folders ---- */
/* Opens config.json, the weights (not with vocab_only), the tokenizer and chat template where there are any. */
int folder_open(engine *en, const struct engine_opts *o, err *e);
/* Size and hash of the files that decide results, into the engine's info. */
void folder_describe(engine *en);

/* ---- cache.c ---- */
/* Makes pages len..len+more-1 present, zero and private in every layer, so that a pass can append without failing. */
int cache_reserve(cache *c, int more, err *e);
/* The page of a layer, private to c and safe to write. NULL: out of memory. */
struct page *cache_own(cache *c, int layer, int page);
void cache_pool_free(engine *en);
size_t cache_page_elements(const engine *en); /* G * P * E */
/* Forgets what a page holds from token `from` on, hidden or not. */
void cache_clear_tail(const engine *en, struct page *p, int from);

/* Makes positions first.. of the layers from `layer` on private and empty again. */
int cache_renew(cache *c, int layer, int first, err *e);

/* ---- feed.c ---- */
/* cache_feed_all; `inside` a call that has marked the caches busy and begun the records. */
int feed_all(engine *en, struct feed *f, int n, bool inside, err *e);

/* ---- watch.c ---- */
/* Checks a watch of a call that computes positions first.. from a layer on. */
int watch_check(const engine *en, const struct watch *w, int layer, int first, int n, err *e);
/* Empties the records that add up over a call. */
void watch_begin(const engine *en, const struct watch *w);
/* Whether the logits behind a position are recorded. */
bool watch_wants_logits(const struct watch *w, int pos);
int watch_find(const int *list, int n, int x); /* where x is in the list; -1: nowhere */
/* Elements of a head at a site, 0 where it has no heads, and how many heads there are. */
int watch_head(const struct model *m, int site, int *heads);

/* ---- watch_pass.c ---- */
/* forward with the edits and records of the rows' watches. Everything was checked before. */
int watch_pass(engine *en, const struct pass_row *rows, int n, const int *want, int n_want, err *e);
void watch_free(engine *en);

/* ---- cache_evict.c ---- */
/* The position id of a place: what rotary or learned positions see. */
int cache_position(const cache *c, int place);
/* From now on the place does not count in the position ids of those behind it. */
void cache_close(cache *c, int place);
/* EDIT_EVICT with compact of a finished cache. */
int cache_close_up(cache *c, const struct edit *ed, err *e);
/* It must be of all layers and heads. */
int cache_check_close_up(const engine *en, const struct edit *ed, err *e);

/* ---- edit.c ---- */
int edit_check_list(const int *list, int n, int first, int end, const char *what, err *e);
/* What an operation needs besides places: vectors, donors, numbers. */
int edit_check_values(const engine *en, const struct edit *ed, err *e);
/* Hides a position from all queries of a kv head; the page is owned. */
void edit_hide(struct page *p, int head, int pos);

/* ---- edit_values.c ---- */
/* Applies the edit to elements first..first+n-1 of a site's vector x, for its l-th layer and i-th position, whose position id
   is `id`. At K and V, these are one head. Everything was checked before. */
void edit_apply(const engine *en, const struct edit *ed, int l, int site, int i, int id, int first, int n, float *x);
/* The n elements x[0], x[step], ... are one group. */
void edit_quantise(float *x, int n, size_t step, int bits);
/* Turns keys (E) by a number of positions: R(a) R(b) = R(a + b), Su et al. 2021, eq. 34. */
struct edit_turn {
    int half;
    float cos[HEAD_MAX / 2], sin[HEAD_MAX / 2];
};
void edit_turn_make(struct edit_turn *t, const struct model *m, int layer, int delta);
void edit_turn(const struct edit_turn *t, float *x);

/* ---- edit_rows.c: rows (E) of a finished cache, each one head's vector of one position ---- */
/* Where a row lies in the backend. */
void *edit_row_at(const cache *c, int layer, int tensor, int head, int pos);

/* What becomes of a row on its way. */
struct edit_row {
    int layer, turn;        /* a key is turned by so many positions; 0: not even rounded */
    int l, tensor, head, i; /* as edit_apply has them */
};

struct edit_list {
    size_t n, room;
    void **to;
    const void **from;
};

/* Rows that are written together, in any order. Who begins fills in the first five. */
struct edit_rows {
    const cache *c;
    const struct edit *ed; /* NULL: rows only change places, and turn */
    bool turns;            /* some may turn */
    bool in_order;         /* some are written twice: what comes later reads what was written before */
    size_t unit;           /* so many, added one after the other, are read before one of them is written */
    size_t bytes;          /* of a row */
    struct edit_list straight, worked;
    struct edit_row *rows; /* (room) of `worked` */
    bool host;             /* and the host has something to do there */
    char *scratch;         /* (room, E) in the backend */
    void **slots;          /* (room) its rows */
    char *raw;             /* (room, E) the same on the host; on the CPU it is the scratch itself */
    float *x;              /* (unit, E) */
    struct edit_turn turn; /* the last one: by `turned` positions, of layers with that rope */
    int turned, rope;
};
/* At most n rows will come, a whole number of units. Fails with ERR_MEMORY; else the rows must be ended. */
int edit_rows_begin(struct edit_rows *r, size_t n, err *e);
/* The row at `from` (NULL: zeros) will be written to `to`. */
void edit_rows_add(struct edit_rows *r, void *to, const void *from, const struct edit_row *row);
/* Writes what waits. Fails when the backend did, which may be any time since it was last asked. */
int edit_rows_end(struct edit_rows *r, err *e);
void edit_rows_free(engine *en);

/* ---- forward.c ---- */
int scratch_init(engine *en, int rows, err *e);
void scratch_free(engine *en);
/* Runs the layers over n rows, n <= scratch rows. Rows of one cache come together with rising positions, those with a lower
   first layer first. For the n_want rows whose indices are in `want` (rising, n_want <= LOGIT_ROWS), the greedy picks go to the
   scratch's host_picks. Fails when the backend does, with ERR_ENV, or ERR_MEMORY. */
int forward(engine *en, const struct pass_row *rows, int n, const int *want, int n_want, err *e);
/* Hands the backend what the host knows of the rows: tokens, positions, angles, pages. The first step of a pass. */
void forward_rows(engine *en, const struct pass_row *rows, int n);
/* From now on passes call t, which must outlive that; NULL ends it. A pass with a tap gives the bits of one without. */
void forward_tap(engine *en, const struct tap *t);
/* The keys of n tokens of a layer as f32 (G, n, E); caller frees. */
float *forward_keys(const cache *c, int layer, int n);
/* The attention weights of one row of a layer, when its keys are in the cache: from TAP_Q on. */
void forward_weights(const engine *en, const struct pass_row *row, int layer, const float *q /* (H, E), what TAP_Q has */,
                     const float *keys /* (G, n_keys, E) */, int n_keys, const uint64_t *blocked /* (H, pos/P + 1) or NULL */,
                     float *weights /* (H, pos + 1) */);

#endif
