/* select_hit.c: places in a prompt's text: the value of a slot, a text, what a regex matches, a turn of a chat.
 *
 * Spans are bytes: a token belongs to a span when it shares a byte with it, so a character split over tokens takes all
 * of them. What happens to tokens that are only partly inside is for the selector's edges to say.
 */
#include "select.h"

#include "bind_in.h"
#include "regex.h"
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
    size_t *work;
    const char *shown; /* the text, slot or role for messages */
};

static void hit_add(struct hits *l, struct span s)
{
    if ((l->n & (l->n - 1)) == 0) l->h = mem_grow(l->h, l->n ? 2 * (size_t)l->n : 1, sizeof *l->h);
    l->h[l->n++] = s;
}

static void hit_bytes(const struct search *q, int start, int end, struct hits *out)
{
    struct span h = {.name = q->sel->text, .nth = out->n + 1, .byte_start = start, .byte_end = end};
    select_touch(q->p, &h);
    hit_add(out, h);
}

static void find_text(const struct search *q, struct hits *out)
{
    const struct bound_prompt *p = q->p;
    size_t n = strlen(q->sel->text);
    const char *end = p->text + p->n_bytes, *s = p->text;
    while (n && (s = memmem(s, (size_t)(end - s), q->sel->text, n))) {
        hit_bytes(q, (int)(s - p->text), (int)(s - p->text + (ptrdiff_t)n), out);
        s++;
    }
}

static int find_regex(const struct search *q, struct hits *out)
{
    const struct bound_prompt *p = q->p;
    char why[REGEX_WHY];
    struct regex_hit *h;
    int n, i;
    if (regex_find(q->sel->text, p->text, (size_t)p->n_bytes, q->work, &h, &n, why)) {
        diag_add(q->d, DIAG_ERROR, "E331", q->sel->at, q->sel->width, "regex '%s' on prompt '%s': %s", q->shown,
                 p->prompt->name, why);
        return -1;
    }
    for (i = 0; i < n; i++) hit_bytes(q, h[i].start, h[i].end, out);
    free(h);
    return 0;
}

static int find_turns(const struct search *q, struct hits *out)
{
    const struct prompt *spec = q->p->prompt;
    const char *why;
    int i, n = 0, start, end, count = 0, nth = q->sel->nth;
    for (i = 0; i < spec->n_turns; i++) count += strcmp(spec->turns[i].role, q->sel->text) == 0;
    for (i = 0; i < spec->n_turns; i++) {
        if (strcmp(spec->turns[i].role, q->sel->text) != 0) continue;
        n++;
        if ((nth > 0 && n != nth && nth <= count) || (nth == SELECT_LAST && n != count)) {
            hit_add(out, (struct span){.name = q->sel->text, .nth = n}); /* not asked for: its place does not matter */
            continue;
        }
        if (!bind_turn(q->p, i, q->sel->with_markers, q->mem, &start, &end, &why)) {
            diag_add(q->d, DIAG_ERROR, "E318", q->sel->at, q->sel->width, "%s turn %d of prompt '%s': %s", q->shown, n,
                     spec->name, why);
            return -1;
        }
        hit_bytes(q, start, end, out);
    }
    return 0;
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
    if (sel->kind == SELECT_ROLE) {
        diag_add(q->d, DIAG_ERROR, "E312", sel->at, sel->width, "prompt '%s' has no turn of the role %s", p->prompt->name,
                 q->shown);
        return -1;
    }
    if (!*sel->text) {
        diag_add(q->d, DIAG_ERROR, "E313", sel->at, sel->width, "an empty text selects no token");
        return -1;
    }
    if (sel->kind == SELECT_REGEX) {
        diag_add(q->d, DIAG_ERROR, "E312", sel->at, sel->width, "regex '%s' matches nothing in prompt '%s'", q->shown,
                 p->prompt->name);
        diag_help(q->d, "help: the prompt says '%s'", snippet_text(q->mem, p->text, (size_t)p->n_bytes, SHOWN));
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
    const char *bytes[ROWS], *tokens[ROWS], *word = q->sel->kind == SELECT_ROLE ? "turn" : "nth";
    int i, n = hits->n < ROWS ? hits->n : ROWS, wb = 0, wt = 0;
    for (i = 0; i < n; i++) {
        bytes[i] = arena_printf(q->mem, "%d..%d", hits->h[i].byte_start, hits->h[i].byte_end);
        tokens[i] = positions_of(q, &hits->h[i]);
        if ((int)strlen(bytes[i]) > wb) wb = (int)strlen(bytes[i]);
        if ((int)strlen(tokens[i]) > wt) wt = (int)strlen(tokens[i]);
    }
    for (i = 0; i < n; i++)
        diag_help(q->d, "%s %d  bytes %-*s  token %-*s  %s", word, hits->h[i].nth, wb, bytes[i], wt, tokens[i],
                  snippet_span(q->mem, q->p, hits->h[i].tok_start, hits->h[i].tok_end));
    if (hits->n > ROWS) diag_help(q->d, "… and %d more", hits->n - ROWS);
}

/* "slot 'city' is used 2 times": what nth counts, and how many there are. */
static const char *counted(const struct search *q, int n)
{
    static const char *const verbs[] = {[SELECT_SLOT] = "slot '%s' is used %d time%s",
                                        [SELECT_TEXT] = "'%s' occurs %d time%s",
                                        [SELECT_REGEX] = "regex '%s' matches %d time%s",
                                        [SELECT_ROLE] = "the role %s has %d turn%s"};
    struct buf b = {0};
    const char *verb = verbs[q->sel->kind], *s = strstr(verb, "%s"), *out;
    buf_add(&b, verb, (size_t)(s - verb));
    buf_str(&b, q->shown);
    for (s += 2; *s; s++) {
        if (s[0] != '%')
            buf_char(&b, *s);
        else if (*++s == 'd')
            buf_printf(&b, "%d", n);
        else if (n != 1)
            buf_char(&b, 's');
    }
    out = arena_strdup(q->mem, b.p);
    buf_free(&b);
    return out;
}

static int ambiguous(const struct search *q, const struct hits *hits)
{
    const struct select *sel = q->sel;
    diag_add(q->d, DIAG_ERROR, "E311", sel->at, sel->width, "%s in prompt '%s'; say which one", counted(q, hits->n),
             q->p->prompt->name);
    show_hits(q, hits);
    if (sel->kind == SELECT_TEXT)
        diag_help(q->d, "help: at: { text: \"%s\", nth: 1 }   or put it in the prompt as {{name}} and use at: { slot: name }",
                  q->shown);
    else if (sel->kind == SELECT_ROLE)
        diag_help(q->d, "help: at: { role: %s, turn: 1 }   or turn: last, or turn: all", q->shown);
    else if (sel->kind == SELECT_REGEX)
        diag_help(q->d, "help: at: { regex: ..., nth: 1 }   or nth: last, or nth: all");
    else
        diag_help(q->d, "help: at: { slot: %s, nth: 1 }   or nth: last, or nth: all", q->shown);
    return -1;
}

/* Narrows hits to those that nth means: *first (of hits) and *count. */
static int choose(const struct search *q, const struct hits *hits, int *first, int *count)
{
    const struct select *sel = q->sel;
    *first = 0;
    *count = hits->n;
    if (hits->n == 0) return not_found(q);
    if (sel->nth == SELECT_ALL || (sel->nth == SELECT_ONLY && hits->n == 1)) return 0;
    if (sel->nth == SELECT_ONLY) return ambiguous(q, hits);
    *count = 1;
    *first = sel->nth == SELECT_LAST ? hits->n - 1 : sel->nth - 1;
    if (*first >= 0 && *first < hits->n) return 0;
    diag_add(q->d, DIAG_ERROR, "E314", sel->at, sel->width, "%s %d: %s in prompt '%s'",
             sel->kind == SELECT_ROLE ? "turn" : "nth", sel->nth, counted(q, hits->n), q->p->prompt->name);
    show_hits(q, hits);
    return -1;
}

/* ---- tokens that are partly inside ---- */

static const char *kind_of(const struct search *q)
{
    return q->sel->kind == SELECT_SLOT    ? "the value of slot "
           : q->sel->kind == SELECT_REGEX ? "a match of regex "
           : q->sel->kind == SELECT_ROLE  ? "a turn of "
                                          : "";
}

static int in_part(const struct search *q, const struct span *h)
{
    const struct select *sel = q->sel;
    bool exact = sel->edges == EDGES_EXACT;
    diag_add(q->d, DIAG_ERROR, "E310", sel->at, sel->width, "%s'%s' covers only a part of its tokens in prompt '%s'",
             kind_of(q), q->shown, q->p->prompt->name);
    diag_help(q->d, "bytes %d..%d  token %s  %s", h->byte_start, h->byte_end, positions_of(q, h),
              snippet_span(q->mem, q->p, h->tok_start, h->tok_end));
    diag_help(q->d, exact ? "help: edges: exact takes whole tokens alone; edges: space also one that begins with white space"
                          : "help: select whole tokens; only white space before the text may belong to its first token");
    diag_help(q->d, "help: edges: include takes such tokens, edges: exclude leaves them out");
    return -1;
}

/* Drops the tokens that stick out of h. */
static void drop_edges(const struct bound_prompt *p, struct span *h)
{
    while (h->tok_start < h->tok_end && p->tokens[h->tok_start].start < h->byte_start) h->tok_start++;
    while (h->tok_end > h->tok_start && p->tokens[h->tok_end - 1].end > h->byte_end) h->tok_end--;
}

static int check_hit(const struct search *q, struct span *h)
{
    const struct select *sel = q->sel;
    if (h->tok_start == h->tok_end) {
        diag_add(q->d, DIAG_ERROR, "E313", sel->at, sel->width, "%s '%s' is empty in prompt '%s': it selects no token",
                 sel->kind == SELECT_ROLE ? "a turn of" : "slot", q->shown, q->p->prompt->name);
        return -1;
    }
    if (strcmp(h->edges, "exact") == 0 || sel->edges == EDGES_INCLUDE) return 0;
    if (sel->edges == EDGES_SPACE && strcmp(h->edges, "space") == 0) return 0;
    if (sel->edges != EDGES_EXCLUDE) return in_part(q, h);
    drop_edges(q->p, h);
    if (h->tok_start < h->tok_end) return 0;
    select_touch(q->p, h);
    diag_add(q->d, DIAG_ERROR, "E313", sel->at, sel->width,
             "edges: exclude leaves no token of %s'%s' in prompt '%s': none lies wholly inside", kind_of(q), q->shown,
             q->p->prompt->name);
    diag_help(q->d, "bytes %d..%d  token %s  %s", h->byte_start, h->byte_end, positions_of(q, h),
              snippet_span(q->mem, q->p, h->tok_start, h->tok_end));
    return -1;
}

/* ---- all together ---- */

static int find(const struct search *q, struct hits *out)
{
    const struct bound_prompt *p = q->p;
    const struct select *sel = q->sel;
    if (p->prompt->kind == PROMPT_TOKENS) {
        diag_add(q->d, DIAG_ERROR, "E317", sel->at, sel->width, "prompt '%s' is given as ids and has no text to find '%s' in",
                 p->prompt->name, q->shown);
        diag_help(q->d, "help: at: { tokens: [..] }");
        return -1;
    }
    if (sel->kind == SELECT_ROLE && p->prompt->kind != PROMPT_CHAT) {
        diag_add(q->d, DIAG_ERROR, "E317", sel->at, sel->width, "prompt '%s' is no chat and has no turns", p->prompt->name);
        return -1;
    }
    if (sel->kind == SELECT_REGEX) return find_regex(q, out);
    if (sel->kind == SELECT_ROLE) return find_turns(q, out);
    if (sel->kind == SELECT_SLOT)
        find_slot(q, out);
    else
        find_text(q, out);
    return 0;
}

int select_hits(const struct bound_prompt *p, const struct select *sel, arena *mem, struct diag *d, size_t *work,
                unsigned char *on)
{
    struct search q = {p, sel, mem, d, work, snippet_text(mem, sel->text, strlen(sel->text), SHOWN)};
    struct hits hits = {0};
    int first, count, i, rc = -1;
    if (find(&q, &hits) || choose(&q, &hits, &first, &count)) goto out;
    for (i = first; i < first + count; i++) {
        if (check_hit(&q, &hits.h[i])) goto out;
        memset(on + hits.h[i].tok_start, 1, (size_t)(hits.h[i].tok_end - hits.h[i].tok_start));
    }
    rc = 0;
out:
    free(hits.h);
    return rc;
}
