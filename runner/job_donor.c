/* job_donor.c: where an operation takes values: the other side's positions laid beside its own, and the jobs that are donors.
 */
#include "job_parts.h"

#include "snippet.h"

#include <stdlib.h>
#include <string.h>

/* A donor with edits: the job of a condition, with values of its axes, on a prompt. Until all jobs are made, an operation names
   it by FIRST_WISH - its index. */
struct job_wish {
    const char **values; /* (n_over of the condition) */
    const struct donor *donor;
    struct mark at;
    int condition, prompt, width;
};
enum { FIRST_WISH = -2, DEPTH_MAX = 64 };

/* ---- what a finished cache holds ---- */

int job_held(const struct expand *x, int prompt)
{
    return x->prompts[prompt].n_tokens - x->feed[prompt];
}

static void help_held(const struct expand *x, int prompt, int held)
{
    if (x->s->decode.after_edit == AFTER_FEED)
        diag_help(x->d, "help: the cache of prompt '%s' holds 0..%d; the %d tokens behind them are fed after the edit",
                  x->s->prompts[prompt].name, held - 1, x->feed[prompt]);
    else
        diag_help(x->d,
                  "help: the cache holds 0..%d, then the last token is fed and sees the edit; with decode: { after_edit: "
                  "reuse_logits } it is held, too, and the first new token ignores the edit",
                  held - 1);
}

int job_check_held(const struct expand *x, int prompt, const struct select *sel, const int *at, int n, bool donor)
{
    const struct bound_prompt *p = &x->prompts[prompt];
    int held = job_held(x, prompt);
    if (at[n - 1] < held) return 0;
    if (x->s->decode.after_edit == AFTER_FEED)
        diag_add(x->d, DIAG_ERROR, donor ? "E341" : "E340", sel->at, sel->width,
                 donor ? "position %d of the donor prompt '%s' is fed after the edit: its finished cache does not hold it"
                       : "position %d of prompt '%s' is fed after the edit: it is not in the cache when the edit is made",
                 at[n - 1], p->prompt->name);
    else
        diag_add(x->d, DIAG_ERROR, donor ? "E341" : "E340", sel->at, sel->width,
                 donor ? "position %d is the last token of the donor prompt '%s': its finished cache does not hold it"
                       : "position %d is the last token of prompt '%s': it is not in the cache when the edit is made",
                 at[n - 1], p->prompt->name);
    diag_help(x->d, "pos %d  %s", at[n - 1], snippet_at(x->mem, p, &at[n - 1], 1));
    help_held(x, prompt, held);
    return -1;
}

/* ---- after_edit: { feed: .. } ---- */

/* The texts that end where a token begins, nearest to the one given. */
static void help_borders(const struct expand *x, const struct bound_prompt *p, int start)
{
    int i, before = -1, behind = -1;
    for (i = 1; i < p->n_tokens; i++) {
        int at = p->tokens[i].start;
        if (at < start) before = at;
        if (at > start && behind < 0) behind = at;
    }
    if (before >= 0)
        diag_help(x->d, "help: feed: \"%s\"", snippet_text(x->mem, p->text + before, (size_t)(p->n_bytes - before), 60));
    if (behind >= 0)
        diag_help(x->d, "help: feed: \"%s\"", snippet_text(x->mem, p->text + behind, (size_t)(p->n_bytes - behind), 60));
}

static int feed_of(struct expand *x, int prompt)
{
    const struct decode *d = &x->s->decode;
    const struct bound_prompt *p = &x->prompts[prompt];
    int n = (int)strlen(d->feed), start = p->n_bytes - n, i = 0;
    if (p->prompt->kind == PROMPT_TOKENS || start < 0 || memcmp(p->text + start, d->feed, (size_t)n) != 0) {
        diag_add(x->d, DIAG_ERROR, "E391", d->feed_at, d->feed_width, "prompt '%s' does not end with these words",
                 p->prompt->name);
        start = p->n_bytes > 40 ? p->n_bytes - 40 : 0;
        while (start < p->n_bytes && ((unsigned char)p->text[start] & 0xc0) == 0x80) start++;
        diag_help(x->d, "help: it ends '%s'", snippet_text(x->mem, p->text + start, (size_t)(p->n_bytes - start), 60));
        return -1;
    }
    while (i < p->n_tokens && (p->tokens[i].start < start || p->tokens[i].end == p->tokens[i].start)) i++;
    if (i == p->n_tokens || p->tokens[i].start != start) {
        diag_add(x->d, DIAG_ERROR, "E392", d->feed_at, d->feed_width, "in prompt '%s' these words begin inside a token",
                 p->prompt->name);
        help_borders(x, p, start);
        return -1;
    }
    return p->n_tokens - i;
}

int job_feeds(struct expand *x)
{
    int i, rc = 0;
    for (i = 0; i < x->s->n_prompts; i++) {
        x->feed[i] = x->s->decode.after_edit == AFTER_REUSE_LOGITS ? 0 : 1;
        if (x->s->decode.after_edit == AFTER_FEED && x->prompts[i].n_tokens && (x->feed[i] = feed_of(x, i)) < 0) rc = -1;
    }
    return rc;
}

/* ---- prompts ---- */

/* The value of an axis in the donor: as given, else the job's own. */
static const char *value_of(const struct expand *x, const struct donor *d, int axis)
{
    int i;
    for (i = 0; i < d->n_values; i++)
        if (d->values[i].axis == axis) return d->values[i].text;
    for (i = 0; x->job && i < x->job->n_values; i++)
        if (x->job->values[i].axis == axis) return x->job->values[i].text;
    return NULL;
}

/* Of the prompts with the name of prompt `named`, the one with the donor's values. */
static int with_values(const struct expand *x, int named, const struct donor *d)
{
    const struct prompt *first = &x->s->prompts[x->s->prompts[named].first];
    int i, k, found = -1, n = 0;
    if (first->n_values == 0) return named;
    for (i = 0; i < x->s->n_prompts; i++) {
        const struct prompt *q = &x->s->prompts[i];
        if (q->first != x->s->prompts[named].first || q->idle) continue;
        for (k = 0; k < q->n_values; k++) {
            const char *text = value_of(x, d, q->values[k].axis);
            if (text && !spec_same_value(text, q->values[k].text)) break;
        }
        if (k == q->n_values && n++ == 0) found = i;
    }
    if (n == 1) return found;
    diag_add(x->d, DIAG_ERROR, "E324", d->at, d->width, "no prompt '%s' has the values of job '%s' and a job of its own",
             first->name, x->job ? x->job->label : "");
    return -1;
}

int job_donor(const struct expand *x, int prompt, const struct donor *d)
{
    const char *name = x->s->prompts[prompt].name;
    int i, other = x->s->prompts[prompt].other;
    if (d->other) {
        if (other < 0)
            diag_add(x->d, DIAG_ERROR, "E321", d->at, 1,
                     "prompt '%s' has no other: prompt: other needs an entry with two names", name);
        return other < 0 ? -1 : with_values(x, other, d);
    }
    if (!d->prompt) return with_values(x, prompt, d);
    for (i = 0; i < x->s->n_written; i++)
        if (strcmp(x->s->prompts[i].name, d->prompt) == 0) return with_values(x, i, d);
    diag_add(x->d, DIAG_ERROR, "E322", d->at, 1, "there is no prompt '%s' to take values from", d->prompt);
    return -1;
}

/* ---- donors with edits ---- */

/* What stands for the donor's job until that is found; -1: its prompt as it is. *rc becomes -1 when d tells of an error. */
static int wish(struct expand *x, int prompt, const struct donor *d, int *rc)
{
    const struct condition *c = d->condition < 0 ? NULL : &x->s->conditions[d->condition];
    struct job_wish *w;
    int i;
    if (!c) return -1;
    if ((x->n_wishes & (x->n_wishes - 1)) == 0)
        x->wishes = mem_grow(x->wishes, x->n_wishes ? 2 * (size_t)x->n_wishes : 1, sizeof *x->wishes);
    w = &x->wishes[x->n_wishes];
    *w = (struct job_wish){.donor = d, .condition = d->condition, .prompt = prompt, .at = d->at, .width = d->width};
    w->values = arena_array(x->mem, (size_t)c->n_over, sizeof *w->values);
    for (i = 0; i < c->n_over; i++) {
        const char *text = value_of(x, d, c->over[i]);
        if (!text) {
            diag_add(x->d, DIAG_ERROR, "E393", d->at, d->width,
                     "condition '%s' goes over axis '%s', and this job has no value of it", c->name,
                     x->s->axes[c->over[i]].name);
            diag_help(x->d, "help: from: { condition: %s, %s: VALUE, ... }", c->name, x->s->axes[c->over[i]].name);
            *rc = -1;
            return -1;
        }
        w->values[i] = arena_strdup(x->mem, text);
    }
    return FIRST_WISH - x->n_wishes++;
}

static void add_key(struct buf *b, int prompt, int condition, const char *const *values, int n)
{
    int i;
    b->n = 0;
    buf_add(b, &prompt, sizeof prompt);
    buf_add(b, &condition, sizeof condition);
    for (i = 0; i < n; i++) buf_add(b, values[i], strlen(values[i]) + 1);
}

/* The jobs of the conditions that donors name, by prompt, condition and values. */
static struct map *jobs_by_name(const struct expand *x, const struct jobs *all)
{
    struct map *m = map_new();
    struct buf b = {0};
    bool *wanted = mem_array((size_t)x->s->n_conditions, sizeof *wanted);
    const char **values = mem_array((size_t)x->s->n_axes + 1, sizeof *values);
    int i, k;
    for (i = 0; i < x->n_wishes; i++) wanted[x->wishes[i].condition] = true;
    for (i = 0; i < all->n; i++) {
        const struct job *j = &all->jobs[i];
        if (j->condition < 0 || !wanted[j->condition]) continue;
        for (k = 0; k < j->n_values; k++) values[k] = j->values[k].text;
        add_key(&b, j->prompt, j->condition, values, j->n_values);
        map_put(m, b.p, b.n, i);
    }
    buf_free(&b);
    free(values);
    free(wanted);
    return m;
}

static int found_job(const int *found, int job)
{
    return job <= FIRST_WISH ? found[FIRST_WISH - job] : job;
}

/* How many donors stand one behind the other; -1: too many, or a circle. */
static int depth_of(const struct jobs *all, int i, int *depth)
{
    const struct job *j = &all->jobs[i];
    int k, s, deepest = 0, d;
    if (depth[i]) return depth[i];
    depth[i] = -1;
    for (k = 0; k < j->n_ops; k++) {
        const struct job_vector *v = j->ops[k].vector;
        int n = v ? v->n_sets : 0;
        for (s = -1; s < n; s++) {
            int donor = s < 0 ? j->ops[k].donor_job : v->sets[s].job;
            if (donor < 0) continue;
            d = depth_of(all, donor, depth);
            if (d < 0) return -1;
            if (d > deepest) deepest = d;
        }
    }
    return depth[i] = deepest < DEPTH_MAX ? deepest + 1 : -1;
}

static int check_circles(struct expand *x, const struct jobs *all)
{
    int *depth = mem_array((size_t)all->n, sizeof *depth), i, rc = 0;
    for (i = 0; i < all->n && !rc; i++) {
        const struct job *j = &all->jobs[i];
        if (j->n_ops == 0 || depth_of(all, i, depth) >= 0) continue;
        diag_add(x->d, DIAG_ERROR, "E395", j->condition >= 0 ? x->s->conditions[j->condition].at : x->s->controls_at, 1,
                 "the donors of '%s' take values from each other in a circle, or stand more than %d deep", j->label, DEPTH_MAX);
        rc = -1;
    }
    free(depth);
    return rc;
}

int job_donors_find(struct expand *x, struct jobs *all)
{
    struct map *m;
    struct buf b = {0};
    int *found, i, k, s, rc = 0;
    if (x->n_wishes == 0) return 0;
    m = jobs_by_name(x, all);
    found = mem_array((size_t)x->n_wishes, sizeof *found);
    for (i = 0; i < x->n_wishes && !rc; i++) {
        const struct job_wish *w = &x->wishes[i];
        const struct condition *c = &x->s->conditions[w->condition];
        add_key(&b, w->prompt, w->condition, w->values, c->n_over);
        found[i] = map_get(m, b.p, b.n);
        if (found[i] >= 0) continue;
        diag_add(x->d, DIAG_ERROR, "E394", w->at, w->width, "there is no job %s/%s with these values of its axes",
                 x->s->prompts[w->prompt].name, c->name);
        for (k = 0; k < c->n_over; k++) diag_help(x->d, "%s: %s", x->s->axes[c->over[k]].name, w->values[k]);
        rc = -1;
    }
    for (i = 0; i < all->n && !rc; i++)
        for (k = 0; k < all->jobs[i].n_ops; k++) {
            struct job_op *op = &all->jobs[i].ops[k];
            op->donor_job = found_job(found, op->donor_job);
            for (s = 0; op->vector && s < op->vector->n_sets; s++)
                op->vector->sets[s].job = found_job(found, op->vector->sets[s].job);
        }
    buf_free(&b);
    map_free(m);
    free(found);
    return rc ? rc : check_circles(x, all);
}

/* ---- two sides ---- */

/* The text that the chosen tokens stand for. */
static const char *chosen_text(const struct expand *x, int prompt, const struct chosen *c)
{
    const struct bound_prompt *p = &x->prompts[prompt];
    struct buf b = {0};
    const char *s;
    int i;
    if (p->prompt->kind == PROMPT_TOKENS) return snippet_positions(x->mem, c->at, c->n);
    for (i = 0; i < c->n; i++) {
        const struct token *t = &p->tokens[c->at[i]];
        buf_add(&b, p->text + t->start, (size_t)(t->end - t->start));
    }
    s = snippet_text(x->mem, b.p ? b.p : "", b.n, 40);
    buf_free(&b);
    return s;
}

static const char *chosen_tokens(const struct expand *x, int prompt, const struct chosen *c)
{
    enum { SHOWN = 12 };
    struct buf b = {0};
    const char *s;
    int i;
    for (i = 0; i < c->n && i < SHOWN; i++) buf_printf(&b, "[%s]", snippet_token(x->mem, &x->prompts[prompt], c->at[i]));
    if (i < c->n) buf_str(&b, " …");
    s = arena_strdup(x->mem, b.p ? b.p : "");
    buf_free(&b);
    return s;
}

struct sides {
    int target, donor; /* prompts */
    struct chosen to, from;
};

static void show_sides(const struct expand *x, const struct sides *v)
{
    const char *t = x->s->prompts[v->target].name, *f = x->s->prompts[v->donor].name;
    const char *tp = snippet_positions(x->mem, v->to.at, v->to.n), *fp = snippet_positions(x->mem, v->from.at, v->from.n);
    int w = (int)(strlen(t) > strlen(f) ? strlen(t) : strlen(f)), wp = (int)(strlen(tp) > strlen(fp) ? strlen(tp) : strlen(fp));
    diag_help(x->d, "target  %-*s  pos %-*s  %s", w, t, wp, tp, chosen_tokens(x, v->target, &v->to));
    diag_help(x->d, "donor   %-*s  pos %-*s  %s", w, f, wp, fp, chosen_tokens(x, v->donor, &v->from));
}

static int check_lengths(const struct expand *x, const struct op *op, const struct sides *v)
{
    bool aligned = op->align_at.line > 0 && op->align_width > 0;
    if (v->to.n == v->from.n) return 0;
    diag_add(x->d, DIAG_ERROR, "E320", aligned ? op->align_at : op->donor.at, aligned ? op->align_width : 1,
             "%s needs equal lengths: target '%s' is %d token%s, donor '%s' is %d", job_op_name(op->op),
             chosen_text(x, v->target, &v->to), v->to.n, v->to.n == 1 ? "" : "s", chosen_text(x, v->donor, &v->from),
             v->from.n);
    show_sides(x, v);
    diag_help(
        x->d,
        "help: align: left | right | map, or choose needles with the same number of tokens; kvrun tokens %s %s shows them",
        x->s->path, x->s->prompts[v->target].name);
    return -1;
}

/* A key carries the rotation of the position where it was made; a value carries none. */
static int check_rope(const struct expand *x, const struct op *op, const struct sides *v, bool moved)
{
    if (!moved || op->rope_given || !(op->tensors & CACHE_K)) return 0;
    diag_add(x->d, DIAG_ERROR, "E323", op->donor.at, 1,
             "target and donor stand at different positions; say what happens to the rotation of the keys");
    show_sides(x, v);
    diag_help(x->d, "help: rope: keep      the key stays as the donor made it, turned for the donor's position");
    diag_help(
        x->d,
        "help: rope: rerotate  the key is turned by the difference, as if the donor's token stood at the target's position");
    return -1;
}

static int by_target(const void *a, const void *b)
{
    const struct op_pair *x = a, *y = b;
    return (x->to > y->to) - (x->to < y->to);
}

static int by_map(struct expand *x, const struct op *op, struct sides *v)
{
    struct op_pair *pairs = arena_array(x->mem, (size_t)op->n_map, sizeof *pairs);
    int *to = arena_array(x->mem, (size_t)op->n_map, sizeof *to), *from = arena_array(x->mem, (size_t)op->n_map, sizeof *from),
        i;
    memcpy(pairs, op->map, (size_t)op->n_map * sizeof *pairs);
    qsort(pairs, (size_t)op->n_map, sizeof *pairs, by_target);
    for (i = 0; i < op->n_map; i++) {
        if (pairs[i].to >= v->to.n || pairs[i].from >= v->from.n) {
            diag_add(x->d, DIAG_ERROR, "E396", op->align_at, op->align_width,
                     "map: [%d, %d] is outside: the target has places 0..%d, the donor 0..%d", pairs[i].to, pairs[i].from,
                     v->to.n - 1, v->from.n - 1);
            show_sides(x, v);
            return -1;
        }
        to[i] = v->to.at[pairs[i].to];
        from[i] = v->from.at[pairs[i].from];
    }
    v->to = (struct chosen){to, op->n_map};
    v->from = (struct chosen){from, op->n_map};
    return 0;
}

/* Leaves of both sides what is laid side by side. */
static int lay(struct expand *x, const struct op *op, struct sides *v)
{
    int n = v->to.n < v->from.n ? v->to.n : v->from.n;
    if (op->align == ALIGN_SAME) return check_lengths(x, op, v);
    if (op->align == ALIGN_MAP) return by_map(x, op, v);
    if (op->align == ALIGN_RIGHT) {
        v->to.at += v->to.n - n;
        v->from.at += v->from.n - n;
    }
    v->to.n = v->from.n = n;
    return 0;
}

/* The two lists of a swap are apart, and both are changed. */
static int check_swap(const struct expand *x, const struct op *op, const struct sides *v)
{
    int i, k;
    for (i = 0; i < v->to.n; i++)
        for (k = 0; k < v->from.n; k++)
            if (v->to.at[i] == v->from.at[k] || (k > 0 && v->from.at[k] <= v->from.at[k - 1])) {
                diag_add(x->d, DIAG_ERROR, "E388", op->donor.at, 1, "a swap names position %d twice", v->from.at[k]);
                show_sides(x, v);
                return -1;
            }
    return 0;
}

/* In flight the donor is the whole prompt; otherwise what its cache holds when the edit is made. */
int job_donor_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    const struct select *sel = &op->donor.select;
    struct sides v = {prompt, job_donor(x, prompt, &op->donor), {out->at, out->n_at}, {NULL, -1}};
    bool gen = out->n_gen_at > 0, moved;
    int rc = 0;
    if (v.donor < 0) return -1;
    if (gen) v.to = (struct chosen){out->gen_at, out->n_gen_at};
    v.from = job_choose(x, v.donor, sel, op->op == EDIT_SWAP);
    if (v.from.n < 0) return -1;
    if (op->when == WHEN_FINISHED_CACHE && job_check_held(x, v.donor, sel, v.from.at, v.from.n, op->op != EDIT_SWAP)) return -1;
    if (lay(x, op, &v) || (op->op == EDIT_SWAP && check_swap(x, op, &v))) return -1;
    moved = gen || memcmp(v.to.at, v.from.at, (size_t)v.from.n * sizeof *v.from.at) != 0;
    if (check_rope(x, op, &v, moved)) return -1;
    *(gen ? &out->gen_at : &out->at) = v.to.at;
    *(gen ? &out->n_gen_at : &out->n_at) = v.to.n;
    out->donor_prompt = op->op == EDIT_SWAP ? -1 : v.donor;
    out->donor_at = v.from.at;
    out->rerotate = moved && op->rerotate && (op->tensors & CACHE_K);
    if (op->op == EDIT_TRANSPLANT) out->donor_job = wish(x, v.donor, &op->donor, &rc);
    return rc;
}

int job_mean_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    struct job_vector *v = arena_alloc(x->mem, sizeof *v);
    int i, rc = 0;
    v->sets = arena_array(x->mem, (size_t)op->n_refs, sizeof *v->sets);
    for (i = 0; i < op->n_refs; i++) {
        const struct donor *d = &op->refs[i];
        struct chosen c = {NULL, -1};
        struct job_set *set = &v->sets[v->n_sets++];
        set->prompt = job_donor(x, prompt, d);
        if (set->prompt >= 0) c = job_choose(x, set->prompt, &d->select, false);
        if (c.n < 0) return -1;
        set->at = c.at;
        set->n = c.n;
        set->job = wish(x, set->prompt, d, &rc);
    }
    out->vector = v;
    return rc;
}
