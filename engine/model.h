/* model.h: the weights of a model as matrices, its sizes, and what its architecture does differently from others.
 *
 * A struct model lives inside the engine. Matrices are borrowed from the mapping of the file, in the type they have there;
 * norms and biases are widened into memory of the model's own where they are not f32 already. model_load reads a GGUF file,
 * model_load_folder the config.json and the weights of a Hugging Face folder; gguf or safetensors must outlive the model.
 * What differs between architectures stands in one table in model_arch.c.
 */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "../kernels/kernels.h"
#include "gguf.h"
#include "safetensors.h"

enum norm_kind { NORM_RMS, NORM_LAYER };
enum qk_norm { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_ALL }; /* of q and k before rotary: none, each head alone, all together */
enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_GELU_EXACT };

enum { MODEL_ROPES = 2 }; /* frequencies of all layers, or of the layers without a window; of those with one */

struct norm {
    const float *w, *b; /* (D) unless said otherwise; w NULL: no such norm; b of layer norms alone */
};

struct linear {
    struct mat w;   /* w.data NULL: absent */
    const float *b; /* (w.rows), NULL: none */
};

struct layer {
    struct norm attn_norm, ffn_norm; /* before attention and before the ffn; absent: the residual goes in as it is */
    struct norm attn_post, ffn_post; /* on what attention and ffn add to the residual */
    struct norm q_norm, k_norm;      /* (E) each with QK_NORM_HEAD; (H, E) and (G, E) with QK_NORM_ALL */
    struct linear q, k, v;           /* (H*E, D), (G*E, D), (G*E, D) */
    struct linear qkv;               /* (H*3*E, D), each head's q, k and v; q, k and v are absent then, and G = H */
    struct linear o;                 /* (D, H*E) */
    struct linear gate, up;          /* (F, D); gate absent: the activation is on up itself */
    struct linear down;              /* (D, F) */
    float scale;                     /* of scores */
    int window;                      /* a query at p sees p - window + 1 .. p; 0: all */
    int rope;                        /* index into the model's rope_freqs */
};

struct model {
    char arch[32], name[128];
    int n_layer, D, H, G, E, F, V, n_ctx;
    enum norm_kind norm;
    float norm_eps;
    enum qk_norm qk_norm;
    enum activation activation;
    int parallel;                   /* attention and ffn both read the residual as it was before the layer */
    float embed_scale;              /* of the embedding; 1: none */
    float score_cap;                /* of attention; 0: none */
    float logit_cap;                /* 0: none */
    double rope_base;               /* of rope_freqs[0]; 0: none */
    int n_rot;                      /* leading elements of a head that turn; 0: positions are learned */
    int rope_interleaved;           /* q and k rows come as pairs (2i, 2i+1) */
    int n_ropes;                    /* 0, 1 or 2 */
    float *rope_freqs[MODEL_ROPES]; /* (n_rot / 2), owned; scaling is applied already */
    struct mat embed, head;         /* (V, D), (V, D); head is embed when tied */
    struct mat pos_embed;           /* (n_ctx, D) learned positions; data NULL: none */
    struct norm out_norm;
    struct layer *layers;   /* (n_layer), owned */
    enum dtype weight_type; /* the type most weight bytes have */
    arena *owned;           /* what layers, frequencies, norms and biases need */
};

/* Reads and checks sizes, types and shapes of all tensors; *m only on success. ERR_ENV, naming key or tensor. */
int model_load(struct model *m, const gguf *g, err *e);
/* The same from the n bytes of a config.json and the weights beside it. m->name stays empty. */
int model_load_folder(struct model *m, const char *config, size_t n, const safetensors *s, err *e);
void model_clear(struct model *m); /* {0} is fine */

#endif
