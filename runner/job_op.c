/* job_op.c: one operation of a condition on one prompt: layers, heads, positions and donor as numbers. */
#include "job_parts.h"

#include "snippet.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- positions, found once per prompt and selector ---- */

static bool whole_word(const char *text, int n, int start, int end)
{
    return (start == 0 || !isalnum((unsigned char)text[start - 1])) && (end >= n || !isalnum((unsigned char)text[end]));
}

static bool allowed(const struct expand *x, int code)
{
    return x->s->allowed & 1u << (code - 100);
}

/* W106: the slot's value also stands in the prompt where no slot of this name is: the model can read it there. */
static void warn_elsewhere(const struct expand *x, const struct bound_prompt *p, const struct select *sel)
{
    const struct span *value = NULL;
    const char *s = p->text, *end = p->text + p->n_bytes;
    size_t n;
    int i;
    for (i = 0; i < p->n_spans && !value; i++)
        if (strcmp(p->spans[i].name, sel->text) == 0) value = &p->spans[i];
    if (!value) return;
    n = (size_t)(value->byte_end - value->byte_start);
    while ((s = memmem(s, (size_t)(end - s), p->text + value->byte_start, n))) {
        int a = (int)(s - p->text), z = a + (int)n;
        for (i = 0; i < p->n_spans &&
                    (strcmp(p->spans[i].name, sel->text) != 0 || p->spans[i].byte_end <= a || p->spans[i].byte_start >= z);)
            i++;
        if (i == p->n_spans && whole_word(p->text, p->n_bytes, a, z)) {
            diag_add(x->d, DIAG_WARNING, "W106", sel->at, sel->width,
                     "'%s' also stands outside slot '%s' in prompt '%s', at bytes %d..%d", snippet_text(x->mem, s, n, 40),
                     sel->text, p->prompt->name, a, z);
            return;
        }
        s++;
    }
}

static void warn_chosen(const struct expand *x, const struct bound_prompt *p, const struct select *sel, const struct chosen *c)
{
    if (sel->kind == SELECT_SLOT && !allowed(x, 106)) warn_elsewhere(x, p, sel);
    if (c->at[0] == 0 && !allowed(x, 107))
        diag_add(x->d, DIAG_WARNING, "W107", sel->at, sel->width,
                 "position 0 of prompt '%s' is edited: most attention rests there whatever it says", p->prompt->name);
}

struct chosen job_choose(struct expand *x, int prompt, const struct select *sel, bool warn)
{
    struct buf key = {0};
    struct chosen c = {NULL, -1};
    int found;
    map_key_int(&key, prompt);
    map_key_int(&key, warn);
    select_key(sel, &key); /* the same selector at another place has errors of its own */
    found = map_put(x->selects, key.p, key.n, x->n_chosen);
    buf_free(&key);
    if (found >= 0) return x->chosen[found];
    if (bind_select(&x->prompts[prompt], sel, x->mem, x->d, &c.at, &c.n))
        c.n = -1;
    else
        bind_decided(&x->prompts[prompt], sel);
    if (c.n >= 0 && warn) warn_chosen(x, &x->prompts[prompt], sel, &c);
    if ((x->n_chosen & (x->n_chosen - 1)) == 0)
        x->chosen = mem_grow(x->chosen, x->n_chosen ? 2 * (size_t)x->n_chosen : 1, sizeof *x->chosen);
    return x->chosen[x->n_chosen++] = c;
}

/* ---- layers and heads ---- */

static int resolve_layers(struct expand *x, const struct op *op, struct job_op *out)
{
    if (!op->embed)
        return bind_ranges(&op->layers, x->info->n_layer, "layer", x->model, x->mem, x->d, &out->layers, &out->n_layers);
    out->layers = arena_array(x->mem, 1, sizeof *out->layers);
    out->layers[0] = -1;
    out->n_layers = 1;
    return 0;
}

static int resolve_heads(struct expand *x, const struct op *op, struct job_op *out)
{
    int n = job_op_heads(x->info, op->op, op->tensors);
    if (n == 0) return 0;
    return bind_ranges(&op->heads, n, "head", x->model, x->mem, x->d, &out->heads, &out->n_heads);
}

/* ---- places ---- */

/* New tokens count from 0; those whose step is not among the operation's are left out. */
static int resolve_gen(struct expand *x, const struct op *op, struct job_op *out)
{
    int *at, n, i;
    if (bind_ranges(&op->select.tokens, x->s->decode.max_tokens, "new token", "this spec", x->mem, x->d, &at, &n)) return -1;
    out->gen_at = arena_array(x->mem, (size_t)n, sizeof *out->gen_at);
    for (i = 0; i < n; i++)
        if (at[i] >= out->first_step && at[i] <= out->last_step) out->gen_at[out->n_gen_at++] = at[i];
    if (out->n_gen_at) return 0;
    diag_add(x->d, DIAG_ERROR, "E384", op->select.at, op->select.width, "none of these new tokens is fed at steps %d..%d",
             out->first_step, out->last_step);
    diag_help(x->d, "help: step s is the pass that feeds new token s");
    return -1;
}

/* The candidates of a score that only the run can tell. */
static int resolve_score(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    struct job_score *score = arena_alloc(x->mem, sizeof *score);
    *score = (struct job_score){.score = op->select.score, .highest = op->select.highest};
    if (bind_score(&x->prompts[prompt], &op->select, x->mem, x->d, &out->at, &out->n_at, &score->count)) return -1;
    out->score = score;
    return op->when == WHEN_FINISHED_CACHE ? job_check_held(x, prompt, &op->select, out->at, out->n_at, false) : 0;
}

static int resolve_places(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    struct chosen c;
    if (op->select.kind == SELECT_GEN) return resolve_gen(x, op, out);
    if (op->select.kind == SELECT_SCORE && op->select.score != SCORE_POSITION) return resolve_score(x, prompt, op, out);
    c = job_choose(x, prompt, &op->select, true);
    if (c.n < 0) return -1;
    out->at = c.at;
    out->n_at = c.n;
    return op->when == WHEN_FINISHED_CACHE ? job_check_held(x, prompt, &op->select, c.at, c.n, false) : 0;
}

static int resolve_queries(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    struct chosen c;
    if (op->all_queries) return 0;
    c = job_choose(x, prompt, &op->queries, false);
    if (c.n < 0) return -1;
    out->queries = c.at;
    out->n_queries = c.n;
    if (c.at[c.n - 1] >= out->at[0]) return 0;
    diag_add(x->d, DIAG_ERROR, "E386", op->queries.at, op->queries.width,
             "no query at or behind the keys: in prompt '%s' the last query is at %d and the first key at %d",
             x->s->prompts[prompt].name, c.at[c.n - 1], out->at[0]);
    return -1;
}

/* ---- the whole operation ---- */

/* A last step behind the last pass says no more than that pass. */
static int resolve_steps(struct expand *x, const struct op *op, struct job_op *out)
{
    int last = x->s->decode.max_tokens - 1;
    if (op->when != WHEN_STEPS) return 0;
    out->first_step = op->first_step;
    out->last_step = op->last_step < last ? op->last_step : last;
    if (op->first_step <= last) return 0;
    diag_add(x->d, DIAG_ERROR, "E387", op->at, 1, "step %d: there are steps 0..%d, since max_tokens is %d", op->first_step,
             last, last + 1);
    return -1;
}

/* Keys of learned positions carry no rotation that could be turned back. */
static int check_compact(const struct expand *x, const struct op *op)
{
    if (!op->compact || op->when != WHEN_FINISHED_CACHE || x->info->rope_base > 0) return 0;
    diag_add(x->d, DIAG_ERROR, "E398", op->at, 1,
             "compact_rerotate: %s has learned positions; keys in its cache cannot be turned to others", x->model);
    diag_help(x->d, "help: position_policy: keep_holes, or when: prefill, where the tokens behind get their positions anew");
    return -1;
}

static int resolve_own(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    switch (op->op) {
    case EDIT_ADD: return job_vector_resolve(x, prompt, &op->vector, out);
    case EDIT_MEAN: return job_mean_resolve(x, prompt, op, out);
    case EDIT_SWAP: return job_donor_resolve(x, prompt, op, out);
    case EDIT_TRANSPLANT: return op->donor.stored ? job_stored_resolve(x, op, out) : job_donor_resolve(x, prompt, op, out);
    case EDIT_KNOCKOUT: return resolve_queries(x, prompt, op, out);
    default: return 0;
    }
}

int job_op_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    int rc = 0;
    *out = (struct job_op){.op = op->op,
                           .when = op->when,
                           .tensors = op->tensors,
                           .donor_prompt = -1,
                           .donor_job = -1,
                           .by = op->by,
                           .sigma = op->sigma,
                           .seed = (uint64_t)op->seed,
                           .bits = op->bits,
                           .per_channel = op->per_channel,
                           .compact = op->compact};
    if (resolve_steps(x, op, out) || check_compact(x, op)) rc = -1;
    if (rc == 0 && resolve_places(x, prompt, op, out)) rc = -1;
    if (resolve_layers(x, op, out)) rc = -1;
    if (resolve_heads(x, op, out)) rc = -1;
    return rc ? -1 : resolve_own(x, prompt, op, out);
}
