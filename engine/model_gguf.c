/* model_gguf.c: the settings of a model from GGUF metadata. Names: ggml's docs/gguf.md and llama.cpp's converter. */
#include "model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 128 };

/* Keys of other architectures: any other value than this one changes the arithmetic. */
static const struct {
    const char *key;
    double neutral;
} refused[] = {
    {"expert_count", 0},    {"attention.clamp_kqv", 0}, {"attention.scale", 0},  {"logit_scale", 0},
    {"embedding_scale", 0}, {"residual_scale", 0},      {"attention.causal", 1}, {"rope.scaling.attn_factor", 1},
};

/* The architecture's key in a buffer of KEY_BYTES: "llama.block_count". */
static const char *key_of(char *key, const struct loader *l, const char *name)
{
    snprintf(key, KEY_BYTES, "%s.%s", l->arch->gguf, name);
    return key;
}

static bool has(const struct loader *l, const char *name)
{
    char key[KEY_BYTES];
    return gguf_has(l->g, key_of(key, l, name));
}

/* A size within 1..max. Some files give one per layer: accepted when all are equal. */
static int get_size(struct loader *l, const char *name, int max, int *out)
{
    char key[KEY_BYTES];
    uint64_t u;
    if (gguf_array_len(l->g, key_of(key, l, name)) > 0) {
        int32_t *a;
        size_t n, i;
        if (gguf_i32s(l->g, key, &a, &n, l->e)) return -1;
        for (i = 1; i < n && a[i] == a[0]; i++)
            ;
        u = a[0] < 0 ? 0 : (uint64_t)a[0];
        free(a);
        if (i < n) return err_set(l->e, ERR_ENV, "%s differs between layers, which is not supported", key);
    } else if (gguf_u64(l->g, key, &u, l->e)) {
        return -1;
    }
    if (u < 1 || u > (uint64_t)max)
        return err_set(l->e, ERR_ENV, "%s is %llu, expected 1 to %d", key, (unsigned long long)u, max);
    *out = (int)u;
    return 0;
}

static int get_number(struct loader *l, const char *name, double least, double most, double *out)
{
    char key[KEY_BYTES];
    if (gguf_f64(l->g, key_of(key, l, name), out, l->e)) return -1;
    if (!(*out >= least && *out <= most)) return err_set(l->e, ERR_ENV, "%s is %g, expected %g to %g", key, *out, least, most);
    return 0;
}

/* A key that may be there, but only with the value that changes nothing. */
static int refuse(struct loader *l, const char *name, double neutral)
{
    char key[KEY_BYTES];
    double value;
    bool flag;
    err e = {0};
    if (!gguf_has(l->g, key_of(key, l, name))) return 0;
    if (gguf_bool(l->g, key, &flag, &e) == 0)
        value = flag;
    else if (gguf_f64(l->g, key, &value, l->e))
        return -1;
    return value == neutral ? 0 : err_set(l->e, ERR_ENV, "%s = %g is not supported", key, value);
}

static int find_arch(struct loader *l)
{
    struct gguf_str s;
    if (gguf_has(l->g, "split.count")) {
        uint64_t n;
        if (gguf_u64(l->g, "split.count", &n, l->e)) return -1;
        if (n > 1) return err_set(l->e, ERR_ENV, "the file is one of %llu parts; merge them first", (unsigned long long)n);
    }
    if (gguf_string(l->g, "general.architecture", &s, l->e)) return -1;
    model_text(l->m->arch, sizeof l->m->arch, s.p, s.n);
    l->arch = model_arch(l->m->arch, false, l->e);
    l->names = &model_gguf_names;
    return l->arch ? 0 : -1;
}

static int get_sizes(struct loader *l)
{
    struct model *m = l->m;
    struct gguf_str name = {"", 0};
    const struct gguf_tensor *embed = gguf_find_tensor(l->g, "token_embd.weight");
    const char *eps_key = l->arch->norm == NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    double eps;
    int value_length;
    if (gguf_has(l->g, "general.name") && gguf_string(l->g, "general.name", &name, l->e)) return -1;
    model_text(m->name, sizeof m->name, name.p, name.n);
    if (get_size(l, "block_count", MODEL_LAYERS_MAX, &m->n_layer) || get_size(l, "embedding_length", MODEL_DIM_MAX, &m->D) ||
        get_size(l, "feed_forward_length", MODEL_DIM_MAX, &m->F) ||
        get_size(l, "context_length", MODEL_CONTEXT_MAX, &m->n_ctx) ||
        get_size(l, "attention.head_count", MODEL_DIM_MAX, &m->H) || get_number(l, eps_key, 0, 1, &eps))
        return -1;
    m->norm_eps = (float)eps;
    m->G = m->H;
    if (has(l, "attention.head_count_kv") && get_size(l, "attention.head_count_kv", MODEL_DIM_MAX, &m->G)) return -1;
    if (has(l, "attention.key_length") && get_size(l, "attention.key_length", HEAD_MAX, &m->E)) return -1;
    if (model_shape(l)) return -1;
    if (has(l, "attention.value_length")) {
        if (get_size(l, "attention.value_length", HEAD_MAX, &value_length)) return -1;
        if (value_length != m->E)
            return err_set(l->e, ERR_ENV, "keys have %d elements and values %d, which is not supported", m->E, value_length);
    }
    if (has(l, "vocab_size")) return get_size(l, "vocab_size", MODEL_DIM_MAX, &m->V);
    m->V = 1; /* without the embedding, which is missed later */
    if (!embed) return 0;
    if (embed->dims[1] > MODEL_DIM_MAX)
        return err_set(l->e, ERR_ENV, "a vocabulary of %llu, expected 1 to %d", (unsigned long long)embed->dims[1],
                       MODEL_DIM_MAX);
    m->V = (int)embed->dims[1];
    return 0;
}

/* ---- attention ---- */

/* A cap: 0 for none, and what the architecture means when the key is missing. */
static int get_cap(struct loader *l, bool may, const char *name, double missing, float *out)
{
    double cap = missing;
    if (!may) return refuse(l, name, 0);
    if (has(l, name) && get_number(l, name, 0, 1e6, &cap)) return -1;
    *out = (float)cap;
    return 0;
}

static int get_windows(struct loader *l)
{
    const struct arch *a = l->arch;
    int i, period = a->missing.period, window = a->windows == WINDOWS_PERIOD ? a->missing.window : 0;
    if (a->windows != WINDOWS_PERIOD && a->windows != WINDOWS_ALL) return refuse(l, "attention.sliding_window", 0);
    if (has(l, "attention.sliding_window") && get_size(l, "attention.sliding_window", MODEL_CONTEXT_MAX, &window)) return -1;
    if (a->windows == WINDOWS_PERIOD && has(l, "attention.sliding_window_pattern") &&
        get_size(l, "attention.sliding_window_pattern", MODEL_LAYERS_MAX, &period))
        return -1;
    for (i = 0; i < l->m->n_layer; i++) {
        struct layer *y = &l->m->layers[i];
        if (a->windows == WINDOWS_PERIOD && (i + 1) % period == 0) continue;
        y->window = window;
        y->rope = a->two_ropes;
    }
    return 0;
}

static int get_attention(struct loader *l)
{
    struct model *m = l->m;
    int i;
    char key[KEY_BYTES];
    bool parallel;
    m->activation = l->arch->activation;
    m->parallel = l->arch->parallel;
    if (!l->arch->parallel) {
        if (refuse(l, "use_parallel_residual", 0)) return -1;
    } else if (has(l, "use_parallel_residual")) {
        if (gguf_bool(l->g, key_of(key, l, "use_parallel_residual"), &parallel, l->e)) return -1;
        m->parallel = parallel;
    }
    if (get_cap(l, l->arch->score_cap, "attn_logit_softcapping", l->arch->missing.score_cap, &m->score_cap) ||
        get_cap(l, l->arch->logit_cap, "final_logit_softcapping", l->arch->missing.logit_cap, &m->logit_cap))
        return -1;
    if (l->arch->query_scalar && m->n_layer == l->arch->gguf_wide_layers)
        for (i = 0; i < m->n_layer; i++) m->layers[i].scale = 1.0f / sqrtf((float)m->D / (float)m->H);
    return get_windows(l);
}

/* ---- rotary embedding ---- */

/* Linear scaling divides all frequencies by one factor (Chen et al. 2023); a file without a type means linear, too. */
static int get_scaling(struct loader *l, double *factor)
{
    char key[KEY_BYTES], type[32] = "linear";
    struct gguf_str s;
    *factor = 1;
    if (gguf_find_tensor(l->g, "rope_factors_long.weight")) snprintf(type, sizeof type, "longrope");
    if (has(l, "rope.scaling.type")) {
        if (gguf_string(l->g, key_of(key, l, "rope.scaling.type"), &s, l->e)) return -1;
        model_text(type, sizeof type, s.p, s.n);
    }
    if (strcmp(type, "none") == 0) return 0;
    if (strcmp(type, "linear") != 0)
        return err_set(l->e, ERR_ENV, "rope scaling '%s' is not supported (supported: none, linear, llama3)", type);
    if (has(l, "rope.scaling.factor")) {
        if (get_number(l, "rope.scaling.factor", 0, 1e6, factor)) return -1;
    } else if (has(l, "rope.scale_linear")) { /* the key's name before 2023-10 */
        if (get_number(l, "rope.scale_linear", 0, 1e6, factor)) return -1;
    }
    if (*factor == 0) *factor = 1; /* written by converters for "no scaling" */
    return 0;
}

/* llama3 scaling stands in the file as a tensor of divisors, one for each frequency. */
static int get_rope(struct loader *l)
{
    struct model *m = l->m;
    const float *divisors = NULL;
    float *freqs;
    double factor, base = 10000, local_base = l->arch->missing.local_base;
    int i, n;
    if (l->arch->learned) return 0;
    m->n_rot = m->E;
    m->rope_interleaved = l->arch->gguf_interleaved;
    if (has(l, "rope.freq_base") && get_number(l, "rope.freq_base", 1, 1e15, &base)) return -1;
    if (has(l, "rope.dimension_count") && get_size(l, "rope.dimension_count", m->E, &m->n_rot)) return -1;
    if (m->n_rot % 2) return err_set(l->e, ERR_ENV, "%d elements of a head cannot turn in pairs", m->n_rot);
    if (get_scaling(l, &factor)) return -1;
    n = m->n_rot / 2;
    if (gguf_find_tensor(l->g, "rope_freqs.weight") && model_gguf_vector(l, "rope_freqs.weight", n, &divisors)) return -1;
    freqs = model_freqs(m, 0, base);
    for (i = 0; i < n; i++) {
        if (divisors && !(divisors[i] > 0 && isfinite(divisors[i])))
            return err_set(l->e, ERR_ENV, "tensor 'rope_freqs.weight': element %d is %g, expected above 0", i, divisors[i]);
        if (divisors) freqs[i] /= divisors[i];
        if (factor != 1) freqs[i] /= (float)factor;
    }
    if (l->arch->two_ropes) {
        if (has(l, "rope.freq_base_swa") && get_number(l, "rope.freq_base_swa", 1, 1e15, &local_base)) return -1;
        model_freqs(m, 1, local_base); /* never scaled */
    }
    return model_check_freqs(l);
}

/* Metadata does not tell of biases: the first layer does. */
static bool biased(const struct loader *l, enum bias bias, const char *tensor)
{
    return bias == BIAS_YES || (bias == BIAS_MAY && gguf_find_tensor(l->g, tensor));
}

int model_gguf_settings(struct loader *l)
{
    const struct arch *a;
    size_t i;
    if (find_arch(l) || get_sizes(l) || get_attention(l) || get_rope(l)) return -1;
    for (i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refuse(l, refused[i].key, refused[i].neutral)) return -1;
    a = l->arch;
    l->qkv_bias = biased(l, a->qkv_bias, a->fused_qkv ? "blk.0.attn_qkv.bias" : "blk.0.attn_q.bias");
    l->o_bias = biased(l, a->o_bias, "blk.0.attn_output.bias");
    l->ffn_bias = biased(l, a->ffn_bias, "blk.0.ffn_up.bias");
    return 0;
}
