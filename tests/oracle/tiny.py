#!/usr/bin/env python3
"""Remakes tests/golden/tiny: small random models of every architecture, and what transformers computes with them.

    python3 -m venv v && v/bin/pip install torch transformers safetensors
    v/bin/python tests/oracle/tiny.py tests/golden/tiny [NAME ...]

The arithmetic of the truth is f32 with eager attention; where a model's weights are f16 or bf16 in the file, they were
rounded to that type first. The folders were made with torch 2.15.0 and transformers 5.23.0.

config.json, model.safetensors   the model; some in the layout of older versions, some in shards
expected.safetensors             logits (P, V), hidden.0 the embedding, hidden.i the residual after block i - 1 (the last one
                                 after the final norm), attn.l (H, P, P), k.l and v.l (G, P, E); of long prompts only the
                                 logits of the last rows and the caches of one layer
expected.json                    prompt and donor (they differ at `positions` alone), and for every condition the greedy
                                 tokens, their log-probabilities, and how far the second best one is

Conditions without `when` edit the finished cache of all but the last prompt token, which is then fed. With `when: prefill`
the edit is made while the whole prompt is computed: to the keys and values of every layer before they are attended to, or to
the residual behind block 1.
"""

import copy
import json
import os
import sys

import torch
import transformers as T
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)


def sizes(D, H, F, L, V=80, context=160, **more):
    return dict(hidden_size=D, num_attention_heads=H, intermediate_size=F, num_hidden_layers=L, vocab_size=V,
                max_position_embeddings=context, attn_implementation="eager", **SPECIAL, **more)


def gpt2_sizes(D, H, L, V=80, context=96, **more):
    return dict(n_embd=D, n_head=H, n_layer=L, vocab_size=V, n_positions=context, attn_implementation="eager",
                bos_token_id=1, eos_token_id=2, **more)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24)

# name: (architecture, configuration, options)
MODELS = {
    "gpt2": ("GPT2", gpt2_sizes(24, 4, 3), {}),
    "gpt2-by-layer": ("GPT2", gpt2_sizes(27, 3, 4, V=71, n_inner=50, scale_attn_by_inverse_layer_idx=True), dict(dtype="bf16")),
    "gpt2-unscaled": ("GPT2", gpt2_sizes(40, 5, 2, activation_function="gelu", scale_attn_weights=False,
                                         tie_word_embeddings=False), dict(dtype="f16", old="gpt2")),
    "neox": ("GPTNeoX", sizes(24, 3, 40, 3, hidden_act="gelu", **rope(partial_rotary_factor=0.25)), dict(old="neox")),
    "neox-serial": ("GPTNeoX", sizes(40, 5, 64, 2, hidden_act="gelu_new", use_parallel_residual=False, attention_bias=False,
                                     tie_word_embeddings=True, **rope("linear", factor=2.0, partial_rotary_factor=0.5)),
                    dict(dtype="f16")),
    "llama": ("Llama", sizes(24, 6, 36, 3, num_key_value_heads=2, **rope(theta=500000.0)), dict(old="llama")),
    "llama-biased": ("Llama", sizes(40, 2, 48, 2, num_key_value_heads=1, attention_bias=True, mlp_bias=True,
                                    tie_word_embeddings=True, **rope()), dict(dtype="bf16", shards="12KB")),
    "llama-3": ("Llama", sizes(36, 3, 48, 3, num_key_value_heads=3, tie_word_embeddings=True,
                               **rope("llama3", 50000.0, **LLAMA3)), dict(dtype="bf16")),
    "llama-linear": ("Llama", sizes(20, 4, 28, 3, num_key_value_heads=4, head_dim=12, hidden_act="gelu", rms_norm_eps=1e-5,
                                    **rope("linear", factor=4.0)), dict(old="llama")),
    "mistral": ("Mistral", sizes(32, 4, 48, 3, num_key_value_heads=2, head_dim=12, sliding_window=5, **rope()), dict(dtype="f16")),
    "mistral-long": ("Mistral", sizes(32, 2, 48, 2, num_key_value_heads=1, sliding_window=21, **rope()), dict(prompt=140)),
    "mistral-full": ("Mistral", sizes(24, 3, 40, 2, num_key_value_heads=3, sliding_window=None, **rope(theta=1e6)), {}),
    "qwen2": ("Qwen2", sizes(40, 4, 48, 3, num_key_value_heads=2, head_dim=10, tie_word_embeddings=True, **rope(theta=1e6)),
              dict(dtype="bf16")),
    "qwen2-window": ("Qwen2", sizes(24, 4, 32, 4, num_key_value_heads=4, use_sliding_window=True, sliding_window=6,
                                    max_window_layers=2, **rope()), dict(old="llama")),
    "qwen3": ("Qwen3", sizes(24, 4, 32, 2, num_key_value_heads=2, head_dim=16, **rope(theta=1e6)), dict(shards="16KB")),
    "qwen3-biased": ("Qwen3", sizes(40, 2, 48, 3, num_key_value_heads=1, head_dim=16, attention_bias=True, tie_word_embeddings=True,
                                    use_sliding_window=True, sliding_window=4, max_window_layers=1, **rope()), dict(dtype="f16")),
    "gemma2": ("Gemma2", sizes(32, 4, 40, 4, num_key_value_heads=2, head_dim=8, sliding_window=4, query_pre_attn_scalar=20,
                               attn_logit_softcapping=5.0, final_logit_softcapping=3.0, **rope()), dict(dtype="bf16")),
    "gemma2-uncapped": ("Gemma2", sizes(24, 2, 32, 3, num_key_value_heads=1, head_dim=20, sliding_window=7, query_pre_attn_scalar=9,
                                        attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=True,
                                        layer_types=["full_attention", "sliding_attention", "sliding_attention"], **rope()), {}),
    "gemma2-long": ("Gemma2", sizes(24, 2, 32, 2, num_key_value_heads=2, head_dim=16, sliding_window=65,
                                    query_pre_attn_scalar=16, **rope()), dict(prompt=140, old="llama")),
    "gemma3": ("Gemma3", sizes(24, 4, 32, 6, V=64, num_key_value_heads=2, head_dim=8, sliding_window=5, query_pre_attn_scalar=16,
                               rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=100000.0),
                                                    sliding_attention=dict(rope_type="default", rope_theta=1000.0))),
               dict(dtype="bf16", old="gemma3")),
    "gemma3-capped": ("Gemma3", sizes(40, 2, 40, 3, num_key_value_heads=1, head_dim=20, sliding_window=6, query_pre_attn_scalar=30,
                                      attn_logit_softcapping=4.0, final_logit_softcapping=6.0, tie_word_embeddings=False,
                                      layer_types=["full_attention", "sliding_attention", "full_attention"]), dict(dtype="f16")),
    "phi3": ("Phi3", sizes(48, 3, 56, 3, num_key_value_heads=1, **rope(partial_rotary_factor=0.75)), dict(dtype="f16")),
    "phi3-window": ("Phi3", sizes(24, 4, 32, 3, num_key_value_heads=2, sliding_window=6, tie_word_embeddings=True,
                                  **rope(theta=30000.0, partial_rotary_factor=1.0)), dict(old="llama")),
    "olmo2": ("Olmo2", sizes(40, 4, 56, 3, num_key_value_heads=2, **rope()), dict(dtype="bf16")),
    "olmo2-biased": ("Olmo2", sizes(24, 2, 32, 2, num_key_value_heads=2, attention_bias=True, tie_word_embeddings=True,
                                    **rope("linear", 50000.0, factor=2.0)), dict(old="llama")),
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

CONDITIONS = {
    "none": {},
    "zero": dict(do="zero", of="kv"),
    "zero_k": dict(do="zero", of="k"),
    "zero_v": dict(do="zero", of="v"),
    "transplant": dict(do="transplant", of="kv"),
    "transplant_v": dict(do="transplant", of="v"),
    "zero_layer1": dict(do="zero", of="kv", layers=[1]),
    "zero_head0": dict(do="zero", of="kv", heads=[0]),
    "scale_v_2": dict(do="scale", of="v", by=2.0),
    "mask": dict(do="mask"),
    "prefill_zero_kv": dict(do="zero", of="kv", when="prefill"),
    "prefill_transplant_kv": dict(do="transplant", of="kv", when="prefill"),
    "prefill_resid_zero_block1": dict(do="zero", of="resid", when="prefill", layers=[1]),
    "prefill_resid_double_block1": dict(do="scale", of="resid", by=2.0, when="prefill", layers=[1]),
}


class InFlight(T.DynamicCache):
    """Hands new keys and values to `change` before they are stored and attended to."""

    change = None

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if self.change:
            self.change(layer_idx, key_states, value_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


@torch.no_grad()
def greedy(model, cache, ids, n, hidden=None):
    """n tokens after ids; `hidden` are cached positions that nobody attends to."""
    out = dict(tokens=[], logprobs=[], margins=[])
    for _ in range(n):
        past = cache.get_seq_length()
        more = {}
        if hidden:
            mask = torch.ones(1, past + len(ids), dtype=torch.long)
            mask[0, hidden] = 0
            more = dict(attention_mask=mask, position_ids=torch.arange(past, past + len(ids))[None])
        logits = model(torch.tensor([ids]), past_key_values=cache, use_cache=True, **more).logits[0, -1]
        best = torch.log_softmax(logits.float(), -1).topk(2)
        ids = [int(best.indices[0])]
        out["tokens"] += ids
        out["logprobs"].append(round(float(best.values[0]), 5))
        out["margins"].append(round(float(best.values[0] - best.values[1]), 5))
    return out


def apply(edit, layer, tensor, values, donor, at):
    """Changes values (1, G, T, E) of one layer, or leaves them alone."""
    if tensor not in edit["of"] or layer not in edit.get("layers", [layer]):
        return
    for head in edit.get("heads", range(values.shape[1])):
        for p in at:
            if edit["do"] == "transplant":
                values[:, head, p] = donor[:, head, p]
            else:
                values[:, head, p] *= edit.get("by", 0.0)


@torch.no_grad()
def condition(model, edit, prompt, finished, donor, at, n):
    parts = [(i, l.keys, l.values) for i, l in enumerate(donor.layers)]
    if edit.get("when") != "prefill":
        cache = copy.deepcopy(finished)
        for (i, donor_k, donor_v), layer in zip(parts, cache.layers):
            if edit.get("of"):
                apply(edit, i, "k", layer.keys, donor_k, at)
                apply(edit, i, "v", layer.values, donor_v, at)
        return greedy(model, cache, prompt[-1:], n, at if edit.get("do") == "mask" else None)

    cache, hook = InFlight(), None
    if edit["of"] == "resid":

        def after_block(module, args, out):
            h = out[0] if isinstance(out, tuple) else out
            h[:, at] *= edit.get("by", 0.0)
            return out

        blocks = getattr(model.base_model, "layers", None) or model.base_model.h
        hook = blocks[edit["layers"][0]].register_forward_hook(after_block)
    else:

        def change(i, k, v):
            apply(edit, i, "k", k, parts[i][1], at)
            apply(edit, i, "v", v, parts[i][2], at)

        cache.change = change
    first = greedy(model, cache, prompt, 1)
    cache.change = None
    if hook:
        hook.remove()
    rest = greedy(model, cache, first["tokens"], n - 1)
    return {key: first[key] + rest[key] for key in first}


# ---- the layouts of older versions ----


def old_config(config, kind):
    """Rotary settings and windows as transformers 4 wrote them."""
    c = dict(config)
    c.pop("layer_types", None)
    c["torch_dtype"] = c.pop("dtype")
    r = c.pop("rope_parameters", None)
    if kind == "gemma3":
        c["sliding_window_pattern"] = c.pop("_sliding_window_pattern")
        local, r = r["sliding_attention"], dict(r["full_attention"])
        c["rope_local_base_freq"] = local["rope_theta"]
    if r:
        r = dict(r)
        theta, part, kind_of_rope = r.pop("rope_theta"), r.pop("partial_rotary_factor", None), r.pop("rope_type")
        c["rotary_emb_base" if kind == "neox" else "rope_theta"] = theta
        if kind == "neox":
            c["rotary_pct"] = part
        elif part is not None:
            c["partial_rotary_factor"] = part
        c["rope_scaling"] = dict(r, type=kind_of_rope) if kind_of_rope != "default" else None
    return c


def old_tensors(tensors, kind, config):
    """Buffers, and names without the prefix, as old checkpoints have them."""
    out = dict(tensors)
    n = 16
    mask = torch.tril(torch.ones(1, 1, n, n))
    if kind == "gpt2":
        out = {(k[len("transformer."):] if k.startswith("transformer.") else k): v for k, v in out.items()}
        for i in range(config["n_layer"]):
            out[f"h.{i}.attn.bias"] = mask.clone()
            out[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    if kind == "neox":
        for i in range(config["num_hidden_layers"]):
            at = f"gpt_neox.layers.{i}.attention."
            out[at + "bias"] = mask.bool().clone()
            out[at + "masked_bias"] = torch.tensor(-1e9)
            out[at + "rotary_emb.inv_freq"] = torch.ones(2)
    return out


# ---- one model ----


def random_weights(model, seed):
    """Wide in the layers, so that greedy texts vary and follow the context, and norms that are not all one."""
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() > 1:
            p.data.normal_(0, 0.1 if "emb" in name or ".wte" in name else 0.3)
        else:
            p.data.add_(torch.randn_like(p) * 0.1)


@torch.no_grad()
def truth(model, prompt, long):
    out = model(torch.tensor([prompt]), output_hidden_states=True, output_attentions=True, use_cache=True,
                past_key_values=T.DynamicCache())
    layers = out.past_key_values.layers
    t = {"logits": out.logits[0]}
    if long:
        t = {"logits": out.logits[0, -6:], "k.1": layers[1].keys[0], "v.1": layers[1].values[0]}
    else:
        t.update({f"hidden.{i}": h[0] for i, h in enumerate(out.hidden_states)})
        t.update({f"attn.{i}": a[0] for i, a in enumerate(out.attentions)})
        t.update({f"k.{i}": l.keys[0] for i, l in enumerate(layers)})
        t.update({f"v.{i}": l.values[0] for i, l in enumerate(layers)})
    return {k: v.float().contiguous().clone() for k, v in t.items()}


def make(name, folder, seed):
    kind, config, o = MODELS[name]
    causal = {"GPT2": "GPT2LMHeadModel"}.get(kind, kind + "ForCausalLM")
    config = getattr(T, {"Gemma3": "Gemma3Text"}.get(kind, kind) + "Config")(**config)
    model = getattr(T, causal)(config).eval()
    random_weights(model, seed)
    dtype = DTYPES[o.get("dtype", "f32")]
    for p in model.parameters():  # not model.to(dtype): that would round the rotary frequencies, too
        p.data = p.data.to(dtype).float()
    os.makedirs(folder, exist_ok=True)
    for f in os.listdir(folder):
        os.remove(os.path.join(folder, f))
    copy.deepcopy(model).to(dtype).save_pretrained(folder, **({"max_shard_size": o["shards"]} if "shards" in o else {}))
    os.remove(os.path.join(folder, "generation_config.json"))
    if "old" in o:
        path, weights = os.path.join(folder, "config.json"), os.path.join(folder, "model.safetensors")
        with open(path) as f:
            c = json.load(f)
        with open(path, "w") as f:
            json.dump(old_config(c, o["old"]), f, indent=2)
        save_file(old_tensors(load_file(weights), o["old"], c), weights)

    P, V, N = o.get("prompt", 17), config.vocab_size, 8 if "prompt" in o else 16
    rng = torch.Generator().manual_seed(seed + 1)
    prompt = torch.randint(3, V, (P,), generator=rng).tolist()
    at = [P - 5, P - 4] if o.get("prompt") or "window" in str(config) else [5, 6]
    donor = [(t * 7 + 11) % (V - 3) + 3 if p in at else t for p, t in enumerate(prompt)]
    save_file(truth(model, prompt, "prompt" in o), os.path.join(folder, "expected.safetensors"))
    with torch.no_grad():
        finished, other = [model(torch.tensor([ids[:-1]]), use_cache=True, past_key_values=T.DynamicCache()).past_key_values
                           for ids in (prompt, donor)]
    results = {c: dict(edit=e, **condition(model, e, prompt, finished, other, at, N)) for c, e in CONDITIONS.items()}
    full = model.generate(torch.tensor([prompt]), max_new_tokens=N, do_sample=False, eos_token_id=None, pad_token_id=0)[0, P:]
    assert results["none"]["tokens"] == full.tolist(), "the way with a cache differs from generate()"
    about = dict(prompt=prompt, donor=donor, positions=at, max_new_tokens=N, seed=seed, torch=torch.__version__,
                 transformers=T.__version__)
    lines = ",\n  ".join(json.dumps(c) + ": " + json.dumps(r) for c, r in results.items())
    with open(os.path.join(folder, "expected.json"), "w") as f:
        f.write(json.dumps(about)[:-1] + ',\n "conditions": {\n  ' + lines + "\n}}\n")
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    texts = len({tuple(r["tokens"]) for r in results.values()})
    print(f"{name:18s} {size:7d} bytes, {texts:2d} texts under {len(results)} conditions, "
          f"{len(set(results['none']['tokens']))} tokens in the first", flush=True)


def main():
    if len(sys.argv) < 2 or any(name not in MODELS for name in sys.argv[2:]):
        sys.exit(f"usage: tiny.py FOLDER [{' '.join(MODELS)}]")
    for seed, name in enumerate(MODELS, 101):
        if not sys.argv[2:] or name in sys.argv[2:]:
            make(name, os.path.join(sys.argv[1], name), seed)


if __name__ == "__main__":
    main()
