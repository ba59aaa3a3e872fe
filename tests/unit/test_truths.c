/* test_truths.c: what must hold for edits of a pass whatever the model, on every tiny architecture. Most of it to the bit;
 * where positions move, up to rounding. */
#include "truths.h"

#include <math.h>

static struct oracle_list folders;

enum { NEW = 6 };

/* The model's prompt, and one of several pages whose needle is in the second. */
static void both_lengths(struct oracle *o, void (*check)(struct oracle *o))
{
    int i, longest = o->en->model.n_ctx - NEW - 2;
    check(o);
    if (o->n >= 80) return;
    for (i = o->n; i < 100 && i < longest; i++) o->prompt[i] = 3 + (i * 37 + i * i * 11) % (o->info->n_vocab - 3);
    o->n = i;
    memcpy(o->donor, o->prompt, sizeof o->donor);
    for (i = 0; i < 2; i++) {
        o->at[i] = PAGE_TOKENS + 2 + i;
        o->donor[o->at[i]] = 3 + (o->prompt[o->at[i]] + 5) % (o->info->n_vocab - 3);
    }
    o->n_at = 2;
    check(o);
}

static void on_every_model(void (*check)(struct oracle *o))
{
    int i;
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        oracle_open(&o, folders.path[i]);
        both_lengths(&o, check);
        oracle_close(&o);
    }
}

/* With caches of 16 bits, too. */
static void on_every_type(void (*check)(struct oracle *o))
{
    int i;
    on_every_model(check);
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        oracle_open(&o, folders.path[i]);
        engine_free(o.en);
        o.en = oracle_engine(o.folder, (struct engine_opts){.threads = 2, .kv = i % 2 ? KV_F16 : KV_BF16});
        o.info = engine_info(o.en);
        both_lengths(&o, check);
        oracle_close(&o);
    }
}

/* ---- 1: noop, and what comes to the same ---- */

static void nothing_is_changed(struct oracle *o)
{
    static const float zeros[1 << 16];
    struct run base, got;
    struct lists w;
    int site, k;
    run_make(&base, o, o->prompt, NULL, NULL, NEW);
    for (site = CACHE_K; site <= SITE_HEAD_OUT; site *= 2)
        for (k = 0; k < 3; k++) {
            struct edit ed = at_all(&w, o, k == 0 ? EDIT_NOOP : k == 1 ? EDIT_SCALE : EDIT_ADD, site, 0, o->n + NEW);
            struct watch watch = {&ed, NULL, 1, 0};
            ed.by = 1;
            ed.vector = zeros;
            run_make(&got, o, o->prompt, &watch, &watch, NEW); /* prompt and every step */
            assert_same_run(o, &base, &got);
            run_free(&got);
        }
    for (k = 0; k < 2; k++) { /* the cache itself, between the steps */
        struct step_edit step = {0, NEW, at_all(&w, o, k ? EDIT_TRANSPLANT : EDIT_NOOP, CACHE_K | CACHE_V, 0, o->n - 1)};
        run_begin(&got, o, o->prompt, NULL, NULL);
        step.edit.donor = k ? got.row.cache : NULL;
        got.row.steps = &step;
        got.row.n_steps = 1;
        run_end(&got, o, NEW);
        assert_same_run(o, &base, &got);
        run_free(&got);
    }
    run_free(&base);
}

static void a_noop_anywhere_is_the_baseline(void **state)
{
    (void)state;
    on_every_type(nothing_is_changed);
}

/* ---- 2, 3: transplants into the pass ---- */

/* With the donor's vectors at the needle, all that follows is the donor's: keys and values from its cache and recorded ones, or
   the embedding that differs. From oneself, nothing changes at any site. */
static void transplants(struct oracle *o)
{
    struct run a, b, got;
    struct lists w;
    struct edit ed[2];
    struct watch watch = {ed, NULL, 2, 0};
    int site;
    run_make(&a, o, o->prompt, NULL, NULL, NEW);
    run_make(&b, o, o->donor, NULL, NULL, NEW);
    ed[0] = at_needle(&w, o, EDIT_TRANSPLANT, CACHE_K | CACHE_V);
    ed[0].donor = b.row.cache;
    watch.n_edits = 1;
    run_make(&got, o, o->prompt, &watch, NULL, NEW);
    assert_same_run(o, &b, &got);
    run_free(&got);
    ed[0] = at_needle(&w, o, EDIT_TRANSPLANT, CACHE_K);
    ed[1] = at_needle(&w, o, EDIT_TRANSPLANT, CACHE_V);
    ed[0].vector = recorded(o, o->donor, CACHE_K, &ed[0]);
    ed[1].vector = recorded(o, o->donor, CACHE_V, &ed[1]);
    watch.n_edits = 2;
    run_make(&got, o, o->prompt, &watch, NULL, NEW);
    assert_same_run(o, &b, &got);
    run_free(&got);
    free((void *)ed[0].vector);
    free((void *)ed[1].vector);
    watch.n_edits = 1;
    for (site = CACHE_K; site <= SITE_HEAD_OUT; site *= 2) {
        ed[0] = at_needle(&w, o, EDIT_TRANSPLANT, site);
        ed[0].vector = recorded(o, o->prompt, site, &ed[0]);
        run_make(&got, o, o->prompt, &watch, NULL, NEW);
        assert_same_run(o, &a, &got);
        run_free(&got);
        free((void *)ed[0].vector);
    }
    w.layers[0] = -1;
    ed[0] = at_needle(&w, o, EDIT_TRANSPLANT, SITE_RESID);
    w.layers[0] = -1;
    ed[0].n_layers = 1;
    ed[0].vector = recorded(o, o->donor, SITE_RESID, &ed[0]);
    run_make(&got, o, o->prompt, &watch, NULL, NEW);
    assert_same_run(o, &b, &got);
    run_free(&got);
    free((void *)ed[0].vector);
    run_free(&a);
    run_free(&b);
}

static void transplants_give_the_donors_run_or_ones_own(void **state)
{
    (void)state;
    on_every_type(transplants);
}

/* Truth 4, and a finished cache takes recorded vectors as it takes a donor. */
static void to_the_end(struct oracle *o)
{
    int t, first = o->at[0], n = o->n - 1 - first;
    struct run b;
    cache *from = oracle_prefill(o->en, o->donor, o->n - 1), *c[2];
    struct lists w;
    run_make(&b, o, o->donor, NULL, NULL, NEW);
    for (t = 0; t < 2; t++) {
        struct edit ed = at_all(&w, o, EDIT_TRANSPLANT, CACHE_K | CACHE_V, first, n);
        struct run got = {0};
        c[t] = oracle_prefill(o->en, o->prompt, o->n - 1);
        if (t == 0) {
            ed.donor = from;
            edit_or_fail(o, c[t], &ed);
        } else {
            for (ed.tensors = CACHE_K; ed.tensors <= CACHE_V; ed.tensors++) {
                ed.vector = recorded(o, o->donor, ed.tensors, &ed);
                edit_or_fail(o, c[t], &ed);
                free((void *)ed.vector);
            }
        }
        got.row = (struct gen_row){.cache = c[t], .feed = o->prompt + o->n - 1, .n_feed = 1};
        run_end(&got, o, NEW);
        assert_same_run(o, &b, &got);
        run_free(&got);
    }
    cache_free(from);
    run_free(&b);
}

static void a_transplant_to_the_end_is_the_donors_run(void **state)
{
    (void)state;
    on_every_type(to_the_end);
}

/* ---- 5: what left is as if it had never been there ---- */

/* Windows count places in the cache, and a place that was closed up behind still is one. */
static bool has_window(const struct oracle *o, int n)
{
    int l;
    for (l = 0; l < o->en->model.n_layer; l++)
        if (o->en->model.layers[l].window && o->en->model.layers[l].window < n) return true;
    return false;
}

static void assert_near(const struct oracle *o, const struct run *want, const struct run *got)
{
    int i;
    for (i = 0; i < want->row.n; i++) {
        const struct gen_pick *p = &want->row.picks[i], *q = &got->row.picks[i];
        if (p->token != q->token && p->margin < 1e-3f) return;
        if (p->token != q->token) fail_msg("%s: token %d differs, with margin %g", o->folder, i, (double)p->margin);
        if (fabsf(p->logprob - q->logprob) > 1e-3f)
            fail_msg("%s: log-probability %d: %g, %g", o->folder, i, (double)p->logprob, (double)q->logprob);
    }
}

/* The cache that has places less than the other one, in order, holds the same up to rounding. */
static void assert_caches_near(const struct oracle *o, const cache *less, const cache *all, const int *places, int n)
{
    int G = o->info->n_kv_head, E = o->info->head_dim, l, t, g, i, e;
    for (l = 0; l < o->info->n_layer; l++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            float *x = mem_array((size_t)G * (size_t)n * (size_t)E, sizeof *x), largest = 0, worst = 0,
                  *y = mem_array((size_t)G * (size_t)cache_len(all) * (size_t)E, sizeof *y);
            cache_read(less, l, t, 0, n, x);
            cache_read(all, l, t, 0, cache_len(all), y);
            for (g = 0; g < G; g++)
                for (i = 0; i < n; i++)
                    for (e = 0; e < E; e++) {
                        float a = x[(g * n + i) * E + e], b = y[(g * cache_len(all) + places[i]) * E + e];
                        largest = fmaxf(largest, fabsf(a));
                        worst = fmaxf(worst, fabsf(a - b));
                    }
            if (worst > 2e-4f * largest)
                fail_msg("%s: layer %d tensor %d is off by %g of %g", o->folder, l, t, (double)worst, (double)largest);
            free(x);
            free(y);
        }
}

static void without_it(struct oracle *o)
{
    struct oracle shorter = *o;
    struct run want, got, forked;
    struct lists w;
    struct edit ed = at_needle(&w, o, EDIT_EVICT, 0);
    struct watch watch = {&ed, NULL, 1, 0};
    int places[ORACLE_TOKENS], i;
    cache *f = NULL;
    err e = {0};
    if (has_window(o, o->n + NEW)) return;
    for (i = shorter.n = 0; i < o->n; i++)
        if (watch_find(o->at, o->n_at, i) < 0) {
            shorter.prompt[shorter.n] = o->prompt[i];
            places[shorter.n++] = i;
        }
    ed.compact = true;
    run_make(&want, &shorter, shorter.prompt, NULL, NULL, NEW);
    run_begin(&got, o, o->prompt, &watch, NULL);
    assert_int_equal(cache_len(got.row.cache), o->n - 1);
    assert_caches_near(o, want.row.cache, got.row.cache, places, shorter.n - 1);
    /* a fork, and a shorter fork fed again, know it as well */
    forked = (struct run){.row = got.row};
    forked.row.cache = cache_fork(got.row.cache);
    run_end(&got, o, NEW);
    run_end(&forked, o, NEW);
    assert_near(o, &want, &got);
    assert_same_run(o, &got, &forked);
    run_free(&forked);
    assert_int_equal(cache_fork_at(&f, got.row.cache, o->n - 2, &e), 0);
    forked = (struct run){.row = {.cache = f, .feed = o->prompt + o->n - 2, .n_feed = 2}};
    run_end(&forked, o, NEW);
    assert_same_run(o, &got, &forked);
    run_free(&forked);
    if (o->en->model.n_rot > 0) { /* the finished cache closes up the hole that the pass has left: nothing turns any more */
        cache *c = NULL;
        assert_int_equal(cache_fork_at(&c, got.row.cache, o->n - 1, &e), 0);
        edit_or_fail(o, c, &ed);
        assert_int_equal(cache_len(c), shorter.n - 1);
        for (i = 0; i < shorter.n; i++) places[i] = i;
        assert_caches_near(o, want.row.cache, c, places, shorter.n - 1);
        forked = (struct run){.row = {.cache = c, .feed = o->prompt + o->n - 1, .n_feed = 1}};
        run_end(&forked, o, NEW);
        assert_near(o, &want, &forked);
        run_free(&forked);
    }
    run_free(&want);
    run_free(&got);
}

static void a_prompt_that_a_token_left_is_the_prompt_without_it(void **state)
{
    (void)state;
    on_every_model(without_it);
}

/* Rotary positions are relative: masked first tokens are as if they were not there. */
static void masked_first(struct oracle *o)
{
    struct oracle shorter = *o;
    struct run want, got;
    struct lists w;
    struct edit ed = at_all(&w, o, EDIT_MASK, 0, 0, 3);
    struct watch watch = {&ed, NULL, 1, 0};
    if (o->en->model.n_rot == 0 || has_window(o, o->n + NEW)) return;
    shorter.n = o->n - 3;
    memcpy(shorter.prompt, o->prompt + 3, (size_t)shorter.n * sizeof *shorter.prompt);
    run_make(&want, &shorter, shorter.prompt, NULL, NULL, NEW);
    run_make(&got, o, o->prompt, &watch, NULL, NEW);
    assert_near(o, &want, &got);
    run_free(&want);
    run_free(&got);
}

static void masked_first_tokens_are_as_if_absent(void **state)
{
    (void)state;
    on_every_model(masked_first);
}

/* ---- masks, holes, edges ---- */

static void hiding(struct oracle *o)
{
    struct run mask, hole, edges, two;
    struct lists w, v;
    struct edit ed = at_needle(&w, o, EDIT_MASK, 0), cut[2];
    struct watch watch = {&ed, NULL, 1, 0}, watch_cut = {cut, NULL, 1, 0};
    cache *c;
    int H = o->info->n_head;
    run_make(&mask, o, o->prompt, &watch, NULL, NEW);
    ed.op = EDIT_EVICT;
    run_make(&hole, o, o->prompt, &watch, NULL, NEW);
    assert_same_picks_of(o, &mask, &hole);
    ed.op = EDIT_ZERO;
    ed.tensors = CACHE_K | CACHE_V;
    edit_or_fail(o, mask.row.cache, &ed);
    assert_same_cache_of(o, mask.row.cache, hole.row.cache);
    run_free(&hole);
    cut[0] = at_needle(&v, o, EDIT_KNOCKOUT, 0);
    run_make(&edges, o, o->prompt, &watch_cut, &watch_cut, NEW); /* prompt and steps */
    assert_same_picks_of(o, &mask, &edges);
    run_free(&edges);
    run_free(&mask);
    /* of a finished cache: mask, or from then on no query sees it; two knockouts add up */
    ed = at_needle(&w, o, EDIT_MASK, 0);
    c = oracle_prefill(o->en, o->prompt, o->n - 1);
    edges = (struct run){.row = {.cache = cache_fork(c), .feed = o->prompt + o->n - 1, .n_feed = 1, .watch = &watch_cut}};
    two = edges;
    two.row.cache = cache_fork(c);
    mask = (struct run){.row = {.cache = c, .feed = o->prompt + o->n - 1, .n_feed = 1}};
    edit_or_fail(o, c, &ed);
    run_end(&mask, o, NEW);
    run_end(&edges, o, NEW);
    assert_same_picks_of(o, &mask, &edges);
    cut[1] = cut[0];
    cut[0].n_heads = H / 2;
    cut[1].heads += H / 2;
    cut[1].n_heads = H - H / 2;
    watch_cut.n_edits = 2;
    run_end(&two, o, NEW);
    assert_same_picks_of(o, &mask, &two);
    run_free(&mask);
    run_free(&edges);
    run_free(&two);
}

static void holes_and_knocked_out_edges_are_masks(void **state)
{
    (void)state;
    on_every_type(hiding);
}

/* ---- at layer 0 keys and values know nothing of each other, so the pass and the finished cache give the same ---- */

static void layer_0(struct oracle *o)
{
    static const enum edit_op ops[] = {EDIT_ZERO, EDIT_SCALE, EDIT_ADD, EDIT_MEAN, EDIT_NOISE, EDIT_QUANTISE, EDIT_TRANSPLANT};
    struct lists w;
    float vector[1 << 14];
    int k, t, i;
    for (i = 0; i < 1 << 14; i++) vector[i] = (float)(i % 23) / 5 - 2;
    for (k = 0; k < (int)(sizeof ops / sizeof *ops); k++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            struct edit ed = at_needle(&w, o, ops[k], t);
            struct watch watch = {&ed, NULL, 1, 0};
            struct run got;
            cache *c = oracle_prefill(o->en, o->prompt, o->n - 1);
            ed.n_layers = 1;
            ed.by = 0.3f;
            ed.sigma = 0.7f;
            ed.bits = 3;
            ed.vector = vector;
            ed.donor = ops[k] == EDIT_TRANSPLANT && t == CACHE_K ? c : NULL;
            run_begin(&got, o, o->prompt, &watch, NULL);
            edit_or_fail(o, c, &ed);
            assert_same_layer(o, c, got.row.cache, 0);
            run_free(&got);
            cache_free(c);
        }
}

static void a_pass_edits_as_a_finished_cache_is_edited(void **state)
{
    (void)state;
    on_every_model(layer_0);
}

/* ---- 7: who sees an edit ---- */

static void sight(struct oracle *o)
{
    struct run base;
    struct lists w;
    int site, k, l, layer = 1 % o->info->n_layer, z = o->at[0];
    static const enum edit_op ops[] = {EDIT_ZERO, EDIT_NOISE, EDIT_QUANTISE, EDIT_MASK, EDIT_EVICT, EDIT_KNOCKOUT};
    run_begin(&base, o, o->prompt, NULL, NULL);
    for (site = CACHE_K; site <= SITE_HEAD_OUT; site *= 2)
        for (k = 0; k < 6; k++) {
            struct edit ed = at_needle(&w, o, ops[k], site);
            struct watch watch = {&ed, NULL, 1, 0};
            struct run got;
            ed.layers = &layer;
            ed.n_layers = 1;
            ed.sigma = 3;
            ed.bits = 2;
            run_begin(&got, o, o->prompt, &watch, NULL);
            for (l = 0; l < layer; l++) assert_same_layer(o, base.row.cache, got.row.cache, l);
            for (; l < o->info->n_layer; l++) assert_same_before(o, base.row.cache, got.row.cache, l, z);
            run_free(&got);
        }
    run_free(&base);
}

static void an_edit_is_seen_only_behind_it_and_above(void **state)
{
    (void)state;
    on_every_type(sight);
}

/* ---- records ---- */

/* What a key received is the sum of what the queries gave, over however many passes; and edges that were cut carry nothing. */
static void attention(struct oracle *o)
{
    int n = o->n, H = o->info->n_head, L = o->info->n_layer, l, q, i, k;
    size_t row = (size_t)H * (size_t)n;
    float *given = mem_array((size_t)L * (size_t)n * row, sizeof *given), *got = mem_array((size_t)L * row, sizeof *got);
    struct lists w, all;
    struct edit cut = at_needle(&w, o, EDIT_KNOCKOUT, 0);
    struct record rec[] = {{SITE_ATTN, all.layers, all.at, L, n, n, given}, {SITE_RECEIVED, all.layers, NULL, L, 0, n, got}};
    struct watch watch = {&cut, rec, 1, 2};
    int one = 0;
    struct gen_row r = {.feed = o->prompt, .n_feed = n, .watch = &watch};
    err e = {0};
    at_all(&all, o, EDIT_NOOP, 0, 0, n);
    cut.heads = &one;
    cut.n_heads = 1;
    assert_int_equal(cache_new(&r.cache, o->en, &e), 0);
    if (generate(o->en, &r, 1, &(struct gen_opts){.max_tokens = 1}, &e)) fail_msg("%s", e.msg);
    if (r.error.code) fail_msg("%s: %s", o->folder, r.error.msg);
    for (l = 0; l < L; l++)
        for (i = 0; i < (int)row; i++) {
            float sum = 0;
            for (q = 0; q < n; q++) sum += given[((size_t)l * (size_t)n + (size_t)q) * row + (size_t)i];
            assert_memory_equal(&sum, &got[(size_t)l * row + (size_t)i], sizeof sum);
        }
    for (l = 0; l < L; l++)
        for (k = 0; k < o->n_at; k++) assert_true(got[(size_t)l * row + (size_t)o->at[k]] == 0);
    gen_row_clear(&r);
    cache_free(r.cache);
    free(given);
    free(got);
}

static void what_a_key_received_is_what_queries_gave(void **state)
{
    (void)state;
    on_every_model(attention);
}

static int find_folders(void **state)
{
    (void)state;
    return oracle_folders(&folders) > 0 ? 0 : -1;
}

static int free_folders(void **state)
{
    (void)state;
    oracle_folders_free(&folders);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_noop_anywhere_is_the_baseline),
        cmocka_unit_test(transplants_give_the_donors_run_or_ones_own),
        cmocka_unit_test(a_transplant_to_the_end_is_the_donors_run),
        cmocka_unit_test(a_prompt_that_a_token_left_is_the_prompt_without_it),
        cmocka_unit_test(masked_first_tokens_are_as_if_absent),
        cmocka_unit_test(holes_and_knocked_out_edges_are_masks),
        cmocka_unit_test(a_pass_edits_as_a_finished_cache_is_edited),
        cmocka_unit_test(an_edit_is_seen_only_behind_it_and_above),
        cmocka_unit_test(what_a_key_received_is_what_queries_gave),
    };
    return cmocka_run_group_tests_name("truths", tests, find_folders, free_folders);
}
