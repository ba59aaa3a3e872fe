/* outcome.c: see outcome.h. */
#include "outcome.h"

#include "width.h"
#include "words.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_MIN = 40, CELL_MIN = 24, CELL_LEAST = 8, GAP = 2, COLOURS = 6 };

static const char *const colours[COLOURS] = {"\033[32m", "\033[33m", "\033[36m", "\033[35m", "\033[34m", "\033[31m"};

/* The longest word of any mark at s: its bytes, or 0, and its mark. */
static size_t longest(const struct outcome *o, int column, const char *s, size_t n, const struct outcome_mark **mark)
{
    size_t best = 0;
    int i, k;
    for (i = 0; i < o->n_marks; i++) {
        const struct outcome_mark *m = &o->marks[i];
        for (k = 0; k < m->n && (m->column < 0 || m->column == column); k++) {
            size_t len = words_at(s, n, m->words[k], m->casefold);
            if (len <= best) continue;
            best = len;
            *mark = m;
        }
    }
    return best;
}

/* ---- one cell ---- */

static void spaces(struct buf *b, int n)
{
    while (n-- > 0) buf_char(b, ' ');
}

struct pen {
    const struct outcome *o;
    struct buf *out;
    int used, width;                 /* columns */
    const struct outcome_mark *mark; /* open, or NULL */
};

static void open_mark(struct pen *p, const struct outcome_mark *m)
{
    p->mark = m;
    buf_str(p->out, p->o->colour ? colours[m->colour % COLOURS] : "«");
    p->used += !p->o->colour;
}

static void close_mark(struct pen *p)
{
    if (!p->mark) return;
    buf_str(p->out, p->o->colour ? "\033[0m" : "»");
    p->used += !p->o->colour;
    p->mark = NULL;
}

/* What is drawn for the character at s, so that a text stays on its line. */
static const char *drawn(const char *s, size_t n, char glyph[5], size_t *len)
{
    int32_t cp = words_point(s, n, len);
    if (cp == '\n') return "⏎";
    if (cp == '\t' || cp == '\r') return " ";
    if (cp <= 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) return "\xef\xbf\xbd";
    if ((cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069)) return "\xef\xbf\xbd"; /* they turn the line around */
    memcpy(glyph, s, *len);
    glyph[*len] = 0;
    return glyph;
}

/* The text in at most p->width columns; the room for a closing mark and for "…" is kept free all the time. */
static void draw_text(struct pen *p, int column, const char *s, size_t n)
{
    const struct outcome_mark *mark = NULL;
    size_t i, len, end = 0;
    bool inside = false; /* a word goes on from the character before */
    for (i = 0; i < n; i += len) {
        size_t found = i < end || inside ? 0 : longest(p->o, column, s + i, n - i, &mark);
        char glyph[5];
        const char *g = drawn(s + i, n - i, glyph, &len);
        int cost = width_text(g, strlen(g)), extra = (found || p->mark) && !p->o->colour;
        if (found) end = i + found;
        if (p->used + cost + extra + (found && !p->o->colour) + (i + len < n) > p->width) {
            close_mark(p);
            buf_str(p->out, "…");
            p->used++;
            return;
        }
        if (found) open_mark(p, mark);
        buf_str(p->out, g);
        p->used += cost;
        inside = words_letter(words_point(s + i, n - i, &len));
        if (i + len >= end) close_mark(p);
    }
}

/* A name in at most width columns; returns how many. */
static int cut_name(struct buf *b, const char *s, int width)
{
    size_t n = strlen(s);
    int w = width_text(s, n);
    if (w > width) {
        n = width_fit(s, n, width - 1);
        w = width_text(s, n) + 1;
        buf_add(b, s, n);
        buf_str(b, "…");
    } else
        buf_str(b, s);
    return w;
}

static void draw_name(struct buf *b, const char *s, int width)
{
    spaces(b, width - cut_name(b, s, width));
}

/* A cell in at most width columns; returns how many. */
static int draw_cell(const struct outcome *o, struct buf *out, int row, int column, int width)
{
    const struct outcome_cell *c = &o->cells[(size_t)row * (size_t)o->n_columns + (size_t)column];
    struct pen p = {o, out, 0, width, NULL};
    size_t skip = 0;
    if (!c->text) return cut_name(out, c->note ? c->note : "-", width);
    while (skip < c->n && c->text[skip] == ' ') skip++; /* most texts begin with the space of their first word */
    draw_text(&p, column, c->text + skip, c->n - skip);
    return p.used;
}

/* ---- blocks of columns ---- */

static int names_width(const char *const *names, int n, int max)
{
    int i, w = 0;
    for (i = 0; i < n; i++) {
        int one = width_text(names[i], strlen(names[i]));
        if (one > w) w = one;
    }
    return w < max ? w : max;
}

/* End of the group that begins at column. */
static int group_end(const struct outcome *o, int column)
{
    int end = column + 1;
    while (o->groups && end < o->n_columns && o->groups[end] == o->groups[column]) end++;
    return end;
}

static void trim_line(struct buf *b)
{
    while (b->n && b->p[b->n - 1] == ' ') b->p[--b->n] = 0;
    buf_char(b, '\n');
}

/* Columns that the longest text of a column takes, its name included. */
static int column_need(const struct outcome *o, int column)
{
    int need = names_width(&o->columns[column], 1, INT_MAX), i;
    for (i = 0; i < o->n_rows; i++) {
        struct buf all = {0};
        int w = draw_cell(o, &all, i, column, INT_MAX / 2);
        if (w > need) need = w;
        buf_free(&all);
    }
    return need;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* need: (n_columns); no column gets more than cell. */
static void draw_block(const struct outcome *o, struct buf *out, int first, int end, int names, int cell, const int *need)
{
    int i, k;
    draw_name(out, o->corner ? o->corner : "", names);
    for (k = first; k < end; k++) {
        spaces(out, GAP);
        draw_name(out, o->columns[k], least(cell, need[k]));
    }
    trim_line(out);
    for (i = 0; i < o->n_rows; i++) {
        draw_name(out, o->rows[i], names);
        for (k = first; k < end; k++) {
            spaces(out, GAP);
            spaces(out, least(cell, need[k]) - draw_cell(o, out, i, k, least(cell, need[k])));
        }
        trim_line(out);
    }
}

static void draw_legend(const struct outcome *o, struct buf *out)
{
    int i, k, shown = 0;
    for (i = 0; i < o->n_marks; i++) {
        const struct outcome_mark *m = &o->marks[i];
        for (k = 0; k < i && o->marks[k].colour != m->colour;) k++;
        if (k < i) continue;
        buf_str(out, shown++ ? ", " : "marked: ");
        if (o->colour)
            buf_printf(out, "%s%s\033[0m", colours[m->colour % COLOURS], m->name);
        else
            buf_str(out, m->name);
    }
    if (shown) buf_char(out, '\n');
}

/* The widest cell with which the columns first..end-1 fit into room. */
static int share(const int *need, int first, int end, int room)
{
    int low = CELL_LEAST, high = room, k;
    while (low < high) {
        int cell = low + (high - low + 1) / 2, sum = 0;
        for (k = first; k < end; k++) sum += least(need[k], cell) + GAP;
        if (sum <= room)
            low = cell;
        else
            high = cell - 1;
    }
    return low;
}

/* Columns that the group first..end-1 asks for at least. */
static int group_least(const int *need, int first, int end)
{
    int w = 0, k;
    for (k = first; k < end; k++) w += least(need[k], CELL_MIN) + GAP;
    return w;
}

void outcome_text(const struct outcome *o, struct buf *out)
{
    int width = o->width < WIDTH_MIN ? WIDTH_MIN : o->width;
    int corner = o->corner ? names_width(&o->corner, 1, width / 3) : 0;
    int names = names_width(o->rows, o->n_rows, width / 3), room, first, end, next, used;
    int *need = mem_array((size_t)o->n_columns, sizeof *need);
    if (names < corner) names = corner;
    room = width - names;
    for (first = 0; first < o->n_columns; first++) need[first] = column_need(o, first);
    for (first = 0; first < o->n_columns; first = end) {
        end = group_end(o, first);
        used = group_least(need, first, end);
        while (end < o->n_columns && used + group_least(need, end, next = group_end(o, end)) <= room) {
            used += group_least(need, end, next);
            end = next;
        }
        if (end - first > room / (CELL_LEAST + GAP))
            end = first + room / (CELL_LEAST + GAP); /* a group too wide for the terminal */
        if (first) buf_char(out, '\n');
        draw_block(o, out, first, end, names, share(need, first, end, room), need);
    }
    draw_legend(o, out);
    free(need);
}

/* ---- from a spec ---- */

/* The column that words with this key are for: -1: all, -2: none. */
static int column_of(const struct spec *s, const struct metric *m, const char *key)
{
    int i;
    if (!key || m->which == WHICH_ANY) return -1;
    for (i = 0; i < s->n_prompts; i++)
        if (strcmp(s->prompts[i].name, key) == 0) {
            int other = s->prompts[i].other;
            return m->which == WHICH_OWN ? i : other >= 0 ? other : -2;
        }
    return -2;
}

int outcome_marks(const struct spec *s, arena *mem, const struct outcome_mark **out)
{
    struct outcome_mark *marks;
    int i, k, n = 0, colour = 0;
    for (i = 0; i < s->n_metrics; i++) n += s->metrics[i].n_words;
    *out = marks = arena_array(mem, (size_t)n, sizeof *marks);
    for (i = n = 0; i < s->n_metrics; i++) {
        const struct metric *m = &s->metrics[i];
        if (m->kind != METRIC_MENTIONS) continue;
        for (k = 0; k < m->n_words; k++) {
            int column = column_of(s, m, m->words[k].key);
            if (column > -2)
                marks[n++] = (struct outcome_mark){m->name, m->words[k].words, m->words[k].n, m->casefold, colour, column};
        }
        colour++;
    }
    return n;
}
