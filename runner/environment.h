/* environment.h: the machine and the build, as the database records them beside every result.
 *
 * environment_get fills pointers into static storage; call it once, from one thread.
 */
#ifndef RUNNER_ENVIRONMENT_H
#define RUNNER_ENVIRONMENT_H

#include "store.h"

const struct environment *environment_get(const engine *en);
void environment_cpu(char *out, size_t n); /* the processor's name */
const char *environment_build(void);       /* "0.1.0 (abcdef0)" */
/* "kvrun 0.1.0 (commit abcdef0, gcc 12.2.0) ..." or the same as one JSON object; for kvrun --version. */
void environment_version(bool json, struct buf *out);

#endif
