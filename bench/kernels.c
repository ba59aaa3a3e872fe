/* bench/kernels.c: times of the kernels on the shapes of SmolLM2-135M, for kernels/SPEED.md; built by hand, `bench_kernels`.
 *
 *     bench_kernels [avx512|avx2|scalar] [threads] [seconds per number] [weight type: matmuls of it alone]
 *
 * Best and median of the steps that fit into the seconds. Weights are random, 30 layers of them: more than a cache holds.
 */
#include "../kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { L = 30, D = 576, F = 1536, H = 9, G = 3, E = 64, V = 49152, B_MAX = 512, STEPS_MAX = 2000 };

static const struct kernels *k;
static double seconds = 1;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct timing {
    double best, median;
};

static struct timing timed(void (*step)(void *), void *arg)
{
    static double t[STEPS_MAX];
    double start;
    int n = 0;
    step(arg);
    start = now();
    while (n < STEPS_MAX && (n < 3 || now() - start < seconds)) {
        double from = now();
        step(arg);
        t[n++] = now() - from;
    }
    qsort(t, (size_t)n, sizeof *t, by_time);
    return (struct timing){t[0], t[n / 2]};
}

static uint32_t random_u32(void)
{
    static uint64_t s = 88172645463325252u;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    return (uint32_t)(s >> 16);
}

static float *floats(size_t n)
{
    float *f = k->alloc(n * sizeof *f);
    if (!f) exit(1);
    for (size_t i = 0; i < n; i++) f[i] = (float)(int)(random_u32() % 20001) * 1e-4f - 1;
    return f;
}

static struct mat weights(enum dtype t, int rows, int cols)
{
    struct mat w = {t, rows, cols, NULL};
    size_t bytes = mat_row_bytes(&w) * (size_t)rows, block = (size_t)dtype_block_bytes(t);
    uint8_t *p = k->alloc(bytes);
    if (!p) exit(1);
    for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)random_u32();
    for (size_t i = 0; i < bytes; i += block) p[i + (block > 4 || block == 2 ? 1 : 3)] = 0x20; /* a small scale */
    w.data = p;
    return w;
}

/* ---- matmuls of a step ---- */

struct model {
    struct mat w[L][7], head;
    float *x, *y, *logits;
    int B, B_head;
};

static void matmuls(void *arg)
{
    struct model *m = arg;
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 7; i++) k->matmul(m->y, m->w[l][i].rows, &m->w[l][i], m->x, m->B, MATMUL_STORE);
    k->matmul(m->logits, V, &m->head, m->x, m->B_head, MATMUL_STORE);
}

static void bench_matmul(enum dtype t)
{
    static const int shape[7][2] = {{D, D}, {G * E, D}, {G * E, D}, {D, D}, {F, D}, {F, D}, {D, F}};
    static const int batches[] = {1, 2, 4, 8, 16, 32, 64, 256, 512};
    struct model m = {.x = floats((size_t)F * B_MAX), .y = floats((size_t)F * B_MAX), .logits = floats((size_t)V * 64)};
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 7; i++) {
            int cols = shape[i][1] % dtype_block(t) ? (shape[i][1] / dtype_block(t) + 1) * dtype_block(t) : shape[i][1];
            m.w[l][i] = weights(t, shape[i][0], cols);
        }
    m.head = weights(DTYPE_Q8_0, V, D);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        struct timing r;
        m.B = batches[i];
        m.B_head = m.B > 64 ? 1 : m.B;
        r = timed(matmuls, &m);
        printf("matmul %-5s B=%-3d best %7.2f median %7.2f ms  %7.1f tok/s\n", dtype_name(t), m.B, r.best * 1e3, r.median * 1e3,
               m.B / r.median);
        fflush(stdout);
    }
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 7; i++) k->release((void *)m.w[l][i].data);
    k->release((void *)m.head.data);
    k->release(m.x);
    k->release(m.y);
    k->release(m.logits);
}

/* ---- attention ---- */

struct attention {
    struct attn a;
    float *q, *out;
    struct kv_page ***row[B_MAX]; /* (B)(L)(n_pages), one pool of pages per layer */
    struct rows r;
    int *pos;
};

static void attends(void *arg)
{
    struct attention *t = arg;
    for (int l = 0; l < L; l++) k->attend(t->out, t->q, &t->r, l, NULL, &t->a);
}

enum { PREFIX = 2048, PAGES = PREFIX / PAGE_TOKENS };

/* B rows at the end of a 2048-token prefix: every row its own pages, or all the same; or one prefill of B tokens. */
static void bench_attend(const char *what, enum dtype kv, int B, int shared, int prefill)
{
    struct attention t = {.a = {H, G, E, kv, 0.125f}};
    int n_pages = prefill ? (B + PAGE_TOKENS - 1) / PAGE_TOKENS : PAGES, caches = shared || prefill ? 1 : B;
    size_t page = (size_t)G * PAGE_TOKENS * E * (size_t)dtype_block_bytes(kv), count = (size_t)L * (size_t)(caches * n_pages);
    char *memory = k->alloc(count * page * 2);
    struct kv_page *pages = calloc(count, sizeof *pages);
    struct timing r;
    if (!memory || !pages) exit(1);
    for (size_t i = 0; i < count * page * 2 / 4; i++) {
        uint32_t u = (random_u32() & 0x807fffff) | 0x3e000000; /* halves of it are small numbers too, in f16 as in bf16 */
        if (kv != DTYPE_F32) u = (u & 0xbfffbfff & 0xffff83ff) | 0x20002000;
        memcpy(memory + i * 4, &u, 4);
    }
    for (size_t i = 0; i < count; i++) pages[i] = (struct kv_page){memory + i * 2 * page, memory + (i * 2 + 1) * page, NULL};
    t.q = floats((size_t)B * H * E);
    t.out = floats((size_t)B * H * E);
    t.pos = calloc((size_t)B, sizeof *t.pos);
    for (int b = 0; b < B; b++) t.pos[b] = prefill ? b : PREFIX - 1;
    for (int b = 0; b < B; b++) {
        t.row[b] = calloc(L, sizeof **t.row);
        for (int l = 0; l < L; l++) {
            t.row[b][l] = calloc((size_t)n_pages, sizeof ***t.row);
            for (int p = 0; p < n_pages; p++) t.row[b][l][p] = &pages[(l * caches + (caches > 1 ? b : 0)) * n_pages + p];
        }
    }
    t.r = (struct rows){B, t.pos, (struct kv_page *const *const *const *)t.row};
    r = timed(attends, &t);
    printf("attend %-4s B=%-3d %-8s best %7.2f median %7.2f ms\n", dtype_name(kv), B, what, r.best * 1e3, r.median * 1e3);
    fflush(stdout);
    for (int b = 0; b < B; b++) {
        for (int l = 0; l < L; l++) free(t.row[b][l]);
        free(t.row[b]);
    }
    free(t.pos);
    free(pages);
    k->release(memory);
    k->release(t.q);
    k->release(t.out);
}

/* ---- everything else of a step ---- */

struct rest {
    float *x, *w, *gate, *up, *logits, *q, *key, *cos, *sin;
    struct kv_page *page, **table, *const **layer, *const *const **row;
    int *pos, B;
    struct attn a;
    struct rope rope;
    struct rows r;
    int what;
};

static void rest_step(void *arg)
{
    static struct pick picks[B_MAX];
    struct rest *t = arg;
    int n = t->what == 0 ? 2 * L + 1 : t->what == 3 ? 1 : L;
    for (int i = 0; i < n; i++) {
        if (t->what == 0) k->rmsnorm(t->q, t->x, t->w, 1e-5f, t->B, D);
        if (t->what == 1) k->swiglu(t->gate, t->gate, t->up, t->B, F);
        if (t->what == 2) k->rope_append(t->q, t->key, t->x, &t->rope, &t->r, 0, &t->a);
        if (t->what == 3) k->pick(picks, t->logits, t->B, V);
    }
}

static void bench_rest(int B)
{
    static const char *const names[] = {"rmsnorm", "swiglu", "rope", "pick"};
    struct rest t = {.B = B, .a = {H, G, E, DTYPE_F32, 1}};
    size_t page = (size_t)G * PAGE_TOKENS * E * sizeof(float);
    t.x = floats((size_t)B * D), t.w = floats(D), t.gate = floats((size_t)B * F), t.up = floats((size_t)B * F);
    t.logits = floats((size_t)B * V), t.q = floats((size_t)B * D), t.key = floats((size_t)B * D);
    t.cos = floats((size_t)B * E), t.sin = floats((size_t)B * E);
    t.page = calloc((size_t)B, sizeof *t.page), t.table = calloc((size_t)B, sizeof *t.table);
    t.layer = calloc((size_t)B, sizeof *t.layer), t.row = calloc((size_t)B, sizeof *t.row),
    t.pos = calloc((size_t)B, sizeof *t.pos);
    for (int b = 0; b < B; b++) {
        t.page[b] = (struct kv_page){k->alloc(page), k->alloc(page), NULL};
        t.table[b] = &t.page[b];
        t.layer[b] = &t.table[b];
        t.row[b] = &t.layer[b];
    }
    t.rope = (struct rope){t.cos, t.sin, E, 1};
    t.r = (struct rows){B, t.pos, t.row};
    for (t.what = 0; t.what < 4; t.what++) {
        struct timing r = timed(rest_step, &t);
        printf("%-8s B=%-3d best %7.3f median %7.3f ms a step\n", names[t.what], B, r.best * 1e3, r.median * 1e3);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    enum kernels_isa isa = KERNELS_BEST;
    if (argc > 1 && !strcmp(argv[1], "scalar")) isa = KERNELS_SCALAR;
    if (argc > 1 && !strcmp(argv[1], "avx2")) isa = KERNELS_AVX2;
    k = kernels_cpu(isa);
    if (!k) return 1;
    if (argc > 3) seconds = atof(argv[3]);
    printf("%s, %d threads\n", k->name, kernels_cpu_threads(argc > 2 ? atoi(argv[2]) : 0));
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (argc > 4 && (!strcmp(argv[4], dtype_name((enum dtype)t)) || !strcmp(argv[4], "all"))) bench_matmul((enum dtype)t);
    if (argc > 4) return 0;
    bench_matmul(DTYPE_Q4_1);
    bench_attend("own", DTYPE_F32, 32, 0, 0);
    bench_attend("shared", DTYPE_F32, 32, 1, 0);
    bench_attend("shared", DTYPE_F16, 32, 1, 0);
    bench_attend("alone", DTYPE_F32, 1, 0, 0);
    bench_attend("alone", DTYPE_F16, 1, 0, 0);
    bench_attend("prefill", DTYPE_F32, 512, 0, 1);
    bench_rest(1);
    bench_rest(32);
    return 0;
}
