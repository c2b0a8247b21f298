"""Makes dequantize.fixture.json: random blocks of every GGML type, decoded by llama.cpp's own Python package.

The bytes of the blocks come from mulberry32 (test/fakes/mulberry32.ts), so the fixture holds only results: the SHA-256 of
all floats (little-endian), and the first 32 floats for people. Every half or float that would be infinite or NaN has one bit
of its exponent cleared. Everything else, also subnormal scales, is unchanged.

    pip install gguf==0.19.0 numpy && python dequantize.fixture.py > dequantize.fixture.json
"""

import hashlib
import json

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

BLOCKS = 64
# Byte offsets of the halves in a block.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0],
}  # fmt: skip


def mulberry32(seed):
    while True:
        seed = (seed + 0x6D2B79F5) & 0xFFFFFFFF
        t = seed
        t = ((t ^ (t >> 15)) * (t | 1)) & 0xFFFFFFFF
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        yield (t ^ (t >> 14)) & 0xFFFFFFFF


def finite(words, exponent):
    words[(words & exponent) == exponent] &= ~np.array(exponent & -exponent, dtype=words.dtype)


def blocks(kind, seed):
    size = GGML_QUANT_SIZES[kind][1]
    random = mulberry32(seed)
    data = np.array([next(random) >> 24 for _ in range(BLOCKS * size)], dtype=np.uint8)
    match kind:
        case T.F32:
            finite(data.view(np.uint32), 0x7F800000)
        case T.BF16:
            finite(data.view(np.uint16), 0x7F80)
        case T.F16:
            finite(data.view(np.uint16), 0x7C00)
        case _:
            for at in HALVES[kind]:
                finite(data.view(np.uint16)[at // 2 :: size // 2], 0x7C00)
    return data.reshape(1, -1)


cases = []
for kind in [T.F32, T.F16, T.BF16, *HALVES]:
    floats = dequantize(blocks(kind, kind.value + 1), kind).astype("<f4").ravel()
    assert np.isfinite(floats).all() and floats.size == BLOCKS * GGML_QUANT_SIZES[kind][0]
    first = [float(x) for x in floats[:32]]
    digest = hashlib.sha256(floats.tobytes()).hexdigest()
    cases.append({"dtype": kind.value, "name": kind.name, "halves": HALVES.get(kind, []), "sha256": digest, "first": first})
print(json.dumps({"about": "See dequantize.fixture.py; gguf 0.19.0.", "blocks": BLOCKS, "cases": cases}, indent=2))
