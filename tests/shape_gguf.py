#!/usr/bin/env python3
"""Writes a GGUF file with the sizes of Llama-3.1-8B and made-up bf16 weights, as fast as the disk takes them (16 GB), for runs of the
whole program at that size; --set makes it smaller.

    python3 tests/shape_gguf.py OUT.gguf [--layers N] [--set dim=64 ...]

The weights are one pattern of random numbers, repeated; its length is a prime number, so that no two rows are equal. The model has no
tokenizer: prompts are token ids. Standard library only.
"""

import argparse
import random
import struct

from tiny_gguf import TYPES, bell, encode, gguf_string, gguf_value, model_metadata, padded

SHAPE = {"seed": 1, "layers": 32, "dim": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336, "vocab": 128256,
         "context": 131072, "rope_base": 500000.0}
PATTERN = 262139  # elements


def tensors(o):
    dim, ffn, q, kv = o["dim"], o["ffn"], o["heads"] * o["head_dim"], o["kv_heads"] * o["head_dim"]
    yield from (("token_embd", dim, o["vocab"]), ("output_norm", dim, 0), ("output", dim, o["vocab"]))
    for i in range(o["layers"]):
        for name, cols, rows in (("attn_norm", dim, 0), ("attn_q", dim, q), ("attn_k", dim, kv), ("attn_v", dim, kv),
                                 ("attn_output", q, dim), ("ffn_norm", dim, 0), ("ffn_gate", dim, ffn), ("ffn_up", dim, ffn),
                                 ("ffn_down", ffn, dim)):
            yield f"blk.{i}.{name}", cols, rows


def main():
    p = argparse.ArgumentParser(description="Write a model of the size of Llama-3.1-8B with made-up weights.")
    p.add_argument("out", metavar="OUT.gguf")
    p.add_argument("--layers", type=int, default=SHAPE["layers"])
    p.add_argument("--set", metavar="NAME=N", action="append", default=[], help="another size: " + ", ".join(SHAPE))
    a = p.parse_args()
    o = dict(SHAPE, layers=a.layers)
    for name, equals, n in (one.partition("=") for one in a.set):
        if name not in SHAPE or not n.isdigit() or int(n) % (32 if name in ("dim", "ffn") else 1):
            p.error(f"--set {name}{equals}{n}: NAME=N with a whole number, of dim and ffn a multiple of 32; names: {', '.join(SHAPE)}")
        o[name] = int(n)
    metadata = [m if m[0] != "general.name" else (m[0], m[1], "made-up weights") for m in model_metadata(o)]
    all_tensors = list(tensors(o))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(all_tensors), len(metadata))
    head += b"".join(gguf_string(key) + gguf_value(kind, value) for key, kind, value in metadata)
    offset = 0
    for name, cols, rows in all_tensors:
        dims, kind = ((cols, rows), "bf16") if rows else ((cols,), "f32")
        head += gguf_string(name + ".weight") + struct.pack("<I%dQ" % len(dims), len(dims), *dims) + struct.pack("<IQ", TYPES[kind], offset)
        offset += cols * rows * 2 if rows else cols * 4  # every size is a multiple of the alignment
    pattern = encode(bell(random.Random(1), PATTERN, o["dim"] ** -0.5), "bf16") * 64
    with open(a.out, "wb") as f:
        f.write(padded(head))
        at = 0
        for _, cols, rows in all_tensors:
            if not rows:
                f.write(encode([1.0] * cols, "f32"))
                continue
            left = cols * rows * 2
            while left:
                part = memoryview(pattern)[at:at + left]
                f.write(part)
                left -= len(part)
                at = (at + len(part)) % len(pattern)


if __name__ == "__main__":
    main()
