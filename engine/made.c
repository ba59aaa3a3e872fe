/* made.c: a llama model with made-up weights, straight into the backend's memory: for measuring and for self-tests. One pattern
 * of random blocks is put there and copied on within the backend, so sixteen gigabytes take no longer than the memory needs.
 *
 * The weights of a matrix have mean zero and variance 1/D, like those of a model at its start, so that no number overflows.
 */
#include "internal.h"
#include "model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct engine_shape shapes[] = {
    {"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500000, false},
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000, true},
    {"tiny", 3, 256, 8, 2, 32, 512, 512, 1024, 10000, true},
};

const struct engine_shape *engine_shape_named(const char *name)
{
    size_t i;
    for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
    return NULL;
}

/* Blocks of a pattern: a prime number, so that the rows of a matrix begin at different places of it and are not equal. */
enum { PATTERN = 4194301, STEP = 104729 };

struct maker {
    engine *en;
    enum dtype type;
    char *pattern; /* (n) blocks */
    size_t n, at;  /* the next matrix begins at block `at` */
    uint64_t seed;
    int64_t bytes;
};

static uint32_t draw(struct maker *mk)
{
    mk->seed ^= mk->seed << 13;
    mk->seed ^= mk->seed >> 7;
    mk->seed ^= mk->seed << 17;
    return (uint32_t)(mk->seed >> 24);
}

static void put_f16(char *at, double x)
{
    float f = (float)x;
    kernels_narrow(at, DTYPE_F16, &f, 1);
}

/* One block of the type with standard deviation `spread`; the factors are those of evenly spread quants, see widen.h. */
static int block(struct maker *mk, char *out, double spread)
{
    int i, bytes = dtype_block_bytes(mk->type);
    float x = (float)(spread * sqrt(3.0) * ((double)(int32_t)(draw(mk) << 8) * 0x1p-31));
    switch (mk->type) {
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16: kernels_narrow(out, mk->type, &x, 1); return 0;
    default: break;
    }
    for (i = 0; i < bytes; i++) out[i] = (char)draw(mk);
    switch (mk->type) {
    case DTYPE_Q4_0: put_f16(out, spread / 4.6); return 0;
    case DTYPE_Q4_1:
        put_f16(out, spread / 4.6);
        put_f16(out + 2, -7.5 * spread / 4.6);
        return 0;
    case DTYPE_Q8_0: put_f16(out, spread / 74); return 0;
    case DTYPE_Q4_K:
        put_f16(out, spread / (36 * 4.6));
        put_f16(out + 2, 7.5 * spread / (36 * 4.6));
        return 0;
    case DTYPE_Q6_K: put_f16(out + 208, spread / (74 * 18.5)); return 0;
    default: return -1;
    }
}

/* `bytes` bytes of the backend that repeat the pattern from block `at` on. */
static const void *fill(struct maker *mk, size_t bytes)
{
    const struct kernels *k = mk->en->k;
    size_t size = (size_t)dtype_block_bytes(mk->type), all = mk->n * size, at = mk->at * size, first = all - at, done;
    char *p = k->alloc(bytes);
    if (!p) return NULL;
    engine_owns(mk->en, p);
    k->put(p, mk->pattern + at, first < bytes ? first : bytes);
    if (first < bytes) k->put(p + first, mk->pattern, at < bytes - first ? at : bytes - first);
    for (done = all; done < bytes; done *= 2) k->copy(p + done, p, done < bytes - done ? done : bytes - done);
    mk->at = (mk->at + STEP) % mk->n;
    mk->bytes += (int64_t)bytes;
    return p;
}

static int make(struct maker *mk, int rows, int cols, struct mat *out, err *e)
{
    *out = (struct mat){mk->type, rows, cols, NULL, 0};
    out->data = fill(mk, mat_row_bytes(out) * (size_t)rows);
    return out->data ? 0 : err_set(e, ERR_ENV, "no memory for weights of %.2f GiB", (double)mk->bytes / (1 << 30));
}

static int ones(struct maker *mk, int n, struct norm *out, err *e)
{
    const struct kernels *k = mk->en->k;
    float *host = mem_array((size_t)n, sizeof *host), *there = k->alloc((size_t)n * sizeof *there);
    int i;
    for (i = 0; i < n; i++) host[i] = 1;
    if (there) {
        engine_owns(mk->en, there);
        k->put(there, host, (size_t)n * sizeof *there);
    }
    free(host);
    out->w = there;
    return there ? 0 : err_set(e, ERR_ENV, "no memory for norms");
}

static int make_layer(struct maker *mk, struct layer *y, err *e)
{
    const struct model *m = &mk->en->model;
    int q = m->H * m->E, kv = m->G * m->E;
    return ones(mk, m->D, &y->attn_norm, e) || ones(mk, m->D, &y->ffn_norm, e) || make(mk, q, m->D, &y->q.w, e) ||
                   make(mk, kv, m->D, &y->k.w, e) || make(mk, kv, m->D, &y->v.w, e) || make(mk, m->D, q, &y->o.w, e) ||
                   make(mk, m->F, m->D, &y->gate.w, e) || make(mk, m->F, m->D, &y->up.w, e) ||
                   make(mk, m->D, m->F, &y->down.w, e)
               ? -1
               : 0;
}

static double weights_bytes(const struct model *m, enum dtype t, bool tied)
{
    double layer = 2.0 * m->H * m->E * m->D + 2.0 * m->G * m->E * m->D + 3.0 * m->F * m->D;
    return (layer * m->n_layer + (tied ? 1.0 : 2.0) * m->V * m->D) / dtype_block(t) * dtype_block_bytes(t);
}

/* What a GPU has free, or this machine: the backend would take pages until the kernel kills somebody. */
static int check_room(const engine *en, double need, const char *name, err *e)
{
    double have = en->gpu.k ? (double)en->gpu.device.memory_free : mem_available();
    if (have <= 0 || need <= 0.95 * have) return 0;
    return err_set(e, ERR_ENV, "%s needs %.2f GiB for its weights, %.2f GiB are free; take fewer layers or a smaller type",
                   name, need / (1 << 30), have / (1 << 30));
}

static int choose_type(struct maker *mk, const char *name, err *e)
{
    const struct model *m = &mk->en->model;
    char probe[512];
    int t;
    for (t = 0; t < DTYPE_COUNT && strcmp(dtype_name((enum dtype)t), name) != 0;) t++;
    mk->type = (enum dtype)t;
    if (t == DTYPE_COUNT || block(mk, probe, 1))
        return err_set(e, ERR_INPUT, "weights of type '%s' cannot be made up; f32, f16, bf16, q4_0, q4_1, q8_0, q4_k, q6_k can",
                       name);
    if (m->D % dtype_block(mk->type) || m->F % dtype_block(mk->type) || m->H * m->E % dtype_block(mk->type))
        return err_set(e, ERR_INPUT, "rows of %d and %d elements are not whole blocks of %s, which have %d", m->D, m->F, name,
                       dtype_block(mk->type));
    return 0;
}

static void make_pattern(struct maker *mk)
{
    const struct model *m = &mk->en->model;
    size_t largest = (size_t)(m->V > m->F ? m->V : m->F) * (size_t)m->D / (size_t)dtype_block(mk->type),
           size = (size_t)dtype_block_bytes(mk->type), i;
    mk->n = largest < PATTERN ? largest : PATTERN / (size > 4 ? 8 : 1) | 1;
    mk->pattern = mem_array(mk->n, size);
    for (i = 0; i < mk->n; i++) block(mk, mk->pattern + i * size, 1 / sqrt((double)m->D));
}

int made_model(engine *en, const struct engine_shape *s, const char *weights, int layers, bool look_only, err *e)
{
    struct model *m = &en->model;
    struct loader l = {.m = m, .arch = model_arch("llama", true, e), .e = e};
    struct maker mk = {.en = en, .seed = 88172645463325252u};
    int i, rc = -1;
    if (!l.arch) return -1;
    snprintf(m->arch, sizeof m->arch, "llama");
    snprintf(m->name, sizeof m->name, "%s (made up)", s->name);
    m->owned = arena_new();
    m->n_layer = layers > 0 ? layers : s->n_layer;
    m->D = s->D, m->H = s->H, m->G = s->G, m->E = s->E, m->F = s->F, m->V = s->V, m->n_ctx = s->n_ctx;
    m->norm_eps = 1e-5f;
    m->n_rot = m->E;
    if (model_shape(&l)) return -1;
    model_freqs(m, 0, s->rope_base);
    if (choose_type(&mk, weights ? weights : "bf16", e)) return -1;
    m->weight_type = mk.type;
    if (look_only) return 0;
    if (check_room(en, weights_bytes(m, mk.type, s->tied), s->name, e)) return -1;
    make_pattern(&mk);
    if (make(&mk, m->V, m->D, &m->embed, e)) goto out;
    m->head = m->embed;
    if (!s->tied && make(&mk, m->V, m->D, &m->head, e)) goto out;
    if (ones(&mk, m->D, &m->out_norm, e)) goto out;
    for (i = 0; i < m->n_layer; i++)
        if (make_layer(&mk, &m->layers[i], e)) goto out;
    en->weight_bytes = mk.bytes;
    rc = 0;
out:
    free(mk.pattern);
    return rc;
}
