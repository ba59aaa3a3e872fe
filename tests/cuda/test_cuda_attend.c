/* test_cuda_attend.c: turning and storing keys, and attention over pages that rows share. Pages of f32: up to CUDA_SPLIT of
 * them (256 tokens) the bits are the CPU's; beyond, runs are merged, and the outputs, averages of values of at most 1, agree
 * within 2e-6. Pages of 16 bits, where heads have whole eighths: the CPU is given the rounded queries, and what is left is the
 * rounding of the weights, half a unit in their last place. A row alone has the bits it has among others. */
#include "cuda_test.h"

enum { HEADS_MAX = 8, PAGES_MAX = 12, ONE_RUN = 256 };

/* Caches of B rows that share some pages; each page on the host, and the same on the device. */
struct caches {
    struct attn a;
    int B, n_pages;
    int *slot;                   /* (B) */
    struct kv_page *page[2];     /* (n_pages) of the host, of the device */
    struct kv_page ***tables[2]; /* (B)(slot/P + 1) */
    uint64_t **blocked;          /* (B)(H, slot/P + 1), an entry may be NULL */
};

static size_t page_bytes(const struct attn *a)
{
    return (size_t)a->G * PAGE_TOKENS * (size_t)a->E * (size_t)dtype_block_bytes(a->kv_type);
}

static void *random_page(const struct attn *a, int tokens)
{
    size_t n = (size_t)a->G * PAGE_TOKENS * (size_t)a->E;
    float *f = calloc(n, sizeof *f);
    void *p = malloc(page_bytes(a));
    for (int g = 0; g < a->G; g++)
        for (size_t i = 0; i < (size_t)tokens * (size_t)a->E; i++)
            f[(size_t)g * PAGE_TOKENS * (size_t)a->E + i] = random_float();
    kernels_narrow(p, a->kv_type, f, n);
    free(f);
    return p;
}

static int page_add(struct caches *c, int tokens, int hide)
{
    int at = c->n_pages++;
    struct kv_page *p = &c->page[0][at];
    p->k = random_page(&c->a, tokens);
    p->v = random_page(&c->a, tokens);
    p->hidden = hide ? calloc(HEADS_MAX, sizeof *p->hidden) : NULL;
    for (int g = 0; hide && g < c->a.G; g++)
        p->hidden[g] = hide == 2 ? ~(uint64_t)0 : (uint64_t)random_u32() << 32 | random_u32();
    c->page[1][at] = (struct kv_page){up(p->k, page_bytes(&c->a)), up(p->v, page_bytes(&c->a)), p->hidden};
    return at;
}

/* Rows in families of siblings that share all pages but the last; every third family is a prefill: one cache, rising slots. */
static void caches_make(struct caches *c, struct attn a, int B, int longest)
{
    size_t n = (size_t)B * PAGES_MAX + PAGES_MAX;
    *c = (struct caches){.a = a, .B = B};
    c->slot = calloc((size_t)B, sizeof *c->slot);
    c->blocked = calloc((size_t)B, sizeof *c->blocked);
    for (int side = 0; side < 2; side++) {
        c->page[side] = calloc(n, sizeof **c->page);
        c->tables[side] = calloc((size_t)B, sizeof **c->tables);
    }
    for (int b = 0; b < B;) {
        int family = 1 + random_below(9), prefill = random_below(3) == 0, base = random_below(longest), shared,
            prefix[PAGES_MAX];
        if (family > B - b) family = B - b;
        if (prefill && base + family > longest) base = longest - family;
        if (base < 0) base = 0;
        shared = prefill ? (base + family - 1) / PAGE_TOKENS + 1 : base / PAGE_TOKENS;
        for (int i = 0; i < shared; i++) {
            int tokens = prefill && i == shared - 1 ? (base + family - 1) % PAGE_TOKENS + 1 : PAGE_TOKENS;
            prefix[i] = page_add(c, tokens, random_below(4) == 0 ? 1 + random_below(2) : 0);
        }
        for (int i = 0; i < family; i++, b++) {
            int pages, own = -1;
            c->slot[b] = prefill ? base + i : base;
            pages = c->slot[b] / PAGE_TOKENS + 1;
            if (pages > shared) own = page_add(c, c->slot[b] % PAGE_TOKENS + 1, random_below(4) == 0);
            for (int side = 0; side < 2; side++) {
                const int held = prefill ? shared : pages;
                if (prefill && i > 0) {
                    c->tables[side][b] = c->tables[side][b - 1];
                    continue;
                }
                c->tables[side][b] = calloc((size_t)held, sizeof ***c->tables);
                for (int p = 0; p < held; p++) c->tables[side][b][p] = &c->page[side][p < shared ? prefix[p] : own];
            }
            if (random_below(2)) {
                c->blocked[b] = calloc((size_t)(a.H * pages), sizeof **c->blocked);
                for (int w = 0; w < a.H * pages; w++)
                    c->blocked[b][w] = random_below(3) ? 0 : random_below(4) ? (uint64_t)random_u32() << 20 : ~(uint64_t)0;
            }
        }
    }
}

static void caches_clear(struct caches *c)
{
    for (int i = 0; i < c->n_pages; i++) {
        free(c->page[0][i].k);
        free(c->page[0][i].v);
        free(c->page[0][i].hidden);
        cuda->release(c->page[1][i].k);
        cuda->release(c->page[1][i].v);
    }
    for (int b = 0; b < c->B; b++) {
        for (int side = 0; side < 2; side++)
            if (b == c->B - 1 || c->tables[side][b] != c->tables[side][b + 1]) free(c->tables[side][b]);
        free(c->blocked[b]);
    }
    for (int side = 0; side < 2; side++) {
        free(c->page[side]);
        free(c->tables[side]);
    }
    free(c->slot);
    free(c->blocked);
}

/* Rows first..first+B-1 on the device; inside of a pass, or without one. */
static float *attend(const struct caches *c, const float *q, int first, int B, int blocked, int pass)
{
    size_t row = (size_t)c->a.H * (size_t)c->a.E, n = (size_t)B * row;
    const struct rows *r = one_layer((struct kv_page *const *const *)c->tables[1] + first, c->slot + first, B);
    float *dq = up(q + (size_t)first * row, n * 4), *out = cuda->alloc(n * 4);
    if (pass) assert_int_equal(cuda->begin(r, 1, 0), 0);
    cuda->attend(out, dq, r, 0, blocked ? (const uint64_t *const *)c->blocked + first : NULL, &c->a);
    if (pass) cuda->end();
    cuda->release(dq);
    return down(out, n);
}

static int by_tensor_cores(const struct attn *a)
{
    return a->kv_type != DTYPE_F32 && a->E % 8 == 0;
}

/* The queries that the tensor cores see. */
static void round_queries(float *q, const struct attn *a, size_t n)
{
    uint16_t *narrow = malloc(n * sizeof *narrow);
    kernels_narrow(narrow, a->kv_type, q, n);
    kernels_widen(q, narrow, a->kv_type, n);
    free(narrow);
}

static void check_attend(struct attn a, int B, int longest, int blocked)
{
    struct caches c;
    size_t row = (size_t)a.H * (size_t)a.E, n = (size_t)B * row;
    float *q = random_floats(n, 3), *want = malloc(n * 4), *bound = malloc(n * 4), *all, *got;
    const float near = !by_tensor_cores(&a) ? 2e-6f : a.kv_type == DTYPE_BF16 ? 0x1p-8f + 2e-6f : 0x1p-11f + 2e-6f;
    caches_make(&c, a, B, longest);
    all = attend(&c, q, 0, B, blocked, B % 2);
    if (by_tensor_cores(&a)) {
        got = q;
        q = malloc(n * 4);
        memcpy(q, got, n * 4);
        round_queries(got, &a, n);
        cpu->attend(want, got, one_layer((struct kv_page *const *const *)c.tables[0], c.slot, B), 0,
                    blocked ? (const uint64_t *const *)c.blocked : NULL, &a);
        free(got);
    } else {
        cpu->attend(want, q, one_layer((struct kv_page *const *const *)c.tables[0], c.slot, B), 0,
                    blocked ? (const uint64_t *const *)c.blocked : NULL, &a);
    }
    for (int b = 0; b < B; b++)
        if (c.slot[b] < ONE_RUN && !by_tensor_cores(&a))
            check_same(all + (size_t)b * row, want + (size_t)b * row, row, "attend, one run", a.E, b);
    for (size_t i = 0; i < n; i++) bound[i] = near;
    check_near(all, want, bound, n, "attend", a.E, B);
    for (int i = 0; i < 6; i++) {
        int some = i < 4 ? 1 : 1 + random_below(B), first = random_below(B - some + 1);
        got = attend(&c, q, first, some, blocked, i % 2);
        check_same(got, all + (size_t)first * row, (size_t)some * row, "attend, some rows", a.E, some);
        free(got);
    }
    caches_clear(&c);
    free(q);
    free(want);
    free(bound);
    free(all);
}

static void attention_is_right_for_every_head_size_and_type(void **unused)
{
    static const int sizes[] = {2, 8, 16, 24, 32, 64, 80, 96, 128, 256};
    static const int heads[][2] = {{1, 1}, {2, 1}, {3, 3}, {9, 3}, {8, 2}, {7, 1}};
    (void)unused;
    for (int i = 0; i < rounds(10); i++)
        for (int t = DTYPE_F32; t <= DTYPE_BF16; t++) {
            const int *h = heads[random_below(6)];
            struct attn a = {h[0], h[1], sizes[i], (enum dtype)t, 1 / sqrtf((float)sizes[i]), 0, 0};
            check_attend(a, 1 + random_below(sizes[i] > 100 ? 6 : 14), t == DTYPE_F16 ? 700 : 250, t == DTYPE_BF16);
        }
}

static void attention_is_right_with_windows_caps_and_blocked_tokens(void **unused)
{
    (void)unused;
    for (int i = 0; i < rounds(8); i++) {
        static const int windows[] = {0, 1, 63, 64, 65, 130, 300, 1000};
        struct attn a = {4, 2, 16, DTYPE_F32, 0.25f, i % 3 ? 0 : 5, windows[i]};
        check_attend(a, 12, i % 2 ? 600 : 250, i % 4 < 2);
        a.kv_type = i % 2 ? DTYPE_F16 : DTYPE_BF16;
        check_attend(a, 12, i % 2 ? 600 : 250, i % 4 < 2);
    }
}

static void attention_is_right_for_many_rows_and_many_heads(void **unused)
{
    (void)unused;
    check_attend((struct attn){9, 3, 64, DTYPE_F32, 0.125f, 0, 0}, rounds(70), 140, 0);
    check_attend((struct attn){80, 1, 32, DTYPE_BF16, 0.2f, 0, 0}, 3, 300,
                 0); /* more heads of a group than queries of a block */
    /* On the emulator's four processors a warp has a tile here, and a page where some of these rows are alone. */
    check_attend((struct attn){32, 8, 16, DTYPE_BF16, 0.2f, 0, 0}, rounds(60), 300, 1);
    check_attend((struct attn){8, 8, 128, DTYPE_F16, 0.1f, 0, 200}, rounds(60), 500, 0);
    /* Its cache is small, too: the sums of runs of these do not fit at once. */
    check_attend((struct attn){4, 2, 16, DTYPE_BF16, 0.2f, 0, 0}, 150, 400, 1);
    check_attend((struct attn){4, 2, 16, DTYPE_F32, 0.2f, 0, 0}, 150, 400, 1);
}

/* A query sees nothing of what its neighbours in a product read: they have pages full of infinities. */
static void infinities_stay_with_the_rows_that_see_them(void **unused)
{
    (void)unused;
    for (int i = 0; i < rounds(10); i++) {
        struct attn a = {i % 2 ? 4 : 8, 2, 16, i % 3 ? DTYPE_BF16 : DTYPE_F16, 0.25f, 0, 0};
        struct caches c;
        size_t row = (size_t)a.H * (size_t)a.E, n = 12 * row;
        float *q = random_floats(n, 1), *want = malloc(n * 4), *rounded = malloc(n * 4), *out, *alone;
        caches_make(&c, a, 12, 250);
        for (int p = 0; p < c.n_pages; p += 3) {
            float odd = i % 3 ? INFINITY : NAN;
            free(
                c.page[0][p].hidden); /* of a page that nobody sees, the CPU takes 0 times infinity, the tensor cores nothing */
            c.page[0][p].hidden = c.page[1][p].hidden = NULL;
            kernels_narrow((uint16_t *)(i % 2 ? c.page[0][p].k : c.page[0][p].v) + random_below(16), a.kv_type, &odd, 1);
            cuda->put(c.page[1][p].k, c.page[0][p].k, page_bytes(&a));
            cuda->put(c.page[1][p].v, c.page[0][p].v, page_bytes(&a));
        }
        memcpy(rounded, q, n * 4);
        round_queries(rounded, &a, n);
        cpu->attend(want, rounded, one_layer((struct kv_page *const *const *)c.tables[0], c.slot, 12), 0, NULL, &a);
        out = attend(&c, q, 0, 12, 0, 1);
        for (size_t e = 0; e < n; e++)
            if (isfinite(out[e]) != isfinite(want[e]) || (isfinite(want[e]) && fabsf(out[e] - want[e]) > 0x1p-8f + 2e-6f))
                fail_msg("round %d: element %zu is %g, and about %g was expected", i, e, (double)out[e], (double)want[e]);
        for (int b = 0; b < 12; b++) {
            alone = attend(&c, q, b, 1, 0, 1);
            check_same(alone, out + (size_t)b * row, row, "beside infinities", i, b);
            free(alone);
        }
        caches_clear(&c);
        free(q), free(want), free(rounded), free(out);
    }
}

static void infinite_and_missing_numbers_go_the_way_of_the_cpu(void **unused)
{
    static const float odd[] = {INFINITY, -INFINITY, NAN, 1e30f, -0.0f};
    (void)unused;
    for (int i = 0; i < rounds(20); i++) {
        struct attn a = {4, 2, 16, DTYPE_F32, 0.25f, 0, 0};
        struct caches c;
        float *q = random_floats(4 * 64, 1), want[4 * 64], *out;
        caches_make(&c, a, 4, 250);
        for (int p = 0; p < c.n_pages; p++) {
            ((float *)(i % 2 ? c.page[0][p].k : c.page[0][p].v))[random_below(64)] = odd[i % 5];
            cuda->put(c.page[1][p].k, c.page[0][p].k, page_bytes(&a));
            cuda->put(c.page[1][p].v, c.page[0][p].v, page_bytes(&a));
        }
        cpu->attend(want, q, one_layer((struct kv_page *const *const *)c.tables[0], c.slot, 4), 0, NULL, &a);
        out = attend(&c, q, 0, 4, 0, 1);
        check_same(out, want, sizeof want / sizeof *want, "odd numbers", i, 0);
        caches_clear(&c);
        free(q);
        free(out);
    }
}

static void rope_append_equals_the_cpu(void **unused)
{
    static const int sizes[][2] = {{8, 8}, {24, 8}, {64, 64}, {80, 32}, {128, 128}, {256, 64}, {64, 0}};
    (void)unused;
    for (int round = 0; round < rounds(42); round++) {
        const int E = sizes[round % 7][0], half = sizes[round % 7][1] / 2, B = round < 28 ? 1 + random_below(6) : 30;
        struct attn a = {4, 2, E, (enum dtype)(round / 7 % 3), 1, 0, 0};
        size_t nq = (size_t)B * 4 * (size_t)E, nk = (size_t)B * 2 * (size_t)E, nr = (size_t)(B * half), bytes = page_bytes(&a);
        float *q = random_floats(nq, 1), *k = random_floats(nk, 1), *v = random_floats(nk, 1), *cos = random_floats(nr, 1),
              *sin = random_floats(nr, 1), *dq, *dk, *dv, *dc, *ds, *got;
        char *host = calloc((size_t)B * 2, bytes), *back = malloc((size_t)B * 2 * bytes),
             *device = cuda->alloc((size_t)B * 2 * bytes);
        struct kv_page *pages = calloc((size_t)B * 2, sizeof *pages), **tables = calloc((size_t)B * 2, sizeof *tables);
        struct kv_page *const **rows = calloc((size_t)B * 2, sizeof *rows);
        int *slot = calloc((size_t)B, sizeof *slot);
        struct rope r = {cos, sin, 2 * half, round % 2}, dr;
        for (size_t i = 0; i < nk; i += 7) v[i] *= random_below(2) ? 1e-6f : 1e6f; /* f16's denormals and infinity */
        for (int b = 0; b < 2 * B; b++) {
            char *at = (b < B ? host : device) + (size_t)(b % B) * 2 * bytes;
            pages[b] = (struct kv_page){at, at + bytes, NULL};
            tables[b] = &pages[b];
            rows[b] = &tables[b];
            slot[b % B] = b % PAGE_TOKENS;
        }
        dq = up(q, nq * 4), dk = up(k, nk * 4), dv = up(v, nk * 4), dc = up(cos, nr * 4), ds = up(sin, nr * 4);
        dr = (struct rope){dc, ds, 2 * half, round % 2};
        cpu->rope_append(q, k, v, &r, one_layer(rows, slot, B), 0, &a);
        cuda->rope_append(dq, dk, dv, &dr, one_layer(rows + B, slot, B), 0, &a);
        cuda->get(back, device, (size_t)B * 2 * bytes);
        assert_memory_equal(back, host, (size_t)B * 2 * bytes);
        got = down(dq, nq);
        check_same(got, q, nq, "q", E, B);
        free(got);
        got = down(dk, nk);
        check_same(got, k, nk, "k", E, B);
        free(got);
        cuda->release(dv);
        cuda->release(dc);
        cuda->release(ds);
        cuda->release(device);
        free(q), free(k), free(v), free(cos), free(sin), free(host), free(back), free(pages), free(tables), free(rows),
            free(slot);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_append_equals_the_cpu),
        cmocka_unit_test(attention_is_right_for_every_head_size_and_type),
        cmocka_unit_test(attention_is_right_with_windows_caps_and_blocked_tokens),
        cmocka_unit_test(attention_is_right_for_many_rows_and_many_heads),
        cmocka_unit_test(infinities_stay_with_the_rows_that_see_them),
        cmocka_unit_test(infinite_and_missing_numbers_go_the_way_of_the_cpu),
    };
    int skip = open_or_skip();
    return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
