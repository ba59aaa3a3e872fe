/* state_formula.c: numbers that one layer of each kind holds, and where that is written down.
 *
 * Where implementations differ, the count is what must be kept to go on with the text exactly, in the layout of the model's own
 * implementation; buffers that only spare work are not counted. Two differences are known: llama.cpp keeps the states of Mamba
 * in f32 and one column of a convolution fewer (n_embd_r, llama-hparams.cpp).
 */
#include "state_in.h"

#include <stdio.h>
#include <string.h>

/* So that all layers of a model, STATE_LAYERS_MAX x STATE_PARTS x 4 bytes, stay inside 63 bits. */
static const int64_t layer_max = (int64_t)1 << 40;

static int keep(int64_t *out, __int128 n, err *e)
{
    if (n > layer_max) return err_set(e, ERR_ENV, "a layer of more than %lld numbers", (long long)layer_max);
    *out = (int64_t)n;
    return 0;
}

static void start(struct state_part *p, const char *kind)
{
    memset(p, 0, sizeof *p);
    p->kind = kind;
}

/* Keys and values of a token: G (E_k + E_v); 2 L G E for the whole model where E_k = E_v. transformers, cache_utils.py,
   DynamicLayer: (batch, kv heads, tokens, head size) twice. A window keeps min(tokens, window) of them:
   DynamicSlidingWindowLayer (which, between two steps, stores one fewer: the newest token takes the last place). */
int state_attention(struct state_part *p, int heads, int key, int value, int window, err *e)
{
    start(p, "attention");
    p->window = window;
    snprintf(p->shape, sizeof p->shape, "%d kv head%s x (%d + %d)", heads, heads == 1 ? "" : "s", key, value);
    if (keep(&p->per_token, (__int128)heads * ((__int128)key + value), e) ||
        keep(&p->sums, (__int128)heads * ((__int128)key * value + key), e))
        return -1;
    p->written_out = p->per_token;
    return 0;
}

/* One latent vector for keys and values of all heads, and one rotary key shared by them: DeepSeek-V2, arXiv 2405.04434, section
   2.1.3 and table 1; transformers, modeling_deepseek_v3.py, DeepseekV3Attention (kv_a_proj_with_mqa). Written out, each head
   has a key of nope + rope and a value. */
int state_mla(struct state_part *p, int rank, int rope, int heads, int nope, int value, err *e)
{
    __int128 key = (__int128)nope + rope;
    start(p, "mla");
    snprintf(p->shape, sizeof p->shape, "%d latent + %d rotary; written out %d heads x (%d + %d)", rank, rope, heads,
             nope + rope, value);
    if (keep(&p->per_token, (__int128)rank + rope, e) || keep(&p->written_out, heads * (key + value), e)) return -1;
    return keep(&p->sums, heads * (key * value + key), e);
}

/* aa, bb and pp of the weighted sum, always f32, and the previous input of both mixings. ChatRWKV, rwkv_pip_package/model.py,
   forward (state: 0 = att_xx, 1 = att_aa, 2 = att_bb, 3 = att_pp, 4 = ffn_xx); transformers, modeling_rwkv.py, RwkvModel. */
int state_rwkv4(struct state_part *p, int width, int attention_width, err *e)
{
    start(p, "rwkv4");
    snprintf(p->shape, sizeof p->shape, "3 x %d in f32, 2 shifts x %d", attention_width, width);
    return keep(&p->fixed, (__int128)2 * width, e) || keep(&p->fixed_f32, (__int128)3 * attention_width, e) ? -1 : 0;
}

/* A matrix for each head, always f32, and the previous inputs. ChatRWKV, rwkv_pip_package/model.py, forward for versions 5 and
   6 (state: 0 = att_xx, 1 = att_kv of heads x size x size, 2 = ffn_xx). RWKV-7 is the same size. */
int state_rwkv(struct state_part *p, int width, int heads, int head, int shifts, err *e)
{
    start(p, "rwkv");
    snprintf(p->shape, sizeof p->shape, "%d heads x (%d x %d) in f32, %d shift%s x %d", heads, head, head, shifts,
             shifts == 1 ? "" : "s", width);
    return keep(&p->fixed, (__int128)shifts * width, e) || keep(&p->fixed_f32, (__int128)heads * head * head, e) ? -1 : 0;
}

/* mamba_ssm/modules/mamba_simple.py, allocate_inference_cache: conv_state (d_inner, d_conv), ssm_state (d_inner, d_state), both
   in the model's type; transformers, cache_utils.py, LinearAttentionLayer. */
int state_mamba(struct state_part *p, int inner, int states, int conv, err *e)
{
    start(p, "mamba");
    snprintf(p->shape, sizeof p->shape, "%d x (%d states + %d of the convolution)", inner, states, conv);
    return keep(&p->fixed, (__int128)inner * ((__int128)states + conv), e);
}

/* mamba_ssm/modules/mamba2.py, allocate_inference_cache: conv_state (d_inner + 2 n_groups d_state, d_conv), ssm_state (n_heads,
   head_dim, d_state). transformers, modeling_mamba2.py: conv_dim. */
int state_mamba2(struct state_part *p, int heads, int head, int states, int groups, int conv, err *e)
{
    __int128 inner = (__int128)heads * head, columns = inner + (__int128)2 * groups * states;
    start(p, "mamba2");
    snprintf(p->shape, sizeof p->shape, "%d heads x %d x %d states, convolution %lld x %d", heads, head, states,
             (long long)columns, conv);
    return keep(&p->fixed, inner * states + columns * conv, e);
}

/* transformers, modeling_qwen3_next.py, Qwen3NextGatedDeltaNet: a matrix for each value head, and a convolution over queries,
   keys and values (conv_dim = 2 key_dim + value_dim). */
int state_deltanet(struct state_part *p, int key_heads, int key, int value_heads, int value, int conv, err *e)
{
    __int128 columns = (__int128)2 * key_heads * key + (__int128)value_heads * value;
    start(p, "deltanet");
    snprintf(p->shape, sizeof p->shape, "%d heads x (%d x %d), convolution %lld x %d", value_heads, key, value,
             (long long)columns, conv);
    return keep(&p->fixed, (__int128)value_heads * key * value + columns * conv, e);
}

/* transformers, modeling_lfm2.py, Lfm2ShortConv: conv_L_cache columns of the width. */
int state_conv(struct state_part *p, int width, int conv, err *e)
{
    start(p, "conv");
    snprintf(p->shape, sizeof p->shape, "%d x %d", width, conv);
    return keep(&p->fixed, (__int128)width * conv, e);
}
