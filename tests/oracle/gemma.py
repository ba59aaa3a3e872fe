#!/usr/bin/env python3
"""Makes tests/golden/gemma3-270m.json: Gemma 3 270M as transformers computes it, f32, eager attention, greedy.

usage: gemma.py MODEL.gguf OUT.json [--tokens 50]        (pip install torch transformers gguf)

Three prompts: a chat (with tests/golden/gemma3-chat.jinja, since the base model has no template), a plain text with all sorts of
characters, and a text longer than the window of 512 tokens that most layers have. Of each the text, its token ids, and the new
tokens with log-probabilities and margins (largest minus second largest logit). What the file's metadata leave open (which layers
have the window, the base of their rotary embedding) is checked against what is known of the model; the cached decoding is checked
against one pass over the whole text; and the long prompt's first token must be another one, or much surer or less sure, without
the window.
"""
import argparse
import copy
import json
import os
import pathlib

import gguf
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHAT = [("user", "I am flying to New York next week. Think about it, but do not answer yet."), ("assistant", "Okay, I am ready."),
        ("user", "Which city am I flying to?")]
PLAIN = ("Été 2024 – le château, the naïve café  (two spaces),\n\n\ta tab, 12345 + 67 = 12412; “quotes”, snake_case, 日本語の文, "
         "Ελληνικά, привет, 🙂🚀.\nThe three primary colours are")
COLOURS = "red blue green white black yellow brown grey pink orange violet".split()
THINGS = "stone key coin ring shell feather button".split()


def long_text(n):
    lines = [f"Box {i} stands beside the door and holds a {COLOURS[i * i % 11]} {THINGS[i * 3 % 7]}." for i in range(1, n + 1)]
    return "\n".join(lines) + "\nBox 3 stands beside the door and holds a"


def check_weights(model, path):
    """transformers' loading is trusted as far as this: it dequantised as the gguf package does, and norms lost the one that
    the converter had added."""
    state = model.state_dict()
    for tensor in gguf.GGUFReader(path).tensors:
        name = {"blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight", "blk.5.attn_q.weight": "model.layers.5.self_attn.q_proj.weight",
                "output_norm.weight": "model.norm.weight", "blk.3.attn_k_norm.weight": "model.layers.3.self_attn.k_norm.weight",
                "blk.3.post_ffw_norm.weight": "model.layers.3.post_feedforward_layernorm.weight"}.get(tensor.name)
        if name:
            want = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)) - float("norm" in name)
            assert torch.equal(state[name], want), name


def check_config(c):
    assert c.layer_types == ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(18)]
    assert c.sliding_window == 512 and c.hidden_activation == "gelu_pytorch_tanh" and c.query_pre_attn_scalar == 256
    assert c.rope_parameters["full_attention"] == {"rope_theta": 1e6, "rope_type": "default"}
    assert c.rope_parameters["sliding_attention"] == {"rope_theta": 1e4, "rope_type": "default"}
    assert c.attn_logit_softcapping is None and c.final_logit_softcapping is None and not c.use_bidirectional_attention


@torch.no_grad()
def greedy(model, ids, n):
    cache, feed, logits = transformers.DynamicCache(config=model.config), ids, []
    picks = []
    for _ in range(n):
        logits.append(model(torch.tensor([feed]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1])
        logprobs = torch.log_softmax(logits[-1], -1)
        best = logits[-1].topk(2)
        feed = [int(best.indices[0])]
        picks.append((feed[0], round(float(logprobs[feed[0]]), 5), round(float(best.values[0] - best.values[1]), 5)))
    whole = model(torch.tensor([ids + [p[0] for p in picks[:-1]]]), use_cache=False, logits_to_keep=n).logits[0]
    assert float((whole - torch.stack(logits)).abs().max()) < 1e-3
    return picks


@torch.no_grad()
def first_logprobs(model, ids):
    return torch.log_softmax(model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1], -1)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model")
    args.add_argument("out")
    args.add_argument("--tokens", type=int, default=50)
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    folder, file = os.path.split(os.path.abspath(args.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
    check_config(model.config)
    check_weights(model, args.model)
    chat = tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in CHAT], tokenize=False, add_generation_prompt=True,
                                         chat_template=(ROOT / "tests/golden/gemma3-chat.jinja").read_text())
    texts = {"chat": (chat, False), "plain": (PLAIN, True), "long": (long_text(46), True)}
    prompts = {}
    for name, (text, add_bos) in texts.items():
        ids = tokenizer(text, add_special_tokens=add_bos).input_ids
        assert ids[0] == 2 and ids.count(2) == 1
        picks = greedy(model, ids, args.tokens)
        prompts[name] = {"text": text, "tokens": ids, "new": [p[0] for p in picks], "logprobs": [p[1] for p in picks],
                         "margins": [p[2] for p in picks], "new_text": tokenizer.decode([p[0] for p in picks])}
        print(name, len(ids), "tokens:", repr(prompts[name]["new_text"]), "smallest margin", min(p[2] for p in picks), flush=True)
    prompts["chat"]["messages"] = [{r: c} for r, c in CHAT]
    ids = prompts["long"]["tokens"]
    assert len(ids) > 600
    wide = copy.deepcopy(model)
    wide.config.sliding_window = 1 << 20
    for layer in wide.model.layers:
        layer.self_attn.sliding_window = 1 << 20 if layer.self_attn.sliding_window else None
    change = float((first_logprobs(wide, ids) - first_logprobs(model, ids))[prompts["long"]["new"][0]].abs())
    print("without the window the first log-probability changes by", change)
    assert change > 0.02
    with open(args.out, "w") as f:
        json.dump({"model": file, "transformers": transformers.__version__, "torch": torch.__version__, "prompts": prompts}, f,
                  ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
