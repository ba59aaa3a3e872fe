/* width.h: how many columns of a terminal a text takes, by utf8proc: 2 for CJK, 0 for combining marks.
 *
 *     int pad = 20 - width_text(s, n);
 *     size_t fits = width_fit(s, n, 20);   // bytes of s that take at most 20 columns
 */
#ifndef RUNNER_WIDTH_H
#define RUNNER_WIDTH_H

#include <stddef.h>

/* Columns of s; a byte that is no UTF-8 counts as one. */
int width_text(const char *s, size_t n);
/* Length of the longest prefix that takes at most max columns; marks that combine with its last character stay with it. */
size_t width_fit(const char *s, size_t n, int max);

/* Columns of the terminal that standard output is; `otherwise` when it is none. */
int width_terminal(int otherwise);

#endif
