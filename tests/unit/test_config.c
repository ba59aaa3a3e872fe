/* test_config.c: what a config.json may say, what it may not, and that no bytes of it can do harm. */
#include "oracle.h"

#include <math.h>
#include <unistd.h>

static struct oracle_list folders;

/* ---- one key is another ---- */

struct change {
    const char *folder;  /* of tests/golden/tiny */
    const char *key;     /* "a.b": key b of the object a */
    const char *value;   /* JSON; NULL: the key is left out */
    const char *message; /* NULL: loads */
};

static json_t *read_config(const char *folder)
{
    char path[1100];
    json_t *j;
    snprintf(path, sizeof path, "%s/config.json", folder);
    j = json_load_file(path, 0, NULL);
    if (!j) fail_msg("%s cannot be read", path);
    return j;
}

static void apply(json_t *config, const struct change *c)
{
    char key[64];
    char *dot;
    json_t *value = c->value ? json_loads(c->value, JSON_DECODE_ANY, NULL) : NULL;
    assert_true(!c->value || value);
    snprintf(key, sizeof key, "%s", c->key);
    dot = strchr(key, '.');
    if (dot) {
        *dot = 0;
        config = json_object_get(config, key);
        assert_non_null(config);
    }
    if (value)
        json_object_set_new(config, dot ? dot + 1 : key, value);
    else
        json_object_del(config, dot ? dot + 1 : key);
}

static int load(const json_t *config, const safetensors *s, struct model *m, err *e)
{
    char *text = json_dumps(config, 0);
    int rc = model_load_folder(m, text, strlen(text), s, e);
    free(text);
    return rc;
}

static void check(const struct change *c)
{
    char folder[256];
    safetensors *s = NULL;
    struct model m = {0};
    json_t *config;
    err e = {0};
    int rc;
    snprintf(folder, sizeof folder, "tests/golden/tiny/%s", c->folder);
    config = read_config(folder);
    if (c->key) apply(config, c);
    if (safetensors_open(&s, folder, &e)) fail_msg("%s", e.msg);
    rc = load(config, s, &m, &e);
    if (!c->message) {
        if (rc) fail_msg("%s with %s: %s", c->folder, c->key, e.msg);
    } else if (rc == 0 || strcmp(e.msg, c->message) != 0) {
        fail_msg("%s with %s: '%s', expected '%s'", c->folder, c->key, rc ? e.msg : "loaded", c->message);
    } else {
        assert_int_equal(e.code, ERR_ENV);
    }
    model_clear(&m);
    safetensors_close(s);
    json_decref(config);
}

static void harmless_keys_and_values_that_change_nothing_are_accepted(void **state)
{
    static const struct change cases[] = {
        {"llama", NULL, NULL, NULL},
        {"llama", "some_future_key", "null", NULL},
        {"llama", "pretraining_tp", "2", NULL},
        {"llama", "temperature", "0.6", NULL},
        {"llama", "rope_interleaved", "false", NULL},
        {"llama", "pruned_heads", "{}", NULL},
        {"llama", "partial_rotary_factor", "1", NULL},
        {"llama", "rms_norm_eps", NULL, NULL},
        {"llama", "architectures", NULL, NULL},
        {"llama", "layer_types", "[\"full_attention\", \"full_attention\", \"full_attention\"]", NULL},
        {"llama", "rope_scaling", "{\"rope_type\": \"default\"}", NULL},
        {"gemma2", "hidden_act", "\"gelu_pytorch_tanh\"", NULL},
        {"gemma2", "use_bidirectional_attention", "false", NULL},
        {"gemma3-capped", "attn_logit_softcapping", "50.0", NULL},
        {"gpt2", "reorder_and_upcast_attn", "true", NULL},
        {"mistral", "sliding_window", "null", NULL},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i]);
}

static void what_would_change_the_results_is_named_and_refused(void **state)
{
    static const struct change cases[] = {
        {"llama", "model_type", "\"llama4\\u001b\"",
         "config.json: architecture 'llama4?' is not supported (supported: llama, mistral, gpt2, gpt_neox, qwen2, qwen3, "
         "gemma2, "
         "gemma3_text, phi3, olmo2)"},
        {"llama", "model_type", NULL, "config.json: model_type is missing"},
        {"llama", "architectures", "[\"LlamaForSequenceClassification\"]",
         "config.json: architectures is not [\"LlamaForCausalLM\"]"},
        {"llama", "some_future_key", "1",
         "config.json: key 'some_future_key' is not known for architecture 'llama'; it may change the results"},
        {"llama", "quantization_config", "{}",
         "config.json: key 'quantization_config' is not known for architecture 'llama'; it may change the results"},
        {"llama", "sliding_window", "4096",
         "config.json: key 'sliding_window' is not known for architecture 'llama'; it may change the results"},
        {"llama", "rope_interleaved", "true",
         "config.json: rope_interleaved is not supported in architecture 'llama', except false"},
        {"mistral", "attention_bias", "true",
         "config.json: attention_bias is not supported in architecture 'mistral', except false"},
        {"llama", "partial_rotary_factor", "0.5",
         "config.json: partial_rotary_factor is not supported in architecture 'llama', except 1.0"},
        {"llama", "hidden_act", "\"relu\"", "config.json: hidden_act 'relu' is not supported"},
        {"gpt2", "activation_function", "\"silu\"", "config.json: activation_function 'silu' is not supported"},
        {"gemma2", "hidden_act", "\"gelu\"", "config.json: hidden_activation 'gelu_pytorch_tanh' is not what hidden_act says"},
        {"llama", "rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2.0}",
         "config.json: rope scaling 'dynamic' is not supported (supported: default, linear, llama3)"},
        {"llama", "rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 2.0}",
         "config.json: rope scaling 'yarn' is not supported (supported: default, linear, llama3)"},
        {"phi3", "rope_parameters.rope_type", "\"longrope\"",
         "config.json: rope scaling 'longrope' is not supported (supported: default, linear, llama3)"},
        {"phi3", "rope_parameters.short_factor", "[1]",
         "config.json: rotary parameter 'short_factor' is not known; it may change the results"},
        {"phi3", "rope_scaling", "{\"type\": \"linear\", \"factor\": 2}",
         "config.json: rope_parameters and rope_scaling are both there"},
        {"llama-3", "rope_parameters.factor", NULL, "config.json: rope scaling has no factor"},
        {"llama-3", "rope_parameters.factor", "0.5", "config.json: factor is 0.5, expected 1 to 1e+06"},
        {"llama-3", "rope_parameters.high_freq_factor", "1.0",
         "config.json: rope scaling 'llama3' needs low_freq_factor below high_freq_factor"},
        {"gemma3-capped", "rope_parameters.rope_theta", "10000",
         "config.json: rope_parameters: 'rope_theta' is not a type of layer"},
        {"mistral-full", "layer_types", "[\"sliding_attention\", \"full_attention\"]",
         "config.json: layer_types: layer 0 is not as architecture 'mistral' has it"},
        {"gemma2", "layer_types", "[\"full_attention\"]", "config.json: layer_types has 1 entries for 4 layers"},
        {"gemma2", "sliding_window", "null", "config.json: layer 0 has sliding attention, but there is no sliding_window"},
        {"qwen2", "layer_types", "[\"full_attention\", \"chunked_attention\", \"full_attention\"]",
         "config.json: layer_types: layer 1 is neither full_attention nor sliding_attention"},
        {"qwen2", "layer_types", "[\"full_attention\", \"sliding_attention\", \"full_attention\"]",
         "config.json: layer 1 has sliding attention, but there is no sliding_window"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i]);
}

static void sizes_that_do_not_fit_are_refused(void **state)
{
    static const struct change cases[] = {
        {"llama", "hidden_size", NULL, "config.json: hidden_size is missing"},
        {"llama", "hidden_size", "24.0", "config.json: hidden_size is not an integer"},
        {"llama", "hidden_size", "-24", "config.json: hidden_size is -24, expected 1 to 16777216"},
        {"llama", "num_hidden_layers", "1025", "config.json: num_hidden_layers is 1025, expected 1 to 1024"},
        {"llama", "num_hidden_layers", "4", "tensor 'model.layers.3.self_attn.q_proj.weight' is missing"},
        {"llama", "num_hidden_layers", "2",
         "tensor 'model.layers.2.input_layernorm.weight' has no place in architecture 'llama'"},
        {"llama", "num_key_value_heads", "4", "config.json: 6 query heads cannot be divided among 4 key-value heads"},
        {"llama", "num_key_value_heads", "3", "tensor 'model.layers.0.self_attn.k_proj.weight' is 8 x 24, expected 12 x 24"},
        {"llama", "head_dim", "257", "config.json: head_dim is 257, expected 1 to 256"},
        {"mistral-full", "head_dim", "3", "config.json: 3 elements of a head cannot turn in pairs"},
        {"llama", "vocab_size", "81", "tensor 'model.embed_tokens.weight' is 80 x 24, expected 81 x 24"},
        {"llama", "attention_bias", "true", "tensor 'model.layers.0.self_attn.q_proj.bias' is missing"},
        {"llama-biased", "mlp_bias", "false",
         "tensor 'model.layers.0.mlp.down_proj.bias' has no place in architecture 'llama'"},
        {"llama-biased", "mlp_bias", "0", "config.json: mlp_bias is neither true nor false"},
        {"llama-3", "tie_word_embeddings", "false", "tensor 'lm_head.weight' is missing"},
        {"gpt2", "n_inner", "97", "tensor 'transformer.h.0.mlp.c_fc.weight' is 24 x 96, expected 24 x 97"},
        {"gpt2", "n_positions", "97", "tensor 'transformer.wpe.weight' is 96 x 24, expected 97 x 24"},
        {"gemma2", "query_pre_attn_scalar", "0", "config.json: query_pre_attn_scalar is 0, expected 1e-06 to 1e+09"},
        {"gemma2", "final_logit_softcapping", "-1", "config.json: final_logit_softcapping is -1, expected 1e-06 to 1e+06"},
        {"llama", "rope_theta", "0.5", "config.json: rope_theta is 0.5, expected 1 to 1e+15"},
        {"llama", "rms_norm_eps", "\"x\"", "config.json: rms_norm_eps is not a number"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i]);
}

/* ---- hostile bytes ---- */

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

/* Another value for a random key, at the top or one level down. */
static void mutate_values(json_t *config, uint64_t *seed)
{
    static const char *const values[] = {"0",
                                         "-1",
                                         "1",
                                         "2",
                                         "3",
                                         "7",
                                         "1e308",
                                         "-0.0",
                                         "4294967296",
                                         "9223372036854775807",
                                         "1e-320",
                                         "null",
                                         "true",
                                         "false",
                                         "\"\"",
                                         "\"linear\"",
                                         "\"llama3\"",
                                         "\"gelu\"",
                                         "[]",
                                         "{}",
                                         "[[1]]",
                                         "[\"sliding_attention\"]",
                                         "{\"rope_type\": \"linear\", \"factor\": 4}",
                                         "{\"full_attention\": {}, \"sliding_attention\": null}",
                                         "16777216",
                                         "256"};
    static const char *const more[] = {"sliding_window",
                                       "head_dim",
                                       "rope_scaling",
                                       "layer_types",
                                       "max_window_layers",
                                       "tie_word_embeddings",
                                       "use_sliding_window",
                                       "rope_parameters",
                                       "attention_bias",
                                       "num_key_value_heads",
                                       "n_inner"};
    size_t count = json_object_size(config), pick = next(seed) % (count + sizeof more / sizeof *more);
    const char *key = pick >= count ? more[pick - count] : NULL, *k;
    json_t *v;
    json_object_foreach(config, k, v)
    {
        if (key || pick-- > 0) continue;
        key = k;
        if (json_is_object(v) && json_object_size(v) && next(seed) % 2) {
            mutate_values(v, seed);
            return;
        }
        break;
    }
    if (!key) return;
    if (next(seed) % 8 == 0)
        json_object_del(config, key);
    else
        json_object_set_new(config, key,
                            json_loads(values[next(seed) % (sizeof values / sizeof *values)], JSON_DECODE_ANY, NULL));
}

static void two_thousand_damaged_configs_give_a_model_or_an_error(void **state)
{
    uint64_t seed = 20240726;
    int round, i, loaded = 0;
    (void)state;
    for (i = 0; i < folders.n; i++) {
        safetensors *s = NULL;
        json_t *good = read_config(folders.path[i]);
        err opened = {0};
        if (safetensors_open(&s, folders.path[i], &opened)) fail_msg("%s", opened.msg);
        for (round = 0; round < 2000 / folders.n + 1; round++) {
            json_t *config = json_deep_copy(good);
            struct model m = {0};
            err e = {0};
            char *text, *part;
            size_t n, count;
            for (count = 1 + next(&seed) % 3; count > 0; count--) mutate_values(config, &seed);
            text = json_dumps(config, 0);
            n = strlen(text);
            if (round % 4 == 0) text[next(&seed) % n] ^= (char)(1 << next(&seed) % 8);
            if (round % 16 == 1) n = next(&seed) % n;
            part = mem_alloc(n); /* exactly as long as the file */
            memcpy(part, text, n);
            if (model_load_folder(&m, part, n, s, &e) == 0)
                loaded++;
            else
                assert_true(e.code == ERR_ENV && e.msg[0]);
            model_clear(&m);
            free(part);
            free(text);
            json_decref(config);
        }
        safetensors_close(s);
        json_decref(good);
    }
    assert_true(loaded > 50 && loaded < 1500);
}

/* ---- other layouts of the same weights ---- */

static void write_file(const char *folder, const char *name, const void *bytes, size_t n)
{
    char path[300];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void *read_file(const char *folder, const char *name, size_t *n)
{
    char path[1100];
    FILE *f;
    void *bytes;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    bytes = mem_alloc(1 << 20);
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* Weights at addresses that are aligned to nothing: a header of an odd number of bytes is legal. */
static void weights_need_no_alignment(void **state)
{
    static const char *const names[] = {"gpt2", "neox-serial", "llama", "gemma2"};
    static const char *const isas[] = {"scalar", NULL};
    char dir[] = "/tmp/test_config.XXXXXX", path[64];
    size_t i, k;
    (void)state;
    assert_non_null(mkdtemp(dir));
    for (i = 0; i < 4; i++) {
        char folder[256];
        size_t n, config_n;
        uint64_t header;
        unsigned char *file, *moved;
        void *config;
        snprintf(folder, sizeof folder, "tests/golden/tiny/%s", names[i]);
        file = read_file(folder, "model.safetensors", &n);
        config = read_file(folder, "config.json", &config_n);
        memcpy(&header, file, 8);
        moved = mem_alloc(n + 1);
        memcpy(moved, file, 8 + header);
        moved[8 + header] = ' ';
        memcpy(moved + 9 + header, file + 8 + header, n - 8 - header);
        header++;
        memcpy(moved, &header, 8);
        write_file(dir, "model.safetensors", moved, n + 1);
        write_file(dir, "config.json", config, config_n);
        for (k = 0; k < 2; k++) {
            engine *a = oracle_engine(folder, (struct engine_opts){.isa = isas[k]}),
                   *b = oracle_engine(dir, (struct engine_opts){.isa = isas[k]});
            int ids[] = {5, 9, 30, 4};
            struct gen_pick p, q;
            cache *c, *d;
            err e = {0};
            assert_int_equal(cache_new(&c, a, &e), 0);
            assert_int_equal(cache_new(&d, b, &e), 0);
            assert_int_equal(cache_feed(c, ids, 4, &p, &e), 0);
            assert_int_equal(cache_feed(d, ids, 4, &q, &e), 0);
            assert_memory_equal(&p, &q, sizeof p);
            cache_free(c);
            cache_free(d);
            engine_free(a);
            engine_free(b);
        }
        free(file);
        free(moved);
        free(config);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
}

static void a_folder_tells_what_it_is(void **state)
{
    engine *en = oracle_engine("tests/golden/tiny/llama-biased/", (struct engine_opts){0}),
           *one = oracle_engine("tests/golden/tiny/llama", (struct engine_opts){.vocab_only = true});
    const struct engine_info *i = engine_info(en);
    (void)state;
    assert_string_equal(i->name, "llama-biased");
    assert_string_equal(i->arch, "llama");
    assert_string_equal(i->format, "safetensors");
    assert_string_equal(i->weight_dtype, "bf16");
    assert_string_equal(i->tokenizer_kind, "none");
    assert_int_equal(i->n_ctx_train, 160);
    assert_int_equal(i->n_kv_head, 1);
    assert_true(i->file_bytes > 30000);
    assert_memory_not_equal(i->sha256, engine_info(one)->sha256, 32);
    engine_free(en);
    engine_free(one);
}

static void a_folder_without_its_files_is_an_error(void **state)
{
    engine *en = NULL;
    err e = {0};
    (void)state;
    assert_int_equal(engine_open(&en, &(struct engine_opts){.path = "tests/golden"}, &e), -1);
    assert_int_equal(e.code, ERR_ENV);
    assert_string_equal(e.msg, "model 'tests/golden': the folder has no config.json");
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harmless_keys_and_values_that_change_nothing_are_accepted),
        cmocka_unit_test(what_would_change_the_results_is_named_and_refused),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
        cmocka_unit_test(two_thousand_damaged_configs_give_a_model_or_an_error),
        cmocka_unit_test(weights_need_no_alignment),
        cmocka_unit_test(a_folder_tells_what_it_is),
        cmocka_unit_test(a_folder_without_its_files_is_an_error),
    };
    return cmocka_run_group_tests_name("config", tests, find_folders, free_folders);
}
