#!/usr/bin/env python3
"""Remakes tests/golden/metrics.json: what transformers says of an edited run that is fed the tokens of the unedited one.

    v/bin/python tests/oracle/metrics.py tests/golden/tiny tests/golden/metrics.json

For each model and condition (as tiny.py means them): KL(unedited || edited) in nats at every step, and the log-probability that
the edited run gives to the unedited run's token minus the unedited run's own. The file was made with torch 2.15.0 and
transformers 5.23.0.
"""

import copy
import json
import os
import sys

import torch
import transformers as T

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tiny

MODELS = ["gpt2", "llama", "gemma3"]
NAMES = ["zero", "zero_k", "transplant_v", "zero_layer1", "zero_head0", "mask", "prefill_zero_kv", "prefill_transplant_kv",
         "prefill_resid_zero_block1"]


@torch.no_grad()
def log_probs(model, edit, prompt, finished, donor, at, forced):
    """(len(forced), V): tiny.condition, with the next token given instead of chosen."""
    rows, given = [], iter(forced)
    plain = tiny.greedy

    def greedy(model, cache, ids, n, hidden=None):
        out = dict(tokens=[], logprobs=[], margins=[])
        for _ in range(n):
            more, past = {}, cache.get_seq_length()
            if hidden:
                mask = torch.ones(1, past + len(ids), dtype=torch.long)
                mask[0, hidden] = 0
                more = dict(attention_mask=mask, position_ids=torch.arange(past, past + len(ids))[None])
            logits = model(torch.tensor([ids]), past_key_values=cache, use_cache=True, **more).logits[0, -1]
            rows.append(torch.log_softmax(logits.double(), -1))
            ids = [next(given)]
            out["tokens"] += ids
        return out

    tiny.greedy = greedy
    try:
        tiny.condition(model, edit, prompt, finished, donor, at, len(forced))
    finally:
        tiny.greedy = plain
    return torch.stack(rows)


def build(name, seed):
    """The model as tiny.make made it; what save_pretrained wrote is read back with other rotary settings."""
    kind, config, options = tiny.MODELS[name]
    config = getattr(T, {"Gemma3": "Gemma3Text"}.get(kind, kind) + "Config")(**config)
    model = getattr(T, {"GPT2": "GPT2LMHeadModel"}.get(kind, kind + "ForCausalLM"))(config).eval()
    tiny.random_weights(model, seed)
    for p in model.parameters():
        p.data = p.data.to(tiny.DTYPES[options.get("dtype", "f32")]).float()
    return model


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: metrics.py FOLDER OUT.json")
    out = {}
    for name in MODELS:
        folder = os.path.join(sys.argv[1], name)
        with open(os.path.join(folder, "expected.json")) as f:
            e = json.load(f)
        model = build(name, e["seed"])
        with torch.no_grad():
            finished, donor = [model(torch.tensor([ids[:-1]]), use_cache=True, past_key_values=T.DynamicCache()).past_key_values
                               for ids in (e["prompt"], e["donor"])]
        forced = e["conditions"]["none"]["tokens"]
        p = log_probs(model, {}, e["prompt"], copy.deepcopy(finished), donor, e["positions"], forced)
        assert [int(r.argmax()) for r in p] == forced
        for r, t, logprob in zip(p, forced, e["conditions"]["none"]["logprobs"]):
            assert abs(float(r[t]) - logprob) < 2e-5, (name, float(r[t]), logprob)
        out[name] = {}
        for c in NAMES:
            q = log_probs(model, e["conditions"][c]["edit"], e["prompt"], finished, donor, e["positions"], forced)
            kl = (p.exp() * (p - q)).sum(-1)
            diff = torch.tensor([q[s, t] - p[s, t] for s, t in enumerate(forced)])
            out[name][c] = dict(kl=[round(float(x), 7) for x in kl], logprob_diff=[round(float(x), 7) for x in diff])
    with open(sys.argv[2], "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
