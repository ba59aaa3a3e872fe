/* diag.h: what is wrong with a spec, where, and what would be right; up to 20 errors in one pass.
 *
 * Owns copies of all texts. Printed by the caller (diag_text), never from here.
 *
 *     struct diag *d = diag_new("exp.yaml", bytes, n);
 *     diag_add(d, DIAG_ERROR, "E211", at, width, "max_tokens: '%s' is not a whole number", s);
 *     diag_help(d, "write digits only, e.g. 100");     // lines under the last one
 *     if (diag_errors(d)) { diag_text(d, &out); return -1; }
 *     diag_free(d);
 *
 * A printed diagnostic:
 *     exp.yaml:34:9: error E201: unknown key 'layer' in an operation; did you mean 'layers'?
 *        34 |         layer: all
 *           |         ^~~~~
 *       allowed here: op tensor layers heads at from align rope when
 */
#ifndef RUNNER_DIAG_H
#define RUNNER_DIAG_H

#include "../engine/base.h"

/* A place in the spec: line and column count from 1, columns in characters (code points). line 0: no place; line -1, -2, ..:
   in the first, second, .. argument of the command line, see diag_argument. */
struct mark {
    int line, col;
};

enum diag_level { DIAG_WARNING, DIAG_ERROR };
enum { DIAG_MAX = 20 }; /* errors kept; the rest is only counted */

struct diag;

struct diag *diag_new(const char *path, const char *text, size_t n); /* text is copied; the lines shown come from it */
void diag_free(struct diag *d);                                      /* NULL is fine */
/* width: characters under the ^~~~; at least 1 is drawn. A second error at the same place with the same code is dropped. */
void diag_add(struct diag *d, enum diag_level level, const char *code, struct mark at, int width, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* A line under the last diagnostic, indented by two: "allowed here: ...", "help: ...", rows of a table. */
void diag_help(struct diag *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Another text that diagnostics may be about, e.g. of -s; `shown` stands where file:line:col stands elsewhere. Returns the line
   of its marks: -1, -2, .. */
int diag_argument(struct diag *d, const char *shown, const char *text);
/* The mark of a place in what stands in the argument from byte `from` on, a text of lines. */
struct mark diag_inside(const struct diag *d, int argument, size_t from, struct mark at);
/* Until the next call all marks given to diag_add are such places; 0: no more. */
void diag_enter(struct diag *d, int argument, size_t from);
/* "exp.yaml:34:9" or "-s conditions.0.name" */
void diag_where(const struct diag *d, struct mark at, struct buf *out);
int diag_errors(const struct diag *d); /* counted, kept or not */
int diag_warnings(const struct diag *d);
/* All diagnostics in order of place (those without a place last), then "4 errors; no job was run." when there are errors. */
void diag_text(const struct diag *d, struct buf *out);

#endif
