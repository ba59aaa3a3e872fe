/* test_edit_rows.c: edits of many rows in memory that the host cannot touch (tests/plugin/fake_cuda.c; the environment variable
 * PLUGINS names the folder it is in): the bits of the CPU in few operations, and what fails. What the operations mean is in
 * test_edit.c. */
#include "../../engine/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { N = 800, L = 3, G = 2, E = 32 }; /* of the shape "tiny": 9600 rows, more than a scratch block of f32 holds */

static engine *cpu, *far_away;
static char log_path[] = "/tmp/kvrun-edit-rows-XXXXXX";
static int layers[L] = {0, 1, 2}, heads[G] = {0, 1}, at[N], from[N];
static float vectors[L * N * G * E];

/* ---- two engines ---- */

static engine *opened(const char *backend, enum kv_type kv)
{
    engine *en = NULL;
    err e = {0};
    if (engine_open(&en,
                    &(struct engine_opts){.backend = backend,
                                          .threads = 1,
                                          .max_rows = 8,
                                          .kv = kv,
                                          .shape = engine_shape_named("tiny"),
                                          .shape_weights = "q4_1"},
                    &e))
        fail_msg("%s", e.msg);
    return en;
}

static int use(enum kv_type kv)
{
    engine_free(cpu);
    engine_free(far_away);
    cpu = opened("cpu", kv);
    far_away = opened("cuda", kv);
    return 0;
}

static int begin(void **state)
{
    const char *folder = getenv("PLUGINS");
    char path[512];
    int i, f = mkstemp(log_path);
    (void)state;
    if (f < 0) return -1;
    close(f);
    snprintf(path, sizeof path, "%s/fake", folder ? folder : "build/plugins");
    setenv("KVRUN_PLUGINS", path, 1);
    for (i = 0; i < N; i++) {
        at[i] = i;
        from[i] = (i * 7 + 3) % N;
    }
    for (i = 0; i < L * N * G * E; i++) vectors[i] = (float)(i % 1013) / 99 - 4;
    return 0;
}

static int end(void **state)
{
    (void)state;
    engine_free(cpu);
    engine_free(far_away);
    unlink(log_path);
    return 0;
}

/* Made-up values: nothing is computed. */
static cache *filled(engine *en, unsigned seed)
{
    size_t n = 2 * cache_page_elements(en), i;
    float *x = mem_array(n, sizeof *x);
    char *raw = mem_array(n, sizeof *x);
    cache *c = NULL;
    err e = {0};
    int l, p;
    if (cache_new(&c, en, &e) || cache_reserve(c, N, &e)) fail_msg("%s", e.msg);
    for (l = 0; l < L; l++)
        for (p = 0; p < c->n_pages; p++) {
            for (i = 0; i < n; i++) {
                seed = seed * 1664525u + 1013904223u;
                x[i] = p * PAGE_TOKENS + (int)(i / E % PAGE_TOKENS) < N ? (float)(seed >> 8) / (1 << 20) - 8 : 0;
            }
            kernels_narrow(raw, en->attn.kv_type, x, n);
            en->k->put(c->pages[l][p]->k, raw, n * (size_t)dtype_block_bytes(en->attn.kv_type));
        }
    c->n = N;
    free(x);
    free(raw);
    return c;
}

static void assert_same(const cache *a, const cache *b)
{
    static float x[G * N * E], y[G * N * E]; /* large enough for each type */
    int l, t;
    assert_int_equal(cache_len(a), cache_len(b));
    for (l = 0; l < L; l++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            memset(x, 0, sizeof x);
            memset(y, 0, sizeof y);
            cache_read(a, l, t, 0, cache_len(a), x);
            cache_read(b, l, t, 0, cache_len(b), y);
            assert_memory_equal(x, y, sizeof x);
        }
}

static struct edit everywhere(enum edit_op op)
{
    return (struct edit){.op = op,
                         .tensors = CACHE_K | CACHE_V,
                         .layers = layers,
                         .heads = heads,
                         .at = at,
                         .donor_at = from,
                         .n_layers = L,
                         .n_heads = G,
                         .n_at = N,
                         .by = 1.25f,
                         .sigma = 0.3f,
                         .seed = 11,
                         .bits = 4};
}

static void do_edit(cache *c, const struct edit *ed)
{
    err e = {0};
    if (cache_edit(c, ed, &e)) fail_msg("op %d: %s", (int)ed->op, e.msg);
}

/* ---- many rows, few operations ---- */

struct count {
    int get, put, move_rows;
};

static struct count counted(void)
{
    struct count n = {0, 0, 0};
    char line[64];
    FILE *f = fopen(log_path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        n.get += !strcmp(line, "get");
        n.put += !strcmp(line, "put");
        n.move_rows += !strcmp(line, "move_rows");
    }
    fclose(f);
    return n;
}

/* The same edit on both engines; `donor`: 1 another cache, 2 the cache itself. */
static void check(struct edit ed, int donor, int get, int move_rows)
{
    engine *const en[2] = {cpu, far_away};
    cache *c[2], *d[2];
    struct count n;
    int i;
    for (i = 0; i < 2; i++) {
        cache *whole = filled(en[i], 1);
        c[i] = cache_fork(whole); /* pages are copied first */
        cache_free(whole);
        d[i] = filled(en[i], 2);
        ed.donor = donor == 1 ? d[i] : donor ? c[i] : NULL;
        assert_int_equal(truncate(log_path, 0), 0);
        setenv("KVRUN_FAKE_LOG", log_path, 1);
        do_edit(c[i], &ed);
        unsetenv("KVRUN_FAKE_LOG");
    }
    assert_same(c[0], c[1]);
    n = counted();
    if (n.get != get || n.put != get || n.move_rows != move_rows)
        fail_msg("op %d: %d get, %d put, %d move_rows; %d, %d, %d were enough", (int)ed.op, n.get, n.put, n.move_rows, get, get,
                 move_rows);
    for (i = 0; i < 2; i++) {
        cache_free(c[i]);
        cache_free(d[i]);
    }
}

static void rows_move_within_the_backend(void **state)
{
    struct edit ed;
    (void)state;
    use(KV_F32);
    check(everywhere(EDIT_ZERO), 0, 0, 1);
    check(everywhere(EDIT_EVICT), 0, 0, 1);
    check(everywhere(EDIT_MASK), 0, 0, 0);
    check(everywhere(EDIT_TRANSPLANT), 1, 0, 1);
    check(everywhere(EDIT_TRANSPLANT), 2, 0, 1);
    ed = everywhere(EDIT_TRANSPLANT); /* nothing turns where positions are equal */
    ed.donor_at = at;
    ed.rerotate = true;
    check(ed, 1, 0, 1);
    ed = everywhere(EDIT_SWAP); /* 4800 pairs, 4096 of them in the first block */
    ed.n_at = N / 2;
    ed.donor_at = at + N / 2;
    check(ed, 0, 0, 4);
}

static void others_go_over_the_host_in_blocks(void **state)
{
    static const enum kv_type types[] = {KV_F32, KV_F16, KV_BF16};
    struct edit ed;
    int i, blocks;
    (void)state;
    for (i = 0; i < 3; i++) {
        use(types[i]);
        blocks = types[i] == KV_F32 ? 2 : 1;
        check(everywhere(EDIT_NOOP), 0, blocks, 2 * blocks);
        check(everywhere(EDIT_SCALE), 0, blocks, 2 * blocks);
        check(everywhere(EDIT_NOISE), 0, blocks, 2 * blocks);
        check(everywhere(EDIT_QUANTISE), 0, blocks, 2 * blocks);
        ed = everywhere(EDIT_QUANTISE);
        ed.per_channel = true;
        check(ed, 0, blocks, 2 * blocks);
        ed = everywhere(EDIT_TRANSPLANT); /* values stay within, keys turn: half of the rows */
        ed.rerotate = true;
        check(ed, 1, 1, 3);
        check(ed, 2, 1, 3);
        ed = everywhere(EDIT_SWAP);
        ed.n_at = N / 2;
        ed.donor_at = at + N / 2;
        ed.rerotate = true;
        check(ed, 0, blocks, 2 * blocks);
        ed = everywhere(EDIT_EVICT);
        ed.compact = true;
        ed.at = from; /* 3, 10, 17, ... */
        ed.n_at = 70;
        check(ed, 0, 1, 3);
        ed = everywhere(EDIT_TRANSPLANT);
        ed.vector = vectors;
        ed.tensors = CACHE_K;
        ed.rerotate = true;
        check(ed, 0, 1, 2);
        ed = everywhere(EDIT_ADD);
        ed.vector = vectors;
        ed.tensors = CACHE_V;
        check(ed, 0, 1, 2);
        ed.op = EDIT_MEAN;
        check(ed, 0, 1, 2);
    }
}

/* ---- rows that are named twice ---- */

/* As if each position had an edit of its own, in their order. */
static void check_repeated(engine *en, struct edit ed, bool donor)
{
    int again[] = {5, 70, 5, 799, 5, 70}, donor_at[] = {5, 1, 9, 799, 5, 70}, i;
    cache *c = filled(en, 1), *want = cache_fork(c), *d = filled(en, 2);
    struct edit one;
    ed.at = again;
    ed.donor_at = donor_at;
    ed.n_at = 6;
    ed.donor = donor ? d : NULL;
    for (one = ed, i = 0; i < 6; i++) {
        one.n_at = 1;
        one.at = again + i;
        one.donor_at = donor_at + i;
        do_edit(want, &one);
    }
    do_edit(c, &ed);
    assert_same(c, want);
    cache_free(c);
    cache_free(want);
    cache_free(d);
}

static void a_position_named_again_is_edited_again(void **state)
{
    engine *both[2];
    struct edit ed;
    int i;
    (void)state;
    use(KV_BF16); /* rounded in between */
    both[0] = cpu;
    both[1] = far_away;
    for (i = 0; i < 2; i++) {
        check_repeated(both[i], everywhere(EDIT_ZERO), false);
        check_repeated(both[i], everywhere(EDIT_SCALE), false);
        check_repeated(both[i], everywhere(EDIT_NOISE), false);
        check_repeated(both[i], everywhere(EDIT_QUANTISE), false);
        check_repeated(both[i], everywhere(EDIT_TRANSPLANT), true);
        ed = everywhere(EDIT_TRANSPLANT);
        ed.rerotate = true; /* of position 5 the last one does not turn, the others do */
        check_repeated(both[i], ed, true);
        ed = everywhere(EDIT_ADD);
        ed.vector = vectors;
        ed.tensors = CACHE_K;
        check_repeated(both[i], ed, false);
    }
}

static void a_head_or_layer_named_again_is_edited_again(void **state)
{
    int twice[2] = {1, 1};
    struct edit ed = everywhere(EDIT_SCALE), once;
    cache *c, *d, *want;
    int i;
    (void)state;
    use(KV_F16);
    for (i = 0; i < 2; i++) {
        c = filled(far_away, 1);
        d = cache_fork(c);
        want = cache_fork(c);
        ed = everywhere(i ? EDIT_QUANTISE : EDIT_SCALE);
        ed.per_channel = i;
        ed.n_at = 100;
        once = ed;
        ed.heads = once.heads = twice;
        once.n_heads = 1;
        do_edit(want, &once);
        do_edit(want, &once);
        do_edit(c, &ed);
        assert_same(c, want);
        ed = everywhere(i ? EDIT_QUANTISE : EDIT_SCALE);
        ed.n_at = 3;
        ed.layers = twice;
        ed.n_layers = 2;
        do_edit(d, &ed);
        ed.n_layers = 1;
        cache_free(want);
        want = filled(far_away, 1);
        do_edit(want, &ed);
        do_edit(want, &ed);
        assert_same(d, want);
        cache_free(c);
        cache_free(d);
        cache_free(want);
    }
}

static void a_channel_has_no_position_twice(void **state)
{
    int again[] = {5, 70, 5, 64}, once[] = {5, 70, 64};
    struct edit ed = everywhere(EDIT_QUANTISE);
    cache *c, *want;
    (void)state;
    use(KV_F32);
    c = filled(far_away, 1);
    want = cache_fork(c);
    ed.per_channel = true;
    ed.at = again;
    ed.n_at = 4;
    do_edit(c, &ed);
    ed.at = once;
    ed.n_at = 3;
    do_edit(want, &ed);
    assert_same(c, want);
    cache_free(c);
    cache_free(want);
}

/* ---- what fails ---- */

static void without_memory_nothing_is_written(void **state)
{
    struct edit ed = everywhere(EDIT_SCALE), zero = everywhere(EDIT_ZERO);
    cache *c, *was, *copy;
    void *rest[64];
    int n = 0;
    size_t bytes;
    err e = {0};
    (void)state;
    setenv("KVRUN_FAKE_MEMORY", "200000000", 1);
    use(KV_F32);
    unsetenv("KVRUN_FAKE_MEMORY");
    c = filled(far_away, 1);
    was = filled(far_away, 1);
    copy = cache_fork(c); /* so that pages for an evict that closes up are there */
    do_edit(c, &zero);    /* needs no block */
    cache_free(c);
    c = copy;
    for (bytes = 1 << 27; bytes > 0 && n < 64;) {
        rest[n] = far_away->k->alloc(bytes);
        if (!rest[n])
            bytes /= 2;
        else
            n++;
    }
    assert_int_equal(cache_edit(c, &ed, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_non_null(strstr(e.msg, "rows of an edit"));
    assert_same(c, was);
    ed = everywhere(EDIT_EVICT);
    ed.compact = true;
    ed.at = from;
    ed.n_at = 5;
    e = (err){0};
    assert_int_equal(cache_edit(c, &ed, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_same(c, was);
    while (n > 0) far_away->k->release(rest[--n]);
    do_edit(c, &ed);
    cache_free(c);
    cache_free(was);
}

static void a_lost_device_is_told(void **state)
{
    struct edit ed = everywhere(EDIT_SCALE);
    cache *c;
    err e = {0};
    (void)state;
    use(KV_F32);
    c = filled(far_away, 1);
    setenv("KVRUN_FAKE_FAIL", "get:2", 1);
    assert_int_equal(cache_edit(c, &ed, &e), -1);
    unsetenv("KVRUN_FAKE_FAIL");
    assert_int_equal(e.code, ERR_ENV);
    assert_non_null(strstr(e.msg, "get: the fake device fell off the bus"));
    cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_move_within_the_backend),
        cmocka_unit_test(others_go_over_the_host_in_blocks),
        cmocka_unit_test(a_position_named_again_is_edited_again),
        cmocka_unit_test(a_head_or_layer_named_again_is_edited_again),
        cmocka_unit_test(a_channel_has_no_position_twice),
        cmocka_unit_test(without_memory_nothing_is_written),
        cmocka_unit_test(a_lost_device_is_told), /* the last one: its device stays lost */
    };
    return cmocka_run_group_tests_name("edit_rows", tests, begin, end);
}
