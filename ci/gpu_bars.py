#!/usr/bin/env python3
"""The bars of a GPU beside what ci/gpu measured.

    ci/gpu_bars.py FOLDER

FOLDER holds llama-3.1-8b.json (kvrun bench) and family.log (kvrun's own words). What is missing in them is named and makes exit 1;
the other rows are printed all the same. Numbers of the emulator are marked as a rehearsal and judged by nobody. Standard library only.
"""
import json
import pathlib
import re
import sys

SHAPE, FAMILY = "llama-3.1-8b.json", "family.log"
problems = []


def one(list_of, key, value, what):
    """The one entry with this value; a name, a size or a number that is missing is a problem, not a row left out."""
    found = [entry for entry in list_of if entry[key] == value]
    if len(found) != 1:
        raise ValueError(f"{len(found)} entries with {key} {value} in {what}")
    return found[0]


def positive(x, what):
    if not isinstance(x, (int, float)) or isinstance(x, bool) or not x > 0:
        raise ValueError(f"{what} is {x}")
    return x


def row(name, wanted, better, measure):
    """better: the sign of a good difference."""
    try:
        return name, measure(), wanted, better
    except (KeyError, ValueError, TypeError) as e:
        problems.append(f"{name}: {'no field ' if isinstance(e, KeyError) else ''}{e}")
        return name, None, wanted, better


def read_shape(folder):
    try:
        return json.loads((folder / SHAPE).read_text())
    except (OSError, ValueError) as e:
        problems.append(f"{SHAPE}: {e}")
        return {}


def decoded(b, rows):
    return positive(one(b["decode"], "rows", rows, "decode")["tokens_per_second"], "tokens_per_second")


def prefilled(b, tokens):
    return 1e3 * positive(one(b["prefill"], "tokens", tokens, "prefill")["seconds"], "seconds")


def family(folder):
    try:
        said = (folder / FAMILY).read_text()
    except OSError as e:
        raise ValueError(f"{FAMILY}: {e.strerror}") from e
    found = re.findall(r"^done +(\d+) of (\d+) jobs in ([0-9.]+) s \(loading ([0-9.]+) s\): (\d+) new, 0 stored before, 0 failed", said, re.M)
    if len(found) != 1 or found[0][0] != "64" or found[0][1] != "64" or found[0][4] != "64":
        raise ValueError(f"{FAMILY} does not tell of 64 new jobs: {said.strip()[-300:]!r}")
    return float(found[0][2])


def tell_library(b):
    """Our products as multiples of cuBLAS's time, by number of rows."""
    def ratios(part, rows):
        compared = [o for o in part["ops"] if "library_ratio" in o]
        if len(compared) < 4:
            raise ValueError(f"{len(compared)} products are compared with cuBLAS at {rows} rows")
        return [(o["op"], o["library_ratio"]) for o in compared]

    try:
        parts = [(d["rows"], ratios(d, d["rows"])) for d in b["decode"]]
        parts += [(p["rows"], ratios(p, p["rows"])) for p in b["prefill"] if p["seconds"] is not None]
        if b["library"]["why"] is not None:
            print(f"\nnot compared with cuBLAS: {b['library']['why']}")
        print("\n| our seconds / cuBLAS's | " + " | ".join(f"{rows} rows" for rows, _ in parts) + " |\n|---|" + "---|" * len(parts))
        for op, _ in parts[0][1]:
            cells = [dict(part).get(op) for _, part in parts]
            print(f"| {op} | " + " | ".join("" if c is None else f"{c:.2f}" for c in cells) + " |")
    except (KeyError, ValueError, TypeError) as e:
        problems.append(f"comparison with cuBLAS: {'no field ' if isinstance(e, KeyError) else ''}{e}")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: ci/gpu_bars.py FOLDER")
    folder = pathlib.Path(sys.argv[1])
    b = read_shape(folder)
    rehearsal = b.get("backend") != "cuda"
    rows = [row("B = 1, tok/s", 240, 1, lambda: decoded(b, 1)),
            row(f"B = 64 behind {b.get('prefix')} shared tokens, tok/s", 13000, 1, lambda: decoded(b, 64)),
            row("prefill of 2048 tokens, ms", 50, -1, lambda: prefilled(b, 2048)),
            row("64 jobs x 100 tokens, captures stored, loading left out, s", 3, -1, lambda: family(folder))]
    if not rehearsal and b.get("prefix") != 2048:
        problems.append(f"the shared prefix is {b.get('prefix')} tokens, and 2048 are asked for")
    if rehearsal:
        print("REHEARSAL on the emulator: these numbers mean nothing\n")
    print(", ".join(str(b.get(key)) for key in ("device", "date", "model", "weights")))
    print("\n| bar | measured | wanted | |\n|---|---|---|---|")
    for name, got, wanted, better in rows:
        verdict = "MISSING" if got is None else "rehearsal" if rehearsal else "reached" if better * (got - wanted) >= 0 else "not reached"
        print(f"| {name} | {'' if got is None else format(got, ',.1f')} | {wanted:,} | {verdict} |")
    tell_library(b)
    if problems:
        sys.exit("\n".join(["", "numbers are missing:", *problems]))


if __name__ == "__main__":
    main()
