/* truths.h: a prompt run under edits, from the first token to the last new one, and comparisons of runs to the bit. */
#ifndef TESTS_TRUTHS_H
#define TESTS_TRUTHS_H

#include "oracle.h"

/* A run: the prompt but its last token was fed, then the rest is generated. */
struct run {
    struct gen_row row;
};

/* Lists that an edit of all layers and heads needs. */
struct lists {
    int layers[64], heads[64], at[ORACLE_TOKENS];
};

/* n positions from first on. */
static inline struct edit at_all(struct lists *w, const struct oracle *o, enum edit_op op, int tensors, int first, int n)
{
    bool query = op == EDIT_KNOCKOUT || (tensors == SITE_HEAD_OUT && op != EDIT_MASK && op != EDIT_EVICT);
    int i;
    for (i = 0; i < 64; i++) w->layers[i] = w->heads[i] = i;
    for (i = 0; i < n; i++) w->at[i] = first + i;
    return (struct edit){.op = op,
                         .tensors = tensors,
                         .layers = w->layers,
                         .heads = w->heads,
                         .at = w->at,
                         .donor_at = op == EDIT_TRANSPLANT ? w->at : NULL,
                         .n_layers = o->info->n_layer,
                         .n_heads = query ? o->info->n_head : o->info->n_kv_head,
                         .n_at = n};
}

static inline struct edit at_needle(struct lists *w, const struct oracle *o, enum edit_op op, int tensors)
{
    struct edit ed = at_all(w, o, op, tensors, 0, o->n_at);
    memcpy(w->at, o->at, (size_t)o->n_at * sizeof *w->at);
    return ed;
}

static inline void edit_or_fail(const struct oracle *o, cache *c, const struct edit *ed)
{
    err e = {0};
    if (cache_edit(c, ed, &e)) fail_msg("%s: %s", o->folder, e.msg);
}

/* ids: o->n of them. `steps`: the watch of the last prompt token and the new ones, when that is another one. */
static inline void run_begin(struct run *r, struct oracle *o, const int *ids, const struct watch *w, const struct watch *steps)
{
    err e = {0};
    *r = (struct run){.row = {.feed = ids + o->n - 1, .n_feed = 1, .watch = steps ? steps : w}};
    assert_int_equal(cache_new(&r->row.cache, o->en, &e), 0);
    if (cache_feed_watched(r->row.cache, ids, o->n - 1, w ? w : &(struct watch){0}, NULL, &e))
        fail_msg("%s: %s", o->folder, e.msg);
}

static inline void run_end(struct run *r, struct oracle *o, int n)
{
    err e = {0};
    if (generate(o->en, &r->row, 1, &(struct gen_opts){.max_tokens = n}, &e)) fail_msg("%s: %s", o->folder, e.msg);
    if (r->row.error.code) fail_msg("%s: %s", o->folder, r->row.error.msg);
}

static inline void run_make(struct run *r, struct oracle *o, const int *ids, const struct watch *w, const struct watch *steps,
                            int n)
{
    run_begin(r, o, ids, w, steps);
    run_end(r, o, n);
}

static inline void run_free(struct run *r)
{
    cache_free(r->row.cache);
    gen_row_clear(&r->row);
}

/* Tokens first..first+n-1 of a layer. */
static inline void assert_same_values(const struct oracle *o, const cache *a, const cache *b, int layer, int n)
{
    size_t count = (size_t)o->info->n_kv_head * (size_t)n * (size_t)o->info->head_dim;
    float *x = mem_array(count + 1, sizeof *x), *y = mem_array(count + 1, sizeof *y);
    int t;
    for (t = CACHE_K; t <= CACHE_V; t++) {
        cache_read(a, layer, t, 0, n, x);
        cache_read(b, layer, t, 0, n, y);
        if (memcmp(x, y, count * sizeof *x) != 0) fail_msg("%s: layer %d, tensor %d differ", o->folder, layer, t);
    }
    free(x);
    free(y);
}

static inline void assert_same_layer(const struct oracle *o, const cache *a, const cache *b, int layer)
{
    assert_int_equal(cache_len(a), cache_len(b));
    assert_same_values(o, a, b, layer, cache_len(a));
}

static inline void assert_same_before(const struct oracle *o, const cache *a, const cache *b, int layer, int n)
{
    assert_same_values(o, a, b, layer, n);
}

static inline void assert_same_cache_of(const struct oracle *o, const cache *a, const cache *b)
{
    int l;
    for (l = 0; l < o->info->n_layer; l++) assert_same_layer(o, a, b, l);
}

static inline void assert_same_picks_of(const struct oracle *o, const struct run *a, const struct run *b)
{
    if (a->row.n != b->row.n || memcmp(a->row.picks, b->row.picks, (size_t)a->row.n * sizeof *a->row.picks) != 0)
        fail_msg("%s: the texts differ", o->folder);
}

/* The prompts differ at the needle: what is held before it is not compared. */
static inline void assert_same_run(const struct oracle *o, const struct run *a, const struct run *b)
{
    assert_same_picks_of(o, a, b);
    assert_same_cache_of(o, a->row.cache, b->row.cache);
}

/* What a run over ids has at an edit's site, layers and positions; caller frees. */
static inline float *recorded(struct oracle *o, const int *ids, int site, const struct edit *ed)
{
    float *out = mem_array((size_t)ed->n_layers * (size_t)ed->n_at * (size_t)engine_site_width(o->en, site, 0), sizeof *out);
    struct record rec = {site, ed->layers, ed->at, ed->n_layers, ed->n_at, 0, out};
    struct watch w = {NULL, &rec, 0, 1};
    struct run r;
    run_begin(&r, o, ids, &w, NULL);
    run_free(&r);
    return out;
}

#endif
