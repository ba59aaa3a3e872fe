/* state_config.c: the state of a model from its config.json: dense attention and MLA; state_recurrent.c and state_hybrid.c read
 * the others. Names of keys and what a missing one means: transformers 5.23, models/NAME/configuration_NAME.py.
 *
 * A model_type that is not in a table here is an error: keys of the same name have meant different things. So is a key that is
 * known to change the state where it is not counted (cache sharing between layers, chunked attention).
 */
#include "state_in.h"

#include <stdio.h>
#include <string.h>

/* NONE: no layer. ALL: every one, if sliding_window is set. UPPER: from max_window_layers on, if use_sliding_window. IF_TOLD:
   all, if use_sliding_window. PERIOD: all but each period-th. LIST: only as layer_types says. */
enum windows { WINDOW_NONE, WINDOW_ALL, WINDOW_UPPER, WINDOW_IF_TOLD, WINDOW_PERIOD, WINDOW_LIST };
enum heads { HEADS_KV, HEADS_ALL, HEADS_BIGCODE, HEADS_FALCON, HEADS_MPT, HEADS_DBRX };

struct names {
    const char *layers, *width, *heads; /* "new|old": the first that is there */
};
static const struct names usual = {"num_hidden_layers", "hidden_size", "num_attention_heads"};
static const struct names gpt2 = {"n_layer", "n_embd", "n_head"};
static const struct names bloom = {"n_layer|num_hidden_layers", "hidden_size|n_embed", "n_head|num_attention_heads"};
static const struct names falcon = {"num_hidden_layers|n_layer", "hidden_size|n_embed", "num_attention_heads|n_head"};
static const struct names mpt = {"n_layers", "d_model", "n_heads"};

struct family {
    const char *type;
    const struct names *names;
    enum heads kind;
    int kv, head; /* what a missing num_key_value_heads or head_dim means; 0: as many as heads, width / heads */
    enum windows windows;
    int window, period; /* what a missing sliding_window means; the period if no key says it */
    const char *period_key;
    int heads; /* what a missing num_attention_heads means; 0: it may not be missing */
};

static const struct family families[] = {
    {"apertus", &usual},
    {"arcee", &usual},
    {"biogpt", &usual, HEADS_ALL},
    {"bitnet", &usual, .kv = 5},
    {"bloom", &bloom, HEADS_ALL},
    {"codegen", &gpt2, HEADS_ALL},
    {"cohere", &usual},
    {"cohere2", &usual, .windows = WINDOW_PERIOD, .window = 4096, .period = 4, .period_key = "sliding_window_pattern"},
    {"dbrx", &mpt, HEADS_DBRX},
    {"ernie4_5", &usual, .kv = 2, .head = 128},
    {"exaone4", &usual, .kv = 32, .windows = WINDOW_PERIOD, .window = 4096, .period = 4,
     .period_key = "sliding_window_pattern"},
    {"falcon", &falcon, HEADS_FALCON},
    {"gemma", &usual, .kv = 16, .head = 256},
    {"gemma2", &usual, .kv = 4, .head = 256, .windows = WINDOW_PERIOD, .window = 4096, .period = 2},
    {"gemma3_text", &usual, .kv = 4, .head = 256, .windows = WINDOW_PERIOD, .window = 4096, .period = 6,
     .period_key = "sliding_window_pattern|_sliding_window_pattern", .heads = 8},
    {"glm", &usual, .kv = 2, .head = 128},
    {"glm4", &usual, .kv = 2, .head = 128},
    {"glm4_moe", &usual, .kv = 8},
    {"gpt2", &gpt2, HEADS_ALL},
    {"gpt_bigcode", &gpt2, HEADS_BIGCODE},
    {"gpt_neox", &usual, HEADS_ALL},
    {"gpt_oss", &usual, .kv = 8, .head = 64, .windows = WINDOW_PERIOD, .window = 128, .period = 2},
    {"gptj", &gpt2, HEADS_ALL},
    {"granite", &usual},
    {"granitemoe", &usual},
    {"helium", &usual, .kv = 20, .head = 128},
    {"hunyuan_v1_dense", &usual},
    {"internlm3", &usual, .kv = 2, .head = 128},
    {"llama", &usual},
    {"minicpm", &usual},
    {"ministral", &usual, .kv = 8, .windows = WINDOW_ALL, .window = 4096},
    {"mistral", &usual, .kv = 8, .windows = WINDOW_ALL, .window = 4096},
    {"mixtral", &usual, .kv = 8, .windows = WINDOW_ALL},
    {"mpt", &mpt, HEADS_MPT},
    {"nemotron", &usual},
    {"olmo", &usual},
    {"olmo2", &usual},
    {"olmo3", &usual, .windows = WINDOW_PERIOD, .window = 4096, .period = 4},
    {"olmoe", &usual},
    {"opt", &usual, HEADS_ALL},
    {"persimmon", &usual, HEADS_ALL},
    {"phi", &usual},
    {"phi3", &usual, .windows = WINDOW_ALL},
    {"phimoe", &usual, .kv = 8, .windows = WINDOW_ALL},
    {"qwen2", &usual, .kv = 32, .windows = WINDOW_UPPER, .window = 4096},
    {"qwen2_moe", &usual, .kv = 16, .windows = WINDOW_LIST, .window = 4096}, /* its rule has changed between versions */
    {"qwen3", &usual, .kv = 32, .head = 128, .windows = WINDOW_UPPER, .window = 4096},
    {"qwen3_moe", &usual, .kv = 4, .windows = WINDOW_IF_TOLD, .window = 4096},
    {"seed_oss", &usual, .kv = 8, .head = 128},
    {"smollm3", &usual, .kv = 4, .windows = WINDOW_LIST},
    {"stablelm", &usual, .kv = 32},
    {"starcoder2", &usual, .kv = 2, .windows = WINDOW_ALL},
};

/* Latent attention: deepseek_v3 and what is built like it. */
static const char *const latent[] = {"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "minicpm3"};

/* Keys of other kinds of state. */
static const char *const foreign[] = {
    "attention_chunk_size",
    "attn_layer_period",
    "block_types",
    "cla_share_factor",
    "cross_attention_layers",
    "index_head_dim",
    "is_encoder_decoder",
    "kv_lora_rank",
    "layers_block_type",
    "linear_num_value_heads",
    "mamba_d_state",
    "num_kv_shared_layers",
    "hybrid_override_pattern",
    "ssm_cfg",
    "use_cla",
};

/* ---- sizes ---- */

/* The first key of "a|b" that is there, else the first. */
static const char *pick(const struct state_json *j, const char *names, char key[64])
{
    const char *at = names;
    size_t n = strcspn(names, "|");
    for (; *at; at += n + (at[n] == '|')) {
        n = strcspn(at, "|");
        snprintf(key, 64, "%.*s", (int)n, at);
        if (state_key(j, key)) return key;
    }
    snprintf(key, 64, "%.*s", (int)strcspn(names, "|"), names);
    return key;
}

static int picked(const struct state_json *j, const char *names, int max, int missing, int *out)
{
    char key[64];
    return state_int(j, pick(j, names, key), max, missing, out);
}

/* A key of the object attn_config. */
static int inner_int(const struct state_json *j, const char *key, int *out)
{
    struct state_json inner = {state_key(j, "attn_config"), j->s, j->e};
    return state_dim(&inner, key, -1, out) ? err_in(j->e, "attn_config") : 0;
}

/* Kv heads, of H query heads. */
static int kv_heads(const struct state_json *j, const struct family *f, int H, int *G)
{
    const char *type;
    bool multi, grouped;
    *G = H;
    switch (f->kind) {
    case HEADS_KV:
        return state_dim(j, "num_key_value_heads", f->kv && !json_object_get(j->root, "num_key_value_heads") ? f->kv : H, G);
    case HEADS_BIGCODE:
        if (state_bool(j, "multi_query", true, &multi)) return -1;
        if (multi) *G = 1;
        return 0;
    case HEADS_FALCON: /* FalconAttention.__init__; transformers' cache holds expanded heads, which say nothing more */
        if (state_bool(j, "multi_query", true, &multi) || state_bool(j, "new_decoder_architecture", false, &grouped)) return -1;
        if (!grouped && multi) *G = 1;
        return !grouped && multi ? 0 : state_dim(j, "num_kv_heads", H, G);
    case HEADS_MPT:
        type = json_string_value(json_object_get(state_key(j, "attn_config"), "attn_type"));
        if (!type || strcmp(type, "multihead_attention") == 0) return 0;
        return err_set(j->e, ERR_ENV, "attn_config: attn_type is not multihead_attention");
    case HEADS_DBRX: return inner_int(j, "kv_n_heads", G);
    case HEADS_ALL: break;
    }
    if (state_dim(j, "num_key_value_heads", H, G)) return -1;
    return *G == H ? 0
                   : err_set(j->e, ERR_ENV, "num_key_value_heads is %d for %d heads; model_type '%s' knows no kv heads", *G, H,
                             f->type);
}

static int head_size(const struct state_json *j, const struct family *f, int D, int H, int *E)
{
    if (f->names == &usual && state_key(j, "head_dim")) return state_dim(j, "head_dim", -1, E);
    *E = f->head ? f->head : D / H;
    if (!f->head && D % H)
        return err_set(j->e, ERR_ENV, "a width of %d is no multiple of %d heads, and no head_dim is given", D, H);
    return 0;
}

/* ---- windows ---- */

struct window {
    int size; /* 0: none */
    int first, period;
    enum windows rule;
    const json_t *types; /* layer_types, or NULL */
};

static int read_period(const struct state_json *j, const struct family *f, int *period)
{
    char key[64];
    *period = f->period;
    if (!f->period_key || !state_key(j, pick(j, f->period_key, key))) return 0;
    return state_int(j, key, STATE_LAYERS_MAX, -1, period);
}

/* The first layer with a window. */
static int read_first(const struct state_json *j, int *first)
{
    const json_t *v = state_key(j, "max_window_layers");
    *first = 0;
    if (json_is_integer(v) && json_integer_value(v) == 0) return 0;
    return state_int(j, "max_window_layers", STATE_LAYERS_MAX, 28, first);
}

static int read_window(const struct state_json *j, const struct family *f, int layers, struct window *w)
{
    bool told, absent = !json_object_get(j->root, "sliding_window");
    bool must_tell = f->windows == WINDOW_UPPER || f->windows == WINDOW_IF_TOLD || f->windows == WINDOW_LIST;
    *w = (struct window){.rule = f->windows};
    if (state_key(j, "layer_types") && state_types(j, "layer_types", layers, &w->types)) return -1;
    if (state_bool(j, "use_sliding_window", !must_tell || w->types, &told)) return -1;
    if (!told) return w->rule = WINDOW_NONE, 0;
    if (f->windows == WINDOW_NONE && !w->types) return state_refuse(j, "sliding_window");
    if (state_int(j, "sliding_window", STATE_CONTEXT_MAX, absent ? f->window : 0, &w->size)) return -1;
    if (f->windows == WINDOW_LIST && !w->types)
        return err_set(j->e, ERR_ENV, "use_sliding_window is true and layer_types is missing");
    if (f->windows == WINDOW_UPPER) return read_first(j, &w->first);
    return f->windows == WINDOW_PERIOD ? read_period(j, f, &w->period) : 0;
}

/* Window of layer i; 0: none. */
static int window_of(const struct state_json *j, const struct window *w, int i, int *size)
{
    const char *type = json_string_value(json_array_get(w->types, (size_t)i));
    *size = 0;
    if (type && strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0)
        return err_set(j->e, ERR_ENV, "layer_types: layer %d is neither full_attention nor sliding_attention", i);
    if (type && type[0] == 's' && !w->size)
        return err_set(j->e, ERR_ENV, "layer_types: layer %d is sliding_attention, but sliding_window is missing", i);
    if (type ? type[0] == 's'
             : w->rule == WINDOW_ALL || w->rule == WINDOW_IF_TOLD || (w->rule == WINDOW_UPPER && i >= w->first) ||
                   (w->rule == WINDOW_PERIOD && (i + 1) % w->period != 0))
        *size = w->size;
    return 0;
}

/* GPT-Neo: attention_types [[["global", "local"], 12]], window_size. */
static int read_neo(const struct state_json *j)
{
    const json_t *runs = state_key(j, "attention_types");
    int layers, D, H, window, done = 0;
    size_t r, k;
    if (state_int(j, "num_layers", STATE_LAYERS_MAX, -1, &layers) || state_dim(j, "hidden_size", -1, &D) ||
        state_dim(j, "num_heads", -1, &H) || state_int(j, "window_size", STATE_CONTEXT_MAX, 256, &window))
        return -1;
    if (D % H) return err_set(j->e, ERR_ENV, "hidden_size %d is no multiple of num_heads %d", D, H);
    if (!json_is_array(runs)) return err_set(j->e, ERR_ENV, "attention_types is missing or no list");
    for (r = 0; r < json_array_size(runs); r++) {
        const json_t *run = json_array_get(runs, r), *kinds = json_array_get(run, 0);
        json_int_t times = json_integer_value(json_array_get(run, 1));
        for (; times > 0 && done < layers && json_array_size(kinds); times--)
            for (k = 0; k < json_array_size(kinds) && done < layers; k++, done++) {
                const char *kind = json_string_value(json_array_get(kinds, k));
                struct state_part p;
                if (!kind || (strcmp(kind, "global") != 0 && strcmp(kind, "local") != 0))
                    return err_set(j->e, ERR_ENV, "attention_types: layer %d is neither global nor local", done);
                if (state_attention(&p, H, D / H, D / H, kind[0] == 'l' ? window : 0, j->e) || state_add(j->s, &p, j->e))
                    return -1;
            }
    }
    j->s->layers = layers;
    return done == layers ? 0 : err_set(j->e, ERR_ENV, "attention_types has %d layers of %d", done, layers);
}

/* ---- readers ---- */

static int read_attention(const struct state_json *j, const struct family *f)
{
    int layers, D, H, G, E, size, i;
    struct window w;
    struct state_part p;
    if (picked(j, f->names->layers, STATE_LAYERS_MAX, -1, &layers) || picked(j, f->names->width, STATE_DIM_MAX, -1, &D) ||
        picked(j, f->names->heads, STATE_DIM_MAX, f->heads ? f->heads : -1, &H) || kv_heads(j, f, H, &G) ||
        head_size(j, f, D, H, &E) || read_window(j, f, layers, &w))
        return -1;
    for (i = 0; i < layers; i++)
        if (window_of(j, &w, i, &size) || state_attention(&p, G, E, E, size, j->e) || state_add(j->s, &p, j->e)) return -1;
    j->s->layers = layers;
    return 0;
}

static int read_latent(const struct state_json *j)
{
    int layers, H, rank, rope, nope, value, i;
    struct state_part p;
    if (state_int(j, "num_hidden_layers", STATE_LAYERS_MAX, -1, &layers) || state_dim(j, "num_attention_heads", -1, &H) ||
        state_dim(j, "kv_lora_rank", -1, &rank) || state_dim(j, "qk_rope_head_dim", -1, &rope) ||
        state_dim(j, "qk_nope_head_dim", -1, &nope) || state_dim(j, "v_head_dim", -1, &value) ||
        state_mla(&p, rank, rope, H, nope, value, j->e))
        return -1;
    for (i = 0; i < layers; i++)
        if (state_add(j->s, &p, j->e)) return -1;
    j->s->layers = layers;
    return 0;
}

static const struct family *family_of(const char *type)
{
    size_t i;
    for (i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].type, type) == 0) return &families[i];
    return NULL;
}

static bool is_latent(const char *type)
{
    size_t i;
    for (i = 0; i < sizeof latent / sizeof *latent; i++)
        if (strcmp(latent[i], type) == 0) return true;
    return false;
}

/* Every family but the recurrent and mixed ones. */
static int read_dense(const struct state_json *j, const char *type)
{
    const struct family *f = family_of(type);
    bool mla = is_latent(type);
    size_t i;
    for (i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (!(mla && strcmp(foreign[i], "kv_lora_rank") == 0) && state_refuse(j, foreign[i])) return -1;
    if (f) return read_attention(j, f);
    return mla ? read_latent(j) : read_neo(j);
}

static int context_of(const struct state_json *j)
{
    static const char *const keys[] = {
        "max_position_embeddings", "n_positions", "context_length", "n_ctx", "max_seq_len", "seq_length"};
    size_t i;
    for (i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_int_t n = json_integer_value(state_key(j, keys[i]));
        if (n >= 1 && n <= STATE_CONTEXT_MAX) return (int)n;
    }
    return 0;
}

int state_config(struct state *s, const json_t *root, err *e)
{
    const json_t *text = json_object_get(root, "text_config");
    struct state_json j = {json_is_object(text) ? text : root, s, e};
    const char *type;
    int rc;
    if (!json_is_object(root)) return err_set(e, ERR_ENV, "the config is no JSON object");
    type = json_string_value(state_key(&j, "model_type"));
    if (!type && state_key(&j, "ssm_cfg")) type = "mamba_ssm"; /* configs of the mamba_ssm package name no type */
    if (!type) return err_set(e, ERR_ENV, "model_type is missing");
    state_text(s->arch, sizeof s->arch, type, strlen(type));
    s->context = context_of(&j);
    if (family_of(type) || is_latent(type) || strcmp(type, "gpt_neo") == 0) return read_dense(&j, type);
    rc = state_recurrent(&j, type);
    if (rc == 1) rc = state_hybrid(&j, type);
    return rc == 1 ? err_set(e, ERR_ENV, "model_type '%s' is not one whose state can be counted", s->arch) : rc;
}
