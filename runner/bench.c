/* bench.c: see bench.h. Everything but the single operations goes through the engine as a run does. */
#include "bench.h"

#include "../engine/machine.h"
#include "environment.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCHES = 3, PREFILLS = 2, STEPS_MOST = 256 };
static const int batches[BATCHES] = {1, 32, 64};
static const int prefills[PREFILLS] = {512, 2048};

struct decoded {
    int B, steps;
    double seconds; /* of a step */
    struct measured ops[MEASURED_MAX];
    int n_ops;
};

struct prefilled {
    int n;
    double seconds, flops; /* seconds 0: left out, since it would take `estimate` seconds */
    double estimate;
    int rows; /* of a pass; what the products are measured with, on a GPU */
    struct measured ops[MEASURED_MAX];
    int n_ops;
};

struct bench {
    const struct options *o;
    engine *en;
    double seconds;
    int prefix;
    struct machine_limits lim;
    struct decoded decode[BATCHES];
    struct prefilled prefill[PREFILLS];
    char apart[200]; /* why a product was not compared with the vendor's library; "": all were, or there is no vendor */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool on_gpu(const struct bench *b)
{
    return engine_info(b->en)->gpu_name != NULL;
}

/* The first reason is kept. */
static void note_reason(struct bench *b, const struct measured *ops, int n)
{
    int k;
    for (k = 0; k < n && !b->apart[0]; k++)
        if (ops[k].vendor_why) snprintf(b->apart, sizeof b->apart, "%s: %s", ops[k].op, ops[k].vendor_why);
}

static int *made_ids(const struct bench *b, int n)
{
    int *ids = mem_array((size_t)n, sizeof *ids), i;
    for (i = 0; i < n; i++) ids[i] = (int)((i * 7919u + 13) % (unsigned)engine_info(b->en)->n_vocab);
    return ids;
}

/* ---- decoding ---- */

struct clock {
    double first, last;
    int steps;
};

static void on_step(void *arg, int step)
{
    struct clock *c = arg;
    c->last = now();
    if (step == 0) c->first = c->last;
    c->steps = step;
}

/* Decodes n_tokens in B forks of a cache; seconds of a step behind the first one. */
static int decode(const struct bench *b, cache *base, int B, int n_tokens, double *seconds, err *e)
{
    struct gen_row *rows = mem_array((size_t)B, sizeof *rows);
    struct clock c = {0};
    struct gen_opts go = {.max_tokens = n_tokens, .on_step = on_step, .arg = &c};
    int i, id = 1, rc;
    for (i = 0; i < B; i++) rows[i] = (struct gen_row){.cache = cache_fork(base), .feed = &id, .n_feed = 1};
    rc = generate(b->en, rows, B, &go, e);
    for (i = 0; i < B; i++) {
        if (!rc && rows[i].stop == GEN_STOP_FAILED) rc = err_set(e, rows[i].error.code, "%s", rows[i].error.msg);
        cache_free(rows[i].cache);
        gen_row_clear(&rows[i]);
    }
    free(rows);
    *seconds = c.steps ? (c.last - c.first) / c.steps : 0;
    return rc;
}

/* A short run first: it takes the time and warms up what is made once. */
static int bench_decode(struct bench *b, cache *base, struct decoded *d, int B, err *e)
{
    int room = engine_info(b->en)->n_ctx_train - b->prefix - 1;
    double one;
    d->B = B;
    if (decode(b, base, B, 5, &one, e)) return -1;
    d->steps = one > 0 && b->seconds / one < STEPS_MOST ? (int)(b->seconds / one) : STEPS_MOST;
    if (d->steps < 4) d->steps = 4;
    if (d->steps > room) d->steps = room;
    if (decode(b, base, B, d->steps + 1, &d->seconds, e)) return -1;
    d->n_ops = machine_measure(b->en, B, b->prefix, b->seconds, d->ops, e);
    note_reason(b, d->ops, d->n_ops);
    return d->n_ops < 0 ? -1 : 0;
}

/* ---- prefill ---- */

static int prefill(const struct bench *b, const int *ids, int n, double *seconds, err *e)
{
    struct gen_pick last;
    cache *c = NULL;
    double from = now();
    int rc = cache_new(&c, b->en, e) || cache_feed(c, ids, n, &last, e) ? -1 : 0;
    *seconds = now() - from;
    cache_free(c);
    return rc;
}

/* Multiplications and additions of n tokens: the matrices of all layers, and attention to what is before each. */
static double prefill_flops(const struct bench *b, const struct decoded *one, int n)
{
    const struct engine_info *i = engine_info(b->en);
    double flops = 0;
    int k;
    for (k = 0; k < one->n_ops; k++)
        if (strncmp(one->ops[k].op, "matmul", 6) == 0 && strcmp(one->ops[k].op, "matmul head") != 0)
            flops += one->ops[k].flops / one->B * n;
    return flops + 2.0 * i->n_layer * i->n_head * i->head_dim * n * n;
}

static int bench_prefill(struct bench *b, struct prefilled *p, int n, err *e)
{
    int *ids, rc = 0, i;
    double best = 0, one, from;
    p->n = n;
    p->flops = prefill_flops(b, &b->decode[0], n);
    p->estimate = p->flops / (0.5 * b->lim.flops);
    if (n > engine_info(b->en)->n_ctx_train || p->estimate > 30 * b->seconds) return 0;
    ids = made_ids(b, n);
    for (i = 0, from = now(); !rc && (i < 2 || now() - from < b->seconds); i++) {
        rc = prefill(b, ids, n, &one, e);
        if (i == 0 || one < best) best = one;
        if (i == 0 && one > b->seconds) break; /* the first one warms up, but is enough when it takes long */
    }
    p->seconds = best;
    p->rows = n;
    free(ids);
    if (rc || !on_gpu(b)) return rc;
    p->n_ops = machine_products(b->en, &p->rows, b->seconds, p->ops, e);
    note_reason(b, p->ops, p->n_ops);
    return p->n_ops < 0 ? -1 : 0;
}

/* ---- all ---- */

static int open_engine(struct bench *b, err *e)
{
    const struct options *o = b->o;
    struct engine_opts eo = {.path = o->n_args ? o->args[0] : NULL, .isa = o->isa, .backend = o->backend, .gpu = o->gpu};
    eo.threads = o->threads;
    eo.kv = !o->kv || strcmp(o->kv, "bf16") == 0 ? KV_BF16 : strcmp(o->kv, "f16") == 0 ? KV_F16 : KV_F32;
    if (o->shape) eo.shape = engine_shape_named(o->shape);
    eo.shape_weights = o->weights;
    eo.shape_layers = o->layers;
    return engine_open(&b->en, &eo, e);
}

/* The shared prefix, shorter where making it would take long or the context ends. */
static int choose_prefix(struct bench *b)
{
    const struct engine_info *i = engine_info(b->en);
    double weights = 2.0 * (double)i->weight_bytes; /* operations of a token, about */
    int n = b->o->prefix ? b->o->prefix : on_gpu(b) && strcmp(i->backend, "cuda") == 0 ? 2048 : 512;
    while (!b->o->prefix && n > 64 && n * weights / (0.5 * b->lim.flops) > 20 * b->seconds) n /= 2;
    if (n > i->n_ctx_train / 2) n = i->n_ctx_train / 2;
    return n;
}

static int run(struct bench *b, err *e)
{
    cache *base = NULL;
    int *ids, i, rc;
    if (machine_limits(b->en, b->seconds / 4, &b->lim, e)) return -1;
    snprintf(b->apart, sizeof b->apart, "%s", b->lim.vendor_why);
    b->prefix = choose_prefix(b);
    ids = made_ids(b, b->prefix);
    rc = cache_new(&base, b->en, e) || cache_feed(base, ids, b->prefix, NULL, e) ? -1 : 0;
    for (i = 0; !rc && i < BATCHES; i++) rc = bench_decode(b, base, &b->decode[i], batches[i], e);
    cache_free(base);
    for (i = 0; !rc && i < PREFILLS; i++) rc = bench_prefill(b, &b->prefill[i], prefills[i], e);
    free(ids);
    return rc;
}

static double step_bytes(const struct decoded *d)
{
    double sum = 0;
    int k;
    for (k = 0; k < d->n_ops; k++) sum += d->ops[k].bytes;
    return sum;
}

/* ---- telling ---- */

static void device(const struct bench *b, char *out, size_t n)
{
    const struct engine_info *i = engine_info(b->en);
    char cpu[256];
    if (on_gpu(b)) {
        snprintf(out, n, "%s (%s)", i->gpu_name, i->isa);
        return;
    }
    environment_cpu(cpu, sizeof cpu);
    snprintf(out, n, "%s, %s, %d threads", cpu, i->isa, i->threads);
}

static void today(char out[16])
{
    time_t t = time(NULL);
    struct tm tm;
    strftime(out, 16, "%Y-%m-%d", gmtime_r(&t, &tm));
}

static double percent(double x, double of)
{
    return of > 0 ? 100 * x / of : 0;
}

static void print_library(const struct measured *m, FILE *out)
{
    if (m->vendor > 0)
        fprintf(out, " %.3f | %.2f |", m->vendor * 1e3, m->seconds / m->vendor);
    else
        fputs(" | |", out);
}

static void print_ops(const struct bench *b, const char *what, int rows, const struct measured *ops, int n, FILE *out)
{
    bool library = b->lim.vendor;
    int k;
    fprintf(out, "\n| %s%d | ms | GB/s | of the limit | GFLOP/s | of the limit |%s\n|---|---|---|---|---|---|%s\n", what, rows,
            library ? " cuBLAS, bf16: ms | ours / cuBLAS |" : "", library ? "---|---|" : "");
    for (k = 0; k < n; k++) {
        const struct measured *m = &ops[k];
        fprintf(out, "| %s | %.3f | %.1f | %.0f %% |", m->op, m->seconds * 1e3, m->bytes / m->seconds / 1e9,
                percent(m->bytes / m->seconds, b->lim.read));
        if (m->flops > 0)
            fprintf(out, " %.1f | %.0f %% |", m->flops / m->seconds / 1e9, percent(m->flops / m->seconds, b->lim.flops));
        else
            fputs(" | |", out);
        if (library) print_library(m, out);
        fputc('\n', out);
    }
}

static void print_text(const struct bench *b, FILE *out)
{
    const struct engine_info *i = engine_info(b->en);
    char where[512], date[16];
    int k;
    device(b, where, sizeof where);
    today(date);
    fprintf(out, "%s, %s, kvrun %s: %s, weights %s (%.2f GB), %d layers, caches %s, numerics %s\n", date, where,
            environment_build(), i->name, i->weight_dtype, (double)i->weight_bytes / 1e9, i->n_layer, i->kv_dtype, i->numerics);
    fprintf(out, "\nlimits measured here: %.1f GB/s (%s); %.1f GFLOP/s (%s)\n", b->lim.read / 1e9, b->lim.read_how,
            b->lim.flops / 1e9, b->lim.flops_how);
    fprintf(out, "\n| decoding behind %d shared tokens | tok/s | ms a step | GB/s | of the limit |\n|---|---|---|---|---|\n",
            b->prefix);
    for (k = 0; k < BATCHES; k++) {
        const struct decoded *d = &b->decode[k];
        fprintf(out, "| B = %d | %.1f | %.3f | %.1f | %.0f %% |\n", d->B, d->B / d->seconds, d->seconds * 1e3,
                step_bytes(d) / d->seconds / 1e9, percent(step_bytes(d) / d->seconds, b->lim.read));
    }
    fputs("\n| prefill | tok/s | ms | GFLOP/s | of the limit |\n|---|---|---|---|---|\n", out);
    for (k = 0; k < PREFILLS; k++) {
        const struct prefilled *p = &b->prefill[k];
        if (p->seconds > 0)
            fprintf(out, "| %d tokens | %.1f | %.2f | %.1f | %.0f %% |\n", p->n, p->n / p->seconds, p->seconds * 1e3,
                    p->flops / p->seconds / 1e9, percent(p->flops / p->seconds, b->lim.flops));
        else if (p->n > i->n_ctx_train)
            fprintf(out, "| %d tokens | not measured: the context is %d | | | |\n", p->n, i->n_ctx_train);
        else
            fprintf(out, "| %d tokens | not measured: about %.0f s each; see --seconds | | | |\n", p->n, p->estimate);
    }
    for (k = 0; k < BATCHES; k++) print_ops(b, "one step, B = ", b->decode[k].B, b->decode[k].ops, b->decode[k].n_ops, out);
    for (k = 0; k < PREFILLS; k++)
        if (b->prefill[k].n_ops)
            print_ops(b, "products of a prefill, rows = ", b->prefill[k].rows, b->prefill[k].ops, b->prefill[k].n_ops, out);
    if (b->apart[0]) fprintf(out, "\nnot compared with cuBLAS: %s\n", b->apart);
}

/* Where there is a vendor each product has library_seconds, and ours as a multiple of them; null when it was not compared. */
static json_t *ops_json(const struct measured *ops, int n)
{
    json_t *list = json_array(), *one;
    int k;
    for (k = 0; k < n; k++) {
        one = json_pack("{s:s,s:f,s:f,s:f}", "op", ops[k].op, "seconds", ops[k].seconds, "bytes", ops[k].bytes, "flops",
                        ops[k].flops);
        if (ops[k].vendor > 0 || ops[k].vendor_why) {
            bool is = ops[k].vendor > 0;
            json_object_set_new(one, "library_seconds", is ? json_real(ops[k].vendor) : json_null());
            json_object_set_new(one, "library_ratio", is ? json_real(ops[k].seconds / ops[k].vendor) : json_null());
        }
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *prefill_json(const struct prefilled *p)
{
    json_t *j = json_pack("{s:i,s:o,s:f}", "tokens", p->n, "seconds", p->seconds > 0 ? json_real(p->seconds) : json_null(),
                          "flops", p->flops);
    if (p->n_ops) {
        json_object_set_new(j, "rows", json_integer(p->rows));
        json_object_set_new(j, "ops", ops_json(p->ops, p->n_ops));
    }
    return j;
}

static void print_json(const struct bench *b, FILE *out)
{
    const struct engine_info *i = engine_info(b->en);
    json_t *decoding = json_array(), *prefilling = json_array(), *j;
    char where[512], date[16], *text;
    int k;
    device(b, where, sizeof where);
    today(date);
    for (k = 0; k < BATCHES; k++) {
        const struct decoded *d = &b->decode[k];
        json_array_append_new(decoding, json_pack("{s:i,s:f,s:f,s:f,s:i,s:o}", "rows", d->B, "tokens_per_second",
                                                  d->B / d->seconds, "seconds", d->seconds, "bytes", step_bytes(d), "steps",
                                                  d->steps, "ops", ops_json(d->ops, d->n_ops)));
    }
    for (k = 0; k < PREFILLS; k++) json_array_append_new(prefilling, prefill_json(&b->prefill[k]));
    j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:i,s:s,s:s,s:i}", "date", date, "kvrun", environment_build(), "backend",
                  i->backend, "device", where, "model", i->name, "weights", i->weight_dtype, "weight_bytes",
                  (json_int_t)i->weight_bytes, "layers", i->n_layer, "kv", i->kv_dtype, "numerics", i->numerics, "prefix",
                  b->prefix);
    json_object_set_new(j, "limits",
                        json_pack("{s:f,s:s,s:f,s:s}", "bytes_per_second", b->lim.read, "bytes_how", b->lim.read_how,
                                  "flops_per_second", b->lim.flops, "flops_how", b->lim.flops_how));
    if (b->lim.vendor || b->apart[0])
        json_object_set_new(j, "library",
                            json_pack("{s:s,s:o}", "name", "cuBLAS", "why", *b->apart ? json_string(b->apart) : json_null()));
    json_object_set_new(j, "decode", decoding);
    json_object_set_new(j, "prefill", prefilling);
    text = json_dumps(j, JSON_COMPACT);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(j);
}

static int write_json(const struct bench *b, const char *path, err *e)
{
    FILE *f = fopen(path, "w");
    int bad;
    if (!f) return err_set(e, ERR_INPUT, "cannot write '%s': %s", path, strerror(errno));
    print_json(b, f);
    bad = ferror(f);
    return fclose(f) || bad ? err_set(e, ERR_DISK, "cannot write '%s': %s", path, strerror(errno)) : 0;
}

int bench(const struct options *o, FILE *out, err *e)
{
    struct bench b = {.o = o, .seconds = o->seconds ? o->seconds : 1};
    int rc = open_engine(&b, e);
    if (!rc) rc = run(&b, e);
    if (!rc && o->json)
        print_json(&b, out);
    else if (!rc)
        print_text(&b, out);
    if (!rc && o->out) rc = write_json(&b, o->out, e);
    engine_free(b.en);
    if (e->code == ERR_MEMORY) e->code = ERR_ENV;
    return rc;
}
