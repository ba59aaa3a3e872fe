/* map.h: byte strings to numbers, for finding doubles among a hundred thousand jobs.
 *
 * Owns copies of its keys. Keys of several numbers are put together in a buf.
 *
 *     struct map *m = map_new();
 *     int first = map_put(m, label, strlen(label), i);   // -1: new; else the number it was put with
 *     map_free(m);
 */
#ifndef RUNNER_MAP_H
#define RUNNER_MAP_H

#include "../engine/base.h"

struct map;

struct map *map_new(void);
void map_free(struct map *m); /* NULL is fine */
/* Puts key (n bytes) with value >= 0 unless the key is there. -1 when it was new, else the value it has. */
int map_put(struct map *m, const void *key, size_t n, int value);
int map_get(struct map *m, const void *key, size_t n); /* -1: it is not there */

/* Appends a number to a key; a list with its length before it, so that lists one after the other are told apart. */
void map_key_int(struct buf *key, int v);
void map_key_ints(struct buf *key, const int *v, int n);

#endif
