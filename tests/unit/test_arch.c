/* test_arch.c: every architecture against transformers: what each layer computes, and greedy text under edits. */
#include "oracle.h"

#include <math.h>

static struct oracle_list folders;

/* ---- numbers ---- */

/* A (n) computed against the expected tensor of that name; it has the last rows where it has not all. */
static void compare(const struct oracle *o, const char *name, const float *got, size_t n)
{
    const struct safetensor *t = safetensors_find(o->tensors, name);
    float *want;
    double largest = 0, worst = 0;
    size_t i, m;
    if (!t) return;
    m = t->bytes / sizeof *want;
    assert_int_equal(t->type, DTYPE_F32);
    if (m > n) fail_msg("%s: %s has %zu elements, expected %zu", o->folder, name, m, n);
    got += n - m;
    want = mem_array(m, sizeof *want);
    memcpy(want, t->data, t->bytes);
    for (i = 0; i < m; i++) {
        if (!isfinite(got[i])) fail_msg("%s: %s: element %zu is %g", o->folder, name, i, (double)got[i]);
        if (fabs((double)want[i]) > largest) largest = fabs((double)want[i]);
        if (fabs((double)want[i] - (double)got[i]) > worst) worst = fabs((double)want[i] - (double)got[i]);
    }
    if (worst > 2e-4 * largest) fail_msg("%s: %s is off by %g of its largest %g", o->folder, name, worst / largest, largest);
    free(want);
}

struct seen {
    struct oracle *o;
    int tensors;   /* compared */
    float *logits; /* (n, V) */
};

static void compare_at(void *arg, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width)
{
    struct seen *s = arg;
    const struct oracle *o = s->o;
    const struct model *m = &o->en->model;
    char name[32];
    float *y;
    int b, h;
    switch (site) {
    case TAP_EMBED: compare(o, "hidden.0", x, (size_t)n * (size_t)width); break;
    case TAP_RESID:
        snprintf(name, sizeof name, "hidden.%d", layer + 1);
        y = mem_array((size_t)n * (size_t)width, sizeof *y);
        memcpy(y, x, (size_t)n * (size_t)width * sizeof *y);
        if (layer == m->n_layer - 1) { /* transformers reports the last one behind the final norm */
            if (m->norm == NORM_LAYER)
                o->en->k->layernorm(y, y, m->out_norm.w, m->out_norm.b, m->norm_eps, n, width);
            else
                o->en->k->rmsnorm(y, y, m->out_norm.w, m->norm_eps, n, width);
        }
        compare(o, name, y, (size_t)n * (size_t)width);
        free(y);
        break;
    case TAP_Q: /* (H, P, P) of all rows together, zeros behind each row's own position */
        snprintf(name, sizeof name, "attn.%d", layer);
        if (!safetensors_find(o->tensors, name)) break;
        y = mem_array((size_t)m->H * (size_t)n * (size_t)n, sizeof *y);
        for (b = 0; b < n; b++) {
            float *w = mem_array((size_t)m->H * (size_t)(b + 1), sizeof *w);
            float *keys = forward_keys(rows[b].cache, layer, b + 1);
            forward_weights(o->en, &rows[b], layer, x + (size_t)b * (size_t)width, keys, b + 1, NULL, w);
            free(keys);
            for (h = 0; h < m->H; h++)
                memcpy(y + ((size_t)h * (size_t)n + (size_t)b) * (size_t)n, w + (size_t)h * (size_t)(b + 1),
                       (size_t)(b + 1) * sizeof *w);
            free(w);
        }
        compare(o, name, y, (size_t)m->H * (size_t)n * (size_t)n);
        free(y);
        break;
    case TAP_LOGITS: memcpy(s->logits, x, (size_t)n * (size_t)width * sizeof *x); break;
    default: break;
    }
}

/* All positions in one pass, with the logits of the last ones. */
static void numbers_of(struct oracle *o)
{
    int i, l, first, n = o->n, want[LOGIT_ROWS], n_want = n < LOGIT_ROWS ? n : LOGIT_ROWS, V = o->info->n_vocab;
    struct pass_row rows[ORACLE_TOKENS];
    struct seen seen = {.o = o, .logits = mem_array((size_t)n_want * (size_t)V, sizeof(float))};
    const struct tap tap = {compare_at, &seen, 1u << TAP_EMBED | 1u << TAP_RESID | 1u << TAP_Q | 1u << TAP_LOGITS};
    size_t count = (size_t)o->info->n_kv_head * (size_t)n * (size_t)o->info->head_dim;
    float *values = mem_array(count, sizeof *values);
    cache *c;
    err e = {0};
    first = n - n_want;
    for (i = 0; i < n_want; i++) want[i] = first + i;
    assert_int_equal(cache_new(&c, o->en, &e), 0);
    assert_int_equal(cache_reserve(c, n, &e), 0);
    for (i = 0; i < n; i++) rows[i] = (struct pass_row){c, o->prompt[i], i};
    forward_tap(o->en, &tap);
    assert_int_equal(forward(o->en, rows, n, want, n_want, &e), 0);
    forward_tap(o->en, NULL);
    compare(o, "logits", seen.logits, (size_t)n_want * (size_t)V);
    for (l = 0; l < o->info->n_layer; l++) {
        char name[32];
        snprintf(name, sizeof name, "k.%d", l);
        cache_read(c, l, CACHE_K, 0, n, values);
        compare(o, name, values, count);
        snprintf(name, sizeof name, "v.%d", l);
        cache_read(c, l, CACHE_V, 0, n, values);
        compare(o, name, values, count);
    }
    free(values);
    free(seen.logits);
    cache_free(c);
}

static void layers_logits_weights_and_caches_equal_transformers(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        oracle_open(&o, folders.path[i]);
        numbers_of(&o);
        oracle_close(&o);
    }
}

/* ---- greedy text under edits ---- */

static void assert_text(const struct oracle *o, const char *name, const json_t *condition, const struct gen_row *r)
{
    const json_t *tokens = json_object_get(condition, "tokens"), *logprobs = json_object_get(condition, "logprobs"),
                 *margins = json_object_get(condition, "margins");
    int i;
    if (r->error.code) fail_msg("%s: %s: %s", o->folder, name, r->error.msg);
    assert_int_equal(r->n, (int)json_array_size(tokens));
    for (i = 0; i < r->n; i++) {
        const struct gen_pick *p = &r->picks[i];
        double margin = json_number_value(json_array_get(margins, (size_t)i));
        if (p->token != (int)json_integer_value(json_array_get(tokens, (size_t)i))) {
            if (margin > 1e-3) fail_msg("%s: %s: token %d differs, with margin %g", o->folder, name, i, margin);
            return; /* what follows has another past */
        }
        if (fabs(json_number_value(json_array_get(logprobs, (size_t)i)) - (double)p->logprob) > 1e-3)
            fail_msg("%s: %s: log-probability %d is %g", o->folder, name, i, (double)p->logprob);
        if (fabs(margin - (double)p->margin) > 1e-3 * (1 + margin))
            fail_msg("%s: %s: margin %d is %g, expected %g", o->folder, name, i, (double)p->margin, margin);
    }
}

static void decode(engine *en, struct gen_row *r, int n)
{
    err e = {0};
    if (generate(en, r, 1, &(struct gen_opts){.max_tokens = n}, &e)) fail_msg("%s", e.msg);
}

/* The edit of a condition; false: an operation that the engine does not have. */
static bool edit_of(struct oracle_edit *w, const struct oracle *o, const json_t *from, const cache *donor)
{
    static const struct {
        const char *name;
        enum edit_op op;
    } ops[] = {{"zero", EDIT_ZERO}, {"transplant", EDIT_TRANSPLANT}, {"mask", EDIT_MASK}, {"scale", EDIT_SCALE}};
    const char *name = json_string_value(json_object_get(from, "do")), *of = json_string_value(json_object_get(from, "of"));
    size_t i;
    for (i = 0; i < sizeof ops / sizeof *ops && strcmp(ops[i].name, name) != 0; i++) continue;
    if (i == sizeof ops / sizeof *ops) return false;
    oracle_edit(w, o, ops[i].op, (of && strchr(of, 'k') ? CACHE_K : 0) | (of && strchr(of, 'v') ? CACHE_V : 0));
    if (json_object_get(from, "layers")) w->ed.n_layers = oracle_ints(json_object_get(from, "layers"), w->layers);
    if (json_object_get(from, "heads")) w->ed.n_heads = oracle_ints(json_object_get(from, "heads"), w->heads);
    w->ed.donor = donor;
    w->ed.by = (float)json_number_value(json_object_get(from, "by"));
    return true;
}

struct in_flight {
    const struct oracle *o;
    const char *what;
    const cache *donor;
};

/* The edits made while the prompt is computed: keys and values of all layers, or the residual behind block 1. */
static void change(void *arg, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width)
{
    const struct in_flight *f = arg;
    int b, i, z;
    for (b = 0; b < n; b++)
        for (z = 0; z < f->o->n_at; z++) {
            float *row = x + (size_t)b * (size_t)width;
            if (rows[b].pos != f->o->at[z]) continue;
            if (site == TAP_RESID && layer == 1)
                for (i = 0; i < width; i++) row[i] *= strcmp(f->what, "prefill_resid_double_block1") == 0 ? 2 : 0;
            else if (site != TAP_RESID && strcmp(f->what, "prefill_zero_kv") == 0)
                memset(row, 0, (size_t)width * sizeof *row);
            else if (site != TAP_RESID)
                cache_read(f->donor, layer, site == TAP_K ? CACHE_K : CACHE_V, rows[b].pos, 1, row);
        }
}

static void text_in_flight(struct oracle *o, const char *name, const json_t *condition, const cache *donor, int n)
{
    struct in_flight f = {o, name, donor};
    bool residual = strstr(name, "resid") != NULL;
    const struct tap tap = {change, &f, residual ? 1u << TAP_RESID : 1u << TAP_K | 1u << TAP_V};
    struct gen_row r = {0};
    err e = {0};
    assert_int_equal(cache_new(&r.cache, o->en, &e), 0);
    forward_tap(o->en, &tap);
    assert_int_equal(cache_feed(r.cache, o->prompt, o->n, &r.first, &e), 0);
    forward_tap(o->en, NULL);
    decode(o->en, &r, n);
    assert_text(o, name, condition, &r);
    cache_free(r.cache);
    gen_row_clear(&r);
}

static int texts_of(struct oracle *o)
{
    int n = (int)json_integer_value(json_object_get(o->expected, "max_new_tokens")), compared = 0;
    cache *a = oracle_prefill(o->en, o->prompt, o->n - 1), *b = oracle_prefill(o->en, o->donor, o->n - 1);
    const char *name;
    json_t *condition;
    json_object_foreach(json_object_get(o->expected, "conditions"), name, condition)
    {
        const json_t *ed = json_object_get(condition, "edit");
        struct gen_row r = {.feed = o->prompt + o->n - 1, .n_feed = 1};
        struct oracle_edit w;
        err e = {0};
        if (json_object_get(ed, "when")) {
            text_in_flight(o, name, condition, b, n);
            compared++;
            continue;
        }
        if (json_object_get(ed, "do") && !edit_of(&w, o, ed, b)) continue;
        r.cache = cache_fork(a);
        if (json_object_get(ed, "do") && cache_edit(r.cache, &w.ed, &e)) fail_msg("%s: %s", name, e.msg);
        decode(o->en, &r, n);
        assert_text(o, name, condition, &r);
        compared++;
        cache_free(r.cache);
        gen_row_clear(&r);
    }
    cache_free(a);
    cache_free(b);
    return compared;
}

static void greedy_text_under_every_edit_equals_transformers(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        oracle_open(&o, folders.path[i]);
        assert_true(texts_of(&o) >= 10);
        oracle_close(&o);
    }
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
        cmocka_unit_test(layers_logits_weights_and_caches_equal_transformers),
        cmocka_unit_test(greedy_text_under_every_edit_equals_transformers),
    };
    return cmocka_run_group_tests_name("arch", tests, find_folders, free_folders);
}
