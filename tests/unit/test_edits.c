/* test_edits.c: every operation at every moment on every tensor against transformers: greedy text, logits, what the cache holds
 * in the end. tests/oracle/edits.py made the numbers and says what each moment means. */
#include "truths.h"

#include <math.h>

static struct oracle_list files, models;

static const struct {
    const char *name;
    int site;
} tensors[] = {{"k", CACHE_K},
               {"v", CACHE_V},
               {"kv", CACHE_K | CACHE_V},
               {"k_pre", SITE_K_PRE},
               {"resid", SITE_RESID},
               {"embed", SITE_RESID},
               {"attn_out", SITE_ATTN_OUT},
               {"mlp_out", SITE_MLP_OUT},
               {"head_out", SITE_HEAD_OUT}};
static const char *const ops[] = {[EDIT_NOOP] = "noop",         [EDIT_ZERO] = "zero",   [EDIT_TRANSPLANT] = "transplant",
                                  [EDIT_MASK] = "mask",         [EDIT_SCALE] = "scale", [EDIT_ADD] = "add",
                                  [EDIT_MEAN] = "mean",         [EDIT_NOISE] = "noise", [EDIT_SWAP] = "swap",
                                  [EDIT_QUANTISE] = "quantise", [EDIT_EVICT] = "evict", [EDIT_KNOCKOUT] = "knockout"};

/* What a file of conditions needs while it is gone through. */
struct golden {
    struct oracle o; /* en, info, prompt, donor, at */
    json_t *root;
    cache *finished, *other; /* all but the last prompt token; the whole of the donor */
};

struct one {
    const struct golden *g;
    const json_t *json;
    const char *when;
    struct lists w;
    int donor_at[ORACLE_TOKENS], queries[ORACLE_TOKENS];
    struct edit ed;
    float *vector;
};

static int int_of(const json_t *o, const char *key)
{
    return (int)json_integer_value(json_object_get(o, key));
}

/* A list of the condition, or the one that is there. */
static void list_of(const json_t *o, const char *key, int *list, int *n)
{
    if (json_object_get(o, key)) *n = oracle_ints(json_object_get(o, key), list);
}

/* (n_layers, width): what add and mean have, as edits.py makes it up. */
static float *made_up(struct one *c)
{
    int width = engine_site_width(c->g->o.en, c->ed.tensors, 0), l, e;
    float *v = mem_array((size_t)c->ed.n_layers * (size_t)width, sizeof *v);
    for (l = 0; l < c->ed.n_layers; l++)
        for (e = 0; e < width; e++) v[l * width + e] = (float)edit_noise(77, c->ed.tensors, c->ed.layers[l], 0, e);
    return v;
}

static void one_read(struct one *c, const struct golden *g, const json_t *json, const char *when)
{
    const char *op = json_string_value(json_object_get(json, "op")), *of = json_string_value(json_object_get(json, "of"));
    struct oracle *o = (struct oracle *)&g->o;
    int k = 0, t = 0;
    memset(c, 0, sizeof *c);
    c->g = g;
    c->json = json;
    c->when = when;
    while (strcmp(ops[k], op) != 0) k++;
    if (of)
        while (strcmp(tensors[t].name, of) != 0) t++;
    c->ed = at_needle(&c->w, o, (enum edit_op)k, of ? tensors[t].site : 0);
    list_of(json, "layers", c->w.layers, &c->ed.n_layers);
    list_of(json, "heads", c->w.heads, &c->ed.n_heads);
    list_of(json, "at", c->w.at, &c->ed.n_at);
    c->ed.donor_at = json_object_get(json, "donor_at") ? c->donor_at : NULL;
    if (c->ed.donor_at) assert_int_equal(oracle_ints(json_object_get(json, "donor_at"), c->donor_at), c->ed.n_at);
    c->ed.queries = json_object_get(json, "queries") ? c->queries : NULL;
    list_of(json, "queries", c->queries, &c->ed.n_queries);
    c->ed.rerotate = int_of(json, "rerotate");
    c->ed.compact = int_of(json, "compact");
    c->ed.per_channel = int_of(json, "per_channel");
    c->ed.bits = int_of(json, "bits");
    c->ed.seed = (uint64_t)json_integer_value(json_object_get(json, "seed"));
    c->ed.by = (float)json_number_value(json_object_get(json, "by"));
    c->ed.sigma = (float)json_number_value(json_object_get(json, "sigma"));
    if (k == EDIT_ADD || k == EDIT_MEAN) c->ed.vector = c->vector = made_up(c);
    if (k == EDIT_TRANSPLANT && c->ed.tensors <= (CACHE_K | CACHE_V)) c->ed.donor = g->other;
    if (k == EDIT_TRANSPLANT && !c->ed.donor) c->ed.vector = c->vector = recorded(o, o->donor, c->ed.tensors, &c->ed);
}

/* ---- comparisons ---- */

static void say(const struct one *c, const char *what)
{
    char *text = json_dumps(c->json, JSON_COMPACT);
    fail_msg("%s: %s: %s\n%s", c->g->o.folder, c->when, what, text);
}

/* False: the texts part where two logits are as good as equal, and what follows has another past. */
static bool compare_text(const struct one *c, const struct gen_row *r)
{
    const json_t *tokens = json_object_get(c->json, "tokens"), *logprobs = json_object_get(c->json, "logprobs"),
                 *margins = json_object_get(c->json, "margins");
    int i;
    if (r->n != (int)json_array_size(tokens)) say(c, "another number of tokens");
    for (i = 0; i < r->n; i++) {
        double margin = json_number_value(json_array_get(margins, (size_t)i));
        if (r->picks[i].token != (int)json_integer_value(json_array_get(tokens, (size_t)i))) {
            if (margin > 2e-3) say(c, "another token"); /* 1e-3, and margins are rounded */
            return false;
        }
        if (fabs(json_number_value(json_array_get(logprobs, (size_t)i)) - (double)r->picks[i].logprob) > 1e-3)
            say(c, "another log-probability");
        if (fabs(margin - (double)r->picks[i].margin) > 2e-3 * (1 + margin)) say(c, "another margin");
    }
    return true;
}

static void compare_logits(const struct one *c, const float *logits)
{
    const json_t *want = json_object_get(c->json, "logits");
    double largest = 0, worst = 0;
    size_t i;
    for (i = 0; i < json_array_size(want); i++) {
        double x = json_number_value(json_array_get(want, i));
        largest = fmax(largest, fabs(x));
        worst = fmax(worst, fabs(x - (double)logits[i]));
    }
    if (worst > 2e-4 * largest) say(c, "other logits");
}

static void compare_cache(const struct one *c, const cache *held)
{
    const struct engine_info *info = c->g->o.info;
    const json_t *sums = json_object_get(c->json, "sums");
    size_t one = (size_t)info->n_kv_head * (size_t)cache_len(held) * (size_t)info->head_dim, i;
    float *x = mem_array(2 * one, sizeof *x);
    int l;
    assert_int_equal((int)json_array_size(sums), info->n_layer);
    for (l = 0; l < info->n_layer; l++) {
        double sum = 0, largest = 0;
        cache_read(held, l, CACHE_K, 0, cache_len(held), x);
        cache_read(held, l, CACHE_V, 0, cache_len(held), x + one);
        for (i = 0; i < 2 * one; i++) {
            uint64_t h = i + 0x9e3779b97f4a7c15u; /* SplitMix64 */
            h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
            h = (h ^ h >> 27) * 0x94d049bb133111ebu;
            sum += (h ^ h >> 31) & 1 ? -(double)x[i] : (double)x[i];
            largest = fmax(largest, fabs((double)x[i]));
        }
        sum /= sqrt(2 * (double)one);
        if (fabs(sum - json_number_value(json_array_get(sums, (size_t)l))) > 2e-4 * largest) say(c, "another cache in the end");
    }
    free(x);
}

/* ---- runs ---- */

static void run_one(struct one *c)
{
    struct oracle *o = (struct oracle *)&c->g->o;
    bool prefill = strcmp(c->when, "prefill") == 0, every = strcmp(c->when, "every_step") == 0, equal;
    int last = o->n - 1, zero = 0;
    float *logits = mem_array((size_t)o->info->n_vocab, sizeof *logits);
    struct record rec = {SITE_LOGITS, &zero, &last, 1, 1, 0, logits};
    struct watch watch = {&c->ed, &rec, prefill, 1}, steps = {&c->ed, NULL, 1, 0};
    struct step_edit step = {int_of(c->json, "first"), int_of(c->json, "last"), c->ed};
    struct gen_row r = {.watch = every ? &steps : NULL};
    const int *ids = prefill ? o->prompt : o->prompt + last;
    err e = {0};
    if (prefill)
        assert_int_equal(cache_new(&r.cache, o->en, &e), 0);
    else
        r.cache = cache_fork(c->g->finished);
    if (strcmp(c->when, "finished") == 0) edit_or_fail(o, r.cache, &c->ed);
    last = cache_len(r.cache) + (prefill ? o->n - 1 : 0);
    if (cache_feed_watched(r.cache, ids, prefill ? o->n : 1, &watch, &r.first, &e)) say(c, e.msg);
    if (strcmp(c->when, "steps") == 0) {
        r.steps = &step;
        r.n_steps = 1;
    }
    if (generate(o->en, &r, 1, &(struct gen_opts){.max_tokens = (int)json_array_size(json_object_get(c->json, "tokens"))}, &e))
        say(c, e.msg);
    if (r.error.code) say(c, r.error.msg);
    compare_logits(c, logits);
    equal = compare_text(c, &r);
    if (equal) compare_cache(c, r.cache);
    cache_free(r.cache);
    gen_row_clear(&r);
    free(logits);
}

static int run_file(const char *path)
{
    struct golden g = {0};
    const char *when, *name;
    json_t *group, *json;
    size_t i;
    int m, n = 0;
    g.root = json_load_file(path, 0, NULL);
    if (!g.root) fail_msg("%s cannot be read", path);
    name = json_string_value(json_object_get(g.root, "model"));
    for (m = 0; m < models.n && strcmp(strrchr(models.path[m], '/') + 1, name) != 0; m++) continue;
    if (m == models.n) fail_msg("%s: no model '%s' in tests/golden/tiny nor $KVRUN_ORACLE", path, name);
    oracle_open(&g.o, models.path[m]);
    g.o.folder = path;
    g.o.n = oracle_ints(json_object_get(g.root, "prompt"), g.o.prompt);
    assert_int_equal(oracle_ints(json_object_get(g.root, "donor"), g.o.donor), g.o.n);
    g.o.n_at = oracle_ints(json_object_get(g.root, "at"), g.o.at);
    g.finished = oracle_prefill(g.o.en, g.o.prompt, g.o.n - 1);
    g.other = oracle_prefill(g.o.en, g.o.donor, g.o.n);
    json_object_foreach(json_object_get(g.root, "conditions"), when, group)
    {
        json_array_foreach(group, i, json)
        {
            struct one c;
            one_read(&c, &g, json, when);
            run_one(&c);
            free(c.vector);
            n++;
        }
    }
    cache_free(g.finished);
    cache_free(g.other);
    oracle_close(&g.o);
    json_decref(g.root);
    return n;
}

static void every_edit_equals_transformers(void **state)
{
    int i;
    (void)state;
    assert_true(files.n >= 3);
    for (i = 0; i < files.n; i++) assert_true(run_file(files.path[i]) > 150);
}

/* Files NAME.json of a folder. */
static void add_files(const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *entry;
    if (!d) return;
    while ((entry = readdir(d))) {
        char path[1024];
        size_t n = strlen(entry->d_name);
        if (n < 6 || strcmp(entry->d_name + n - 5, ".json") != 0 || files.n == ORACLE_FOLDERS) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        files.path[files.n++] = mem_strdup(path);
    }
    closedir(d);
}

static int find_files(void **state)
{
    (void)state;
    add_files("tests/golden/edits");
    if (getenv("KVRUN_EDITS")) add_files(getenv("KVRUN_EDITS"));
    qsort(files.path, (size_t)files.n, sizeof *files.path, oracle_compare);
    return oracle_folders(&models) > 0 ? 0 : -1;
}

static int free_files(void **state)
{
    (void)state;
    oracle_folders_free(&files);
    oracle_folders_free(&models);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_edit_equals_transformers),
    };
    return cmocka_run_group_tests_name("edits", tests, find_files, free_files);
}
