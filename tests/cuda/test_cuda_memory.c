/* test_cuda_memory.c: copies within the device and to the host, weights that come and go, and threads that read beside passes.
 */
#include "cuda_test.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>

/* ---- move_rows ---- */

enum { SPACE = 1 << 20 };

/* One random set of runs on both sides: the sources in any order, also twice, the targets apart from each other. */
static void move_some(const char *content, int unit, size_t bytes, int n)
{
    char *memory[2][2], *got = malloc(SPACE), *want = malloc(SPACE);
    const struct kernels *side[2] = {cpu, cuda};
    const void **from = malloc((size_t)n * sizeof *from + 1);
    void **to = malloc((size_t)n * sizeof *to + 1);
    size_t *at = malloc((size_t)n * sizeof *at + 1), step = (bytes + (size_t)unit - 1) / (size_t)unit * (size_t)unit;
    for (int i = 0; i < n; i++) at[i] = (size_t)random_below((int)((SPACE - bytes) / (size_t)unit) + 1) * (size_t)unit;
    for (int s = 0; s < 2; s++) {
        for (int i = 0; i < 2; i++) {
            memory[s][i] = side[s]->alloc(SPACE);
            side[s]->put(memory[s][i], content, SPACE);
        }
        for (int i = 0; i < n; i++) {
            from[i] = at[i] % 5 ? memory[s][0] + at[i] : NULL;
            to[i] = memory[s][1] + (size_t)(n - 1 - i) * step;
        }
        side[s]->move_rows(to, from, bytes, (size_t)n);
        memset(from, 0, (size_t)n * sizeof *from); /* they may change after the call */
        memset(to, 0, (size_t)n * sizeof *to);
        side[s]->get(s ? got : want, memory[s][1], SPACE);
    }
    no_trouble();
    if (memcmp(got, want, SPACE)) fail_msg("%d runs of %zu bytes, addresses at multiples of %d", n, bytes, unit);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < 2; i++) side[s]->release(memory[s][i]);
    free(at);
    free(to);
    free(from);
    free(got);
    free(want);
}

static void runs_move_as_on_the_cpu(void **unused)
{
    static const int units[] = {1, 4, 16, 64, 12},
                     sizes[] = {0, 1, 3, 4, 16, 20, 32, 48, 100, 256, 1000, 1024, 4096, 4100, 70000};
    char *content = malloc(SPACE);
    (void)unused;
    for (int i = 0; i < SPACE; i++) content[i] = (char)random_u32();
    move_some(content, 16, 64, 0);
    move_some(content, 16, SPACE, 1);
    for (int i = 0; i < rounds(60); i++) {
        size_t bytes = (size_t)sizes[random_below(sizeof sizes / sizeof *sizes)];
        int unit = units[random_below(5)], most = SPACE / (int)(bytes + 64);
        move_some(content, unit, bytes, 1 + random_below(most < 700 ? most : 700));
    }
    free(content);
}

static void very_many_runs_move(void **unused)
{
    enum { N = 100000, BYTES = 32 };
    char *a = cuda->alloc((size_t)N * BYTES), *b = cuda->alloc((size_t)N * BYTES);
    uint64_t *host = malloc((size_t)N * BYTES);
    const void **from = malloc(N * sizeof *from);
    void **to = malloc(N * sizeof *to);
    (void)unused;
    for (size_t i = 0; i < (size_t)N * BYTES / 8; i++) host[i] = i;
    cuda->put(a, host, (size_t)N * BYTES);
    for (size_t i = 0; i < N; i++) {
        from[i] = i % 1000 ? a + i * BYTES : NULL;
        to[i] = b + i * 7919 % N * BYTES;
    }
    cuda->move_rows(to, from, BYTES, N);
    cuda->get(host, b, (size_t)N * BYTES);
    no_trouble();
    for (size_t i = 0; i < N; i++)
        for (size_t e = 0; e < BYTES / 8; e++)
            assert_int_equal(host[i * 7919 % N * (BYTES / 8) + e], i % 1000 ? i * (BYTES / 8) + e : 0);
    cuda->release(a);
    cuda->release(b);
    free(host);
    free(from);
    free(to);
}

/* ---- weights ---- */

static long long memory_free(void)
{
    struct cuda_device about;
    char why[200];
    assert_ptr_equal(kvrun_cuda_open(KVRUN_CUDA_ABI, 0, &about, why, sizeof why), cuda);
    return about.memory_free;
}

/* An engine's passes: the second is recorded, the third replayed. */
static int pass_with(struct rows *r, const struct mat *w, float *x, float *y)
{
    int replayed = cuda->begin(r, 1, 1);
    if (!replayed) cuda->matmul(y, w->rows, w, x, 1, MATMUL_STORE);
    cuda->end();
    return replayed;
}

static void weights_live_as_long_as_their_users(void **unused)
{
    enum { ROWS = 64, COLS = 1 << 17 };
    const size_t bytes = (size_t)ROWS * COLS * sizeof(float);
    float *host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), one[ROWS];
    struct kv_page *pages[1] = {&(struct kv_page){0}}, **layer[1] = {pages}, ***row[1] = {layer};
    int slot[1] = {0};
    struct rows r = {1, slot, (struct kv_page *const *const *const *)row}, other = r;
    float *x = cuda->alloc(COLS * sizeof *x), *y = cuda->alloc(sizeof one);
    struct mat w = {DTYPE_F32, ROWS, COLS, NULL, 0};
    long long before;
    (void)unused;
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++) host[i] = 1;
    cuda->put(x, host, COLS * sizeof *x);
    for (int i = 0; i < 2; i++) pass_with(&other, &(struct mat){DTYPE_F32, 1, 1, x, 0}, x, y); /* the scratch grows now */
    before = memory_free();
    for (int time = 0; time < 2; time++) { /* the same addresses, other bytes */
        const void *first, *second;
        for (size_t i = 0; i < (size_t)ROWS * COLS; i += 997) host[i] = (float)(time + 2);
        first = cuda->weights(host, bytes);
        second = cuda->weights(host, bytes);
        assert_non_null(first);
        assert_ptr_equal(first, second);
        assert_true(before - memory_free() >= (long long)bytes);
        w.data = first;
        cuda->drop_weights(second);
        for (int i = 0; i < 4; i++) /* no recording is left of the copy before */
            assert_int_equal(pass_with(&r, &w, x, y), !getenv("KVRUN_CUDA_SYNC") && i >= 2);
        cuda->get(one, y, sizeof one);
        for (int i = 0; i < ROWS; i++) {
            double want = COLS;
            for (size_t c = 0; c < COLS; c++) want += (double)host[(size_t)i * COLS + c] - 1;
            assert_true(one[i] == (float)want);
        }
        cuda->drop_weights(first);
        assert_true(before - memory_free() < (long long)bytes / 2);
    }
    cuda->drop_weights(NULL);
    no_trouble();
    cuda->release(x);
    cuda->release(y);
    munmap(host, bytes);
}

/* ---- threads that read ---- */

struct read {
    void *host;
    const void *from;
    size_t bytes;
};

static void *read_it(void *arg)
{
    struct read *r = arg;
    cuda->get(r->host, r->from, r->bytes);
    return NULL;
}

/* A get of a thread that has begun no pass. */
static void get_elsewhere(void *host, const void *from, size_t bytes)
{
    struct read r = {host, from, bytes};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, read_it, &r), 0);
    pthread_join(t, NULL);
}

static void bytes_of_any_number_come_back(void **unused)
{
    static const size_t sizes[] = {0, 1, 4096, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (12 << 20) + 3};
    const size_t most = 13 << 20;
    uint32_t *want = malloc(most);
    char *got = malloc(most), *x;
    (void)unused;
    for (size_t i = 0; i < most / 4; i++) want[i] = random_u32();
    x = up(want, most);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
            memset(got, 0x55, most);
            (elsewhere ? get_elsewhere : cuda->get)(got, x + 1, sizes[i]);
            assert_memory_equal(got, (char *)want + 1, sizes[i]);
            assert_int_equal(got[sizes[i]], 0x55);
        }
    no_trouble();
    cuda->release(x);
    free(want);
    free(got);
}

static void in_trouble_a_get_gives_zeros(void **unused)
{
    float one[4] = {1, 2, 3, 4}, *x = up(one, sizeof one);
    struct mat bad = {DTYPE_Q4_0, 32, 32, x, 32};
    (void)unused;
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        cuda->matmul_t(x, 32, &bad, x, 1, MATMUL_STORE);
        memset(one, 0x55, sizeof one);
        (elsewhere ? get_elsewhere : cuda->get)(one, x, sizeof one);
        for (int i = 0; i < 4; i++) assert_true(one[i] == 0);
        assert_non_null(cuda->trouble(NULL));
        (elsewhere ? get_elsewhere : cuda->get)(one, x, sizeof one);
        assert_true(one[3] == 4);
    }
    no_trouble();
    cuda->release(x);
}

/* The rows of a pass with one row of two layers, each of one page. */
enum { LAYERS = 2, G = 2, E = 16, PAGE = G * PAGE_TOKENS * E, READERS = 6 };
struct line {
    struct kv_page page[LAYERS], *table[LAYERS][1], **layers[LAYERS], ***row[1];
    int slot[1];
    struct rows r;
};

static void line_new(struct line *n)
{
    memset(n, 0, sizeof *n);
    for (int l = 0; l < LAYERS; l++) {
        n->page[l].k = cuda->alloc(2 * PAGE * sizeof(float));
        n->page[l].v = (float *)n->page[l].k + PAGE;
        n->table[l][0] = &n->page[l];
        n->layers[l] = n->table[l];
    }
    n->row[0] = n->layers;
    n->r = (struct rows){1, n->slot, (struct kv_page *const *const *const *)n->row};
}

/* A pass that appends the token x to both layers; x: (2 G E) of the device, put by the caller. */
static void append(struct line *n, float *x, int plain)
{
    struct attn a = {G, G, E, DTYPE_F32, 1, 0, 0};
    struct rope none = {x, x, 0, 0};
    int replayed = cuda->begin(&n->r, LAYERS, plain);
    for (int l = 0; l < LAYERS && !replayed; l++) cuda->rope_append(x, x, x + G * E, &none, &n->r, l, &a);
    cuda->end();
}

/* Only where work is deferred can be seen what was not waited for. */
static void a_reader_does_not_wait_for_the_newest_plain_pass(void **unused)
{
    float token[2 * G * E], page[PAGE], *x = cuda->alloc(sizeof token);
    struct line n;
    (void)unused;
    line_new(&n);
    for (int i = 0; i < 30; i++) {
        float was = i % 2 ? (float)i : 0; /* of the pass before */
        int plain = i % 5 != 4;
        n.slot[0] = i / 2;
        for (int e = 0; e < 2 * G * E; e++) token[e] = (float)(i + 1);
        cuda->put(x, token, sizeof token);
        append(&n, x, plain);
        if (plain && getenv("CUDA_EMU_DEFER") && !getenv("KVRUN_CUDA_SYNC")) {
            get_elsewhere(page, n.page[0].k, sizeof page);
            assert_true(page[n.slot[0] * E] == was);
        }
        if (plain) cuda->get(token, x, sizeof token);
        get_elsewhere(page, n.page[0].k, sizeof page);
        assert_true(page[n.slot[0] * E] == (float)(i + 1));
        if (i % 3 == 0) { /* what is done outside of a pass is waited for */
            cuda->copy(n.page[1].k, n.page[0].k, sizeof page);
            get_elsewhere(page, n.page[1].k, sizeof page);
            assert_true(page[n.slot[0] * E] == (float)(i + 1));
        }
    }
    no_trouble();
    cuda->release(x);
    for (int l = 0; l < LAYERS; l++) cuda->release(n.page[l].k);
}

/* Finished pages on their way to the readers, and back. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct {
        float *memory; /* k, then v */
        int number;    /* 0: the runner's; -n: being read */
    } of[8];
    bool closing;
    int wrong, read;
} mail = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
enum { MAIL = sizeof mail.of / sizeof *mail.of };

static float token_value(int number, int t, int e)
{
    return (float)(number * 100 + t) + (float)e / 64;
}

static int page_is_wrong(const float *page, int number)
{
    for (int v = 0; v < 2; v++)
        for (int g = 0; g < G; g++)
            for (int t = 0; t < PAGE_TOKENS; t++)
                for (int e = 0; e < E; e++)
                    if (page[((v * G + g) * PAGE_TOKENS + t) * E + e] != token_value(number, t, (v * G + g) * E + e)) return 1;
    return 0;
}

static void *reader(void *unused)
{
    float *page = malloc(2 * PAGE * sizeof *page);
    (void)unused;
    pthread_mutex_lock(&mail.lock);
    for (;;) {
        int i = 0, number;
        while (i < MAIL && mail.of[i].number <= 0) i++;
        if (i == MAIL) {
            if (mail.closing) break;
            pthread_cond_wait(&mail.changed, &mail.lock);
            continue;
        }
        number = mail.of[i].number;
        mail.of[i].number = -number;
        pthread_mutex_unlock(&mail.lock);
        cuda->get(page, mail.of[i].memory, 2 * PAGE * sizeof *page);
        pthread_mutex_lock(&mail.lock);
        mail.wrong += page_is_wrong(page, number);
        mail.read++;
        mail.of[i].number = 0;
        pthread_cond_broadcast(&mail.changed);
    }
    pthread_mutex_unlock(&mail.lock);
    free(page);
    return NULL;
}

static int mail_take(void)
{
    int i = 0;
    pthread_mutex_lock(&mail.lock);
    for (; mail.of[i].number != 0; i = (i + 1) % MAIL)
        if (i == MAIL - 1) pthread_cond_wait(&mail.changed, &mail.lock);
    pthread_mutex_unlock(&mail.lock);
    return i;
}

static void mail_send(int i, int number)
{
    pthread_mutex_lock(&mail.lock);
    mail.of[i].number = number;
    pthread_cond_broadcast(&mail.changed);
    pthread_mutex_unlock(&mail.lock);
}

/* One page, token by token; it is the reader's as soon as the runner has it, in one of two ways. */
static void run_page(struct line *n, float *x, int number)
{
    float token[2 * G * E];
    int to = mail_take(), copied = number % 2;
    void *own = n->page[1].k;
    if (!copied) { /* the pass writes into the page that is sent */
        n->page[1].k = mail.of[to].memory;
        n->page[1].v = mail.of[to].memory + PAGE;
        cuda->zero(n->page[1].k, 2 * PAGE * sizeof(float));
    }
    for (int t = 0; t < PAGE_TOKENS; t++) {
        for (int e = 0; e < 2 * G * E; e++) token[e] = token_value(number, t, e);
        n->slot[0] = t;
        cuda->put(x, token, sizeof token);
        append(n, x, 1);
        memset(token, 0, sizeof token);
        cuda->get(token, x, sizeof token);
        if (token[1] != token_value(number, t, 1)) fail_msg("page %d, token %d", number, t);
    }
    if (copied) cuda->copy(mail.of[to].memory, n->page[number / 2 % 2].k, 2 * PAGE * sizeof(float)); /* and no get after it */
    mail_send(to, number);
    n->page[1].k = own;
    n->page[1].v = (float *)own + PAGE;
}

static void pages_are_read_beside_passes(void **unused)
{
    pthread_t t[READERS];
    float *x = cuda->alloc(2 * G * E * sizeof *x);
    struct line n;
    int pages = rounds(60);
    (void)unused;
    line_new(&n);
    for (int i = 0; i < MAIL; i++) mail.of[i].memory = cuda->alloc(2 * PAGE * sizeof(float));
    for (int i = 0; i < READERS; i++) assert_int_equal(pthread_create(&t[i], NULL, reader, NULL), 0);
    for (int i = 1; i <= pages; i++) run_page(&n, x, i);
    pthread_mutex_lock(&mail.lock);
    mail.closing = true;
    pthread_cond_broadcast(&mail.changed);
    pthread_mutex_unlock(&mail.lock);
    for (int i = 0; i < READERS; i++) pthread_join(t[i], NULL);
    no_trouble();
    assert_int_equal(mail.read, pages);
    assert_int_equal(mail.wrong, 0);
    for (int i = 0; i < MAIL; i++) cuda->release(mail.of[i].memory);
    for (int l = 0; l < LAYERS; l++) cuda->release(n.page[l].k);
    cuda->release(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_move_as_on_the_cpu),
        cmocka_unit_test(very_many_runs_move),
        cmocka_unit_test(bytes_of_any_number_come_back),
        cmocka_unit_test(in_trouble_a_get_gives_zeros),
        cmocka_unit_test(weights_live_as_long_as_their_users),
        cmocka_unit_test(a_reader_does_not_wait_for_the_newest_plain_pass),
        cmocka_unit_test(pages_are_read_beside_passes),
    };
    int skip = open_or_skip();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
