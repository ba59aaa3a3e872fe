/* info.h: what a file says about itself beyond what its arithmetic needs: weights by type, rotary scaling, and the sizes
 * that the metadata of a file without tensors still tell.
 *
 * A struct info_own lies inside the engine; engine_info points into it.
 */
#ifndef ENGINE_INFO_H
#define ENGINE_INFO_H

#include "engine.h"
#include "gguf.h"

enum { INFO_TYPES = 64 }; /* more than there are types of tensors */

struct info_own {
    char arch[32], name[128], rope_scaling[64];
    struct engine_weights weights[INFO_TYPES];
};

/* Fills weights, n_weights and rope_scaling of *i. */
void info_weights(struct engine_info *i, struct info_own *own, const gguf *g);
/* For a file opened for its vocabulary alone: architecture, name and sizes as the metadata give them. What they do not give,
   or give beyond reason, stays as it is in *i. Nothing is computed with these numbers. */
void info_metadata(struct engine_info *i, struct info_own *own, const gguf *g);

#endif
