#!/usr/bin/env python3
"""Makes the goldens of tests/unit/test_tokenizer.c: a vocabulary made small, and texts with their ids.

    pack_vocab.py vocab.gguf OUT [--pair X.inp X.out] [--rows X.jsonl] [--whole] [--nfc] [--skip TEXT]

writes OUT.gguf.zst and OUT.jsonl. --pair: texts separated by a line __ggml_vocab_test__, and a line of ids for each.
--rows: one JSON object per line with `text` and `ids`. --nfc: the ids come from a tokenizer that normalises, the GGUF file
does not; rows whose text is not in NFC go to OUT.nfc.jsonl. Without --whole only these tokens keep their text: special ones, the
first 6000, those the ids name, and all that merges make these from. Merges that make other tokens are left out. That
changes no id of these texts: a merge that was not applied to a text may go, as merges are never undone.
"""
import argparse
import json
import struct
import subprocess
import unicodedata

FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
KEEP = ("model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id", "unknown_token_id",
        "add_bos_token", "add_space_prefix")
FIRST = 6000


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, fmt):
        (x,) = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize("<" + fmt)
        return x

    def text(self):
        n = self.number("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            item, n = self.number("I"), self.number("Q")
            return item, [self.value(item) for _ in range(n)]
        return self.number(FIXED[kind])


def read_metadata(path):
    r = Reader(open(path, "rb").read())
    r.at = 16
    found = {}
    for _ in range(r.number("Q")):
        key = r.text().decode()
        kind = r.number("I")
        found[key] = (kind, r.value(kind))
    return found


def pack_text(b):
    return struct.pack("<Q", len(b)) + b


def pack_value(kind, value):
    if kind == STRING:
        return pack_text(value)
    if kind == ARRAY:
        item, values = value
        return struct.pack("<IQ", item, len(values)) + b"".join(pack_value(item, v) for v in values)
    return struct.pack("<" + FIXED[kind], value)


def pack_metadata(meta):
    out = [b"GGUF", struct.pack("<IQQ", 3, 0, len(meta))]
    for key, (kind, value) in meta.items():
        out += [pack_text(key.encode()), struct.pack("<I", kind), pack_value(kind, value)]
    return b"".join(out)


def read_goldens(args):
    rows = []
    for inp, out in args.pair:
        texts = open(inp, newline="", encoding="utf-8").read().split("\n__ggml_vocab_test__\n")
        ids = [[int(x) for x in line.split()] for line in open(out, encoding="utf-8").read().splitlines()]
        rows += zip(texts, ids)
    for path in args.rows:
        for line in open(path, encoding="utf-8"):
            row = json.loads(line)
            rows.append((row["text"], row["ids"]))
    return [row for row in rows if not (args.skip and args.skip in row[0])]


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for text, ids in rows:
            f.write(json.dumps({"text": text, "ids": ids}, ensure_ascii=False, separators=(",", ":")) + "\n")


def make_small(meta, rows):
    tokens = meta["tokenizer.ggml.tokens"][1][1]
    types = meta["tokenizer.ggml.token_type"][1][1]
    merges = meta["tokenizer.ggml.merges"][1][1]
    makers = {}
    for m in merges:
        left, right = m.split(b" ", 1)
        makers.setdefault(left + right, []).append((left, right))
    todo = [tokens[i] for _, ids in rows for i in ids] + tokens[:FIRST]
    keep = set()
    while todo:
        token = todo.pop()
        if token in keep:
            continue
        keep.add(token)
        for pair in makers.get(token, []):
            todo += pair
    for i, t in enumerate(tokens):
        if t not in keep and types[i] == 1:
            tokens[i], types[i] = b"", 5
    merges[:] = [m for m in merges if m.replace(b" ", b"", 1) in keep]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("vocab")
    p.add_argument("out")
    p.add_argument("--pair", nargs=2, action="append", default=[])
    p.add_argument("--rows", action="append", default=[])
    p.add_argument("--whole", action="store_true")
    p.add_argument("--nfc", action="store_true")
    p.add_argument("--skip", help="leave out texts with this in them: a token that the vocabulary does not have")
    args = p.parse_args()
    meta = read_metadata(args.vocab)
    meta = {k: v for k, v in meta.items() if k.startswith("tokenizer.ggml.") and k.split(".")[-1] in KEEP}
    rows = read_goldens(args)
    if not args.whole:
        make_small(meta, rows)
    changed = [row for row in rows if args.nfc and not unicodedata.is_normalized("NFC", row[0])]
    write_rows(args.out + ".jsonl", [row for row in rows if row not in changed])
    if changed:
        write_rows(args.out + ".nfc.jsonl", changed)
    data = pack_metadata(meta)
    zstd = ["zstd", "-q", "-f", "--ultra", "-22", "--stream-size=%d" % len(data), "-o", args.out + ".gguf.zst"]
    subprocess.run(zstd, input=data, check=True)


if __name__ == "__main__":
    main()
