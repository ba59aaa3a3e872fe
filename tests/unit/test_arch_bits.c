/* test_arch_bits.c: the truths that need no reference, bit by bit, on every architecture. */
#include "oracle.h"

static struct oracle_list folders;

enum { NEW = 12, LONGEST = 143 }; /* new tokens; a prompt that reaches the third page */

/* A prompt as long as the model allows, up to LONGEST. */
static int long_prompt(const struct oracle *o, int *ids)
{
    int i, n = o->info->n_ctx_train - NEW - 1 < LONGEST ? o->info->n_ctx_train - NEW - 1 : LONGEST;
    for (i = 0; i < n; i++) ids[i] = 3 + (i * 37 + i * i * 11) % (o->info->n_vocab - 3);
    return n;
}

static void decode(engine *en, struct gen_row *rows, int n)
{
    err e = {0};
    if (generate(en, rows, n, &(struct gen_opts){.max_tokens = NEW}, &e)) fail_msg("%s", e.msg);
}

static void assert_same_picks(const struct oracle *o, const char *what, const struct gen_row *a, const struct gen_row *b)
{
    if (a->n != NEW || b->n != NEW || memcmp(a->picks, b->picks, NEW * sizeof *a->picks) != 0)
        fail_msg("%s: %s: other picks", o->folder, what);
}

/* All keys and values of the first n positions. */
static void assert_same_cache(const struct oracle *o, const char *what, const cache *a, const cache *b, int n)
{
    size_t bytes = (size_t)o->info->n_kv_head * (size_t)n * (size_t)o->info->head_dim * 4;
    char *x = mem_alloc(bytes), *y = mem_alloc(bytes);
    int l, t;
    for (l = 0; l < o->info->n_layer; l++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            cache_read(a, l, t, 0, n, x);
            cache_read(b, l, t, 0, n, y);
            if (memcmp(x, y, bytes) != 0) fail_msg("%s: %s: another cache in layer %d", o->folder, what, l);
        }
    free(x);
    free(y);
}

static void row_clear(struct gen_row *r)
{
    cache_free(r->cache);
    gen_row_clear(r);
}

/* Runs f on every model with its long prompt. */
static void on_every_model(void (*f)(struct oracle *o, const int *ids, int n))
{
    int i, ids[LONGEST];
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        oracle_open(&o, folders.path[i]);
        f(&o, ids, long_prompt(&o, ids));
        oracle_close(&o);
    }
}

/* ---- cached and recomputed ---- */

static void recompute(struct oracle *o, const int *ids, int n)
{
    struct gen_row r = {.cache = oracle_prefill(o->en, ids, n - 1), .feed = ids + n - 1, .n_feed = 1};
    int all[LONGEST + NEW], i;
    err e = {0};
    decode(o->en, &r, 1);
    memcpy(all, ids, (size_t)n * sizeof *ids);
    for (i = 0; i < NEW; i++) all[n + i] = r.picks[i].token;
    for (i = 0; i < NEW; i += NEW - 1) {
        struct gen_pick last;
        cache *again;
        assert_int_equal(cache_new(&again, o->en, &e), 0);
        assert_int_equal(cache_feed(again, all, n + i, &last, &e), 0);
        assert_memory_equal(&last, &r.picks[i], sizeof last);
        assert_same_cache(o, "recomputed", again, r.cache, n + i);
        cache_free(again);
    }
    row_clear(&r);
}

static void cached_equals_recomputed(void **state)
{
    (void)state;
    on_every_model(recompute);
}

static void cut(struct oracle *o, const int *ids, int n)
{
    engine *small = oracle_engine(o->folder, (struct engine_opts){.threads = 1, .max_rows = 7});
    cache *a = oracle_prefill(o->en, ids, n), *b = oracle_prefill(small, ids, n), *c;
    err e = {0};
    int i;
    assert_same_cache(o, "seven rows a pass", a, b, n);
    assert_int_equal(cache_new(&c, o->en, &e), 0);
    for (i = 0; i < n; i++) assert_int_equal(cache_feed(c, ids + i, 1, NULL, &e), 0);
    assert_same_cache(o, "one row a pass", a, c, n);
    cache_free(a);
    cache_free(b);
    cache_free(c);
    engine_free(small);
}

static void results_do_not_depend_on_how_the_prompt_is_cut_or_on_threads(void **state)
{
    (void)state;
    on_every_model(cut);
}

/* ---- batches ---- */

static void batch(struct oracle *o, const int *ids, int n)
{
    enum { B = 8 };
    struct gen_row alone[B], together[B];
    cache *base[2] = {oracle_prefill(o->en, ids, n - 1), oracle_prefill(o->en, o->prompt, o->n - 1)};
    int i;
    for (i = 0; i < B; i++) {
        struct oracle_edit w;
        err e = {0};
        const int *feed = i % 2 ? o->prompt + o->n - 1 : ids + n - 1;
        cache *c = cache_fork(base[i % 2]);
        if (i > 1 && cache_edit(c, oracle_edit(&w, o, i % 3 ? EDIT_ZERO : EDIT_MASK, CACHE_K | CACHE_V), &e))
            fail_msg("%s", e.msg);
        alone[i] = (struct gen_row){.cache = c, .feed = feed, .n_feed = 1};
        together[i] = (struct gen_row){.cache = cache_fork(c), .feed = feed, .n_feed = 1};
        decode(o->en, &alone[i], 1);
    }
    decode(o->en, together, B);
    for (i = 0; i < B; i++) {
        assert_same_picks(o, "in a batch", &alone[i], &together[i]);
        assert_same_cache(o, "in a batch", alone[i].cache, together[i].cache, (i % 2 ? o->n : n) + NEW - 1);
        row_clear(&alone[i]);
        row_clear(&together[i]);
    }
    cache_free(base[0]);
    cache_free(base[1]);
}

static void a_row_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    on_every_model(batch);
}

/* ---- instruction sets ---- */

static void instruction_sets(struct oracle *o, const int *ids, int n)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512"};
    int types[] = {KV_F32, o->prompt[0] % 2 ? KV_F16 : KV_BF16}, t, i; /* each model with one of the short ones */
    for (t = 0; t < 2; t++) {
        struct gen_row first = {0};
        engine *defines = NULL;
        for (i = 0; i < 3; i++) {
            struct gen_row r = {.feed = ids + n - 1, .n_feed = 1};
            engine *en = NULL;
            err e = {0};
            if (engine_open(
                    &en,
                    &(struct engine_opts){
                        .path = o->folder, .isa = isas[i], .kv = (enum kv_type)types[t], .threads = 1 + i % 2, .max_rows = 64},
                    &e)) {
                assert_int_not_equal(i, 0);
                continue;
            }
            r.cache = oracle_prefill(en, ids, n - 1);
            decode(en, &r, 1);
            if (i == 0) {
                first = r;
                defines = en;
                continue;
            }
            assert_same_picks(o, isas[i], &first, &r);
            row_clear(&r);
            engine_free(en);
        }
        row_clear(&first);
        engine_free(defines);
    }
}

static void same_bits_on_every_instruction_set_and_cache_type(void **state)
{
    (void)state;
    on_every_model(instruction_sets);
}

/* ---- edits and taps that change nothing ---- */

static void nothing(void *arg, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width)
{
    (void)layer;
    (void)site;
    (void)x;
    (void)rows;
    (void)width;
    *(int *)arg += n;
}

static void no_change(struct oracle *o, const int *ids, int n)
{
    cache *base = oracle_prefill(o->en, ids, n - 1), *looked;
    struct gen_row r[4];
    struct oracle_edit w;
    int i, calls = 0;
    const struct tap tap = {nothing, &calls, ~0u};
    err e = {0};
    for (i = 0; i < 3; i++) r[i] = (struct gen_row){.cache = cache_fork(base), .feed = ids + n - 1, .n_feed = 1};
    assert_int_equal(cache_edit(r[1].cache, oracle_edit(&w, o, EDIT_NOOP, CACHE_K | CACHE_V), &e), 0);
    oracle_edit(&w, o, EDIT_TRANSPLANT, CACHE_K | CACHE_V)->donor = base;
    assert_int_equal(cache_edit(r[2].cache, &w.ed, &e), 0);
    decode(o->en, r, 3);
    forward_tap(o->en, &tap);
    looked = oracle_prefill(o->en, ids, n - 1);
    r[3] = (struct gen_row){.cache = looked, .feed = ids + n - 1, .n_feed = 1};
    decode(o->en, &r[3], 1);
    forward_tap(o->en, NULL);
    assert_true(calls > 8 * n * o->info->n_layer);
    assert_same_picks(o, "noop", &r[0], &r[1]);
    assert_same_picks(o, "a transplant from itself", &r[0], &r[2]);
    assert_same_picks(o, "a tap that changes nothing", &r[0], &r[3]);
    assert_same_cache(o, "a tap that changes nothing", r[0].cache, r[3].cache, n + NEW - 1);
    for (i = 0; i < 4; i++) row_clear(&r[i]);
    cache_free(base);
}

static void noop_self_transplant_and_a_looking_tap_equal_baseline(void **state)
{
    (void)state;
    on_every_model(no_change);
}

/* ---- truths about edits ---- */

/* From the needle to the end, the donor's cache is the donor's own run. */
static void transplant(struct oracle *o, const int *ids, int n)
{
    cache *a = oracle_prefill(o->en, o->prompt, o->n - 1), *b = oracle_prefill(o->en, o->donor, o->n - 1);
    struct gen_row r[2] = {{.cache = cache_fork(a), .feed = o->prompt + o->n - 1, .n_feed = 1},
                           {.cache = cache_fork(b), .feed = o->prompt + o->n - 1, .n_feed = 1}};
    struct oracle_edit w;
    err e = {0};
    int i, at[ORACLE_TOKENS];
    (void)ids;
    (void)n;
    oracle_edit(&w, o, EDIT_TRANSPLANT, CACHE_K | CACHE_V)->donor = b;
    for (i = 0; o->at[0] + i < o->n - 1; i++) at[i] = o->at[0] + i;
    w.ed.at = w.ed.donor_at = at;
    w.ed.n_at = i;
    assert_int_equal(cache_edit(r[0].cache, &w.ed, &e), 0);
    decode(o->en, r, 2);
    assert_same_picks(o, "a transplant to the end", &r[0], &r[1]);
    assert_same_cache(o, "a transplant to the end", r[0].cache, r[1].cache, o->n + NEW - 1);
    for (i = 0; i < 2; i++) row_clear(&r[i]);
    cache_free(a);
    cache_free(b);
}

static void transplant_to_the_end_is_the_donors_own_run(void **state)
{
    (void)state;
    on_every_model(transplant);
}

struct copy {
    const cache *donor;
    int first;
};

static void copy_donor(void *arg, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width)
{
    const struct copy *c = arg;
    int b;
    for (b = 0; b < n; b++)
        if (rows[b].pos == c->first)
            cache_read(c->donor, layer, site == TAP_K ? CACHE_K : CACHE_V, rows[b].pos, 1, x + (size_t)b * (size_t)width);
}

/* Prompts that differ at one position: with the donor's keys and values there while the prompt is computed, all that follows
   is the donor's. */
static void in_flight(struct oracle *o, const int *ids, int n)
{
    int donor_ids[LONGEST];
    struct copy c = {.first = n / 2};
    const struct tap tap = {copy_donor, &c, 1u << TAP_K | 1u << TAP_V};
    cache *donor, *changed;
    memcpy(donor_ids, ids, (size_t)n * sizeof *ids);
    donor_ids[c.first] = 3 + (ids[c.first] + 5) % (o->info->n_vocab - 3);
    c.donor = donor = oracle_prefill(o->en, donor_ids, n);
    forward_tap(o->en, &tap);
    changed = oracle_prefill(o->en, ids, n);
    forward_tap(o->en, NULL);
    assert_same_cache(o, "a transplant in flight", donor, changed, n);
    cache_free(donor);
    cache_free(changed);
}

static void a_transplant_during_the_prompt_is_the_donors_run(void **state)
{
    (void)state;
    on_every_model(in_flight);
}

/* ---- positions ---- */

static void rerotate(struct oracle *o, const int *ids, int n)
{
    int layer, from = n / 3, to = n / 3 * 2, head = 0, same[LONGEST], E = o->info->head_dim, i;
    float *want = mem_array((size_t)o->info->n_kv_head * (size_t)E, sizeof *want),
          *got = mem_array((size_t)o->info->n_kv_head * (size_t)E, sizeof *got);
    struct edit ed = {EDIT_TRANSPLANT, CACHE_K, &layer, &head, &to, 1, 1, 1, NULL, &from, true};
    cache *c, *d;
    err e = {0};
    memcpy(same, ids, (size_t)n * sizeof *ids);
    same[to] = same[from];
    c = oracle_prefill(o->en, same, n);
    d = cache_fork(c);
    ed.donor = c;
    layer = 0; /* where a key depends on token and position alone */
    if (o->en->model.n_rot == 0) {
        assert_int_equal(cache_edit(d, &ed, &e), -1);
        assert_int_equal(e.code, ERR_INPUT);
        assert_string_equal(e.msg, "keys of learned positions cannot be re-rotated");
        assert_true(cache_shares(c, d, 0, to));
    } else {
        assert_int_equal(cache_edit(d, &ed, &e), 0);
        cache_read(c, 0, CACHE_K, to, 1, want);
        cache_read(d, 0, CACHE_K, to, 1, got);
        for (i = 0; i < E; i++) assert_float_equal(got[i], want[i], 1e-4f);
    }
    cache_free(c);
    cache_free(d);
    free(want);
    free(got);
}

static void keys_can_be_re_rotated_unless_positions_are_learned(void **state)
{
    (void)state;
    on_every_model(rerotate);
}

static void context(struct oracle *o, const int *ids, int n)
{
    int max = o->info->n_ctx_train, i;
    int *all = mem_array((size_t)max + 1, sizeof *all);
    cache *c = NULL;
    struct gen_row r = {.feed = ids, .n_feed = 1};
    err e = {0};
    (void)n;
    for (i = 0; i <= max; i++) all[i] = 3 + i % (o->info->n_vocab - 3);
    assert_int_equal(cache_new(&c, o->en, &e), 0);
    assert_int_equal(cache_feed(c, all, max + 1, NULL, &e), -1);
    assert_int_equal(e.code, ERR_INPUT);
    e = (err){0};
    if (cache_feed(c, all, max - 4, NULL, &e)) fail_msg("%s", e.msg);
    r.cache = c;
    decode(o->en, &r, 1);
    assert_int_equal(r.stop, GEN_STOP_CONTEXT);
    assert_int_equal(cache_len(c), max);
    row_clear(&r);
    free(all);
}

static void a_context_beyond_the_models_is_refused(void **state)
{
    (void)state;
    on_every_model(context);
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

/* ---- who sees an edit ---- */

/* All kv heads at one position of one layer. */
struct spot {
    int layer, at, heads[64];
    struct edit ed;
};

static const struct edit *spot(struct spot *s, const struct oracle *o, enum edit_op op, int tensors, int layer, int at)
{
    int i;
    s->layer = layer;
    s->at = at;
    for (i = 0; i < o->info->n_kv_head; i++) s->heads[i] = i;
    s->ed = (struct edit){.op = op,
                          .tensors = tensors,
                          .layers = &s->layer,
                          .heads = s->heads,
                          .at = &s->at,
                          .n_layers = 1,
                          .n_heads = o->info->n_kv_head,
                          .n_at = 1};
    return &s->ed;
}

/* Keys or values of positions first..first+n-1 of one layer. Caller frees. */
static float *vectors(const struct oracle *o, const cache *c, int layer, int tensor, int first, int n, size_t *count)
{
    float *x;
    *count = (size_t)o->info->n_kv_head * (size_t)n * (size_t)o->info->head_dim;
    x = mem_array(*count, sizeof *x);
    cache_read(c, layer, tensor, first, n, x);
    return x;
}

static bool same_vectors(const struct oracle *o, const cache *a, const cache *b, int layer, int tensor, int first, int n)
{
    size_t count;
    float *x = vectors(o, a, layer, tensor, first, n, &count), *y = vectors(o, b, layer, tensor, first, n, &count);
    bool same = memcmp(x, y, count * sizeof *x) == 0;
    free(x);
    free(y);
    return same;
}

static int seen_above; /* layers in which a next token's value changed */

/* Truths 7 and 8, with an edit of the last cached position, which every window shows to the next token. */
static void seen(struct oracle *o, const int *ids, int n)
{
    cache *base = oracle_prefill(o->en, ids, n - 1);
    int l, k, pos;
    err e = {0};
    for (l = 0; l < o->info->n_layer; l++) {
        struct spot s;
        cache *plain = cache_fork(base), *edited = cache_fork(base);
        if (cache_edit(edited, spot(&s, o, EDIT_ZERO, CACHE_V, l, n - 2), &e)) fail_msg("%s", e.msg);
        for (k = 0; k < o->info->n_layer; k++)
            for (pos = 0; pos < n - 1; pos++)
                if (cache_shares(base, edited, k, pos) == (k == l && pos / 64 == (n - 2) / 64))
                    fail_msg("%s: an edit of layer %d, page of position %d of layer %d", o->folder, l, pos, k);
        assert_int_equal(cache_feed(plain, ids + n - 1, 1, NULL, &e), 0);
        assert_int_equal(cache_feed(edited, ids + n - 1, 1, NULL, &e), 0);
        for (k = 0; k < o->info->n_layer; k++)
            if (same_vectors(o, plain, edited, k, CACHE_V, n - 1, 1))
                continue;
            else if (k > l)
                seen_above++;
            else
                fail_msg("%s: an edit of layer %d, the next token's value in layer %d", o->folder, l, k);
        cache_free(plain);
        cache_free(edited);
    }
    cache_free(base);
}

static void an_edit_is_seen_by_later_tokens_in_higher_layers_alone(void **state)
{
    (void)state;
    on_every_model(seen);
    assert_true(seen_above > folders.n); /* not each need be, where a sharp softmax leaves the position no weight */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_equals_recomputed),
        cmocka_unit_test(results_do_not_depend_on_how_the_prompt_is_cut_or_on_threads),
        cmocka_unit_test(a_row_does_not_depend_on_its_batch),
        cmocka_unit_test(same_bits_on_every_instruction_set_and_cache_type),
        cmocka_unit_test(noop_self_transplant_and_a_looking_tap_equal_baseline),
        cmocka_unit_test(transplant_to_the_end_is_the_donors_own_run),
        cmocka_unit_test(a_transplant_during_the_prompt_is_the_donors_run),
        cmocka_unit_test(an_edit_is_seen_by_later_tokens_in_higher_layers_alone),
        cmocka_unit_test(keys_can_be_re_rotated_unless_positions_are_learned),
        cmocka_unit_test(a_context_beyond_the_models_is_refused),
    };
    return cmocka_run_group_tests_name("arch_bits", tests, find_folders, free_folders);
}
