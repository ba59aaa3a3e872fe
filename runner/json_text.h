/* json_text.h: JSON written into a buf, several times as fast as json_dumps, byte for byte the same as
 * json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS): keys of jobs are hashes of it.
 *
 *     json_text(v, &out);                       // a whole tree
 *     json_text_string(&out, name, strlen(name));
 */
#ifndef RUNNER_JSON_TEXT_H
#define RUNNER_JSON_TEXT_H

#include "../engine/base.h"

#include <jansson.h>

void json_text(const json_t *v, struct buf *out);
void json_text_string(struct buf *out, const char *s, size_t n); /* quoted and escaped; s must be UTF-8 */
void json_text_int(struct buf *out, int64_t v);

#endif
