/* test_arch_gguf.c: the tiny models written as GGUF files, as llama.cpp's converter does it, give the bits of their folders.
 *
 * The converter unites q, k and v by kind, untransposes, turns the rows of llama's q and k into pairs and adds the 1 to
 * gemma's norms; none of this may change a bit of a cache. What GGUF cannot say of a model (another activation, other
 * windows) is set in the opened engine by hand.
 */
#include "oracle.h"

#include "../../engine/model_parts.h"
#include "gguf_build.h"

#include <math.h>
#include <unistd.h>

static struct oracle_list folders;

struct writer {
    struct gguf_build b;
    const struct model *m;
    const char *arch;
};

/* ---- tensors ---- */

static uint32_t ggml_type(enum dtype t)
{
    return t == DTYPE_F32 ? GGML_F32 : t == DTYPE_F16 ? GGML_F16 : GGML_BF16;
}

static size_t element(const struct mat *w)
{
    return (size_t)dtype_block_bytes(w->type);
}

/* The element (r, c) of a matrix, wherever it lies. */
static const char *at(const struct mat *w, int r, int c)
{
    size_t index = w->ldt ? (size_t)c * (size_t)w->ldt + (size_t)r : (size_t)r * (size_t)w->cols + (size_t)c;
    return (const char *)w->data + index * element(w);
}

/* Rows of a new matrix: which matrix and row each comes from. */
struct source {
    const struct linear *from;
    int row;
};

static void write_linear(struct writer *w, const char *name, const struct source *rows, int n)
{
    const struct mat *like = &rows[0].from->w;
    size_t size = element(like);
    char *data = mem_array((size_t)n * (size_t)like->cols, size), full[96];
    float *bias = mem_array((size_t)n, sizeof *bias);
    int r, c;
    for (r = 0; r < n; r++) {
        for (c = 0; c < like->cols; c++)
            memcpy(data + ((size_t)r * (size_t)like->cols + (size_t)c) * size, at(&rows[r].from->w, rows[r].row, c), size);
        if (rows[r].from->b) bias[r] = rows[r].from->b[rows[r].row];
    }
    snprintf(full, sizeof full, "%s.weight", name);
    build_tensor(&w->b, full, ggml_type(like->type), 2, (uint64_t[]){(uint64_t)like->cols, (uint64_t)n}, data,
                 (size_t)n * (size_t)like->cols * size);
    snprintf(full, sizeof full, "%s.bias", name);
    if (rows[0].from->b) build_tensor(&w->b, full, GGML_F32, 1, (uint64_t[]){(uint64_t)n}, bias, (size_t)n * sizeof *bias);
    free(data);
    free(bias);
}

/* All rows of a matrix; with `heads`, of each head the turning part as pairs. */
static int add_rows(struct source *rows, int n, const struct linear *from, const struct model *pairs)
{
    int r, E = pairs ? pairs->E : 1, half = pairs ? pairs->n_rot / 2 : 0;
    for (r = 0; r < from->w.rows; r++) {
        int e = r % E, old = e < 2 * half ? e % 2 * half + e / 2 : e;
        rows[n + r] = (struct source){from, r / E * E + old};
    }
    return n + from->w.rows;
}

static void write_one(struct writer *w, int layer, const char *name, const struct linear *from, bool pairs)
{
    struct source *rows = mem_array((size_t)from->w.rows, sizeof *rows);
    char full[64];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    write_linear(w, full, rows, add_rows(rows, 0, from, pairs ? w->m : NULL));
    free(rows);
}

static void write_united(struct writer *w, int layer, const char *name, const struct linear *const *from, int n_from)
{
    struct source rows[4096];
    char full[64];
    int i, n = 0;
    for (i = 0; i < n_from; i++) n = add_rows(rows, n, from[i], NULL);
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    write_linear(w, full, rows, n);
}

/* GPT-NeoX: of each head q, k, v becomes all q, all k, all v. */
static void write_by_kind(struct writer *w, int layer, const struct linear *from)
{
    struct source rows[4096];
    char full[64];
    int kind, r, n = 0, E = w->m->E, HE = w->m->H * E;
    for (kind = 0; kind < 3; kind++)
        for (r = 0; r < HE; r++) rows[n++] = (struct source){from, (r / E * 3 + kind) * E + r % E};
    snprintf(full, sizeof full, "blk.%d.attn_qkv", layer);
    write_linear(w, full, rows, n);
}

static void write_norm(struct writer *w, int layer, const char *name, const struct norm *from, int n)
{
    char full[96];
    if (!from->w) return;
    snprintf(full, sizeof full, layer < 0 ? "%.0d%s.weight" : "blk.%d.%s.weight", layer < 0 ? 0 : layer, name);
    build_tensor(&w->b, full, GGML_F32, 1, (uint64_t[]){(uint64_t)n}, from->w, (size_t)n * sizeof *from->w);
    if (!from->b) return;
    snprintf(full, sizeof full, layer < 0 ? "%.0d%s.bias" : "blk.%d.%s.bias", layer < 0 ? 0 : layer, name);
    build_tensor(&w->b, full, GGML_F32, 1, (uint64_t[]){(uint64_t)n}, from->b, (size_t)n * sizeof *from->b);
}

static void write_layer(struct writer *w, int i)
{
    const struct model *m = w->m;
    const struct layer *y = &m->layers[i];
    const struct linear *const qkv[] = {&y->q, &y->k, &y->v}, *const gate_up[] = {&y->gate, &y->up};
    bool llama = strcmp(w->arch, "llama") == 0, all = m->qk_norm == QK_NORM_ALL;
    write_norm(w, i, "attn_norm", &y->attn_norm, m->D);
    write_norm(w, i, "ffn_norm", &y->ffn_norm, m->D);
    write_norm(w, i, "post_attention_norm", &y->attn_post, m->D);
    write_norm(w, i, "post_ffw_norm", &y->ffn_post, m->D);
    write_norm(w, i, "attn_q_norm", &y->q_norm, all ? m->H * m->E : m->E);
    write_norm(w, i, "attn_k_norm", &y->k_norm, all ? m->G * m->E : m->E);
    if (y->qkv.w.data) {
        write_by_kind(w, i, &y->qkv);
    } else if (strcmp(w->arch, "gpt2") == 0 || strcmp(w->arch, "phi3") == 0) {
        write_united(w, i, "attn_qkv", qkv, 3);
    } else {
        write_one(w, i, "attn_q", &y->q, llama);
        write_one(w, i, "attn_k", &y->k, llama);
        write_one(w, i, "attn_v", &y->v, false);
    }
    write_one(w, i, "attn_output", &y->o, false);
    if (strcmp(w->arch, "phi3") == 0) {
        write_united(w, i, "ffn_up", gate_up, 2);
    } else {
        if (y->gate.w.data) write_one(w, i, "ffn_gate", &y->gate, false);
        write_one(w, i, "ffn_up", &y->up, false);
    }
    write_one(w, i, "ffn_down", &y->down, false);
}

static void write_mat(struct writer *w, const char *name, const struct mat *from)
{
    if (!from->data) return;
    build_tensor(&w->b, name, ggml_type(from->type), 2, (uint64_t[]){(uint64_t)from->cols, (uint64_t)from->rows}, from->data,
                 (size_t)from->rows * mat_row_bytes(from));
}

/* ---- metadata ---- */

static void key(struct writer *w, const char *name, int value)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", w->arch, name);
    build_u32(&w->b, full, (uint32_t)value);
}

static void number(struct writer *w, const char *name, float value)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", w->arch, name);
    build_f32(&w->b, full, value);
}

static void write_keys(struct writer *w, bool llama3)
{
    const struct model *m = w->m;
    uint8_t parallel = (uint8_t)m->parallel;
    int i;
    build_string(&w->b, "general.architecture", w->arch);
    key(w, "block_count", m->n_layer);
    key(w, "embedding_length", m->D);
    key(w, "feed_forward_length", m->F);
    key(w, "context_length", m->n_ctx);
    key(w, "attention.head_count", m->H);
    key(w, "attention.head_count_kv", m->G);
    key(w, "attention.key_length", m->E);
    key(w, "attention.value_length", m->E);
    number(w, m->norm == NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", m->norm_eps);
    if (strcmp(w->arch, "gptneox") == 0) build_raw(&w->b, "gptneox.use_parallel_residual", META_BOOL, &parallel, 1);
    if (m->n_rot) {
        key(w, "rope.dimension_count", m->n_rot);
        number(w, "rope.freq_base", (float)m->rope_base);
        if (m->rope_freqs[0][0] != 1 && !llama3) number(w, "rope.scaling.factor", 1 / m->rope_freqs[0][0]);
    }
    for (i = 0; i < m->n_layer && !m->layers[i].window; i++) continue;
    if (i < m->n_layer && strncmp(w->arch, "qwen", 4) != 0) key(w, "attention.sliding_window", m->layers[i].window);
    if (strcmp(w->arch, "gemma2") == 0) number(w, "attn_logit_softcapping", m->score_cap);
    if (strncmp(w->arch, "gemma", 5) == 0) number(w, "final_logit_softcapping", m->logit_cap);
}

/* The divisors that make llama3's frequencies of the plain ones. */
static void write_divisors(struct writer *w)
{
    const struct model *m = w->m;
    float plain[HEAD_MAX];
    int i, n = m->n_rot / 2;
    kernels_rope_freqs(plain, m->rope_base, m->n_rot);
    for (i = 0; i < n; i++) plain[i] /= m->rope_freqs[0][i];
    build_tensor(&w->b, "rope_freqs.weight", GGML_F32, 1, (uint64_t[]){(uint64_t)n}, plain, (size_t)n * sizeof *plain);
}

static void write_gguf(const struct model *m, const char *arch, bool llama3, const char *path)
{
    struct writer w = {.b = {.version = 3}, .m = m, .arch = arch};
    unsigned char *bytes;
    size_t n;
    FILE *f;
    int i;
    write_keys(&w, llama3);
    write_mat(&w, "token_embd.weight", &m->embed);
    write_mat(&w, "position_embd.weight", &m->pos_embed);
    if (m->head.data != m->embed.data) write_mat(&w, "output.weight", &m->head);
    write_norm(&w, -1, "output_norm", &m->out_norm, m->D);
    if (llama3) write_divisors(&w);
    for (i = 0; i < m->n_layer; i++) write_layer(&w, i);
    bytes = build_done(&w.b, &n);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(bytes);
}

/* ---- the twins ---- */

/* Sets what the file could not say, and tells whether there was something. Frequencies behind divisors are not the same to
   the last bit. */
static bool complete(struct model *to, const struct model *from)
{
    bool changed = to->activation != from->activation;
    int r, i;
    to->activation = from->activation;
    for (r = 0; r < to->n_ropes; r++)
        for (i = 0; i < to->n_rot / 2; i++) {
            changed |= to->rope_freqs[r][i] != from->rope_freqs[r][i];
            if (r == 0) assert_true(fabsf(to->rope_freqs[r][i] - from->rope_freqs[r][i]) <= 1e-6f * from->rope_freqs[r][i]);
            to->rope_freqs[r][i] = from->rope_freqs[r][i];
        }
    for (i = 0; i < to->n_layer; i++) {
        struct layer *a = &to->layers[i];
        const struct layer *b = &from->layers[i];
        changed |= a->scale != b->scale || a->window != b->window || a->rope != b->rope;
        a->scale = b->scale;
        a->window = b->window;
        a->rope = b->rope;
    }
    return changed;
}

static void assert_same(const struct oracle *o, const void *a, const void *b, size_t bytes)
{
    if (memcmp(a, b, bytes) != 0) fail_msg("%s: other bits from the GGUF file", o->folder);
}

static void assert_twins(const struct oracle *o, engine *twin)
{
    size_t n = (size_t)o->info->n_kv_head * (size_t)o->n * (size_t)o->info->head_dim;
    float *x = mem_array(n, sizeof *x), *y = mem_array(n, sizeof *y);
    cache *a, *b;
    struct gen_pick p, q;
    err e = {0};
    int l, t;
    assert_int_equal(cache_new(&a, o->en, &e), 0);
    assert_int_equal(cache_new(&b, twin, &e), 0);
    if (cache_feed(a, o->prompt, o->n, &p, &e) || cache_feed(b, o->prompt, o->n, &q, &e)) fail_msg("%s", e.msg);
    assert_same(o, &p, &q, sizeof p);
    for (l = 0; l < o->info->n_layer; l++)
        for (t = CACHE_K; t <= CACHE_V; t++) {
            cache_read(a, l, t, 0, o->n, x);
            cache_read(b, l, t, 0, o->n, y);
            assert_same(o, x, y, n * sizeof *x);
        }
    cache_free(a);
    cache_free(b);
    free(x);
    free(y);
}

/* Keys before rotary come in rotate-half order from either file. */
static void keep_keys(void *arg, int layer, enum tap_site site, float *x, const struct pass_row *rows, int n, int width)
{
    (void)site;
    (void)rows;
    if (layer == 1) memcpy(arg, x, (size_t)n * (size_t)width * sizeof *x);
}

static void assert_same_keys_before_rotary(const struct oracle *o, engine *twin)
{
    size_t n = (size_t)o->n * (size_t)o->info->n_kv_head * (size_t)o->info->head_dim;
    float *keys[2];
    int i;
    for (i = 0; i < 2; i++) {
        engine *en = i ? twin : o->en;
        struct tap tap = {keep_keys, keys[i] = mem_array(n, sizeof(float)), 1u << TAP_K_PRE};
        forward_tap(en, &tap);
        cache_free(oracle_prefill(en, o->prompt, o->n));
        forward_tap(en, NULL);
    }
    assert_same(o, keys[0], keys[1], n * sizeof *keys[0]);
    free(keys[0]);
    free(keys[1]);
}

static void a_gguf_file_of_the_same_weights_gives_the_same_bits(void **state)
{
    char path[] = "/tmp/test_arch_gguf.XXXXXX";
    int i, k, seen = 0, whole = 0, fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    for (i = 0; i < folders.n; i++) {
        struct oracle o;
        engine *twin;
        const char *arch = NULL;
        bool llama3 = strstr(folders.path[i], "llama-3") != NULL || strstr(folders.path[i], "llama3") != NULL;
        oracle_open(&o, folders.path[i]);
        for (k = 0; k < model_n_archs; k++)
            if (strcmp(model_archs[k].type, o.info->arch) == 0) arch = model_archs[k].gguf;
        if (!arch && !o.en->model.layers[0].window) arch = "llama"; /* mistral without windows */
        if (arch) {
            write_gguf(&o.en->model, arch, llama3, path);
            twin = oracle_engine(path, (struct engine_opts){.threads = 2});
            assert_string_equal(engine_info(twin)->arch, arch);
            if (!complete(&twin->model, &o.en->model)) whole++;
            assert_twins(&o, twin);
            assert_same_keys_before_rotary(&o, twin);
            engine_free(twin);
            seen++;
        }
        oracle_close(&o);
    }
    unlink(path);
    assert_true(seen >= 20);
    assert_true(whole >= 12);
}

static int find_folders(void **state)
{
    (void)state;
    return oracle_folders(&folders) > 0 ? 0 : -1;
}

static int free_folders(void **state)
{
    (void)state;
    oracle_folders_free(&folders);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_gguf_file_of_the_same_weights_gives_the_same_bits)};
    return cmocka_run_group_tests_name("arch_gguf", tests, find_folders, free_folders);
}
