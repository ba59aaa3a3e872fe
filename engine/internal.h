/* internal.h: what the files of the engine share; nothing outside engine/ includes it.
 *
 * An engine owns its model, tokenizer, chat template, page pool and one scratch area for the widest pass. A cache owns
 * references to pages; a page belongs to all caches that point to it and returns to the pool with the last of them.
 */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include "../kernels/kernels.h"
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
    uint64_t *hidden_bits; /* (G) storage of kv.hidden, which stays NULL until something is hidden */
    atomic_int refs;
    struct page *next; /* in the pool */
};

struct cache {
    engine *en;
    int n;                   /* tokens held */
    int n_pages, cap;        /* pages per layer in use (some may still be empty), and room for */
    struct kv_page ***pages; /* (n_layer)(cap) */
};

/* Buffers of one pass, sized by max_rows once; pointers into one allocation of the backend. */
struct scratch {
    int rows;
    void *base;
    float *x, *h;                  /* (rows, D) */
    float *q, *att;                /* (rows, H, E) */
    float *k, *v;                  /* (rows, G, E) */
    float *gate, *up;              /* (rows, F) */
    float *last;                   /* (LOGIT_ROWS, D) */
    float *logits;                 /* (LOGIT_ROWS, V) */
    float *cos, *sin;              /* (rows, n_rot / 2) */
    int *ids, *pos;                /* (rows) */
    struct kv_page *const **pages; /* (rows) */
    struct pick *picks;            /* (LOGIT_ROWS) */
};

struct engine {
    gguf *file;
    struct model model;
    tokenizer *tok;
    chat *chat;
    err chat_error;       /* why the template could not be compiled */
    int year, month, day; /* for the template */
    const struct kernels *k;
    struct attn attn;
    struct scratch s;
    struct engine_info info;
    struct info_own info_own;
    char numerics[64];
    char *path;

    pthread_mutex_t pool_lock;
    struct page *pool;
};

/* ---- cache.c ---- */
/* Makes pages len..len+more-1 present, zero and private in every layer, so that a pass can append without failing. */
int cache_reserve(cache *c, int more, err *e);
/* The page of a layer, private to c and safe to write. NULL: out of memory. */
struct page *cache_own(cache *c, int layer, int page);
void cache_pool_free(engine *en);
size_t cache_page_elements(const engine *en); /* G * P * E */

/* ---- forward.c ---- */
/* One row of a pass: a token that a cache takes at position `pos`. The cache has been reserved; its length is not moved. */
struct pass_row {
    const cache *cache;
    int token, pos;
};
int scratch_init(engine *en, int rows, err *e);
void scratch_free(engine *en);
/* Runs all layers over n rows, n <= scratch rows. Rows of one cache come together with rising positions. For the n_want
   rows whose indices are in `want` (rising, n_want <= LOGIT_ROWS), the greedy picks go to the scratch's picks. */
void forward(engine *en, const struct pass_row *rows, int n, const int *want, int n_want);

#endif
