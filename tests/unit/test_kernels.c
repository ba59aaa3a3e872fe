/* test_kernels.c: every operation of every instruction set against cpu_scalar.c, which is the definition, bit by bit. */
#include "../../kernels/kernels.h"
#include "one_layer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- random inputs, comparison ---- */

static uint64_t state = 88172645463325252u;

static uint32_t random_u32(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static int random_below(int n)
{
    return (int)(random_u32() % (uint32_t)n);
}

static float random_float(void) /* -1..1 */
{
    return (float)((int)(random_u32() % 2000001) - 1000000) * 1e-6f;
}

static float *random_floats(size_t n)
{
    float *f = malloc(n * sizeof *f);
    for (size_t i = 0; i < n; i++) f[i] = random_float();
    return f;
}

/* Index of the first float that differs in a bit, or -1. A NaN equals a NaN. */
static long first_difference(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0 && !(a[i] != a[i] && b[i] != b[i])) return (long)i;
    return -1;
}

#define ASSERT_SAME(a, b, n, ...)                                                                         \
    do {                                                                                                  \
        long at = first_difference(a, b, n);                                                              \
        if (at >= 0) {                                                                                    \
            print_error(__VA_ARGS__);                                                                     \
            fail_msg(": element %ld is %a, the definition has %a", at, (double)(a)[at], (double)(b)[at]); \
        }                                                                                                 \
    } while (0)

static const struct kernels *isa_or_skip(void **isa)
{
    const struct kernels *k = kernels_cpu(*(enum kernels_isa *)*isa);
    if (!k) {
        print_message("skipped: this processor lacks %s\n", *(enum kernels_isa *)*isa == KERNELS_AVX2 ? "AVX2" : "AVX-512");
        skip();
    }
    return k;
}

static const struct kernels *scalar(void)
{
    return kernels_cpu(KERNELS_SCALAR);
}

/* ---- weights ---- */

static uint16_t f16_of(float f) /* of normal, exactly representable or nearly so; exactness does not matter here */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) < 0x38800000) return (uint16_t)(u >> 16 & 0x8000);
    return (uint16_t)((u >> 16 & 0x8000) | ((u & 0x7fffffff) - 0x38000000) >> 13);
}

/* Random bits with moderate scales: where the f16 numbers of a block lie; the same place twice when there is one. */
static struct mat random_mat(enum dtype t, int rows, int cols)
{
    static const int f16_at[DTYPE_COUNT][2] = {
        [DTYPE_Q4_1] = {0, 2}, [DTYPE_Q5_1] = {0, 2}, [DTYPE_Q2_K] = {80, 82},  [DTYPE_Q3_K] = {108, 108},
        [DTYPE_Q4_K] = {0, 2}, [DTYPE_Q5_K] = {0, 2}, [DTYPE_Q6_K] = {208, 208}};
    struct mat w = {t, rows, cols, NULL};
    size_t bytes = mat_row_bytes(&w), total = bytes * (size_t)rows;
    uint8_t *data = malloc(total);
    for (size_t i = 0; i < total; i++) data[i] = (uint8_t)random_u32();
    for (size_t i = 0; i < total; i += (size_t)dtype_block_bytes(t)) {
        float f = random_float();
        uint16_t d = f16_of(f * 0.1f), m = f16_of(random_float());
        if (t == DTYPE_F32) {
            memcpy(data + i, &f, 4);
        } else if (t == DTYPE_BF16) {
            memcpy(data + i, (char *)&f + 2, 2);
        } else {
            memcpy(data + i + f16_at[t][1], &m, 2);
            memcpy(data + i + f16_at[t][0], &d, 2);
        }
    }
    w.data = data;
    return w;
}

/* ---- matmul ---- */

/* All batch sizes and thread counts against one run of the definition over the largest batch: row b must not depend on B. */
static void check_matmul(const struct kernels *k, enum dtype t, int rows, int cols, int most)
{
    static const int batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 31, 33, 64, 65, 129, 512};
    int ldy = rows + 3;
    struct mat w = random_mat(t, rows, cols);
    size_t n = (size_t)ldy * (size_t)most;
    float *x = random_floats((size_t)most * (size_t)cols), *start = random_floats(n);
    float *want = malloc(n * sizeof *want), *y = malloc(n * sizeof *y);
    for (int then = MATMUL_STORE; then <= MATMUL_ADD; then++) {
        memcpy(want, start, n * sizeof *want);
        scalar()->matmul(want, ldy, &w, x, most, (enum matmul_then)then);
        for (size_t i = 0; i < sizeof batches / sizeof *batches && batches[i] <= most; i++) {
            for (int threads = 1; threads <= 2; threads++) {
                size_t used = (size_t)batches[i] * (size_t)ldy;
                kernels_cpu_threads(threads);
                memcpy(y, start, n * sizeof *y);
                k->matmul(y, ldy, &w, x, batches[i], (enum matmul_then)then);
                ASSERT_SAME(y, want, used, "%s %s rows %d cols %d B %d threads %d", k->name, dtype_name(t), rows, cols,
                            batches[i], threads);
                ASSERT_SAME(y + used, start + used, n - used, "%s writes past row B", k->name);
            }
        }
    }
    free((void *)w.data);
    free(x);
    free(start);
    free(want);
    free(y);
}

static void matmul_equals_the_definition_for_every_type_batch_and_team(void **isa)
{
    static const int shapes[][3] = {/* rows, blocks of 32, largest B */
                                    {1, 1, 5},    {3, 2, 16},  {4, 3, 8},     {13, 18, 65}, {50, 9, 512},
                                    {37, 48, 33}, {30, 49, 8}, {12, 100, 16}, {9, 113, 129}};
    const struct kernels *k = isa_or_skip(isa);
    for (int t = 0; t < DTYPE_COUNT; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            if (dtype_block((enum dtype)t) == 256 && i % 2 == 0) continue; /* these share one path */
            int block = dtype_block((enum dtype)t), cols = (shapes[i][1] * 32 + block - 1) / block * block;
            check_matmul(k, (enum dtype)t, shapes[i][0], cols, shapes[i][2]);
        }
}

static void matmul_equals_the_definition_for_odd_numbers_of_columns(void **isa)
{
    static const int cols[] = {1, 2, 7, 15, 16, 17, 24, 31, 33, 40, 80, 100, 1535, 1537, 1552, 3001};
    const struct kernels *k = isa_or_skip(isa);
    for (int t = DTYPE_F32; t <= DTYPE_BF16; t++)
        for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
            check_matmul(k, (enum dtype)t, 7, cols[i], 5);
            check_matmul(k, (enum dtype)t, 30, cols[i], 33);
        }
}

/* ---- attention ---- */

enum { HEADS_MAX = 8 }; /* kv heads in these tests */

/* Caches of B rows that share some pages, and one pass over them by a table. */
struct caches {
    struct attn a;
    int B, n_pages;           /* pages in all */
    int *pos;                 /* (B) */
    struct kv_page *pages;    /* (n_pages), owned with what they point to */
    struct kv_page ***tables; /* (B)(pos/P + 1) */
};

static size_t page_bytes(const struct attn *a)
{
    return (size_t)a->G * PAGE_TOKENS * (size_t)a->E * (size_t)dtype_block_bytes(a->kv_type);
}

static void page_put(void *p, enum dtype t, size_t i, float f)
{
    if (t == DTYPE_F32)
        ((float *)p)[i] = f;
    else if (t == DTYPE_F16)
        ((uint16_t *)p)[i] = f16_of(f);
    else
        memcpy((uint16_t *)p + i, (char *)&f + 2, 2);
}

static struct kv_page *page_add(struct caches *c, int tokens, int hide)
{
    struct kv_page *p = &c->pages[c->n_pages++];
    p->k = calloc(1, page_bytes(&c->a));
    p->v = calloc(1, page_bytes(&c->a));
    p->hidden = NULL;
    for (int g = 0; g < c->a.G; g++)
        for (size_t i = 0; i < (size_t)tokens * (size_t)c->a.E; i++) {
            size_t at = (size_t)g * PAGE_TOKENS * (size_t)c->a.E + i;
            page_put(p->k, c->a.kv_type, at, 2 * random_float());
            page_put(p->v, c->a.kv_type, at, random_float());
        }
    if (hide) {
        p->hidden = calloc(HEADS_MAX, sizeof *p->hidden);
        for (int g = 0; g < c->a.G; g++) p->hidden[g] = hide == 2 ? ~(uint64_t)0 : (uint64_t)random_u32() << 32 | random_u32();
    }
    return p;
}

/* Rows in families of siblings that share all pages but the last; every third family is a prefill: one cache, rising pos. */
static void caches_make(struct caches *c, struct attn a, int B)
{
    *c = (struct caches){.a = a, .B = B};
    c->pos = calloc((size_t)B, sizeof *c->pos);
    c->tables = calloc((size_t)B, sizeof *c->tables);
    c->pages = calloc((size_t)B * 8 + 8, sizeof *c->pages);
    for (int b = 0; b < B;) {
        int family = 1 + random_below(12), prefill = random_below(3) == 0, base = random_below(200), shared;
        struct kv_page *prefix[8];
        if (family > B - b) family = B - b;
        shared = prefill ? (base + family - 1) / PAGE_TOKENS + 1 : base / PAGE_TOKENS;
        for (int i = 0; i < shared; i++) {
            int tokens = prefill && i == shared - 1 ? (base + family - 1) % PAGE_TOKENS + 1 : PAGE_TOKENS;
            prefix[i] = page_add(c, tokens, random_below(4) == 0 ? 1 + random_below(2) : 0);
        }
        for (int i = 0; i < family; i++, b++) {
            int n;
            c->pos[b] = prefill ? base + i : base;
            n = c->pos[b] / PAGE_TOKENS + 1;
            c->tables[b] = calloc((size_t)n, sizeof *c->tables[b]);
            for (int p = 0; p < n; p++)
                c->tables[b][p] = p < shared ? prefix[p] : page_add(c, c->pos[b] % PAGE_TOKENS + 1, random_below(4) == 0);
        }
    }
}

static void caches_clear(struct caches *c)
{
    for (int i = 0; i < c->n_pages; i++) {
        free(c->pages[i].k);
        free(c->pages[i].v);
        free(c->pages[i].hidden);
    }
    for (int b = 0; b < c->B; b++) free(c->tables[b]);
    free(c->pages);
    free(c->tables);
    free(c->pos);
}

static void check_attend(const struct kernels *k, struct attn a, int B)
{
    struct caches c;
    size_t row = (size_t)a.H * (size_t)a.E, n = (size_t)B * row;
    float *q = random_floats(n), *want = malloc(n * sizeof *want), *out = malloc(n * sizeof *out);
    caches_make(&c, a, B);
    scalar()->attend(want, q, one_layer((struct kv_page *const *const *)c.tables, c.pos, B), 0, NULL, &a);
    for (int threads = 1; threads <= 2; threads++) {
        kernels_cpu_threads(threads);
        memset(out, 0xff, n * sizeof *out);
        k->attend(out, q, one_layer((struct kv_page *const *const *)c.tables, c.pos, B), 0, NULL, &a);
        ASSERT_SAME(out, want, n, "%s E %d H %d G %d kv %s B %d threads %d", k->name, a.E, a.H, a.G, dtype_name(a.kv_type), B,
                    threads);
    }
    for (int b = 0; b < B; b += 1 + B / 4) { /* alone as among the others */
        k->attend(out, q + (size_t)b * row, one_layer((struct kv_page *const *const *)c.tables + b, c.pos + b, 1), 0, NULL, &a);
        ASSERT_SAME(out, want + (size_t)b * row, row, "%s E %d H %d G %d row %d alone", k->name, a.E, a.H, a.G, b);
    }
    caches_clear(&c);
    free(q);
    free(want);
    free(out);
}

static void attend_equals_the_definition_for_every_head_size_and_type(void **isa)
{
    static const int sizes[] = {8, 16, 24, 32, 64, 80, 96, 128, 256};
    static const int heads[][2] = {{1, 1}, {2, 1}, {3, 3}, {9, 3}, {8, 2}, {7, 1}};
    const struct kernels *k = isa_or_skip(isa);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int t = DTYPE_F32; t <= DTYPE_BF16; t++)
            for (int n = 0; n < 2; n++) {
                const int *h = heads[random_below(6)];
                struct attn a = {h[0], h[1], sizes[i], (enum dtype)t, 1 / sqrtf((float)sizes[i])};
                check_attend(k, a, 1 + random_below(sizes[i] > 100 ? 8 : 20));
            }
}

static void attend_equals_the_definition_for_many_rows_and_many_heads(void **isa)
{
    const struct kernels *k = isa_or_skip(isa);
    check_attend(k, (struct attn){9, 3, 64, DTYPE_F32, 0.125f}, 120);
    check_attend(k, (struct attn){3, 1, 32, DTYPE_F16, 0.2f}, 512);
    check_attend(k, (struct attn){80, 1, 256, DTYPE_BF16, 0.0625f}, 3); /* more queries of a unit than a block holds */
}

static void attend_is_the_same_with_infinite_and_missing_numbers(void **isa)
{
    const struct kernels *k = isa_or_skip(isa);
    static const float odd[] = {INFINITY, -INFINITY, NAN, 1e30f, -0.0f};
    for (int i = 0; i < 20; i++) {
        struct attn a = {4, 2, 16, DTYPE_F32, 0.25f};
        struct caches c;
        float *q = random_floats(4 * 64), want[4 * 64], out[4 * 64];
        caches_make(&c, a, 4);
        for (int p = 0; p < c.n_pages; p++) ((float *)c.pages[p].k)[random_below(64)] = odd[i % 5];
        scalar()->attend(want, q, one_layer((struct kv_page *const *const *)c.tables, c.pos, 4), 0, NULL, &a);
        k->attend(out, q, one_layer((struct kv_page *const *const *)c.tables, c.pos, 4), 0, NULL, &a);
        ASSERT_SAME(out, want, sizeof out / sizeof *out, "%s", k->name);
        caches_clear(&c);
        free(q);
    }
}

static void rope_append_equals_the_definition(void **isa)
{
    static const int sizes[][2] = {{8, 8}, {24, 8}, {64, 64}, {80, 32}, {128, 128}, {256, 64}};
    const struct kernels *k = isa_or_skip(isa);
    for (int round = 0; round < 36; round++) {
        const int *size = sizes[round % 6];
        int E = size[0], half = size[1] / 2, B = round < 24 ? 1 + random_below(6) : 70;
        struct attn a = {4, 2, E, (enum dtype)(round / 6 % 3), 1};
        size_t nq = (size_t)B * 4 * (size_t)E, nk = (size_t)B * 2 * (size_t)E, bytes = page_bytes(&a);
        float *q[2] = {random_floats(nq), malloc(nq * 4)}, *key[2] = {random_floats(nk), malloc(nk * 4)},
              *v = random_floats(nk);
        float *c = random_floats((size_t)(B * half)), *s = random_floats((size_t)(B * half));
        char *memory[2] = {calloc((size_t)B * 2, bytes), calloc((size_t)B * 2, bytes)};
        struct rope r = {c, s, size[1], round % 2};
        int *pos = calloc((size_t)B, sizeof *pos);
        struct kv_page *pages = calloc((size_t)B, sizeof *pages), **tables = calloc((size_t)B, sizeof *tables);
        struct kv_page *const **rows = calloc((size_t)B, sizeof *rows);
        for (size_t i = 0; i < nk; i += 7) v[i] *= random_below(2) ? 1e-6f : 1e6f; /* f16's denormals and infinity */
        memcpy(q[1], q[0], nq * 4);
        memcpy(key[1], key[0], nk * 4);
        kernels_cpu_threads(2);
        for (int way = 0; way < 2; way++) {
            for (int b = 0; b < B; b++) {
                pages[b] =
                    (struct kv_page){memory[way] + (size_t)b * 2 * bytes, memory[way] + ((size_t)b * 2 + 1) * bytes, NULL};
                pos[b] = b % PAGE_TOKENS;
                tables[b] = &pages[b];
                rows[b] = &tables[b];
            }
            (way ? k : scalar())->rope_append(q[way], key[way], v, &r, one_layer(rows, pos, B), 0, &a);
        }
        ASSERT_SAME(q[1], q[0], nq, "q, %s E %d", k->name, E);
        ASSERT_SAME(key[1], key[0], nk, "k, %s E %d", k->name, E);
        assert_memory_equal(memory[0], memory[1], (size_t)B * 2 * bytes);
        for (int i = 0; i < 2; i++) {
            free(q[i]);
            free(key[i]);
            free(memory[i]);
        }
        free(v);
        free(c);
        free(s);
        free(pos);
        free(pages);
        free(tables);
        free(rows);
    }
}

/* ---- rows on their own ---- */

static void norm_and_swiglu_equal_the_definition(void **isa)
{
    static const int widths[] = {1, 7, 16, 17, 33, 576, 1536, 2049};
    const struct kernels *k = isa_or_skip(isa);
    for (int i = 0; i < 32; i++) {
        int D = widths[i % 8], B = i < 16 ? 1 + random_below(4) : 40;
        size_t n = (size_t)B * (size_t)D;
        float *x = random_floats(n), *w = random_floats(n), *want = malloc(n * 4), *y = malloc(n * 4);
        kernels_cpu_threads(1 + i % 2);
        scalar()->rmsnorm(want, x, w, 1e-5f, B, D);
        memcpy(y, x, n * 4);
        k->rmsnorm(y, y, w, 1e-5f, B, D); /* in place */
        ASSERT_SAME(y, want, n, "rmsnorm %s B %d D %d", k->name, B, D);
        for (size_t j = 0; j < n; j++) x[j] *= j % 5 ? 10 : 150;
        if (n > 40) x[3] = INFINITY, x[9] = -INFINITY, x[17] = NAN, x[20] = 0.0f, x[21] = -0.0f;
        scalar()->swiglu(want, x, w, B, D);
        k->swiglu(y, x, w, B, D);
        ASSERT_SAME(y, want, n, "swiglu %s B %d F %d", k->name, B, D);
        free(x);
        free(w);
        free(want);
        free(y);
    }
}

static void embed_equals_the_definition(void **isa)
{
    const struct kernels *k = isa_or_skip(isa);
    for (int t = 0; t < DTYPE_COUNT; t++) {
        int cols = 3 * (dtype_block((enum dtype)t) == 1 ? 13 : dtype_block((enum dtype)t)), ids[] = {4, 0, 6, 6};
        struct mat w = random_mat((enum dtype)t, 7, cols);
        float *want = malloc((size_t)cols * 16), *x = malloc((size_t)cols * 16);
        scalar()->embed(want, &w, ids, 4);
        k->embed(x, &w, ids, 4);
        ASSERT_SAME(x, want, (size_t)cols * 4, "embed %s %s", k->name, dtype_name((enum dtype)t));
        free((void *)w.data);
        free(want);
        free(x);
    }
}

static void pick_equals_the_definition(void **isa)
{
    static const int sizes[] = {1, 2, 15, 16, 17, 100, 4099};
    const struct kernels *k = isa_or_skip(isa);
    for (int i = 0; i < 70; i++) {
        int V = sizes[i % 7], B = 1 + i % 5;
        float *x = random_floats((size_t)(V * B));
        struct pick want[5], got[5];
        for (int j = 0; j < V * B; j++) x[j] = i % 2 ? floorf(x[j] * 3) : x[j] * 40; /* ties; a wide range */
        if (i % 10 == 9) x[random_below(V * B)] = i % 20 == 9 ? NAN : -INFINITY;
        if (i % 10 == 7) memset(x, 0, sizeof *x * (size_t)(V * B));
        if (i % 10 == 7) x[random_below(V * B)] = -0.0f;
        kernels_cpu_threads(1 + i % 2);
        scalar()->pick(want, x, B, V);
        k->pick(got, x, B, V);
        for (int b = 0; b < B; b++) {
            assert_int_equal(got[b].token, want[b].token);
            ASSERT_SAME(&got[b].logprob, &want[b].logprob, 1, "logprob %s V %d", k->name, V);
            ASSERT_SAME(&got[b].margin, &want[b].margin, 1, "margin %s V %d", k->name, V);
        }
        free(x);
    }
}

/* ---- the comparison itself ---- */

static float sum_in_order(const float *lane, int rising)
{
    float l[16];
    memcpy(l, lane, sizeof l);
    for (int step = 8; step; step /= 2)
        for (int j = 0; j < 16; j++) {
            int width = rising ? 8 / step : step;
            if (j % (2 * width) < width) l[j] += l[j + width];
        }
    return l[0];
}

static void comparison_notices_another_order_of_the_tree(void **unused)
{
    float *x = random_floats(64 * 100), *w = random_floats(64), want[100], other[100], same[100];
    struct mat m = {DTYPE_F32, 1, 64, w};
    (void)unused;
    scalar()->matmul(want, 1, &m, x, 100, MATMUL_STORE);
    for (int b = 0; b < 100; b++) {
        float lane[16] = {0};
        for (int i = 0; i < 64; i++) lane[i % 16] = fmaf(w[i], x[b * 64 + i], lane[i % 16]);
        same[b] = sum_in_order(lane, 0);
        other[b] = sum_in_order(lane, 1);
    }
    assert_int_equal(first_difference(same, want, 100), -1);
    assert_true(first_difference(other, want, 100) >= 0);
    free(x);
    free(w);
}

int main(void)
{
    static enum kernels_isa isas[] = {KERNELS_AVX2, KERNELS_AVX512};
#define BOTH(f)                               \
    {#f " avx2", f, NULL, NULL, &isas[0]},    \
    {                                         \
#f " avx512", f, NULL, NULL, &isas[1] \
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparison_notices_another_order_of_the_tree),
        BOTH(matmul_equals_the_definition_for_every_type_batch_and_team),
        BOTH(matmul_equals_the_definition_for_odd_numbers_of_columns),
        BOTH(attend_equals_the_definition_for_every_head_size_and_type),
        BOTH(attend_equals_the_definition_for_many_rows_and_many_heads),
        BOTH(attend_is_the_same_with_infinite_and_missing_numbers),
        BOTH(rope_append_equals_the_definition),
        BOTH(norm_and_swiglu_equal_the_definition),
        BOTH(embed_equals_the_definition),
        BOTH(pick_equals_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
