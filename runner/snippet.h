/* snippet.h: pieces of a prompt as one line that a person reads: in errors, in plan, in the table of tokens.
 *
 * All strings live in the arena given. Control characters and bytes that are no UTF-8 are shown as \n, \t, \xNN.
 *
 *     snippet_span(mem, p, 7, 9)   ->   "… flying| to|[ New]|[ York]| city| and| I| …"
 */
#ifndef RUNNER_SNIPPET_H
#define RUNNER_SNIPPET_H

#include "bind.h"

/* At most max characters of s, then "…"; max 0: all. */
const char *snippet_text(arena *mem, const char *s, size_t n, int max);
/* Token i as text; "#id" in a prompt that was given as ids. */
const char *snippet_token(arena *mem, const struct bound_prompt *p, int i);
/* The tokens at the rising positions at (n), n > 0, in brackets among their neighbours; the middle of a long stretch is left
 * out. */
const char *snippet_at(arena *mem, const struct bound_prompt *p, const int *at, int n);
/* The same for tokens first..end-1. */
const char *snippet_span(arena *mem, const struct bound_prompt *p, int first, int end);
/* Rising positions as "7", "7..8", "0, 3..9". */
const char *snippet_positions(arena *mem, const int *at, int n);

#endif
