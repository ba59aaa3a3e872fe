/* model.c: from settings and tensors to a model; see model.h and model_parts.h.
 *
 * Everything a file says about the arithmetic is either used or refused: a tensor that no one asked for is an error, and so
 * is a setting that would change the result.
 */
#include "model_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 160 };

/* A tensor of either kind of file. */
struct tensor {
    char name[NAME_BYTES];
    enum dtype type; /* DTYPE_COUNT: one the kernels cannot read */
    const char *type_name;
    int n_dims;
    uint64_t dims[4]; /* slowest first, the unused ones in front are 1 */
    const void *data;
    size_t bytes;
};

/* ---- for the settings ---- */

void model_text(char *out, size_t cap, const char *s, size_t n)
{
    size_t i;
    n = utf8_valid(s, n < cap ? n : cap - 1);
    for (i = 0; i < n; i++) out[i] = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? '?' : s[i];
    out[n] = 0;
}

int model_shape(struct loader *l)
{
    struct model *m = l->m;
    int i;
    if (m->H % m->G) return err_set(l->e, ERR_ENV, "%d query heads cannot be divided among %d key-value heads", m->H, m->G);
    if (m->E == 0) {
        if (m->D % m->H || m->D / m->H > HEAD_MAX)
            return err_set(l->e, ERR_ENV, "%d heads cannot divide %d elements into heads of at most %d", m->H, m->D, HEAD_MAX);
        m->E = m->D / m->H;
    }
    if ((int64_t)m->H * m->E > MODEL_DIM_MAX / 3)
        return err_set(l->e, ERR_ENV, "%d heads of %d elements are more than %d", m->H, m->E, MODEL_DIM_MAX / 3);
    m->norm = l->arch->norm;
    m->qk_norm = l->arch->qk_norm;
    m->embed_scale = l->arch->embed_scaled ? sqrtf((float)m->D) : 1;
    m->layers = arena_array(m->owned, (size_t)m->n_layer, sizeof *m->layers);
    for (i = 0; i < m->n_layer; i++) m->layers[i].scale = 1.0f / sqrtf((float)m->E);
    return 0;
}

float *model_freqs(struct model *m, int which, double base)
{
    m->rope_freqs[which] = arena_array(m->owned, (size_t)m->n_rot / 2 + 1, sizeof(float));
    kernels_rope_freqs(m->rope_freqs[which], base, m->n_rot);
    if (which >= m->n_ropes) m->n_ropes = which + 1;
    if (which == 0) m->rope_base = base;
    return m->rope_freqs[which];
}

int model_check_freqs(const struct loader *l)
{
    const struct model *m = l->m;
    int r, i;
    for (r = 0; r < m->n_ropes; r++)
        for (i = 0; i < m->n_rot / 2; i++)
            if (!(m->rope_freqs[r][i] <= 1 && m->rope_freqs[r][i] >= 0))
                return err_set(l->e, ERR_ENV, "rotary frequency %d is %g, expected at most 1", i, m->rope_freqs[r][i]);
    return 0;
}

/* ---- tensors ---- */

static bool find_gguf(struct loader *l, struct tensor *t)
{
    const struct gguf_tensor *from = gguf_find_tensor(l->g, t->name);
    int i;
    if (!from) return false;
    l->used[from - gguf_tensor_at(l->g, 0)] = true;
    t->type = from->type;
    t->type_name = from->type_name;
    t->n_dims = from->n_dims;
    t->data = from->data;
    t->bytes = from->bytes;
    for (i = 0; i < 4; i++) t->dims[i] = from->dims[3 - i];
    return true;
}

static bool find_folder(struct loader *l, struct tensor *t)
{
    const struct safetensor *from = safetensors_find(l->s, t->name);
    int i;
    if (!from) return false;
    l->used[from - safetensors_at(l->s, 0)] = true;
    t->type = from->type;
    t->type_name = from->type_name;
    t->n_dims = from->n_dims;
    t->data = from->data;
    t->bytes = from->bytes;
    for (i = 0; i < 4; i++) t->dims[i] = i < 4 - t->n_dims ? 1 : from->dims[i - (4 - t->n_dims)];
    return true;
}

/* Names it in any case; true when the file has it. */
static bool find(struct loader *l, enum role role, int layer, const char *end, struct tensor *t)
{
    const struct names *y = l->names;
    const char *of = y->of[role], *layers = y->layers;
    size_t skip = l->skip;
    memset(t, 0, sizeof *t);
    if (role >= ROLE_ATTN_NORM)
        snprintf(t->name, sizeof t->name, "%s%d.%s%s", layers + skip, layer, of, end);
    else
        snprintf(t->name, sizeof t->name, "%s%s", skip && strncmp(of, y->prefix, skip) == 0 ? of + skip : of, end);
    return l->g ? find_gguf(l, t) : find_folder(l, t);
}

static int check_shape(struct loader *l, const struct tensor *t, int rows, int cols)
{
    struct buf shape = {0};
    int i;
    if (!t->data) return err_set(l->e, ERR_ENV, "tensor '%s' is missing", t->name);
    if (t->type == DTYPE_COUNT)
        return err_set(l->e, ERR_ENV, "tensor '%s' has type %s, which is not supported", t->name, t->type_name);
    if (t->dims[0] == 1 && t->dims[1] == 1 && t->dims[2] == (uint64_t)rows && t->dims[3] == (uint64_t)cols) return 0;
    if (t->n_dims == 0) buf_str(&shape, "one number");
    for (i = 4 - t->n_dims; i < 4; i++) buf_printf(&shape, "%llu%s", (unsigned long long)t->dims[i], i < 3 ? " x " : "");
    if (rows > 1)
        err_set(l->e, ERR_ENV, "tensor '%s' is %s, expected %d x %d", t->name, shape.p, rows, cols);
    else
        err_set(l->e, ERR_ENV, "tensor '%s' is %s, expected %d", t->name, shape.p, cols);
    buf_free(&shape);
    return -1;
}

static bool plain(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
}

static int get_matrix(struct loader *l, enum role role, int layer, int rows, int cols, struct mat *out)
{
    bool turned = l->names->transposed && role >= ROLE_ATTN_NORM;
    struct tensor t;
    find(l, role, layer, ".weight", &t);
    if (check_shape(l, &t, turned ? cols : rows, turned ? rows : cols)) return -1;
    *out = (struct mat){t.type, rows, cols, t.data, turned ? rows : 0};
    l->type_bytes[t.type] += t.bytes;
    return 0;
}

/* The numbers of a found tensor as (n) f32: borrowed when they lie in the file so, else widened. */
static int get_vector(struct loader *l, const struct tensor *t, int n, bool plus_one, const float **out)
{
    float *own;
    int i;
    if (check_shape(l, t, 1, n)) return -1;
    if (!plain(t->type))
        return err_set(l->e, ERR_ENV, "tensor '%s' has type %s, expected f32, f16 or bf16", t->name, t->type_name);
    if (t->type == DTYPE_F32 && (uintptr_t)t->data % _Alignof(float) == 0 && !plus_one) {
        *out = t->data;
        return 0;
    }
    own = arena_array(l->m->owned, (size_t)n, sizeof *own);
    kernels_widen(own, t->data, t->type, (size_t)n);
    for (i = 0; plus_one && i < n; i++) own[i] += 1;
    *out = own;
    return 0;
}

int model_gguf_vector(struct loader *l, const char *name, int n, const float **out)
{
    struct tensor t = {0};
    snprintf(t.name, sizeof t.name, "%s", name);
    find_gguf(l, &t);
    return get_vector(l, &t, n, false, out);
}

static int get_norm(struct loader *l, enum role role, int layer, int n, struct norm *out)
{
    struct tensor t;
    find(l, role, layer, ".weight", &t);
    if (get_vector(l, &t, n, l->s && l->arch->norm_plus_one, &out->w)) return -1;
    if (l->m->norm == NORM_RMS) return 0;
    find(l, role, layer, ".bias", &t);
    return get_vector(l, &t, n, false, &out->b);
}

static int get_linear(struct loader *l, enum role role, int layer, int rows, int cols, bool bias, struct linear *out)
{
    struct tensor t;
    if (get_matrix(l, role, layer, rows, cols, &out->w)) return -1;
    if (!bias) return 0;
    find(l, role, layer, ".bias", &t);
    return get_vector(l, &t, rows, false, &out->b);
}

/* `rows` rows of a fused matrix from row `first` on. */
static struct linear part_of(const struct linear *all, int first, int rows)
{
    struct linear part = *all;
    size_t step = all->w.ldt ? (size_t)dtype_block_bytes(all->w.type) : mat_row_bytes(&all->w);
    part.w.rows = rows;
    part.w.data = (const char *)all->w.data + (size_t)first * step;
    if (part.b) part.b += first;
    return part;
}

static int get_qkv(struct loader *l, int i)
{
    const struct model *m = l->m;
    struct layer *y = &m->layers[i];
    const int q = m->H * m->E, kv = m->G * m->E;
    struct linear all = {0};
    if (!l->arch->fused_qkv)
        return get_linear(l, ROLE_Q, i, q, m->D, l->qkv_bias, &y->q) ||
                       get_linear(l, ROLE_K, i, kv, m->D, l->qkv_bias, &y->k) ||
                       get_linear(l, ROLE_V, i, kv, m->D, l->qkv_bias, &y->v)
                   ? -1
                   : 0;
    if (get_linear(l, ROLE_QKV, i, q + 2 * kv, m->D, l->qkv_bias, &all)) return -1;
    if (l->names->qkv_by_head) {
        y->qkv = all;
        return 0;
    }
    y->q = part_of(&all, 0, q);
    y->k = part_of(&all, q, kv);
    y->v = part_of(&all, q + kv, kv);
    return 0;
}

static int get_ffn(struct loader *l, int i)
{
    const struct model *m = l->m;
    struct layer *y = &m->layers[i];
    struct linear all = {0};
    if (l->arch->fused_gate_up) {
        if (get_linear(l, ROLE_GATE_UP, i, 2 * m->F, m->D, l->ffn_bias, &all)) return -1;
        y->gate = part_of(&all, 0, m->F);
        y->up = part_of(&all, m->F, m->F);
    } else {
        if (l->arch->gated && get_linear(l, ROLE_GATE, i, m->F, m->D, l->ffn_bias, &y->gate)) return -1;
        if (get_linear(l, ROLE_UP, i, m->F, m->D, l->ffn_bias, &y->up)) return -1;
    }
    return get_linear(l, ROLE_DOWN, i, m->D, m->F, l->ffn_bias, &y->down);
}

static int get_layer(struct loader *l, int i)
{
    const struct model *m = l->m;
    const struct arch *a = l->arch;
    struct layer *y = &m->layers[i];
    bool all = a->qk_norm == QK_NORM_ALL;
    if (get_qkv(l, i) || get_linear(l, ROLE_O, i, m->D, m->H * m->E, l->o_bias, &y->o) || get_ffn(l, i)) return -1;
    if (a->pre_norm &&
        (get_norm(l, ROLE_ATTN_NORM, i, m->D, &y->attn_norm) || get_norm(l, ROLE_FFN_NORM, i, m->D, &y->ffn_norm)))
        return -1;
    if (a->post_norm &&
        (get_norm(l, ROLE_ATTN_POST, i, m->D, &y->attn_post) || get_norm(l, ROLE_FFN_POST, i, m->D, &y->ffn_post)))
        return -1;
    if (a->qk_norm == QK_NORM_NONE) return 0;
    if (get_norm(l, ROLE_Q_NORM, i, all ? m->H * m->E : m->E, &y->q_norm)) return -1;
    return get_norm(l, ROLE_K_NORM, i, all ? m->G * m->E : m->E, &y->k_norm);
}

/* Folders of models without a head of their own leave out a prefix. */
static void find_prefix(struct loader *l)
{
    struct tensor t;
    l->skip = 0;
    if (!l->names->prefix || find(l, ROLE_EMBED, 0, ".weight", &t)) return;
    l->skip = strlen(l->names->prefix);
    if (!find(l, ROLE_EMBED, 0, ".weight", &t)) l->skip = 0;
}

static int get_tensors(struct loader *l)
{
    struct model *m = l->m;
    struct tensor t;
    int i;
    find_prefix(l);
    if (get_matrix(l, ROLE_EMBED, 0, m->V, m->D, &m->embed)) return -1;
    if (l->arch->learned && get_matrix(l, ROLE_POSITIONS, 0, m->n_ctx, m->D, &m->pos_embed)) return -1;
    /* a tied head that a folder has nevertheless is not used, as in transformers; GGUF has one when it is not tied */
    if (l->g ? !find(l, ROLE_HEAD, 0, ".weight", &t) : l->tied) {
        find(l, ROLE_HEAD, 0, ".weight", &t);
        m->head = m->embed;
    } else if (get_matrix(l, ROLE_HEAD, 0, m->V, m->D, &m->head)) {
        return -1;
    }
    if (get_norm(l, ROLE_OUT_NORM, 0, m->D, &m->out_norm)) return -1;
    for (i = 0; i < m->n_layer; i++)
        if (get_layer(l, i)) return -1;
    for (i = 0; i < DTYPE_COUNT; i++)
        if (l->type_bytes[i] > l->type_bytes[m->weight_type]) m->weight_type = (enum dtype)i;
    return 0;
}

/* Buffers of old checkpoints that follow from the settings: causal masks and rotary frequencies. */
static bool derived(const char *name)
{
    static const char *const ends[] = {".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias",
                                       ".rotary_emb.inv_freq"};
    size_t n = strlen(name), i;
    for (i = 0; i < sizeof ends / sizeof *ends; i++)
        if (n > strlen(ends[i]) && strcmp(name + n - strlen(ends[i]), ends[i]) == 0) return true;
    return false;
}

/* A tensor left over is a bias, an expert, a norm we do not know: leaving it out would give another model. */
static int refuse_unused(struct loader *l)
{
    int i, n = l->g ? gguf_n_tensors(l->g) : safetensors_n(l->s);
    for (i = 0; i < n; i++) {
        struct gguf_str name;
        if (l->used[i]) continue;
        if (l->g) {
            name = gguf_tensor_at(l->g, i)->name;
        } else {
            name = (struct gguf_str){safetensors_at(l->s, i)->name, strlen(safetensors_at(l->s, i)->name)};
            if (derived(name.p)) continue;
        }
        return err_set(l->e, ERR_ENV, "tensor '%.*s' has no place in architecture '%s'", (int)name.n, name.p, l->m->arch);
    }
    return 0;
}

static int load(struct model *out, struct loader *l, const char *config, size_t n)
{
    struct model m = {.owned = arena_new()};
    int rc = -1;
    l->m = &m;
    l->used = mem_array((size_t)(l->g ? gguf_n_tensors(l->g) : safetensors_n(l->s)), sizeof *l->used);
    if (l->g ? model_gguf_settings(l) : config_settings(l, config, n)) goto out;
    if (get_tensors(l) || refuse_unused(l)) goto out;
    *out = m;
    rc = 0;
out:
    if (rc) model_clear(&m);
    free(l->used);
    return rc;
}

int model_load(struct model *out, const gguf *g, err *e)
{
    struct loader l = {.g = g, .e = e};
    return load(out, &l, NULL, 0);
}

int model_load_folder(struct model *out, const char *config, size_t n, const safetensors *s, err *e)
{
    struct loader l = {.s = s, .e = e};
    return load(out, &l, config, n);
}

void model_clear(struct model *m)
{
    arena_free(m->owned);
    *m = (struct model){0};
}
