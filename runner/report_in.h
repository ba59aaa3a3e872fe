/* report_in.h: what report*.c share: the page being written, and asking the database so that the page can say how. */
#ifndef RUNNER_REPORT_IN_H
#define RUNNER_REPORT_IN_H

#include "colour.h"
#include "query_in.h"

struct report {
    sqlite3 *db;
    int64_t spec_id;
    char *experiment;     /* its name */
    char *quoted;         /* the same as an SQL string */
    struct buf *out;      /* the page */
    int pictures;         /* made so far, for ids */
    size_t picture_bytes; /* PNG bytes so far: a page of many sweeps must still open */
};

enum { REPORT_PICTURE_BYTES = 48 << 20 };

/* ---- report_html.c ---- */

/* Escaped; what is not UTF-8 and control characters but for line breaks become U+FFFD. */
void html_text(struct buf *b, const char *s, size_t n);
void html_str(struct buf *b, const char *s); /* NULL is fine */
/* The column of a row as text. */
void html_column(struct buf *b, sqlite3_stmt *row, int column);
/* A number as a <data> element: all its digits as the value, `digits` significant ones to read. NULL in the database: a dash.
 */
void html_number(struct buf *b, double v, int digits);
void html_column_number(struct buf *b, sqlite3_stmt *row, int column, int digits);
/* rgb (h, w, 3) as the text of a data: URI. */
int html_png(struct buf *b, const uint8_t *rgb, int w, int h, err *e);
/* The colours from -limit (diverging) or 0 to limit as a bar, with the limit and what is half way written out. */
void html_scale(struct buf *b, bool diverging, bool root, double limit);
/* <details> with the SQL that gave the numbers of this part. */
void html_sql(struct buf *b, const char *sql);
/* Style and script, and the end of the page. */
void html_begin(struct buf *b, const char *title);
void html_end(struct buf *b);
/* s as an SQL string: caller frees. */
char *html_quoted(const char *s);

/* Steps through the rows of a query without parameters: 1, 0, -1 as db_query. */
int report_ask(struct report *r, sqlite3_stmt **rows, const char *sql, err *e);

/* ---- report_map.c: heat maps, one pixel per number ---- */

struct map {
    int w, h;
    const float *v; /* (h, w) rows from the top; NaN: nothing there, drawn grey */
    double limit;   /* of the colours */
    bool diverging;
    bool root;                /* colours by the square root, so that small numbers show beside large ones */
    const char *const *names; /* (h) what stands before the rows; NULL: none */
    const char *left, *right; /* under the picture's ends */
    const char *alt;          /* what it shows, in words */
};
/* The picture as a data: URI. */
int map_png(struct report *r, const struct map *m, struct buf *b, err *e);
/* Names, picture and what stands under it; src: a URI made before, or NULL. */
int map_draw(struct report *r, const struct map *m, const char *src, err *e);
/* The largest absolute value; 0 when there is none. */
double map_largest(const float *v, size_t n, bool *negative);

/* ---- the parts: 0, or -1 with e ---- */

int report_facts(struct report *r, err *e);    /* report_facts.c: where it comes from, storage and speed, spec */
int report_controls(struct report *r, err *e); /* report_facts.c */
int report_sources(struct report *r, err *e);  /* report_facts.c */
int report_outcome(struct report *r, err *e);  /* report_outcome.c: what the model said */
int report_sweeps(struct report *r, err *e);   /* report_sweep.c: lines and maps over axes */
int report_caches(struct report *r, err *e);   /* report_cache.c: differences of caches */

#endif
