/* model_arch.c: the one table of what differs between architectures, and how files name their tensors.
 *
 * A row says what holds for every model of the architecture; what a single model may choose is read from its file, and
 * `missing` stands for keys that it leaves out. Facts: the configuration and modelling code of transformers 5.23 for folders,
 * llama.cpp's converter and loader for GGUF.
 */
#include "model_parts.h"

#include <string.h>

const struct names model_gguf_names = {
    .layers = "blk.",
    .of =
        {
            [ROLE_EMBED] = "token_embd",
            [ROLE_POSITIONS] = "position_embd",
            [ROLE_HEAD] = "output",
            [ROLE_OUT_NORM] = "output_norm",
            [ROLE_ATTN_NORM] = "attn_norm",
            [ROLE_Q] = "attn_q",
            [ROLE_K] = "attn_k",
            [ROLE_V] = "attn_v",
            [ROLE_QKV] = "attn_qkv",
            [ROLE_Q_NORM] = "attn_q_norm",
            [ROLE_K_NORM] = "attn_k_norm",
            [ROLE_O] = "attn_output",
            [ROLE_ATTN_POST] = "post_attention_norm",
            [ROLE_FFN_NORM] = "ffn_norm",
            [ROLE_GATE] = "ffn_gate",
            [ROLE_UP] = "ffn_up",
            [ROLE_GATE_UP] = "ffn_up",
            [ROLE_DOWN] = "ffn_down",
            [ROLE_FFN_POST] = "post_ffw_norm",
        },
};

#define LLAMA_NAMES                                                                                                    \
    .prefix = "model.", .layers = "model.layers.", .of[ROLE_EMBED] = "model.embed_tokens", .of[ROLE_HEAD] = "lm_head", \
    .of[ROLE_OUT_NORM] = "model.norm", .of[ROLE_Q] = "self_attn.q_proj", .of[ROLE_K] = "self_attn.k_proj",             \
    .of[ROLE_V] = "self_attn.v_proj", .of[ROLE_O] = "self_attn.o_proj", .of[ROLE_QKV] = "self_attn.qkv_proj",          \
    .of[ROLE_Q_NORM] = "self_attn.q_norm", .of[ROLE_K_NORM] = "self_attn.k_norm", .of[ROLE_GATE] = "mlp.gate_proj",    \
    .of[ROLE_UP] = "mlp.up_proj", .of[ROLE_GATE_UP] = "mlp.gate_up_proj", .of[ROLE_DOWN] = "mlp.down_proj"
/* The second norm of llama's layer precedes the ffn; where there are norms behind the parts, the same name is behind attention.
 */
#define LLAMA_NORMS .of[ROLE_ATTN_NORM] = "input_layernorm", .of[ROLE_FFN_NORM] = "post_attention_layernorm"
#define POST_NORMS .of[ROLE_ATTN_POST] = "post_attention_layernorm", .of[ROLE_FFN_POST] = "post_feedforward_layernorm"
#define GEMMA_NORMS .of[ROLE_ATTN_NORM] = "input_layernorm", .of[ROLE_FFN_NORM] = "pre_feedforward_layernorm", POST_NORMS

const struct arch model_archs[] = {
    {
        .type = "llama",
        .class = "LlamaForCausalLM",
        .gguf = "llama",
        .names = {LLAMA_NAMES, LLAMA_NORMS},
        .pre_norm = true,
        .gguf_interleaved = true,
        .gated = true,
        .qkv_bias = BIAS_MAY,
        .o_bias = BIAS_MAY,
        .ffn_bias = BIAS_MAY,
        .missing = {.eps = 1e-6, .rotary = 1, .base = 10000},
    },
    {
        .type = "mistral",
        .class = "MistralForCausalLM",
        .names = {LLAMA_NAMES, LLAMA_NORMS},
        .pre_norm = true,
        .gated = true,
        .windows = WINDOWS_ALL,
        .missing = {.eps = 1e-6, .rotary = 1, .base = 10000, .kv_heads = 8, .window = 4096},
    },
    {
        .type = "gpt2",
        .class = "GPT2LMHeadModel",
        .gguf = "gpt2",
        .names = {.prefix = "transformer.",
                  .layers = "transformer.h.",
                  .of = {[ROLE_EMBED] = "transformer.wte",
                         [ROLE_POSITIONS] = "transformer.wpe",
                         [ROLE_HEAD] = "lm_head",
                         [ROLE_OUT_NORM] = "transformer.ln_f",
                         [ROLE_ATTN_NORM] = "ln_1",
                         [ROLE_QKV] = "attn.c_attn",
                         [ROLE_O] = "attn.c_proj",
                         [ROLE_FFN_NORM] = "ln_2",
                         [ROLE_UP] = "mlp.c_fc",
                         [ROLE_DOWN] = "mlp.c_proj"},
                  .transposed = true},
        .norm = NORM_LAYER,
        .pre_norm = true,
        .learned = true,
        .activation = ACTIVATION_GELU_TANH,
        .fused_qkv = true,
        .qkv_bias = BIAS_YES,
        .o_bias = BIAS_YES,
        .ffn_bias = BIAS_YES,
        .missing = {.eps = 1e-5, .head = HEAD_ALWAYS, .tied = true},
    },
    {
        .type = "gpt_neox",
        .class = "GPTNeoXForCausalLM",
        .gguf = "gptneox",
        .names = {.prefix = "gpt_neox.",
                  .layers = "gpt_neox.layers.",
                  .of = {[ROLE_EMBED] = "gpt_neox.embed_in",
                         [ROLE_HEAD] = "embed_out",
                         [ROLE_OUT_NORM] = "gpt_neox.final_layer_norm",
                         [ROLE_ATTN_NORM] = "input_layernorm",
                         [ROLE_QKV] = "attention.query_key_value",
                         [ROLE_O] = "attention.dense",
                         [ROLE_FFN_NORM] = "post_attention_layernorm",
                         [ROLE_UP] = "mlp.dense_h_to_4h",
                         [ROLE_DOWN] = "mlp.dense_4h_to_h"},
                  .qkv_by_head = true},
        .norm = NORM_LAYER,
        .pre_norm = true,
        .parallel = true,
        .activation = ACTIVATION_GELU_EXACT,
        .fused_qkv = true,
        .qkv_bias = BIAS_MAY,
        .o_bias = BIAS_MAY,
        .ffn_bias = BIAS_YES,
        .partial = true,
        .missing = {.eps = 1e-5, .rotary = 0.25, .base = 10000, .head = HEAD_ALWAYS, .biased = true},
    },
    {
        .type = "qwen2",
        .class = "Qwen2ForCausalLM",
        .gguf = "qwen2",
        .names = {LLAMA_NAMES, LLAMA_NORMS},
        .pre_norm = true,
        .gated = true,
        .qkv_bias = BIAS_YES,
        .windows = WINDOWS_UPPER,
        .missing = {.eps = 1e-6, .rotary = 1, .base = 10000, .kv_heads = 32, .window = 4096},
    },
    {
        .type = "qwen3",
        .class = "Qwen3ForCausalLM",
        .gguf = "qwen3",
        .names = {LLAMA_NAMES, LLAMA_NORMS},
        .pre_norm = true,
        .gated = true,
        .qkv_bias = BIAS_MAY,
        .o_bias = BIAS_MAY,
        .qk_norm = QK_NORM_HEAD,
        .windows = WINDOWS_UPPER,
        .missing = {.eps = 1e-6, .rotary = 1, .base = 10000, .kv_heads = 32, .head = 128, .window = 4096},
    },
    {
        .type = "gemma2",
        .class = "Gemma2ForCausalLM",
        .gguf = "gemma2",
        .names = {LLAMA_NAMES, GEMMA_NORMS},
        .norm_plus_one = true,
        .pre_norm = true,
        .post_norm = true,
        .activation = ACTIVATION_GELU_TANH,
        .gated = true,
        .qkv_bias = BIAS_MAY,
        .o_bias = BIAS_MAY,
        .embed_scaled = true,
        .logit_cap = true,
        .score_cap = true,
        .query_scalar = true,
        .windows = WINDOWS_PERIOD,
        .missing = {.eps = 1e-6,
                    .score_cap = 50,
                    .logit_cap = 30,
                    .rotary = 1,
                    .base = 10000,
                    .kv_heads = 4,
                    .head = 256,
                    .scalar = 256,
                    .window = 4096,
                    .period = 2,
                    .tied = true},
        .gguf_wide_layers = 46,
    },
    {
        .type = "gemma3_text",
        .class = "Gemma3ForCausalLM",
        .gguf = "gemma3",
        .names = {LLAMA_NAMES, GEMMA_NORMS},
        .norm_plus_one = true,
        .pre_norm = true,
        .post_norm = true,
        .activation = ACTIVATION_GELU_TANH,
        .gated = true,
        .qkv_bias = BIAS_MAY,
        .o_bias = BIAS_MAY,
        .qk_norm = QK_NORM_HEAD,
        .embed_scaled = true,
        .logit_cap = true,
        .query_scalar = true,
        .two_ropes = true,
        .windows = WINDOWS_PERIOD,
        .missing = {.eps = 1e-6,
                    .rotary = 1,
                    .base = 1000000,
                    .local_base = 10000,
                    .kv_heads = 4,
                    .head = 256,
                    .scalar = 256,
                    .window = 4096,
                    .period = 6,
                    .tied = true},
        .gguf_wide_layers = 62,
    },
    {
        .type = "phi3",
        .class = "Phi3ForCausalLM",
        .gguf = "phi3",
        .names = {LLAMA_NAMES, LLAMA_NORMS},
        .pre_norm = true,
        .gated = true,
        .fused_qkv = true,
        .fused_gate_up = true,
        .partial = true,
        .windows = WINDOWS_ALL,
        .missing = {.eps = 1e-5, .rotary = 1, .base = 10000},
    },
    {
        .type = "olmo2",
        .class = "Olmo2ForCausalLM",
        .gguf = "olmo2",
        .names = {LLAMA_NAMES, POST_NORMS},
        .post_norm = true,
        .gated = true,
        .qkv_bias = BIAS_MAY,
        .o_bias = BIAS_MAY,
        .qk_norm = QK_NORM_ALL,
        .missing = {.eps = 1e-5, .rotary = 1, .base = 10000},
    },
};
const int model_n_archs = sizeof model_archs / sizeof *model_archs;

const struct arch *model_arch(const char *name, bool folder, err *e)
{
    struct buf names = {0};
    int i;
    for (i = 0; i < model_n_archs; i++) {
        const char *row = folder ? model_archs[i].type : model_archs[i].gguf;
        if (row && strcmp(row, name) == 0) {
            buf_free(&names);
            return &model_archs[i];
        }
        if (row) buf_printf(&names, "%s%s", names.n ? ", " : "", row);
    }
    err_set(e, ERR_ENV, "architecture '%s' is not supported (supported: %s)", name, names.p);
    buf_free(&names);
    return NULL;
}
