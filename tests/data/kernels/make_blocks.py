"""Makes the vectors that tests/kernels/test_kernels_blocks.c compares with, from the PyPI packages gguf (0.19.0 was used) and
ml_dtypes (0.6.0).

<type>.blocks and <type>.floats: random blocks and what gguf reads from them.
quantize.floats and quantize.<type>: floats, and the blocks that gguf makes of them.
"""
import pathlib

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(20261124)
WEIGHTS = 768
BLOCKS = {  # weights, bytes, places of the F16 scales
    T.F16: (1, 2, [0]), T.BF16: (1, 2, []), T.Q8_0: (32, 34, [0]), T.Q4_0: (32, 18, [0]), T.Q4_1: (32, 20, [0, 2]),
    T.Q4_K: (256, 144, [0, 2]), T.Q5_K: (256, 176, [0, 2]), T.Q6_K: (256, 210, [208]),
}
for kind, (weights, size, scales) in BLOCKS.items():
    raw = rng.integers(0, 256, (WEIGHTS // weights, size), dtype=np.uint8)
    if kind == T.BF16:
        raw[:, 1] = raw[:, 1] & 0x80 | 0x3F  # magnitudes near 1
    for at in scales:
        raw[:, at:at + 2] = (rng.standard_normal(len(raw)) * 0.01).astype("<f2").view(np.uint8).reshape(-1, 2)
    if kind == T.F16:  # subnormals and the greatest values too
        raw[:8] = np.array([0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x8000, 0x0000], "<u2").view(np.uint8).reshape(-1, 2)
    raw = raw.reshape(1, -1)
    raw.tofile(here / f"{kind.name.lower()}.blocks")
    dequantize(raw, kind).astype("<f4").tofile(here / f"{kind.name.lower()}.floats")

floats = rng.standard_normal((1, WEIGHTS)).astype("<f4")
floats[0, :32] = 0
floats[0, 32:64] = np.linspace(-1, 1, 32)
floats.tofile(here / "quantize.floats")
for kind in (T.F16, T.BF16, T.Q8_0, T.Q4_0):
    quantize(floats, kind).view(np.uint8).tofile(here / f"quantize.{kind.name.lower()}")

# All bytes of E4M3 that are numbers, some twice, under a scale for each 32.
scale = (rng.standard_normal(WEIGHTS // 32) * 0.01).astype("<f4")
codes = np.resize(np.array([b for b in range(256) if b & 0x7F != 0x7F], np.uint8), WEIGHTS).reshape(-1, 32)
np.concatenate([scale.reshape(-1, 1).view(np.uint8), codes], axis=1).tofile(here / "f8_e4m3.blocks")
(codes.view(ml_dtypes.float8_e4m3fn).astype("<f4") * scale.reshape(-1, 1)).tofile(here / "f8_e4m3.floats")
