/* model_parts.h: what the files that load models share; internal to them.
 *
 * Loading has two halves. First the settings: model_gguf.c reads them from GGUF metadata, config.c from config.json; both
 * fill the sizes of struct model and what a layer needs beside tensors. Then model.c finds, checks and hangs up the tensors,
 * by the names of model_arch.c, the same way for both.
 */
#ifndef ENGINE_MODEL_PARTS_H
#define ENGINE_MODEL_PARTS_H

#include "model.h"

enum {
    MODEL_LAYERS_MAX = 1024,
    MODEL_DIM_MAX = 1 << 24, /* D, F, V, H * E: products with a batch stay inside size_t, the sizes inside int */
    MODEL_CONTEXT_MAX = 1 << 30,
};

/* ---- the table ---- */

/* What a tensor is for. Those before ROLE_ATTN_NORM exist once, the others in each layer. */
enum role {
    ROLE_EMBED,
    ROLE_POSITIONS,
    ROLE_HEAD,
    ROLE_OUT_NORM,
    ROLE_ATTN_NORM,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_QKV,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_O,
    ROLE_ATTN_POST,
    ROLE_FFN_NORM,
    ROLE_GATE,
    ROLE_UP,
    ROLE_GATE_UP, /* (2 F, D): gate, then up */
    ROLE_DOWN,
    ROLE_FFN_POST,
    ROLE_COUNT,
};

/* How a family of files names its tensors, without ".weight" and ".bias". */
struct names {
    const char *prefix; /* which the names have here and some files leave out; NULL: none */
    const char *layers; /* and the number of the layer and a dot precede the names of a layer's tensors */
    const char *of[ROLE_COUNT];
    bool transposed; /* matrices of the layers lie transposed */
    bool qkv_by_head;
};

/* Biases: none, as the file says, always. */
enum bias { BIAS_NO, BIAS_MAY, BIAS_YES };

enum { HEAD_ALWAYS = -1 };

/* Which layers have a window: none, all, those from a given one on, all but every n-th. */
enum windows { WINDOWS_NONE, WINDOWS_ALL, WINDOWS_UPPER, WINDOWS_PERIOD };

struct arch {
    const char *type;   /* model_type in config.json; NULL: only GGUF */
    const char *class;  /* in architectures of config.json */
    const char *gguf;   /* general.architecture; NULL: only folders */
    struct names names; /* in a folder */
    enum norm_kind norm;
    bool norm_plus_one; /* a folder's RMS norms lack 1 (GGUF files have it) */
    bool pre_norm, post_norm;
    bool parallel;              /* unless the file says otherwise */
    bool learned;               /* positions; else rotary */
    bool gguf_interleaved;      /* GGUF's converter turned the rows of q and k into pairs */
    enum activation activation; /* unless the file says otherwise */
    bool gated;
    bool fused_qkv, fused_gate_up;
    enum bias qkv_bias, o_bias, ffn_bias;
    enum qk_norm qk_norm;
    bool embed_scaled;         /* by sqrt(D) */
    bool logit_cap, score_cap; /* may be set */
    bool query_scalar;         /* scores are scaled by query_pre_attn_scalar^-0.5, not E^-0.5 */
    bool partial;              /* rotary of a part of a head */
    bool two_ropes;            /* layers with a window have frequencies of their own */
    enum windows windows;
    /* What a file means that leaves the key out. */
    struct {
        double eps, score_cap, logit_cap, rotary, base, local_base;
        int kv_heads; /* 0: as many as query heads */
        int head;     /* 0: D / H; HEAD_ALWAYS: that, and there is no key for it */
        int scalar, window, period;
        bool tied, biased; /* biased: the BIAS_MAY are there */
    } missing;
    int gguf_wide_layers; /* GGUF does not say the query scalar: models of so many layers have D / H, others E */
};

extern const struct arch model_archs[];
extern const int model_n_archs;
extern const struct names model_gguf_names;

/* Finds the row by general.architecture or by model_type; NULL: an error that names those that are there. */
const struct arch *model_arch(const char *name, bool folder, err *e);

/* ---- settings ---- */

/* What the settings decide for the tensors. */
struct loader {
    const gguf *g; /* one of the two */
    const safetensors *s;
    const struct arch *arch;
    const struct names *names;
    struct model *m;
    bool qkv_bias, o_bias, ffn_bias, tied;
    size_t skip;                    /* letters of the prefix that the file leaves out */
    bool *used;                     /* (tensors) */
    size_t type_bytes[DTYPE_COUNT]; /* of matrices, by type */
    err *e;
};

/* Both set arch and names, and all of the model that is not a tensor. */
int model_gguf_settings(struct loader *l);
int config_settings(struct loader *l, const char *json, size_t n);

/* ---- model.c, for the settings ---- */

/* n-byte text into out as printable UTF-8. */
void model_text(char *out, size_t cap, const char *s, size_t n);
/* Checks heads against each other, allocates the layers, and sets scales; E is 0 when the file does not say. */
int model_shape(struct loader *l);
/* Frequencies base^(-2i/n_rot) as rope_freqs[which]; n_rot is set. */
float *model_freqs(struct model *m, int which, double base);
/* Frequencies must be numbers up to 1: positions times them stay in the range of the tables. */
int model_check_freqs(const struct loader *l);
/* The one vector of a GGUF file that is not weights: (n) f32. */
int model_gguf_vector(struct loader *l, const char *name, int n, const float **out);

#endif
