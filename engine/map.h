/* map.h: whole files as read-only memory.
 *
 * The bytes live until map_release. Pages are read when they are touched; a file that another process cuts short
 * meanwhile ends this process with SIGBUS, so model files are replaced by renaming, never rewritten in place.
 *
 *     const void *bytes; size_t n;
 *     if (map_file(&bytes, &n, path, e)) return -1;
 *     map_release(bytes, n);
 */
#ifndef ENGINE_MAP_H
#define ENGINE_MAP_H

#include "base.h"

/* Regular files that are not empty. Fails with ERR_ENV; the message does not repeat the path. */
int map_file(const void **bytes, size_t *n, const char *path, err *e);
void map_release(const void *bytes, size_t n); /* NULL is fine */

#endif
