/* test_edit.c: changes of a finished cache, on every tiny architecture: each operation's own definition, and that what it does
 * not name keeps its bits. Comparisons with transformers are in test_edits.c. */
#include "oracle.h"

#include <math.h>

static struct oracle_list folders;

/* (G, n, E) of all held tokens; caller frees. */
static float *read_all(const struct oracle *o, const cache *c, int layer, int tensor)
{
    float *x = mem_array((size_t)o->info->n_kv_head * (size_t)cache_len(c) * (size_t)o->info->head_dim, sizeof *x);
    cache_read(c, layer, tensor, 0, cache_len(c), x);
    return x;
}

static bool same(const struct oracle *o, const cache *a, const cache *b)
{
    int l, t;
    size_t n = (size_t)o->info->n_kv_head * (size_t)cache_len(a) * (size_t)o->info->head_dim;
    bool all = cache_len(a) == cache_len(b);
    for (l = 0; all && l < o->info->n_layer; l++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            float *x = read_all(o, a, l, t), *y = read_all(o, b, l, t);
            if (memcmp(x, y, n * sizeof *x) != 0) all = false;
            free(x);
            free(y);
        }
    return all;
}

static void do_edit(const struct oracle *o, cache *c, const struct edit *ed)
{
    err e = {0};
    if (cache_edit(c, ed, &e)) fail_msg("%s: %s", o->folder, e.msg);
}

static struct gen_pick last_of(const struct oracle *o, cache *c, const int *ids, int n)
{
    struct gen_pick p = {0};
    err e = {0};
    if (cache_feed(c, ids, n, &p, &e)) fail_msg("%s: %s", o->folder, e.msg);
    return p;
}

/* ---- noise ---- */

static void noise_is_the_same_number_everywhere(void **state)
{
    double sum = 0, squares = 0;
    int i;
    (void)state;
    assert_true(edit_noise(0, 1, 0, 0, 0) == 0x1.f703f44b658d8p+0);
    assert_true(edit_noise(7, 2, 3, 70, 5) == 0x1.042343a41005cp-2);
    assert_true(edit_noise(12345678901234567890u, 8, -1, 149, 63) == 0x1.58a6ac8f42388p-2);
    assert_true(edit_noise(1, 64, 11, 4000, 511) == 0x1.1eae6ffc11b11p+0);
    for (i = 0; i < 100000; i++) {
        double x = edit_noise(3, 1, i % 7, i / 7, i % 64);
        sum += x;
        squares += x * x;
    }
    assert_true(fabs(sum / i) < 0.01 && fabs(squares / i - 1) < 0.015);
}

/* ---- each operation is what it says ---- */

/* What an element x becomes; index: of the vector of its position; g: of the group, for quantising. */
struct said {
    struct edit *ed;
    float least, step;
};

static float expected(const struct said *s, int tensor, int l, int i, int element, int width, float x)
{
    const struct edit *ed = s->ed;
    switch (ed->op) {
    case EDIT_ZERO: return 0;
    case EDIT_SCALE: return x * ed->by;
    case EDIT_ADD: return x + ed->by * ed->vector[l * width + element];
    case EDIT_MEAN: return ed->vector[l * width + element];
    case EDIT_NOISE: return x + (float)((double)ed->sigma * edit_noise(ed->seed, tensor, ed->layers[l], ed->at[i], element));
    case EDIT_TRANSPLANT: return ed->vector[(l * ed->n_at + i) * width + element];
    default: return x;
    }
}

static void check_written(const struct oracle *o, cache *base, struct edit *ed)
{
    cache *c = cache_fork(base);
    int l, t, g, p, e, G = o->info->n_kv_head, E = o->info->head_dim, n = cache_len(base), i;
    struct said s = {ed};
    do_edit(o, c, ed);
    for (l = 0; l < o->info->n_layer; l++) /* what is not named is not even copied */
        for (p = 0; p < n; p++) assert_int_equal(cache_shares(base, c, l, p), l >= ed->n_layers || p / 64 != ed->at[0] / 64);
    for (l = 0; l < o->info->n_layer; l++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            float *was = read_all(o, base, l, t), *is = read_all(o, c, l, t);
            for (g = 0; g < G; g++)
                for (p = 0; p < n; p++) {
                    size_t from = ((size_t)g * (size_t)n + (size_t)p) * (size_t)E;
                    for (i = 0; i < ed->n_at && ed->at[i] != p; i++) continue;
                    for (e = 0; e < E; e++) {
                        bool named = i < ed->n_at && l < ed->n_layers && g == ed->heads[0] && (ed->tensors & t);
                        float want =
                            named ? expected(&s, t, l, i, g * E + e, G * E, was[from + (size_t)e]) : was[from + (size_t)e];
                        if (memcmp(&want, &is[from + (size_t)e], sizeof want) != 0)
                            fail_msg("%s: op %d, layer %d, position %d: %g instead of %g", o->folder, (int)ed->op, l, p,
                                     (double)is[from + (size_t)e], (double)want);
                    }
                }
            free(was);
            free(is);
        }
    cache_free(c);
}

static void each_operation_is_its_definition(void **state)
{
    static const enum edit_op ops[] = {EDIT_NOOP, EDIT_ZERO, EDIT_SCALE, EDIT_ADD, EDIT_MEAN, EDIT_NOISE, EDIT_TRANSPLANT};
    int f, k, i;
    (void)state;
    for (f = 0; f < folders.n; f++) {
        struct oracle o;
        struct oracle_edit w;
        cache *base;
        float *vector;
        oracle_open(&o, folders.path[f]);
        base = oracle_prefill(o.en, o.prompt, o.n - 1);
        i = o.info->n_layer * o.n_at * o.info->n_kv_head * o.info->head_dim;
        vector = mem_array((size_t)i, sizeof *vector);
        for (; i > 0; i--) vector[i - 1] = (float)(i % 17) / 3 - 2;
        for (k = 0; k < (int)(sizeof ops / sizeof *ops); k++)
            for (i = CACHE_K; i <= CACHE_V; i++) {
                struct edit *ed = oracle_edit(&w, &o, ops[k], i);
                w.heads[0] = o.info->n_kv_head - 1;
                ed->n_heads = 1;
                ed->n_layers = 1 + k % o.info->n_layer;
                ed->by = -1.25f;
                ed->sigma = 0.3f;
                ed->seed = 11;
                ed->vector = vector;
                check_written(&o, base, ed);
            }
        free(vector);
        cache_free(base);
        oracle_close(&o);
    }
}

/* ---- quantise ---- */

/* Each element is within half a step of what it was and on a grid of 2^bits values that has both ends of its group. */
static void check_group(const float *was, const float *is, int n, int step, int bits)
{
    float least = was[0], most = was[0], s;
    int i;
    for (i = 1; i < n; i++) {
        if (was[i * step] < least) least = was[i * step];
        if (was[i * step] > most) most = was[i * step];
    }
    s = (most - least) / (float)((1 << bits) - 1);
    for (i = 0; i < n; i++) {
        float k = s > 0 ? (is[i * step] - least) / s : 0;
        assert_true(fabsf(was[i * step] - is[i * step]) <= s * 0.5001f + 1e-6f * (fabsf(least) + fabsf(most)));
        assert_true(fabsf(k - roundf(k)) < 1e-3f);
        if (was[i * step] == least) assert_true(is[i * step] == least);
    }
}

static void quantising_moves_by_half_a_step_at_most(void **state)
{
    int f, bits, l, g, p, e;
    (void)state;
    for (f = 0; f < folders.n; f++) {
        struct oracle o;
        struct oracle_edit w;
        cache *base;
        oracle_open(&o, folders.path[f]);
        base = oracle_prefill(o.en, o.prompt, o.n - 1);
        for (bits = 2; bits <= 8; bits += 2)
            for (l = 0; l < 2; l++) {
                struct edit *ed = oracle_edit(&w, &o, EDIT_QUANTISE, l ? CACHE_K : CACHE_V);
                cache *c = cache_fork(base);
                int all[ORACLE_TOKENS], n = cache_len(c), E = o.info->head_dim;
                float *was, *is;
                for (p = 0; p < n; p++) all[p] = p;
                ed->at = all;
                ed->n_at = n;
                ed->bits = bits;
                ed->per_channel = l;
                do_edit(&o, c, ed);
                was = read_all(&o, base, 1, ed->tensors);
                is = read_all(&o, c, 1, ed->tensors);
                for (g = 0; g < o.info->n_kv_head; g++) {
                    for (p = 0; !l && p < n; p++) check_group(was + (g * n + p) * E, is + (g * n + p) * E, E, 1, bits);
                    for (e = 0; l && e < E; e++) check_group(was + g * n * E + e, is + g * n * E + e, n, E, bits);
                }
                free(was);
                free(is);
                cache_free(c);
            }
        cache_free(base);
        oracle_close(&o);
    }
}

/* ---- swap ---- */

static void a_swap_is_two_transplants_and_twice_is_nothing(void **state)
{
    int f, i;
    (void)state;
    for (f = 0; f < folders.n; f++) {
        struct oracle o;
        struct oracle_edit w;
        struct edit *ed;
        cache *base, *a, *b;
        int one[2] = {1, 2}, other[2] = {0, 9}, rotary;
        oracle_open(&o, folders.path[f]);
        base = oracle_prefill(o.en, o.prompt, o.n - 1);
        other[0] = cache_len(base) - 1;
        rotary = o.en->model.n_rot > 0;
        for (i = 0; i <= rotary; i++) {
            a = cache_fork(base);
            b = cache_fork(base);
            ed = oracle_edit(&w, &o, EDIT_SWAP, CACHE_K | CACHE_V);
            ed->at = one;
            ed->donor_at = other;
            ed->n_at = 2;
            ed->rerotate = i;
            do_edit(&o, a, ed);
            ed->op = EDIT_TRANSPLANT;
            ed->donor = base;
            do_edit(&o, b, ed);
            ed->at = other;
            ed->donor_at = one;
            do_edit(&o, b, ed);
            assert_true(same(&o, a, b));
            assert_false(same(&o, a, base));
            ed->op = EDIT_SWAP;
            ed->donor = NULL;
            do_edit(&o, a, ed);
            if (!i) assert_true(same(&o, a, base));
            cache_free(a);
            cache_free(b);
        }
        cache_free(base);
        oracle_close(&o);
    }
}

/* ---- evict ---- */

static void an_evict_that_keeps_holes_is_a_mask(void **state)
{
    int f;
    (void)state;
    for (f = 0; f < folders.n; f++) {
        struct oracle o;
        struct oracle_edit w;
        cache *base, *a, *b;
        struct gen_pick p, q;
        oracle_open(&o, folders.path[f]);
        base = oracle_prefill(o.en, o.prompt, o.n - 1);
        a = cache_fork(base);
        b = cache_fork(base);
        do_edit(&o, a, oracle_edit(&w, &o, EDIT_MASK, 0));
        do_edit(&o, b, oracle_edit(&w, &o, EDIT_EVICT, 0));
        assert_int_equal(cache_len(b), o.n - 1);
        p = last_of(&o, a, o.prompt + o.n - 1, 1);
        q = last_of(&o, b, o.prompt + o.n - 1, 1);
        assert_memory_equal(&p, &q, sizeof p);
        do_edit(&o, a, oracle_edit(&w, &o, EDIT_ZERO, CACHE_K | CACHE_V));
        assert_true(same(&o, a, b));
        cache_free(base);
        cache_free(a);
        cache_free(b);
        oracle_close(&o);
    }
}

/* The tokens behind keep their values, and keys of layer 0 are those of the prompt without what left: they depend on token and
   position alone. Over a border of pages, too. */
static void check_closed_up(const struct oracle *o, const int *ids, int n, const int *at, int n_at)
{
    struct oracle_edit w;
    cache *base = oracle_prefill(o->en, ids, n), *c = cache_fork(base), *without;
    struct edit *ed = oracle_edit(&w, o, EDIT_EVICT, 0);
    int kept[ORACLE_TOKENS], keep[ORACLE_TOKENS], m = 0, i, l, g, e, G = o->info->n_kv_head, E = o->info->head_dim;
    float largest;
    struct gen_pick p;
    for (i = 0; i < n; i++) {
        for (l = 0; l < n_at && at[l] != i; l++) continue;
        if (l < n_at) continue;
        keep[m] = i;
        kept[m++] = ids[i];
    }
    without = oracle_prefill(o->en, kept, m);
    ed->at = at;
    ed->n_at = n_at;
    ed->compact = true;
    do_edit(o, c, ed);
    assert_int_equal(cache_len(c), m);
    for (l = 0; l < o->info->n_layer; l++) {
        float *k = read_all(o, c, l, CACHE_K), *v = read_all(o, c, l, CACHE_V), *old = read_all(o, base, l, CACHE_V),
              *want = read_all(o, without, l, CACHE_K);
        for (i = 0, largest = 1; i < G * m * E; i++) largest = fmaxf(largest, fabsf(want[i]));
        for (g = 0; g < G; g++)
            for (i = 0; i < m; i++) {
                assert_memory_equal(v + (g * m + i) * E, old + (g * n + keep[i]) * E, (size_t)E * sizeof *v);
                for (e = 0; l == 0 && e < E; e++)
                    if (fabsf(k[(g * m + i) * E + e] - want[(g * m + i) * E + e]) >
                        2e-5f * largest) /* angles are rounded to f32 */
                        fail_msg("%s: position %d: key %g, without %g", o->folder, i, (double)k[(g * m + i) * E + e],
                                 (double)want[(g * m + i) * E + e]);
            }
        free(k);
        free(v);
        free(old);
        free(want);
        assert_int_equal(cache_shares(base, c, l, 0), at[0] >= PAGE_TOKENS);
    }
    p = last_of(o, c, ids, 1);
    assert_true(p.token >= 0);
    cache_free(base);
    cache_free(c);
    cache_free(without);
}

static void an_evict_that_closes_up_turns_keys_back(void **state)
{
    static const int late[] = {66, 67, 90};
    int f, i;
    (void)state;
    for (f = 0; f < folders.n; f++) {
        struct oracle o;
        int ids[140];
        oracle_open(&o, folders.path[f]);
        for (i = 0; i < 140; i++) ids[i] = 3 + (i * 37 + i * i * 11) % (o.info->n_vocab - 3);
        if (o.en->model.n_rot > 0) {
            check_closed_up(&o, o.prompt, o.n, o.at, o.n_at);
            check_closed_up(&o, ids, 140, o.at, o.n_at);
            check_closed_up(&o, ids, 140, late, 3);
        }
        oracle_close(&o);
    }
}

/* ---- what makes no sense ---- */

static void refused(const struct oracle *o, cache *c, const struct edit *ed, const char *why)
{
    cache *before = cache_fork(c);
    err e = {0};
    assert_int_equal(cache_edit(c, ed, &e), -1);
    assert_int_equal(e.code, ERR_INPUT);
    if (!strstr(e.msg, why)) fail_msg("%s: '%s' does not say '%s'", o->folder, e.msg, why);
    assert_true(cache_len(c) == cache_len(before) && cache_shares(c, before, 0, 0));
    cache_free(before);
}

static void nonsense_is_refused_with_what_is_sensible(void **state)
{
    int f, twice[2] = {3, 3}, apart[2] = {4, 5};
    float v[4] = {0};
    (void)state;
    for (f = 0; f < folders.n; f++) {
        struct oracle o;
        struct oracle_edit w;
        struct edit *ed;
        cache *c, *d;
        oracle_open(&o, folders.path[f]);
        c = oracle_prefill(o.en, o.prompt, o.n - 1);
        d = oracle_prefill(o.en, o.prompt, o.n - 1);
        refused(&o, c, oracle_edit(&w, &o, EDIT_KNOCKOUT, 0), "mask");
        refused(&o, c, oracle_edit(&w, &o, EDIT_ZERO, SITE_RESID), "it holds k and v");
        refused(&o, c, oracle_edit(&w, &o, EDIT_ZERO, 0), "it holds k and v");
        refused(&o, c, oracle_edit(&w, &o, EDIT_MEAN, CACHE_K), "needs a vector");
        ed = oracle_edit(&w, &o, EDIT_MEAN, CACHE_K | CACHE_V);
        ed->vector = v;
        refused(&o, c, ed, "one edit for each");
        ed = oracle_edit(&w, &o, EDIT_NOISE, CACHE_K);
        ed->sigma = NAN;
        refused(&o, c, ed, "finite");
        refused(&o, c, oracle_edit(&w, &o, EDIT_QUANTISE, CACHE_K), "2 to 8 bits");
        refused(&o, c, oracle_edit(&w, &o, EDIT_TRANSPLANT, CACHE_K), "needs a donor");
        ed = oracle_edit(&w, &o, EDIT_TRANSPLANT, CACHE_K | CACHE_V);
        ed->vector = v;
        refused(&o, c, ed, "two of k and v");
        ed = oracle_edit(&w, &o, EDIT_SWAP, CACHE_K);
        ed->at = ed->donor_at = apart;
        ed->n_at = 2;
        refused(&o, c, ed, "twice");
        ed->at = twice;
        refused(&o, c, ed, "twice");
        ed->donor = d;
        refused(&o, c, ed, "transplant");
        ed = oracle_edit(&w, &o, EDIT_EVICT, 0);
        ed->compact = true;
        ed->n_layers--;
        refused(&o, c, ed, o.en->model.n_rot ? "all layers and all heads" : "learned");
        ed->n_layers++;
        if (!o.en->model.n_rot) refused(&o, c, ed, "learned");
        cache_free(c);
        cache_free(d);
        oracle_close(&o);
    }
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
        cmocka_unit_test(noise_is_the_same_number_everywhere),
        cmocka_unit_test(each_operation_is_its_definition),
        cmocka_unit_test(quantising_moves_by_half_a_step_at_most),
        cmocka_unit_test(a_swap_is_two_transplants_and_twice_is_nothing),
        cmocka_unit_test(an_evict_that_keeps_holes_is_a_mask),
        cmocka_unit_test(an_evict_that_closes_up_turns_keys_back),
        cmocka_unit_test(nonsense_is_refused_with_what_is_sensible),
    };
    return cmocka_run_group_tests_name("edit", tests, find_folders, free_folders);
}
