/* report_html.c: the page's small pieces: text, numbers, pictures, and the style and script that all of them share. */
#include "report_in.h"

#include "png.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void html_text(struct buf *b, const char *s, size_t n)
{
    while (n > 0) {
        int len = utf8_len(s, n);
        unsigned char c = (unsigned char)*s;
        if (len == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            buf_str(b, "\xef\xbf\xbd");
        else if (c == '&')
            buf_str(b, "&amp;");
        else if (c == '<')
            buf_str(b, "&lt;");
        else if (c == '>')
            buf_str(b, "&gt;");
        else if (c == '"')
            buf_str(b, "&quot;");
        else if (c == '\'')
            buf_str(b, "&#39;");
        else
            buf_add(b, s, (size_t)len);
        s += len ? len : 1;
        n -= (size_t)(len ? len : 1);
    }
}

void html_str(struct buf *b, const char *s)
{
    if (s) html_text(b, s, strlen(s));
}

void html_column(struct buf *b, sqlite3_stmt *row, int column)
{
    const char *s = (const char *)sqlite3_column_text(row, column);
    if (s) html_text(b, s, (size_t)sqlite3_column_bytes(row, column));
}

void html_number(struct buf *b, double v, int digits)
{
    if (isfinite(v))
        buf_printf(b, "<data value=\"%.17g\">%.*g</data>", v, digits, v);
    else
        buf_str(b, "–");
}

void html_column_number(struct buf *b, sqlite3_stmt *row, int column, int digits)
{
    html_number(b, sqlite3_column_type(row, column) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(row, column), digits);
}

static void base64(struct buf *b, const unsigned char *s, size_t n)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)s[i] << 16 | (i + 1 < n ? (unsigned)s[i + 1] << 8 : 0) | (i + 2 < n ? s[i + 2] : 0);
        buf_char(b, letters[v >> 18]);
        buf_char(b, letters[v >> 12 & 63]);
        buf_char(b, i + 1 < n ? letters[v >> 6 & 63] : '=');
        buf_char(b, i + 2 < n ? letters[v & 63] : '=');
    }
}

int html_png(struct buf *b, const uint8_t *rgb, int w, int h, err *e)
{
    struct buf png = {0};
    int rc = png_encode(rgb, (size_t)w * (size_t)h * 3, (size_t)w, (size_t)h, &png, e);
    if (!rc) {
        buf_str(b, "data:image/png;base64,");
        base64(b, (const unsigned char *)png.p, png.n);
    }
    buf_free(&png);
    return rc;
}

void html_scale(struct buf *b, bool diverging, bool root, double limit)
{
    enum { STOPS = 9 };
    buf_str(b, "<p class=scale>");
    if (diverging) buf_printf(b, "<data value=\"%.17g\">−%.4g</data> ", -limit, limit);
    buf_str(b, "<span class=bar style=\"background:linear-gradient(90deg");
    for (int i = 0; i < STOPS; i++) {
        double at = (double)i / (STOPS - 1);
        struct colour c = diverging ? colour_diverging(2 * at - 1, 1) : colour_sequential(at, 1);
        buf_printf(b, ",#%02x%02x%02x", c.r, c.g, c.b);
    }
    buf_str(b, ")\"></span> ");
    html_number(b, limit, 4);
    if (root) buf_printf(b, " <span class=dim>colours by the square root: half the colour is %.3g</span>", limit / 4);
    buf_str(b, "</p>\n");
}

void html_sql(struct buf *b, const char *sql)
{
    buf_str(b, "<details class=sql><summary>the SQL behind it</summary><pre>");
    html_str(b, sql);
    buf_str(b, "</pre></details>\n");
}

char *html_quoted(const char *s)
{
    struct buf b = {0};
    buf_char(&b, '\'');
    for (; *s; s++) {
        if (*s == '\'') buf_char(&b, '\'');
        buf_char(&b, *s);
    }
    buf_char(&b, '\'');
    return buf_take(&b);
}

int report_ask(struct report *r, sqlite3_stmt **rows, const char *sql, err *e)
{
    return db_query(r->db, rows, e, sql, "");
}

/* ---- the page around the parts ---- */

static const char style[] =
    ":root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#57606a;--line:#d0d7de;--box:#f6f8fa;--word:#fff3b0;"
    "--diff:#c2410c;--good:#116329;--bad:#a40e26;--l0:#0550ae;--l1:#bc4c00;--l2:#116329;--l3:#8250df;--l4:#a40e26;--l5:#57606a}"
    "\n"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--dim:#9198a1;--line:#3d444d;--box:#161b22;"
    "--word:#5c4b00;--diff:#ffa657;--good:#3fb950;--bad:#ff7b72;--l0:#79c0ff;--l1:#ffa657;--l2:#56d364;--l3:#d2a8ff;"
    "--l4:#ff7b72;--l5:#9198a1}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:76rem;padding:1rem;color:var(--fg);background:var(--bg);"
    "font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\n"
    "h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}"
    "h3{font-size:1rem;margin:1.2rem 0 .4rem}\n"
    "a{color:var(--l0)}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}\n"
    "pre{background:var(--box);border:1px solid var(--line);padding:.6rem;overflow:auto;font-size:.8rem;overflow-wrap:normal}\n"
    ".wide{overflow-x:auto;max-width:100%}table{border-collapse:collapse;font-size:.85rem}"
    "th,td{border:1px solid var(--line);padding:.3rem .5rem;vertical-align:top;text-align:left}td.n{text-align:right}"
    "th{background:var(--box);overflow-wrap:normal;white-space:nowrap}td.answer{min-width:15rem}td.answer>div{max-height:9rem;"
    "overflow:auto;white-space:pre-wrap}\n"
    "mark{background:var(--word);color:inherit}b.diff{color:var(--diff);text-decoration:underline 2px}\n"
    "details.sql summary{cursor:pointer;color:var(--dim);font-size:.85rem}details.sql{margin:.3rem 0}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .8rem;font-size:.9rem}dt{color:var(--dim)}dd{margin:0}\n"
    ".scale{font-size:.8rem;margin:.2rem 0}.bar{display:inline-block;width:12rem;max-width:50vw;height:.8rem;"
    "border:1px solid var(--line);vertical-align:middle}\n"
    ".map{display:grid;grid-template-columns:max-content minmax(12rem,1fr);font:11px/14px ui-monospace,monospace}"
    ".map ol{margin:0;padding:0 .4rem 0 0;list-style:none;text-align:right;white-space:pre;position:sticky;left:0;"
    "background:var(--bg);max-width:11rem;overflow:hidden}.map li{height:14px;overflow:hidden}\n"
    ".map img{width:100%;image-rendering:pixelated;display:block;border:1px solid var(--line)}"
    ".map .x{grid-column:2;display:flex;justify-content:space-between;color:var(--dim)}\n"
    ".pair{display:grid;grid-template-columns:1fr;gap:1rem}@media(min-width:60rem){.pair{grid-template-columns:1fr 1fr}}\n"
    "figure{margin:0 0 1rem;min-width:0}figcaption{font-size:.85rem}.slide{display:flex;gap:.6rem;align-items:center}"
    ".slide input{flex:1;max-width:30rem}svg{max-width:100%;height:auto}svg text{fill:var(--dim);font:11px system-ui}"
    "svg .axis{stroke:var(--line)}:focus-visible{outline:2px solid var(--l0);outline-offset:2px}\n";

/* The one thing that moves: a slider that puts the layer's pictures in place. */
static const char script[] = "document.querySelectorAll('.layers').forEach(function(box){"
                             "var data=JSON.parse(box.querySelector('script').textContent),input=box.querySelector('input'),"
                             "out=box.querySelector('output'),imgs=box.querySelectorAll('img');"
                             "function show(){var i=+input.value;out.textContent='layer '+data.layers[i];"
                             "imgs.forEach(function(m,t){m.src=data.png[i][t]})}"
                             "input.addEventListener('input',show);show()});";

void html_begin(struct buf *b, const char *title)
{
    buf_str(b,
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
            "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n"
            "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline'\">\n<title>");
    html_str(b, title);
    buf_printf(b, "</title>\n<link rel=icon href=\"data:,\">\n<style>\n%s</style></head>\n<body>\n", style);
}

void html_end(struct buf *b)
{
    buf_printf(b, "<script>%s</script>\n</body></html>\n", script);
}
