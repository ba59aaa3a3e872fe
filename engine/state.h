/* state.h: how large the state of a model is, from its metadata alone: what it keeps of the tokens it has seen.
 *
 * Public beside engine.h, for one reason: engine.h speaks of models that can be run, and this reads any config.json or GGUF
 * file whose state can be counted: Mamba, RWKV and MLA too, of which the engine computes nothing. It needs no engine, opens no
 * weights, and shares nothing with them but the readers of files. What cannot be counted for certain is an error that names the
 * key, never a guess.
 *
 * A state is a list of parts: layers alike, with numbers per token (keys and values), numbers whatever the length (recurrent
 * states), or both in two parts. state.c adds up, state_formula.c says what a layer of each kind holds and where that is
 * written.
 *
 *     struct state s; int64_t bytes;
 *     if (state_open(&s, "model.gguf", e)) ...                  // or a folder, or a config.json; no memory is held
 *     if (state_bytes(&s, 8192, 2, STATE_STORED, &bytes, e)) ...  // 8192 tokens in f16
 */
#ifndef ENGINE_STATE_H
#define ENGINE_STATE_H

#include "base.h"

#include <stdint.h>

enum { STATE_PARTS = 32, STATE_LAYERS_MAX = 4096, STATE_DIM_MAX = 1 << 20, STATE_CONTEXT_MAX = 1 << 30 };

/* Layers that hold the same. Numbers are of one layer. */
struct state_part {
    const char *kind; /* "attention", "mla", "rwkv4", "rwkv", "mamba", "mamba2", "deltanet", "conv"; static */
    char shape[96];   /* for people: "8 kv heads x (128 + 128)" */
    int layers;
    int window;          /* the last tokens that are kept; 0: all */
    int64_t per_token;   /* numbers that a token adds */
    int64_t written_out; /* mla: that, if every head's keys and values were kept; else per_token */
    int64_t fixed;       /* numbers whatever the length, in the type asked for */
    int64_t fixed_f32;   /* those that the reference implementation keeps in f32 whatever the type */
    int64_t sums;        /* numbers of S = sum of k^T v and z = sum of k; 0: the layer has no keys */
};

struct state {
    char arch[64], name[128]; /* printable; name "": not said */
    int layers, context;      /* context 0: not said */
    struct state_part parts[STATE_PARTS];
    int n_parts;
};

enum state_form { STATE_STORED, STATE_WRITTEN_OUT /* MLA's latent vectors expanded to keys and values */ };

/* A GGUF file, a folder with config.json, or such a file itself. ERR_ENV: missing, broken, or not to be counted. */
int state_open(struct state *out, const char *path, err *e);
/* Any bytes as config.json. */
int state_parse(struct state *out, const void *json, size_t n, err *e);

/* Bytes after `tokens` (0..STATE_CONTEXT_MAX), `element` bytes a number: 1, 2 or 4. */
int state_bytes(const struct state *s, int64_t tokens, int element, enum state_form form, int64_t *bytes, err *e);
/* What one token more adds: while no window is full, or once all of them are. */
int state_token_bytes(const struct state *s, int element, int windows_full, int64_t *bytes, err *e);
/* Bytes of S and z of all layers. Linear attention (Katharopoulos et al. 2020, "Transformers are RNNs", eq. 18 and 19) would
   keep these in place of the cache: G (E_k E_v + E_k) numbers a layer, whatever the length. */
int state_sums_bytes(const struct state *s, int element, int64_t *bytes, err *e);

#endif
