/* state_in.h: between the files of state.h; nobody else includes it.
 *
 *     struct state_part p;
 *     if (state_attention(&p, kv_heads, E, E, window, e) || state_add(s, &p, e)) return -1;   // one layer more
 *
 * Dimensions are 1..STATE_DIM_MAX, checked by the readers; the formulas check their products.
 */
#ifndef ENGINE_STATE_IN_H
#define ENGINE_STATE_IN_H

#include "gguf.h"
#include "state.h"

#include <jansson.h>
#include <stdbool.h>

/* ---- state_formula.c: what one layer holds ---- */

int state_attention(struct state_part *p, int heads, int key, int value, int window, err *e);
int state_mla(struct state_part *p, int rank, int rope, int heads, int nope, int value, err *e);
int state_rwkv4(struct state_part *p, int width, int attention_width, err *e);
int state_rwkv(struct state_part *p, int width, int heads, int head, int shifts, err *e);
int state_mamba(struct state_part *p, int inner, int states, int conv, err *e);
int state_mamba2(struct state_part *p, int heads, int head, int states, int groups, int conv, err *e);
int state_deltanet(struct state_part *p, int key_heads, int key, int value_heads, int value, int conv, err *e);
int state_conv(struct state_part *p, int width, int conv, err *e);

/* ---- state.c ---- */

/* One layer more that holds p. */
int state_add(struct state *s, const struct state_part *p, err *e);
/* The text of a file as a message may show it: UTF-8 without control characters, cut at cap. */
void state_text(char *out, size_t cap, const char *text, size_t n);

/* ---- state_json.c: keys of a config.json ---- */

struct state_json {
    const json_t *root;
    struct state *s;
    err *e;
};

/* NULL: missing, or null. */
const json_t *state_key(const struct state_json *j, const char *key);
/* An integer of 1..max. missing < 0: an error that names the key. */
int state_int(const struct state_json *j, const char *key, int max, int missing, int *out);
int state_dim(const struct state_json *j, const char *key, int missing, int *out); /* max is STATE_DIM_MAX */
int state_bool(const struct state_json *j, const char *key, bool missing, bool *out);
/* The list of a key has one string for each of n layers; fails otherwise. */
int state_types(const struct state_json *j, const char *key, int n, const json_t **out);
/* This key would change the state in a way that nothing here counts: an error if it is there with another value than null,
   false, 0 and []. */
int state_refuse(const struct state_json *j, const char *key);

/* ---- readers: each fills s->layers and the parts ---- */

int state_config(struct state *s, const json_t *root, err *e);     /* state_config.c: transformers, and who reads the rest */
int state_recurrent(const struct state_json *j, const char *type); /* state_recurrent.c: 1: no such type */
int state_hybrid(const struct state_json *j, const char *type);    /* state_hybrid.c: 1: no such type */
int state_gguf(struct state *s, const gguf *g, err *e);            /* state_gguf.c */

#endif
