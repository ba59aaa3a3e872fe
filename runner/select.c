/* select.c: selectors become positions, ranges become indices; see bind.h.
 *
 * Spans are bytes: a token belongs to a span when it shares a byte with it, so a character split over tokens takes all
 * of them. A first token may hold white space before the span (" SF"), nothing else may stick out.
 */
#include "select.h"

#include "snippet.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 8, SHOWN = 60, WINDOWS = 2000 };

/* ---- bytes to tokens ---- */

void select_touch(const struct bound_prompt *p, struct span *s)
{
    int low = 0, high = p->n_tokens, first, last, i;
    while (low < high) { /* the first token that ends behind the span's start */
        int mid = low + (high - low) / 2;
        if (p->tokens[mid].end > s->byte_start)
            high = mid;
        else
            low = mid + 1;
    }
    s->tok_start = s->tok_end = low;
    s->edges = "exact";
    if (s->byte_start == s->byte_end) return;
    while (s->tok_end < p->n_tokens && p->tokens[s->tok_end].start < s->byte_end) s->tok_end++;
    if (s->tok_end == s->tok_start) return;
    first = p->tokens[s->tok_start].start;
    last = p->tokens[s->tok_end - 1].end;
    if (first < s->byte_start) s->edges = "space";
    for (i = first; i < s->byte_start; i++)
        if (!isspace((unsigned char)p->text[i])) s->edges = "partial";
    if (last > s->byte_end) s->edges = "partial";
}

/* ---- what a selector finds ---- */

struct hits {
    struct span *h; /* (n) in order of their bytes */
    int n;
};

struct search {
    const struct bound_prompt *p;
    const struct select *sel;
    arena *mem;
    struct diag *d;
    const char *shown; /* the text or slot for messages */
};

static void hit_add(struct hits *l, struct span s)
{
    if ((l->n & (l->n - 1)) == 0) l->h = mem_grow(l->h, l->n ? 2 * (size_t)l->n : 1, sizeof *l->h);
    l->h[l->n++] = s;
}

static void find_text(const struct search *q, struct hits *out)
{
    const struct bound_prompt *p = q->p;
    size_t n = strlen(q->sel->text);
    const char *end = p->text + p->n_bytes, *s = p->text;
    while (n && (s = memmem(s, (size_t)(end - s), q->sel->text, n))) {
        struct span h = {q->sel->text, out->n + 1, (int)(s - p->text), (int)(s - p->text + (ptrdiff_t)n), 0, 0, NULL};
        select_touch(p, &h);
        hit_add(out, h);
        s++;
    }
}

static void find_slot(const struct search *q, struct hits *out)
{
    int i;
    for (i = 0; i < q->p->n_spans; i++)
        if (strcmp(q->p->spans[i].name, q->sel->text) == 0) hit_add(out, q->p->spans[i]);
}

/* ---- nothing found: what does the prompt say? ---- */

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

/* Bytes at s that `count` words take; 0 when there are fewer. */
static size_t words_len(const char *s, size_t n, int count)
{
    size_t i = 0;
    while (count > 0) {
        while (i < n && !is_word(s[i])) i++;
        if (i == n) return 0;
        while (i < n && is_word(s[i])) i++;
        count--;
    }
    return i;
}

static int count_words(const char *s)
{
    int n = 0;
    for (; *s; s++) n += is_word(*s) && !is_word(s[1]);
    return n;
}

/* The stretch of as many words that is nearest to the text looked for, or NULL. */
static const char *nearest_words(const struct search *q)
{
    const struct bound_prompt *p = q->p;
    const char **list = arena_array(q->mem, WINDOWS + 1, sizeof *list);
    int count = count_words(q->sel->text), n = 0, i;
    for (i = 0; count > 0 && i < p->n_bytes && n < WINDOWS; i++) {
        size_t len;
        if (!is_word(p->text[i]) || (i && is_word(p->text[i - 1]))) continue;
        len = words_len(p->text + i, (size_t)(p->n_bytes - i), count);
        if (len) list[n++] = arena_strndup(q->mem, p->text + i, len);
    }
    for (i = 0; i < n; i++)
        if (strcasecmp(list[i], q->sel->text) == 0) return list[i];
    return nearest_word(q->sel->text, list);
}

static int not_found(const struct search *q)
{
    const struct bound_prompt *p = q->p;
    const struct select *sel = q->sel;
    const char *near;
    int i;
    if (sel->kind == SELECT_SLOT) {
        for (i = 0; i < p->prompt->n_slots && strcmp(p->prompt->slots[i].name, sel->text) != 0;) i++;
        diag_add(q->d, DIAG_ERROR, "E312", sel->at, sel->width,
                 i < p->prompt->n_slots ? "slot '%s' does not occur in the text of prompt '%s'"
                                        : "there is no slot '%s' in prompt '%s'",
                 q->shown, p->prompt->name);
        return -1;
    }
    if (!*sel->text) {
        diag_add(q->d, DIAG_ERROR, "E313", sel->at, sel->width, "an empty text selects no token");
        return -1;
    }
    diag_add(q->d, DIAG_ERROR, "E312", sel->at, sel->width, "'%s' does not occur in prompt '%s'", q->shown, p->prompt->name);
    near = nearest_words(q);
    if (near)
        diag_help(q->d, "help: the prompt says '%s'", snippet_text(q->mem, near, strlen(near), SHOWN));
    else
        diag_help(q->d, "help: the prompt says '%s'", snippet_text(q->mem, p->text, (size_t)p->n_bytes, SHOWN));
    return -1;
}

/* ---- which of the hits ---- */

static const char *positions_of(const struct search *q, const struct span *h)
{
    if (h->tok_end - h->tok_start < 2) return arena_printf(q->mem, "%d", h->tok_start);
    return arena_printf(q->mem, "%d..%d", h->tok_start, h->tok_end - 1);
}

static void show_hits(const struct search *q, const struct hits *hits)
{
    const char *bytes[ROWS], *tokens[ROWS];
    int i, n = hits->n < ROWS ? hits->n : ROWS, wb = 0, wt = 0;
    for (i = 0; i < n; i++) {
        bytes[i] = arena_printf(q->mem, "%d..%d", hits->h[i].byte_start, hits->h[i].byte_end);
        tokens[i] = positions_of(q, &hits->h[i]);
        if ((int)strlen(bytes[i]) > wb) wb = (int)strlen(bytes[i]);
        if ((int)strlen(tokens[i]) > wt) wt = (int)strlen(tokens[i]);
    }
    for (i = 0; i < n; i++)
        diag_help(q->d, "nth %d  bytes %-*s  token %-*s  %s", hits->h[i].nth, wb, bytes[i], wt, tokens[i],
                  snippet_span(q->mem, q->p, hits->h[i].tok_start, hits->h[i].tok_end));
    if (hits->n > ROWS) diag_help(q->d, "… and %d more", hits->n - ROWS);
}

/* Narrows hits to those that nth means: *first (of hits) and *count. */
static int choose(const struct search *q, const struct hits *hits, int *first, int *count)
{
    const struct select *sel = q->sel;
    const char *name = q->p->prompt->name;
    bool slot = sel->kind == SELECT_SLOT;
    *first = 0;
    *count = hits->n;
    if (hits->n == 0) return not_found(q);
    if (sel->nth == SELECT_ALL || (sel->nth == SELECT_ONLY && hits->n == 1)) return 0;
    *count = 1;
    if (sel->nth == SELECT_LAST)
        *first = hits->n - 1;
    else
        *first = sel->nth - 1;
    if (sel->nth == SELECT_ONLY) {
        diag_add(q->d, DIAG_ERROR, "E311", sel->at, sel->width,
                 slot ? "slot '%s' is used %d times in prompt '%s'; say which one"
                      : "'%s' occurs %d times in prompt '%s'; say which one",
                 q->shown, hits->n, name);
        show_hits(q, hits);
        if (slot)
            diag_help(q->d, "help: at: { slot: %s, nth: 1 }   or nth: last, or nth: all", q->shown);
        else
            diag_help(q->d,
                      "help: at: { text: \"%s\", nth: 1 }   or put it in the prompt as {{name}} and use at: { slot: name }",
                      q->shown);
        return -1;
    }
    if (*first < 0 || *first >= hits->n) {
        diag_add(q->d, DIAG_ERROR, "E314", sel->at, sel->width, "nth %d: %s'%s' occurs %d time%s in prompt '%s'", sel->nth,
                 slot ? "slot " : "", q->shown, hits->n, hits->n == 1 ? "" : "s", name);
        show_hits(q, hits);
        return -1;
    }
    return 0;
}

static int check_hit(const struct search *q, const struct span *h)
{
    const struct select *sel = q->sel;
    const char *kind = sel->kind == SELECT_SLOT ? "the value of slot " : "";
    if (h->tok_start == h->tok_end) {
        diag_add(q->d, DIAG_ERROR, "E313", sel->at, sel->width, "slot '%s' is empty in prompt '%s': it selects no token",
                 q->shown, q->p->prompt->name);
        return -1;
    }
    if (strcmp(h->edges, "partial") == 0) {
        diag_add(q->d, DIAG_ERROR, "E310", sel->at, sel->width, "%s'%s' covers only a part of its tokens in prompt '%s'", kind,
                 q->shown, q->p->prompt->name);
        diag_help(q->d, "bytes %d..%d  token %s  %s", h->byte_start, h->byte_end, positions_of(q, h),
                  snippet_span(q->mem, q->p, h->tok_start, h->tok_end));
        diag_help(q->d, "help: select whole tokens; only white space before the text may belong to its first token");
        return -1;
    }
    return 0;
}

int bind_select(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, int **at, int *n)
{
    struct search q = {p, sel, mem, d, NULL};
    struct hits hits = {0};
    int first, count, i, tok, rc = -1;
    if (sel->kind == SELECT_TOKENS)
        return bind_ranges(&sel->tokens, p->n_tokens, "token", arena_printf(mem, "prompt '%s'", p->prompt->name), mem, d, at,
                           n);
    q.shown = snippet_text(mem, sel->text, strlen(sel->text), SHOWN);
    if (p->prompt->kind == PROMPT_TOKENS) {
        diag_add(d, DIAG_ERROR, "E317", sel->at, sel->width, "prompt '%s' is given as ids and has no text to find '%s' in",
                 p->prompt->name, q.shown);
        diag_help(d, "help: at: { tokens: [..] }");
        return -1;
    }
    if (sel->kind == SELECT_SLOT)
        find_slot(&q, &hits);
    else
        find_text(&q, &hits);
    if (choose(&q, &hits, &first, &count)) goto out;
    for (i = first, *n = 0; i < first + count; i++) {
        if (check_hit(&q, &hits.h[i])) goto out;
        *n += hits.h[i].tok_end - hits.h[i].tok_start;
    }
    *at = arena_array(mem, (size_t)*n, sizeof **at);
    for (i = first, *n = 0; i < first + count; i++) /* two hits may touch the same token */
        for (tok = hits.h[i].tok_start; tok < hits.h[i].tok_end; tok++)
            if (*n == 0 || tok > (*at)[*n - 1]) (*at)[(*n)++] = tok;
    rc = 0;
out:
    free(hits.h);
    return rc;
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
