/* job_control.c: jobs that kvrun makes beside those asked for: what must equal the baseline to the bit (noop, self_transplant),
 * what must equal the prompt without the tokens (absent), and the same edits at a place that says nothing (non_needle). */
#include "job_parts.h"

#include <stdlib.h>
#include <string.h>

enum {
    EDITS_MAX = 1024, /* more are put together: an edit that changes nothing may cover more than was asked for */
    MOVED_MAX = 256   /* edits of one condition that are made elsewhere, too */
};

void job_control_room(const struct spec *s, int *jobs, int *prompts)
{
    *jobs = 2 + 5 * s->n_conditions;
    *prompts = s->control_absent ? s->n_conditions : 0;
}

static bool is_for(const struct spec *s, int condition)
{
    int i;
    if (!s->conditions[condition].apply) return false;
    for (i = 0; i < s->n_controls_for; i++)
        if (s->controls_for[i] == condition) return true;
    return !s->controls_for;
}

/* ---- what a condition, or all of a prompt, touches ---- */

/* Where and when, and of which tensors. */
static void add_place(struct buf *b, const struct job_op *op)
{
    map_key_ints(b, &op->tensors, 1);
    map_key_ints(b, (const int[]){(int)op->when, op->first_step, op->last_step}, 3);
    map_key_ints(b, op->layers, op->n_layers);
    map_key_ints(b, op->heads, op->n_heads);
    map_key_ints(b, op->at, op->n_at);
    map_key_ints(b, op->gen_at, op->n_gen_at);
}

/* Jobs first..end-1. */
struct jobs_of {
    struct expand *x;
    struct jobs *all;
    int prompt, first, end;
};

/* The places of an operation as places of keys and values, where it is about neither. */
static struct job_op place_of(struct expand *x, const struct job_op *op)
{
    struct job_op p = {.when = op->when,
                       .tensors = op->tensors,
                       .layers = op->layers,
                       .heads = op->heads,
                       .at = op->at,
                       .n_layers = op->n_layers,
                       .n_heads = op->n_heads,
                       .n_at = op->n_at,
                       .first_step = op->first_step,
                       .last_step = op->last_step,
                       .gen_at = op->gen_at,
                       .n_gen_at = op->n_gen_at,
                       .donor_prompt = -1,
                       .donor_job = -1,
                       .by = 1};
    int i;
    if (op->op != EDIT_KNOCKOUT) return p;
    p.n_heads = x->info->n_kv_head;
    p.heads = arena_array(x->mem, (size_t)p.n_heads, sizeof *p.heads);
    for (i = 0; i < p.n_heads; i++) p.heads[i] = i;
    return p;
}

static int *join(arena *mem, const int *a, int n_a, const int *b, int n_b, int *n)
{
    int *out = arena_array(mem, (size_t)(n_a + n_b), sizeof *out), i = 0, k = 0;
    for (*n = 0; i < n_a || k < n_b;) {
        int v = k == n_b || (i < n_a && a[i] <= b[k]) ? a[i] : b[k];
        while (i < n_a && a[i] == v) i++;
        while (k < n_b && b[k] == v) k++;
        out[(*n)++] = v;
    }
    return out;
}

/* Operations of one tensor and moment become one over all their layers, heads and places. */
static void put_together(struct expand *x, struct job_op *ops, int *n)
{
    int i, k, kept = 0;
    for (i = 0; i < *n; i++) {
        struct job_op *o = &ops[i], *p = ops;
        for (k = 0; k < kept; k++, p++)
            if (p->tensors == o->tensors && p->when == o->when && p->first_step == o->first_step &&
                p->last_step == o->last_step && !p->n_gen_at == !o->n_gen_at && (p->layers[0] < 0) == (o->layers[0] < 0))
                break;
        if (k == kept) {
            ops[kept++] = *o;
            continue;
        }
        p->layers = join(x->mem, p->layers, p->n_layers, o->layers, o->n_layers, &p->n_layers);
        p->heads = join(x->mem, p->heads, p->n_heads, o->heads, o->n_heads, &p->n_heads);
        p->at = join(x->mem, p->at, p->n_at, o->at, o->n_at, &p->n_at);
        p->gen_at = join(x->mem, p->gen_at, p->n_gen_at, o->gen_at, o->n_gen_at, &p->n_gen_at);
    }
    *n = kept;
}

/* The places that the jobs edit, with doubles left out: what a control must touch. */
static struct job_op *places_of(const struct jobs_of *of, int *n)
{
    struct map *seen = map_new();
    struct buf key = {0};
    struct job_op *ops;
    int total = 0, i, k, side;
    for (i = of->first; i < of->end; i++) total += of->all->jobs[i].n_ops;
    ops = arena_array(of->x->mem, 2 * (size_t)total, sizeof *ops);
    for (i = of->first, *n = 0; i < of->end; i++)
        for (k = 0; k < of->all->jobs[i].n_ops; k++) {
            const struct job_op *op = &of->all->jobs[i].ops[k];
            for (side = 0; side < (op->op == EDIT_SWAP ? 2 : 1); side++) {
                struct job_op p = place_of(of->x, op);
                if (side) p.at = op->donor_at;
                key.n = 0;
                add_place(&key, &p);
                if (map_put(seen, key.p, key.n, 0) < 0) ops[(*n)++] = p;
            }
        }
    buf_free(&key);
    map_free(seen);
    if (*n > EDITS_MAX) put_together(of->x, ops, n);
    return ops;
}

/* ---- one control ---- */

static struct job *add_job(struct expand *x, struct jobs *all, const char *name, int prompt, int condition, int control_of)
{
    struct job *j = &all->jobs[all->n++];
    *j = (struct job){.condition_name =
                          condition < 0 ? name : arena_printf(x->mem, "%s~%s", x->s->conditions[condition].name, name),
                      .prompt = prompt,
                      .condition = -1,
                      .values = x->s->prompts[prompt].values,
                      .n_values = x->s->prompts[prompt].n_values,
                      .against = -1,
                      .control_of = control_of};
    j->label = job_label(x->mem, x->s, j);
    return j;
}

static int finish_job(struct expand *x, struct job *j)
{
    job_finish_parts(x, j);
    return job_records(x, j);
}

/* noop or self_transplant. New tokens have no donor of their own. */
static int add_same(const struct jobs_of *of, enum edit_op op, int condition, const struct job_op *places, int n)
{
    struct expand *x = of->x;
    struct job *j;
    int i;
    for (i = 0; i < n && op == EDIT_TRANSPLANT && places[i].n_gen_at;) i++;
    if (i == n) return 0;
    j = add_job(x, of->all, op == EDIT_NOOP ? "noop" : "self_transplant", of->prompt, condition,
                condition < 0 ? -1 : of->first);
    j->control = CONTROL_SAME;
    j->ops = arena_array(x->mem, (size_t)n, sizeof *j->ops);
    for (i = 0; i < n; i++) {
        struct job_op *o = &j->ops[j->n_ops];
        if (op == EDIT_TRANSPLANT && places[i].n_gen_at) continue;
        *o = places[i];
        o->op = op;
        if (op == EDIT_TRANSPLANT) {
            o->donor_prompt = of->prompt;
            o->donor_at = o->at;
        }
        j->n_ops++;
    }
    return finish_job(x, j);
}

static int add_both(const struct jobs_of *of, int condition)
{
    const struct spec *s = of->x->s;
    struct job_op *places;
    int n, rc = 0;
    if (!s->control_noop && !s->control_self_transplant) return 0;
    places = places_of(of, &n);
    if (n == 0) return 0;
    if (s->control_noop && add_same(of, EDIT_NOOP, condition, places, n)) rc = -1;
    if (s->control_self_transplant && add_same(of, EDIT_TRANSPLANT, condition, places, n)) rc = -1;
    return rc;
}

/* ---- the same edits elsewhere ---- */

struct moving {
    const struct jobs_of *of;
    unsigned char *taken; /* (n_tokens) 1: a run may not hold it */
    int n_tokens;
    struct map *runs; /* positions -> the run's start */
    uint64_t state;
};

/* SplitMix64, Steele et al. 2014. */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void take(struct moving *m, const int *at, int n)
{
    int i;
    for (i = 0; i < n; i++) m->taken[at[i]] = 1;
}

/* The needle is what is edited, and what stands in a slot. Scores name candidates, which are no needle. */
static void take_needle(struct moving *m)
{
    const struct jobs_of *of = m->of;
    const struct bound_prompt *p = &of->x->prompts[of->prompt];
    int i, k;
    m->taken[0] = m->taken[m->n_tokens - 1] = 1;
    for (i = 0; i < p->n_spans; i++)
        for (k = p->spans[i].tok_start; k < p->spans[i].tok_end && !p->spans[i].filler; k++) m->taken[k] = 1;
    for (i = of->first; i < of->end; i++)
        for (k = 0; k < of->all->jobs[i].n_ops; k++) {
            const struct job_op *op = &of->all->jobs[i].ops[k];
            if (!op->score) take(m, op->at, op->n_at);
            if (op->op == EDIT_SWAP) take(m, op->donor_at, op->n_at);
        }
}

/* Whether an operation on n positions can be made at start..start+n-1. */
static bool fits(const struct moving *m, const struct job_op *op, int start, int n)
{
    struct expand *x = m->of->x;
    int end = op->when == WHEN_FINISHED_CACHE ? job_held(x, m->of->prompt) : m->n_tokens, i;
    if (start + n > end) return false;
    for (i = start; i < start + n; i++)
        if (m->taken[i]) return false;
    if (op->queries && op->queries[op->n_queries - 1] < start) return false;
    if (op->donor_prompt >= 0) {
        int from = start + op->donor_at[0] - op->at[0];
        end = op->when == WHEN_FINISHED_CACHE ? job_held(x, op->donor_prompt) : x->prompts[op->donor_prompt].n_tokens;
        if (from < 0 || from + n > end) return false;
    }
    return true;
}

/* Where a run of n positions starts, the same one for all operations on the same places; -1: there is none. */
static int run_of(struct moving *m, const struct job_op *op, int n)
{
    int count = 0, i, start, before = map_get(m->runs, op->at, (size_t)op->n_at * sizeof *op->at);
    uint64_t which;
    if (before >= 0 && fits(m, op, before, n)) return before;
    for (i = 1; i < m->n_tokens; i++) count += fits(m, op, i, n);
    if (count == 0) return -1;
    which = draw(&m->state) % (uint64_t)count;
    for (start = 1; !fits(m, op, start, n) || which-- > 0;) start++;
    map_put(m->runs, op->at, (size_t)op->n_at * sizeof *op->at, start);
    return start;
}

static int *run(arena *mem, int start, int n)
{
    int *at = arena_array(mem, (size_t)n, sizeof *at), i;
    for (i = 0; i < n; i++) at[i] = start + i;
    return at;
}

/* False: there is no such run. Edits of new tokens stay: they are no needle. */
static bool move(struct moving *m, struct job_op *op)
{
    arena *mem = m->of->x->mem;
    int n = op->score ? op->score->count : op->n_at, start, from;
    if (op->n_gen_at) return true;
    start = run_of(m, op, n);
    if (start < 0) return false;
    from = op->donor_prompt >= 0 ? start + op->donor_at[0] - op->at[0] : -1;
    op->score = NULL;
    op->at = run(mem, start, n);
    op->n_at = n;
    if (from >= 0) op->donor_at = run(mem, from, n);
    return true;
}

/* The operations of a condition's jobs with doubles left out; *n -1: too many. */
static struct job_op *operations_of(const struct jobs_of *of, int *n)
{
    struct job_op *ops = arena_array(of->x->mem, MOVED_MAX, sizeof *ops);
    struct map *seen = map_new();
    struct buf key = {0};
    int i, k;
    for (i = of->first, *n = 0; i < of->end && *n >= 0; i++)
        for (k = 0; k < of->all->jobs[i].n_ops && *n >= 0; k++) {
            key.n = 0;
            job_op_bytes(&of->all->jobs[i].ops[k], &key);
            if (map_put(seen, key.p, key.n, 0) >= 0) continue;
            if (*n == MOVED_MAX)
                *n = -1;
            else
                ops[(*n)++] = of->all->jobs[i].ops[k];
        }
    buf_free(&key);
    map_free(seen);
    return ops;
}

static void none_elsewhere(const struct jobs_of *of, int condition, bool many)
{
    const struct spec *s = of->x->s;
    if (s->allowed & 1u << 16) return;
    diag_add(of->x->d, DIAG_WARNING, "W116", s->controls_at, 1,
             many ? "condition '%s' has no control non_needle in prompt '%s': more than %d different edits"
                  : "condition '%s' has no control non_needle in prompt '%s': no other stretch of tokens is as long",
             s->conditions[condition].name, s->prompts[of->prompt].name, MOVED_MAX);
}

static int add_non_needle(const struct jobs_of *of, int condition)
{
    struct expand *x = of->x;
    struct moving m = {of, NULL, x->prompts[of->prompt].n_tokens, map_new(), (uint64_t)x->s->non_needle_seed};
    struct job *j;
    int n, i;
    struct job_op *ops = operations_of(of, &n);
    bool found = n >= 0, any = false;
    m.taken = mem_alloc((size_t)m.n_tokens);
    take_needle(&m);
    for (i = 0; found && i < n; i++) {
        any = any || !ops[i].n_gen_at;
        found = move(&m, &ops[i]);
    }
    free(m.taken);
    map_free(m.runs);
    if (n == 0 || (found && !any)) return 0;
    if (!found) {
        none_elsewhere(of, condition, n < 0);
        return 0;
    }
    j = add_job(x, of->all, "non_needle", of->prompt, condition, of->first);
    j->control = CONTROL_SHOWN;
    j->ops = ops;
    j->n_ops = n;
    return finish_job(x, j);
}

/* ---- absent ---- */

/* The positions that the jobs take from every query, and that can be left out of the prompt. */
static int *hidden_of(const struct jobs_of *of, int *n)
{
    const struct engine_info *info = of->x->info;
    int *at = NULL, i, k;
    for (i = of->first, *n = 0; i < of->end; i++)
        for (k = 0; k < of->all->jobs[i].n_ops; k++) {
            const struct job_op *op = &of->all->jobs[i].ops[k];
            if ((op->op != EDIT_MASK && op->op != EDIT_EVICT) || op->score || op->when == WHEN_STEPS) continue;
            if (op->n_layers < info->n_layer || op->n_heads < info->n_kv_head) continue;
            at = join(of->x->mem, at, *n, op->at, op->n_at, n);
        }
    if (*n && at[*n - 1] == of->x->prompts[of->prompt].n_tokens - 1) *n = 0; /* nothing would be left to read the answer from */
    return at;
}

/* The prompt without some of its tokens, as token ids. */
static int without_prompt(const struct jobs_of *of, int condition, const int *at, int n)
{
    struct expand *x = of->x;
    const struct bound_prompt *was = &x->prompts[of->prompt];
    struct bound_prompt *p = &x->prompts[x->n_prompts];
    struct prompt *named = arena_alloc(x->mem, sizeof *named);
    int i, k = 0;
    *named = *was->prompt;
    named->name = arena_printf(x->mem, "%s~%s~without", was->prompt->name, x->s->conditions[condition].name);
    named->kind = PROMPT_TOKENS;
    named->other = -1;
    named->n_slots = 0;
    *p = (struct bound_prompt){.prompt = named,
                               .en = x->en,
                               .index = was->index,
                               .label = arena_printf(x->mem, "%s%s", named->name, was->label + strlen(was->prompt->name)),
                               .text = ""};
    p->tokens = arena_array(x->mem, (size_t)was->n_tokens, sizeof *p->tokens);
    for (i = 0; i < was->n_tokens; i++) {
        if (k < n && at[k] == i) {
            k++;
            continue;
        }
        p->tokens[p->n_tokens++] = (struct token){was->ids[i], 0, 0};
    }
    bind_hash(x->info, p, x->mem);
    x->feed[x->n_prompts] = 1;
    return x->n_prompts++;
}

/* The job of a prompt without tokens stands behind all others, so that the jobs of a prompt of the spec stay together. */
static void add_without_job(struct expand *x, struct jobs *all, int prompt)
{
    struct job *absent = &all->jobs[x->absent_of[prompt - x->s->n_prompts]];
    int of = absent->control_of;
    struct job *j = add_job(x, all, "without", absent->prompt, all->jobs[of].condition, of);
    j->prompt = prompt;
    absent->against = (int)(j - all->jobs);
}

static int add_absent(const struct jobs_of *of, int condition)
{
    struct expand *x = of->x;
    int n, *at = hidden_of(of, &n);
    struct job *j;
    struct job_op *op;
    if (n == 0) return 0;
    j = add_job(x, of->all, "absent", of->prompt, condition, of->first);
    x->absent_of[without_prompt(of, condition, at, n) - x->s->n_prompts] = (int)(j - of->all->jobs);
    j->control = CONTROL_CLOSE;
    j->n_ops = 1;
    j->ops = op = arena_alloc(x->mem, sizeof *op);
    *op = (struct job_op){.op = EDIT_EVICT,
                          .when = WHEN_PREFILL,
                          .tensors = CACHE_K | CACHE_V,
                          .compact = true,
                          .donor_prompt = -1,
                          .donor_job = -1,
                          .by = 1,
                          .at = at,
                          .n_at = n,
                          .n_layers = x->info->n_layer,
                          .n_heads = x->info->n_kv_head};
    op->layers = run(x->mem, 0, op->n_layers);
    op->heads = run(x->mem, 0, op->n_heads);
    return finish_job(x, j);
}

/* ---- all of them ---- */

static int controls_of(const struct jobs_of *of, int condition)
{
    const struct spec *s = of->x->s;
    int rc = 0;
    if (s->controls_for && add_both(of, condition)) rc = -1;
    if (s->control_non_needle && add_non_needle(of, condition)) rc = -1;
    if (s->control_absent && add_absent(of, condition)) rc = -1;
    return rc;
}

int job_controls(struct expand *x, struct jobs *all, int prompt, int first)
{
    int end = all->n, i, next, rc = 0;
    struct jobs_of of = {x, all, prompt, first, end};
    if (!x->s->controls_for && add_both(&of, -1)) rc = -1;
    for (i = first; i < end && !rc; i = next) {
        int condition = all->jobs[i].condition;
        for (next = i + 1; next < end && all->jobs[next].condition == condition;) next++;
        of.first = i;
        of.end = next;
        if (is_for(x->s, condition) && controls_of(&of, condition)) rc = -1;
    }
    return rc;
}

int job_controls_end(struct expand *x, struct jobs *all)
{
    int i;
    for (i = x->s->n_prompts; i < x->n_prompts; i++) add_without_job(x, all, i);
    if (!x->s->control_absent || x->n_prompts > x->s->n_prompts) return 0;
    diag_add(x->d, DIAG_ERROR, "E390", x->s->controls_at, 1,
             "control absent is for conditions that mask or evict tokens in all layers and heads, and none does");
    return -1;
}
