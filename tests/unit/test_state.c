/* test_state.c: the size of a state: against the caches of transformers, against numbers worked out by hand, and what is
 * refused. */
#include "../../engine/engine.h"
#include "../../engine/state_in.h"
#include "../make_gguf.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int64_t bytes_of(const struct state *s, int64_t tokens, int element, enum state_form form)
{
    int64_t bytes = -1;
    err e = {0};
    if (state_bytes(s, tokens, element, form, &bytes, &e)) fail_msg("%s", e.msg);
    return bytes;
}

static void parse(struct state *s, const char *json)
{
    err e = {0};
    if (state_parse(s, json, strlen(json), &e)) fail_msg("%s\n%s", json, e.msg);
}

/* ---- transformers ---- */

/* tests/oracle/state.py counted what transformers keeps of a tiny model of each kind. */
static void caches_of_transformers(void **unused)
{
    json_t *golden = json_load_file("tests/golden/state.json", 0, NULL), *entry;
    size_t i;
    (void)unused;
    assert_non_null(golden);
    assert_true(json_array_size(json_object_get(golden, "cases")) >= 85);
    json_array_foreach(json_object_get(golden, "cases"), i, entry)
    {
        int64_t tokens = json_integer_value(json_object_get(entry, "tokens"));
        int64_t numbers = json_integer_value(json_object_get(entry, "numbers"));
        int64_t f32 = json_integer_value(json_object_get(entry, "numbers_f32"));
        char *config = json_dumps(json_object_get(entry, "config"), 0);
        struct state s;
        int element;
        parse(&s, config);
        for (element = 1; element <= 4; element *= 2)
            if (bytes_of(&s, tokens, element, STATE_STORED) != numbers * element + f32 * 4)
                fail_msg("%lld bytes, not %lld x %d + %lld x 4: %s", (long long)bytes_of(&s, tokens, element, STATE_STORED),
                         (long long)numbers, element, (long long)f32, config);
        free(config);
    }
    json_decref(golden);
}

/* What kvrun itself keeps. Its own windows do not forget, so the count is of a token. */
static void caches_of_the_engine(void **unused)
{
    DIR *d = opendir("tests/golden/tiny");
    struct dirent *entry;
    int n = 0;
    (void)unused;
    assert_non_null(d);
    while ((entry = readdir(d))) {
        char path[512];
        struct engine_opts o = {.path = path, .kv = KV_F16, .max_rows = 1, .threads = 1};
        struct state s;
        engine *en;
        int64_t bytes;
        err e = {0};
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "tests/golden/tiny/%s", entry->d_name);
        if (engine_open(&en, &o, &e) || state_open(&s, path, &e) || state_token_bytes(&s, 2, 0, &bytes, &e))
            fail_msg("%s: %s", path, e.msg);
        assert_int_equal(bytes, engine_info(en)->kv_bytes_per_token);
        assert_int_equal(s.layers, engine_info(en)->n_layer);
        assert_int_equal(s.context, engine_info(en)->n_ctx_train);
        engine_free(en);
        n++;
    }
    closedir(d);
    assert_true(n >= 25);
}

/* ---- by hand ---- */

#define SIZES(layers, width, heads) \
    "\"num_hidden_layers\":" #layers ",\"hidden_size\":" #width ",\"num_attention_heads\":" #heads

static const struct {
    const char *config;
    int64_t token, late; /* f16 bytes of a token; once all windows are full */
    int64_t fixed;       /* f16 bytes without a token */
    int64_t ctx8192;     /* f16 bytes of 8192 tokens */
    int64_t sums;        /* numbers of S and z */
} hand[] = {
    /* LLaMA 7B: 2 x 32 layers x 32 heads x 128 x 2 bytes = 512 KiB; S and z 32 x 32 x (128 x 128 + 128) */
    {"{\"model_type\":\"llama\"," SIZES(32, 4096, 32) "}", 524288, 524288, 0, 4294967296, 16908288},
    /* Llama 3.1 8B: 8 kv heads, a quarter of that */
    {"{\"model_type\":\"llama\"," SIZES(32, 4096, 32) ",\"num_key_value_heads\":8}", 131072, 131072, 0, 1073741824, 4227072},
    /* kv heads null: as many as heads; head_dim of its own: 2 x 2 x 4 x 24 x 2 */
    {"{\"model_type\":\"llama\"," SIZES(2, 64, 4) ",\"num_key_value_heads\":null,\"head_dim\":24}", 768, 768, 0, 6291456, 4800},
    /* StarCoder: one kv head of 128: 2 x 40 x 128 x 2 */
    {"{\"model_type\":\"gpt_bigcode\",\"n_layer\":40,\"n_embd\":6144,\"n_head\":48}", 20480, 20480, 0, 167772160, 660480},
    /* Falcon 7B: multi query, 71 heads of 64; Falcon 40B: 8 kv heads of 64 */
    {"{\"model_type\":\"falcon\"," SIZES(32, 4544, 71) ",\"multi_query\":true}", 8192, 8192, 0, 67108864, 133120},
    {"{\"model_type\":\"falcon\"," SIZES(60, 8192, 128) ",\"new_decoder_architecture\":true,\"num_kv_heads\":8}", 122880,
     122880, 0, 1006632960, 1996800},
    /* Mistral 7B v0.1: 8 kv heads of 128, the last 4096 of all layers: 131072 x 4096 */
    {"{\"model_type\":\"mistral\"," SIZES(32, 4096, 32) ",\"num_key_value_heads\":8,\"sliding_window\":4096}", 131072, 0, 0,
     536870912, 4227072},
    /* Gemma 2 9B: 42 layers, 8 x 256; every other one keeps 4096: 8192 x 21 x (8192 + 4096) */
    {"{\"model_type\":\"gemma2\"," SIZES(42, 3584, 16) ",\"num_key_value_heads\":8,\"head_dim\":256,\"sliding_window\":4096}",
     344064, 172032, 0, 2113929216, 22106112},
    /* Gemma 3 1B: 26 layers, 1 x 256; layers 5, 11, 17, 23 keep all, 22 keep 512: 1024 x (4 x 8192 + 22 x 512) */
    {"{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"gemma3_text\"," SIZES(
         26, 1152, 4) ",\"num_key_value_heads\":1,\"head_dim\":256,\"sliding_window\":512}}",
     26624, 4096, 0, 45088768, 1710592},
    /* Gemma 3 4B as published: heads, kv heads and head_dim are left out, which means 8, 4 and 256; 34 layers, 5 of them wide:
       4096 x (5 x 8192 + 29 x 1024) */
    {"{\"model_type\":\"gemma3\",\"text_config\":{\"hidden_size\":2560,\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,"
     "\"sliding_window\":1024}}",
     139264, 20480, 0, 289406976, 8947712},
    /* the same said by layer_types: two layers, one of them windowed to 100 */
    {"{\"model_type\":\"gemma3_text\"," SIZES(2, 64, 4) ",\"num_key_value_heads\":1,\"head_dim\":16,\"sliding_window\":100,"
                                                        "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
     128, 64, 0, 530688, 544},
    /* GPT-Neo: global, local, global, local, local of 2 x 8: 64 x (2 x 8192 + 3 x 256) */
    {"{\"model_type\":\"gpt_neo\",\"num_layers\":5,\"hidden_size\":16,\"num_heads\":2,\"attention_types\":[[[\"global\","
     "\"local\"],2],"
     "[[\"local\"],1]]}",
     320, 128, 0, 1097728, 720},
    /* DeepSeek-V3: 61 layers x (512 + 64) x 2; S and z of 128 heads: 61 x 128 x (192 x 128 + 192) */
    {"{\"model_type\":\"deepseek_v3\"," SIZES(61, 7168, 128) ",\"num_key_value_heads\":128,\"kv_lora_rank\":512,\"qk_rope_head_"
                                                             "dim\":64,\"qk_nope_head_dim\":128,\"v_head_dim\":128}",
     70272, 70272, 0, 575668224, 193388544},
    /* RWKV-4 7B: 32 x (3 x 4096 x 4 + 2 x 4096 x 2) */
    {"{\"model_type\":\"rwkv\",\"num_hidden_layers\":32,\"hidden_size\":4096}", 0, 0, 2097152, 2097152, 0},
    /* RWKV-5 7B: 32 x (64 heads x 64 x 64 x 4 + 2 x 4096 x 2) */
    {"{\"model_type\":\"rwkv5\",\"num_hidden_layers\":32,\"hidden_size\":4096,\"attention_hidden_size\":4096,\"head_size\":64}",
     0, 0, 34078720, 34078720, 0},
    /* RWKV-6 14B: 61 of the same layers */
    {"{\"model_type\":\"rwkv6\",\"num_hidden_layers\":61,\"hidden_size\":4096,\"attention_hidden_size\":4096,\"head_size\":64,"
     "\"num_attention_heads\":64}",
     0, 0, 64962560, 64962560, 0},
    /* Mamba 2.8B: 64 layers x 5120 x (16 + 4) x 2 */
    {"{\"model_type\":\"mamba\",\"num_hidden_layers\":64,\"hidden_size\":2560,\"state_size\":16,\"conv_kernel\":4,\"expand\":"
     "2}",
     0, 0, 13107200, 13107200, 0},
    /* the same as mamba_ssm writes it */
    {"{\"d_model\":2560,\"n_layer\":64,\"vocab_size\":50277,\"ssm_cfg\":{}}", 0, 0, 13107200, 13107200, 0},
    /* Mamba-2 2.7B: 64 layers x (80 heads x 64 x 128 + (5120 + 2 x 128) x 4) x 2 */
    {"{\"d_model\":2560,\"n_layer\":64,\"ssm_cfg\":{\"layer\":\"Mamba2\"},\"attn_layer_idx\":[]}", 0, 0, 86638592, 86638592, 0},
    /* Mamba-Codestral 7B: 64 layers x (128 x 64 x 128 + (8192 + 2 x 8 x 128) x 4) x 2 */
    {"{\"model_type\":\"mamba2\",\"num_hidden_layers\":64,\"hidden_size\":4096,\"num_heads\":128,\"head_dim\":64,\"n_groups\":"
     "8,"
     "\"state_size\":128,\"conv_kernel\":4,\"expand\":2}",
     0, 0, 139460608, 139460608, 0},
    /* Jamba v0.1: 4 layers of attention, 8 kv heads x 128: 4 x 2048 x 2; 28 x 8192 x (16 + 4) x 2 */
    {"{\"model_type\":\"jamba\"," SIZES(32, 4096,
                                        32) ",\"num_key_value_heads\":8,\"attn_layer_period\":8,\"attn_layer_offset\":4}",
     16384, 16384, 9175040, 143392768, 528384},
    /* Zamba 7B v1: 76 layers x 7424 x (16 + 4) x 2; hybrid are 2, 7, 13, ..., 73: 13 x 16 heads x (464 + 464) x 2 */
    {"{\"model_type\":\"zamba\"," SIZES(76, 3712,
                                        16) ",\"num_key_value_heads\":16,\"attn_layer_period\":6,\"attn_layer_offset\":4}",
     386048, 386048, 22568960, 3185074176, 44878080},
    /* Bamba: layers 9, 18, 27 of 32 with 8 kv heads x 128: 3 x 4096; 29 x (128 x 64 x 128 + (8192 + 256) x 4) x 2 */
    {"{\"model_type\":\"bamba\"," SIZES(32, 4096, 32) ",\"num_key_value_heads\":8,\"attn_layer_indices\":[9,18,27],\"mamba_n_"
                                                      "heads\":128,\"mamba_d_head\":\"auto\",\"mamba_n_groups\":1,"
                                                      "\"mamba_d_state\":128}",
     12288, 12288, 62777344, 163440640, 396288},
};

static void sizes_by_hand(void **unused)
{
    size_t i;
    (void)unused;
    for (i = 0; i < sizeof hand / sizeof *hand; i++) {
        struct state s;
        int64_t token, late, sums;
        err e = {0};
        parse(&s, hand[i].config);
        if (state_token_bytes(&s, 2, 0, &token, &e) || state_token_bytes(&s, 2, 1, &late, &e) ||
            state_sums_bytes(&s, 1, &sums, &e))
            fail_msg("%s", e.msg);
        if (token != hand[i].token || late != hand[i].late || bytes_of(&s, 0, 2, STATE_STORED) != hand[i].fixed ||
            bytes_of(&s, 8192, 2, STATE_STORED) != hand[i].ctx8192 || sums != hand[i].sums)
            fail_msg("%s\n%lld %lld %lld %lld %lld", hand[i].config, (long long)token, (long long)late,
                     (long long)bytes_of(&s, 0, 2, STATE_STORED), (long long)bytes_of(&s, 8192, 2, STATE_STORED),
                     (long long)sums);
    }
}

/* DeepSeek-V3's heads written out: 61 layers x 128 heads x (192 + 128) x 2 bytes a token. */
static void latent_vectors_written_out(void **unused)
{
    struct state s;
    (void)unused;
    parse(&s, "{\"model_type\":\"deepseek_v3\"," SIZES(
                  61, 7168, 128) ",\"kv_lora_rank\":512,\"qk_rope_head_dim\":64,\"qk_nope_head_dim\":128,\"v_head_dim\":128}");
    assert_int_equal(bytes_of(&s, 1, 2, STATE_WRITTEN_OUT), 4997120);
    assert_int_equal(bytes_of(&s, 1000, 1, STATE_WRITTEN_OUT), 2498560000);
}

/* ---- what is refused ---- */

#define LLAMA "{\"model_type\":\"llama\"," SIZES(2, 64, 4)

static const struct {
    const char *config, *message;
} bad[] = {
    {"", "1:0: '[' or '{' expected near end of file"},
    {"[1]", "no JSON object"},
    {"{\"a\":1,\"a\":2}", "duplicate"},
    {"{}", "model_type is missing"},
    {"{\"model_type\":7}", "model_type is missing"},
    {"{\"model_type\":\"t5\\u0007\"}", "model_type 't5?' is not one whose state can be counted"},
    {"{\"model_type\":\"llama\"}", "num_hidden_layers is missing"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":4097}", "num_hidden_layers is 4097, expected 1 to 4096"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":2,\"hidden_size\":64,\"num_attention_heads\":5}",
     "64 is no multiple of 5 heads"},
    {LLAMA ",\"num_key_value_heads\":0}", "num_key_value_heads is 0"},
    {LLAMA ",\"num_key_value_heads\":-9223372036854775808}", "num_key_value_heads is -9223372036854775808"},
    {LLAMA ",\"num_key_value_heads\":2.0}", "num_key_value_heads is not an integer"},
    {LLAMA ",\"head_dim\":1048577}", "head_dim is 1048577, expected 1 to 1048576"},
    {LLAMA ",\"head_dim\":1048576,\"num_key_value_heads\":1048576}", "a layer of more than 1099511627776 numbers"},
    {LLAMA ",\"sliding_window\":4096}", "sliding_window changes the state"},
    {LLAMA ",\"num_kv_shared_layers\":1}", "num_kv_shared_layers changes the state"},
    {LLAMA ",\"kv_lora_rank\":512}", "kv_lora_rank changes the state"},
    {LLAMA ",\"layer_types\":[\"full_attention\"]}", "layer_types has 1 entries for 2 layers"},
    {LLAMA ",\"layer_types\":[\"full_attention\",1]}", "layer_types: the entry of layer 1 is not a string"},
    {LLAMA ",\"layer_types\":[\"full_attention\",\"chunked_attention\"]}", "layer_types: layer 1 is neither"},
    {LLAMA ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
     "layer 1 is sliding_attention, but sliding_window is missing"},
    {"{\"model_type\":\"qwen2\"," SIZES(2, 64, 4) ",\"use_sliding_window\":1}", "use_sliding_window is neither true nor false"},
    {"{\"model_type\":\"qwen2_moe\"," SIZES(2, 64, 4) ",\"use_sliding_window\":true}", "layer_types is missing"},
    {"{\"model_type\":\"exaone4\"," SIZES(2, 64, 4) ",\"sliding_window_pattern\":\"LLLG\"}",
     "sliding_window_pattern is not an integer"},
    {"{\"model_type\":\"gpt_neox\"," SIZES(2, 64, 4) ",\"num_key_value_heads\":2}", "knows no kv heads"},
    {"{\"model_type\":\"dbrx\",\"n_layers\":2,\"d_model\":64,\"n_heads\":4}", "attn_config: kv_n_heads is missing"},
    {"{\"model_type\":\"deepseek_v3\"," SIZES(2, 64, 4) "}", "kv_lora_rank is missing"},
    {"{\"model_type\":\"gpt_neo\",\"num_layers\":5,\"hidden_size\":16,\"num_heads\":2}", "attention_types is missing"},
    {"{\"model_type\":\"gpt_neo\",\"num_layers\":5,\"hidden_size\":16,\"num_heads\":2,\"attention_types\":[[[],9e9],[["
     "\"global\"],4]]}",
     "attention_types has 4 layers of 5"},
    {"{\"model_type\":\"rwkv6\"," SIZES(2, 64, 4) "}", "head_size is missing"},
    {"{\"model_type\":\"rwkv6\"," SIZES(2, 64, 4) ",\"head_size\":32}", "num_attention_heads is 4; 64 / head_size 32 is 2"},
    {"{\"model_type\":\"mamba\"," SIZES(2, 1048576, 4) "}", "expand 2 times a width of 1048576"},
    {"{\"model_type\":\"mamba2\"," SIZES(2, 64, 4) ",\"num_heads\":3}",
     "num_heads 3 x head_dim 64 is not expand 2 x hidden_size 64"},
    {"{\"d_model\":64,\"n_layer\":2,\"ssm_cfg\":{\"layer\":\"Mamba3\"}}", "ssm_cfg.layer is neither"},
    {"{\"d_model\":64,\"n_layer\":2,\"ssm_cfg\":{\"d_state\":8},\"attn_layer_idx\":[1]}", "attn_layer_idx changes the state"},
    {"{\"model_type\":\"jamba\"," SIZES(2, 64, 4) "}", "attn_layer_period is missing"},
    {"{\"model_type\":\"jamba\"," SIZES(2, 64, 4) ",\"attn_layer_period\":2,\"attn_layer_offset\":2}", "not in 0 to 1"},
    {"{\"model_type\":\"zamba2\"," SIZES(2, 64, 4) "}", "layers_block_type is missing"},
    {"{\"model_type\":\"zamba2\"," SIZES(2, 64, 4) ",\"layers_block_type\":[\"mamba\",\"lstm\"]}", "layer 1 is of a kind"},
    {"{\"model_type\":\"bamba\"," SIZES(2, 64, 4) ",\"attn_layer_indices\":[2]}", "entry 0 is no layer of 0 to 1"},
    {"{\"model_type\":\"nemotron_h\"," SIZES(2, 64, 4) ",\"hybrid_override_pattern\":\"M\\u0000\"}", ""},
    {"{\"model_type\":\"nemotron_h\"," SIZES(2, 64, 4) ",\"hybrid_override_pattern\":\"MX\"}", "letter 1 is none of"},
    {"{\"model_type\":\"nemotron_h\"," SIZES(2, 64, 4) ",\"hybrid_override_pattern\":\"M*\"}", "head_dim is missing"},
    {"{\"model_type\":\"qwen3_next\"," SIZES(2, 64, 4) "}", "head_dim is missing"},
    {"{\"model_type\":\"lfm2\"," SIZES(2, 64, 4) "}", "layer_types and full_attn_idxs are missing"},
};

static void other_configs_are_refused(void **unused)
{
    size_t i;
    (void)unused;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct state s;
        err e = {0};
        if (state_parse(&s, bad[i].config, strlen(bad[i].config), &e) == 0) fail_msg("%s is read", bad[i].config);
        assert_int_equal(e.code, ERR_ENV);
        if (!strstr(e.msg, bad[i].message)) fail_msg("%s\n%s\nnot: %s", bad[i].config, e.msg, bad[i].message);
    }
}

/* The largest config that is read, at the longest context: counted, or an error, never a wrong number. */
static void huge_states_are_counted_or_refused(void **unused)
{
    struct state s;
    int64_t bytes;
    err e = {0};
    (void)unused;
    parse(&s, "{\"model_type\":\"llama\"," SIZES(4096, 1048576, 524288) ",\"head_dim\":1024}");
    assert_int_equal(bytes_of(&s, 1, 4, STATE_STORED), (int64_t)4096 * 524288 * 2048 * 4);
    assert_int_equal(state_bytes(&s, STATE_CONTEXT_MAX, 4, STATE_STORED, &bytes, &e), -1);
    assert_string_equal(e.msg, "the state has more than 2^63 bytes");
}

/* ---- GGUF ---- */

struct kv {
    const char *key;
    uint32_t value;
};

/* arch with keys "arch.KEY"; NULL ends the list. kv_heads: -1, or a list of n for attention.head_count_kv. */
static int read_gguf(struct state *s, const char *arch, const struct kv *keys, const int32_t *kv_heads, size_t n, err *e)
{
    struct make_gguf m = {0};
    char key[128];
    gguf *g = NULL;
    size_t i;
    int rc;
    make_text(&m, "general.architecture", arch);
    make_text(&m, "general.name", "A name");
    for (i = 0; keys[i].key; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, keys[i].key);
        make_u32(&m, key, keys[i].value);
    }
    if (kv_heads) {
        snprintf(key, sizeof key, "%s.attention.head_count_kv", arch);
        make_array(&m, key, MAKE_I32, n);
        for (i = 0; i < n; i++) make_le(&m.pairs, (uint64_t)kv_heads[i], 4);
    }
    make_finish(&m);
    memset(s, 0, sizeof *s);
    rc = gguf_parse(&g, m.file.p, m.file.n, e) ? -1 : state_gguf(s, g, e);
    gguf_close(g);
    make_free(&m);
    return rc;
}

#define BLOCKS(layers, width)                             \
    {"block_count", layers}, {"embedding_length", width}, \
    {                                                     \
        "context_length", 4096                            \
    }
#define HEADS(heads, kv)              \
    {"attention.head_count", heads},  \
    {                                 \
        "attention.head_count_kv", kv \
    }

static void check_gguf(const char *arch, const struct kv *keys, const int32_t *kv_heads, size_t n, int64_t token, int64_t late,
                       int64_t fixed)
{
    struct state s;
    int64_t got;
    err e = {0};
    if (read_gguf(&s, arch, keys, kv_heads, n, &e)) fail_msg("%s: %s", arch, e.msg);
    assert_string_equal(s.arch, arch);
    assert_string_equal(s.name, "A name");
    assert_int_equal(s.context, 4096);
    assert_int_equal(state_token_bytes(&s, 2, 0, &got, &e), 0);
    assert_int_equal(got, token);
    assert_int_equal(state_token_bytes(&s, 2, 1, &got, &e), 0);
    assert_int_equal(got, late);
    assert_int_equal(bytes_of(&s, 0, 2, STATE_STORED), fixed);
}

/* A pattern as a list, one bool a layer: 2 x 2 x 16 x 2 bytes in three layers, two of them windowed. */
static void gguf_file_with_a_list_of_windows(void **unused)
{
    struct make_gguf m = {0};
    struct state s;
    gguf *g;
    int64_t late;
    err e = {0};
    (void)unused;
    make_text(&m, "general.architecture", "exaone4");
    make_u32(&m, "exaone4.block_count", 3);
    make_u32(&m, "exaone4.embedding_length", 64);
    make_u32(&m, "exaone4.attention.head_count", 4);
    make_u32(&m, "exaone4.attention.head_count_kv", 2);
    make_u32(&m, "exaone4.attention.sliding_window", 10);
    make_array(&m, "exaone4.attention.sliding_window_pattern", MAKE_BOOL, 3);
    buf_add(&m.pairs, "\1\0\1", 3);
    make_finish(&m);
    memset(&s, 0, sizeof s);
    if (gguf_parse(&g, m.file.p, m.file.n, &e) || state_gguf(&s, g, &e) || state_token_bytes(&s, 2, 1, &late, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(late, 128);
    assert_int_equal(bytes_of(&s, 100, 2, STATE_STORED), 128 * (100 + 10 + 10));
    gguf_close(g);
    make_free(&m);
}

/* Each beside the config.json of the same model above, or worked out in the same way. */
static void gguf_files(void **unused)
{
    (void)unused;
    check_gguf("llama", (struct kv[]){BLOCKS(32, 4096), HEADS(32, 8), {0}}, NULL, 0, 131072, 131072, 0);
    check_gguf("gpt2", (struct kv[]){BLOCKS(12, 768), {"attention.head_count", 12}, {0}}, NULL, 0, 36864, 36864, 0);
    /* layers of different kv heads: (1 + 2 + 4) x (24 + 16) x 2 */
    check_gguf(
        "llama",
        (struct kv[]){
            BLOCKS(3, 64), {"attention.head_count", 4}, {"attention.key_length", 24}, {"attention.value_length", 16}, {0}},
        (int32_t[]){1, 2, 4}, 3, 560, 560, 0);
    check_gguf(
        "gemma2",
        (struct kv[]){BLOCKS(42, 3584), HEADS(16, 8), {"attention.key_length", 256}, {"attention.value_length", 256}, {0}},
        NULL, 0, 344064, 172032, 0);
    check_gguf("gemma3",
               (struct kv[]){BLOCKS(26, 1152),
                             HEADS(4, 1),
                             {"attention.key_length", 256},
                             {"attention.value_length", 256},
                             {"attention.sliding_window", 512},
                             {0}},
               NULL, 0, 26624, 4096, 0);
    check_gguf("phi3", (struct kv[]){BLOCKS(2, 64), HEADS(4, 2), {"attention.sliding_window", 9}, {0}}, NULL, 0, 256, 0, 0);
    /* DeepSeek-V3 in both layouts, once with a layer that predicts further tokens */
    check_gguf("deepseek2",
               (struct kv[]){BLOCKS(61, 7168),
                             HEADS(128, 128),
                             {"attention.kv_lora_rank", 512},
                             {"rope.dimension_count", 64},
                             {"attention.key_length", 192},
                             {"attention.value_length", 128},
                             {0}},
               NULL, 0, 70272, 70272, 0);
    check_gguf("deepseek2",
               (struct kv[]){BLOCKS(62, 7168),
                             HEADS(128, 1),
                             {"nextn_predict_layers", 1},
                             {"attention.kv_lora_rank", 512},
                             {"rope.dimension_count", 64},
                             {"attention.key_length", 576},
                             {"attention.value_length", 512},
                             {"attention.key_length_mla", 192},
                             {"attention.value_length_mla", 128},
                             {0}},
               NULL, 0, 70272, 70272, 0);
    check_gguf("rwkv6", (struct kv[]){BLOCKS(61, 4096), {"wkv.head_size", 64}, {"attention.head_count", 0}, {0}}, NULL, 0, 0, 0,
               64962560);
    /* one shift: 32 x (64 x 64 x 64 x 4 + 4096 x 2) */
    check_gguf("arwkv7", (struct kv[]){BLOCKS(32, 4096), {"wkv.head_size", 64}, {"token_shift_count", 1}, {0}}, NULL, 0, 0, 0,
               33816576);
}

#define SSM(inner, state)                                 \
    {"ssm.inner_size", inner}, {"ssm.state_size", state}, \
    {                                                     \
        "ssm.conv_kernel", 4                              \
    }

static void gguf_files_with_recurrent_layers(void **unused)
{
    (void)unused;
    check_gguf("mamba", (struct kv[]){BLOCKS(64, 2560), SSM(5120, 16), {0}}, NULL, 0, 0, 0, 13107200);
    check_gguf("mamba2",
               (struct kv[]){BLOCKS(64, 2560), SSM(5120, 128), {"ssm.time_step_rank", 80}, {"ssm.group_count", 1}, {0}}, NULL,
               0, 0, 0, 86638592);
    /* one layer of four with 2 kv heads x (16 + 16); 3 x 128 x (16 + 4) x 2 */
    check_gguf("jamba", (struct kv[]){BLOCKS(4, 64), {"attention.head_count", 4}, SSM(128, 16), {0}}, (int32_t[]){0, 2, 0, 0},
               4, 128, 128, 15360);
    /* the same with Mamba-2: 3 x (8 x 16 x 16 + (128 + 2 x 16) x 4) x 2 */
    check_gguf(
        "granitehybrid",
        (struct kv[]){
            BLOCKS(4, 64), {"attention.head_count", 4}, SSM(128, 16), {"ssm.time_step_rank", 8}, {"ssm.group_count", 1}, {0}},
        (int32_t[]){0, 2, 0, 0}, 4, 128, 128, 16128);
    /* every layer has both */
    check_gguf("falcon-h1",
               (struct kv[]){BLOCKS(4, 64), HEADS(4, 2), SSM(128, 16), {"ssm.time_step_rank", 8}, {"ssm.group_count", 1}, {0}},
               NULL, 0, 512, 512, 21504);
}

static void other_gguf_files_are_refused(void **unused)
{
    static const struct {
        const char *arch;
        struct kv keys[8];
        const char *message;
    } cases[] = {
        {"t5", {BLOCKS(2, 64), HEADS(4, 4)}, "architecture 't5' is not one whose state can be counted"},
        {"llama", {{"block_count", 2}}, "llama.embedding_length"},
        {"llama", {{"block_count", 5000}}, "llama.block_count is 5000, expected 1 to 4096"},
        {"llama", {BLOCKS(2, 64), HEADS(5, 5)}, "llama.attention.key_length is missing, and 5 heads do not divide 64"},
        {"llama", {BLOCKS(2, 64), HEADS(0, 0)}, "layer 0 has no kv heads"},
        {"llama", {BLOCKS(2, 64), HEADS(0, 2)}, "layer 0 has kv heads and no heads"},
        {"llama", {BLOCKS(2, 64), HEADS(4, 4294967295u)}, "expected up to 1048576"},
        {"llama",
         {BLOCKS(2, 64), HEADS(4, 4), {"attention.sliding_window", 4096}},
         "llama.attention.sliding_window is not counted"},
        {"llama", {BLOCKS(2, 64), HEADS(4, 4), {"nextn_predict_layers", 2}}, "is not below the 2 layers"},
        {"gemma3", {BLOCKS(2, 64), HEADS(4, 4)}, "gemma3.attention.sliding_window"},
        {"deepseek2", {BLOCKS(2, 64), HEADS(4, 4)}, "deepseek2.attention.kv_lora_rank"},
        {"rwkv6", {BLOCKS(2, 64), {"wkv.head_size", 48}}, "64 is no multiple of head_size 48"},
        {"mamba2", {BLOCKS(2, 64), SSM(128, 16)}, "mamba2.ssm.time_step_rank"},
    };
    size_t i;
    (void)unused;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct state s;
        err e = {0};
        assert_int_equal(read_gguf(&s, cases[i].arch, cases[i].keys, NULL, 0, &e), -1);
        assert_int_equal(e.code, ERR_ENV);
        if (!strstr(e.msg, cases[i].message)) fail_msg("%s\nnot: %s", e.msg, cases[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caches_of_transformers),
        cmocka_unit_test(caches_of_the_engine),
        cmocka_unit_test(sizes_by_hand),
        cmocka_unit_test(latent_vectors_written_out),
        cmocka_unit_test(other_configs_are_refused),
        cmocka_unit_test(huge_states_are_counted_or_refused),
        cmocka_unit_test(gguf_files),
        cmocka_unit_test(gguf_file_with_a_list_of_windows),
        cmocka_unit_test(gguf_files_with_recurrent_layers),
        cmocka_unit_test(other_gguf_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
