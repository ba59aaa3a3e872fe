/* model.c: from a file's metadata and tensors to sizes and matrices; see model.h.
 *
 * Everything the file says about the arithmetic is either used or refused: a tensor that no one asked for is an error,
 * and so is a metadata key that would change the result. Metadata names: ggml's docs/gguf.md and llama.cpp's converter.
 */
#include "model.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAYERS_MAX = 1024,
    DIM_MAX = 1 << 24, /* D, F, V, H * E: products with a batch stay inside size_t, the sizes inside int */
    CONTEXT_MAX = 1 << 30,
    KEY_BYTES = 128,
};

/* What differs between architectures. */
static const struct arch {
    const char *name;
    int rope_interleaved; /* the converter turned the rows of q and k into pairs */
} archs[] = {
    {"llama", 1},
};
enum { N_ARCHS = sizeof archs / sizeof *archs };

/* Keys of other members of the family: any other value than this one changes the arithmetic. */
static const struct {
    const char *key;
    double neutral;
} refused[] = {
    {"expert_count", 0},        {"attention.sliding_window", 0}, {"attention.clamp_kqv", 0},
    {"attention.scale", 0},     {"attn_logit_softcapping", 0},   {"final_logit_softcapping", 0},
    {"logit_scale", 0},         {"embedding_scale", 0},          {"residual_scale", 0},
    {"attention.causal", true}, {"rope.scaling.attn_factor", 1}, {"use_parallel_residual", false},
};

struct loader {
    const gguf *g;
    const struct arch *arch;
    struct model *m;
    bool *used;                     /* (tensors) */
    size_t type_bytes[DTYPE_COUNT]; /* of matrices, by type */
    err *e;
};

/* ---- metadata ---- */

/* The architecture's key in a buffer of KEY_BYTES: "llama.block_count". */
static const char *key_of(char *key, const struct loader *l, const char *name)
{
    snprintf(key, KEY_BYTES, "%s.%s", l->arch->name, name);
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

static void copy_text(char *out, size_t cap, struct gguf_str s)
{
    size_t i, n = utf8_valid(s.p, s.n < cap ? s.n : cap - 1);
    for (i = 0; i < n; i++) out[i] = (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? '?' : s.p[i];
    out[n] = 0;
}

static int find_arch(struct loader *l)
{
    struct gguf_str s;
    struct buf names = {0};
    int i;
    if (gguf_has(l->g, "split.count")) {
        uint64_t n;
        if (gguf_u64(l->g, "split.count", &n, l->e)) return -1;
        if (n > 1) return err_set(l->e, ERR_ENV, "the file is one of %llu parts; merge them first", (unsigned long long)n);
    }
    if (gguf_string(l->g, "general.architecture", &s, l->e)) return -1;
    copy_text(l->m->arch, sizeof l->m->arch, s);
    for (i = 0; i < N_ARCHS; i++) {
        if (strcmp(archs[i].name, l->m->arch) == 0) {
            l->arch = &archs[i];
            return 0;
        }
    }
    for (i = 0; i < N_ARCHS; i++) {
        if (i) buf_str(&names, ", ");
        buf_str(&names, archs[i].name);
    }
    err_set(l->e, ERR_ENV, "architecture '%s' is not supported (supported: %s)", l->m->arch, names.p);
    buf_free(&names);
    return -1;
}

static int refuse_keys(struct loader *l)
{
    size_t i;
    for (i = 0; i < sizeof refused / sizeof *refused; i++) {
        char key[KEY_BYTES];
        double value;
        bool flag;
        err e = {0};
        if (!gguf_has(l->g, key_of(key, l, refused[i].key))) continue;
        if (gguf_bool(l->g, key, &flag, &e) == 0)
            value = flag;
        else if (gguf_f64(l->g, key, &value, l->e))
            return -1;
        if (value != refused[i].neutral) return err_set(l->e, ERR_ENV, "%s = %g is not supported", key, value);
    }
    return 0;
}

static int get_sizes(struct loader *l)
{
    struct model *m = l->m;
    struct gguf_str name = {"", 0};
    double eps;
    int value_length;
    if (gguf_has(l->g, "general.name") && gguf_string(l->g, "general.name", &name, l->e)) return -1;
    copy_text(m->name, sizeof m->name, name);
    if (get_size(l, "block_count", LAYERS_MAX, &m->n_layer) || get_size(l, "embedding_length", DIM_MAX, &m->D) ||
        get_size(l, "feed_forward_length", DIM_MAX, &m->F) || get_size(l, "context_length", CONTEXT_MAX, &m->n_ctx) ||
        get_size(l, "attention.head_count", DIM_MAX, &m->H) || get_number(l, "attention.layer_norm_rms_epsilon", 0, 1, &eps))
        return -1;
    m->norm_eps = (float)eps;
    m->G = m->H;
    if (has(l, "attention.head_count_kv") && get_size(l, "attention.head_count_kv", DIM_MAX, &m->G)) return -1;
    if (m->H % m->G) return err_set(l->e, ERR_ENV, "%d query heads cannot be divided among %d key-value heads", m->H, m->G);
    if (has(l, "attention.key_length")) {
        if (get_size(l, "attention.key_length", HEAD_MAX, &m->E)) return -1;
    } else if (m->D % m->H || m->D / m->H > HEAD_MAX) {
        return err_set(l->e, ERR_ENV, "%d heads cannot divide %d elements into heads of at most %d", m->H, m->D, HEAD_MAX);
    } else {
        m->E = m->D / m->H;
    }
    if ((int64_t)m->H * m->E > DIM_MAX)
        return err_set(l->e, ERR_ENV, "%d heads of %d elements are more than %d", m->H, m->E, DIM_MAX);
    if (has(l, "attention.value_length")) {
        if (get_size(l, "attention.value_length", HEAD_MAX, &value_length)) return -1;
        if (value_length != m->E)
            return err_set(l->e, ERR_ENV, "keys have %d elements and values %d, which is not supported", m->E, value_length);
    }
    return refuse_keys(l);
}

/* ---- tensors ---- */

static const struct gguf_tensor *use_tensor(struct loader *l, const char *name)
{
    const struct gguf_tensor *t = gguf_find_tensor(l->g, name);
    if (t) l->used[t - gguf_tensor_at(l->g, 0)] = true;
    return t;
}

static int check_shape(struct loader *l, const char *name, const struct gguf_tensor *t, int rows, int cols)
{
    struct buf shape = {0};
    int i;
    if (!t) return err_set(l->e, ERR_ENV, "tensor '%s' is missing", name);
    if (t->type == DTYPE_COUNT)
        return err_set(l->e, ERR_ENV, "tensor '%s' has type %s, which is not supported", name, t->type_name);
    if (t->dims[0] == (uint64_t)cols && t->dims[1] == (uint64_t)rows && t->dims[2] == 1 && t->dims[3] == 1) return 0;
    for (i = t->n_dims - 1; i >= 0; i--) buf_printf(&shape, "%llu%s", (unsigned long long)t->dims[i], i ? " x " : "");
    if (rows > 1)
        err_set(l->e, ERR_ENV, "tensor '%s' is %s, expected %d x %d", name, shape.p, rows, cols);
    else
        err_set(l->e, ERR_ENV, "tensor '%s' is %s, expected %d", name, shape.p, cols);
    buf_free(&shape);
    return -1;
}

static int get_matrix(struct loader *l, const char *name, int rows, int cols, struct mat *out)
{
    const struct gguf_tensor *t = use_tensor(l, name);
    if (check_shape(l, name, t, rows, cols)) return -1;
    *out = (struct mat){t->type, rows, cols, t->data};
    l->type_bytes[t->type] += t->bytes;
    return 0;
}

static int get_vector(struct loader *l, const char *name, int n, const float **out)
{
    const struct gguf_tensor *t = use_tensor(l, name);
    if (check_shape(l, name, t, 1, n)) return -1;
    if (t->type != DTYPE_F32) return err_set(l->e, ERR_ENV, "tensor '%s' has type %s, expected f32", name, t->type_name);
    *out = t->data;
    return 0;
}

static int get_layer(struct loader *l, int i)
{
    const struct model *m = l->m;
    struct layer *y = &m->layers[i];
    const struct {
        const char *name;
        int rows, cols;
        struct mat *out;
    } matrices[] = {
        {"attn_q", m->H * m->E, m->D, &y->wq}, {"attn_k", m->G * m->E, m->D, &y->wk},
        {"attn_v", m->G * m->E, m->D, &y->wv}, {"attn_output", m->D, m->H * m->E, &y->wo},
        {"ffn_gate", m->F, m->D, &y->w_gate},  {"ffn_up", m->F, m->D, &y->w_up},
        {"ffn_down", m->D, m->F, &y->w_down},
    };
    char name[64];
    size_t k;
    for (k = 0; k < sizeof matrices / sizeof *matrices; k++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", i, matrices[k].name);
        if (get_matrix(l, name, matrices[k].rows, matrices[k].cols, matrices[k].out)) return -1;
    }
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", i);
    if (get_vector(l, name, m->D, &y->attn_norm)) return -1;
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", i);
    return get_vector(l, name, m->D, &y->ffn_norm);
}

static int get_tensors(struct loader *l)
{
    struct model *m = l->m;
    const struct gguf_tensor *embed = gguf_find_tensor(l->g, "token_embd.weight");
    int i;
    if (has(l, "vocab_size")) {
        if (get_size(l, "vocab_size", DIM_MAX, &m->V)) return -1;
    } else if (embed) {
        if (embed->dims[1] > DIM_MAX)
            return err_set(l->e, ERR_ENV, "a vocabulary of %llu, expected 1 to %d", (unsigned long long)embed->dims[1],
                           DIM_MAX);
        m->V = (int)embed->dims[1];
    }
    if (get_matrix(l, "token_embd.weight", m->V, m->D, &m->embed)) return -1;
    if (gguf_find_tensor(l->g, "output.weight")) {
        if (get_matrix(l, "output.weight", m->V, m->D, &m->head)) return -1;
    } else {
        m->head = m->embed;
    }
    if (get_vector(l, "output_norm.weight", m->D, &m->out_norm)) return -1;
    m->layers = mem_array((size_t)m->n_layer, sizeof *m->layers);
    for (i = 0; i < m->n_layer; i++)
        if (get_layer(l, i)) return -1;
    for (i = 0; i < DTYPE_COUNT; i++)
        if (l->type_bytes[i] > l->type_bytes[m->weight_type]) m->weight_type = (enum dtype)i;
    return 0;
}

/* A tensor left over is a bias, an expert, a norm we do not know: leaving it out would give another model. */
static int refuse_unused(struct loader *l)
{
    int i;
    for (i = 0; i < gguf_n_tensors(l->g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(l->g, i);
        if (!l->used[i])
            return err_set(l->e, ERR_ENV, "tensor '%.*s' has no place in architecture '%s'", (int)t->name.n, t->name.p,
                           l->arch->name);
    }
    return 0;
}

/* ---- rotary embedding ---- */

/* Linear scaling divides all frequencies by one factor (Chen et al. 2023); a file without a type means linear, too. */
static int get_scaling(struct loader *l, double *factor)
{
    char key[KEY_BYTES], type[32] = "linear";
    struct gguf_str s;
    *factor = 1;
    if (has(l, "rope.scaling.type")) {
        if (gguf_string(l->g, key_of(key, l, "rope.scaling.type"), &s, l->e)) return -1;
        copy_text(type, sizeof type, s);
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
    double factor;
    int i, n;
    m->rope_base = 10000;
    m->n_rot = m->E;
    m->rope_interleaved = l->arch->rope_interleaved;
    if (has(l, "rope.freq_base") && get_number(l, "rope.freq_base", 1, 1e15, &m->rope_base)) return -1;
    if (has(l, "rope.dimension_count") && get_size(l, "rope.dimension_count", m->E, &m->n_rot)) return -1;
    if (m->n_rot % 2) return err_set(l->e, ERR_ENV, "%d elements of a head cannot turn in pairs", m->n_rot);
    if (get_scaling(l, &factor)) return -1;
    n = m->n_rot / 2;
    if (gguf_find_tensor(l->g, "rope_freqs.weight") && get_vector(l, "rope_freqs.weight", n, &divisors)) return -1;
    m->rope_freqs = mem_array((size_t)n, sizeof *m->rope_freqs);
    kernels_rope_freqs(m->rope_freqs, m->rope_base, m->n_rot);
    for (i = 0; i < n; i++) {
        if (divisors && !(divisors[i] > 0 && isfinite(divisors[i])))
            return err_set(l->e, ERR_ENV, "tensor 'rope_freqs.weight': element %d is %g, expected above 0", i, divisors[i]);
        if (divisors) m->rope_freqs[i] /= divisors[i];
        if (factor != 1) m->rope_freqs[i] /= (float)factor;
        if (!(m->rope_freqs[i] <= 1))
            return err_set(l->e, ERR_ENV, "rotary frequency %d is %g, expected at most 1", i, m->rope_freqs[i]);
    }
    return 0;
}

int model_load(struct model *out, const gguf *g, err *e)
{
    struct model m = {0};
    struct loader l = {.g = g, .m = &m, .e = e};
    int rc = -1;
    l.used = mem_array((size_t)gguf_n_tensors(g), sizeof *l.used);
    if (find_arch(&l) || get_sizes(&l) || get_rope(&l) || get_tensors(&l) || refuse_unused(&l)) goto out;
    *out = m;
    rc = 0;
out:
    if (rc) model_clear(&m);
    free(l.used);
    return rc;
}

void model_clear(struct model *m)
{
    free(m->rope_freqs);
    free(m->layers);
    *m = (struct model){0};
}
