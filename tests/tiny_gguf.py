#!/usr/bin/env python3
"""Writes a small llama model with random weights as a GGUF file, for tests of the whole program.

    python3 tests/tiny_gguf.py OUT.gguf --seed 1 --type q4_1 --layers 3 --dim 64 --heads 4 --kv-heads 2

The same options give the same bytes everywhere: only integer-like steps of random.Random, no libm. Importable:
write_model(path, seed=1, type="q4_1", ...) takes the command's options as keywords. Standard library only.
"""

import argparse
import random
import struct
import sys

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 8, "bf16": 30}
BLOCK = 32  # elements of a quantised block
ALIGN = 32

DEFAULTS = {
    "seed": 1,
    "type": "f32",
    "layers": 3,
    "dim": 64,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": None,  # dim / heads
    "ffn": 96,
    "vocab": 384,
    "context": 512,
    "rope_base": 10000.0,
    "spread": 0.12,
    "untied": False,
    "tokenizer": True,
}

# ---- numbers ----


def bell(rng, n, spread):
    """n values with standard deviation `spread`: four uniforms have variance 1/3, which needs no logarithm."""
    u, scale = rng.random, spread * 3**0.5
    return [(u() + u() + u() + u() - 2.0) * scale for _ in range(n)]


def half(x):
    """x rounded to f16, as bytes and as the number they mean."""
    raw = struct.pack("<e", x)
    return raw, struct.unpack("<e", raw)[0]


def nearest(x, d, low, high):
    return max(low, min(high, round(x / d))) if d else 0


def nibbles(q):
    """Elements 0..15 of a block lie in the low halves of its 16 bytes, 16..31 in the high halves."""
    return bytes(q[i] | q[i + 16] << 4 for i in range(16))


def q4_0(x):
    raw, d = half(max(x, key=abs) / -8.0)
    return raw + nibbles([nearest(v, d, -8, 7) + 8 for v in x])


def q4_1(x):
    low = min(x)
    raw_d, d = half((max(x) - low) / 15.0)
    raw_m, m = half(low)
    return raw_d + raw_m + nibbles([nearest(v - m, d, 0, 15) for v in x])


def q8_0(x):
    raw, d = half(max(abs(v) for v in x) / 127.0)
    return raw + struct.pack("<32b", *[nearest(v, d, -127, 127) for v in x])


def bf16(x):
    bits = struct.unpack("<%dI" % len(x), struct.pack("<%df" % len(x), *x))
    return struct.pack("<%dH" % len(x), *[(b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits])


def encode(x, kind):
    if kind == "f32":
        return struct.pack("<%df" % len(x), *x)
    if kind == "f16":
        return struct.pack("<%de" % len(x), *x)
    if kind == "bf16":
        return bf16(x)
    block = {"q4_0": q4_0, "q4_1": q4_1, "q8_0": q8_0}[kind]
    return b"".join(block(x[i : i + BLOCK]) for i in range(0, len(x), BLOCK))


# ---- the tokenizer: byte-level BPE, trained on a few words so that its merges are consistent ----

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# In the order of their weight: the first ones become single tokens even in a small vocabulary.
WORDS = (
    " SF| NY| flying| the| to| is| San| Francisco| New| York|San|Francisco| am|I| in| and| of| city| What| bridge| famous"
    "|user|assistant|system|Where| where| from| going| visit| Golden| Gate| Liberty| statue|The| weather| answer| Paris"
    "| London| best| food| people| near| world| helpful| AI| named|Answer| question| tell| me| about| you|You| are"
).split("|")


def byte_letters():
    """GPT-2's spelling of the 256 bytes: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain}
    letters.update({b: chr(256 + i) for i, b in enumerate(others)})
    return [letters[b] for b in range(256)]


def join(word, pair):
    out, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


def train(letters, count, rng):
    """`count` merges: those of the words above, then random ones behind them."""
    words = [[letters[b] for b in w.encode()] for w in WORDS]
    weights = [len(WORDS) - i for i in range(len(WORDS))]
    merges, known = [], list(letters)
    while len(merges) < count:
        pairs = {}
        for word, weight in zip(words, weights):
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + weight
        if not pairs:
            break
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(pair)
        known.append(pair[0] + pair[1])
        words = [join(word, pair) for word in words]
    taken = set(known)
    plain = [t for t in known if t.isascii() and t.isalpha() and len(t) <= 4]
    while len(merges) < count:
        pair = (rng.choice(plain), rng.choice(plain))
        if pair[0] + pair[1] in taken:
            continue
        taken.add(pair[0] + pair[1])
        if len(pair[0] + pair[1]) <= 4:
            plain.append(pair[0] + pair[1])
        merges.append(pair)
    return merges


def tokenizer_metadata(vocab, rng):
    letters = byte_letters()
    merges = train(letters, vocab - len(SPECIALS) - len(letters), rng)
    tokens = SPECIALS + letters + [a + b for a, b in merges]
    types = [3] * len(SPECIALS) + [1] * (vocab - len(SPECIALS))  # 3: control, 1: normal
    return [
        ("tokenizer.ggml.model", "string", "gpt2"),
        ("tokenizer.ggml.pre", "string", "smollm"),
        ("tokenizer.ggml.tokens", "strings", tokens),
        ("tokenizer.ggml.token_type", "i32s", types),
        ("tokenizer.ggml.merges", "strings", [a + " " + b for a, b in merges]),
        ("tokenizer.ggml.bos_token_id", "u32", SPECIALS.index("<|im_start|>")),
        ("tokenizer.ggml.eos_token_id", "u32", SPECIALS.index("<|im_end|>")),
        ("tokenizer.ggml.unknown_token_id", "u32", SPECIALS.index("<|endoftext|>")),
        ("tokenizer.ggml.padding_token_id", "u32", SPECIALS.index("<|im_end|>")),
        ("tokenizer.ggml.add_bos_token", "bool", False),
        ("tokenizer.chat_template", "string", CHAT_TEMPLATE),
    ]


# ---- the file ----


def gguf_string(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(kind, value):
    if kind == "string":
        return struct.pack("<I", 8) + gguf_string(value)
    if kind == "strings":
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(gguf_string, value))
    if kind == "i32s":
        return struct.pack("<IIQ%di" % len(value), 9, 5, len(value), *value)
    number, form = {"u32": (4, "I"), "f32": (6, "f"), "bool": (7, "?")}[kind]
    return struct.pack("<I" + form, number, value)


def padded(raw):
    return raw + bytes(-len(raw) % ALIGN)


def gguf_file(metadata, tensors):
    """tensors: (name, dims as in the file, type, bytes)"""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(gguf_string(key) + gguf_value(kind, value) for key, kind, value in metadata)
    offset = 0
    for name, dims, kind, raw in tensors:
        head += gguf_string(name) + struct.pack("<I%dQ" % len(dims), len(dims), *dims)
        head += struct.pack("<IQ", TYPES[kind], offset)
        offset += len(padded(raw))
    return padded(head) + b"".join(padded(raw) for _, _, _, raw in tensors)


def model_metadata(o):
    return [
        ("general.architecture", "string", "llama"),
        ("general.name", "string", "tiny llama, seed %d" % o["seed"]),
        ("llama.block_count", "u32", o["layers"]),
        ("llama.context_length", "u32", o["context"]),
        ("llama.embedding_length", "u32", o["dim"]),
        ("llama.feed_forward_length", "u32", o["ffn"]),
        ("llama.attention.head_count", "u32", o["heads"]),
        ("llama.attention.head_count_kv", "u32", o["kv_heads"]),
        ("llama.attention.key_length", "u32", o["head_dim"]),
        ("llama.attention.value_length", "u32", o["head_dim"]),
        ("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("llama.rope.dimension_count", "u32", o["head_dim"]),
        ("llama.rope.freq_base", "f32", o["rope_base"]),
        ("llama.vocab_size", "u32", o["vocab"]),
    ]


def model_tensors(o, rng):
    dim, ffn = o["dim"], o["ffn"]
    q, kv = o["heads"] * o["head_dim"], o["kv_heads"] * o["head_dim"]

    def matrix(name, rows, cols):
        return (name + ".weight", (cols, rows), o["type"], encode(bell(rng, rows * cols, o["spread"]), o["type"]))

    def norm(name):
        return (name + ".weight", (dim,), "f32", encode([1.0 + x for x in bell(rng, dim, 0.1)], "f32"))

    tensors = [matrix("token_embd", o["vocab"], dim), norm("output_norm")]
    if o["untied"]:
        tensors.append(matrix("output", o["vocab"], dim))
    for i in range(o["layers"]):
        at = "blk.%d." % i
        tensors += [
            norm(at + "attn_norm"),
            matrix(at + "attn_q", q, dim),
            matrix(at + "attn_k", kv, dim),
            matrix(at + "attn_v", kv, dim),
            matrix(at + "attn_output", dim, q),
            norm(at + "ffn_norm"),
            matrix(at + "ffn_gate", ffn, dim),
            matrix(at + "ffn_up", ffn, dim),
            matrix(at + "ffn_down", dim, ffn),
        ]
    return tensors


def complete(opts):
    """The options with their defaults; ValueError when they fit no model."""
    unknown = set(opts) - set(DEFAULTS)
    if unknown:
        raise ValueError("unknown option %s" % ", ".join(sorted(unknown)))
    o = dict(DEFAULTS, **opts)
    if o["type"] not in TYPES:
        raise ValueError("type is one of %s" % ", ".join(TYPES))
    for name in ("layers", "dim", "heads", "kv_heads", "ffn", "vocab", "context"):
        if o[name] < 1:
            raise ValueError("%s is at least 1" % name)
    if o["head_dim"] is None:
        if o["dim"] % o["heads"]:
            raise ValueError("dim is no multiple of heads: give head_dim")
        o["head_dim"] = o["dim"] // o["heads"]
    if o["head_dim"] < 2 or o["head_dim"] % 2:
        raise ValueError("head_dim is even and at least 2")
    if o["heads"] % o["kv_heads"]:
        raise ValueError("heads is a multiple of kv_heads")
    if o["tokenizer"] and o["vocab"] < len(SPECIALS) + 256:
        raise ValueError("a tokenizer needs a vocab of at least %d" % (len(SPECIALS) + 256))
    if o["type"].startswith("q"):
        for name, n in (("dim", o["dim"]), ("ffn", o["ffn"]), ("heads * head_dim", o["heads"] * o["head_dim"])):
            if n % BLOCK:
                raise ValueError("%s is a multiple of %d for type %s" % (name, BLOCK, o["type"]))
    return o


def write_model(path, **opts):
    o = complete(opts)
    metadata = model_metadata(o)
    if o["tokenizer"]:
        metadata += tokenizer_metadata(o["vocab"], random.Random(o["seed"]))
    raw = gguf_file(metadata, model_tensors(o, random.Random(o["seed"])))
    with open(path, "wb") as f:
        f.write(raw)


def main():
    p = argparse.ArgumentParser(description="Write a small llama model with random weights as a GGUF file.")
    p.add_argument("out", metavar="OUT.gguf")
    p.add_argument("--seed", type=int, default=DEFAULTS["seed"], help="other weights for every number (default %(default)s)")
    p.add_argument("--type", choices=sorted(TYPES), default=DEFAULTS["type"], help="of the matrices (default %(default)s)")
    for name, what in (
        ("layers", "layers"),
        ("dim", "width of the model"),
        ("heads", "query heads"),
        ("kv_heads", "key-value heads"),
        ("ffn", "width of the feed-forward part"),
        ("vocab", "tokens"),
        ("context", "longest text in tokens"),
    ):
        p.add_argument("--" + name.replace("_", "-"), type=int, default=DEFAULTS[name], help=what + " (default %(default)s)")
    p.add_argument("--head-dim", type=int, help="size of a head (default dim / heads)")
    p.add_argument("--rope-base", type=float, default=DEFAULTS["rope_base"], help="default %(default)s")
    p.add_argument("--spread", type=float, default=DEFAULTS["spread"], help="deviation of the weights (default %(default)s)")
    p.add_argument("--untied", action="store_true", help="an output matrix of its own")
    p.add_argument("--no-tokenizer", dest="tokenizer", action="store_false", help="no tokenizer in the file")
    opts = vars(p.parse_args())
    out = opts.pop("out")
    try:
        write_model(out, **opts)
    except (ValueError, OSError) as problem:
        p.exit(2, "%s: %s\n" % (p.prog, problem))


if __name__ == "__main__":
    sys.exit(main())
