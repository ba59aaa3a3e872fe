/* state_gguf.c: the state of a model from the metadata of its GGUF file, also of architectures that the engine cannot run.
 *
 * Names of keys: gguf-py, constants.py (Keys.Attention, Keys.SSM, Keys.WKV); what they mean for the state: llama.cpp,
 * llama-hparams.cpp (n_embd_k_gqa, n_embd_r, n_embd_s) and llama-model.cpp, load_hparams (windows, recurrent layers). A model's
 * GGUF file and its config.json give the same numbers.
 */
#include "state_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind {
    KIND_DENSE,
    KIND_LATENT,
    KIND_MAMBA,
    KIND_MAMBA2,
    KIND_RWKV,
    KIND_JAMBA,
    KIND_GRANITE,
    KIND_FALCON_H1,
    KIND_NEMOTRON
};
enum windows { WINDOW_NONE, WINDOW_ALL, WINDOW_PERIOD };

struct arch_state {
    const char *arch;
    enum kind kind;
    enum windows windows;
    int period, window; /* window: what a missing attention.sliding_window means */
    bool optional;      /* it means that there are none */
};

static const struct arch_state archs[] = {
    {"arcee"},
    {"arwkv7", KIND_RWKV},
    {"baichuan"},
    {"bitnet"},
    {"bloom"},
    {"codeshell"},
    {"cohere2", KIND_DENSE, WINDOW_PERIOD, 4},
    {"command-r"},
    {"dbrx"},
    {"deepseek"},
    {"deepseek2", KIND_LATENT},
    {"ernie4_5"},
    {"exaone"},
    {"exaone4", KIND_DENSE, WINDOW_PERIOD, 4, .optional = true},
    {"falcon"},
    {"falcon-h1", KIND_FALCON_H1},
    {"gemma"},
    {"gemma2", KIND_DENSE, WINDOW_PERIOD, 2, 4096},
    {"gemma3", KIND_DENSE, WINDOW_PERIOD, 6},
    {"gpt-oss", KIND_DENSE, WINDOW_PERIOD, 2},
    {"gpt2"},
    {"gptj"},
    {"gptneox"},
    {"granite"},
    {"granitehybrid", KIND_GRANITE},
    {"granitemoe"},
    {"hunyuan-dense"},
    {"internlm2"},
    {"jamba", KIND_JAMBA},
    {"llama"},
    {"mamba", KIND_MAMBA},
    {"mamba2", KIND_MAMBA2},
    {"minicpm"},
    {"minicpm3", KIND_LATENT},
    {"mpt"},
    {"nemotron"},
    {"nemotron_h", KIND_NEMOTRON},
    {"olmo"},
    {"olmo2", KIND_DENSE, WINDOW_PERIOD, 4, .optional = true},
    {"olmoe"},
    {"orion"},
    {"phi2"},
    {"phi3", KIND_DENSE, WINDOW_ALL, .optional = true},
    {"qwen"},
    {"qwen2"},
    {"qwen2moe"},
    {"qwen3"},
    {"qwen3moe"},
    {"refact"},
    {"rwkv6", KIND_RWKV},
    {"rwkv6qwen2", KIND_RWKV},
    {"rwkv7", KIND_RWKV},
    {"seed_oss"},
    {"smollm3"},
    {"stablelm"},
    {"starcoder"},
    {"starcoder2"},
    {"xverse"},
};

/* Keys that change the state in ways which are not counted for a dense model. */
static const char *const foreign[] = {"attention.kv_lora_rank", "attention.shared_kv_layers",
                                      "attention.chunk_size",   "attention.indexer.key_length",
                                      "ssm.inner_size",         "wkv.head_size",
                                      "shortconv.l_cache"};

struct meta {
    const gguf *g;
    struct state *s;
    err *e;
    char key[160]; /* the last one asked for */
    int layers, D;
    int heads[STATE_LAYERS_MAX], kv[STATE_LAYERS_MAX], ffn[STATE_LAYERS_MAX], windows[STATE_LAYERS_MAX];
};

/* ---- keys ---- */

static const char *key_of(struct meta *m, const char *name)
{
    snprintf(m->key, sizeof m->key, "%s.%s", m->s->arch, name);
    return m->key;
}

static bool has(struct meta *m, const char *name)
{
    return gguf_has(m->g, key_of(m, name));
}

/* An error if the key is there and not 0. */
static int refuse(struct meta *m, const char *name)
{
    uint64_t u;
    err none = {0};
    if (!has(m, name) || (gguf_u64(m->g, m->key, &u, &none) == 0 && u == 0)) return 0;
    return err_set(m->e, ERR_ENV, "%s is not counted for architecture '%s'", m->key, m->s->arch);
}

/* An integer of 1..max; missing < 0: an error that names the key. */
static int get(struct meta *m, const char *name, int max, int missing, int *out)
{
    uint64_t u;
    *out = missing;
    if (!has(m, name) && missing >= 0) return 0;
    if (gguf_u64(m->g, m->key, &u, m->e)) return -1;
    if (u < 1 || u > (uint64_t)max)
        return err_set(m->e, ERR_ENV, "%s is %llu, expected 1 to %d", m->key, (unsigned long long)u, max);
    *out = (int)u;
    return 0;
}

static int get_dim(struct meta *m, const char *name, int missing, int *out)
{
    return get(m, name, STATE_DIM_MAX, missing, out);
}

/* One number for all layers, or a list with one for each; 0 is allowed here. missing: (layers) or NULL. */
static int get_by_layer(struct meta *m, const char *name, const int *missing, int *out)
{
    int32_t *list = NULL;
    uint64_t u;
    size_t n = 0, i;
    int rc = 0;
    if (!has(m, name) && missing) {
        memcpy(out, missing, (size_t)m->layers * sizeof *out);
        return 0;
    }
    if (gguf_array_len(m->g, m->key) < 0) {
        if (gguf_u64(m->g, m->key, &u, m->e)) return -1;
        if (u > STATE_DIM_MAX)
            return err_set(m->e, ERR_ENV, "%s is %llu, expected up to %d", m->key, (unsigned long long)u, STATE_DIM_MAX);
        for (i = 0; i < (size_t)m->layers; i++) out[i] = (int)u;
        return 0;
    }
    if (gguf_i32s(m->g, m->key, &list, &n, m->e)) return -1;
    if (n < (size_t)m->layers) rc = err_set(m->e, ERR_ENV, "%s has %zu entries for %d layers", m->key, n, m->layers);
    for (i = 0; rc == 0 && i < (size_t)m->layers; i++) {
        if (list[i] < 0 || list[i] > STATE_DIM_MAX)
            rc = err_set(m->e, ERR_ENV, "%s: layer %zu has %d, expected 0 to %d", m->key, i, (int)list[i], STATE_DIM_MAX);
        out[i] = list[i];
    }
    free(list);
    return rc;
}

/* ---- attention ---- */

/* The window of each layer; 0: it keeps everything. */
static int read_windows(struct meta *m, const struct arch_state *a)
{
    const char *pattern = "attention.sliding_window_pattern";
    int window, i, period = a->period;
    if (a->windows == WINDOW_NONE) return refuse(m, "attention.sliding_window");
    if (get(m, "attention.sliding_window", STATE_CONTEXT_MAX, a->optional ? 0 : a->window ? a->window : -1, &window)) return -1;
    if (has(m, pattern) && gguf_array_len(m->g, m->key) >= 0) {
        if (get_by_layer(m, pattern, NULL, m->windows)) return -1;
        for (i = 0; i < m->layers; i++) m->windows[i] = m->windows[i] ? window : 0;
        return 0;
    }
    if (get(m, pattern, STATE_LAYERS_MAX, period, &period)) return -1;
    for (i = 0; i < m->layers; i++) m->windows[i] = a->windows == WINDOW_ALL || (i + 1) % period ? window : 0;
    return 0;
}

/* Attention of layer i, which has kv heads. */
static int add_kv(struct meta *m, int i, int window)
{
    struct state_part p;
    int H = m->heads[i], key, value;
    if (H < 1) return err_set(m->e, ERR_ENV, "layer %d has kv heads and no heads", i);
    if (!has(m, "attention.key_length") && m->D % H)
        return err_set(m->e, ERR_ENV, "%s is missing, and %d heads do not divide %d", m->key, H, m->D);
    key = m->D / H ? m->D / H : 1;
    value = key;
    if (get_dim(m, "attention.key_length", key, &key) || get_dim(m, "attention.value_length", value, &value)) return -1;
    return state_attention(&p, m->kv[i], key, value, window, m->e) || state_add(m->s, &p, m->e) ? -1 : 0;
}

static int read_dense(struct meta *m, const struct arch_state *a)
{
    size_t k;
    int i;
    for (k = 0; k < sizeof foreign / sizeof *foreign; k++)
        if (refuse(m, foreign[k])) return -1;
    if (read_windows(m, a)) return -1;
    for (i = 0; i < m->layers; i++) {
        if (m->kv[i] == 0) return err_set(m->e, ERR_ENV, "layer %d has no kv heads", i);
        if (add_kv(m, i, m->windows[i])) return -1;
    }
    return 0;
}

/* Newer files describe the latent vector in key_length and give the heads' own sizes in *_mla; older ones have them in
 * key_length. */
static int read_latent(struct meta *m)
{
    bool mla = has(m, "attention.key_length_mla");
    int rank, rope, key, value, i;
    struct state_part p;
    if (get_dim(m, "attention.kv_lora_rank", -1, &rank) || get_dim(m, "rope.dimension_count", -1, &rope) ||
        get_dim(m, mla ? "attention.key_length_mla" : "attention.key_length", -1, &key) ||
        get_dim(m, mla ? "attention.value_length_mla" : "attention.value_length", -1, &value))
        return -1;
    if (rope >= key) return err_set(m->e, ERR_ENV, "rotary size %d is not below the key's %d", rope, key);
    for (i = 0; i < m->layers; i++) {
        if (m->heads[i] < 1) return err_set(m->e, ERR_ENV, "layer %d has no heads", i);
        if (state_mla(&p, rank, rope, m->heads[i], key - rope, value, m->e) || state_add(m->s, &p, m->e)) return -1;
    }
    return 0;
}

/* ---- recurrent layers ---- */

static int mixer(struct meta *m, bool two, struct state_part *p)
{
    int inner, states, conv, heads, groups;
    if (get_dim(m, "ssm.inner_size", -1, &inner) || get_dim(m, "ssm.state_size", -1, &states) ||
        get_dim(m, "ssm.conv_kernel", -1, &conv))
        return -1;
    if (!two) return state_mamba(p, inner, states, conv, m->e);
    if (get_dim(m, "ssm.time_step_rank", -1, &heads) || get_dim(m, "ssm.group_count", -1, &groups)) return -1;
    if (inner % heads) return err_set(m->e, ERR_ENV, "%d heads do not divide the inner width %d", heads, inner);
    return state_mamba2(p, heads, inner / heads, states, groups, conv, m->e);
}

/* Layers without kv heads are recurrent; Falcon-H1's are both, Nemotron-H's with a feed-forward part are neither. */
static int read_mixed(struct meta *m, enum kind kind)
{
    bool two = kind != KIND_MAMBA && kind != KIND_JAMBA;
    struct state_part p;
    int i;
    if (mixer(m, two, &p)) return -1;
    for (i = 0; i < m->layers; i++) {
        bool kv = kind != KIND_MAMBA && kind != KIND_MAMBA2 && m->kv[i] > 0;
        bool recurrent = kind == KIND_FALCON_H1 || (!kv && !(kind == KIND_NEMOTRON && m->ffn[i] > 0));
        if ((kv && add_kv(m, i, 0)) || (recurrent && state_add(m->s, &p, m->e))) return -1;
    }
    return 0;
}

static int read_rwkv(struct meta *m)
{
    int head, shifts, i;
    struct state_part p;
    if (get_dim(m, "wkv.head_size", -1, &head) || get(m, "token_shift_count", 2, 2, &shifts)) return -1;
    if (m->D % head) return err_set(m->e, ERR_ENV, "a width of %d is no multiple of head_size %d", m->D, head);
    if (state_rwkv(&p, m->D, m->D / head, head, shifts, m->e)) return -1;
    for (i = 0; i < m->layers; i++)
        if (state_add(m->s, &p, m->e)) return -1;
    return 0;
}

/* ---- the file ---- */

static const struct arch_state *arch_of(const char *arch)
{
    size_t i;
    for (i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(archs[i].arch, arch) == 0) return &archs[i];
    return NULL;
}

static int get_sizes(struct meta *m, enum kind kind)
{
    static const int none[STATE_LAYERS_MAX];
    bool heads = kind != KIND_MAMBA && kind != KIND_MAMBA2 && kind != KIND_RWKV;
    int more;
    if (get(m, "block_count", STATE_LAYERS_MAX, -1, &m->layers) || get_dim(m, "embedding_length", -1, &m->D)) return -1;
    if (has(m, "nextn_predict_layers")) { /* layers that guess further tokens; plain decoding does not run them */
        uint64_t u;
        if (gguf_u64(m->g, m->key, &u, m->e)) return -1;
        if (u >= (uint64_t)m->layers) return err_set(m->e, ERR_ENV, "%s is not below the %d layers", m->key, m->layers);
        m->layers -= (int)u;
    }
    if (get(m, "context_length", STATE_CONTEXT_MAX, 0, &more)) return -1;
    m->s->context = more;
    m->s->layers = m->layers;
    if (heads && (get_by_layer(m, "attention.head_count", NULL, m->heads) ||
                  get_by_layer(m, "attention.head_count_kv", m->heads, m->kv)))
        return -1;
    return get_by_layer(m, "feed_forward_length", none, m->ffn);
}

static int read_file(struct meta *m)
{
    struct gguf_str arch, name = {"", 0};
    const struct arch_state *a;
    err none = {0};
    if (gguf_string(m->g, "general.architecture", &arch, m->e)) return -1;
    if (gguf_has(m->g, "general.name") && gguf_string(m->g, "general.name", &name, &none)) name.n = 0;
    state_text(m->s->arch, sizeof m->s->arch, arch.p, arch.n);
    state_text(m->s->name, sizeof m->s->name, name.p, name.n);
    a = arch_of(m->s->arch);
    if (!a) return err_set(m->e, ERR_ENV, "architecture '%s' is not one whose state can be counted", m->s->arch);
    if (get_sizes(m, a->kind)) return -1;
    switch (a->kind) {
    case KIND_DENSE: return read_dense(m, a);
    case KIND_LATENT: return read_latent(m);
    case KIND_RWKV: return read_rwkv(m);
    default: return read_mixed(m, a->kind);
    }
}

int state_gguf(struct state *s, const gguf *g, err *e)
{
    struct meta *m = mem_alloc(sizeof *m);
    int rc;
    m->g = g;
    m->s = s;
    m->e = e;
    rc = read_file(m);
    free(m);
    return rc;
}
