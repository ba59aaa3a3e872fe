"""Caches of tiny models, counted: writes tests/golden/state.json for test_state.c.

    python tests/oracle/state.py          # needs torch and transformers 5.23

Each entry is a config as save_pretrained writes it and the numbers that transformers' own cache holds after `tokens` tokens. A layer
with a window stores one position fewer between two steps than it lets the next token see; that one is counted. Not here: gpt_neo
and falcon with kv heads, where transformers keeps tokens and copies of heads that nothing reads.
"""
import json
import pathlib

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = 11
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "state.json"
BASE = dict(vocab_size=64, hidden_size=48, intermediate_size=32, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=2,
            max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GPT = dict(vocab_size=64, n_embd=48, n_layer=5, n_head=6, n_positions=64, bos_token_id=1, eos_token_id=2)
MOE = dict(num_experts=2, num_local_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, n_routed_experts=2, n_group=1, topk_group=1,
           shared_expert_intermediate_size=16, shared_intermediate_size=16, num_shared_experts=1)
LATENT = dict(BASE, **MOE, num_key_value_heads=6, kv_lora_rank=10, q_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=8,
              first_k_dense_replace=1)
MIXER = dict(mamba_d_state=6, mamba_d_conv=3, mamba_expand=2, mamba_n_heads=4, mamba_d_head=24, mamba_n_groups=2, mamba_chunk_size=8)

CASES = [(t, BASE) for t in ("apertus arcee bitnet cohere ernie4_5 granite helium hunyuan_v1_dense llama ministral mistral "
                             "nemotron olmo olmo2 persimmon phi phi3 seed_oss smollm3 stablelm starcoder2").split()]
UNLIKE = {"persimmon": dict(num_key_value_heads=6), "helium": dict(head_dim=8), "hunyuan_v1_dense": dict(head_dim=8), "ministral": dict(head_dim=8)}
CASES = [(t, dict(c, **UNLIKE.get(t, {}))) for t, c in CASES]
CASES += [(t, dict(BASE, head_dim=12)) for t in "gemma glm glm4 llama mistral qwen3 gemma2 gemma3_text".split()]
CASES += [(t, dict(BASE, **MOE)) for t in "mixtral phimoe olmoe granitemoe qwen2_moe qwen3_moe gpt_oss glm4_moe".split()]
CASES += [(t, {k: v for k, v in BASE.items() if k != "num_key_value_heads"}) for t in ("gpt_neox", "opt", "biogpt", "olmo", "llama")]
CASES += [(t, dict(GPT, rotary_dim=4)) for t in ("gpt2", "gptj")]
CASES += [("codegen", dict(GPT, n_head=4, rotary_dim=4))]
CASES += [("gpt_bigcode", GPT), ("gpt_bigcode", dict(GPT, multi_query=False))]
CASES += [("bloom", dict(vocab_size=64, hidden_size=48, n_layer=5, n_head=6)), ("mpt", dict(vocab_size=64, d_model=48, n_layers=5, n_heads=6)),
          ("dbrx", dict(vocab_size=64, d_model=48, n_layers=5, n_heads=6, max_seq_len=64, attn_config=dict(kv_n_heads=2, clip_qkv=8.0, rope_theta=10000.0),
                        ffn_config=dict(ffn_hidden_size=16, moe_num_experts=2, moe_top_k=1))),
          ("falcon", dict(vocab_size=64, hidden_size=48, num_hidden_layers=5, num_attention_heads=6)),
          ("falcon", dict(vocab_size=64, hidden_size=48, num_hidden_layers=5, num_attention_heads=6, multi_query=False))]
# windows, by each rule
CASES += [("ministral", dict(BASE, sliding_window=7, head_dim=8))]
CASES += [(t, dict(BASE, sliding_window=7)) for t in "mistral mixtral phi3 starcoder2 gemma2 cohere2 olmo3 exaone4".split()]
CASES += [("gemma3_text", dict(BASE, sliding_window=7, sliding_window_pattern=3, head_dim=8)),
          ("gpt_oss", dict(BASE, **MOE, sliding_window=7, head_dim=8)),
          ("qwen2", dict(BASE, sliding_window=7, use_sliding_window=True, max_window_layers=2)),
          ("qwen2", dict(BASE, sliding_window=7, use_sliding_window=False, max_window_layers=2)),
          ("qwen3", dict(BASE, sliding_window=7, use_sliding_window=True, max_window_layers=2, head_dim=8)),
          ("mistral", dict(BASE, sliding_window=None)),
          ("cohere2", dict(BASE, sliding_window=7, sliding_window_pattern=2))]
CASES += [(t, LATENT) for t in ("deepseek_v2", "deepseek_v3", "minicpm3", "glm4_moe_lite")]
# recurrent
CASES += [("rwkv", dict(vocab_size=64, hidden_size=48, num_hidden_layers=5, context_length=64)),
          ("mamba", dict(vocab_size=64, hidden_size=48, num_hidden_layers=5, state_size=6, conv_kernel=3, expand=3)),
          ("falcon_mamba", dict(vocab_size=64, hidden_size=48, num_hidden_layers=5, state_size=6, conv_kernel=3)),
          ("mamba2", dict(vocab_size=64, hidden_size=48, num_hidden_layers=5, state_size=6, conv_kernel=3, num_heads=8, head_dim=12,
                          n_groups=2, chunk_size=8))]
# mixtures
CASES += [("jamba", dict(BASE, **MOE, attn_layer_period=3, attn_layer_offset=1, mamba_d_state=6, mamba_d_conv=3, use_mamba_kernels=False)),
          ("zamba", dict(BASE, num_hidden_layers=7, attn_layer_period=3, attn_layer_offset=1, mamba_d_state=6, mamba_d_conv=3,
                         n_mamba_heads=2, num_key_value_heads=6, use_mamba_kernels=False)),
          ("zamba2", dict(BASE, layers_block_type=["mamba", "mamba", "hybrid", "mamba", "hybrid"], mamba_d_state=6, mamba_d_conv=3,
                          mamba_ngroups=2, n_mamba_heads=4, num_key_value_heads=6, chunk_size=8)),
          ("bamba", dict(BASE, **MIXER, attn_layer_indices=[1, 4])),
          ("granitemoehybrid", dict(BASE, **MIXER, **MOE, layer_types=["mamba", "attention", "mamba", "mamba", "attention"])),
          ("falcon_h1", dict(BASE, **MIXER, mamba_d_ssm=96, head_dim=10)),
          ("nemotron_h", dict(BASE, **MOE, hybrid_override_pattern="M-*M-", head_dim=10, mamba_num_heads=4, mamba_head_dim=6,
                              ssm_state_size=5, n_groups=2, conv_kernel=3, chunk_size=8)),
          ("qwen3_next", dict(BASE, **MOE, head_dim=8, linear_num_key_heads=2, linear_key_head_dim=6, linear_num_value_heads=4,
                              linear_value_head_dim=10, linear_conv_kernel_dim=3)),
          ("lfm2", dict(BASE, full_attn_idxs=[1, 3], conv_L_cache=4))]


def numbers(tensor):
    return tensor.numel() if isinstance(tensor, torch.Tensor) else 0


def count(layer):
    """Numbers of one layer of a cache: keys and values, then states."""
    kept = 0
    if getattr(layer, "keys", None) is not None:
        stored = layer.keys.shape[-2]
        window = getattr(layer, "sliding_window", None)
        kept += (numbers(layer.keys) + numbers(layer.values)) // stored * min(TOKENS, window or TOKENS)
    for name in ("conv_states", "recurrent_states"):
        states = getattr(layer, name, None)
        kept += sum(numbers(s) for s in (states.values() if isinstance(states, dict) else states or []))
    return kept


def main():
    torch.manual_seed(0)
    entries = []
    for name, keys in CASES:
        config = AutoConfig.for_model(name, **keys)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            out = model(torch.randint(3, 64, (1, TOKENS)), use_cache=True)
        f32 = 0
        if name == "rwkv":
            total, f32 = sum(s.numel() for s in out.state[:2]), sum(s.numel() for s in out.state[2:])
        else:
            cache = out.past_key_values if getattr(out, "past_key_values", None) is not None else out.cache_params
            total = sum(count(layer) for layer in cache.layers)
        written = json.loads(config.to_json_string(use_diff=True))
        entries.append(dict(config=written, tokens=TOKENS, numbers=total, numbers_f32=f32))
        print(f"{name:20} {total:8} {f32:8}")
    lines = ",\n".join(json.dumps(e, separators=(",", ":"), sort_keys=True) for e in entries)
    GOLDEN.write_text('{"transformers":"%s","cases":[\n%s\n]}\n' % (transformers.__version__, lines))


if __name__ == "__main__":
    main()
