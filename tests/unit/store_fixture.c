/* store_fixture.c: a small experiment made by hand: two prompts that know each other, and for each of them baseline, zero over
 * an axis of two layers, transplant, and a control made by kvrun. Included by the tests of the store and of what reads it. */
#include "../../runner/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static struct token fix_tokens[2][4] = {{{0, 0, 0}, {1, 0, 4}, {2, 4, 14}, {5, 14, 15}},
                                        {{0, 0, 0}, {3, 0, 4}, {4, 4, 9}, {5, 9, 10}}};
static struct span fix_spans[2][1] = {{{"city", 1, 1, 14, 1, 3, "space"}}, {{"city", 1, 1, 9, 1, 3, "space"}}};
static struct prompt fix_spec_prompts[2] = {{.name = "sf", .other = 1, .kind = PROMPT_TEXT},
                                            {.name = "ny", .other = 0, .kind = PROMPT_TEXT}};
static struct bound_prompt fix_prompts[2] = {
    {.prompt = &fix_spec_prompts[0],
     .text = " San Francisco.",
     .n_bytes = 15,
     .tokens = fix_tokens[0],
     .n_tokens = 4,
     .spans = fix_spans[0],
     .n_spans = 1,
     .sha256 = {1}},
    {.prompt = &fix_spec_prompts[1],
     .text = " New York.",
     .n_bytes = 10,
     .tokens = fix_tokens[1],
     .n_tokens = 4,
     .spans = fix_spans[1],
     .n_spans = 1,
     .sha256 = {2}},
};
static struct axis fix_axes[1] = {{.name = "layer", .kind = AXIS_LAYERS}};
static int fix_over[1] = {0};
static struct condition fix_conditions[3] = {
    {.name = "baseline"}, {.name = "zero", .over = fix_over, .n_over = 1}, {.name = "transplant"}};
static const char *fix_words_sf[] = {"San Francisco", "SF"}, *fix_words_ny[] = {"New York"};
static struct words fix_words[2] = {{"sf", fix_words_sf, 2}, {"ny", fix_words_ny, 1}};
static const char *fix_words_any[] = {"york"};
static struct words fix_any[1] = {{NULL, fix_words_any, 1}};
static struct metric fix_metrics[4] = {
    {.name = "needle_own", .kind = METRIC_MENTIONS, .which = WHICH_OWN, .words = fix_words, .n_words = 2},
    {.name = "needle_other", .kind = METRIC_MENTIONS, .which = WHICH_OTHER, .words = fix_words, .n_words = 2},
    {.name = "says_york", .kind = METRIC_MENTIONS, .which = WHICH_ANY, .words = fix_any, .n_words = 1, .casefold = true},
    {.name = "first_divergence", .kind = METRIC_FIRST_DIVERGENCE, .against = 0},
};
static struct spec fix_spec = {
    .path = "experiments/needle.yaml",
    .source = "kvrun: 1\nexperiment: needle\n",
    .source_len = 28,
    .sha256 = {7},
    .experiment = "needle",
    .title = "Is it still known?",
    .prompts = fix_spec_prompts,
    .n_prompts = 2,
    .axes = fix_axes,
    .n_axes = 1,
    .conditions = fix_conditions,
    .n_conditions = 3,
    .decode = {.max_tokens = 4, .stop_eos = true, .after_edit = AFTER_RERUN_LAST},
    .metrics = fix_metrics,
    .n_metrics = 4,
};

static int fix_all_layers[] = {0, 1, 2}, fix_heads[] = {0, 1}, fix_at[] = {1, 2};
static int fix_layer[2] = {0, 2};
static struct job_op fix_ops[5] = {
    {.op = EDIT_ZERO,
     .tensors = CACHE_K | CACHE_V,
     .layers = &fix_layer[0],
     .n_layers = 1,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = -1},
    {.op = EDIT_ZERO,
     .tensors = CACHE_K | CACHE_V,
     .layers = &fix_layer[1],
     .n_layers = 1,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = -1},
    {.op = EDIT_TRANSPLANT,
     .tensors = CACHE_V,
     .layers = fix_all_layers,
     .n_layers = 3,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = 1,
     .donor_at = fix_at},
    {.op = EDIT_TRANSPLANT,
     .tensors = CACHE_V,
     .layers = fix_all_layers,
     .n_layers = 3,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = 0,
     .donor_at = fix_at},
    {.op = EDIT_NOOP,
     .tensors = CACHE_K | CACHE_V,
     .layers = fix_all_layers,
     .n_layers = 3,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = -1},
};
static struct axis_value fix_values[2] = {{.axis = 0, .text = "0"}, {.axis = 0, .text = "2"}};
static struct job fix_job[10];
static struct jobs fix_jobs = {.jobs = fix_job, .n = 10, .prompts = fix_prompts, .n_prompts = 2};
static const struct environment fix_env = {.host = "test host",
                                           .os = "Linux",
                                           .cpu = "a cpu",
                                           .ram_bytes = 1 << 30,
                                           .isa = "scalar",
                                           .threads = 1,
                                           .version = "0.1.0",
                                           .git_commit = "abc",
                                           .compiler = "cc",
                                           .build_flags = "-O1",
                                           .libs_json = "{}"};

/* Fills fix_job: five per prompt; job 4 and 9 are the controls. The key of job i begins with i. */
static void fix_make_jobs(void)
{
    static const char *const conditions[5] = {"baseline", "zero", "zero", "transplant", "noop"};
    static const int index[5] = {0, 1, 1, 2, -1};
    static char labels[10][40], keys[10][40];
    int i;
    for (i = 0; i < 10; i++) {
        struct job *j = &fix_job[i];
        int c = i % 5, p = i / 5;
        *j = (struct job){.label = labels[i],
                          .condition_name = conditions[c],
                          .prompt = p,
                          .condition = index[c],
                          .baseline = p * 5,
                          .control = c == 4 ? CONTROL_SAME : CONTROL_NONE,
                          .against = c == 4 ? p * 5 : -1,
                          .control_of = -1,
                          .same_as = -1,
                          .key = {(uint8_t)i, 9},
                          .key_json = keys[i]};
        snprintf(keys[i], sizeof keys[i], "{\"n\":%d}", i);
        snprintf(labels[i], sizeof labels[i], "%s/%s%s%s", fix_spec_prompts[p].name, conditions[c],
                 index[c] == 1 ? "/layer=" : "", index[c] == 1 ? fix_values[c == 2].text : "");
        if (c) j->ops = &fix_ops[c == 3 ? 2 + p : c == 4 ? 4 : c - 1], j->n_ops = 1, j->after = AFTER_RERUN_LAST;
        if (index[c] == 1) j->values = &fix_values[c == 2], j->n_values = 1;
        j->moments = c == 0 ? MOMENT_PREFILL : c == 3 ? MOMENT_EDITED | MOMENT_END : 0;
    }
}

/* Activations of sf: two layers of resid at three positions, the embeddings at the last, one layer of attention weights. */
static const int fix_resid_layers[] = {0, 2}, fix_resid_at[] = {0, 1, 3}, fix_embed[] = {-1}, fix_last[] = {3},
                 fix_attn_layer[] = {1}, fix_attn_at[] = {2, 3};
static const struct job_record fix_records[3] = {{SITE_RESID, fix_resid_layers, fix_resid_at, 2, 3},
                                                 {SITE_RESID, fix_embed, fix_last, 1, 1},
                                                 {SITE_ATTN, fix_attn_layer, fix_attn_at, 1, 2}};

/* Edits in flight for ny/transplant: one with a file's vector, one with a difference, one without heads and layers. */
static const float fix_rows[32] = {1};
static const struct job_vector fix_vectors[2] = {
    {.rows = fix_rows, .n_rows = 1, .sha256 = {0xab, 0xcd}, .file = "v.safetensors"}, {.from = {0, 3}, .minus = {1, 2}}};
static int fix_no_layer[] = {-1}, fix_late[] = {3};
static struct job_op fix_flight[4] = {
    {.op = EDIT_ADD,
     .when = WHEN_PREFILL,
     .tensors = SITE_RESID,
     .layers = fix_all_layers,
     .n_layers = 3,
     .at = fix_late,
     .n_at = 1,
     .donor_job = -1,
     .donor_prompt = -1,
     .by = -2.5f,
     .vector = &fix_vectors[0]},
    {.op = EDIT_ADD,
     .when = WHEN_PREFILL,
     .tensors = SITE_HEAD_OUT,
     .layers = &fix_layer[1],
     .n_layers = 1,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_late,
     .n_at = 1,
     .donor_job = -1,
     .donor_prompt = -1,
     .by = 1,
     .vector = &fix_vectors[1]},
    {.op = EDIT_SCALE,
     .when = WHEN_PREFILL,
     .tensors = SITE_RESID,
     .layers = fix_no_layer,
     .n_layers = 1,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = -1,
     .by = 0.1f},
    {.op = EDIT_SCALE,
     .tensors = CACHE_V,
     .layers = &fix_layer[0],
     .n_layers = 1,
     .heads = fix_heads,
     .n_heads = 2,
     .at = fix_at,
     .n_at = 2,
     .donor_job = -1,
     .donor_prompt = -1,
     .by = 2},
};

/* Makes sf/baseline and sf/transplant record, and ny/transplant edit in flight. */
static inline void fix_add_flight(void)
{
    fix_job[0].records = fix_job[3].records = fix_records;
    fix_job[0].n_records = fix_job[3].n_records = 3;
    fix_job[8].ops = fix_flight;
    fix_job[8].n_ops = 4;
}

static float fix_activation(int job, int record, int layer, int pos, int i)
{
    return (float)(job * 1000 + record * 100 + layer * 10 + pos) + (float)i / 64;
}

/* What a job's records hold; the values are the caller's to free. */
static int fix_activations(int job, struct activation *out)
{
    int r, l, k, i;
    for (r = 0; r < fix_job[job].n_records; r++) {
        const struct job_record *rec = &fix_job[job].records[r];
        float *v;
        out[r] = (struct activation){.record = rec, .width = rec->site == SITE_ATTN ? 16 : 32};
        v = out[r].values = mem_array((size_t)(rec->n_layers * rec->n_at), (size_t)out[r].width * sizeof *v);
        for (l = 0; l < rec->n_layers; l++)
            for (k = 0; k < rec->n_at; k++)
                for (i = 0; i < out[r].width; i++) *v++ = fix_activation(job, r, rec->layers[l], rec->at[k], i);
    }
    return r;
}

static struct run_info fix_run(void)
{
    return (struct run_info){
        .spec = &fix_spec, .en = &fake_engine, .jobs = &fix_jobs, .env = &fix_env, .argv_json = "[\"kvrun\"]", .cwd = "/tmp"};
}

/* A path where nothing is yet. */
static const char *fix_path(void)
{
    static char path[64];
    static int n;
    snprintf(path, sizeof path, "/tmp/kvrun-test-%d-%d.db", (int)getpid(), n++);
    return path;
}

static void fix_remove(const char *path)
{
    static const char *const tails[] = {"", "-wal", "-shm", "-journal"};
    char name[512];
    int i;
    for (i = 0; i < COUNT(tails); i++) {
        snprintf(name, sizeof name, "%s%s", path, tails[i]);
        unlink(name);
    }
}

/* Puts an answer of the tokens given (-1 ends the list), whose text is their words, with captures of what the job wants. */
static int fix_put(store *st, int job, const int *tokens, const cache *c, err *e)
{
    struct gen_pick picks[16];
    struct activation acts[COUNT(fix_records)];
    struct buf text = {0};
    struct result r = {
        .job = job, .picks = picks, .stop = GEN_STOP_LENGTH, .prefill_us = 10, .decode_us = 20, .started_ms = 1700000000000};
    int rc, m;
    for (; *tokens >= 0; tokens++, r.n++) {
        picks[r.n] = (struct gen_pick){*tokens, -0.1f * (float)(r.n + 1), r.n == 1 ? INFINITY : 1.5f};
        buf_str(&text, fake_words[*tokens]);
    }
    for (m = MOMENT_PREFILL; m <= MOMENT_END; m <<= 1)
        if (fix_job[job].moments & m) r.snapshots[r.n_snapshots++] = (struct snapshot){m, c, c->len};
    r.text = text.p ? text.p : "";
    r.text_len = text.n;
    r.activations = acts;
    r.n_activations = fix_activations(job, acts);
    rc = store_put(st, &r, e);
    while (r.n_activations > 0) free(acts[--r.n_activations].values);
    buf_free(&text);
    return rc;
}
