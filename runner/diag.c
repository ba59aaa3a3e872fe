/* diag.c: diagnostics with the line they are about; see diag.h.
 *
 * Every text that may come from the spec is cleaned on its way in: control characters, bad bytes and bidi overrides are
 * written as escapes, so that a hostile spec cannot drive a terminal.
 */
#include "diag.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum {
    KEPT = 2 * DIAG_MAX,  /* errors and warnings */
    PLACES_MAX = 1000,    /* places remembered to drop repetitions; a file with more distinct errors counts as this many */
    TEXT_MAX = 600,       /* bytes of one message or help line */
    LINE_MAX_CHARS = 160, /* a longer source line is shown as a window around the caret */
    WINDOW_BEFORE = 60,
};

struct place {
    struct mark at;
    char code[8];
};

struct item {
    enum diag_level level;
    struct place place;
    int width, order;
    char *message;
    struct buf help; /* lines, each with its newline */
};

struct diag {
    char *path, *text;
    size_t n;
    struct item items[KEPT];
    int n_items;
    int kept[2], count[2]; /* by level */
    struct place *places;  /* (n_places) */
    int n_places, cap_places;
    struct item *last; /* what diag_help adds to; NULL: the last one was dropped */
    struct argument {
        char *shown, *text;
    } * arguments; /* (n_arguments) */
    int n_arguments;
    int entered; /* argument whose parts are read, or 0 */
    size_t from;
};

struct diag *diag_new(const char *path, const char *text, size_t n)
{
    struct diag *d = mem_alloc(sizeof *d);
    d->path = mem_strdup(path);
    d->text = mem_alloc(n + 1);
    if (n) memcpy(d->text, text, n);
    d->n = n;
    return d;
}

void diag_free(struct diag *d)
{
    if (!d) return;
    for (int i = 0; i < d->n_items; i++) {
        free(d->items[i].message);
        buf_free(&d->items[i].help);
    }
    for (int i = 0; i < d->n_arguments; i++) {
        free(d->arguments[i].shown);
        free(d->arguments[i].text);
    }
    free(d->arguments);
    free(d->places);
    free(d->text);
    free(d->path);
    free(d);
}

int diag_errors(const struct diag *d)
{
    return d->count[DIAG_ERROR];
}

int diag_warnings(const struct diag *d)
{
    return d->count[DIAG_WARNING];
}

/* ---- adding ---- */

static bool unprintable(int c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

static void add_clean(struct buf *out, const char *s, size_t n)
{
    size_t i = 0, end = out->n + TEXT_MAX;
    while (i < n) {
        utf8proc_int32_t c = 0;
        int len = utf8_len(s + i, n - i);
        if (out->n > end) {
            buf_str(out, "…");
            return;
        }
        if (len > 0) utf8proc_iterate((const utf8proc_uint8_t *)s + i, len, &c);
        if (len == 0)
            buf_printf(out, "\\x%02x", (unsigned char)s[i]);
        else if (c == '\n')
            buf_str(out, "\\n");
        else if (unprintable(c))
            buf_printf(out, c < 0x100 ? "\\x%02x" : "\\u%04x", (unsigned)c);
        else
            buf_add(out, s + i, (size_t)len);
        i += len > 0 ? (size_t)len : 1;
    }
}

/* True when the place is new. A place in no line says nothing about being the same. */
static bool place_new(struct diag *d, const struct place *p)
{
    if (p->at.line == 0) return true;
    for (int i = 0; i < d->n_places; i++) {
        const struct place *q = &d->places[i];
        if (q->at.line == p->at.line && q->at.col == p->at.col && !strcmp(q->code, p->code)) return false;
    }
    if (d->n_places == PLACES_MAX) return false;
    if (d->n_places == d->cap_places) {
        d->cap_places = d->cap_places ? 2 * d->cap_places : 16;
        d->places = mem_grow(d->places, (size_t)d->cap_places, sizeof *d->places);
    }
    d->places[d->n_places++] = *p;
    return true;
}

void diag_add(struct diag *d, enum diag_level level, const char *code, struct mark at, int width, const char *fmt, ...)
{
    struct place place = {.at = at};
    struct buf raw = {0}, clean = {0};
    struct item *it;
    va_list ap;
    d->last = NULL;
    if (d->entered) place.at = diag_inside(d, d->entered, d->from, at);
    snprintf(place.code, sizeof place.code, "%s", code);
    if (!place_new(d, &place)) return;
    d->count[level]++;
    if (d->kept[level] == DIAG_MAX) return;
    d->kept[level]++;
    va_start(ap, fmt);
    buf_vprintf(&raw, fmt, ap);
    va_end(ap);
    add_clean(&clean, raw.p ? raw.p : "", raw.n);
    buf_free(&raw);
    it = &d->items[d->n_items];
    *it = (struct item){.level = level, .place = place, .width = width, .order = d->n_items, .message = buf_take(&clean)};
    d->n_items++;
    d->last = it;
}

void diag_help(struct diag *d, const char *fmt, ...)
{
    struct buf raw = {0};
    va_list ap;
    if (!d->last) return;
    va_start(ap, fmt);
    buf_vprintf(&raw, fmt, ap);
    va_end(ap);
    buf_str(&d->last->help, "  ");
    add_clean(&d->last->help, raw.p ? raw.p : "", raw.n);
    buf_char(&d->last->help, '\n');
    buf_free(&raw);
}

/* ---- arguments ---- */

int diag_argument(struct diag *d, const char *shown, const char *text)
{
    struct buf clean = {0};
    add_clean(&clean, shown, strlen(shown));
    d->arguments = mem_grow(d->arguments, (size_t)d->n_arguments + 1, sizeof *d->arguments);
    d->arguments[d->n_arguments++] = (struct argument){buf_take(&clean), mem_strdup(text)};
    return -d->n_arguments;
}

/* Characters in n bytes. */
static int count_chars(const char *s, size_t n)
{
    int chars = 0;
    for (size_t i = 0; i < n; chars++) {
        int len = utf8_len(s + i, n - i);
        i += len > 0 ? (size_t)len : 1;
    }
    return chars;
}

struct mark diag_inside(const struct diag *d, int argument, size_t from, struct mark at)
{
    const char *text = d->arguments[-argument - 1].text, *p = text + from;
    for (int line = 1; line < at.line && *p; p += *p != 0) {
        p += strcspn(p, "\r\n");
        if (*p == '\r' && p[1] == '\n') p++;
        line++;
    }
    return (struct mark){argument, count_chars(text, (size_t)(p - text)) + (at.col > 0 ? at.col : 1)};
}

void diag_enter(struct diag *d, int argument, size_t from)
{
    d->entered = argument;
    d->from = from;
}

void diag_where(const struct diag *d, struct mark at, struct buf *out)
{
    if (at.line < 0) {
        buf_str(out, d->arguments[-at.line - 1].shown);
        return;
    }
    buf_str(out, d->path);
    if (at.line > 0) buf_printf(out, ":%d:%d", at.line, at.col);
}

/* ---- printing ---- */

/* Lines end at \n, \r\n or a lone \r, as in node.c. The bytes of a byte order mark are no part of line 1. */
static bool find_line(const struct diag *d, int line, const char **start, size_t *len)
{
    const char *p = d->text, *end = d->text + d->n, *q;
    if (line < 0) { /* an argument is shown in one line */
        *start = d->arguments[-line - 1].text;
        *len = strlen(*start);
        return true;
    }
    if (d->n >= 3 && !memcmp(p, "\xef\xbb\xbf", 3)) p += 3;
    for (int at = 1; at < line; at++) {
        while (p < end && *p != '\n' && *p != '\r') p++;
        if (p == end) return false;
        p += *p == '\r' && p + 1 < end && p[1] == '\n' ? 2 : 1;
    }
    for (q = p; q < end && *q != '\n' && *q != '\r'; q++) continue;
    *start = p;
    *len = (size_t)(q - p);
    return true;
}

/* One character: its bytes (1 where they are no UTF-8), what is shown for it, and how wide that is. */
static size_t next_char(const char *s, size_t n, const char **shown, size_t *shown_len, int *width)
{
    utf8proc_int32_t c = 0;
    int len = utf8_len(s, n);
    if (len > 0) utf8proc_iterate((const utf8proc_uint8_t *)s, len, &c);
    if (len == 0 || (c != '\t' && unprintable(c))) {
        *shown = "?";
        *shown_len = 1;
        *width = 1;
        return len > 0 ? (size_t)len : 1;
    }
    *shown = s;
    *shown_len = (size_t)len;
    *width = c == '\t' ? 1 : utf8proc_charwidth(c);
    return (size_t)len;
}

/* Bytes of the first `chars` characters. */
static size_t skip_chars(const char *s, size_t n, int chars)
{
    size_t i = 0;
    for (; chars > 0 && i < n; chars--) {
        int len = utf8_len(s + i, n - i);
        i += len > 0 ? (size_t)len : 1;
    }
    return i;
}

/* The source line and the carets under it, both drawn in one walk over the characters that are shown: columns first..last. */
static void draw(const struct diag *d, const struct item *it, struct buf *out)
{
    struct buf line = {0}, caret = {0};
    int col = it->place.at.col, width = it->width < 1 ? 1 : it->width, first = 1, last, marked = 0, gutter;
    const char *s, *shown;
    size_t n, i, shown_len;
    int w;
    if (!find_line(d, it->place.at.line, &s, &n)) return;
    if (skip_chars(s, n, LINE_MAX_CHARS) < n && col > WINDOW_BEFORE) first = col - WINDOW_BEFORE;
    last = first + LINE_MAX_CHARS - 1;
    if (first > 1) {
        buf_str(&line, "…");
        buf_char(&caret, ' ');
    }
    i = skip_chars(s, n, first - 1);
    for (int at = first; i < n && at <= last; at++) {
        i += next_char(s + i, n - i, &shown, &shown_len, &w);
        buf_add(&line, shown, shown_len);
        if (at < col && *shown == '\t') {
            buf_char(&caret, '\t');
            continue;
        }
        for (int k = 0; k < w && at < col + width; k++) buf_char(&caret, at < col ? ' ' : marked++ ? '~' : '^');
    }
    if (i < n) buf_str(&line, "…");
    if (!marked) buf_char(&caret, '^');
    gutter = it->place.at.line < 0 ? 5 : snprintf(NULL, 0, "%5d", it->place.at.line);
    if (it->place.at.line < 0)
        buf_printf(out, "%*s | %s\n", gutter, "-s", line.n ? line.p : "");
    else
        buf_printf(out, "%*d |%s%s\n", gutter, it->place.at.line, line.n ? " " : "", line.n ? line.p : "");
    buf_printf(out, "%*s | %s\n", gutter, "", caret.p);
    buf_free(&line);
    buf_free(&caret);
}

static int by_place(const void *a, const void *b)
{
    const struct item *x = *(const struct item *const *)a, *y = *(const struct item *const *)b;
    struct mark p = x->place.at, q = y->place.at;
    if (p.line < 0) p.line = INT_MAX / 2 - p.line; /* below the file's lines */
    if (q.line < 0) q.line = INT_MAX / 2 - q.line;
    if ((p.line == 0) != (q.line == 0)) return p.line == 0 ? 1 : -1;
    if (p.line != q.line) return p.line < q.line ? -1 : 1;
    if (p.col != q.col) return p.col < q.col ? -1 : 1;
    return x->order - y->order;
}

void diag_text(const struct diag *d, struct buf *out)
{
    const struct item *order[KEPT];
    int errors = d->count[DIAG_ERROR];
    for (int i = 0; i < d->n_items; i++) order[i] = &d->items[i];
    qsort(order, (size_t)d->n_items, sizeof *order, by_place);
    for (int i = 0; i < d->n_items; i++) {
        const struct item *it = order[i];
        const char *level = it->level == DIAG_ERROR ? "error" : "warning";
        diag_where(d, it->place.at, out);
        buf_printf(out, ": %s %s: %s\n", level, it->place.code, it->message);
        if (it->place.at.line != 0) draw(d, it, out);
        if (it->help.n) buf_add(out, it->help.p, it->help.n);
    }
    if (errors > d->kept[DIAG_ERROR])
        buf_printf(out, "%d errors, %d of them shown; no job was run.\n", errors, d->kept[DIAG_ERROR]);
    else if (errors)
        buf_printf(out, "%d error%s; no job was run.\n", errors, errors == 1 ? "" : "s");
}
