/* state_hybrid.c: config.json of models that mix attention with recurrent layers.
 *
 * First the kind of each layer, from a list, a pattern, indices or a period; then what a layer of that kind holds. Sources:
 * transformers 5.23, models/NAME/configuration_NAME.py (__post_init__, layer_types) and modeling_NAME.py (conv_dim,
 * intermediate_size of the mixer).
 */
#include "state_in.h"

#include <string.h>

/* What a layer has; 0: neither. Zamba's and Falcon-H1's "hybrid" layers have both. */
enum { HAS_KV = 1, HAS_STATE = 2 };

struct hybrid {
    int layers, D;
    uint8_t has[STATE_LAYERS_MAX];
    struct state_part kv, state;
};

/* ---- the kind of each layer ---- */

static int from_names(const struct state_json *j, const char *key, struct hybrid *h)
{
    static const struct {
        const char *name;
        int has;
    } names[] = {{"attention", HAS_KV}, {"full_attention", HAS_KV},     {"mamba", HAS_STATE}, {"linear_attention", HAS_STATE},
                 {"conv", HAS_STATE},   {"hybrid", HAS_KV | HAS_STATE}, {"mlp", 0},           {"moe", 0}};
    const json_t *types;
    size_t k;
    int i;
    if (state_types(j, key, h->layers, &types)) return -1;
    for (i = 0; i < h->layers; i++) {
        const char *name = json_string_value(json_array_get(types, (size_t)i));
        for (k = 0; k < sizeof names / sizeof *names && strcmp(names[k].name, name) != 0; k++) continue;
        if (k == sizeof names / sizeof *names)
            return err_set(j->e, ERR_ENV, "%s: layer %d is of a kind that is not counted", key, i);
        h->has[i] = (uint8_t)names[k].has;
    }
    return 0;
}

/* Indices of the layers with attention; the others have a recurrent state. */
static int from_indices(const struct state_json *j, const char *key, struct hybrid *h)
{
    const json_t *list = state_key(j, key);
    size_t k;
    memset(h->has, HAS_STATE, (size_t)h->layers);
    if (list && !json_is_array(list)) return err_set(j->e, ERR_ENV, "%s is not a list", key);
    for (k = 0; k < json_array_size(list); k++) {
        const json_t *v = json_array_get(list, k);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= h->layers)
            return err_set(j->e, ERR_ENV, "%s: entry %zu is no layer of 0 to %d", key, k, h->layers - 1);
        h->has[json_integer_value(v)] = HAS_KV;
    }
    return 0;
}

/* Layers behind `lead` of them: those at `offset` of each period have `there`, the others a recurrent state. */
static int from_period(const struct state_json *j, int lead, int there, struct hybrid *h)
{
    const json_t *v = state_key(j, "attn_layer_offset");
    json_int_t offset = json_integer_value(v);
    int period, i;
    if (state_int(j, "attn_layer_period", STATE_LAYERS_MAX, -1, &period)) return -1;
    if (!json_is_integer(v) || offset < 0 || offset >= period)
        return err_set(j->e, ERR_ENV, "attn_layer_offset is missing or not in 0 to %d", period - 1);
    for (i = lead; i < h->layers; i++) h->has[i] = (uint8_t)((i - lead) % period == offset ? there : HAS_STATE);
    return 0;
}

/* Nemotron-H: "M-M*-": mamba, attention, mlp, mixture of experts. */
static int from_pattern(const struct state_json *j, const char *key, struct hybrid *h)
{
    const json_t *v = state_key(j, key);
    const char *s = json_string_value(v);
    int i;
    if (!s) return err_set(j->e, ERR_ENV, "%s is missing or no string", key);
    if (json_string_length(v) != (size_t)h->layers)
        return err_set(j->e, ERR_ENV, "%s has %zu letters for %d layers", key, json_string_length(v), h->layers);
    for (i = 0; i < h->layers; i++) {
        if (!s[i] || !strchr("M*-E", s[i])) return err_set(j->e, ERR_ENV, "%s: letter %d is none of M * - E", key, i);
        h->has[i] = s[i] == 'M' ? HAS_STATE : s[i] == '*' ? HAS_KV : 0;
    }
    return 0;
}

/* ---- what they hold ---- */

/* Attention with the usual keys. width: what the heads share; kv: what a missing num_key_value_heads means, 0: as many as
 * heads. */
static int usual_kv(const struct state_json *j, int width, int kv, const char *head_key, struct hybrid *h)
{
    bool absent = !json_object_get(j->root, "num_key_value_heads");
    int H, G, E;
    if (state_dim(j, "num_attention_heads", -1, &H) || state_dim(j, "num_key_value_heads", absent && kv ? kv : H, &G))
        return -1;
    if (!(head_key && state_key(j, head_key)) && width % H)
        return err_set(j->e, ERR_ENV, "a width of %d is no multiple of num_attention_heads %d", width, H);
    if (state_refuse(j, "sliding_window")) return -1;
    E = width / H ? width / H : 1;
    if (head_key && state_dim(j, head_key, E, &E)) return -1;
    return state_attention(&h->kv, G, E, E, 0, j->e);
}

static int widths(const struct state_json *j, struct hybrid *h, int *inner)
{
    int expand;
    *inner = 0;
    if (state_dim(j, "mamba_expand", 2, &expand)) return -1;
    if ((int64_t)expand * h->D > STATE_DIM_MAX / 2)
        return err_set(j->e, ERR_ENV, "mamba_expand %d times a width of %d is above %d", expand, h->D, STATE_DIM_MAX / 2);
    *inner = expand * h->D;
    return 0;
}

static int usual_mamba(const struct state_json *j, struct hybrid *h)
{
    int inner, states, conv;
    if (widths(j, h, &inner) || state_dim(j, "mamba_d_state", 16, &states) || state_dim(j, "mamba_d_conv", 4, &conv)) return -1;
    return state_mamba(&h->state, inner, states, conv, j->e);
}

/* Names of the keys of a Mamba-2 mixer, and what a missing one means. */
struct mamba2_keys {
    const char *heads, *head, *groups, *states, *inner; /* head, inner: NULL, or the key */
    int missing_heads, missing_states;
};

static int usual_mamba2(const struct state_json *j, const struct mamba2_keys *k, struct hybrid *h)
{
    const json_t *word = k->head ? state_key(j, k->head) : NULL;
    int inner, heads, head, groups, states, conv;
    if (widths(j, h, &inner) || (k->inner && state_dim(j, k->inner, inner, &inner)) ||
        state_dim(j, k->heads, k->missing_heads, &heads) || state_dim(j, k->groups, 1, &groups) ||
        state_dim(j, k->states, k->missing_states, &states) || state_dim(j, "mamba_d_conv", 4, &conv))
        return -1;
    if (inner % heads) return err_set(j->e, ERR_ENV, "%s %d does not divide the inner width %d", k->heads, heads, inner);
    head = inner / heads;
    if (word && !(json_is_string(word) && strcmp(json_string_value(word), "auto") == 0) && state_dim(j, k->head, head, &head))
        return -1;
    if ((int64_t)heads * head != inner)
        return err_set(j->e, ERR_ENV, "%s %d x %s %d is not the inner width %d", k->heads, heads, k->head, head, inner);
    return state_mamba2(&h->state, heads, head, states, groups, conv, j->e);
}

/* ---- the models ---- */

static int read_jamba(const struct state_json *j, struct hybrid *h)
{
    return from_period(j, 0, HAS_KV, h) || usual_kv(j, h->D, 8, "head_dim", h) || usual_mamba(j, h) ? -1 : 0;
}

/* The shared block is called at each hybrid layer with a cache of its own there. Its heads share twice the width, since it
   reads the embeddings, too. */
static int read_zamba(const struct state_json *j, struct hybrid *h)
{
    static const uint8_t lead[] = {HAS_STATE, HAS_STATE, HAS_KV | HAS_STATE};
    int i;
    if (state_key(j, "layers_block_type")) {
        if (from_names(j, "layers_block_type", h)) return -1;
    } else {
        if (from_period(j, 3, HAS_KV | HAS_STATE, h)) return -1;
        for (i = 0; i < 3 && i < h->layers; i++) h->has[i] = lead[i];
    }
    return usual_kv(j, 2 * h->D, 16, "attention_head_dim", h) || usual_mamba(j, h) ? -1 : 0;
}

static int read_zamba2(const struct state_json *j, struct hybrid *h)
{
    static const struct mamba2_keys keys = {"n_mamba_heads", NULL, "mamba_ngroups", "mamba_d_state", NULL, 8, 64};
    if (from_names(j, "layers_block_type", h) || usual_kv(j, 2 * h->D, 0, NULL, h)) return -1;
    return usual_mamba2(j, &keys, h);
}

static const struct mamba2_keys bamba_keys = {
    "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", NULL, 128, 256};

static int read_bamba(const struct state_json *j, struct hybrid *h)
{
    return from_indices(j, "attn_layer_indices", h) || usual_kv(j, h->D, 8, "head_dim", h) || usual_mamba2(j, &bamba_keys, h)
               ? -1
               : 0;
}

static int read_granite(const struct state_json *j, struct hybrid *h)
{
    const char *key = state_key(j, "layers_block_type") ? "layers_block_type" : "layer_types";
    return from_names(j, key, h) || usual_kv(j, h->D, 0, "head_dim", h) || usual_mamba2(j, &bamba_keys, h) ? -1 : 0;
}

static int read_falcon_h1(const struct state_json *j, struct hybrid *h)
{
    static const struct mamba2_keys keys = {
        "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_ssm", 128, 256};
    memset(h->has, HAS_KV | HAS_STATE, (size_t)h->layers);
    return usual_kv(j, h->D, 8, "head_dim", h) || usual_mamba2(j, &keys, h) ? -1 : 0;
}

static int read_nemotron(const struct state_json *j, struct hybrid *h)
{
    bool list = state_key(j, "layers_block_type") != NULL;
    const char *head_key = state_key(j, "attention_head_dim") ? "attention_head_dim" : "head_dim";
    int heads, head, groups, states, conv;
    if (list ? from_names(j, "layers_block_type", h) : from_pattern(j, "hybrid_override_pattern", h)) return -1;
    if (state_dim(j, head_key, -1, &head) || usual_kv(j, h->D, 8, head_key, h) ||
        state_dim(j, "mamba_num_heads", 128, &heads) || state_dim(j, "mamba_head_dim", 64, &head) ||
        state_dim(j, state_key(j, "mamba_n_groups") ? "mamba_n_groups" : "n_groups", 8, &groups) ||
        state_dim(j, "ssm_state_size", 128, &states) ||
        state_dim(j, state_key(j, "mamba_d_conv") ? "mamba_d_conv" : "conv_kernel", 4, &conv))
        return -1;
    return state_mamba2(&h->state, heads, head, states, groups, conv, j->e);
}

static int read_qwen3_next(const struct state_json *j, struct hybrid *h)
{
    int key_heads, key, value_heads, value, conv, interval, i;
    if (state_key(j, "layer_types")) {
        if (from_names(j, "layer_types", h)) return -1;
    } else {
        if (state_int(j, "full_attention_interval", STATE_LAYERS_MAX, 4, &interval)) return -1;
        for (i = 0; i < h->layers; i++) h->has[i] = (i + 1) % interval ? HAS_STATE : HAS_KV;
    }
    if (state_dim(j, "head_dim", -1, &key) || usual_kv(j, h->D, 2, "head_dim", h) ||
        state_dim(j, "linear_num_key_heads", 16, &key_heads) || state_dim(j, "linear_key_head_dim", 128, &key) ||
        state_dim(j, "linear_num_value_heads", 32, &value_heads) || state_dim(j, "linear_value_head_dim", 128, &value) ||
        state_dim(j, "linear_conv_kernel_dim", 4, &conv))
        return -1;
    return state_deltanet(&h->state, key_heads, key, value_heads, value, conv, j->e);
}

static int read_lfm2(const struct state_json *j, struct hybrid *h)
{
    bool list = state_key(j, "layer_types") != NULL;
    int conv;
    if (!list && !state_key(j, "full_attn_idxs")) return err_set(j->e, ERR_ENV, "layer_types and full_attn_idxs are missing");
    if (list ? from_names(j, "layer_types", h) : from_indices(j, "full_attn_idxs", h)) return -1;
    if (usual_kv(j, h->D, 8, "head_dim", h) || state_dim(j, "conv_L_cache", 3, &conv)) return -1;
    return state_conv(&h->state, h->D, conv, j->e);
}

/* num_hidden_layers, or, as newer configs of Nemotron-H leave it out, the length of the list of layers. */
static int count_layers(const struct state_json *j, int *layers)
{
    size_t n = json_array_size(state_key(j, "layers_block_type"));
    if (!state_key(j, "num_hidden_layers") && n >= 1 && n <= STATE_LAYERS_MAX) return *layers = (int)n, 0;
    return state_int(j, "num_hidden_layers", STATE_LAYERS_MAX, -1, layers);
}

int state_hybrid(const struct state_json *j, const char *type)
{
    static const struct {
        const char *type;
        int (*read)(const struct state_json *, struct hybrid *);
    } types[] = {{"jamba", read_jamba},
                 {"zamba", read_zamba},
                 {"zamba2", read_zamba2},
                 {"bamba", read_bamba},
                 {"granitemoehybrid", read_granite},
                 {"falcon_h1", read_falcon_h1},
                 {"nemotron_h", read_nemotron},
                 {"qwen3_next", read_qwen3_next},
                 {"lfm2", read_lfm2}};
    struct hybrid h = {0};
    size_t k;
    int i;
    for (k = 0; k < sizeof types / sizeof *types && strcmp(types[k].type, type) != 0; k++) continue;
    if (k == sizeof types / sizeof *types) return 1;
    if (count_layers(j, &h.layers) || state_dim(j, "hidden_size", -1, &h.D)) return -1;
    if (types[k].read(j, &h)) return -1;
    for (i = 0; i < h.layers; i++)
        if (((h.has[i] & HAS_KV) && state_add(j->s, &h.kv, j->e)) ||
            ((h.has[i] & HAS_STATE) && state_add(j->s, &h.state, j->e)))
            return -1;
    j->s->layers = h.layers;
    return 0;
}
