/* report_sweep.c: what the metrics say along the axes of a sweep: lines over one axis of numbers, a map over two. */
#include "report_in.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { AXES_MAX = 8, LINES_MAX = 6, PANELS_MAX = 24, SIDE_MAX = 4096 };

struct axis_of {
    char *name;
    int64_t values;
    bool numbers; /* all of them */
};

struct sweep {
    char *condition;
    struct axis_of axes[AXES_MAX];
    int n_axes;
};

/* ---- which axes ---- */

static bool begins(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

/* Axes that run over token positions are drawn downwards, the others to the right. */
static bool is_position(const char *name)
{
    return begins(name, "pos") || begins(name, "token");
}

static void sweep_clear(struct sweep *s)
{
    for (int i = 0; i < s->n_axes; i++) free(s->axes[i].name);
    free(s->condition);
    *s = (struct sweep){0};
}

static int load_axes(struct report *r, struct sweep *s, err *e)
{
    sqlite3_stmt *row = NULL;
    int got = db_query(r->db, &row, e,
                       "SELECT f.name, count(DISTINCT f.value), count(*)=count(f.num) FROM v_latest l"
                       " JOIN factor f ON f.spec_job_id=l.spec_job_id WHERE l.experiment=? AND l.condition=?"
                       " GROUP BY f.name HAVING count(DISTINCT f.value)>1 ORDER BY f.name",
                       "ss", r->experiment, s->condition);
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *name = (const char *)sqlite3_column_text(row, 0);
        if (!name || s->n_axes == AXES_MAX) continue;
        s->axes[s->n_axes++] = (struct axis_of){mem_strdup(name), sqlite3_column_int64(row, 1), sqlite3_column_int(row, 2)};
    }
    sqlite3_finalize(row);
    return got;
}

/* The two axes with most numbers as (x, y): positions are y; -1 where there is none. */
static void choose_axes(const struct sweep *s, int *x, int *y)
{
    *x = *y = -1;
    for (int i = 0; i < s->n_axes; i++) {
        if (!s->axes[i].numbers || s->axes[i].values < 3) continue;
        if (*x < 0 || s->axes[i].values > s->axes[*x].values)
            *y = *x, *x = i;
        else if (*y < 0 || s->axes[i].values > s->axes[*y].values)
            *y = i;
    }
    if (*y >= 0 && is_position(s->axes[*x].name)) {
        int t = *x;
        *x = *y;
        *y = t;
    }
}

/* ---- the SQL: prompt, the other axes' values, x, (y,) value ---- */

static char *points_sql(const struct report *r, const struct sweep *s, const char *metric, const char *x, const char *y)
{
    struct buf b = {0};
    char *condition = html_quoted(s->condition), *m = html_quoted(metric), *qx = html_quoted(x), *qy = html_quoted(y ? y : x);
    buf_printf(&b,
               "SELECT m.prompt, (SELECT group_concat(o.name||'='||o.value, ' ') FROM factor o\n"
               "         WHERE o.spec_job_id=m.spec_job_id AND o.name NOT IN (%s, %s)) AS line,\n"
               "       fx.num AS x, %s AS y, m.value\n"
               "FROM v_metric m JOIN factor fx ON fx.spec_job_id=m.spec_job_id AND fx.name=%s\n",
               qx, qy, y ? "fy.num" : "NULL", qx);
    if (y) buf_printf(&b, "JOIN factor fy ON fy.spec_job_id=m.spec_job_id AND fy.name=%s\n", qy);
    buf_printf(&b, "WHERE m.experiment=%s AND m.condition=%s AND m.metric=%s\nORDER BY m.prompt, line, x, y", r->quoted,
               condition, m);
    free(condition);
    free(m);
    free(qx);
    free(qy);
    return buf_take(&b);
}

struct point {
    double x, y, value; /* value: NaN where it is undefined */
};

/* The points of one prompt and one line, as they come. */
struct series {
    char *prompt, *line;
    struct point *p;
    int n;
};

struct points {
    struct series *s;
    int n;
};

static void points_free(struct points *l)
{
    for (int i = 0; i < l->n; i++) {
        free(l->s[i].prompt);
        free(l->s[i].line);
        free(l->s[i].p);
    }
    free(l->s);
    *l = (struct points){0};
}

static void points_add(struct points *l, const char *prompt, const char *line, struct point p)
{
    struct series *s = l->n ? &l->s[l->n - 1] : NULL;
    if (!s || strcmp(s->prompt, prompt) || strcmp(s->line, line)) {
        if ((l->n & (l->n - 1)) == 0) l->s = mem_grow(l->s, l->n ? 2 * (size_t)l->n : 1, sizeof *l->s);
        s = &l->s[l->n++];
        *s = (struct series){mem_strdup(prompt), mem_strdup(line), NULL, 0};
    }
    if ((s->n & (s->n - 1)) == 0) s->p = mem_grow(s->p, s->n ? 2 * (size_t)s->n : 1, sizeof *s->p);
    s->p[s->n++] = p;
}

static int load_points(struct report *r, const char *sql, struct points *l, err *e)
{
    sqlite3_stmt *row = NULL;
    int got = report_ask(r, &row, sql, e);
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *prompt = (const char *)sqlite3_column_text(row, 0), *line = (const char *)sqlite3_column_text(row, 1);
        struct point p = {sqlite3_column_double(row, 2), sqlite3_column_double(row, 3),
                          sqlite3_column_type(row, 4) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(row, 4)};
        points_add(l, prompt ? prompt : "", line ? line : "", p);
    }
    sqlite3_finalize(row);
    return got;
}

/* ---- lines ---- */

enum { W = 640, H = 260, LEFT = 56, RIGHT = 12, TOP = 12, BOTTOM = 34 };

struct frame {
    double x0, x1, y0, y1;
};

static void frame_take(struct frame *f, const struct series *s)
{
    for (int i = 0; i < s->n; i++) {
        f->x0 = fmin(f->x0, s->p[i].x);
        f->x1 = fmax(f->x1, s->p[i].x);
        f->y0 = fmin(f->y0, s->p[i].value);
        f->y1 = fmax(f->y1, s->p[i].value);
    }
}

static double at_x(const struct frame *f, double x)
{
    return LEFT + (f->x1 > f->x0 ? (x - f->x0) / (f->x1 - f->x0) : 0.5) * (W - LEFT - RIGHT);
}

static double at_y(const struct frame *f, double y)
{
    return H - BOTTOM - (f->y1 > f->y0 ? (y - f->y0) / (f->y1 - f->y0) : 0.5) * (H - TOP - BOTTOM);
}

static void draw_series(struct buf *b, const struct frame *f, const struct series *s, int colour)
{
    bool open = false;
    for (int i = 0; i < s->n; i++) {
        bool there = isfinite(s->p[i].value);
        if (there && !open) buf_printf(b, "<polyline fill=none style=\"stroke:var(--l%d)\" stroke-width=2 points=\"", colour);
        if (there) buf_printf(b, "%.1f,%.1f ", at_x(f, s->p[i].x), at_y(f, s->p[i].value));
        if (!there && open) buf_str(b, "\"/>");
        open = there;
    }
    if (open) buf_str(b, "\"/>");
    for (int i = 0; i < s->n; i++)
        if (isfinite(s->p[i].value))
            buf_printf(b, "<circle r=2.5 style=\"fill:var(--l%d)\" cx=%.1f cy=%.1f><title>%g: %.5g</title></circle>", colour,
                       at_x(f, s->p[i].x), at_y(f, s->p[i].value), s->p[i].x, s->p[i].value);
}

static void draw_frame(struct buf *b, const struct frame *f, const char *axis)
{
    buf_printf(b, "<path class=axis fill=none d=\"M%d %dV%dH%d\"/>", LEFT, TOP, H - BOTTOM, W - RIGHT);
    buf_printf(b, "<text x=%d y=%d text-anchor=end>%.4g</text><text x=%d y=%d text-anchor=end>%.4g</text>", LEFT - 6, TOP + 8,
               f->y1, LEFT - 6, H - BOTTOM, f->y0);
    buf_printf(b, "<text x=%d y=%d>%g</text><text x=%d y=%d text-anchor=end>%g</text><text x=%d y=%d text-anchor=middle>", LEFT,
               H - BOTTOM + 14, f->x0, W - RIGHT, H - BOTTOM + 14, f->x1, (LEFT + W - RIGHT) / 2, H - 4);
    html_str(b, axis);
    buf_str(b, "</text>");
}

/* All lines of one prompt in one picture. */
static void draw_lines(struct buf *b, const struct series *s, int n, const char *axis)
{
    struct frame f = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; i < n; i++) frame_take(&f, &s[i]);
    if (!isfinite(f.x0) || !isfinite(f.y0)) return;
    buf_str(b, "<figure><figcaption><b>");
    html_str(b, s->prompt);
    buf_str(b, "</b> from ");
    html_number(b, f.y0, 4);
    buf_str(b, " to ");
    html_number(b, f.y1, 4);
    for (int i = 0; i < n && i < LINES_MAX; i++) {
        if (!*s[i].line) continue;
        buf_printf(b, " <span style=\"color:var(--l%d)\">━ ", i);
        html_str(b, s[i].line);
        buf_str(b, "</span>");
    }
    if (n > LINES_MAX) buf_printf(b, " <span class=dim>and %d more lines</span>", n - LINES_MAX);
    buf_printf(b, "</figcaption><svg role=img viewBox=\"0 0 %d %d\" aria-label=\"", W, H);
    html_str(b, s->prompt);
    buf_str(b, " along ");
    html_str(b, axis);
    buf_str(b, "\">");
    draw_frame(b, &f, axis);
    for (int i = 0; i < n && i < LINES_MAX; i++) draw_series(b, &f, &s[i], i);
    buf_str(b, "</svg></figure>\n");
}

/* ---- maps ---- */

static int by_number(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The numbers that occur, rising: how many. out: (s->n). */
static int distinct(const struct series *s, bool y, double *out)
{
    int n = 0;
    for (int i = 0; i < s->n; i++) out[i] = y ? s->p[i].y : s->p[i].x;
    qsort(out, (size_t)s->n, sizeof *out, by_number);
    for (int i = 0; i < s->n; i++)
        if (n == 0 || out[i] != out[n - 1]) out[n++] = out[i];
    return n;
}

static int index_in(const double *v, int n, double x)
{
    int low = 0, high = n - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (v[mid] < x)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* "token 12" for positions of a prompt, else the number. */
static int row_names(struct report *r, const char *prompt, const char *axis, const double *y, int n, char **names, err *e)
{
    sqlite3_stmt *row = NULL;
    int got = 0;
    if (is_position(axis))
        got = db_query(r->db, &row, e,
                       "SELECT pos, coalesce(token, token_id) FROM v_prompt_token WHERE experiment=? AND prompt=?", "ss",
                       r->experiment, prompt);
    for (; got == 1; got = db_next(r->db, row, e)) {
        double pos = sqlite3_column_double(row, 0);
        int i = index_in(y, n, pos);
        struct buf b = {0};
        const char *token = (const char *)sqlite3_column_text(row, 1);
        if (y[i] != pos || names[i]) continue;
        buf_printf(&b, "%s %g", token ? token : "", pos);
        names[i] = buf_take(&b);
    }
    sqlite3_finalize(row);
    for (int i = 0; i < n; i++) {
        struct buf b = {0};
        if (names[i]) continue;
        buf_printf(&b, "%s %g", axis, y[i]);
        names[i] = buf_take(&b);
    }
    return got;
}

static int draw_map(struct report *r, const struct series *s, const char *x_name, const char *y_name, double limit, bool signs,
                    err *e)
{
    double *x = mem_array((size_t)s->n, sizeof *x), *y = mem_array((size_t)s->n, sizeof *y);
    int w = distinct(s, false, x), h = distinct(s, true, y), rc = 0;
    char **names = mem_array((size_t)h, sizeof *names), left[64], right[64];
    float *v = mem_array((size_t)w * (size_t)h, sizeof *v);
    const struct point *top = NULL;
    struct map m = {.w = w, .h = h, .v = v, .limit = limit, .diverging = signs, .left = left, .right = right, .alt = s->prompt};
    for (int i = 0; i < w * h; i++) v[i] = NAN;
    for (int i = 0; i < s->n; i++) {
        v[(size_t)index_in(y, h, s->p[i].y) * (size_t)w + (size_t)index_in(x, w, s->p[i].x)] = (float)s->p[i].value;
        if (isfinite(s->p[i].value) && (!top || s->p[i].value > top->value)) top = &s->p[i];
    }
    snprintf(left, sizeof left, "%.40s %g", x_name, x[0]);
    snprintf(right, sizeof right, "%.40s %g", x_name, x[w - 1]);
    buf_str(r->out, "<figure><figcaption><b>");
    html_str(r->out, s->prompt);
    buf_str(r->out, "</b> ");
    html_str(r->out, s->line);
    if (top) {
        buf_str(r->out, " largest ");
        html_number(r->out, top->value, 4);
        buf_str(r->out, " at ");
        html_str(r->out, x_name);
        buf_printf(r->out, " %g, ", top->x);
        html_str(r->out, y_name);
        buf_printf(r->out, " %g", top->y);
    }
    buf_str(r->out, "</figcaption>");
    rc = row_names(r, s->prompt, y_name, y, h, names, e);
    m.names = (const char *const *)names;
    if (!rc) rc = map_draw(r, &m, NULL, e);
    buf_str(r->out, "</figure>\n");
    for (int i = 0; i < h; i++) free(names[i]);
    free(names);
    free(v);
    free(x);
    free(y);
    return rc;
}

static int draw_maps(struct report *r, const struct points *l, const char *x, const char *y, err *e)
{
    double limit = 0;
    bool signs = false;
    int rc = 0;
    for (int i = 0; i < l->n; i++)
        for (int k = 0; k < l->s[i].n; k++) {
            double v = l->s[i].p[k].value;
            if (!isfinite(v)) continue;
            if (v < 0) signs = true;
            limit = fmax(limit, fabs(v));
        }
    html_scale(r->out, signs, false, limit);
    buf_str(r->out, "<div class=pair>");
    for (int i = 0; !rc && i < l->n && i < PANELS_MAX; i++)
        if (l->s[i].n <= SIDE_MAX * 16) rc = draw_map(r, &l->s[i], x, y, limit, signs, e);
    buf_str(r->out, "</div>\n");
    if (l->n > PANELS_MAX) buf_printf(r->out, "<p class=dim>%d more maps are left out.</p>\n", l->n - PANELS_MAX);
    return rc;
}

/* ---- one metric of one condition ---- */

static int draw_metric(struct report *r, const struct sweep *s, const char *metric, int x, int y, err *e)
{
    const char *x_name = s->axes[x].name, *y_name = y >= 0 ? s->axes[y].name : NULL;
    char *sql = points_sql(r, s, metric, x_name, y_name);
    struct points l = {0};
    int rc = load_points(r, sql, &l, e), end;
    if (!rc && l.n) {
        buf_str(r->out, "<h4>");
        html_str(r->out, metric);
        buf_str(r->out, "</h4>\n");
        if (y_name) rc = draw_maps(r, &l, x_name, y_name, e);
        if (!y_name) buf_str(r->out, "<div class=pair>");
        for (int i = 0; !y_name && i < l.n; i = end) {
            for (end = i + 1; end < l.n && !strcmp(l.s[end].prompt, l.s[i].prompt);) end++;
            draw_lines(r->out, &l.s[i], end - i, x_name);
        }
        if (!y_name) buf_str(r->out, "</div>");
        html_sql(r->out, sql);
    }
    points_free(&l);
    free(sql);
    return rc;
}

static int draw_sweep(struct report *r, const struct sweep *s, err *e)
{
    sqlite3_stmt *row = NULL;
    int x, y, got;
    choose_axes(s, &x, &y);
    if (x < 0) return 0;
    buf_str(r->out, "<article><h3>");
    html_str(r->out, s->condition);
    buf_str(r->out, "</h3>\n");
    got = db_query(r->db, &row, e,
                   "SELECT metric FROM v_metric WHERE experiment=? AND condition=? GROUP BY metric ORDER BY metric", "ss",
                   r->experiment, s->condition);
    for (; got == 1; got = db_next(r->db, row, e)) {
        const char *metric = (const char *)sqlite3_column_text(row, 0);
        if (metric && draw_metric(r, s, metric, x, y, e)) {
            got = -1;
            break;
        }
    }
    sqlite3_finalize(row);
    buf_str(r->out, "</article>\n");
    return got;
}

int report_sweeps(struct report *r, err *e)
{
    sqlite3_stmt *row = NULL;
    int n = 0, rc = 0;
    int got = db_query(r->db, &row, e,
                       "SELECT l.condition FROM v_latest l JOIN factor f ON f.spec_job_id=l.spec_job_id WHERE l.experiment=?"
                       " AND f.num IS NOT NULL GROUP BY l.condition HAVING count(DISTINCT f.num)>2 ORDER BY min(l.spec_job_id)",
                       "s", r->experiment);
    for (; got == 1 && !rc; got = rc ? -1 : db_next(r->db, row, e)) {
        const char *condition = (const char *)sqlite3_column_text(row, 0);
        struct sweep s = {.condition = mem_strdup(condition ? condition : "")};
        if (n++ == 0) buf_str(r->out, "<section id=sweeps><h2>Along the axes</h2>\n");
        rc = load_axes(r, &s, e) || draw_sweep(r, &s, e) ? -1 : 0;
        sweep_clear(&s);
    }
    sqlite3_finalize(row);
    if (n) buf_str(r->out, "</section>\n");
    return got < 0 || rc ? -1 : 0;
}
