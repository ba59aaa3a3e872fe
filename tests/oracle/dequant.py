#!/usr/bin/env python3
"""Makes tests/golden/dequant.bin: random blocks of every quantised type and what the `gguf` package widens them to.

    pip install gguf numpy && python tests/oracle/dequant.py tests/golden/dequant.bin

One record per type: name (8 bytes, zero-padded), u32 blocks, the blocks, their f32 values; little endian.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# type: where the f16 numbers of a block lie
TYPES = {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
         "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}
# largest, smallest denormal, zeros, ones, largest denormal: in either sign
EXTREMES = [0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x0000, 0x8000, 0x3C00, 0xBC00, 0x03FF, 0x83FF]


def main(path):
    rng = np.random.default_rng(20)
    with open(path, "wb") as out:
        for name, places in TYPES.items():
            qtype = GGMLQuantizationType[name]
            elements, size = GGML_QUANT_SIZES[qtype]
            n = 24 if elements == 32 else 8
            blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
            for i in range(n):
                for at in places:
                    scale = np.float16(rng.normal() * 0.05).view(np.uint16)
                    if i % 4 == 0:
                        scale = np.uint16(rng.choice(EXTREMES))
                    blocks[i, at:at + 2] = np.frombuffer(struct.pack("<H", int(scale)), dtype=np.uint8)
            values = dequantize(blocks.reshape(-1), qtype).astype("<f4")
            assert values.size == n * elements
            out.write(struct.pack("<8sI", name.lower().encode(), n) + blocks.tobytes() + values.tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
