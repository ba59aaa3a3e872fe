/* distance.h: edit distance of Levenshtein: the least number of insertions, deletions and replacements that turn one sequence
 * into the other. Time grows with the shorter length times the distance (Ukkonen 1985), memory with the length.
 *
 *     int d = distance_of(a, n, b, m);        // of characters: distance_points makes them
 */
#ifndef RUNNER_DISTANCE_H
#define RUNNER_DISTANCE_H

#include <stddef.h>
#include <stdint.h>

int64_t distance_of(const int32_t *a, size_t n, const int32_t *b, size_t m);
/* The characters (code points) of a text; a byte that is no part of one is its negative value. Caller frees. */
int32_t *distance_points(const char *text, size_t n, size_t *count);

#endif
