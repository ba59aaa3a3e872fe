/* select.c: selectors become positions, ranges become indices; see bind.h. Places in the text: select_hit.c.
 *
 * A selector fills a map of the prompt's tokens; what is made of other selectors works on their maps.
 */
#include "select.h"

#include "regex.h"
#include "map.h"
#include "snippet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 8 };

struct find {
    const struct bound_prompt *p;
    arena *mem;
    struct diag *d;
    size_t work, *regex; /* steps left: for everything, for regular expressions */
};

static int fill(struct find *f, const struct select *sel, unsigned char *on);

/* ---- maps ---- */

static int first_on(const struct find *f, const unsigned char *on)
{
    const unsigned char *p = memchr(on, 1, (size_t)f->p->n_tokens);
    return p ? (int)(p - on) : -1;
}

static int last_on(const struct find *f, const unsigned char *on)
{
    const unsigned char *p = memrchr(on, 1, (size_t)f->p->n_tokens);
    return p ? (int)(p - on) : -1;
}

static void to_list(const struct find *f, const unsigned char *on, int **at, int *n)
{
    int i, k = 0;
    for (i = *n = 0; i < f->p->n_tokens; i++) *n += on[i];
    *at = arena_array(f->mem, (size_t)*n, sizeof **at);
    for (i = 0; i < f->p->n_tokens; i++)
        if (on[i]) (*at)[k++] = i;
}

/* A row of a table under an error: what `on` holds. */
static void show(const struct find *f, const char *what, const unsigned char *on)
{
    int *at, n;
    to_list(f, on, &at, &n);
    diag_help(f->d, "%-7s pos %s  %s", what, snippet_positions(f->mem, at, n), snippet_at(f->mem, f->p, at, n));
}

/* ---- set algebra ---- */

static int out_of_order(const struct find *f, const struct select *sel, const unsigned char *a, const unsigned char *b)
{
    diag_add(f->d, DIAG_ERROR, "E319", sel->at, sel->width,
             "between: the second part begins at position %d of prompt '%s', the first ends at %d", first_on(f, b),
             f->p->prompt->name, last_on(f, a));
    show(f, "first", a);
    show(f, "second", b);
    return -1;
}

/* Positions from..to-1. */
static void set_range(unsigned char *on, int from, int to)
{
    if (from < to) memset(on + from, 1, (size_t)(to - from));
}

/* What the maps of the parts make of `on`. */
static int combine(const struct find *f, const struct select *sel, unsigned char *const *part, unsigned char *on)
{
    int n = f->p->n_tokens, i, k;
    switch (sel->kind) {
    case SELECT_AFTER: set_range(on, last_on(f, part[0]) + 1, n); return 0;
    case SELECT_BEFORE: set_range(on, 0, first_on(f, part[0])); return 0;
    case SELECT_BETWEEN:
        if (first_on(f, part[1]) <= last_on(f, part[0])) return out_of_order(f, sel, part[0], part[1]);
        set_range(on, last_on(f, part[0]) + 1, first_on(f, part[1]));
        return 0;
    case SELECT_NOT:
        for (i = 0; i < n; i++) on[i] = !part[0][i];
        return 0;
    default:
        for (i = 0; i < n; i++) {
            int count = 0;
            for (k = 0; k < sel->n_parts; k++) count += part[k][i];
            on[i] = sel->kind == SELECT_ANY ? count > 0 : count == sel->n_parts;
        }
        return 0;
    }
}

/* Nothing is left: the parts show why. */
static int none_left(const struct find *f, const struct select *sel, unsigned char *const *part)
{
    static const char *const words[] = {[SELECT_AFTER] = "after", [SELECT_BEFORE] = "before", [SELECT_BETWEEN] = "between",
                                        [SELECT_NOT] = "not",     [SELECT_ANY] = "any",       [SELECT_BOTH] = "both"};
    int k;
    diag_add(f->d, DIAG_ERROR, "E313", sel->at, sel->width, "%s: no position of prompt '%s' is selected; it has 0..%d",
             words[sel->kind], f->p->prompt->name, f->p->n_tokens - 1);
    for (k = 0; k < sel->n_parts && k < ROWS; k++) show(f, arena_printf(f->mem, "part %d", k + 1), part[k]);
    return -1;
}

static int fill_parts(struct find *f, const struct select *sel, unsigned char *on)
{
    size_t n = (size_t)f->p->n_tokens;
    unsigned char **part = mem_array((size_t)sel->n_parts, sizeof *part);
    int k, rc = 0;
    for (k = 0; k < sel->n_parts && !rc; k++) {
        part[k] = mem_alloc(n);
        rc = fill(f, &sel->parts[k], part[k]);
    }
    if (!rc) rc = combine(f, sel, part, on);
    if (!rc && first_on(f, on) < 0) rc = none_left(f, sel, part);
    for (k = 0; k < sel->n_parts; k++) free(part[k]);
    free(part);
    return rc;
}

/* ---- scores ---- */

static const char *const score_names[] = {"position", "attention", "key_norm"};

/* How many of n candidates are taken. A share is rounded to the nearest number, halves up. */
static int share_of(const struct find *f, const struct select *sel, int n, int *count)
{
    const char *word = sel->highest ? "highest" : "lowest";
    *count = sel->per_cent ? (int)(((int64_t)n * sel->per_cent + 50) / 100) : sel->count;
    if (*count >= 1 && *count <= n) return 0;
    if (sel->per_cent)
        diag_add(f->d, DIAG_ERROR, "E333", sel->at, sel->width, "%s: %d %% of %d position%s of prompt '%s' is none", word,
                 sel->per_cent, n, n == 1 ? "" : "s", f->p->prompt->name);
    else
        diag_add(f->d, DIAG_ERROR, "E333", sel->at, sel->width, "%s: %d of %d position%s of prompt '%s' cannot be taken", word,
                 sel->count, n, n == 1 ? "" : "s", f->p->prompt->name);
    return -1;
}

static int candidates_of(struct find *f, const struct select *sel, int **at, int *n, int *count)
{
    unsigned char *on = mem_alloc((size_t)f->p->n_tokens);
    int rc = -1;
    if (fill(f, &sel->parts[0], on)) goto out;
    to_list(f, on, at, n);
    rc = share_of(f, sel, *n, count);
out:
    free(on);
    return rc;
}

static int fill_score(struct find *f, const struct select *sel, unsigned char *on)
{
    int *at, n, count, i;
    if (sel->score != SCORE_POSITION) {
        diag_add(f->d, DIAG_ERROR, "E334", sel->at, sel->width,
                 "score: %s is known only when the job runs; only the positions of an operation can wait for it",
                 score_names[sel->score]);
        return -1;
    }
    if (candidates_of(f, sel, &at, &n, &count)) return -1;
    for (i = 0; i < count; i++) on[at[sel->highest ? n - 1 - i : i]] = 1;
    return 0;
}

/* ---- one selector ---- */

static int fill_tokens(struct find *f, const struct select *sel, unsigned char *on)
{
    const struct bound_prompt *p = f->p;
    int *at, n, i;
    if (bind_ranges(&sel->tokens, p->n_tokens, "token", arena_printf(f->mem, "prompt '%s'", p->prompt->name), f->mem, f->d, &at,
                    &n))
        return -1;
    for (i = 0; i < n; i++) on[at[i]] = 1;
    return 0;
}

static int fill_bos(struct find *f, const struct select *sel, unsigned char *on)
{
    const struct bound_prompt *p = f->p;
    int bos = p->en ? engine_info(p->en)->bos : -1;
    if (bos >= 0 && p->tokens[0].id == bos) {
        on[0] = 1;
        return 0;
    }
    diag_add(f->d, DIAG_ERROR, "E315", sel->at, sel->width,
             bos < 0 ? "prompt '%s' has no BOS: the model knows none" : "prompt '%s' does not begin with the model's BOS",
             p->prompt->name);
    if (bos >= 0) diag_help(f->d, "pos 0  %s", snippet_span(f->mem, p, 0, 1));
    if (bos >= 0 && p->prompt->kind != PROMPT_TOKENS) diag_help(f->d, "help: add_bos: true puts it in front");
    return -1;
}

/* Widens `on` by tokens to both sides; leaving the prompt is an error. */
static int widen(const struct find *f, const struct select *sel, unsigned char *on)
{
    int n = f->p->n_tokens, first = first_on(f, on), last = last_on(f, on), l = sel->expand[0], r = sel->expand[1], i,
        until = -1;
    unsigned char *old;
    if (l == 0 && r == 0) return 0;
    if (first < l || last + r >= n) {
        diag_add(f->d, DIAG_ERROR, "E316", sel->at, sel->width,
                 "expand: [%d, %d] leaves prompt '%s', which has positions 0..%d", l, r, f->p->prompt->name, n - 1);
        show(f, "without", on);
        return -1;
    }
    old = mem_alloc((size_t)n);
    memcpy(old, on, (size_t)n);
    for (i = 0; i < n; i++) { /* to the right */
        if (old[i]) until = i + r;
        if (i <= until) on[i] = 1;
    }
    for (i = n - 1, until = n; i >= 0; i--) { /* to the left */
        if (old[i]) until = i - l;
        if (i >= until && until < n) on[i] = 1;
    }
    free(old);
    return 0;
}

static int fill_kind(struct find *f, const struct select *sel, unsigned char *on)
{
    switch (sel->kind) {
    case SELECT_SLOT:
    case SELECT_TEXT:
    case SELECT_REGEX:
    case SELECT_ROLE: return select_hits(f->p, sel, f->mem, f->d, f->regex, on);
    case SELECT_TOKENS: return fill_tokens(f, sel, on);
    case SELECT_BOS: return fill_bos(f, sel, on);
    case SELECT_ALL_OF: memset(on, 1, (size_t)f->p->n_tokens); return 0;
    case SELECT_SCORE: return fill_score(f, sel, on);
    case SELECT_GEN:
        diag_add(f->d, DIAG_ERROR, "E334", sel->at, sel->width, "gen: new tokens are no positions of prompt '%s'",
                 f->p->prompt->name);
        return -1;
    default: return fill_parts(f, sel, on);
    }
}

/* Sets the map of the tokens that sel means. */
static int fill(struct find *f, const struct select *sel, unsigned char *on)
{
    size_t cost = (size_t)f->p->n_tokens + (size_t)f->p->n_bytes;
    if (cost > f->work) {
        diag_add(f->d, DIAG_ERROR, "E331", sel->at, sel->width, "these positions have too many parts for prompt '%s'",
                 f->p->prompt->name);
        return -1;
    }
    f->work -= cost;
    if (fill_kind(f, sel, on)) return -1;
    return widen(f, sel, on);
}

static struct find start(const struct bound_prompt *p, arena *mem, struct diag *d, size_t *regex)
{
    size_t cost = (size_t)p->n_tokens + (size_t)p->n_bytes;
    *regex = regex_work((size_t)p->n_bytes);
    return (struct find){p, mem, d, (200u << 20) + 64 * cost, regex};
}

int bind_select(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, int **at, int *n)
{
    size_t regex;
    struct find f = start(p, mem, d, &regex);
    unsigned char *on = mem_alloc((size_t)p->n_tokens);
    int rc = fill(&f, sel, on);
    if (!rc) to_list(&f, on, at, n);
    free(on);
    return rc;
}

int bind_score(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, int **at, int *n, int *count)
{
    size_t regex;
    struct find f = start(p, mem, d, &regex);
    return candidates_of(&f, sel, at, n, count);
}

/* ---- what was decided about edges ---- */

/* The last span of this name, or -1. */
static int last_span(const struct bound_prompt *p, const char *name)
{
    int i = p->n_spans - 1;
    while (i >= 0 && strcmp(p->spans[i].name, name) != 0) i--;
    return i;
}

void bind_decided(struct bound_prompt *p, const struct select *sel)
{
    bool include = sel->edges == EDGES_INCLUDE, exclude = sel->edges == EDGES_EXCLUDE;
    int i;
    for (i = 0; i < sel->n_parts; i++) bind_decided(p, &sel->parts[i]);
    for (i = 0; sel->kind == SELECT_SLOT && (include || exclude) && i < p->n_spans; i++) {
        struct span *s = &p->spans[i];
        if (strcmp(s->name, sel->text) != 0 || (sel->nth > 0 && s->nth != sel->nth)) continue;
        if (sel->nth == SELECT_LAST && i != last_span(p, sel->text)) continue;
        if (strcmp(s->edges, "partial") == 0 || (exclude && strcmp(s->edges, "space") == 0))
            s->edges = include ? "include" : "exclude";
    }
}

/* ---- what a selector says, as bytes ---- */

void select_key(const struct select *sel, struct buf *out)
{
    const int v[] = {(int)sel->kind,       sel->nth,       sel->with_markers,      (int)sel->edges,
                     sel->expand[0],       sel->expand[1], (int)sel->score,        sel->highest,
                     sel->count,           sel->per_cent,  sel->at.line,           sel->at.col,
                     (int)sel->tokens.all, sel->tokens.n,  (int)strlen(sel->text), sel->n_parts};
    int i;
    buf_add(out, v, sizeof v);
    buf_str(out, sel->text);
    for (i = 0; i < sel->tokens.n; i++) map_key_int(out, sel->tokens.r[i].first), map_key_int(out, sel->tokens.r[i].last);
    for (i = 0; i < sel->n_parts; i++) select_key(&sel->parts[i], out);
}

/* ---- ranges ---- */

static int range_width(const struct ranges *r, const struct range *one)
{
    if (one->at.line == r->at.line && one->at.col == r->at.col && r->width > 0) return r->width; /* not in a list */
    return one->first == one->last ? snprintf(NULL, 0, "%d", one->first) : snprintf(NULL, 0, "%d..%d", one->first, one->last);
}

int bind_ranges(const struct ranges *r, int count, const char *what, const char *model, arena *mem, struct diag *d, int **out,
                int *n)
{
    unsigned char *on = mem_alloc((size_t)count);
    int i, j, rc = -1;
    if (r->all) memset(on, 1, (size_t)count);
    for (i = 0; !r->all && i < r->n; i++) {
        const struct range *g = &r->r[i];
        int first = g->first < 0 ? g->first + count : g->first, last = g->last < 0 ? g->last + count : g->last;
        bool bad_first = first < 0 || first >= count;
        if (bad_first || last < 0 || last >= count) {
            diag_add(d, DIAG_ERROR, "E330", g->at, range_width(r, g), "%s %d: %s has %ss 0..%d (or -%d..-1)", what,
                     bad_first ? g->first : g->last, model, what, count - 1, count);
            goto out;
        }
        if (r->window) { /* cut where there is no more */
            first -= r->window / 2;
            last += (r->window + 1) / 2 - 1;
            if (first < 0) first = 0;
            if (last >= count) last = count - 1;
        }
        if (first > last) {
            diag_add(d, DIAG_ERROR, "E332", g->at, range_width(r, g), "%ss %d..%d run backwards: in %s that is %d..%d", what,
                     g->first, g->last, model, first, last);
            goto out;
        }
        memset(on + first, 1, (size_t)(last - first + 1));
    }
    for (i = 0, *n = 0; i < count; i++) *n += on[i];
    if (*n == 0) {
        diag_add(d, DIAG_ERROR, "E313", r->at, r->width > 0 ? r->width : 1, "no %s is selected", what);
        goto out;
    }
    *out = arena_array(mem, (size_t)*n, sizeof **out);
    for (i = j = 0; i < count; i++)
        if (on[i]) (*out)[j++] = i;
    rc = 0;
out:
    free(on);
    return rc;
}
