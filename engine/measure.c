/* measure.c: how long each operation of a decoding step takes, and what the machine does at most; see machine.h.
 *
 * Operations are measured one kind at a time over all layers, so that no weight is still in a cache from the time before. The
 * device is asked for a few bytes at the end of each turn, which waits for what was queued.
 */
#include "../kernels/limits.h"
#include "internal.h"
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TURNS = 500 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median of the turns that fit into the seconds, three at least, behind one that does not count. */
static double timed(void (*turn)(void *), void *arg, double seconds)
{
    double t[TURNS], start;
    int n = 0;
    turn(arg);
    for (start = now(); n < TURNS && (n < 3 || now() - start < seconds); n++) {
        double from = now();
        turn(arg);
        t[n] = now() - from;
    }
    qsort(t, (size_t)n, sizeof *t, by_size);
    return t[n / 2];
}

/* ---- limits ---- */

struct limit {
    const struct kernels *k;
    enum kernels_isa isa;
    char *a, *b;
    size_t bytes;
    struct mat w;
    int B;
    double flops;
};

static void wait_for(const struct kernels *k, const void *p)
{
    char some[4];
    k->get(some, p, sizeof some);
}

static void read_host(void *arg)
{
    struct limit *t = arg;
    limits_read(t->isa, (const float *)(const void *)t->a, t->bytes / sizeof(float));
}

static void fma_host(void *arg)
{
    struct limit *t = arg;
    t->flops = limits_fma(t->isa, 64, 100000);
}

static void copy_device(void *arg)
{
    struct limit *t = arg;
    t->k->copy(t->b, t->a, t->bytes);
    wait_for(t->k, t->b);
}

static void matmul_device(void *arg)
{
    struct limit *t = arg;
    t->k->matmul((float *)(void *)t->b, t->w.rows, &t->w, (const float *)(const void *)t->a, t->B, MATMUL_STORE);
    wait_for(t->k, t->b);
}

static int limits_cpu(engine *en, double seconds, struct machine_limits *out, err *e)
{
    struct limit t = {.k = en->k, .bytes = (size_t)256 << 20};
    t.isa = strcmp(en->k->name, "scalar") == 0 ? KERNELS_SCALAR
            : strcmp(en->k->name, "avx2") == 0 ? KERNELS_AVX2
                                               : KERNELS_AVX512;
    t.a = en->k->alloc(t.bytes);
    if (!t.a) return err_set(e, ERR_ENV, "no memory to measure its speed");
    out->read = (double)t.bytes / timed(read_host, &t, seconds);
    snprintf(out->read_how, sizeof out->read_how, "reading 256 MiB, all threads");
    out->flops = timed(fma_host, &t, seconds);
    out->flops = t.flops / out->flops;
    snprintf(out->flops_how, sizeof out->flops_how, "fused multiply-adds in registers, all threads, f32");
    en->k->release(t.a);
    return 0;
}

/* One turn that does not count, then one that does. */
static double once(void (*turn)(void *), struct limit *t)
{
    double from;
    turn(t);
    from = now();
    turn(t);
    return now() - from;
}

/* The most arithmetic is what the better of the two products does: a limit that the library exceeds would be none. */
static void limits_library(engine *en, const struct limit *t, struct machine_limits *out)
{
    const char *why = "";
    double seconds, ours = out->flops, theirs;
    if (!en->k->library_matmul) return;
    seconds = en->k->library_matmul(t->w.rows, t->w.cols, t->B, &why);
    out->vendor = seconds > 0;
    if (!out->vendor) {
        snprintf(out->vendor_why, sizeof out->vendor_why, "%s", why);
        return;
    }
    theirs = 2.0 * t->w.rows * t->w.cols * t->B / seconds;
    if (theirs > ours) out->flops = theirs;
    snprintf(out->flops_how, sizeof out->flops_how, "a bf16 product of %d x %d and %d rows, %s", t->w.rows, t->w.cols, t->B,
             theirs > ours ? "cuBLAS's" : "ours, not cuBLAS's");
}

/* The largest copy and the largest product that are worth their time: on a GPU 1 GiB and 8192 x 8192 with 2048 rows, in the
   emulator a few thousandths of that. The arithmetic of a GPU is taken from a product, since the table has no operation that
   only multiplies and adds. */
static int limits_gpu(engine *en, double seconds, struct machine_limits *out, err *e)
{
    static const double enough = 2e-3;
    struct limit t = {.k = en->k};
    int n;
    for (t.bytes = (size_t)1 << 20;; t.bytes *= 4) {
        t.a = en->k->alloc(t.bytes);
        t.b = en->k->alloc(t.bytes);
        if (!t.a || !t.b) goto no_memory;
        if (t.bytes >= (size_t)1 << 30 || once(copy_device, &t) > enough) break;
        en->k->release(t.a);
        en->k->release(t.b);
    }
    out->read = 2 * (double)t.bytes / timed(copy_device, &t, seconds);
    snprintf(out->read_how, sizeof out->read_how, "copying %zu MiB within the device, read and written", t.bytes >> 20);
    for (n = 64;; n *= 2) {
        en->k->release(t.a);
        en->k->release(t.b);
        t.B = n / 4;
        t.w = (struct mat){DTYPE_BF16, n, n, NULL, 0};
        t.a = en->k->alloc((size_t)n * (size_t)n * 2 + (size_t)t.B * (size_t)n * sizeof(float)); /* rows, then weights */
        t.b = en->k->alloc((size_t)t.B * (size_t)n * sizeof(float));
        if (!t.a || !t.b) goto no_memory;
        t.w.data = t.a + (size_t)t.B * (size_t)n * sizeof(float);
        if (n >= 8192 || once(matmul_device, &t) > enough) break;
    }
    out->flops = 2.0 * n * n * t.B / timed(matmul_device, &t, seconds);
    snprintf(out->flops_how, sizeof out->flops_how, "a bf16 product of %d x %d and %d rows", n, n, t.B);
    limits_library(en, &t, out);
    en->k->release(t.a);
    en->k->release(t.b);
    return trouble_take(en, e);
no_memory:
    en->k->release(t.a);
    en->k->release(t.b);
    return err_set(e, ERR_ENV, "no memory to measure its speed");
}

int machine_limits(engine *en, double seconds, struct machine_limits *out, err *e)
{
    *out = (struct machine_limits){0};
    return en->gpu.k ? limits_gpu(en, seconds, out, e) : limits_cpu(en, seconds, out, e);
}

/* ---- the operations of a step ---- */

enum op { OP_EMBED, OP_NORM, OP_QKV, OP_ROPE, OP_ATTEND, OP_O, OP_GATE_UP, OP_ACTIVATION, OP_DOWN, OP_HEAD, OP_PICK, OP_COUNT };

static const char *const op_names[OP_COUNT] = {"embed",    "norms",          "matmul q k v", "rope, append", "attend",
                                               "matmul o", "matmul gate up", "activation",   "matmul down",  "matmul head",
                                               "pick"};

enum { KNOWN = 16 };

struct step {
    engine *en;
    enum op op;
    int B;
    struct {
        int rows, cols;
        double seconds;
    } known[KNOWN]; /* what the library takes for B rows */
    int n_known;
};

/* The matrices of an operation in a layer; those that a model lacks have no data. */
static int matrices(enum op op, const struct layer *w, const struct mat *out[4])
{
    switch (op) {
    case OP_QKV: out[0] = &w->q.w, out[1] = &w->k.w, out[2] = &w->v.w, out[3] = &w->qkv.w; return 4;
    case OP_O: out[0] = &w->o.w; return 1;
    case OP_GATE_UP: out[0] = &w->gate.w, out[1] = &w->up.w; return 2;
    case OP_DOWN: out[0] = &w->down.w; return 1;
    default: return 0;
    }
}

static void multiply(const engine *en, float *y, const struct linear *w, const float *x, int B)
{
    if (!w->w.data) return;
    if (w->w.ldt)
        en->k->matmul_t(y, w->w.rows, &w->w, x, B, MATMUL_STORE);
    else
        en->k->matmul(y, w->w.rows, &w->w, x, B, MATMUL_STORE);
}

static void norm(const engine *en, const struct norm *w, int B)
{
    const struct model *m = &en->model;
    if (!w->w) return;
    if (m->norm == NORM_LAYER)
        en->k->layernorm(en->s.h, en->s.x, w->w, w->b, m->norm_eps, B, m->D);
    else
        en->k->rmsnorm(en->s.h, en->s.x, w->w, m->norm_eps, B, m->D);
}

static void activation(const engine *en, const struct layer *w, int B)
{
    const struct scratch *s = &en->s;
    const struct model *m = &en->model;
    if (w->gate.w.data && m->activation == ACTIVATION_SILU)
        en->k->swiglu(s->gate, s->gate, s->up, B, m->F);
    else
        en->k->gelu(s->gate, s->gate, w->gate.w.data ? s->up : NULL, GELU_TANH, B, m->F);
}

static void in_layer(const struct step *t, int layer)
{
    engine *en = t->en;
    const struct scratch *s = &en->s;
    const struct model *m = &en->model;
    const struct layer *w = &m->layers[layer];
    struct rope rope = {s->cos[w->rope], s->sin[w->rope], m->n_rot, m->rope_interleaved};
    struct attn a = en->attn;
    a.scale = w->scale;
    a.window = w->window;
    switch (t->op) {
    case OP_NORM:
        norm(en, &w->attn_norm, t->B);
        norm(en, &w->ffn_norm, t->B);
        norm(en, &w->attn_post, t->B);
        norm(en, &w->ffn_post, t->B);
        break;
    case OP_QKV:
        multiply(en, s->q, &w->q, s->h, t->B);
        multiply(en, s->k, &w->k, s->h, t->B);
        multiply(en, s->v, &w->v, s->h, t->B);
        if (w->qkv.w.data) multiply(en, s->qkv, &w->qkv, s->h, t->B);
        break;
    case OP_ROPE: en->k->rope_append(s->q, s->k, s->v, &rope, &s->r, layer, &a); break;
    case OP_ATTEND: en->k->attend(s->att, s->q, &s->r, layer, NULL, &a); break;
    case OP_O: multiply(en, s->y, &w->o, s->att, t->B); break;
    case OP_GATE_UP:
        multiply(en, s->gate, &w->gate, s->h, t->B);
        multiply(en, s->up, &w->up, s->h, t->B);
        break;
    case OP_ACTIVATION: activation(en, w, t->B); break;
    case OP_DOWN: multiply(en, s->y, &w->down, s->gate, t->B); break;
    default: break;
    }
}

static void turn(void *arg)
{
    struct step *t = arg;
    engine *en = t->en;
    const struct scratch *s = &en->s;
    const struct model *m = &en->model;
    int layer;
    if (t->op == OP_EMBED) en->k->embed(s->x, &m->embed, s->ids, t->B);
    if (t->op == OP_HEAD) en->k->matmul(s->logits, m->V, &m->head, s->last, t->B, MATMUL_STORE);
    if (t->op == OP_PICK) en->k->pick(s->picks, s->logits, t->B, m->V);
    for (layer = 0; layer < m->n_layer; layer++) in_layer(t, layer);
    wait_for(en->k, s->x);
}

static double mat_bytes(const struct mat *w)
{
    if (w->ldt) return (double)w->rows * w->cols * dtype_block_bytes(w->type);
    return (double)mat_row_bytes(w) * w->rows;
}

/* Bytes and arithmetic of an operation in one layer; rows count as read and written once. */
static void cost(const struct step *t, const struct layer *w, int prefix, struct measured *out)
{
    const struct model *m = &t->en->model;
    const struct mat *all[4];
    double rows = (double)t->B * sizeof(float), kv = 2.0 * m->G * m->E * dtype_block_bytes(t->en->attn.kv_type);
    int seen = w->window && w->window < prefix ? w->window : prefix, n = matrices(t->op, w, all), i;
    for (i = 0; i < n; i++) {
        if (!all[i]->data) continue;
        out->bytes += mat_bytes(all[i]);
        out->flops += 2.0 * all[i]->rows * all[i]->cols * t->B;
    }
    switch (t->op) {
    case OP_NORM: out->bytes += 4 * rows * m->D; break;
    case OP_ROPE: out->bytes += rows * (2.0 * m->H + 2.0 * m->G) * m->E + t->B * kv; break;
    case OP_ATTEND: /* the shared pages once, the row's own one each */
        out->bytes += seen * kv + t->B * PAGE_TOKENS * kv + 2 * rows * m->H * m->E;
        out->flops += 4.0 * t->B * seen * m->H * m->E;
        break;
    case OP_ACTIVATION: out->bytes += 3 * rows * m->F; break;
    default: break;
    }
}

/* ---- the vendor's library on the same shapes ---- */

/* Adds its seconds for one matrix. The layers of a model have few shapes, and each is timed once. */
static bool add_library(struct step *t, const struct mat *w, struct measured *out)
{
    const char *why = "";
    double seconds;
    int i;
    for (i = 0; i < t->n_known && (t->known[i].rows != w->rows || t->known[i].cols != w->cols);) i++;
    if (i == t->n_known) {
        seconds = t->en->k->library_matmul(w->rows, w->cols, t->B, &why);
        if (seconds <= 0) {
            out->vendor_why = why;
            return false;
        }
        if (t->n_known == KNOWN) i = --t->n_known;
        t->known[i].rows = w->rows;
        t->known[i].cols = w->cols;
        t->known[i].seconds = seconds;
        t->n_known++;
    }
    out->vendor += t->known[i].seconds;
    return true;
}

/* After our own times were taken, so that no other program's kernels run between two of ours. */
static void compare(struct step *t, struct measured *out)
{
    const struct model *m = &t->en->model;
    const struct mat *all[4];
    int layer, i, n;
    bool good = true;
    if (!t->en->k->library_matmul) return;
    if (t->op == OP_HEAD) good = add_library(t, &m->head, out);
    for (layer = 0; good && layer < m->n_layer; layer++) {
        n = matrices(t->op, &m->layers[layer], all);
        for (i = 0; good && i < n; i++)
            if (all[i]->data) good = add_library(t, all[i], out);
    }
    if (!good) out->vendor = 0;
}

static void cost_once(const struct step *t, struct measured *out)
{
    const struct model *m = &t->en->model;
    if (t->op == OP_EMBED) out->bytes = t->B * ((double)mat_row_bytes(&m->embed) + sizeof(float) * (double)m->D);
    if (t->op == OP_PICK) out->bytes = (double)t->B * m->V * sizeof(float);
    if (t->op != OP_HEAD) return;
    out->bytes = (double)mat_row_bytes(&m->head) * m->V;
    out->flops = 2.0 * m->V * m->D * t->B;
}

static void measure_op(struct step *t, int prefix, double seconds, struct measured *out)
{
    const struct model *m = &t->en->model;
    int layer;
    *out = (struct measured){.op = op_names[t->op]};
    for (layer = 0; layer < m->n_layer; layer++) cost(t, &m->layers[layer], prefix, out);
    cost_once(t, out);
    out->seconds = timed(turn, t, seconds);
}

static int measure(engine *en, const struct pass_row *rows, int B, int prefix, double seconds, struct measured *out)
{
    struct step t = {.en = en, .B = B};
    int n = 0;
    forward_rows(en, rows, B);
    en->k->begin(&en->s.r, en->model.n_layer, 0);
    for (t.op = 0; t.op < OP_COUNT; t.op++) measure_op(&t, prefix, seconds / OP_COUNT, &out[n++]);
    en->k->end();
    for (t.op = 0; t.op < OP_COUNT; t.op++) compare(&t, &out[t.op]);
    return n;
}

static const enum op products[] = {OP_QKV, OP_O, OP_GATE_UP, OP_DOWN};
enum { PRODUCTS = sizeof products / sizeof *products };

int machine_products(engine *en, int *rows, double seconds, struct measured out[MEASURED_MAX], err *e)
{
    struct step t = {.en = en};
    int i;
    if (*rows > en->s.rows) *rows = en->s.rows;
    t.B = *rows;
    trouble_pass(en);
    for (i = 0; i < PRODUCTS; i++) {
        t.op = products[i];
        measure_op(&t, 0, seconds / PRODUCTS, &out[i]);
    }
    for (i = 0; i < PRODUCTS; i++) {
        t.op = products[i];
        compare(&t, &out[i]);
    }
    return trouble_take(en, e) ? -1 : PRODUCTS;
}

int machine_measure(engine *en, int B, int prefix, double seconds, struct measured out[MEASURED_MAX], err *e)
{
    struct pass_row *rows = mem_array((size_t)B, sizeof *rows);
    cache **c = mem_array((size_t)B + 1, sizeof(cache *));
    int *ids = mem_array((size_t)prefix, sizeof *ids), i, n = -1;
    for (i = 0; i < prefix; i++) ids[i] = (int)((i * 7919u + 13) % (unsigned)en->model.V);
    if (B > LOGIT_ROWS || B > en->s.rows) {
        err_set(e, ERR_INPUT, "%d rows are more than a step has", B);
        goto out;
    }
    if (cache_new(&c[B], en, e) || cache_feed(c[B], ids, prefix, NULL, e)) goto out;
    for (i = 0; i < B; i++) {
        c[i] = cache_fork(c[B]);
        if (cache_reserve(c[i], 1, e)) goto out;
        rows[i] = (struct pass_row){c[i], ids[i % prefix], prefix};
    }
    trouble_pass(en);
    n = measure(en, rows, B, prefix, seconds, out);
    if (trouble_take(en, e)) n = -1;
out:
    for (i = 0; i <= B; i++) cache_free(c[i]);
    free(c);
    free(ids);
    free(rows);
    return n;
}
