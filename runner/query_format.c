/* query_format.c: rows as a table, JSON, CSV or Markdown. */
#include "query_in.h"

#include "width.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- text ---- */

void query_printable(struct buf *out, const char *text, size_t n)
{
    size_t i = 0;
    buf_add(out, "", 0);
    while (i < n) {
        int len = utf8_len(text + i, n - i);
        utf8proc_int32_t c = 0xfffd;
        if (len) utf8proc_iterate((const utf8proc_uint8_t *)text + i, len, &c);
        if (c == '\n')
            buf_str(out, "\\n");
        else if (c == '\t')
            buf_str(out, "\\t");
        else if (c == '\r')
            buf_str(out, "\\r");
        else if (c < 0x20 || c == 0x7f)
            buf_printf(out, "\\x%02x", (unsigned)c);
        else if (c < 0xa0 && c >= 0x80)
            buf_printf(out, "\\u%04x", (unsigned)c);
        /* Marks of writing direction would show the rest of the line in another order. */
        else if ((c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))
            buf_printf(out, "\\u%04x", (unsigned)c);
        else if (!len)
            buf_str(out, "\xef\xbf\xbd");
        else
            buf_add(out, text + i, (size_t)len);
        i += len ? (size_t)len : 1;
    }
}

static void add_hex(struct buf *out, const void *p, int n)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = p;
    int i;
    for (i = 0; i < n; i++) {
        buf_char(out, digits[b[i] >> 4]);
        buf_char(out, digits[b[i] & 15]);
    }
}

/* The shortest decimal that reads back as the same double; always looks like a number with a fraction. */
static void add_double(struct buf *out, double x)
{
    char s[40];
    int digits;
    for (digits = 15; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x) break;
    }
    buf_str(out, s);
    if (isfinite(x) && !strpbrk(s, ".e")) buf_str(out, ".0");
}

/* ---- JSON ---- */

static void add_json_string(struct buf *out, const char *s, size_t n)
{
    size_t i = 0;
    buf_char(out, '"');
    while (i < n) {
        int len = utf8_len(s + i, n - i);
        unsigned char c = (unsigned char)s[i];
        if (len == 0)
            buf_str(out, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c == '\n')
            buf_str(out, "\\n");
        else if (c == '\r')
            buf_str(out, "\\r");
        else if (c == '\t')
            buf_str(out, "\\t");
        else if (c < 0x20)
            buf_printf(out, "\\u%04x", c);
        else
            buf_add(out, s + i, (size_t)len);
        i += len ? (size_t)len : 1;
    }
    buf_char(out, '"');
}

static void add_json_value(struct buf *out, sqlite3_stmt *stmt, int col)
{
    switch (sqlite3_column_type(stmt, col)) {
    case SQLITE_INTEGER: buf_printf(out, "%lld", (long long)sqlite3_column_int64(stmt, col)); break;
    case SQLITE_FLOAT: /* JSON has no infinities */
        if (isfinite(sqlite3_column_double(stmt, col)))
            add_double(out, sqlite3_column_double(stmt, col));
        else
            buf_str(out, "null");
        break;
    case SQLITE_BLOB:
        buf_char(out, '"');
        add_hex(out, sqlite3_column_blob(stmt, col), sqlite3_column_bytes(stmt, col));
        buf_char(out, '"');
        break;
    case SQLITE_TEXT: {
        const char *s = (const char *)sqlite3_column_text(stmt, col);
        add_json_string(out, s ? s : "", s ? (size_t)sqlite3_column_bytes(stmt, col) : 0);
        break;
    }
    default: buf_str(out, "null");
    }
}

static int write_json(sqlite3_stmt *stmt, bool lines, FILE *out)
{
    struct buf row = {0};
    int i, rc, n = sqlite3_column_count(stmt);
    long count = 0;
    if (!lines) fputs("[", out);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        row.n = 0;
        if (!lines) buf_str(&row, count ? ",\n " : "\n ");
        for (i = 0; i < n; i++) {
            const char *name = sqlite3_column_name(stmt, i);
            buf_str(&row, i ? ", " : "{");
            add_json_string(&row, name, strlen(name));
            buf_str(&row, ": ");
            add_json_value(&row, stmt, i);
        }
        buf_str(&row, lines ? "}\n" : "}");
        fwrite(row.p, 1, row.n, out);
        count++;
    }
    if (!lines) fputs(count ? "\n]\n" : "]\n", out);
    buf_free(&row);
    return rc;
}

/* ---- CSV ---- */

/* RFC 4180. An empty text is "" and NULL is nothing, so that both can be told apart. */
static void add_csv_text(struct buf *out, const char *s, size_t n)
{
    size_t i;
    bool plain = n > 0;
    for (i = 0; plain && i < n; i++) plain = !strchr(",\"\r\n", s[i]) || s[i] == 0;
    if (plain) {
        buf_add(out, s, n);
        return;
    }
    buf_char(out, '"');
    for (i = 0; i < n; i++) {
        if (s[i] == '"') buf_char(out, '"');
        buf_char(out, s[i]);
    }
    buf_char(out, '"');
}

static void add_csv_value(struct buf *out, sqlite3_stmt *stmt, int col)
{
    const char *s;
    switch (sqlite3_column_type(stmt, col)) {
    case SQLITE_INTEGER: buf_printf(out, "%lld", (long long)sqlite3_column_int64(stmt, col)); break;
    case SQLITE_FLOAT: add_double(out, sqlite3_column_double(stmt, col)); break;
    case SQLITE_BLOB: add_hex(out, sqlite3_column_blob(stmt, col), sqlite3_column_bytes(stmt, col)); break;
    case SQLITE_TEXT:
        s = (const char *)sqlite3_column_text(stmt, col);
        add_csv_text(out, s ? s : "", s ? (size_t)sqlite3_column_bytes(stmt, col) : 0);
        break;
    default: break;
    }
}

static int write_csv(sqlite3_stmt *stmt, FILE *out)
{
    struct buf row = {0};
    int i, rc, n = sqlite3_column_count(stmt);
    for (i = 0; i < n; i++) {
        if (i) buf_char(&row, ',');
        add_csv_text(&row, sqlite3_column_name(stmt, i), strlen(sqlite3_column_name(stmt, i)));
    }
    do {
        buf_str(&row, "\r\n");
        fwrite(row.p, 1, row.n, out);
        row.n = 0;
        rc = sqlite3_step(stmt);
        for (i = 0; rc == SQLITE_ROW && i < n; i++) {
            if (i) buf_char(&row, ',');
            add_csv_value(&row, stmt, i);
        }
    } while (rc == SQLITE_ROW);
    buf_free(&row);
    return rc;
}

/* ---- for people ---- */

/* Numbers to seven digits: more than anybody compares by eye. */
static void add_cell(struct buf *out, sqlite3_stmt *stmt, int col)
{
    const char *s;
    double x;
    switch (sqlite3_column_type(stmt, col)) {
    case SQLITE_INTEGER: buf_printf(out, "%lld", (long long)sqlite3_column_int64(stmt, col)); break;
    case SQLITE_FLOAT:
        x = sqlite3_column_double(stmt, col);
        buf_printf(out, fabs(x) < 1e15 && x == floor(x) ? "%.1f" : "%.7g", x);
        break;
    case SQLITE_BLOB: add_hex(out, sqlite3_column_blob(stmt, col), sqlite3_column_bytes(stmt, col)); break;
    case SQLITE_TEXT:
        s = (const char *)sqlite3_column_text(stmt, col);
        query_printable(out, s ? s : "", s ? (size_t)sqlite3_column_bytes(stmt, col) : 0);
        break;
    default: buf_add(out, "", 0);
    }
}

static void md_cell(FILE *out, const char *s, size_t n)
{
    size_t i;
    fputs("| ", out);
    for (i = 0; i < n; i++) {
        if (s[i] == '|' || s[i] == '\\') fputc('\\', out);
        fputc(s[i], out);
    }
    fputc(' ', out);
}

static int write_md(sqlite3_stmt *stmt, FILE *out)
{
    struct buf cell = {0};
    int i, rc, n = sqlite3_column_count(stmt);
    for (i = 0; i < n; i++) {
        const char *name = sqlite3_column_name(stmt, i);
        cell.n = 0;
        query_printable(&cell, name, strlen(name));
        md_cell(out, cell.p, cell.n);
    }
    fputs("|\n", out);
    for (i = 0; i < n; i++) fputs("| --- ", out);
    fputs("|\n", out);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        for (i = 0; i < n; i++) {
            cell.n = 0;
            add_cell(&cell, stmt, i);
            md_cell(out, cell.p, cell.n);
        }
        fputs("|\n", out);
    }
    buf_free(&cell);
    return rc;
}

enum {
    LOOK_AHEAD = 1000, /* rows that decide the widths of the columns; later ones stream by */
    LEAST = 4,         /* a column is not cut below this */
    GAP = 2,
};

struct table {
    int n;           /* columns */
    int *width;      /* (n) */
    bool *number;    /* (n) every value is a number or NULL: aligned to the right */
    struct buf *row; /* (LOOK_AHEAD + 1, n): header and rows */
    int rows;
};

static void table_measure(struct table *t, int limit)
{
    int i, r, sum, widest;
    for (i = 0; i < t->n; i++)
        for (r = 0; r < t->rows; r++) {
            const struct buf *c = &t->row[r * t->n + i];
            int w = width_text(c->p, c->n);
            if (w > t->width[i]) t->width[i] = w;
        }
    for (;;) { /* the widest column gives way until the line fits */
        sum = GAP * (t->n - 1);
        widest = 0;
        for (i = 0; i < t->n; i++) {
            sum += t->width[i];
            if (t->width[i] >= t->width[widest]) widest = i;
        }
        if (limit <= 0 || sum <= limit || t->width[widest] <= LEAST) return;
        t->width[widest] -= sum - limit > t->width[widest] / 2 ? (t->width[widest] + 7) / 8 : 1;
        if (t->width[widest] < LEAST) t->width[widest] = LEAST;
    }
}

static void table_line(const struct table *t, const struct buf *cells, int limit, FILE *out)
{
    int i, k;
    for (i = 0; i < t->n; i++) {
        size_t n = cells[i].n;
        int w = width_text(cells[i].p, n), pad;
        bool cut = limit > 0 && w > t->width[i];
        if (cut) {
            n = width_fit(cells[i].p, n, t->width[i] - 1);
            w = width_text(cells[i].p, n) + 1;
        }
        pad = w < t->width[i] ? t->width[i] - w : 0;
        if (i) fprintf(out, "%*s", GAP, "");
        if (t->number[i] && n) fprintf(out, "%*s", pad, "");
        fwrite(cells[i].p, 1, n, out);
        if (cut) fputs("\xe2\x80\xa6", out);
        for (k = 0; (!t->number[i] || !n) && i + 1 < t->n && k < pad; k++) fputc(' ', out);
    }
    fputc('\n', out);
}

static void table_read(struct table *t, sqlite3_stmt *stmt, struct buf *cells)
{
    int i, type;
    for (i = 0; i < t->n; i++) {
        type = sqlite3_column_type(stmt, i);
        if (type == SQLITE_TEXT || type == SQLITE_BLOB) t->number[i] = false;
        cells[i].n = 0;
        add_cell(&cells[i], stmt, i);
    }
}

static int write_table(sqlite3_stmt *stmt, int limit, FILE *out)
{
    struct table t = {.n = sqlite3_column_count(stmt), .rows = 1};
    int i, k, rc;
    t.width = mem_array((size_t)t.n, sizeof *t.width);
    t.number = mem_array((size_t)t.n, sizeof *t.number);
    t.row = mem_array((size_t)t.n * (LOOK_AHEAD + 1), sizeof *t.row);
    for (i = 0; i < t.n; i++) {
        query_printable(&t.row[i], sqlite3_column_name(stmt, i), strlen(sqlite3_column_name(stmt, i)));
        t.number[i] = true;
    }
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        table_read(&t, stmt, &t.row[t.rows * t.n]);
        if (++t.rows > LOOK_AHEAD) break;
    }
    table_measure(&t, limit);
    table_line(&t, t.row, limit, out);
    for (i = 0; i < t.n; i++) {
        if (i) fprintf(out, "%*s", GAP, "");
        for (k = 0; k < t.width[i]; k++) fputc('-', out);
    }
    fputc('\n', out);
    for (i = 1; i < t.rows; i++) table_line(&t, &t.row[i * t.n], limit, out);
    while (rc == SQLITE_ROW && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        table_read(&t, stmt, t.row);
        table_line(&t, t.row, limit, out);
    }
    for (i = 0; i < t.n * (LOOK_AHEAD + 1); i++) buf_free(&t.row[i]);
    free(t.row);
    free(t.width);
    free(t.number);
    return rc;
}

int query_write(sqlite3_stmt *stmt, enum query_format format, int width, FILE *out)
{
    switch (format) {
    case QUERY_JSON: return write_json(stmt, false, out);
    case QUERY_JSONL: return write_json(stmt, true, out);
    case QUERY_CSV: return write_csv(stmt, out);
    case QUERY_MD: return write_md(stmt, out);
    default: return write_table(stmt, width, out);
    }
}
