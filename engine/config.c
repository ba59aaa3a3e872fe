/* config.c: the settings of a model from the config.json of a Hugging Face folder.
 *
 * Every key is read, or stands in a list of those that cannot change the arithmetic, or has the one value that does not;
 * any other key is an error that names it. null means what a missing key means. Both ways of writing rotary settings are
 * read: rope_parameters (transformers 5) and rope_theta with rope_scaling (before).
 */
#include "model_parts.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 20, KEYS_MAX = 64 };

struct config {
    struct loader *l;
    const json_t *root;
    const char *read[KEYS_MAX]; /* keys that were asked for */
    int n_read;
    err *e;
};

/* Names, dropout, caching, sampling, classification heads: nothing of a pass without training. */
static const char *const harmless[] = {"_attn_implementation_autoset",
                                       "_name_or_path",
                                       "attention_dropout",
                                       "attn_pdrop",
                                       "auto_map",
                                       "bos_token_id",
                                       "cache_implementation",
                                       "chunk_size_feed_forward",
                                       "classifier_dropout",
                                       "do_sample",
                                       "dtype",
                                       "embd_pdrop",
                                       "eos_token_id",
                                       "finetuning_task",
                                       "gradient_checkpointing",
                                       "hidden_dropout",
                                       "id2label",
                                       "initializer_range",
                                       "is_llama_config",
                                       "label2id",
                                       "max_length",
                                       "max_new_tokens",
                                       "model_type",
                                       "n_ctx",
                                       "num_labels",
                                       "output_attentions",
                                       "output_hidden_states",
                                       "output_past",
                                       "pad_token_id",
                                       "pretraining_tp",
                                       "problem_type",
                                       "reorder_and_upcast_attn",
                                       "repetition_penalty",
                                       "resid_pdrop",
                                       "return_dict",
                                       "sep_token_id",
                                       "summary_activation",
                                       "summary_first_dropout",
                                       "summary_proj_to_labels",
                                       "summary_type",
                                       "summary_use_proj",
                                       "task_specific_params",
                                       "temperature",
                                       "tf_legacy_loss",
                                       "tokenizer_class",
                                       "top_k",
                                       "top_p",
                                       "torch_dtype",
                                       "torchscript",
                                       "transformers.js_config",
                                       "transformers_version",
                                       "unk_token_id",
                                       "use_bfloat16",
                                       "use_cache",
                                       "use_return_dict"};

/* Keys that may say this and nothing else. */
static const struct {
    const char *key, *value;
} neutral[] = {
    {"add_cross_attention", "false"},
    {"attention_bias", "false"},
    {"is_decoder", "false"},
    {"is_encoder_decoder", "false"},
    {"mlp_bias", "false"},
    {"partial_rotary_factor", "1.0"},
    {"pruned_heads", "{}"},
    {"rope_interleaved", "false"},
    {"tie_encoder_decoder", "false"},
    {"use_sliding_window", "false"},
    {"use_bidirectional_attention", "false"},
};

/* ---- reading keys ---- */

/* NULL: missing, or null. */
static const json_t *get(struct config *c, const char *key)
{
    const json_t *v = json_object_get(c->root, key);
    if (c->n_read < KEYS_MAX) c->read[c->n_read++] = key;
    return json_is_null(v) ? NULL : v;
}

static int get_int(struct config *c, const char *key, int max, int missing, int *out)
{
    const json_t *v = get(c, key);
    *out = missing;
    if (!v) return missing < 0 ? err_set(c->e, ERR_ENV, "%s is missing", key) : 0;
    if (!json_is_integer(v)) return err_set(c->e, ERR_ENV, "%s is not an integer", key);
    if (json_integer_value(v) < 1 || json_integer_value(v) > max)
        return err_set(c->e, ERR_ENV, "%s is %lld, expected 1 to %d", key, (long long)json_integer_value(v), max);
    *out = (int)json_integer_value(v);
    return 0;
}

static int number_of(const json_t *v, const char *key, double least, double most, double *out, err *e)
{
    if (!json_is_number(v)) return err_set(e, ERR_ENV, "%s is not a number", key);
    *out = json_number_value(v);
    if (!(*out >= least && *out <= most)) return err_set(e, ERR_ENV, "%s is %g, expected %g to %g", key, *out, least, most);
    return 0;
}

static int get_number(struct config *c, const char *key, double least, double most, double missing, double *out)
{
    const json_t *v = get(c, key);
    *out = missing;
    return v ? number_of(v, key, least, most, out, c->e) : 0;
}

static int get_bool(struct config *c, const char *key, bool missing, bool *out)
{
    const json_t *v = get(c, key);
    *out = v ? json_is_true(v) : missing;
    return v && !json_is_boolean(v) ? err_set(c->e, ERR_ENV, "%s is neither true nor false", key) : 0;
}

/* Text of a key in a form that a message can quote. */
struct quoted {
    char s[64];
};
static struct quoted quote(const char *s)
{
    struct quoted q;
    model_text(q.s, sizeof q.s, s, strlen(s));
    return q;
}

static int refuse_unknown(struct config *c)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)c->root, key, v)
    {
        bool known = json_is_null(v);
        size_t i;
        int k;
        for (k = 0; k < c->n_read && !known; k++) known = strcmp(c->read[k], key) == 0;
        for (i = 0; i < sizeof harmless / sizeof *harmless && !known; i++) known = strcmp(harmless[i], key) == 0;
        for (i = 0; i < sizeof neutral / sizeof *neutral && !known; i++) {
            json_t *only;
            if (strcmp(neutral[i].key, key) != 0) continue;
            only = json_loads(neutral[i].value, JSON_DECODE_ANY, NULL);
            known = json_equal(v, only) ||
                    (json_is_number(v) && json_is_number(only) && json_number_value(v) == json_number_value(only));
            json_decref(only);
            if (!known)
                return err_set(c->e, ERR_ENV, "%s is not supported in architecture '%s', except %s", key, c->l->m->arch,
                               neutral[i].value);
        }
        if (!known)
            return err_set(c->e, ERR_ENV, "key '%s' is not known for architecture '%s'; it may change the results",
                           quote(key).s, c->l->m->arch);
    }
    return 0;
}

/* ---- sizes ---- */

static int get_arch(struct config *c)
{
    const json_t *classes = get(c, "architectures"), *first = json_array_get(classes, 0);
    const char *type = json_string_value(json_object_get(c->root, "model_type"));
    if (!type) return err_set(c->e, ERR_ENV, "model_type is missing");
    model_text(c->l->m->arch, sizeof c->l->m->arch, type, strlen(type));
    c->l->arch = model_arch(c->l->m->arch, true, c->e);
    if (!c->l->arch) return -1;
    c->l->names = &c->l->arch->names;
    if (!classes) return 0;
    if (json_array_size(classes) != 1 || !json_is_string(first) || strcmp(json_string_value(first), c->l->arch->class) != 0)
        return err_set(c->e, ERR_ENV, "architectures is not [\"%s\"]", c->l->arch->class);
    return 0;
}

static int get_sizes(struct config *c)
{
    struct model *m = c->l->m;
    const struct arch *a = c->l->arch;
    const bool gpt2 = a->learned; /* the one family whose keys have names of their own */
    const char *eps_key = gpt2 ? "layer_norm_epsilon" : a->norm == NORM_LAYER ? "layer_norm_eps" : "rms_norm_eps";
    double eps;
    if (get_int(c, gpt2 ? "n_layer" : "num_hidden_layers", MODEL_LAYERS_MAX, -1, &m->n_layer) ||
        get_int(c, gpt2 ? "n_embd" : "hidden_size", MODEL_DIM_MAX, -1, &m->D) ||
        get_int(c, gpt2 ? "n_head" : "num_attention_heads", MODEL_DIM_MAX, -1, &m->H) ||
        get_int(c, gpt2 ? "n_positions" : "max_position_embeddings", MODEL_CONTEXT_MAX, -1, &m->n_ctx) ||
        get_int(c, "vocab_size", MODEL_DIM_MAX, -1, &m->V) || get_number(c, eps_key, 0, 1, a->missing.eps, &eps))
        return -1;
    if (gpt2 && m->D > MODEL_DIM_MAX / 4)
        return err_set(c->e, ERR_ENV, "n_embd is %d, expected up to %d", m->D, MODEL_DIM_MAX / 4);
    if (get_int(c, gpt2 ? "n_inner" : "intermediate_size", MODEL_DIM_MAX / 2, gpt2 ? 4 * m->D : -1, &m->F)) return -1;
    m->norm_eps = (float)eps;
    m->G = m->H;
    if (a->missing.head != HEAD_ALWAYS) {
        /* null means as many as query heads, a missing key what the architecture means */
        bool absent = !json_object_get(c->root, "num_key_value_heads") && a->missing.kv_heads;
        if (get_int(c, "num_key_value_heads", MODEL_DIM_MAX, absent ? a->missing.kv_heads : m->H, &m->G)) return -1;
        if (get_int(c, "head_dim", HEAD_MAX, a->missing.head, &m->E)) return -1;
    }
    return model_shape(c->l);
}

static int get_activation(struct config *c)
{
    static const struct {
        const char *name;
        enum activation activation;
    } names[] = {{"silu", ACTIVATION_SILU},           {"swish", ACTIVATION_SILU},
                 {"gelu", ACTIVATION_GELU_EXACT},     {"gelu_new", ACTIVATION_GELU_TANH},
                 {"gelu_fast", ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH}};
    static const char *const keys[] = {"hidden_act", "hidden_activation", "activation_function"};
    struct model *m = c->l->m;
    bool seen = false;
    size_t k, i;
    m->activation = c->l->arch->activation;
    for (k = 0; k < sizeof keys / sizeof *keys; k++) {
        const json_t *v;
        const char *name;
        if (!json_object_get(c->root, keys[k])) continue; /* it stays unknown */
        if (!(v = get(c, keys[k]))) continue;
        name = json_is_string(v) ? json_string_value(v) : "?";
        for (i = 0; i < sizeof names / sizeof *names && strcmp(names[i].name, name) != 0; i++) continue;
        if (i == sizeof names / sizeof *names || (!c->l->arch->gated && names[i].activation == ACTIVATION_SILU))
            return err_set(c->e, ERR_ENV, "%s '%s' is not supported", keys[k], quote(name).s);
        if (seen && m->activation != names[i].activation)
            return err_set(c->e, ERR_ENV, "%s '%s' is not what %s says", keys[k], quote(name).s, keys[0]);
        m->activation = names[i].activation;
        seen = true;
    }
    return 0;
}

static int get_biases(struct config *c)
{
    struct loader *l = c->l;
    const struct arch *a = l->arch;
    bool attention = false, ffn = false;
    if (a->o_bias == BIAS_MAY && get_bool(c, "attention_bias", a->missing.biased, &attention)) return -1;
    if (a->ffn_bias == BIAS_MAY && get_bool(c, "mlp_bias", a->missing.biased, &ffn)) return -1;
    l->qkv_bias = a->qkv_bias == BIAS_YES || attention;
    l->o_bias = a->o_bias == BIAS_YES || attention;
    l->ffn_bias = a->ffn_bias == BIAS_YES || ffn;
    return get_bool(c, "tie_word_embeddings", a->missing.tied, &l->tied);
}

/* ---- attention ---- */

/* null is no cap here, and a missing key is the architecture's. */
static int get_cap(struct config *c, const char *key, double missing, float *out)
{
    double cap;
    if (get_number(c, key, 1e-6, 1e6, json_object_get(c->root, key) ? 0 : missing, &cap)) return -1;
    *out = (float)cap;
    return 0;
}

static int get_scales(struct config *c)
{
    struct model *m = c->l->m;
    const struct arch *a = c->l->arch;
    bool scaled = true, by_layer = false;
    double scalar = m->E;
    int i;
    if (a->logit_cap && get_cap(c, "final_logit_softcapping", a->missing.logit_cap, &m->logit_cap)) return -1;
    if (a->score_cap && get_cap(c, "attn_logit_softcapping", a->missing.score_cap, &m->score_cap)) return -1;
    if (a->logit_cap && !a->score_cap) get(c, "attn_logit_softcapping"); /* gemma3 has the key, and nothing reads it */
    if (a->query_scalar && get_number(c, "query_pre_attn_scalar", 1e-6, 1e9, a->missing.scalar, &scalar)) return -1;
    if (a->learned &&
        (get_bool(c, "scale_attn_weights", true, &scaled) || get_bool(c, "scale_attn_by_inverse_layer_idx", false, &by_layer)))
        return -1;
    for (i = 0; i < m->n_layer; i++)
        m->layers[i].scale = (scaled ? 1.0f / sqrtf((float)scalar) : 1.0f) / (by_layer ? (float)(i + 1) : 1.0f);
    m->parallel = a->parallel;
    if (a->parallel) {
        bool parallel;
        if (get_bool(c, "use_parallel_residual", true, &parallel)) return -1;
        m->parallel = parallel;
    }
    return 0;
}

/* Whether layer i has a window, from layer_types or from the architecture's rule with `turn`: the first layer that has one
   (WINDOWS_UPPER) or the period of those that have none. */
static int has_window(struct config *c, const json_t *types, int i, int turn, bool *out)
{
    const char *type = json_string_value(json_array_get(types, (size_t)i));
    enum windows w = c->l->arch->windows;
    if (types) {
        if (!type || (strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0))
            return err_set(c->e, ERR_ENV, "layer_types: layer %d is neither full_attention nor sliding_attention", i);
        *out = type[0] == 's';
    } else {
        *out = w == WINDOWS_ALL || (w == WINDOWS_UPPER && i >= turn) || (w == WINDOWS_PERIOD && (i + 1) % turn != 0);
    }
    return 0;
}

/* *window 0: there is none. *turn: see has_window. */
static int get_window(struct config *c, int *window, int *turn)
{
    const struct arch *a = c->l->arch;
    bool use = true, absent = !json_object_get(c->root, "sliding_window");
    *window = *turn = 0;
    if (a->windows == WINDOWS_NONE) return 0;
    if (get_int(c, "sliding_window", MODEL_CONTEXT_MAX, absent ? a->missing.window : 0, window)) return -1;
    if (a->windows == WINDOWS_UPPER) {
        const json_t *first = get(c, "max_window_layers");
        if (get_bool(c, "use_sliding_window", false, &use)) return -1;
        if (first && (!json_is_integer(first) || json_integer_value(first) < 0 || json_integer_value(first) > INT32_MAX))
            return err_set(c->e, ERR_ENV, "max_window_layers is not a number of layers");
        *turn = first ? (int)json_integer_value(first) : 28;
        if (!use) *window = 0;
    }
    if (a->windows == WINDOWS_PERIOD) {
        *turn = a->missing.period;
        if (a->two_ropes && (get_int(c, "_sliding_window_pattern", MODEL_LAYERS_MAX, *turn, turn) ||
                             get_int(c, "sliding_window_pattern", MODEL_LAYERS_MAX, *turn, turn)))
            return -1;
    }
    return 0;
}

static int get_windows(struct config *c)
{
    struct model *m = c->l->m;
    const struct arch *a = c->l->arch;
    const json_t *types = get(c, "layer_types");
    int i, window, turn;
    bool has = false;
    if (types && json_array_size(types) != (size_t)m->n_layer)
        return err_set(c->e, ERR_ENV, "layer_types has %zu entries for %d layers", json_array_size(types), m->n_layer);
    if (get_window(c, &window, &turn)) return -1;
    for (i = 0; i < m->n_layer; i++) {
        if (has_window(c, types, i, turn, &has)) return -1;
        if (types && (a->windows == WINDOWS_NONE || a->windows == WINDOWS_ALL) && has != (window > 0))
            return err_set(c->e, ERR_ENV, "layer_types: layer %d is not as architecture '%s' has it", i, m->arch);
        if (has && !window && (types || a->windows == WINDOWS_PERIOD))
            return err_set(c->e, ERR_ENV, "layer %d has sliding attention, but there is no sliding_window", i);
        if (!has) continue;
        m->layers[i].window = window;
        m->layers[i].rope = a->two_ropes;
    }
    return 0;
}

/* ---- rotary embedding ---- */

struct rope_settings {
    double base, rotary, factor, low, high, original;
    enum { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 } type;
};

static int rope_type(const json_t *p, struct rope_settings *r, err *e)
{
    const json_t *v = json_object_get(p, "rope_type");
    const char *type;
    if (!v || json_is_null(v)) v = json_object_get(p, "type");
    if (!v || json_is_null(v)) return 0;
    type = json_is_string(v) ? json_string_value(v) : "?";
    if (strcmp(type, "default") == 0)
        r->type = ROPE_DEFAULT;
    else if (strcmp(type, "linear") == 0)
        r->type = ROPE_LINEAR;
    else if (strcmp(type, "llama3") == 0)
        r->type = ROPE_LLAMA3;
    else
        return err_set(e, ERR_ENV, "rope scaling '%s' is not supported (supported: default, linear, llama3)", quote(type).s);
    return 0;
}

/* Adds what an object of rotary parameters (NULL: nothing) says. */
static int rope_read(struct config *c, const json_t *p, struct rope_settings *r)
{
    const struct {
        const char *key;
        double least, most, *to;
    } numbers[] = {{"rope_theta", 1, 1e15, &r->base},
                   {"partial_rotary_factor", 0, 1, &r->rotary},
                   {"factor", 1, 1e6, &r->factor},
                   {"low_freq_factor", 1e-6, 1e6, &r->low},
                   {"high_freq_factor", 1e-6, 1e6, &r->high},
                   {"original_max_position_embeddings", 1, MODEL_CONTEXT_MAX, &r->original}};
    const char *key;
    json_t *v;
    size_t i;
    if (!p || json_is_null(p)) return 0;
    if (!json_is_object(p)) return err_set(c->e, ERR_ENV, "rotary parameters are not an object");
    if (rope_type(p, r, c->e)) return -1;
    json_object_foreach((json_t *)p, key, v)
    {
        if (json_is_null(v) || strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0) continue;
        for (i = 0; i < sizeof numbers / sizeof *numbers && strcmp(numbers[i].key, key) != 0; i++) continue;
        if (i == sizeof numbers / sizeof *numbers)
            return err_set(c->e, ERR_ENV, "rotary parameter '%s' is not known; it may change the results", quote(key).s);
        if (number_of(v, key, numbers[i].least, numbers[i].most, numbers[i].to, c->e)) return -1;
    }
    if (!c->l->arch->partial && r->rotary != 1)
        return err_set(c->e, ERR_ENV, "partial_rotary_factor is not supported in architecture '%s', except 1.0", c->l->m->arch);
    if (r->type != ROPE_DEFAULT && r->factor == 0) return err_set(c->e, ERR_ENV, "rope scaling has no factor");
    if (r->type == ROPE_LLAMA3 && !(r->low > 0 && r->high > r->low))
        return err_set(c->e, ERR_ENV, "rope scaling 'llama3' needs low_freq_factor below high_freq_factor");
    return 0;
}

/* Grattafiori et al. 2024 (Llama 3.1): long waves are stretched, short ones kept, those between mixed. */
static float llama3(float freq, const struct rope_settings *r)
{
    double wave = 2 * 3.14159265358979323846 / freq, smooth = (r->original / wave - r->low) / (r->high - r->low);
    if (wave < r->original / r->high) return freq;
    if (wave > r->original / r->low) return (float)(freq / r->factor);
    return (float)((1 - smooth) * freq / r->factor + smooth * freq);
}

static int rope_apply(struct config *c, int which, const struct rope_settings *r)
{
    struct model *m = c->l->m;
    float *freqs;
    int i;
    m->n_rot = (int)(m->E * r->rotary);
    if (m->n_rot < 2 || m->n_rot % 2) return err_set(c->e, ERR_ENV, "%d elements of a head cannot turn in pairs", m->n_rot);
    freqs = model_freqs(m, which, r->base);
    for (i = 0; i < m->n_rot / 2; i++) {
        if (r->type == ROPE_LINEAR) freqs[i] /= (float)r->factor;
        if (r->type == ROPE_LLAMA3) freqs[i] = llama3(freqs[i], r);
    }
    return 0;
}

/* One object for each type of layer, under the type's name. */
static int rope_read_both(struct config *c, const json_t *p, struct rope_settings *all, struct rope_settings *local)
{
    const char *key;
    json_t *v;
    if (!json_is_object(p)) return err_set(c->e, ERR_ENV, "rotary parameters are not an object");
    json_object_foreach((json_t *)p, key, v)
    {
        if (strcmp(key, "full_attention") != 0 && strcmp(key, "sliding_attention") != 0 && !json_is_null(v))
            return err_set(c->e, ERR_ENV, "rope_parameters: '%s' is not a type of layer", quote(key).s);
    }
    return rope_read(c, json_object_get(p, "full_attention"), all) ||
                   rope_read(c, json_object_get(p, "sliding_attention"), local)
               ? -1
               : 0;
}

static int get_rope(struct config *c)
{
    const struct arch *a = c->l->arch;
    const bool neox = a->norm == NORM_LAYER; /* whose keys had other names */
    const json_t *parameters, *scaling;
    struct rope_settings all = {.rotary = 1}, local;
    double original;
    if (a->learned) return 0;
    parameters = get(c, "rope_parameters");
    scaling = get(c, "rope_scaling");
    if (parameters && scaling) return err_set(c->e, ERR_ENV, "rope_parameters and rope_scaling are both there");
    if (get_number(c, neox ? "rotary_emb_base" : "rope_theta", 1, 1e15, a->missing.base, &all.base) ||
        get_number(c, "original_max_position_embeddings", 1, MODEL_CONTEXT_MAX, 0, &original))
        return -1;
    if (a->partial && get_number(c, neox ? "rotary_pct" : "partial_rotary_factor", 0, 1, a->missing.rotary, &all.rotary))
        return -1;
    all.original = c->l->m->n_ctx;
    local = all;
    if (a->two_ropes && get_number(c, "rope_local_base_freq", 1, 1e15, a->missing.local_base, &local.base)) return -1;
    if (a->two_ropes && parameters ? rope_read_both(c, parameters, &all, &local)
                                   : rope_read(c, parameters ? parameters : scaling, &all))
        return -1;
    if (original > 0) all.original = local.original = original; /* beside the parameters it is the stronger one */
    if (rope_apply(c, 0, &all) || (a->two_ropes && rope_apply(c, 1, &local))) return -1;
    return model_check_freqs(c->l);
}

int config_settings(struct loader *l, const char *text, size_t n)
{
    json_error_t problem;
    json_t *root;
    struct config c = {.l = l, .e = l->e};
    int rc = -1;
    if (n > CONFIG_MAX) {
        err_set(l->e, ERR_ENV, "%zu bytes, at most %d are allowed", n, CONFIG_MAX);
        return err_in(l->e, "config.json");
    }
    c.root = root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &problem);
    if (!root)
        err_set(l->e, ERR_ENV, "not valid JSON (line %d, column %d)", problem.line, problem.column);
    else if (!json_is_object(root))
        err_set(l->e, ERR_ENV, "not a JSON object");
    else if (get_arch(&c) || get_sizes(&c) || get_activation(&c) || get_biases(&c) || get_scales(&c) || get_windows(&c) ||
             get_rope(&c) || refuse_unknown(&c))
        ;
    else
        rc = 0;
    json_decref(root);
    return rc ? err_in(l->e, "config.json") : 0;
}
