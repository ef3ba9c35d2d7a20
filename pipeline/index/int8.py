"""Vectors rounded to 8 bits, one scale a row: a rough distance at a quarter of float32's memory.

A row x is stored as whole numbers i with x about scale * i, scale = max |x| / 127. The scale depends on the
row alone, so the numbers do not depend on how rows are spread over index shards.
"""

import numpy as np

from pipeline.index.arrays import Float32Array, Int8Array, VectorArray

REFINED_AT_LEAST = 100
"""How many of the roughly best candidates get their exact distance, or 2 k where that is more."""


def to_int8(x_ND: VectorArray) -> tuple[Int8Array, Float32Array]:
    """The rows as int8 [N, D] and their scales, float32 [N]; a row of zeros has scale 1."""
    rows_ND = x_ND.astype(np.float32)
    scale_N = np.abs(rows_ND).max(axis=1, initial=0.0) / np.float32(127)
    scale_N[scale_N == 0] = 1
    int8_ND: Int8Array = np.rint(rows_ND / scale_N[:, None]).astype(np.int8)
    return int8_ND, scale_N
