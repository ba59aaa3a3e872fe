/* state_recurrent.c: config.json of models without attention: RWKV 4 to 6, Mamba 1 and 2.
 *
 * RWKV-5 and 6 in the form of the Hugging Face models RWKV/v5-* and RWKV/v6-* (attention_hidden_size, head_size). Mamba in that
 * of transformers, and in that of the mamba_ssm package (d_model, n_layer, ssm_cfg), whose defaults are those of its
 * constructors.
 */
#include "state_in.h"

#include <string.h>

static int add_all(const struct state_json *j, const struct state_part *p, int layers)
{
    int i;
    for (i = 0; i < layers; i++)
        if (state_add(j->s, p, j->e)) return -1;
    j->s->layers = layers;
    return 0;
}

static int sizes(const struct state_json *j, int *layers, int *D)
{
    return state_int(j, "num_hidden_layers", STATE_LAYERS_MAX, -1, layers) || state_dim(j, "hidden_size", -1, D) ? -1 : 0;
}

static int read_rwkv4(const struct state_json *j)
{
    int layers, D, A;
    struct state_part p;
    if (sizes(j, &layers, &D) || state_dim(j, "attention_hidden_size", D, &A) || state_rwkv4(&p, D, A, j->e)) return -1;
    return add_all(j, &p, layers);
}

static int read_rwkv(const struct state_json *j)
{
    int layers, D, A, head, heads;
    struct state_part p;
    if (sizes(j, &layers, &D) || state_dim(j, "attention_hidden_size", D, &A) || state_dim(j, "head_size", -1, &head))
        return -1;
    if (A % head) return err_set(j->e, ERR_ENV, "a width of %d is no multiple of head_size %d", A, head);
    if (state_dim(j, "num_attention_heads", A / head, &heads)) return -1;
    if (heads != A / head)
        return err_set(j->e, ERR_ENV, "num_attention_heads is %d; %d / head_size %d is %d", heads, A, head, A / head);
    return state_rwkv(&p, D, heads, head, 2, j->e) ? -1 : add_all(j, &p, layers);
}

static int inner_width(const struct state_json *j, int D, int expand, int *inner)
{
    *inner = 0;
    if ((int64_t)D * expand > STATE_DIM_MAX)
        return err_set(j->e, ERR_ENV, "expand %d times a width of %d is above %d", expand, D, STATE_DIM_MAX);
    *inner = D * expand;
    return 0;
}

static int read_mamba(const struct state_json *j)
{
    int layers, D, inner, expand, states, conv;
    struct state_part p;
    if (sizes(j, &layers, &D) || state_dim(j, "state_size", 16, &states) || state_dim(j, "conv_kernel", 4, &conv) ||
        state_dim(j, "expand", 2, &expand) || inner_width(j, D, expand, &inner) || state_mamba(&p, inner, states, conv, j->e))
        return -1;
    return add_all(j, &p, layers);
}

static int read_mamba2(const struct state_json *j)
{
    int layers, D, inner, expand, heads, head, states, groups, conv;
    struct state_part p;
    if (sizes(j, &layers, &D) || state_dim(j, "num_heads", 128, &heads) || state_dim(j, "head_dim", 64, &head) ||
        state_dim(j, "state_size", 128, &states) || state_dim(j, "n_groups", 8, &groups) ||
        state_dim(j, "conv_kernel", 4, &conv) || state_dim(j, "expand", 2, &expand) || inner_width(j, D, expand, &inner))
        return -1;
    if ((int64_t)heads * head != inner)
        return err_set(j->e, ERR_ENV, "num_heads %d x head_dim %d is not expand %d x hidden_size %d", heads, head, expand, D);
    return state_mamba2(&p, heads, head, states, groups, conv, j->e) ? -1 : add_all(j, &p, layers);
}

/* The keys of ssm_cfg are arguments of Mamba and Mamba2. */
static int read_mamba_ssm(const struct state_json *j)
{
    struct state_json cfg = {state_key(j, "ssm_cfg"), j->s, j->e};
    const char *layer = json_string_value(json_object_get(cfg.root, "layer"));
    bool two = layer && strcmp(layer, "Mamba2") == 0;
    int layers, D, expand, inner, states, conv, head, groups;
    struct state_part p;
    if (layer && !two && strcmp(layer, "Mamba1") != 0)
        return err_set(j->e, ERR_ENV, "ssm_cfg.layer is neither Mamba1 nor Mamba2");
    if (state_refuse(j, "attn_layer_idx") || state_refuse(&cfg, "d_ssm") ||
        state_int(j, "n_layer", STATE_LAYERS_MAX, -1, &layers) || state_dim(j, "d_model", -1, &D) ||
        state_dim(&cfg, "d_state", two ? 128 : 16, &states) || state_dim(&cfg, "d_conv", 4, &conv) ||
        state_dim(&cfg, "expand", 2, &expand) || state_dim(&cfg, "headdim", 64, &head) ||
        state_dim(&cfg, "ngroups", 1, &groups) || inner_width(j, D, expand, &inner))
        return -1;
    if (two && inner % head) return err_set(j->e, ERR_ENV, "a width of %d is no multiple of headdim %d", inner, head);
    if (two ? state_mamba2(&p, inner / head, head, states, groups, conv, j->e) : state_mamba(&p, inner, states, conv, j->e))
        return -1;
    return add_all(j, &p, layers);
}

int state_recurrent(const struct state_json *j, const char *type)
{
    static const struct {
        const char *type;
        int (*read)(const struct state_json *);
    } types[] = {{"rwkv", read_rwkv4},         {"rwkv5", read_rwkv},    {"rwkv6", read_rwkv},         {"mamba", read_mamba},
                 {"falcon_mamba", read_mamba}, {"mamba2", read_mamba2}, {"mamba_ssm", read_mamba_ssm}};
    size_t i;
    for (i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].type, type) == 0) return types[i].read(j);
    return 1;
}
