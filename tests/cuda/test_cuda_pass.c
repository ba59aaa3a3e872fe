/* test_cuda_pass.c: whole passes of a small model: begin and end, replayed passes and hidden tokens that change. */
#include "cuda_test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { L = 2, D = 32, H = 4, G = 2, E = 16, V = 50, ROWS = 5, PAGES = 6, STEPS = 30, THREADS = 3 };

/* One side, the CPU's or the device's: weights, buffers and pages. */
struct side {
    const struct kernels *k;
    struct mat embed, wq[L], wk[L], wv[L], wo[L];
    float *norm, *x, *h, *q, *key, *v, *att, *logits, *cos, *sin;
    int *ids;
    struct pick *picks;
    struct kv_page page[ROWS][L][PAGES];
    struct kv_page *table[ROWS][L][PAGES], **layers[ROWS][L];
    struct kv_page *const *const *row_pages[ROWS];
    int slot[ROWS], replays, n_host;
    int looks; /* somebody reads what the layers make */
    void *host[1 + 4 * L];
    struct rows r;
    struct pick made[STEPS][ROWS];
};

static struct mat weights(struct side *s, int rows, int cols)
{
    struct mat w = random_mat(DTYPE_F32, rows, cols);
    s->host[s->n_host++] = (void *)w.data; /* the CPU borrows it */
    w.data = s->k->weights(w.data, mat_row_bytes(&w) * (size_t)rows);
    assert_non_null(w.data);
    return w;
}

static struct side *side_new(const struct kernels *k)
{
    struct side *s = calloc(1, sizeof *s);
    float one[D], angle[ROWS * E / 2];
    s->k = k;
    random_state = 88172645463325252u;
    s->embed = weights(s, V, D);
    for (int l = 0; l < L; l++) {
        s->wq[l] = weights(s, H * E, D);
        s->wk[l] = weights(s, G * E, D);
        s->wv[l] = weights(s, G * E, D);
        s->wo[l] = weights(s, D, H * E);
    }
    s->norm = k->alloc(sizeof one);
    for (int i = 0; i < D; i++) one[i] = random_float();
    k->put(s->norm, one, sizeof one);
    s->x = k->alloc(ROWS * D * 4);
    s->h = k->alloc(ROWS * D * 4);
    s->q = k->alloc(ROWS * H * E * 4);
    s->att = k->alloc(ROWS * H * E * 4);
    s->key = k->alloc(ROWS * G * E * 4);
    s->v = k->alloc(ROWS * G * E * 4);
    s->logits = k->alloc(ROWS * V * 4);
    s->cos = k->alloc(sizeof angle);
    s->sin = k->alloc(sizeof angle);
    s->ids = k->alloc(ROWS * sizeof(int));
    s->picks = k->alloc(ROWS * sizeof(struct pick));
    for (int b = 0; b < ROWS; b++) {
        for (int l = 0; l < L; l++) {
            for (int p = 0; p < PAGES; p++) {
                s->page[b][l][p] = (struct kv_page){k->alloc(G * PAGE_TOKENS * E * 4), k->alloc(G * PAGE_TOKENS * E * 4), NULL};
                s->table[b][l][p] = &s->page[b][l][p];
            }
            s->layers[b][l] = s->table[b][l];
        }
        s->row_pages[b] = (struct kv_page *const *const *)s->layers[b];
    }
    s->r = (struct rows){ROWS, s->slot, (struct kv_page *const *const *const *)s->row_pages};
    return s;
}

static void side_free(struct side *s)
{
    void *all[] = {s->norm, s->x, s->h, s->q, s->att, s->key, s->v, s->logits, s->cos, s->sin, s->ids, s->picks};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) s->k->release(all[i]);
    for (int b = 0; b < ROWS; b++)
        for (int l = 0; l < L; l++)
            for (int p = 0; p < PAGES; p++) {
                s->k->release(s->page[b][l][p].k);
                s->k->release(s->page[b][l][p].v);
                free(s->page[b][l][p].hidden);
            }
    for (int i = 0; i < s->n_host; i++) free(s->host[i]);
    free(s);
}

/* Reads the residuals and puts them back. */
static void look(struct side *s, int B)
{
    float x[ROWS * D];
    s->k->get(x, s->x, (size_t)B * D * sizeof *x);
    s->k->zero(s->x, (size_t)B * D * sizeof *x);
    s->k->put(s->x, x, (size_t)B * D * sizeof *x);
}

static void layers(struct side *s, int B)
{
    const struct kernels *k = s->k;
    struct attn a = {H, G, E, DTYPE_F32, 0.25f, 0, 0};
    struct rope rope = {s->cos, s->sin, E, 0};
    k->embed(s->x, &s->embed, s->ids, B);
    for (int l = 0; l < L; l++) {
        k->rmsnorm(s->h, s->x, s->norm, 1e-5f, B, D);
        k->matmul(s->q, H * E, &s->wq[l], s->h, B, MATMUL_STORE);
        k->matmul(s->key, G * E, &s->wk[l], s->h, B, MATMUL_STORE);
        k->matmul(s->v, G * E, &s->wv[l], s->h, B, MATMUL_STORE);
        k->rope_append(s->q, s->key, s->v, &rope, &s->r, l, &a);
        k->attend(s->att, s->q, &s->r, l, NULL, &a);
        k->matmul(s->x, D, &s->wo[l], s->att, B, MATMUL_ADD);
        if (s->looks) look(s, B);
    }
    for (int b = 0; b < B; b++) k->copy(s->h + b * D, s->x + b * D, D * 4);
    k->rmsnorm(s->h, s->h, s->norm, 1e-5f, B, D);
    k->matmul(s->logits, V, &s->embed, s->h, B, MATMUL_STORE);
    k->pick(s->picks, s->logits, B, V);
}

/* One token more in each of the first B rows; the tokens that are picked. */
static void step(struct side *s, int B, const int *ids, struct pick *out)
{
    float cos[ROWS * E / 2], sin[ROWS * E / 2], freqs[E / 2];
    kernels_rope_freqs(freqs, 10000, E);
    kernels_rope_table(cos, sin, freqs, s->slot, E / 2, B);
    s->k->put(s->ids, ids, (size_t)B * sizeof *ids);
    s->k->put(s->cos, cos, (size_t)(B * E / 2) * 4);
    s->k->put(s->sin, sin, (size_t)(B * E / 2) * 4);
    s->r.B = B;
    if (s->k->begin(&s->r, L, !s->looks))
        s->replays++;
    else
        layers(s, B);
    s->k->end();
    s->k->get(out, s->picks, (size_t)B * sizeof *out);
    for (int b = 0; b < B; b++) s->slot[b]++;
}

static void hide(struct side *s, int b, int l, int p, uint64_t bits)
{
    struct kv_page *page = &s->page[b][l][p];
    if (!page->hidden) page->hidden = calloc(G, sizeof *page->hidden);
    for (int g = 0; g < G; g++) page->hidden[g] = bits << g;
}

static void replayed_passes_give_what_the_cpu_gives(void **unused)
{
    struct side *a = side_new(cpu), *c = side_new(cuda);
    int ids[2][ROWS] = {{1, 2, 3, 4, 5}, {1, 2, 3, 4, 5}}, steps = rounds(250), B = ROWS;
    struct pick want[ROWS], got[ROWS];
    (void)unused;
    for (int i = 0; i < steps; i++) {
        if (i == steps / 2) B = 3;
        if (i == steps / 3) /* a page's hidden tokens appear, later they change */
            for (int side = 0; side < 2; side++) hide(side ? c : a, 1, 0, 0, 0x5a5a);
        if (i == steps / 3 + 5)
            for (int side = 0; side < 2; side++) hide(side ? c : a, 1, 0, 0, 0xf0f);
        step(a, B, ids[0], want);
        step(c, B, ids[1], got);
        no_trouble();
        for (int b = 0; b < B; b++) {
            assert_int_equal(got[b].token, want[b].token);
            check_same(&got[b].logprob, &want[b].logprob, 1, "logprob", i, b);
            ids[0][b] = want[b].token;
            ids[1][b] = got[b].token;
        }
        if (i % 50 == 30) cuda->release(cuda->alloc(5000000)); /* drops what is recorded */
    }
    print_message("%d of %d passes were replayed\n", c->replays, steps);
    assert_true(c->replays > steps / 2 || steps < 50);
    side_free(a);
    side_free(c);
}

static void two_engines_do_not_get_each_others_passes(void **unused)
{
    struct side *a = side_new(cuda), *b = side_new(cuda), *want_a = side_new(cpu), *want_b = side_new(cpu);
    int ids[2][ROWS] = {{1, 2, 3, 4, 5}, {7, 7, 8, 8, 9}};
    struct pick got[ROWS], want[ROWS];
    (void)unused;
    for (int i = 0; i < 8; i++) {
        step(a, ROWS, ids[0], got);
        step(want_a, ROWS, ids[0], want);
        assert_memory_equal(got, want, sizeof got);
        step(b, ROWS, ids[1], got);
        step(want_b, ROWS, ids[1], want);
        assert_memory_equal(got, want, sizeof got);
    }
    assert_true(getenv("KVRUN_CUDA_SYNC") || (a->replays == 6 && b->replays == 6));
    no_trouble();
    side_free(a);
    side_free(b);
    side_free(want_a);
    side_free(want_b);
}

static void *steps(void *arg)
{
    struct side *s = arg;
    int ids[ROWS] = {1, 2, 3, 4, 5};
    for (int i = 0; i < rounds(STEPS); i++) {
        step(s, ROWS, ids, s->made[i]);
        for (int b = 0; b < ROWS; b++) ids[b] = s->made[i][b].token < 0 ? 0 : s->made[i][b].token;
    }
    return NULL;
}

/* Where one pass waits for what it has read, the others go on; one of the threads has plain passes. */
static void threads_run_passes_that_are_looked_into(void **unused)
{
    struct side *want = side_new(cpu), *s[THREADS];
    pthread_t t[THREADS];
    (void)unused;
    steps(want);
    for (int i = 0; i < THREADS; i++) {
        s[i] = side_new(cuda);
        s[i]->looks = i > 0;
    }
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&t[i], NULL, steps, s[i]), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    no_trouble();
    for (int i = 0; i < THREADS; i++) {
        assert_memory_equal(s[i]->made, want->made, sizeof want->made);
        side_free(s[i]);
    }
    side_free(want);
}

static atomic_int begins, begun;

static void *begin_it(void *arg)
{
    struct side *s = arg;
    begins = 1;
    s->k->begin(&s->r, L, 0);
    begun = 1;
    s->k->end();
    return NULL;
}

static void a_pass_begins_when_the_one_before_it_has_ended(void **unused)
{
    struct side *a = side_new(cuda), *b = side_new(cuda);
    float x[ROWS * D];
    pthread_t t;
    (void)unused;
    a->r.B = b->r.B = ROWS;
    a->k->begin(&a->r, L, 0);
    assert_int_equal(pthread_create(&t, NULL, begin_it, b), 0);
    for (int i = 0; i < 50; i += begins) a->k->get(x, a->x, sizeof x); /* the other one could come in here */
    assert_int_equal(begun, 0);
    a->k->end();
    pthread_join(t, NULL);
    assert_int_equal(begun, 1);
    no_trouble();
    side_free(a);
    side_free(b);
}

static atomic_int read_beside;

static void *read_beside_it(void *arg)
{
    struct side *s = arg;
    float norm[D];
    s->k->get(norm, s->norm, sizeof norm);
    read_beside = 1;
    return NULL;
}

static void a_pass_that_reads_lets_others_read(void **unused)
{
    struct side *s = side_new(cuda);
    float x[ROWS * D];
    const time_t start = time(NULL);
    pthread_t t;
    (void)unused;
    s->r.B = ROWS;
    s->k->begin(&s->r, L, 0);
    assert_int_equal(pthread_create(&t, NULL, read_beside_it, s), 0);
    while (!read_beside && time(NULL) < start + 60) s->k->get(x, s->x, sizeof x);
    assert_int_equal(read_beside, 1);
    s->k->end();
    pthread_join(t, NULL);
    no_trouble();
    side_free(s);
}

static void what_a_pass_cannot_hold_is_done_without_a_recording(void **unused)
{
    struct side *s = side_new(cuda), *a = side_new(cpu);
    struct attn at = {H, G, E, DTYPE_F32, 0.25f, 0, 0};
    float got[H * E], want[H * E], q[H * E];
    uint64_t bits[H];
    const uint64_t *blocked[1] = {bits};
    (void)unused;
    for (int i = 0; i < H * E; i++) q[i] = random_float();
    for (int i = 0; i < 6; i++) {
        struct side *side[2] = {a, s};
        for (int w = 0; w < 2; w++) {
            float page[G * PAGE_TOKENS * E];
            for (int e = 0; e < G * PAGE_TOKENS * E; e++) page[e] = (float)((e * 37 + i) % 101) / 50 - 1;
            side[w]->k->put(side[w]->page[0][0][0].k, page, sizeof page);
            side[w]->k->put(side[w]->page[0][0][0].v, page, sizeof page);
            side[w]->k->put(side[w]->q, q, sizeof q);
            side[w]->slot[0] = 40;
            side[w]->r.B = 1;
            for (int h = 0; h < H; h++) bits[h] = (uint64_t)0xf0f0f << (h + i);
            assert_int_equal(side[w]->k->begin(&side[w]->r, 1, 1), 0);
            side[w]->k->scale(side[w]->q, side[w]->q, 2, H * E);
            side[w]->k->attend(side[w]->att, side[w]->q, &side[w]->r, 0, blocked, &at);
            side[w]->k->scale(side[w]->att, side[w]->att, 3, H * E);
            side[w]->k->end();
            side[w]->k->get(w ? got : want, side[w]->att, sizeof got);
        }
        check_same(got, want, H * E, "blocked", i, 0);
    }
    no_trouble();
    side_free(s);
    side_free(a);
}

/* As an engine's rows that begin at later layers: layer l has the first rows alone, in a struct of their own. */
static void first_rows(struct side *s, int plain, int last, struct kv_page *const *const **lost)
{
    const struct kernels *k = s->k;
    struct attn a = {H, G, E, DTYPE_F32, 0.25f, 0, 0};
    struct rope rope = {s->cos, s->sin, 0, 0};
    struct rows part = s->r;
    int replayed;
    for (int b = 0; b < ROWS; b++) s->row_pages[b] = (struct kv_page *const *const *)s->layers[b];
    replayed = k->begin(&s->r, L, plain);
    if (lost) memset(lost, 0, ROWS * sizeof *lost); /* whoever asks for them again finds none */
    for (int l = 0; l < L && !replayed; l++) {
        part.B = l == L - 1 ? last : 2;
        k->rope_append(s->q, s->key, s->v, &rope, &part, l, &a);
        k->attend(s->att, s->q, &part, l, NULL, &a);
        k->scale(s->key, s->att, 2, ROWS * G * E);
    }
    k->end();
}

static void the_first_rows_of_a_pass_need_no_tables_of_their_own(void **unused)
{
    struct side *a = side_new(cpu), *c = side_new(cuda), *side[2] = {a, c};
    float got[2][ROWS * H * E], q[ROWS * H * E];
    (void)unused;
    for (int i = 0; i < 24; i++) {
        for (int e = 0; e < ROWS * H * E; e++) q[e] = random_float();
        if (i == 12) hide(a, 1, 0, 0, 0x5a5a), hide(c, 1, 0, 0, 0x5a5a);
        for (int w = 0; w < 2; w++) {
            struct side *s = side[w];
            s->k->put(s->q, q, sizeof q);
            s->k->put(s->key, q, ROWS * G * E * sizeof *q);
            s->k->put(s->v, q + 7, ROWS * G * E * sizeof *q);
            for (int b = 0; b < ROWS; b++)
                s->slot[b] = 9 * i + 40 * (b % 2); /* another sum of pages each time; up to 256 tokens */
            s->r.B = ROWS;
            /* with hidden tokens a pass may ask for all of them once more, as long as it does not know G */
            first_rows(s, i % 2, i % 3 == 2 ? ROWS : 3, w && i < 12 ? s->row_pages : NULL);
            s->k->get(got[w], s->att, sizeof q);
        }
        no_trouble();
        check_same(got[1], got[0], ROWS * H * E, "first rows", i, 0);
    }
    side_free(a);
    side_free(c);
}

static void opening_says_why_not(void **unused)
{
    char why[200], want[200];
    struct cuda_device about;
    (void)unused;
    assert_null(kvrun_cuda_open(KVRUN_CUDA_ABI + 1, 0, NULL, why, sizeof why));
    snprintf(want, sizeof want, "the plug-in speaks version %d, the program %d", KVRUN_CUDA_ABI, KVRUN_CUDA_ABI + 1);
    assert_string_equal(why, want);
    assert_null(kvrun_cuda_open(KVRUN_CUDA_ABI, 1000, NULL, why, sizeof why));
    assert_string_equal(why, "device 0 is open already: one process, one device");
    assert_ptr_equal(kvrun_cuda_open(KVRUN_CUDA_ABI, 0, &about, why, sizeof why), cuda);
    assert_true(about.cc_major >= 8 && about.sm_count > 0 && about.memory_free > 0 && about.memory_bytes >= about.memory_free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replayed_passes_give_what_the_cpu_gives),
        cmocka_unit_test(two_engines_do_not_get_each_others_passes),
        cmocka_unit_test(threads_run_passes_that_are_looked_into),
        cmocka_unit_test(a_pass_begins_when_the_one_before_it_has_ended),
        cmocka_unit_test(a_pass_that_reads_lets_others_read),
        cmocka_unit_test(what_a_pass_cannot_hold_is_done_without_a_recording),
        cmocka_unit_test(the_first_rows_of_a_pass_need_no_tables_of_their_own),
        cmocka_unit_test(opening_says_why_not),
    };
    int skip = open_or_skip();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
