/* model.h: the weights of a model file as matrices, and its sizes. Borrowed from the mapping; nothing is copied.
 *
 * A struct model lives inside the engine; model_load fills it from an open gguf, which must outlive it.
 * What differs between architectures stands in one table in model.c.
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "../kernels/kernels.h"
#include "gguf.h"

struct layer {
    struct mat wq, wk, wv;   /* (H*E, D), (G*E, D), (G*E, D) */
    struct mat wo;           /* (D, H*E) */
    struct mat w_gate, w_up; /* (F, D) */
    struct mat w_down;       /* (D, F) */
    const float *attn_norm;  /* (D) */
    const float *ffn_norm;   /* (D) */
};

struct model {
    char arch[32], name[128];
    int n_layer, D, H, G, E, F, V, n_ctx;
    float norm_eps;
    double rope_base;
    int n_rot;              /* leading elements of a head that turn */
    int rope_interleaved;   /* q and k rows come as pairs (2i, 2i+1) */
    float *rope_freqs;      /* (n_rot / 2), owned; the file's factors are applied already */
    struct mat embed, head; /* (V, D), (V, D); head is embed when tied */
    const float *out_norm;  /* (D) */
    struct layer *layers;   /* (n_layer), owned */
    enum dtype weight_type; /* the type most weight bytes have */
};

/* Reads and checks sizes, types and shapes of all tensors; *m only on success. ERR_ENV, naming key or tensor. */
int model_load(struct model *m, const gguf *g, err *e);
void model_clear(struct model *m); /* {0} is fine */

#endif
