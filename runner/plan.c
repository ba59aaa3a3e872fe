/* plan.c: see plan.h. */
#include "plan_in.h"

#include "json_text.h"
#include "map.h"
#include "snippet.h"
#include "width.h"

#include <stdlib.h>
#include <string.h>

/* ---- positions ---- */

static void show_at(const struct plan *p, int prompt, int width, const char *what, const int *at, int n)
{
    const struct bound_prompt *b = &p->jobs->prompts[prompt];
    buf_str(p->out, "  ");
    plan_pad(p->out, b->label, width);
    buf_printf(p->out, "  tokens %4d  ", b->n_tokens);
    plan_pad(p->out, what, 12);
    buf_printf(p->out, " → %-8s  %s\n", snippet_positions(p->mem, at, n), snippet_at(p->mem, b, at, n));
}

static bool is_span(const struct bound_prompt *b, const int *at, int n)
{
    int i;
    for (i = 0; i < b->n_spans; i++)
        if (b->spans[i].tok_start == at[0] && b->spans[i].tok_end == at[n - 1] + 1 && n == at[n - 1] - at[0] + 1) return true;
    return false;
}

static void show_spans(const struct plan *p, int prompt, int width)
{
    const struct bound_prompt *b = &p->jobs->prompts[prompt];
    int i, k, used;
    for (i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->spans[i];
        int n = s->tok_end - s->tok_start, *at = arena_array(p->mem, (size_t)n, sizeof *at);
        for (k = 0; k < n; k++) at[k] = s->tok_start + k;
        for (k = used = 0; k < b->n_spans; k++) used += strcmp(b->spans[k].name, s->name) == 0;
        if (n) show_at(p, prompt, width, arena_printf(p->mem, used > 1 ? "slot %s %d" : "slot %s", s->name, s->nth), at, n);
    }
}

/* Positions that operations name and that are no slot, once each. */
static void show_edits(const struct plan *p, int first, int width)
{
    enum { ROWS = 12 };
    struct map *seen = map_new();
    int prompt = p->jobs->jobs[first].prompt, i, k, more = 0, rows = 0;
    for (i = first; i < p->jobs->n && p->jobs->jobs[i].prompt == prompt; i++)
        for (k = 0; k < p->jobs->jobs[i].n_ops; k++) {
            const struct job_op *op = &p->jobs->jobs[i].ops[k];
            if (op->n_at == 0 || is_span(&p->jobs->prompts[prompt], op->at, op->n_at)) continue;
            if (map_put(seen, op->at, (size_t)op->n_at * sizeof *op->at, 0) >= 0) continue;
            if (rows++ < ROWS)
                show_at(p, prompt, width, "edited", op->at, op->n_at);
            else
                more++;
        }
    if (more) buf_printf(p->out, "  … and %d more stretches of this prompt\n", more);
    map_free(seen);
}

static void show_positions(const struct plan *p)
{
    enum { PROMPTS = 100 };
    int i, width = 0, last = -1, shown = 0;
    for (i = 0; i < p->s->n_prompts; i++) {
        int w = width_text(p->jobs->prompts[i].label, strlen(p->jobs->prompts[i].label));
        if (w > width) width = w;
    }
    buf_str(p->out, "positions\n");
    for (i = 0; i < p->jobs->n; i++) {
        if (p->jobs->jobs[i].prompt == last) continue;
        last = p->jobs->jobs[i].prompt;
        if (shown++ >= PROMPTS) continue;
        show_spans(p, last, width);
        show_edits(p, i, width);
    }
    if (shown > PROMPTS) buf_printf(p->out, "  … and %d more prompts\n", shown - PROMPTS);
}

/* ---- edits in flight ---- */

/* What only this operation has: "  bits 4  per token" */
static void show_params(const struct plan *p, const struct job_op *op)
{
    json_t *o = json_object(), *v;
    const char *key;
    job_op_params(op, o);
    json_object_del(o, "gen");
    json_object_foreach(o, key, v)
    {
        char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        buf_printf(p->out, "  %s %s", key, json_is_string(v) ? json_string_value(v) : text);
        free(text);
    }
    json_decref(o);
}

/* "zero v layers 0..3 heads 1 at 7" */
static void show_op(const struct plan *p, const struct job_op *op)
{
    const struct spec *s = p->s;
    const struct job_vector *v = op->vector;
    char by[16];
    int i, n;
    job_op_places(op, &n);
    job_number(op->by, by);
    buf_printf(p->out, "%s %s", job_op_name(op->op), job_tensor_name(op->tensors, op->layers[0]));
    if (op->layers[0] >= 0) buf_printf(p->out, "  layers %s", snippet_positions(p->mem, op->layers, op->n_layers));
    if (op->n_heads) buf_printf(p->out, "  heads %s", snippet_positions(p->mem, op->heads, op->n_heads));
    if (op->n_at) buf_printf(p->out, "  at %s", snippet_positions(p->mem, op->at, op->n_at));
    if (op->n_gen_at) buf_printf(p->out, "  at new %s", snippet_positions(p->mem, op->gen_at, op->n_gen_at));
    show_params(p, op);
    if (op->op == EDIT_SCALE || op->op == EDIT_ADD) buf_printf(p->out, "  by %s", by);
    if (v && v->rows) buf_printf(p->out, "  %s %02x%02x%02x…", v->file, v->sha256[0], v->sha256[1], v->sha256[2]);
    for (i = 0; v && i < v->n_sets; i++)
        buf_printf(p->out, "%s %s at %s", i ? "," : "  of", p->jobs->prompts[v->sets[i].prompt].prompt->name,
                   snippet_positions(p->mem, v->sets[i].at, v->sets[i].n));
    if (v && !v->rows && !v->sets)
        buf_printf(p->out, "  %s at %d minus %s at %d", s->prompts[v->from.prompt].name, v->from.at,
                   s->prompts[v->minus.prompt].name, v->minus.at);
    if (op->donor_prompt >= 0)
        buf_printf(p->out, "  from %s at %s%s",
                   op->donor_job >= 0 ? p->jobs->jobs[op->donor_job].label : s->prompts[op->donor_prompt].name,
                   snippet_positions(p->mem, op->donor_at, n), op->rerotate ? " rerotated" : "");
    buf_char(p->out, '\n');
}

/* What is changed while the first prompt is fed; the other prompts get the same at their own positions. */
static void show_flight(const struct plan *p)
{
    enum { ROWS = 12 };
    int i, k, rows = 0;
    for (i = 0; i < p->jobs->n && p->jobs->jobs[i].prompt == 0; i++)
        for (k = 0; k < p->jobs->jobs[i].n_ops; k++) {
            if (p->jobs->jobs[i].ops[k].when == WHEN_FINISHED_CACHE || rows++ >= ROWS) continue;
            if (rows == 1) buf_str(p->out, "edits in flight\n");
            buf_printf(p->out, "  %s  ", p->jobs->jobs[i].label);
            show_op(p, &p->jobs->jobs[i].ops[k]);
        }
    if (rows > ROWS) buf_printf(p->out, "  … and %d more of this prompt\n", rows - ROWS);
}

/* Whether no query behind an edit of the cache sees it in any of its layers. */
static bool out_of_sight(const struct plan *p, const struct job *j, const struct job_op *op)
{
    int n = p->jobs->prompts[j->prompt].n_tokens, first, l;
    if (!p->info->windows || op->when == WHEN_PREFILL || op->n_at == 0) return false;
    first = op->when == WHEN_STEPS ? n + op->first_step : n - (p->jobs->feed ? p->jobs->feed[j->prompt] : 1);
    for (l = 0; l < op->n_layers; l++) {
        int window = op->layers[l] >= 0 ? p->info->windows[op->layers[l]] : 0;
        if (window == 0 || op->at[op->n_at - 1] > first - window) return false;
    }
    return true;
}

/* Edits that sliding windows hide from every later query: legal, and rarely what was meant. */
static void show_hidden(const struct plan *p)
{
    enum { ROWS = 6 };
    int i, k, rows = 0;
    for (i = 0; i < p->jobs->n; i++)
        for (k = 0; k < p->jobs->jobs[i].n_ops; k++) {
            const struct job_op *op = &p->jobs->jobs[i].ops[k];
            if (!out_of_sight(p, &p->jobs->jobs[i], op) || rows++ >= ROWS) continue;
            if (rows == 1) buf_str(p->out, "out of sight: sliding windows hide these from every later query\n");
            buf_printf(p->out, "  %s  ", p->jobs->jobs[i].label);
            show_op(p, op);
        }
    if (rows > ROWS) buf_printf(p->out, "  … and %d more\n", rows - ROWS);
}

/* What is recorded of the first prompt. */
static void show_records(const struct plan *p)
{
    enum { ROWS = 12 };
    const struct job_record *last = NULL;
    int i, k, rows = 0;
    for (i = 0; i < p->jobs->n && p->jobs->jobs[i].prompt == 0; i++) {
        const struct job *j = &p->jobs->jobs[i];
        if (j->n_records == 0 || j->records == last) continue; /* one row for all values of its axes */
        last = j->records;
        for (k = 0; k < j->n_records; k++) {
            const struct job_record *r = &j->records[k];
            if (rows++ >= ROWS) continue;
            if (rows == 1) buf_str(p->out, "recorded\n");
            buf_printf(p->out, "  %s  %s", j->label, job_tensor_name(r->site, r->layers[0]));
            if (r->site != SITE_LOGITS && r->layers[0] >= 0)
                buf_printf(p->out, "  layers %s", snippet_positions(p->mem, r->layers, r->n_layers));
            buf_printf(p->out, "  at %s\n", snippet_positions(p->mem, r->at, r->n_at));
        }
    }
    if (rows > ROWS) buf_printf(p->out, "  … and %d more of this prompt\n", rows - ROWS);
}

/* ---- cost ---- */

static const char *bytes_text(arena *mem, double n)
{
    if (n < 1e6) return arena_printf(mem, "%.0f kB", n / 1e3);
    return n < 1e9 ? arena_printf(mem, "%.1f MB", n / 1e6) : arena_printf(mem, "%.2f GB", n / 1e9);
}

/* Bytes of K and V of the moments of a job, when it generates all the tokens it may. */
static double capture_bytes(const struct plan *p, const struct job *j)
{
    double n = p->jobs->prompts[j->prompt].n_tokens, tokens = 0;
    if (j->moments & MOMENT_PREFILL) tokens += n - 1;
    if (j->moments & MOMENT_EDITED) tokens += n - 1;
    if (j->moments & MOMENT_END) tokens += n + p->s->decode.max_tokens - 1;
    return tokens * (double)p->info->kv_bytes_per_token;
}

/* The prompts whose caches the jobs that run need, theirs and those of donors. */
static bool *prompts_needed(const struct plan *p)
{
    bool *needed = arena_array(p->mem, (size_t)p->jobs->n_prompts, sizeof *needed);
    int i, k, s;
    for (i = 0; i < p->jobs->n; i++) {
        const struct job *j = &p->jobs->jobs[i];
        if (plan_fate(p, i) != FATE_RUN) continue;
        needed[j->prompt] = true;
        for (k = 0; k < j->n_ops; k++) {
            const struct job_op *op = &j->ops[k];
            if (op->donor_prompt >= 0) needed[op->donor_prompt] = true;
            for (s = 0; op->vector && s < op->vector->n_sets; s++) needed[op->vector->sets[s].prompt] = true;
            if (op->op == EDIT_ADD && !op->vector->rows)
                needed[op->vector->from.prompt] = needed[op->vector->minus.prompt] = true;
        }
    }
    return needed;
}

/* Jobs that feed a part of their prompt by themselves. */
static bool in_flight(const struct job *j)
{
    int k;
    for (k = 0; k < j->n_ops; k++)
        if (j->ops[k].when == WHEN_PREFILL) return true;
    return j->n_records > 0;
}

static void show_cost(const struct plan *p)
{
    struct map *prefills = map_new();
    bool *needed = prompts_needed(p);
    int i, n_prefill = 0, n_run = 0, n_flight = 0;
    long tokens = 0;
    double kv = 0, recorded = 0;
    for (i = 0; i < p->jobs->n; i++) {
        const struct job *j = &p->jobs->jobs[i];
        if (plan_fate(p, i) != FATE_RUN) continue;
        n_run++;
        n_flight += in_flight(j);
        kv += capture_bytes(p, j);
        recorded += (double)job_record_bytes(p->en, p->jobs, j);
    }
    for (i = 0; i < p->jobs->n_prompts; i++) {
        if (!needed[i] || map_put(prefills, p->jobs->prompts[i].sha256, 32, 0) >= 0) continue;
        n_prefill++;
        tokens += p->jobs->prompts[i].n_tokens;
    }
    buf_printf(p->out, "cost   %d prefill%s, %ld tokens", n_prefill, n_prefill == 1 ? "" : "s", tokens);
    if (n_run - n_flight > 1) buf_printf(p->out, ", shared by %d jobs", n_run - n_flight);
    buf_str(p->out, " · ");
    if (n_flight)
        buf_printf(p->out, "%d job%s with a prefill of %s own · ", n_flight, n_flight == 1 ? "" : "s",
                   n_flight == 1 ? "its" : "their");
    buf_printf(p->out, "decode %d × %d tokens at most · KV to store %s raw", n_run, p->s->decode.max_tokens,
               bytes_text(p->mem, kv));
    if (kv > 0) buf_printf(p->out, ", %s of it in different chunks", bytes_text(p->mem, plan_unique_bytes(p)));
    if (recorded > 0) buf_printf(p->out, " · activations to store %s raw", bytes_text(p->mem, recorded));
    if (p->what->db && plan_free_bytes(p->what->db) >= 0)
        buf_printf(p->out, " · %s free", bytes_text(p->mem, plan_free_bytes(p->what->db)));
    buf_char(p->out, '\n');
    map_free(prefills);
}

void plan_text(const struct planned *what, struct buf *out)
{
    struct plan p = {what->s, what->en, engine_info(what->en), what->jobs, what, arena_new(), out};
    plan_counts(&p);
    plan_grid(&p);
    plan_sums(&p);
    if (what->reasons) plan_reasons(&p);
    show_positions(&p);
    show_flight(&p);
    show_hidden(&p);
    show_records(&p);
    show_cost(&p);
    arena_free(p.mem);
}

/* ---- JSON ---- */

static json_t *ints(const int *v, int n)
{
    json_t *a = json_array();
    int i;
    for (i = 0; i < n; i++) json_array_append_new(a, json_integer(v[i]));
    return a;
}

static json_t *hex(const uint8_t h[32])
{
    char s[65];
    return json_string(hex_text(s, h, 32));
}

static json_t *sets_json(const struct jobs *jobs, const struct job_vector *v)
{
    json_t *all = json_array(), *one;
    int i;
    for (i = 0; i < v->n_sets; i++) {
        const struct job_set *set = &v->sets[i];
        one = json_pack("{s:s, s:o}", "prompt", jobs->prompts[set->prompt].prompt->name, "at", ints(set->at, set->n));
        if (set->job >= 0) json_object_set_new(one, "job", json_string(jobs->jobs[set->job].label));
        json_array_append_new(all, one);
    }
    return all;
}

static json_t *place_json(const struct spec *s, const struct job_place *p)
{
    return json_pack("{s:s, s:[i]}", "prompt", s->prompts[p->prompt].name, "at", p->at);
}

static json_t *vector_json(const struct spec *s, const struct job_vector *v)
{
    if (v->rows) return json_pack("{s:s, s:o}", "file", v->file, "sha256", hex(v->sha256));
    return json_pack("{s:o, s:o}", "from", place_json(s, &v->from), "minus", place_json(s, &v->minus));
}

static json_t *op_json(const struct spec *s, const struct jobs *jobs, const struct job_op *op)
{
    json_t *o = json_pack("{s:s, s:s, s:s}", "op", job_op_name(op->op), "tensor", job_tensor_name(op->tensors, op->layers[0]),
                          "when", job_when_name(op->when));
    int n;
    job_op_places(op, &n);
    json_object_set_new(o, "layers", ints(op->layers, op->n_layers));
    json_object_set_new(o, "heads", ints(op->heads, op->n_heads));
    json_object_set_new(o, "at", ints(op->at, op->n_at));
    job_op_params(op, o);
    if (op->donor_prompt >= 0) {
        json_t *from = json_pack("{s:s}", "prompt", s->prompts[op->donor_prompt].name);
        if (op->donor_job >= 0) json_object_set_new(from, "job", json_string(jobs->jobs[op->donor_job].label));
        json_object_set_new(from, "at", ints(op->donor_at, n));
        json_object_set_new(o, "from", from);
        json_object_set_new(o, "rope", json_string(op->rerotate ? "rerotate" : "keep"));
    }
    if (op->op == EDIT_SCALE || op->op == EDIT_ADD) json_object_set_new(o, "by", json_real((double)op->by));
    if (op->op == EDIT_MEAN)
        json_object_set_new(o, "over", sets_json(jobs, op->vector));
    else if (op->vector)
        json_object_set_new(o, "vector", vector_json(s, op->vector));
    return o;
}

/* One object per tensor and set of layers. */
static json_t *records_json(const struct job *j)
{
    json_t *all = json_array();
    int i;
    for (i = 0; i < j->n_records; i++) {
        const struct job_record *r = &j->records[i];
        json_t *o = json_pack("{s:s}", "tensor", job_tensor_name(r->site, r->layers[0]));
        json_object_set_new(o, "layers", ints(r->layers, r->n_layers));
        json_object_set_new(o, "at", ints(r->at, r->n_at));
        json_array_append_new(all, o);
    }
    return all;
}

static void add_hex(struct buf *out, const uint8_t h[32])
{
    char s[65];
    json_text_string(out, hex_text(s, h, 32), 64);
}

static void add_string(struct buf *out, const char *key, const char *value)
{
    buf_printf(out, ",\"%s\":", key);
    json_text_string(out, value, strlen(value));
}

static void add_axes(const struct plan *p, const struct job *j, struct buf *out)
{
    int k, m;
    buf_str(out, ",\"axes\":{");
    for (k = 0; k < j->n_values; k++) {
        const struct axis *a = &p->s->axes[j->values[k].axis];
        buf_printf(out, k ? ",\"%s\":" : "\"%s\":", a->name);
        json_text_string(out, j->values[k].text, strlen(j->values[k].text));
        for (m = 0; a->kind == AXIS_ZIP && m < a->n_members; m++)
            add_string(out, a->members[m].full, a->members[m].values[j->values[k].choice]->text);
    }
    buf_char(out, '}');
}

/* Appends v; takes it. */
static void add_json(struct buf *out, json_t *v)
{
    if (v) json_text(v, out);
    json_decref(v);
}

static void add_job(const struct plan *p, int i, struct buf *out)
{
    const struct job *j = &p->jobs->jobs[i];
    const struct peek *peek = p->what->peek;
    bool reuse = peek && peek->what[i] == STORED_ANSWER;
    int k;
    buf_str(out, "{\"label\":");
    json_text_string(out, j->label, strlen(j->label));
    buf_str(out, ",\"key\":");
    add_hex(out, j->key);
    add_string(out, "prompt", p->jobs->prompts[j->prompt].prompt->name);
    add_string(out, "condition", j->condition_name);
    add_axes(p, j, out);
    buf_printf(out, ",\"n_prompt\":%d,\"ops\":[", p->jobs->prompts[j->prompt].n_tokens);
    for (k = 0; k < j->n_ops; k++) {
        if (k) buf_char(out, ',');
        add_json(out, op_json(p->s, p->jobs, &j->ops[k]));
    }
    buf_char(out, ']');
    if (j->n_records) buf_str(out, ",\"records\":"), add_json(out, records_json(j));
    if (j->same_as >= 0)
        add_string(out, "same_as", p->jobs->jobs[j->same_as].label);
    else
        buf_str(out, ",\"same_as\":null");
    buf_printf(out, ",\"reuse\":%s", reuse ? "true" : "false");
    add_string(out, "why", plan_why(p, i));
    if (reuse) add_string(out, "run", peek->runs[peek->run[i]].uuid);
    if (p->what->only) buf_printf(out, ",\"asked\":%s", p->what->only->asked[i] ? "true" : "false");
    add_string(out, "key_json", j->key_json);
    buf_char(out, '}');
}

void plan_json(const struct planned *what, struct buf *out)
{
    const struct spec *s = what->s;
    const struct engine_info *info = engine_info(what->en);
    struct plan p = {s, what->en, info, what->jobs, what, arena_new(), out};
    int i, n = 0;
    buf_str(out, "{\"experiment\":");
    json_text_string(out, s->experiment, strlen(s->experiment));
    buf_str(out, ",\n\"model\":{\"sha256\":");
    add_hex(out, info->sha256);
    add_string(out, "path", s->model_path);
    add_string(out, "name", info->name ? info->name : "");
    add_string(out, "kv", info->kv_dtype);
    buf_str(out, "},\n\"jobs\":[");
    for (i = 0; i < what->jobs->n; i++) {
        if (plan_fate(&p, i) == FATE_NONE) continue;
        buf_str(out, n++ ? ",\n" : "\n");
        add_job(&p, i, out);
    }
    buf_str(out, "\n]}\n");
    arena_free(p.mem);
}
