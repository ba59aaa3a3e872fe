/* regex.h: PCRE2 with UTF and Unicode classes over the text of a prompt, within a fixed amount of work.
 *
 * The work is counted in steps of the matcher, not in time: a pattern that is refused here is refused everywhere.
 *
 *     struct regex_hit *h; int n; char why[REGEX_WHY]; size_t work = regex_work(len);
 *     if (regex_find("S[FN]", text, len, &work, &h, &n, why)) tell(why); else use(h, n), free(h);
 */
#ifndef RUNNER_REGEX_H
#define RUNNER_REGEX_H

#include <stddef.h>

enum { REGEX_WHY = 256 };

struct regex_hit {
    int start, end; /* bytes, half open, never empty */
};

/* -1: the pattern cannot be used; why tells. */
int regex_check(const char *pattern, char why[REGEX_WHY]);
/* Steps that a search over n bytes may take. */
size_t regex_work(size_t n);
/* The matches from left to right that do not overlap. What the search takes is taken off *work. -1: why tells, nothing to
   free. */
int regex_find(const char *pattern, const char *text, size_t n, size_t *work, struct regex_hit **hits, int *n_hits,
               char why[REGEX_WHY]);

#endif
