/* test_feed.c: many caches fed at once. Whatever the company, the order, the threads, the instruction set and the cut into
 * passes, each has the bits it has alone; and computing anew from a layer on is computing all anew. */
#include "truths.h"

static struct oracle_list folders;

/* ---- from a layer on ---- */

enum { LONG = 100 };

/* A long prompt, so that pages in front of what is computed anew can stay shared. */
static void lengthen(struct oracle *o)
{
    int i;
    for (i = o->n; i < LONG && i < o->en->model.n_ctx - 8; i++)
        o->prompt[i] = 3 + (i * 37 + i * i * 11) % (o->info->n_vocab - 3);
    o->n = i > o->n ? i : o->n;
}

static float *residuals(struct oracle *o, int layer, int first, int n)
{
    struct lists w;
    struct edit ed = at_all(&w, o, EDIT_NOOP, SITE_RESID, first, n);
    float *out = mem_array((size_t)n * (size_t)o->info->n_embd, sizeof *out);
    struct record rec = {SITE_RESID, &layer, ed.at, 1, n, 0, out};
    cache *c = NULL;
    err e = {0};
    assert_int_equal(cache_new(&c, o->en, &e), 0);
    if (cache_feed_watched(c, o->prompt, o->n, &(struct watch){NULL, &rec, 0, 1}, NULL, &e)) fail_msg("%s", e.msg);
    cache_free(c);
    return out;
}

static void assert_shared(const struct oracle *o, const cache *a, const cache *b, int layer, int first)
{
    int l, p;
    for (l = 0; l < o->info->n_layer; l++)
        for (p = 0; p < o->n; p++)
            assert_int_equal(cache_shares(a, b, l, p), l < layer || p / PAGE_TOKENS < first / PAGE_TOKENS);
}

/* Unedited, and with the residual at `first` patched: given as what enters, edited there, or edited in a pass over all. */
static void anew(struct oracle *o, cache *base, const struct gen_pick *plain, int first, int layer)
{
    int n = o->n - first, D = o->info->n_embd, at = first, below = layer - 1, e;
    float *x = layer ? residuals(o, layer - 1, first, n) : NULL, *patch = mem_array((size_t)D, sizeof *patch);
    struct edit ed = {
        .op = EDIT_TRANSPLANT, .tensors = SITE_RESID, .layers = &below, .at = &at, .n_layers = 1, .n_at = 1, .vector = patch};
    struct watch watch = {&ed, NULL, 1, 0};
    struct gen_pick last;
    cache *full = NULL;
    int k;
    err why = {0};
    for (e = 0; e < D; e++) patch[e] = (float)(e % 7) - 3;
    assert_int_equal(cache_new(&full, o->en, &why), 0);
    if (cache_feed_watched(full, o->prompt, o->n, &watch, &last, &why)) fail_msg("%s", why.msg);
    for (k = 0; k < 3; k++) {
        cache *c = cache_fork(base);
        struct feed f = {.cache = c, .tokens = o->prompt + first, .n = n, .first = first, .layer = layer, .resid = x};
        if (k == 1 || (k == 2 && layer == 0)) f.watch = &watch;
        if (k == 2 && layer > 0) memcpy(x, patch, (size_t)D * sizeof *x);
        f.want_last = true;
        assert_int_equal(cache_feed_all(o->en, &f, 1, &why), 0);
        if (f.error.code) fail_msg("%s: %s", o->folder, f.error.msg);
        assert_same_cache_of(o, c, k ? full : base);
        assert_memory_equal(&f.last, k ? &last : plain, sizeof last);
        assert_shared(o, c, base, layer, first);
        cache_free(c);
    }
    cache_free(full);
    free(patch);
    free(x);
}

static void computing_from_a_layer_on_is_computing_all_anew(void **state)
{
    int i, l;
    (void)state;
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        cache *base = NULL;
        struct gen_pick plain;
        err e = {0};
        oracle_open(&o, folders.path[i]);
        lengthen(&o);
        assert_int_equal(cache_new(&base, o.en, &e), 0);
        assert_int_equal(cache_feed(base, o.prompt, o.n, &plain, &e), 0);
        for (l = 0; l < o.info->n_layer; l++) {
            anew(&o, base, &plain, 1, l);
            anew(&o, base, &plain, o.n - 1, l);
            anew(&o, base, &plain, o.n > PAGE_TOKENS ? PAGE_TOKENS : 3, l);
        }
        cache_free(base);
        oracle_close(&o);
    }
}

/* A position that was hidden is seen again once it is computed anew. */
static void what_is_computed_anew_is_not_hidden(void **state)
{
    struct oracle o;
    struct lists w;
    struct edit ed;
    struct gen_pick plain;
    struct feed f;
    cache *c = NULL, *copy;
    err e = {0};
    (void)state;
    oracle_open(&o, folders.path[0]);
    assert_int_equal(cache_new(&c, o.en, &e), 0);
    assert_int_equal(cache_feed(c, o.prompt, o.n, &plain, &e), 0);
    copy = cache_fork(c);
    ed = at_all(&w, &o, EDIT_EVICT, 0, 4, 3);
    edit_or_fail(&o, c, &ed);
    f = (struct feed){.cache = c, .tokens = o.prompt + 4, .n = o.n - 4, .first = 4, .want_last = true};
    assert_int_equal(cache_feed_all(o.en, &f, 1, &e), 0);
    assert_int_equal(f.error.code, 0);
    assert_memory_equal(&f.last, &plain, sizeof plain);
    assert_same_cache_of(&o, c, copy);
    cache_free(c);
    cache_free(copy);
    oracle_close(&o);
}

/* ---- jobs in company ---- */

enum { JOBS = 40, NEW = 5, REC = 4096 };

/* A job: a cache with part of the prompt, edited, a watch, changes between steps; everything that it needs is in here. */
struct job {
    struct lists w[3];
    struct edit edits[3];
    struct record records[3];
    struct watch watch;
    struct step_edit step;
    float vector[8192], out[3][REC * 8];
    int fed, first, layer, one[1], late[2], zero;
    float *resid;
    cache *cache;
    struct gen_row row;
};

struct crowd {
    struct oracle *o;
    cache *base, *donor;
    float *resid[64]; /* of each layer, all positions */
};

static void crowd_make(struct crowd *c, struct oracle *o)
{
    int l;
    *c = (struct crowd){o, oracle_prefill(o->en, o->prompt, o->n), oracle_prefill(o->en, o->donor, o->n)};
    for (l = 0; l < o->info->n_layer; l++) c->resid[l] = residuals(o, l, 0, o->n);
}

static void crowd_free(struct crowd *c)
{
    int l;
    cache_free(c->base);
    cache_free(c->donor);
    for (l = 0; l < 64; l++) free(c->resid[l]);
}

/* The k-th job: operations, sites, layers, positions and lengths go round. */
static void job_make(struct job *j, const struct crowd *w, int k)
{
    static const enum edit_op ops[] = {EDIT_ZERO, EDIT_KNOCKOUT, EDIT_MASK,     EDIT_ADD,   EDIT_TRANSPLANT, EDIT_EVICT,
                                       EDIT_MEAN, EDIT_NOISE,    EDIT_QUANTISE, EDIT_SCALE, EDIT_NOOP};
    struct oracle *o = w->o;
    int site = CACHE_K << k % 7, L = o->info->n_layer, i;
    struct edit *ed;
    err e = {0};
    memset(j, 0, sizeof *j);
    for (i = 0; i < 8192; i++) j->vector[i] = (float)((i * (k + 3)) % 29) / 9 - 1.5f;
    j->fed = o->n - k % 4;
    ed = &j->edits[0];
    *ed = at_all(&j->w[0], o, ops[k % 11], site, k % (o->n - 2), 1 + k % 2);
    ed->by = 0.5f;
    ed->sigma = 0.4f;
    ed->seed = (uint64_t)k;
    ed->bits = 3 + k % 4;
    ed->vector = j->vector;
    ed->compact = ed->op == EDIT_EVICT && k % 2;
    if (ed->op == EDIT_TRANSPLANT && site <= CACHE_V) ed->donor = w->donor;
    j->watch = (struct watch){j->edits, j->records, k % 5 ? 1 : 0, k % 3 ? 0 : 3};
    j->one[0] = L - 1;
    j->records[0] = (struct record){k % 2 ? SITE_RESID : SITE_HEAD_OUT, j->one, j->w[0].at, 1, 2, 0, j->out[0]};
    j->records[1] = (struct record){SITE_RECEIVED, j->one, NULL, 1, 0, o->n, j->out[1]};
    j->late[0] = o->n - 1;
    j->late[1] = o->n + k % 3; /* of the prompt, and of new tokens */
    j->records[2] = (struct record){SITE_LOGITS, &j->zero, j->late, 1, 2, 0, j->out[2]};
    if (k % 3 == 1) { /* anew from a layer on */
        j->layer = ed->op == EDIT_EVICT && ed->compact ? 0 : k % L;
        j->fed = o->n;
        j->first = 1 + k % (o->n - 1);
        if (ed->n_layers > j->layer) {
            ed->layers += j->layer;
            ed->n_layers -= j->layer;
        }
        if (j->layer) j->resid = w->resid[j->layer - 1] + (size_t)j->first * (size_t)o->info->n_embd;
        j->cache = cache_fork(w->base);
    } else {
        j->first = k % (j->fed - 1);
        assert_int_equal(cache_fork_at(&j->cache, w->base, j->first, &e), 0);
    }
    j->step = (struct step_edit){k % 2, NEW - 1, at_all(&j->w[1], o, k % 2 ? EDIT_NOISE : EDIT_MASK, CACHE_K | CACHE_V, 2, 2)};
    j->step.edit.sigma = 0.2f;
    j->step.edit.compact = k % 8 == 1;
    j->row = (struct gen_row){.cache = j->cache, .watch = &j->watch, .steps = &j->step, .n_steps = k % 4 == 1};
}

static struct feed feed_of(const struct crowd *w, const struct job *j)
{
    return (struct feed){.cache = j->cache,
                         .tokens = w->o->prompt + j->first,
                         .n = j->fed - j->first,
                         .first = j->first,
                         .layer = j->layer,
                         .resid = j->resid,
                         .watch = &j->watch,
                         .want_last = true};
}

/* All jobs, in groups of `group`, in an order that `stride` gives. */
static void run_jobs(const struct crowd *w, struct job **jobs, int group, int stride)
{
    struct feed feeds[JOBS];
    struct gen_row rows[JOBS];
    int i, k;
    err e = {0};
    for (i = 0; i < JOBS; i++) job_make(jobs[i], w, i);
    for (i = 0; i < JOBS; i += group) {
        int n = JOBS - i < group ? JOBS - i : group;
        for (k = 0; k < n; k++) feeds[k] = feed_of(w, jobs[(i + k) * stride % JOBS]);
        if (cache_feed_all(w->o->en, feeds, n, &e)) fail_msg("%s", e.msg);
        for (k = 0; k < n; k++) {
            struct job *j = jobs[(i + k) * stride % JOBS];
            if (feeds[k].error.code) fail_msg("%s: job %d: %s", w->o->folder, (i + k) * stride % JOBS, feeds[k].error.msg);
            j->row.first = feeds[k].last;
            rows[k] = j->row;
        }
        if (generate(w->o->en, rows, n, &(struct gen_opts){.max_tokens = NEW}, &e)) fail_msg("%s", e.msg);
        for (k = 0; k < n; k++) {
            if (rows[k].error.code) fail_msg("%s: %s", w->o->folder, rows[k].error.msg);
            jobs[(i + k) * stride % JOBS]->row = rows[k];
        }
    }
}

static void compare_jobs(const struct oracle *o, struct job **a, struct job **b)
{
    int i;
    for (i = 0; i < JOBS; i++) {
        struct run x = {a[i]->row}, y = {b[i]->row};
        assert_same_run(o, &x, &y);
        if (memcmp(a[i]->out, b[i]->out, sizeof a[i]->out) != 0) fail_msg("%s: job %d: records differ", o->folder, i);
    }
}

static void free_jobs(struct job **jobs)
{
    int i;
    for (i = 0; i < JOBS; i++) {
        cache_free(jobs[i]->cache);
        gen_row_clear(&jobs[i]->row);
    }
}

static void each_job_has_the_bits_it_has_alone(void **state)
{
    static const struct {
        int group, stride, threads, rows;
        const char *isa;
    } ways[] = {{JOBS, 1, 2, 256, NULL}, {JOBS, 7, 1, 64, NULL}, {7, 3, 2, 11, "avx2"}, {JOBS, 13, 2, 33, "scalar"}};
    struct job *alone[JOBS], *together[JOBS];
    int i, k;
    (void)state;
    for (i = 0; i < JOBS; i++) {
        alone[i] = mem_alloc(sizeof **alone);
        together[i] = mem_alloc(sizeof **together);
    }
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        struct crowd w;
        enum kv_type kv = (enum kv_type)(i % 3);
        oracle_open(&o, folders.path[i]);
        if (o.n > 60) o.n = 60;
        engine_free(o.en);
        o.en = oracle_engine(o.folder, (struct engine_opts){.threads = 1, .kv = kv});
        o.info = engine_info(o.en);
        crowd_make(&w, &o);
        run_jobs(&w, alone, 1, 1);
        for (k = 0; k < (int)(sizeof ways / sizeof *ways); k++) {
            struct engine_opts opts = {.threads = ways[k].threads, .max_rows = ways[k].rows, .isa = ways[k].isa, .kv = kv};
            struct oracle other = o;
            struct crowd v;
            if (ways[k].isa && strcmp(ways[k].isa, "avx2") == 0 && !kernels_cpu(KERNELS_AVX2)) {
                printf("avx2: skipped, this processor lacks it\n");
                continue;
            }
            other.en = oracle_engine(o.folder, opts);
            other.info = engine_info(other.en);
            crowd_make(&v, &other);
            run_jobs(&v, together, ways[k].group, ways[k].stride);
            compare_jobs(&o, alone, together);
            free_jobs(together);
            crowd_free(&v);
            engine_free(other.en);
        }
        free_jobs(alone);
        crowd_free(&w);
        oracle_close(&o);
    }
    for (i = 0; i < JOBS; i++) {
        free(alone[i]);
        free(together[i]);
    }
}

/* ---- what fails, fails alone ---- */

static void a_feed_that_fails_fails_alone(void **state)
{
    struct oracle o;
    struct lists w;
    struct edit bad, low;
    struct watch refused, too_low;
    cache *c[9], *whole;
    float x[4096] = {0};
    struct gen_pick want;
    struct feed f[10];
    int id, i;
    err e = {0};
    (void)state;
    oracle_open(&o, folders.path[0]);
    id = o.info->n_vocab;
    bad = at_all(&w, &o, EDIT_SWAP, CACHE_K, 0, 1);
    low = at_all(&w, &o, EDIT_ZERO, CACHE_K, o.n - 1, 1);
    refused = (struct watch){&bad, NULL, 1, 0};
    too_low = (struct watch){&low, NULL, 1, 0};
    whole = oracle_prefill(o.en, o.prompt, o.n - 1);
    assert_int_equal(cache_feed(whole, o.prompt + o.n - 1, 1, &want, &e), 0);
    for (i = 0; i < 9; i++) {
        c[i] = oracle_prefill(o.en, o.prompt, o.n - 1);
        f[i] = (struct feed){.cache = c[i], .tokens = o.prompt + o.n - 1, .n = 1, .first = o.n - 1, .want_last = true};
    }
    f[1].tokens = &id;
    f[2].watch = &refused;
    f[3].first = o.n;
    f[4].layer = 1;
    f[5].first = 2; /* does not go to the end */
    f[6].first = o.n - 2;
    f[6].layer = 1;
    f[6].resid = x;
    f[6].watch = &too_low; /* nothing to complain: it edits a position that is not fed */
    f[7].first = o.n - 2;
    f[7].layer = 1; /* without what enters it */
    f[9] = f[8];    /* twice */
    if (cache_feed_all(o.en, f, 10, &e)) fail_msg("%s", e.msg);
    for (i = 0; i < 10; i++) assert_int_equal(f[i].error.code != 0, i != 0 && i != 6 && i != 8);
    assert_memory_equal(&f[0].last, &want, sizeof want);
    assert_memory_equal(&f[8].last, &want, sizeof want);
    assert_same_cache_of(&o, c[0], whole);
    w.at[0] = o.n - 2;
    f[6].error = (err){0};
    assert_int_equal(cache_feed_all(o.en, &f[6], 1, &e), 0);
    assert_non_null(strstr(f[6].error.msg, "begins at layer 1"));
    for (i = 0; i < 9; i++) cache_free(c[i]);
    cache_free(whole);
    oracle_close(&o);
}

static void a_row_that_fails_fails_alone(void **state)
{
    struct oracle o;
    struct lists w, v;
    struct step_edit far, from;
    struct edit donor;
    struct watch watch;
    struct gen_row r[5], want;
    cache *c;
    int i;
    err e = {0};
    (void)state;
    oracle_open(&o, folders.path[0]);
    c = oracle_prefill(o.en, o.prompt, o.n - 1);
    want = (struct gen_row){.cache = cache_fork(c), .feed = o.prompt + o.n - 1, .n_feed = 1};
    for (i = 0; i < 5; i++) {
        r[i] = want;
        r[i].cache = cache_fork(c);
    }
    far = (struct step_edit){2, 2, at_all(&w, &o, EDIT_ZERO, CACHE_K, o.n + 3, 1)}; /* not held yet */
    from = (struct step_edit){1, 1, at_all(&v, &o, EDIT_TRANSPLANT, CACHE_K, 0, 1)};
    from.edit.donor = r[0].cache; /* moves on while the call runs */
    donor = from.edit;
    watch = (struct watch){&donor, NULL, 1, 0};
    r[1].steps = &far;
    r[1].n_steps = 1;
    r[2].steps = &from;
    r[2].n_steps = 1;
    r[3].watch = &watch;
    assert_int_equal(generate(o.en, r, 5, &(struct gen_opts){.max_tokens = NEW}, &e), 0);
    assert_int_equal(generate(o.en, &want, 1, &(struct gen_opts){.max_tokens = NEW}, &e), 0);
    for (i = 0; i < 5; i++) {
        struct run x = {r[i]}, y = {want};
        assert_int_equal(r[i].stop == GEN_STOP_FAILED, i >= 1 && i <= 3);
        assert_int_equal(r[i].error.code != 0, i >= 1 && i <= 3);
        if (i == 0 || i == 4) assert_same_run(&o, &x, &y);
    }
    assert_non_null(strstr(r[1].error.msg, "step 2"));
    assert_int_equal(r[1].n, 3);
    assert_non_null(strstr(r[2].error.msg, "fork"));
    for (i = 0; i < 5; i++) {
        cache_free(r[i].cache);
        gen_row_clear(&r[i]);
    }
    cache_free(want.cache);
    gen_row_clear(&want);
    cache_free(c);
    oracle_close(&o);
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
        cmocka_unit_test(computing_from_a_layer_on_is_computing_all_anew),
        cmocka_unit_test(what_is_computed_anew_is_not_hidden),
        cmocka_unit_test(each_job_has_the_bits_it_has_alone),
        cmocka_unit_test(a_feed_that_fails_fails_alone),
        cmocka_unit_test(a_row_that_fails_fails_alone),
    };
    return cmocka_run_group_tests_name("feed", tests, find_folders, free_folders);
}
