/* test_engine.c: what must hold for any model, on tiny random ones: truths 4, 6, 7 and 8, batch invariance, the edits. */
#include "tiny_engine.h"

static void cached_equals_recomputed(void **state)
{
    cache *c = prefill(en, prompt_a, P - 1), *again;
    struct gen_row r = row_of(c, prompt_a + P - 1);
    int ids[P + N], i;
    struct gen_pick last;
    err e = {0};
    (void)state;
    decode(en, &r, 1);
    memcpy(ids, prompt_a, sizeof prompt_a);
    for (i = 0; i < r.n; i++) ids[P + i] = r.picks[i].token;
    for (i = 0; i < r.n; i += 7) { /* recomputed from nothing in one pass, up to token i */
        assert_int_equal(cache_new(&again, en, &e), 0);
        assert_int_equal(cache_feed(again, ids, P + i, &last, &e), 0);
        assert_memory_equal(&last, &r.picks[i], sizeof last);
        assert_true(equal_all(again, c, P + i));
        cache_free(again);
    }
    gen_row_clear(&r);
    cache_free(c);
}

static void results_do_not_depend_on_how_the_prompt_is_cut(void **state)
{
    engine *small = open_model("q4_1.gguf", NULL, KV_F32, 1, 7);
    cache *a = prefill(en, prompt_a, P), *b, *c;
    err e = {0};
    int i;
    (void)state;
    assert_non_null(small);
    b = prefill(small, prompt_a, P);
    assert_true(equal_all(a, b, P));
    assert_int_equal(cache_new(&c, en, &e), 0);
    for (i = 0; i < P; i++) assert_int_equal(cache_feed(c, prompt_a + i, 1, NULL, &e), 0);
    assert_true(equal_all(a, c, P));
    cache_free(a);
    cache_free(b);
    cache_free(c);
    engine_free(small);
}

static void a_row_does_not_depend_on_its_batch(void **state)
{
    enum { B = 16 };
    struct gen_row alone[B], together[B], three[3];
    cache *base[2] = {prefill(en, prompt_a, P - 1), prefill(en, prompt_b, P - 1)};
    int i;
    (void)state;
    for (i = 0; i < B; i++) {
        struct whole w;
        cache *c = cache_fork(base[i % 2]);
        if (i > 2) edit(c, whole(&w, i % 3 ? EDIT_ZERO : EDIT_MASK, Z - i, Z + 1, NULL));
        alone[i] = row_of(c, prompt_a + P - 1);
        together[i] = row_of(cache_fork(c), prompt_a + P - 1);
        if (i >= 5 && i < 8) three[i - 5] = row_of(cache_fork(c), prompt_a + P - 1);
        decode(en, &alone[i], 1);
    }
    decode(en, together, B);
    decode(en, three, 3);
    for (i = 0; i < B; i++) {
        assert_same_picks(&alone[i], &together[i]);
        assert_true(equal_all(alone[i].cache, together[i].cache, P + N - 1));
    }
    for (i = 0; i < 3; i++) assert_same_picks(&three[i], &alone[i + 5]);
    for (i = 0; i < B; i++) {
        gen_row_clear(&alone[i]);
        gen_row_clear(&together[i]);
        cache_free(alone[i].cache);
        cache_free(together[i].cache);
    }
    for (i = 0; i < 3; i++) {
        gen_row_clear(&three[i]);
        cache_free(three[i].cache);
    }
    cache_free(base[0]);
    cache_free(base[1]);
}

static void same_bits_on_every_instruction_set_and_type(void **state)
{
    static const char *const models[] = {"f32.gguf", "f16.gguf", "bf16.gguf", "q4_0.gguf", "q4_1.gguf", "q8_0.gguf"};
    static const char *const isas[] = {"scalar", "avx2", "avx512"};
    int m, i, kv;
    (void)state;
    for (m = 0; m < 6; m++)
        for (kv = KV_F32; kv <= KV_BF16; kv++) {
            struct gen_row first = {0};
            for (i = 0; i < 3; i++) {
                engine *one = open_model(models[m], isas[i], (enum kv_type)kv, 1 + i % 2, 64);
                struct gen_row r;
                if (!one) {
                    assert_int_not_equal(i, 0);
                    printf("%s: skipped, this processor lacks it\n", isas[i]);
                    continue;
                }
                r = row_of(prefill(one, prompt_a, P - 1), prompt_a + P - 1);
                decode(one, &r, 1);
                cache_free(r.cache);
                if (i == 0) {
                    first = r;
                } else {
                    assert_same_picks(&first, &r);
                    gen_row_clear(&r);
                }
                engine_free(one);
            }
            gen_row_clear(&first);
        }
}

static void noop_and_self_transplant_equal_baseline(void **state)
{
    struct whole w;
    cache *base = prefill(en, prompt_a, P - 1), *c[3] = {cache_fork(base), cache_fork(base), cache_fork(base)};
    struct gen_row r[3];
    int i;
    (void)state;
    edit(c[1], whole(&w, EDIT_NOOP, Z, Z + 1, NULL));
    edit(c[2], whole(&w, EDIT_TRANSPLANT, Z, Z + 1, base));
    for (i = 0; i < 3; i++) r[i] = row_of(c[i], prompt_a + P - 1);
    decode(en, r, 3);
    assert_same_picks(&r[0], &r[1]);
    assert_same_picks(&r[0], &r[2]);
    for (i = 0; i < 3; i++) {
        gen_row_clear(&r[i]);
        cache_free(c[i]);
    }
    cache_free(base);
}

/* Truth 4. */
static void transplant_from_the_needle_to_the_end_is_the_donors_own_run(void **state)
{
    struct whole w;
    cache *a = prefill(en, prompt_a, P - 1), *b = prefill(en, prompt_b, P - 1);
    struct gen_row r[3] = {row_of(cache_fork(a), prompt_a + P - 1), row_of(cache_fork(a), prompt_a + P - 1),
                           row_of(cache_fork(b), prompt_b + P - 1)};
    int i;
    (void)state;
    edit(r[0].cache, whole(&w, EDIT_TRANSPLANT, Z, P - 2, b));
    decode(en, r, 3);
    assert_same_picks(&r[0], &r[2]);
    assert_true(equal_all(r[0].cache, r[2].cache, P + N - 1));
    assert_false(equal_all(r[1].cache, r[2].cache, P + N - 1)); /* the test can fail: without the edit they differ */
    for (i = 0; i < 3; i++) {
        gen_row_clear(&r[i]);
        cache_free(r[i].cache);
    }
    cache_free(a);
    cache_free(b);
}

/* Truth 7: with an edit at layer l, the next token's own K and V change only above l. */
static void the_next_token_sees_an_edit_only_in_layers_above_it(void **state)
{
    int l, k, head = 0, at[2] = {Z, Z + 1};
    cache *base = prefill(en, prompt_a, P - 1);
    err e = {0};
    (void)state;
    for (l = 0; l < info()->n_layer; l++) {
        cache *plain = cache_fork(base), *edited = cache_fork(base);
        struct edit ed = {EDIT_ZERO, CACHE_V, &l, &head, at, 1, 1, 2, NULL, NULL, false, 0, NULL};
        edit(edited, &ed);
        assert_int_equal(cache_feed(plain, prompt_a + P - 1, 1, NULL, &e), 0);
        assert_int_equal(cache_feed(edited, prompt_a + P - 1, 1, NULL, &e), 0);
        for (k = 0; k < info()->n_layer; k++) {
            assert_int_equal(equal(plain, edited, k, CACHE_K, P - 1, 1), k <= l);
            assert_int_equal(equal(plain, edited, k, CACHE_V, P - 1, 1), k <= l);
        }
        cache_free(plain);
        cache_free(edited);
    }
    cache_free(base);
}

/* Truth 7, the other half: positions before the needle do not know it. */
static void earlier_positions_do_not_know_later_ones(void **state)
{
    cache *a = prefill(en, prompt_a, P), *b = prefill(en, prompt_b, P);
    (void)state;
    assert_true(equal_all(a, b, Z));
    assert_false(equal_all(a, b, Z + 1));
    cache_free(a);
    cache_free(b);
}

/* Truth 8. */
static void what_an_edit_does_not_touch_stays_shared(void **state)
{
    int layer = 1, head = 1, at = Z, l, pos;
    cache *base = prefill(en, prompt_a, P - 1), *c = cache_fork(base);
    float *k0 = values(base, layer, CACHE_K, 0, P - 1), *k1;
    struct edit ed = {EDIT_ZERO, CACHE_K, &layer, &head, &at, 1, 1, 1, NULL, NULL, false, 0, NULL};
    int g, t, E = info()->head_dim;
    (void)state;
    edit(c, &ed);
    for (l = 0; l < info()->n_layer; l++)
        for (pos = 0; pos < P - 1; pos++) assert_int_equal(cache_shares(base, c, l, pos), !(l == layer && pos / 64 == Z / 64));
    k1 = values(c, layer, CACHE_K, 0, P - 1);
    for (g = 0; g < info()->n_kv_head; g++)
        for (t = 0; t < P - 1; t++) {
            size_t i = ((size_t)g * (P - 1) + (size_t)t) * (size_t)E;
            static const float zeros[512];
            assert_memory_equal(k1 + i, g == head && t == Z ? zeros : k0 + i, (size_t)E * sizeof(float));
        }
    assert_true(equal(base, c, layer, CACHE_V, 0, P - 1));
    free(k0);
    free(k1);
    cache_free(c);
    cache_free(base);
}

static void a_fork_never_sees_its_sibling(void **state)
{
    cache *base = prefill(en, prompt_a, P - 1), *a = cache_fork(base), *b = cache_fork(base),
          *copy = prefill(en, prompt_a, P - 1);
    struct whole w;
    struct gen_row r = row_of(a, prompt_a + P - 1);
    (void)state;
    edit(b, whole(&w, EDIT_ZERO, 0, P - 2, NULL));
    decode(en, &r, 1);
    assert_int_equal(cache_len(base), P - 1);
    assert_true(equal_all(base, copy, P - 1));
    cache_free(base); /* the forks keep what they share */
    assert_true(equal_all(a, copy, P - 1));
    gen_row_clear(&r);
    cache_free(a);
    cache_free(b);
    cache_free(copy);
}

static void a_shorter_fork_is_the_shorter_prompts_cache(void **state)
{
    static const int lengths[] = {0, 1, 63, 64, 65, 128, P};
    cache *whole_prompt = prefill(en, prompt_a, P);
    size_t i;
    (void)state;
    for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int n = lengths[i];
        cache *f = NULL, *want = prefill(en, prompt_a, n);
        struct gen_pick a, b;
        err e = {0};
        assert_int_equal(cache_fork_at(&f, whole_prompt, n, &e), 0);
        assert_int_equal(cache_len(f), n);
        assert_true(equal_all(f, want, n));
        assert_int_equal(cache_feed(f, prompt_b, 3, &a, &e), 0);
        assert_int_equal(cache_feed(want, prompt_b, 3, &b, &e), 0);
        assert_memory_equal(&a, &b, sizeof a);
        cache_free(f);
        cache_free(want);
    }
    cache_free(whole_prompt);
}

/* The numbers below are the contract's. When they move, the numerics tag must move with them (engine.c), since answers of
   equal tags are taken for equal to the bit; then this test gets the new tag and the new hash. */
static void the_bits_of_this_numerics_tag_have_not_moved(void **state)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a over the picks */
    struct gen_row r = row_of(prefill(en, prompt_a, P - 1), prompt_a + P - 1);
    const unsigned char *p;
    size_t i;
    (void)state;
    decode(en, &r, 1);
    p = (const unsigned char *)r.picks;
    for (i = 0; i < (size_t)r.n * sizeof *r.picks; i++) hash = (hash ^ p[i]) * 1099511628211u;
    if (strcmp(info()->backend, "cpu") == 0) assert_string_equal(info()->numerics, "n1:cpu:kv-f32");
    assert_int_equal(hash, 0xba2691673407616);
    gen_row_clear(&r);
    cache_free(r.cache);
}

static void a_masked_position_is_as_if_absent_and_a_zeroed_one_is_not(void **state)
{
    struct whole w;
    cache *a = prefill(en, prompt_a, P - 1), *b = prefill(en, prompt_b, P - 1), *zero = cache_fork(a);
    struct gen_row r[3];
    int i;
    (void)state;
    /* Two caches that differ at the needle alone, once it is hidden in both: from there on nobody can tell them apart. */
    edit(b, whole(&w, EDIT_TRANSPLANT, Z + 2, P - 2, a));
    edit(a, whole(&w, EDIT_MASK, Z, Z + 1, NULL));
    edit(b, whole(&w, EDIT_MASK, Z, Z + 1, NULL));
    edit(zero, whole(&w, EDIT_ZERO, Z, Z + 1, NULL));
    r[0] = row_of(a, prompt_a + P - 1);
    r[1] = row_of(b, prompt_a + P - 1);
    r[2] = row_of(zero, prompt_a + P - 1);
    decode(en, r, 3);
    assert_same_picks(&r[0], &r[1]);
    assert_memory_not_equal(r[0].picks, r[2].picks, (size_t)N * sizeof *r[0].picks);
    for (i = 0; i < 3; i++) {
        gen_row_clear(&r[i]);
        cache_free(r[i].cache);
    }
}

/* At layer 0 a key depends on token and position alone, so a re-rotated key equals the one computed at the new position. */
static void a_rerotated_key_is_the_key_of_its_new_position(void **state)
{
    int ids[40], layer = 0, head = 0, from = 3, to = 33, i, E = info()->head_dim;
    struct edit ed = {EDIT_TRANSPLANT, CACHE_K, &layer, &head, &to, 1, 1, 1, NULL, &from, true, 0, NULL};
    cache *c, *d;
    float *want, *got;
    (void)state;
    for (i = 0; i < 40; i++) ids[i] = 7 + i;
    ids[to] = ids[from];
    c = prefill(en, ids, 40);
    d = cache_fork(c);
    ed.donor = d;
    edit(d, &ed);
    want = values(c, 0, CACHE_K, to, 1);
    got = values(d, 0, CACHE_K, to, 1);
    for (i = 0; i < E; i++) assert_float_equal(got[i], want[i], 1e-5f);
    free(want);
    free(got);
    cache_free(c);
    cache_free(d);
}

static void a_wrong_index_is_an_error_and_changes_nothing(void **state)
{
    int bad[] = {-1, 1 << 20}, fine = 0, i;
    cache *base = prefill(en, prompt_a, 10), *c = cache_fork(base);
    (void)state;
    for (i = 0; i < 2; i++) {
        struct edit ed[4] = {{EDIT_ZERO, CACHE_K, &bad[i], &fine, &fine, 1, 1, 1, NULL, NULL, false, 0, NULL},
                             {EDIT_ZERO, CACHE_K, &fine, &bad[i], &fine, 1, 1, 1, NULL, NULL, false, 0, NULL},
                             {EDIT_ZERO, CACHE_K, &fine, &fine, &bad[i], 1, 1, 1, NULL, NULL, false, 0, NULL},
                             {EDIT_TRANSPLANT, CACHE_K, &fine, &fine, &fine, 1, 1, 1, base, &bad[i], false, 0, NULL}};
        int k;
        for (k = 0; k < 4; k++) {
            err e = {0};
            assert_int_equal(cache_edit(c, &ed[k], &e), -1);
            assert_int_equal(e.code, ERR_INPUT);
            assert_true(cache_shares(base, c, 0, 0));
        }
    }
    for (i = 0; i < 2; i++) {
        err e = {0};
        assert_int_equal(cache_feed(c, &bad[i], 1, NULL, &e), -1);
    }
    cache_free(base);
    cache_free(c);
}

static void generation_stops_at_a_stop_token_and_at_the_end_of_the_context(void **state)
{
    cache *base = prefill(en, prompt_a, P - 1);
    struct gen_row all = row_of(cache_fork(base), prompt_a + P - 1), r = row_of(cache_fork(base), prompt_a + P - 1);
    int i, stop;
    err e = {0};
    (void)state;
    decode(en, &all, 1);
    stop = all.picks[5].token;
    assert_int_equal(generate(en, &r, 1, &(struct gen_opts){.max_tokens = N, .stop = &stop, .n_stop = 1}, &e), 0);
    assert_int_equal(r.stop, GEN_STOP_EOS);
    for (i = 0; all.picks[i].token != stop; i++) continue;
    assert_int_equal(r.n, i + 1);
    assert_int_equal(cache_len(r.cache), P + r.n - 1);
    gen_row_clear(&r);
    cache_free(r.cache);
    r = row_of(cache_fork(base), prompt_a + P - 1);
    assert_int_equal(generate(en, &r, 1, &(struct gen_opts){.max_tokens = 100000}, &e), 0);
    assert_int_equal(r.stop, GEN_STOP_CONTEXT);
    assert_int_equal(cache_len(r.cache), info()->n_ctx_train);
    gen_row_clear(&r);
    gen_row_clear(&all);
    cache_free(r.cache);
    cache_free(all.cache);
    cache_free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_equals_recomputed),
        cmocka_unit_test(results_do_not_depend_on_how_the_prompt_is_cut),
        cmocka_unit_test(a_row_does_not_depend_on_its_batch),
        cmocka_unit_test(same_bits_on_every_instruction_set_and_type),
        cmocka_unit_test(noop_and_self_transplant_equal_baseline),
        cmocka_unit_test(transplant_from_the_needle_to_the_end_is_the_donors_own_run),
        cmocka_unit_test(the_next_token_sees_an_edit_only_in_layers_above_it),
        cmocka_unit_test(earlier_positions_do_not_know_later_ones),
        cmocka_unit_test(what_an_edit_does_not_touch_stays_shared),
        cmocka_unit_test(a_fork_never_sees_its_sibling),
        cmocka_unit_test(a_shorter_fork_is_the_shorter_prompts_cache),
        cmocka_unit_test(the_bits_of_this_numerics_tag_have_not_moved),
        cmocka_unit_test(a_masked_position_is_as_if_absent_and_a_zeroed_one_is_not),
        cmocka_unit_test(a_rerotated_key_is_the_key_of_its_new_position),
        cmocka_unit_test(a_wrong_index_is_an_error_and_changes_nothing),
        cmocka_unit_test(generation_stops_at_a_stop_token_and_at_the_end_of_the_context),
    };
    return cmocka_run_group_tests_name("engine", tests, open_default, close_default);
}
