/* tokens_select.c: what each selector of a spec hits in a prompt; see tokens.h.
 *
 * The operations of a condition are read with one combination of axis values after another; a selector that says the same for
 * all of them is shown once, one that depends on an axis for the first few of its values.
 */
#include "tokens.h"

#include "job.h"
#include "map.h"
#include "snippet.h"
#include "width.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 256, SHOWN = 4 /* values of one selector */ };

struct hit {
    const char *condition, *op, *key; /* "zero_city", "zero", "at" */
    int nth;                          /* of the operation in its condition, from 1 */
    const char *axes;                 /* "layer=0 tensor=k": the first values for which the selector says this */
    const char *text;                 /* the selector */
    const char *note;                 /* instead of positions: an error, new tokens; or NULL */
    int *at, n;
};

struct listing {
    const struct spec *s;
    const struct bound_prompt *p;
    arena *mem;
    struct map *seen;
    struct hit *hits;
    int n;
};

/* ---- a selector as text ---- */

static void add_text(const struct select *sel, struct buf *b);

static void add_ranges(const struct ranges *r, struct buf *b)
{
    int i;
    if (r->all) buf_str(b, " all");
    for (i = 0; i < r->n; i++)
        buf_printf(b, r->r[i].first == r->r[i].last ? "%s%d" : "%s%d..%d", i ? ", " : " ", r->r[i].first, r->r[i].last);
}

static void add_parts(const struct select *sel, struct buf *b)
{
    int i;
    for (i = 0; i < sel->n_parts; i++) {
        buf_str(b, i ? ", " : " (");
        add_text(&sel->parts[i], b);
    }
    buf_char(b, ')');
}

static void add_narrows(const struct select *sel, struct buf *b)
{
    static const char *const edges[] = {"", " edges exact", " edges include", " edges exclude"};
    const char *word = sel->kind == SELECT_ROLE ? "turn" : "nth";
    if (sel->nth > 0) buf_printf(b, " %s %d", word, sel->nth);
    if (sel->nth == SELECT_LAST) buf_printf(b, " %s last", word);
    if (sel->nth == SELECT_ALL) buf_printf(b, " %s all", word);
    if (sel->with_markers) buf_str(b, " with markers");
    buf_str(b, edges[sel->edges]);
    if (sel->expand[0] || sel->expand[1]) buf_printf(b, " expand %d, %d", sel->expand[0], sel->expand[1]);
}

static void add_text(const struct select *sel, struct buf *b)
{
    static const char *const words[] = {
        [SELECT_SLOT] = "slot",     [SELECT_TEXT] = "text",       [SELECT_TOKENS] = "tokens", [SELECT_REGEX] = "regex",
        [SELECT_ROLE] = "role",     [SELECT_BOS] = "bos",         [SELECT_ALL_OF] = "all",    [SELECT_AFTER] = "after",
        [SELECT_BEFORE] = "before", [SELECT_BETWEEN] = "between", [SELECT_NOT] = "not",       [SELECT_ANY] = "any",
        [SELECT_BOTH] = "both",     [SELECT_GEN] = "gen",         [SELECT_SCORE] = "score"};
    static const char *const scores[] = {"position", "attention", "key_norm"};
    buf_str(b, words[sel->kind]);
    if (*sel->text) buf_printf(b, sel->kind == SELECT_TEXT || sel->kind == SELECT_REGEX ? " '%s'" : " %s", sel->text);
    if (sel->kind == SELECT_TOKENS || sel->kind == SELECT_GEN) add_ranges(&sel->tokens, b);
    if (sel->kind == SELECT_SCORE)
        buf_printf(b, " %s %s %d%s among", scores[sel->score], sel->highest ? "highest" : "lowest",
                   sel->per_cent ? sel->per_cent : sel->count, sel->per_cent ? " %" : "");
    if (sel->n_parts) add_parts(sel, b);
    add_narrows(sel, b);
}

static const char *select_text(arena *mem, const struct select *sel)
{
    struct buf b = {0};
    const char *s;
    add_text(sel, &b);
    s = snippet_text(mem, b.p, b.n, 100);
    buf_free(&b);
    return s;
}

/* ---- what it hits ---- */

/* The first line of what is said, without its place. */
static const char *first_error(arena *mem, const struct diag *d)
{
    struct buf b = {0};
    const char *s, *end, *out;
    diag_text(d, &b);
    s = b.p ? strstr(b.p, "error ") : NULL;
    end = s ? strchr(s, '\n') : NULL;
    out = end ? arena_strndup(mem, s, (size_t)(end - s)) : "error";
    buf_free(&b);
    return out;
}

static void find(struct listing *l, const struct select *sel, struct hit *h)
{
    struct diag *d = diag_new(l->s->path, l->s->source, l->s->source_len);
    bool later = sel->kind == SELECT_SCORE && sel->score != SCORE_POSITION;
    int count, rc;
    if (sel->kind == SELECT_GEN) {
        h->note = "new tokens";
    } else {
        rc = later ? bind_score(l->p, sel, l->mem, d, &h->at, &h->n, &count) : bind_select(l->p, sel, l->mem, d, &h->at, &h->n);
        if (rc)
            h->note = first_error(l->mem, d);
        else if (later)
            h->note = arena_printf(l->mem, "%d of %d positions, known when the job runs", count, h->n);
        if (h->note) h->n = 0;
    }
    diag_free(d);
}

static void add_hit(struct listing *l, const struct hit *as, const struct select *sel)
{
    struct buf key = {0};
    struct hit *h;
    int i, same = 0;
    buf_printf(&key, "%s/%d/%s/", as->condition, as->nth, as->key);
    select_key(sel, &key);
    if (map_put(l->seen, key.p, key.n, 0) < 0) {
        for (i = 0; i < l->n; i++)
            same +=
                l->hits[i].nth == as->nth && !strcmp(l->hits[i].condition, as->condition) && !strcmp(l->hits[i].key, as->key);
        if (same < SHOWN) {
            if ((l->n & (l->n - 1)) == 0) l->hits = mem_grow(l->hits, l->n ? 2 * (size_t)l->n : 1, sizeof *l->hits);
            h = &l->hits[l->n++];
            *h = *as;
            h->text = select_text(l->mem, sel);
            find(l, sel, h);
        }
    }
    buf_free(&key);
}

/* Whether the selector says something else for other values of the axes. */
static bool depends(const struct listing *l, const struct hit *h)
{
    int i, n = 0;
    for (i = 0; i < l->n; i++)
        n += l->hits[i].nth == h->nth && !strcmp(l->hits[i].condition, h->condition) && !strcmp(l->hits[i].key, h->key);
    return n > 1;
}

static bool is_donor(const struct listing *l, const struct donor *d)
{
    if (d->stored) return false;
    if (d->other) return l->p->prompt->other >= 0;
    return !d->prompt || strcmp(d->prompt, l->p->prompt->name) == 0;
}

static void add_donor(struct listing *l, struct hit *as, const char *key, const struct donor *d)
{
    as->key = key;
    if (is_donor(l, d)) add_hit(l, as, &d->select);
}

static void add_op(struct listing *l, struct hit *as, const struct op *op)
{
    int i;
    as->op = job_op_name(op->op);
    as->key = "at";
    add_hit(l, as, &op->select);
    if (op->op == EDIT_TRANSPLANT) add_donor(l, as, "from", &op->donor);
    if (op->op == EDIT_SWAP) add_donor(l, as, "with", &op->donor);
    for (i = 0; i < op->n_refs; i++) add_donor(l, as, "over", &op->refs[i]);
    as->key = "queries";
    if (op->op == EDIT_KNOCKOUT && !op->all_queries) add_hit(l, as, &op->queries);
    if (op->op != EDIT_ADD || op->vector.file) return;
    add_donor(l, as, "from", &op->vector.from);
    add_donor(l, as, "minus", &op->vector.minus);
}

/* ---- conditions ---- */

static const char *axes_text(const struct listing *l, const struct axis_value *v, int n)
{
    struct buf b = {0};
    const char *s;
    int i;
    for (i = 0; i < n; i++) buf_printf(&b, "%s%s=%s", i ? " " : "", l->s->axes[v[i].axis].name, v[i].text);
    s = arena_strdup(l->mem, b.p ? b.p : "");
    buf_free(&b);
    return s;
}

/* The i-th position of an axis of positions; "0" when it has none. */
static struct axis_value position_of(const struct listing *l, int axis, int i, int *count)
{
    const struct axis *a = &l->s->axes[axis];
    struct diag *d = diag_new(l->s->path, l->s->source, l->s->source_len);
    struct axis_value v = {.axis = axis, .text = "0", .at = a->at};
    int *at, n;
    *count = 1;
    if (bind_select(l->p, &a->select, l->mem, d, &at, &n) == 0) {
        *count = n;
        v.text = arena_printf(l->mem, "%d", at[i]);
    }
    diag_free(d);
    return v;
}

/* The value of an axis: the prompt's own, or the i-th. */
static struct axis_value value_of(const struct listing *l, int axis, int i, int *count)
{
    const struct prompt *p = l->p->prompt;
    int k;
    *count = 1;
    for (k = 0; k < p->n_values; k++)
        if (p->values[k].axis == axis) return p->values[k];
    if (l->s->axes[axis].kind == AXIS_POSITIONS) return position_of(l, axis, i, count);
    *count = spec_axis_count(&l->s->axes[axis]);
    return spec_axis_value(l->s, axis, i);
}

static void add_condition(struct listing *l, const struct condition *c)
{
    struct axis_value *v = arena_array(l->mem, (size_t)c->n_over, sizeof *v);
    int *digit = arena_array(l->mem, (size_t)c->n_over, sizeof *digit), k, n, i, count, tries = TRIES;
    do {
        struct diag *d = diag_new(l->s->path, l->s->source, l->s->source_len);
        struct op *ops;
        for (k = 0; k < c->n_over; k++) v[k] = value_of(l, c->over[k], digit[k], &count);
        if (spec_ops(l->s, c, v, c->n_over, l->mem, d, &ops, &n) == 0)
            for (i = 0; i < n; i++)
                add_op(l, &(struct hit){.condition = c->name, .nth = i + 1, .axes = axes_text(l, v, c->n_over)}, &ops[i]);
        diag_free(d);
        for (k = c->n_over - 1; k >= 0; k--) {
            value_of(l, c->over[k], 0, &count);
            if (++digit[k] < count) break;
            digit[k] = 0;
        }
    } while (k >= 0 && --tries > 0);
}

static void list(struct listing *l, const struct spec *s, const struct bound_prompt *p, arena *mem)
{
    int i;
    *l = (struct listing){.s = s, .p = p, .mem = mem, .seen = map_new()};
    for (i = 0; i < s->n_conditions; i++)
        if (s->conditions[i].apply) add_condition(l, &s->conditions[i]);
    for (i = 0; i < s->n_tensors; i++)
        add_hit(l, &(struct hit){.condition = "capture", .op = "tensors", .key = "at", .nth = i + 1, .axes = ""},
                &s->tensors[i].select);
}

static void list_free(struct listing *l)
{
    map_free(l->seen);
    free(l->hits);
}

/* ---- what is printed ---- */

static int widest(int width, const char *s)
{
    int w = width_text(s, strlen(s));
    return w > width ? w : width;
}

static void pad(struct buf *b, const char *s, int width)
{
    int n = width - width_text(s, strlen(s));
    buf_str(b, s);
    while (n-- > 0) buf_char(b, ' ');
}

void tokens_selectors(const struct spec *s, const struct bound_prompt *p, struct buf *out)
{
    enum { MAX = 44 };
    arena *mem = arena_new();
    struct listing l;
    int i, names = 0, texts = 0;
    const char **name;
    list(&l, s, p, mem);
    name = arena_array(mem, (size_t)l.n, sizeof *name);
    for (i = 0; i < l.n; i++) {
        const struct hit *h = &l.hits[i];
        name[i] = arena_printf(mem, "%s %d %s %s", h->condition, h->nth, h->op, h->key);
        names = widest(names, name[i]);
        if (widest(texts, h->text) <= MAX) texts = widest(texts, h->text);
    }
    if (l.n) buf_str(out, "selectors\n");
    for (i = 0; i < l.n; i++) {
        const struct hit *h = &l.hits[i];
        buf_str(out, "  ");
        pad(out, name[i], names + 2);
        pad(out, h->text, texts);
        buf_str(out, "  ");
        if (h->note)
            buf_str(out, h->note);
        else
            buf_printf(out, "%-8s  %s", snippet_positions(mem, h->at, h->n), snippet_at(mem, p, h->at, h->n));
        if (depends(&l, h)) buf_printf(out, "  (%s)", h->axes);
        buf_char(out, '\n');
    }
    list_free(&l);
    arena_free(mem);
}

json_t *tokens_selectors_json(const struct spec *s, const struct bound_prompt *p)
{
    arena *mem = arena_new();
    json_t *all = json_array();
    struct listing l;
    int i, k;
    list(&l, s, p, mem);
    for (i = 0; i < l.n; i++) {
        const struct hit *h = &l.hits[i];
        json_t *at = json_array();
        for (k = 0; k < h->n; k++) json_array_append_new(at, json_integer(h->at[k]));
        json_array_append_new(all, json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:o, s:s?}", "condition", h->condition, "nth",
                                             h->nth, "op", h->op, "key", h->key, "axes", depends(&l, h) ? h->axes : "",
                                             "select", h->text, "at", at, "note", h->note));
    }
    list_free(&l);
    arena_free(mem);
    return all;
}
