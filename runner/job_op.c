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

static void add_int(struct buf *b, int v)
{
    buf_add(b, &v, sizeof v);
}

struct chosen job_choose(struct expand *x, int prompt, const struct select *sel, bool warn)
{
    struct buf key = {0};
    struct chosen c = {NULL, -1};
    int i, found;
    add_int(&key, prompt);
    add_int(&key, warn);
    add_int(&key, (int)sel->kind);
    add_int(&key, sel->nth);
    add_int(&key, sel->at.line); /* the same selector at another place has errors of its own */
    add_int(&key, sel->at.col);
    if (sel->kind == SELECT_TOKENS) {
        add_int(&key, sel->tokens.all);
        for (i = 0; i < sel->tokens.n; i++) add_int(&key, sel->tokens.r[i].first), add_int(&key, sel->tokens.r[i].last);
    } else
        buf_str(&key, sel->text);
    found = map_put(x->selects, key.p, key.n, x->n_chosen);
    buf_free(&key);
    if (found >= 0) return x->chosen[found];
    if (bind_select(&x->prompts[prompt], sel, x->mem, x->d, &c.at, &c.n))
        c.n = -1;
    else if (warn)
        warn_chosen(x, &x->prompts[prompt], sel, &c);
    if ((x->n_chosen & (x->n_chosen - 1)) == 0)
        x->chosen = mem_grow(x->chosen, x->n_chosen ? 2 * (size_t)x->n_chosen : 1, sizeof *x->chosen);
    return x->chosen[x->n_chosen++] = c;
}

/* ---- the cache that an edit writes ---- */

/* Positions 0..P-2 are in the cache when the edit is made; with reuse_logits the last one is, too. */
static int tokens_held(const struct expand *x, int prompt)
{
    int n = x->prompts[prompt].n_tokens;
    return x->s->decode.after_edit == AFTER_REUSE_LOGITS ? n : n - 1;
}

static int check_held(const struct expand *x, int prompt, const struct select *sel, const int *at, int n, bool donor)
{
    const struct bound_prompt *p = &x->prompts[prompt];
    int held = tokens_held(x, prompt);
    if (at[n - 1] < held) return 0;
    diag_add(x->d, DIAG_ERROR, donor ? "E341" : "E340", sel->at, sel->width,
             donor ? "position %d is the last token of the donor prompt '%s': its finished cache does not hold it"
                   : "position %d is the last token of prompt '%s': it is not in the cache when the edit is made",
             at[n - 1], p->prompt->name);
    diag_help(x->d, "pos %d  %s", at[n - 1], snippet_at(x->mem, p, &at[n - 1], 1));
    diag_help(
        x->d,
        "help: the cache holds 0..%d, then the last token is fed and sees the edit; with decode: { after_edit: reuse_logits } "
        "it is held, too, and the first new token ignores the edit",
        held - 1);
    return -1;
}

/* ---- donors ---- */

int job_donor(const struct expand *x, int prompt, const struct donor *d)
{
    const char *name = x->s->prompts[prompt].name;
    int i, other = x->s->prompts[prompt].other;
    if (d->other) {
        if (other < 0)
            diag_add(x->d, DIAG_ERROR, "E321", d->at, 1,
                     "prompt '%s' has no other: prompt: other needs an entry with two names", name);
        return other;
    }
    for (i = 0; i < x->s->n_prompts; i++)
        if (d->prompt && strcmp(x->s->prompts[i].name, d->prompt) == 0) return i;
    diag_add(x->d, DIAG_ERROR, "E322", d->at, 1, "there is no prompt '%s' to take values from", d->prompt ? d->prompt : "");
    return -1;
}

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
    bool aligned = op->align_at.line > 0;
    if (v->to.n == v->from.n) return 0;
    diag_add(x->d, DIAG_ERROR, "E320", aligned ? op->align_at : op->donor.at, aligned ? (int)strlen("same_length") : 1,
             "transplant needs equal lengths: target '%s' is %d token%s, donor '%s' is %d", chosen_text(x, v->target, &v->to),
             v->to.n, v->to.n == 1 ? "" : "s", chosen_text(x, v->donor, &v->from), v->from.n);
    show_sides(x, v);
    diag_help(x->d, "help: choose needles with the same number of tokens; kvrun tokens %s %s shows them", x->s->path,
              x->s->prompts[v->target].name);
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

/* In flight the donor is the whole prompt; otherwise what its cache holds when the edit is made. */
static int resolve_donor(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    const struct select *sel = &op->donor.select;
    struct sides v = {prompt, job_donor(x, prompt, &op->donor), {out->at, out->n_at}, {NULL, -1}};
    bool moved;
    if (v.donor < 0) return -1;
    v.from = job_choose(x, v.donor, sel, false);
    if (v.from.n < 0 || check_lengths(x, op, &v)) return -1;
    if (op->when == WHEN_FINISHED_CACHE && check_held(x, v.donor, sel, v.from.at, v.from.n, true)) return -1;
    moved = memcmp(v.to.at, v.from.at, (size_t)v.from.n * sizeof *v.from.at) != 0;
    if (check_rope(x, op, &v, moved)) return -1;
    out->donor_prompt = v.donor;
    out->donor_at = v.from.at;
    out->rerotate = moved && op->rerotate && (op->tensors & CACHE_K);
    return 0;
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
    int n = job_heads(x->info, op->tensors);
    if (n == 0) return 0;
    return bind_ranges(&op->heads, n, "head", x->model, x->mem, x->d, &out->heads, &out->n_heads);
}

/* ---- the whole operation ---- */

int job_op_resolve(struct expand *x, int prompt, const struct op *op, struct job_op *out)
{
    struct chosen c = job_choose(x, prompt, &op->select, true);
    int rc = c.n < 0 ? -1 : 0;
    /* mask takes a position from the view of every query: there is no half of it */
    *out = (struct job_op){.op = op->op,
                           .when = op->when,
                           .tensors = op->op == EDIT_MASK ? CACHE_K | CACHE_V : op->tensors,
                           .donor_prompt = -1,
                           .donor_job = -1,
                           .by = op->by};
    if (resolve_layers(x, op, out)) rc = -1;
    if (resolve_heads(x, op, out)) rc = -1;
    if (rc) return -1;
    out->at = c.at;
    out->n_at = c.n;
    if (op->when == WHEN_FINISHED_CACHE && check_held(x, prompt, &op->select, out->at, out->n_at, false)) return -1;
    if (op->op == EDIT_ADD) return job_vector_resolve(x, prompt, &op->vector, out);
    return op->op == EDIT_TRANSPLANT ? resolve_donor(x, prompt, op, out) : 0;
}
