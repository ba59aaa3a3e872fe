#!/usr/bin/env python3
"""Causal tracing as a notebook does it with transformers: a loop over places, one forward pass each, hooks on the model.

usage: causal_trace.py MODEL.gguf OUT.json [--windows]      (pip install torch transformers gguf)

The prompts, the noise and the conditions are those of experiments/causal_trace.yaml: the subject's embeddings get noise; then
one place gets its clean values back, the residual behind a block of one layer, or what attention or the feed-forward part add in
a window of ten layers. Out: the answer's probability and recovery = (p - corrupt) / (clean - corrupt) for each place, and the
seconds of the loop without loading the model. --windows: also the two sweeps over windows.
"""
import argparse
import json
import os
import time

import torch
import transformers

from edits import normal

SITE_RESID = 8  # engine.h: what the noise is made of
PROMPTS = {"eiffel": ("The Eiffel Tower is located in the city of", "Eiffel Tower", " Paris"),
           "colosseum": ("The Colosseum is located in the city of", "Colosseum", " Rome")}
SIGMA, SEED, SIZE = 0.3, 1, 10


class Patched:
    """The model with the subject's embeddings made noisy and, if asked, one place put back."""

    def __init__(self, model):
        self.model, self.layers = model, model.model.layers
        self.noise, self.place, self.hooks = None, None, []

    def embed(self, _module, _inputs, out):
        return out if self.noise is None else out + self.noise

    def hook(self, module, kind, layer, keep):
        def run(_module, _inputs, out):
            value = out[0] if isinstance(out, tuple) else out
            if keep is not None:
                keep[kind, layer] = value.clone()
            elif self.place and self.place[0] == kind and layer in self.place[1]:
                value[:, self.place[2]] = self.place[3][kind, layer][:, self.place[2]]
            return (value,) + out[1:] if isinstance(out, tuple) else value
        self.hooks.append(module.register_forward_hook(run))

    def watch(self, keep):
        for h in self.hooks:
            h.remove()
        self.hooks = [self.model.model.embed_tokens.register_forward_hook(self.embed)]
        for i, layer in enumerate(self.layers):
            self.hook(layer, "resid", i, keep)
            self.hook(layer.self_attn, "attn", i, keep)
            self.hook(layer.mlp, "mlp", i, keep)

    def probability(self, ids, answer):
        return float(torch.softmax(self.model(ids, use_cache=False).logits[0, -1].float(), -1)[answer])


@torch.no_grad()
def trace(model, tokenizer, text, subject, answer, windows):
    patched = Patched(model)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([encoded.input_ids])
    n, L, D = ids.shape[1], len(patched.layers), model.config.hidden_size
    start = text.index(subject)
    touched = [i for i, (a, b) in enumerate(encoded.offset_mapping) if a < start + len(subject) and b > start]
    answer = tokenizer(answer, add_special_tokens=False).input_ids[0]
    noise = torch.zeros(1, n, D)
    for i in touched:
        noise[0, i] = torch.tensor([SIGMA * normal(SEED, SITE_RESID, -1, i, e) for e in range(D)], dtype=torch.float32)
    clean_values = {}
    patched.watch(clean_values)
    clean = patched.probability(ids, answer)
    patched.watch(None)
    patched.noise = noise
    corrupt = patched.probability(ids, answer)
    sweeps = {"resid": [[[l] for l in range(L)]]}
    if windows:
        around = [list(range(max(0, c - SIZE // 2), min(L, c - SIZE // 2 + SIZE))) for c in range(L)]
        sweeps.update(mlp=[around], attn=[around])
    out = {"clean": clean, "corrupt": corrupt, "tokens": encoded.input_ids}
    for kind, [places] in sweeps.items():
        rows = []
        for pos in range(n):
            row = []
            for layers in places:
                patched.place = (kind, set(layers), pos, clean_values)
                row.append(patched.probability(ids, answer))
            rows.append(row)
        out[kind] = {"p": rows, "recovery": [[(p - corrupt) / (clean - corrupt) for p in row] for row in rows]}
    patched.place = patched.noise = None
    return out


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model")
    args.add_argument("out")
    args.add_argument("--windows", action="store_true")
    args.add_argument("--threads", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    folder, file = os.path.split(os.path.abspath(args.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
    started = time.monotonic()
    results = {name: trace(model, tokenizer, *p, args.windows) for name, p in PROMPTS.items()}
    with open(args.out, "w") as f:
        json.dump({"transformers": transformers.__version__, "torch": torch.__version__,
                   "seconds": round(time.monotonic() - started, 2), "prompts": results}, f)


if __name__ == "__main__":
    main()
