#!/usr/bin/env python3
"""Makes tests/golden/smollm2-needle.json: the needle experiment as transformers computes it, f32, eager attention.

usage: needle.py MODEL.gguf OUT.json [--tokens 100]        (pip install torch transformers gguf)

Two conversations, each with a pair of needles of equal length; eight conditions for each of the four prompts. The cache holds
all prompt tokens but the last; it is edited; the last token is fed; greedy decoding goes on one token at a time, one job after
the other, as a notebook does. Also the norm over kv heads of the two prompts' difference of K and V per layer and position.
The seconds of this loop, without loading the model, are in the output as `seconds`: bench/needle compares with them.
"""
import argparse
import copy
import json
import os
import time

import torch
import transformers

CHATS = {
    "city": (["I am flying to {} next week. Think about it, but do not answer yet.", "Okay, I am ready.",
              "Which city am I flying to?"], "You are flying to"),
    "trip": (["I am flying to {} next week. Think about the historic places there that I should visit, but do not answer yet.",
              "Okay, I have thought about it and I am ready to answer.", "Great, now list the places."],
             "Here are the places you should visit:\n\n1. **"),
}
PAIRS = [("city", "SF", "NY"), ("trip", "San Francisco", "New York")]
CONDITIONS = ["baseline", "zero", "transplant", "mask", "zero_k", "zero_v", "zero_layers_0_9", "transplant_layers_0_9"]


def tokens_of(tokenizer, chat, city):
    turns, answer = CHATS[chat]
    messages = [{"role": ("user", "assistant")[i % 2], "content": t.format(city)} for i, t in enumerate(turns)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + answer
    return text, tokenizer(text, add_special_tokens=False).input_ids


def edited(cache, donor, condition, needle):
    cache = copy.deepcopy(cache)
    for index, layer in enumerate(cache.layers):
        if condition.endswith("0_9") and index > 9:
            break
        for tensor, source, letter in ((layer.keys, donor.layers[index].keys, "k"), (layer.values, donor.layers[index].values, "v")):
            if condition.startswith("transplant"):
                tensor[:, :, needle] = source[:, :, needle]
            elif condition in ("zero", "zero_" + letter, "zero_layers_0_9"):
                tensor[:, :, needle] = 0
    return cache


def greedy(model, cache, token, n, hidden):
    """hidden: positions of the cache that nobody attends to."""
    picks, past = [], cache.get_seq_length()
    for step in range(n):
        extra = {}
        if hidden:
            mask = torch.ones(1, past + step + 1, dtype=torch.long)
            mask[0, hidden] = 0
            extra = {"attention_mask": mask, "position_ids": torch.tensor([[past + step]])}
        logits = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True, **extra).logits[0, -1].float()
        logprobs = torch.log_softmax(logits, -1)
        best = logprobs.topk(2).values
        token = int(logprobs.argmax())
        picks.append((token, float(logprobs[token]), float(best[0] - best[1])))
    return picks


@torch.no_grad()
def experiment(model, tokenizer, chat, names, n):
    prompts = {name: tokens_of(tokenizer, chat, name) for name in names}
    ids = [prompts[name][1] for name in names]
    assert len(ids[0]) == len(ids[1]), "the needles must have as many tokens"
    needle = [i for i in range(len(ids[0])) if ids[0][i] != ids[1][i]]
    caches = [model(torch.tensor([x[:-1]]), use_cache=True).past_key_values for x in ids]
    conditions = {}
    for own, name in enumerate(names):
        for condition in CONDITIONS:
            cache = edited(caches[own], caches[1 - own], condition, needle)
            picks = greedy(model, cache, ids[own][-1], n, needle if condition == "mask" else [])
            conditions[f"{name}/{condition}"] = {
                "tokens": [p[0] for p in picks], "logprobs": [round(p[1], 5) for p in picks],
                "margins": [round(p[2], 5) for p in picks], "text": tokenizer.decode([p[0] for p in picks])}
            print(chat, name, condition, repr(conditions[f"{name}/{condition}"]["text"][:60]), flush=True)
    delta = {tensor: [[round(float(x), 4) for x in (getattr(a, tensor) - getattr(b, tensor))[0].pow(2).sum((0, 2)).sqrt()]
                      for a, b in zip(caches[0].layers, caches[1].layers)] for tensor in ("keys", "values")}
    return {"needle": needle, "prompts": {k: {"text": v[0], "tokens": v[1]} for k, v in prompts.items()},
            "conditions": conditions, "kv_delta": delta}


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model")
    args.add_argument("out")
    args.add_argument("--tokens", type=int, default=100)
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    folder, file = os.path.split(os.path.abspath(args.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
    started = time.monotonic()
    results = {f"{chat}:{a}/{b}": experiment(model, tokenizer, chat, (a, b), args.tokens) for chat, a, b in PAIRS}
    with open(args.out, "w") as f:
        json.dump({"model": file, "transformers": transformers.__version__, "torch": torch.__version__,
                   "max_new_tokens": args.tokens, "seconds": round(time.monotonic() - started, 2), "experiments": results}, f)


if __name__ == "__main__":
    main()
