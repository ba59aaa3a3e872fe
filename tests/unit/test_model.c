/* test_model.c: a model is loaded when its sizes, types and tensors fit together; everything else is named and refused. */
#include "../../engine/model.h"
#include "gguf_build.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

enum { L = 2, D = 8, H = 2, G = 1, E = 4, F = 12, V = 16 };

/* One thing that differs from the good model. */
struct change {
    const char *drop;     /* this key or tensor is left out */
    const char *key;      /* this u32 key has `value`, or is added */
    uint32_t value;       /* also the length of `array` */
    const char *string;   /* then `key` is this string instead */
    const int32_t *array; /* then `key` is this array instead */
    const char *tensor;   /* this tensor has type and dims below, or is added */
    uint32_t type;        /* ggml's number */
    uint64_t rows, cols;  /* rows 0: a vector */
    const float *data;    /* of `tensor`; NULL: zeros */
    const char *message;  /* what model_load says */
};

static bool same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

static void add_key(struct gguf_build *b, const char *key, uint32_t value, const struct change *c)
{
    if (same(key, c->drop)) return;
    if (!same(key, c->key))
        build_u32(b, key, value);
    else if (c->string)
        build_string(b, key, c->string);
    else if (c->array)
        build_array(b, key, META_I32, c->value, c->array, c->value * sizeof *c->array);
    else
        build_u32(b, key, c->value);
}

static size_t tensor_bytes(uint32_t type, uint64_t n)
{
    switch (type) {
    case GGML_F32: return n * 4;
    case GGML_Q4_1: return n / 32 * 20;
    case GGML_IQ2_XXS: return n / 256 * 66;
    default: return n * 2;
    }
}

/* rows 0: a vector of cols elements. Tells whether this is the tensor that differs. */
static bool add_tensor(struct gguf_build *b, const char *name, uint64_t rows, uint64_t cols, const struct change *c)
{
    uint32_t type = GGML_F32;
    const float *data = NULL;
    if (same(name, c->drop)) return false;
    if (same(name, c->tensor)) {
        type = c->type;
        rows = c->rows;
        cols = c->cols;
        data = c->data;
    }
    build_tensor(b, name, type, rows ? 2 : 1, (uint64_t[]){cols, rows}, data, tensor_bytes(type, cols * (rows ? rows : 1)));
    return same(name, c->tensor);
}

static void add_keys(struct gguf_build *b, const struct change *c)
{
    static const struct {
        const char *name;
        uint32_t value;
    } keys[] = {
        {"llama.block_count", L},          {"llama.embedding_length", D},     {"llama.feed_forward_length", F},
        {"llama.context_length", 256},     {"llama.attention.head_count", H}, {"llama.attention.head_count_kv", G},
        {"llama.rope.dimension_count", E},
    };
    size_t i;
    bool known = same(c->key, "general.architecture");
    if (!same(c->drop, "general.architecture")) build_string(b, "general.architecture", known ? c->string : "llama");
    build_string(b, "general.name", "tiny\ttest");
    build_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (i = 0; i < sizeof keys / sizeof *keys; i++) {
        add_key(b, keys[i].name, keys[i].value, c);
        known = known || same(keys[i].name, c->key);
    }
    if (c->key && !known) add_key(b, c->key, 0, c);
}

static unsigned char *build_model(const struct change *c, size_t *n)
{
    static const struct {
        const char *name;
        int rows, cols;
    } layer[] = {{"attn_norm", 0, D},  {"attn_q", H * E, D},      {"attn_k", G * E, D},
                 {"attn_v", G * E, D}, {"attn_output", D, H * E}, {"ffn_norm", 0, D},
                 {"ffn_gate", F, D},   {"ffn_up", F, D},          {"ffn_down", D, F}};
    struct gguf_build b = {.version = 3};
    char name[64];
    size_t i;
    int l;
    bool found;
    add_keys(&b, c);
    found = add_tensor(&b, "token_embd.weight", V, D, c);
    add_tensor(&b, "output_norm.weight", 0, D, c);
    for (l = 0; l < L; l++) {
        for (i = 0; i < sizeof layer / sizeof *layer; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, layer[i].name);
            found |= add_tensor(&b, name, (uint64_t)layer[i].rows, (uint64_t)layer[i].cols, c);
        }
    }
    if (c->tensor && !found) add_tensor(&b, c->tensor, 0, 0, c);
    return build_done(&b, n);
}

/* Loads the changed model; *g and *bytes stay for the caller. */
static int load(const struct change *c, struct model *m, gguf **g, unsigned char **bytes, err *e)
{
    size_t n;
    *m = (struct model){0};
    *e = (err){0};
    *bytes = build_model(c, &n);
    assert_int_equal(gguf_parse(g, *bytes, n, e), 0);
    return model_load(m, *g, e);
}

static void refuses(const struct change *c)
{
    struct model m;
    gguf *g = NULL;
    unsigned char *bytes;
    err e;
    if (load(c, &m, &g, &bytes, &e) == 0) fail_msg("loaded, expected '%s'", c->message);
    assert_int_equal(e.code, ERR_ENV);
    assert_string_equal(e.msg, c->message);
    assert_null(m.layers);
    gguf_close(g);
    free(bytes);
}

static void a_good_model_has_its_sizes_and_borrows_its_tensors(void **state)
{
    struct model m;
    gguf *g = NULL;
    unsigned char *bytes;
    err e;
    (void)state;
    if (load(&(struct change){0}, &m, &g, &bytes, &e)) fail_msg("%s", e.msg);
    assert_string_equal(m.arch, "llama");
    assert_string_equal(m.name, "tiny?test");
    assert_int_equal(m.n_layer, L);
    assert_int_equal(m.D, D);
    assert_int_equal(m.H, H);
    assert_int_equal(m.G, G);
    assert_int_equal(m.E, E);
    assert_int_equal(m.F, F);
    assert_int_equal(m.V, V);
    assert_int_equal(m.n_ctx, 256);
    assert_int_equal(m.n_rot, E);
    assert_int_equal(m.rope_interleaved, 1);
    assert_int_equal(m.weight_type, DTYPE_F32);
    assert_true(m.norm_eps == 1e-5f);
    assert_true(m.rope_base == 10000);
    assert_true(m.rope_freqs[0][0] == 1.0f);
    assert_true(fabsf(m.rope_freqs[0][1] - 0.01f) < 1e-8f);
    assert_ptr_equal(m.head.data, m.embed.data);
    assert_ptr_equal(m.embed.data, gguf_find_tensor(g, "token_embd.weight")->data);
    assert_ptr_equal(m.out_norm.w, gguf_find_tensor(g, "output_norm.weight")->data);
    assert_ptr_equal(m.layers[1].down.w.data, gguf_find_tensor(g, "blk.1.ffn_down.weight")->data);
    assert_int_equal(m.layers[1].down.w.rows, D);
    assert_int_equal(m.layers[1].down.w.cols, F);
    assert_int_equal(m.layers[0].k.w.rows, G * E);
    assert_ptr_equal(m.layers[0].ffn_norm.w, gguf_find_tensor(g, "blk.0.ffn_norm.weight")->data);
    model_clear(&m);
    assert_null(m.layers);
    model_clear(&m);
    gguf_close(g);
    free(bytes);
}

static void loads(const struct change *c, void (*check)(const struct model *m))
{
    struct model m;
    gguf *g = NULL;
    unsigned char *bytes;
    err e;
    if (load(c, &m, &g, &bytes, &e)) fail_msg("%s", e.msg);
    if (check) check(&m);
    model_clear(&m);
    gguf_close(g);
    free(bytes);
}

static void check_linear(const struct model *m)
{
    assert_true(m->rope_freqs[0][0] == 0.25f);
}

static void check_divided(const struct model *m)
{
    assert_true(m->rope_freqs[0][0] == 1.0f);
    assert_true(fabsf(m->rope_freqs[0][1] - 0.00125f) < 1e-9f);
}

static void check_untied(const struct model *m)
{
    assert_true(m->head.data != m->embed.data);
    assert_int_equal(m->head.rows, V);
}

static void check_rot(const struct model *m)
{
    assert_int_equal(m->n_rot, 2);
    assert_int_equal(m->E, E);
}

static void check_widened(const struct model *m)
{
    assert_true(m->layers[0].attn_norm.w[0] == 0 && m->layers[0].attn_norm.w[D - 1] == 0);
}

static void optional_keys_and_tensors_are_used(void **state)
{
    (void)state;
    loads(&(struct change){.key = "llama.vocab_size", .value = V}, NULL);
    loads(&(struct change){.key = "llama.attention.key_length", .value = E}, NULL);
    loads(&(struct change){.key = "llama.attention.value_length", .value = E}, NULL);
    loads(&(struct change){.key = "llama.expert_count", .value = 0}, NULL);
    loads(&(struct change){.key = "llama.rope.dimension_count", .value = 2}, check_rot);
    loads(&(struct change){.drop = "llama.rope.dimension_count"}, NULL);
    loads(&(struct change){.key = "llama.rope.scaling.factor", .value = 4}, check_linear);
    loads(&(struct change){.key = "llama.rope.scale_linear", .value = 4}, check_linear);
    loads(&(struct change){.key = "llama.rope.scaling.type", .string = "none"}, NULL);
    loads(&(struct change){.tensor = "rope_freqs.weight", .cols = E / 2, .data = (float[]){1, 8}}, check_divided);
    loads(&(struct change){.tensor = "blk.0.attn_norm.weight", .type = GGML_F16, .cols = D}, check_widened);
    loads(&(struct change){.tensor = "output.weight", .rows = V, .cols = D}, check_untied);
    loads(&(struct change){.key = "llama.attention.head_count_kv", .array = (int32_t[]){1, 1}, .value = 2}, NULL);
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    static const int32_t unequal[] = {1, 2}, negative[] = {-1, -1};
    const struct change cases[] = {
        {.drop = "general.architecture", .message = "metadata key 'general.architecture' is missing"},
        {.key = "general.architecture",
         .string = "gpt\nx",
         .message = "architecture 'gpt?x' is not supported (supported: llama, gpt2, gptneox, qwen2, qwen3, gemma2, gemma3, "
                    "phi3, olmo2)"},
        {.key = "split.count", .value = 3, .message = "the file is one of 3 parts; merge them first"},
        {.drop = "llama.block_count", .message = "metadata key 'llama.block_count' is missing"},
        {.key = "llama.block_count", .value = 0, .message = "llama.block_count is 0, expected 1 to 1024"},
        {.key = "llama.block_count", .value = 1025, .message = "llama.block_count is 1025, expected 1 to 1024"},
        {.key = "llama.embedding_length",
         .value = (1 << 24) + 1,
         .message = "llama.embedding_length is 16777217, expected 1 to 16777216"},
        {.key = "llama.embedding_length",
         .string = "8",
         .message = "metadata key 'llama.embedding_length' is of type string, expected an integer"},
        {.key = "llama.attention.head_count",
         .value = 3,
         .message = "3 heads cannot divide 8 elements into heads of at most 256"},
        {.key = "llama.attention.head_count_kv",
         .value = 3,
         .message = "2 query heads cannot be divided among 3 key-value heads"},
        {.key = "llama.attention.head_count_kv",
         .array = unequal,
         .value = 2,
         .message = "llama.attention.head_count_kv differs between layers, which is not supported"},
        {.key = "llama.attention.head_count_kv",
         .array = negative,
         .value = 2,
         .message = "llama.attention.head_count_kv is 0, expected 1 to 16777216"},
        {.key = "llama.attention.key_length", .value = 257, .message = "llama.attention.key_length is 257, expected 1 to 256"},
        {.key = "llama.attention.value_length",
         .value = 8,
         .message = "keys have 4 elements and values 8, which is not supported"},
        {.key = "llama.rope.dimension_count", .value = 3, .message = "3 elements of a head cannot turn in pairs"},
        {.key = "llama.rope.dimension_count", .value = 6, .message = "llama.rope.dimension_count is 6, expected 1 to 4"},
        {.key = "llama.vocab_size", .value = 15, .message = "tensor 'token_embd.weight' is 16 x 8, expected 15 x 8"},
        {.key = "llama.attention.layer_norm_rms_epsilon2",
         .tensor = "x",
         .cols = 1,
         .message = "tensor 'x' has no place in architecture 'llama'"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) refuses(&cases[i]);
}

static void what_would_change_the_arithmetic_is_refused(void **state)
{
    const struct change cases[] = {
        {.key = "llama.rope.scaling.type",
         .string = "yarn",
         .message = "rope scaling 'yarn' is not supported (supported: none, linear, llama3)"},
        {.key = "llama.rope.scaling.type",
         .string = "longrope",
         .message = "rope scaling 'longrope' is not supported (supported: none, linear, llama3)"},
        {.key = "llama.rope.freq_base", .value = 0, .message = "llama.rope.freq_base is 0, expected 1 to 1e+15"},
        {.key = "llama.expert_count", .value = 8, .message = "llama.expert_count = 8 is not supported"},
        {.key = "llama.attention.sliding_window",
         .value = 4096,
         .message = "llama.attention.sliding_window = 4096 is not supported"},
        {.tensor = "blk.0.attn_q.bias",
         .cols = D,
         .message = "tensor 'blk.0.attn_k.bias' is missing"}, /* one bias is no biases */
        {.tensor = "blk.0.attn_sinks.weight",
         .cols = H,
         .message = "tensor 'blk.0.attn_sinks.weight' has no place in architecture 'llama'"},
        {.tensor = "blk.1.attn_q_norm.weight",
         .cols = E,
         .message = "tensor 'blk.1.attn_q_norm.weight' has no place in architecture 'llama'"},
        {.tensor = "blk.2.attn_norm.weight",
         .cols = D,
         .message = "tensor 'blk.2.attn_norm.weight' has no place in architecture 'llama'"},
        {.tensor = "rope_freqs.weight",
         .cols = E / 2,
         .data = (float[]){1, 0},
         .message = "tensor 'rope_freqs.weight': element 1 is 0, expected above 0"},
        {.tensor = "rope_freqs.weight",
         .cols = E / 2,
         .data = (float[]){1, NAN},
         .message = "tensor 'rope_freqs.weight': element 1 is nan, expected above 0"},
        {.tensor = "rope_freqs.weight",
         .cols = E / 2,
         .data = (float[]){0.5f, 1},
         .message = "rotary frequency 0 is 2, expected at most 1"},
        {.tensor = "rope_freqs.weight", .cols = 3, .message = "tensor 'rope_freqs.weight' is 3, expected 2"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) refuses(&cases[i]);
}

static void tensors_that_do_not_fit_are_named(void **state)
{
    const struct change cases[] = {
        {.drop = "token_embd.weight", .message = "tensor 'token_embd.weight' is missing"},
        {.drop = "output_norm.weight", .message = "tensor 'output_norm.weight' is missing"},
        {.drop = "blk.1.ffn_up.weight", .message = "tensor 'blk.1.ffn_up.weight' is missing"},
        {.tensor = "blk.0.attn_q.weight",
         .rows = 9,
         .cols = D,
         .message = "tensor 'blk.0.attn_q.weight' is 9 x 8, expected 8 x 8"},
        {.tensor = "blk.0.attn_q.weight", .cols = D, .message = "tensor 'blk.0.attn_q.weight' is 8, expected 8 x 8"},
        {.tensor = "blk.1.ffn_norm.weight",
         .rows = 2,
         .cols = D,
         .message = "tensor 'blk.1.ffn_norm.weight' is 2 x 8, expected 8"},
        {.tensor = "token_embd.weight",
         .type = GGML_Q4_1,
         .rows = V,
         .cols = 32,
         .message = "tensor 'token_embd.weight' is 16 x 32, expected 16 x 8"},
        {.tensor = "blk.0.attn_q.weight",
         .type = GGML_IQ2_XXS,
         .rows = D,
         .cols = 256,
         .message = "tensor 'blk.0.attn_q.weight' has type iq2_xxs, which is not supported"},
        {.tensor = "output.weight", .rows = V - 1, .cols = D, .message = "tensor 'output.weight' is 15 x 8, expected 16 x 8"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) refuses(&cases[i]);
}

/* ---- hostile bytes ---- */

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void mutate(unsigned char *bytes, size_t *n, size_t header, uint64_t *seed)
{
    static const uint64_t lies[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 62, UINT64_MAX, UINT64_MAX - 31};
    uint64_t i, count = 1 + next(seed) % 4;
    size_t at;
    for (i = 0; i < count; i++) {
        switch (next(seed) % 4) {
        case 0: *n = next(seed) % 8 ? *n : next(seed) % (*n + 1); break;
        case 1:
            at = next(seed) % header;
            bytes[at] ^= (unsigned char)(1u << next(seed) % 8);
            break;
        case 2:
            at = next(seed) % header;
            bytes[at] = (unsigned char)next(seed);
            break;
        default: at = next(seed) % (header - 8); memcpy(bytes + at, &lies[next(seed) % 8], next(seed) % 2 ? 4 : 8);
        }
    }
}

static void two_thousand_damaged_headers_give_a_model_or_an_error(void **state)
{
    const struct change extra = {.tensor = "output.weight", .rows = V, .cols = D};
    size_t n, header, k;
    unsigned char *bytes = build_model(&extra, &n);
    uint64_t seed = 20240726;
    int round, parsed = 0, loaded = 0;
    (void)state;
    for (header = 0, k = 0; k + 6 < n; k++)
        if (memcmp(bytes + k, "output", 6) == 0) header = k + 48; /* the last tensor's entry */
    assert_true(header > 1000 && header < n);
    for (round = 0; round < 2000; round++) {
        size_t size = n;
        unsigned char *part, *damaged = mem_alloc(n);
        gguf *g = NULL;
        struct model m = {0};
        err e = {0};
        memcpy(damaged, bytes, n);
        mutate(damaged, &size, header, &seed);
        part = mem_alloc(size); /* exactly as long as the file: a read behind its end is seen */
        memcpy(part, damaged, size);
        if (gguf_parse(&g, part, size, &e) == 0) {
            parsed++;
            if (model_load(&m, g, &e) == 0) loaded++;
            model_clear(&m);
        }
        if (e.code) assert_true(e.code == ERR_ENV && e.msg[0]);
        gguf_close(g);
        free(part);
        free(damaged);
    }
    assert_true(parsed > 100 && parsed < 1900); /* both sides of the parser were reached */
    assert_true(loaded > 10 && loaded < parsed);
    free(bytes);
}

/* ---- models of tests/tiny_gguf.py ---- */

static void generated_models_of_every_type_load(void **state)
{
    static const struct {
        const char *options;
        enum dtype type;
        bool tied;
    } cases[] = {
        {"--type f32", DTYPE_F32, true},
        {"--type f16 --untied", DTYPE_F16, false},
        {"--type bf16 --no-tokenizer", DTYPE_BF16, true},
        {"--type q4_0 --head-dim 32", DTYPE_Q4_0, true},
        {"--type q4_1 --seed 2", DTYPE_Q4_1, true},
        {"--type q8_0 --kv-heads 4", DTYPE_Q8_0, true},
    };
    char dir[] = "/tmp/test_model.XXXXXX", path[64], command[256];
    size_t i;
    (void)state;
    if (system("python3 -c '' 2>/dev/null") != 0) {
        print_message("skipped: python3 is missing\n");
        skip();
    }
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/x.gguf", dir);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf *g = NULL;
        struct model m = {0};
        err e = {0};
        snprintf(command, sizeof command, "python3 tests/tiny_gguf.py %s --layers 2 --ffn 64 %s", path, cases[i].options);
        assert_int_equal(system(command), 0);
        if (gguf_open(&g, path, &e) || model_load(&m, g, &e)) fail_msg("%s: %s", cases[i].options, e.msg);
        assert_int_equal(m.weight_type, cases[i].type);
        assert_int_equal(m.head.data == m.embed.data, cases[i].tied);
        assert_int_equal(m.n_layer, 2);
        assert_int_equal(m.V, 384);
        assert_int_equal(gguf_has(g, "tokenizer.ggml.model"), i != 2);
        model_clear(&m);
        gguf_close(g);
    }
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_model_has_its_sizes_and_borrows_its_tensors),
        cmocka_unit_test(optional_keys_and_tensors_are_used),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(what_would_change_the_arithmetic_is_refused),
        cmocka_unit_test(tensors_that_do_not_fit_are_named),
        cmocka_unit_test(two_thousand_damaged_headers_give_a_model_or_an_error),
        cmocka_unit_test(generated_models_of_every_type_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
