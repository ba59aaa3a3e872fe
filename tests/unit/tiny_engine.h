/* tiny_engine.h: a tiny random model and two prompts that differ at a needle, for tests of what must hold for any model.
 * KVRUN_TINY names the folder of tiny models that the build makes (tests/tiny_gguf.py). */
#include "../../engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { P = 150, N = 20, Z = 70 }; /* prompt, new tokens, the needle: in the second page of three */

static engine *en;
static int prompt_a[P], prompt_b[P]; /* differ at Z and Z + 1 alone */

static const struct engine_info *info(void)
{
    return engine_info(en);
}

static inline engine *open_model(const char *name, const char *isa, enum kv_type kv, int threads, int max_rows)
{
    const char *folder = getenv("KVRUN_TINY");
    char path[512];
    engine *out = NULL;
    err e = {0};
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "build/tiny", name);
    if (engine_open(&out, &(struct engine_opts){.path = path, .isa = isa, .kv = kv, .threads = threads, .max_rows = max_rows},
                    &e))
        printf("%s\n", e.msg);
    return out;
}

static inline int open_default(void **state)
{
    int i;
    (void)state;
    en = open_model("q4_1.gguf", NULL, KV_F32, 2, 0);
    if (!en) return -1;
    for (i = 0; i < P; i++) prompt_a[i] = prompt_b[i] = 3 + (i * 37 + i * i * 11) % (info()->n_vocab - 3);
    prompt_b[Z] = (prompt_a[Z] + 101) % info()->n_vocab;
    prompt_b[Z + 1] = (prompt_a[Z + 1] + 55) % info()->n_vocab;
    return 0;
}

static inline int close_default(void **state)
{
    (void)state;
    engine_free(en);
    return 0;
}

static inline cache *prefill(engine *with, const int *ids, int n)
{
    cache *c = NULL;
    err e = {0};
    assert_int_equal(cache_new(&c, with, &e), 0);
    if (cache_feed(c, ids, n, NULL, &e)) fail_msg("%s", e.msg);
    return c;
}

static inline struct gen_row row_of(cache *c, const int *feed)
{
    return (struct gen_row){.cache = c, .feed = feed, .n_feed = 1};
}

static inline void decode(engine *with, struct gen_row *rows, int n)
{
    err e = {0};
    if (generate(with, rows, n, &(struct gen_opts){.max_tokens = N}, &e)) fail_msg("%s", e.msg);
}

static inline void assert_same_picks(const struct gen_row *a, const struct gen_row *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->picks, b->picks, (size_t)a->n * sizeof *a->picks);
}

/* All of positions first..first+n-1 of a layer and tensor. Caller frees. */
static inline float *values(const cache *c, int layer, int tensor, int first, int n)
{
    float *out = mem_array((size_t)info()->n_kv_head * n * info()->head_dim, sizeof *out);
    cache_read(c, layer, tensor, first, n, out);
    return out;
}

static inline bool equal(const cache *a, const cache *b, int layer, int tensor, int first, int n)
{
    float *x = values(a, layer, tensor, first, n), *y = values(b, layer, tensor, first, n);
    bool same = memcmp(x, y, (size_t)info()->n_kv_head * n * info()->head_dim * sizeof *x) == 0;
    free(x);
    free(y);
    return same;
}

static inline bool equal_all(const cache *a, const cache *b, int n)
{
    int l;
    for (l = 0; l < info()->n_layer; l++)
        if (!equal(a, b, l, CACHE_K, 0, n) || !equal(a, b, l, CACHE_V, 0, n)) return false;
    return true;
}

/* An edit of all layers and heads at positions first..last. */
struct whole {
    int layers[64], heads[64], at[P];
    struct edit ed;
};

static inline struct edit *whole(struct whole *w, enum edit_op op, int first, int last, const cache *donor)
{
    int i;
    for (i = 0; i < info()->n_layer; i++) w->layers[i] = i;
    for (i = 0; i < info()->n_kv_head; i++) w->heads[i] = i;
    for (i = first; i <= last; i++) w->at[i - first] = i;
    w->ed = (struct edit){op,
                          CACHE_K | CACHE_V,
                          w->layers,
                          w->heads,
                          w->at,
                          info()->n_layer,
                          info()->n_kv_head,
                          last - first + 1,
                          donor,
                          w->at,
                          false,
                          0,
                          NULL};
    return &w->ed;
}

static inline void edit(cache *c, const struct edit *ed)
{
    err e = {0};
    if (cache_edit(c, ed, &e)) fail_msg("%s", e.msg);
}
