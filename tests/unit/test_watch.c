/* test_watch.c: passes that are edited and recorded: truth 3 and 7, and that watching alone changes no bit. What the sites hold
 * is compared with transformers in test_arch.c. */
#include "tiny_engine.h"

#include <math.h>

enum { ALL_SITES = CACHE_K | CACHE_V | SITE_K_PRE | SITE_RESID | SITE_ATTN_OUT | SITE_MLP_OUT | SITE_HEAD_OUT };

static cache *watched(const int *ids, int n, const struct edit *edits, int n_edits, const struct record *records, int n_records,
                      struct gen_pick *last)
{
    struct watch w = {edits, records, n_edits, n_records};
    cache *c = NULL;
    err e = {0};
    assert_int_equal(cache_new(&c, en, &e), 0);
    if (cache_feed_watched(c, ids, n, &w, last, &e)) fail_msg("%s", e.msg);
    return c;
}

/* An edit of one site, all layers and heads, at first..last. */
static struct edit at_site(struct whole *w, enum edit_op op, int site, int first, int last)
{
    struct edit ed = *whole(w, op, first, last, NULL);
    ed.tensors = site;
    return ed;
}

static void watching_alone_changes_no_bit(void **state)
{
    static const float zeros[64 * 1024];
    struct gen_pick plain, got;
    cache *want = NULL;
    int site, k;
    err e = {0};
    (void)state;
    assert_int_equal(cache_new(&want, en, &e), 0);
    assert_int_equal(cache_feed(want, prompt_a, P, &plain, &e), 0);
    for (site = 1; site < SITE_ATTN; site *= 2)
        for (k = 0; k < 3; k++) {
            struct whole w;
            struct edit ed = at_site(&w, k == 0 ? EDIT_NOOP : k == 1 ? EDIT_SCALE : EDIT_ADD, site, 0, P - 1);
            cache *c;
            ed.by = 1;
            ed.vector = zeros;
            c = watched(prompt_a, P, &ed, 1, NULL, 0, &got);
            assert_memory_equal(&got, &plain, sizeof got);
            assert_true(equal_all(c, want, P));
            cache_free(c);
        }
    cache_free(want);
}

/* Truth 3. */
static void a_transplant_into_the_pass_gives_the_donors_run_from_the_needle_on(void **state)
{
    struct whole w;
    struct gen_pick want, got;
    struct edit ed;
    cache *donor = NULL, *c;
    int l;
    err e = {0};
    (void)state;
    assert_int_equal(cache_new(&donor, en, &e), 0);
    assert_int_equal(cache_feed(donor, prompt_b, P, &want, &e), 0);
    ed = *whole(&w, EDIT_TRANSPLANT, Z, Z + 1, donor);
    c = watched(prompt_a, P, &ed, 1, NULL, 0, &got);
    assert_memory_equal(&got, &want, sizeof got);
    for (l = 0; l < info()->n_layer; l++) {
        assert_true(equal(c, donor, l, CACHE_K, 0, P));
        assert_true(equal(c, donor, l, CACHE_V, 0, P));
    }
    cache_free(c);
    cache_free(donor);
}

/* The same through the residual stream: the embeddings of the needle are all that differs. */
static void a_transplanted_embedding_gives_the_donors_run(void **state)
{
    int layer = -1, at[2] = {Z, Z + 1}, width = engine_site_width(en, SITE_RESID, 0);
    float *vectors = mem_array(2 * (size_t)width, sizeof *vectors);
    struct record rec = {SITE_RESID, &layer, at, 1, 2, 0, vectors};
    struct edit ed = {EDIT_TRANSPLANT, SITE_RESID, &layer, NULL, at, 1, 0, 2, NULL, NULL, false, 0, vectors};
    struct gen_pick want, got;
    cache *donor = watched(prompt_b, P, NULL, 0, &rec, 1, &want), *c = watched(prompt_a, P, &ed, 1, NULL, 0, &got);
    (void)state;
    assert_memory_equal(&got, &want, sizeof got);
    assert_true(equal_all(c, donor, P));
    cache_free(c);
    cache_free(donor);
    free(vectors);
}

/* Truth 7: an edit in layer l at position z changes nothing before z, nothing below l, and at other positions nothing at l. */
static void an_edit_is_seen_only_later_and_above(void **state)
{
    int l, k, at = Z, heads[1] = {0};
    cache *plain = prefill(en, prompt_a, P);
    (void)state;
    for (l = 0; l < info()->n_layer; l++) {
        struct edit ed = {EDIT_ZERO, CACHE_V, &l, heads, &at, 1, 1, 1, NULL, NULL, false, 0, NULL};
        cache *c = watched(prompt_a, P, &ed, 1, NULL, 0, NULL);
        for (k = 0; k < info()->n_layer; k++) {
            assert_true(equal(c, plain, k, CACHE_K, 0, Z));
            assert_true(equal(c, plain, k, CACHE_V, 0, Z));
            assert_int_equal(equal(c, plain, k, CACHE_K, Z, P - Z), k <= l);
            assert_int_equal(equal(c, plain, k, CACHE_V, Z + 1, P - Z - 1), k <= l);
        }
        cache_free(c);
    }
    cache_free(plain);
}

static void records_are_what_the_pass_was_given(void **state)
{
    int layers[] = {0, 2}, at[] = {5, Z, P - 1}, zero = 0, E = info()->head_dim, G = info()->n_kv_head, H = info()->n_head, i,
        h, t;
    int V = info()->n_vocab;
    float *k = mem_array((size_t)6 * G * E, sizeof *k), *attn = mem_array((size_t)6 * H * P, sizeof *attn),
          *logits = mem_array((size_t)3 * V, sizeof *logits);
    struct record rec[] = {
        {CACHE_K, layers, at, 2, 3, 0, k}, {SITE_ATTN, layers, at, 2, 3, P, attn}, {SITE_LOGITS, &zero, at, 1, 3, 0, logits}};
    struct gen_pick last;
    cache *c = watched(prompt_a, P, NULL, 0, rec, 3, &last);
    (void)state;
    for (i = 0; i < 6; i++) {
        float *held = values(c, layers[i / 3], CACHE_K, at[i % 3], 1);
        assert_memory_equal(held, k + (size_t)i * G * E, (size_t)G * E * sizeof *k);
        free(held);
        for (h = 0; h < H; h++) {
            const float *row = attn + ((size_t)i * H + (size_t)h) * P;
            float total = 0;
            for (t = 0; t < P; t++) total += row[t];
            assert_float_equal(total, 1, 1e-5f);
            for (t = at[i % 3] + 1; t < P; t++) assert_float_equal(row[t], 0, 0); /* nobody sees what comes later */
        }
    }
    for (i = 1, t = 0; i < V; i++)
        if (logits[(size_t)2 * V + i] > logits[(size_t)2 * V + t]) t = i;
    assert_int_equal(t, last.token);
    cache_free(c);
    free(k);
    free(attn);
    free(logits);
}

static void edits_of_the_pass_do_not_depend_on_how_it_is_cut(void **state)
{
    struct whole w;
    struct edit ed = at_site(&w, EDIT_SCALE, SITE_MLP_OUT, 3, Z);
    struct watch watch = {&ed, NULL, 1, 0};
    cache *one, *c = NULL;
    int i, n;
    err e = {0};
    (void)state;
    ed.by = -2.5f;
    one = watched(prompt_a, P, &ed, 1, NULL, 0, NULL);
    assert_int_equal(cache_new(&c, en, &e), 0);
    for (i = 0; i < P; i += n) {
        n = P - i < 13 ? P - i : 13;
        assert_int_equal(cache_feed_watched(c, prompt_a + i, n, &watch, NULL, &e), 0);
    }
    assert_true(equal_all(one, c, P));
    cache_free(one);
    cache_free(c);
}

static void a_wrong_index_or_site_is_an_error_and_feeds_nothing(void **state)
{
    int bad = 1 << 20, below = -2, fine = 0, i;
    float v[8] = {0};
    struct edit edits[] = {{EDIT_ZERO, CACHE_K, &bad, &fine, &fine, 1, 1, 1, NULL, NULL, false, 0, NULL},
                           {EDIT_ZERO, SITE_RESID, &below, NULL, &fine, 1, 0, 1, NULL, NULL, false, 0, NULL},
                           {EDIT_ZERO, SITE_HEAD_OUT, &fine, &bad, &fine, 1, 1, 1, NULL, NULL, false, 0, NULL},
                           {EDIT_ZERO, CACHE_K, &fine, &fine, &below, 1, 1, 1, NULL, NULL, false, 0, NULL},
                           {EDIT_ZERO, SITE_ATTN, &fine, &fine, &fine, 1, 1, 1, NULL, NULL, false, 0, NULL},
                           {EDIT_ZERO, SITE_RESID | SITE_MLP_OUT, &fine, NULL, &fine, 1, 0, 1, NULL, NULL, false, 0, NULL},
                           {EDIT_ADD, SITE_RESID, &fine, NULL, &fine, 1, 0, 1, NULL, NULL, false, 1, NULL},
                           {EDIT_TRANSPLANT, SITE_RESID, &fine, NULL, &fine, 1, 0, 1, NULL, NULL, false, 1, NULL},
                           {EDIT_TRANSPLANT, CACHE_K, &fine, &fine, &fine, 1, 1, 1, NULL, &fine, false, 1, NULL},
                           {EDIT_TRANSPLANT, CACHE_K | CACHE_V, &fine, &fine, &fine, 1, 1, 1, NULL, &fine, false, 1, v},
                           {EDIT_SWAP, CACHE_K, &fine, &fine, &fine, 1, 1, 1, NULL, &fine, false, 0, NULL}};
    struct record records[] = {
        {3, &fine, &fine, 1, 1, 0, v}, {CACHE_K, &bad, &fine, 1, 1, 0, v}, {SITE_ATTN, &fine, &fine, 1, 1, 0, v}};
    cache *c = NULL;
    err e = {0};
    (void)state;
    assert_int_equal(cache_new(&c, en, &e), 0);
    for (i = 0; i < (int)(sizeof edits / sizeof *edits); i++) {
        e = (err){0};
        assert_int_equal(cache_feed_watched(c, prompt_a, 5, &(struct watch){&edits[i], NULL, 1, 0}, NULL, &e), -1);
        assert_int_equal(e.code, ERR_INPUT);
    }
    for (i = 0; i < (int)(sizeof records / sizeof *records); i++) {
        e = (err){0};
        assert_int_equal(cache_feed_watched(c, prompt_a, 5, &(struct watch){NULL, &records[i], 0, 1}, NULL, &e), -1);
    }
    assert_int_equal(cache_len(c), 0);
    cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(watching_alone_changes_no_bit),
        cmocka_unit_test(a_transplant_into_the_pass_gives_the_donors_run_from_the_needle_on),
        cmocka_unit_test(a_transplanted_embedding_gives_the_donors_run),
        cmocka_unit_test(an_edit_is_seen_only_later_and_above),
        cmocka_unit_test(records_are_what_the_pass_was_given),
        cmocka_unit_test(edits_of_the_pass_do_not_depend_on_how_it_is_cut),
        cmocka_unit_test(a_wrong_index_or_site_is_an_error_and_feeds_nothing),
    };
    return cmocka_run_group_tests_name("watch", tests, open_default, close_default);
}
