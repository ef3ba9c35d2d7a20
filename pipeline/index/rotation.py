"""Random rotations, and the grids that make products with them exact.

A rotation is rounded to multiples of 2**-24, a centred vector to multiples of 2**-26. Every product and
partial sum of their float64 matrix product is then a multiple of 2**-50 below 8: no rounding, in any order.
"""

import numpy as np

from pipeline.index.arrays import Float32Array, FloatArray

VECTOR_GRID = 2.0**26
ROTATION_GRID = 2.0**24


def on_grid(values: FloatArray, grid: float) -> FloatArray:
    """The nearest multiples of 1 / ``grid``."""
    return np.rint(values * grid) / grid


def random_rotation(bits: int, d: int, seed: int) -> Float32Array:
    """``bits`` unit rows of d dimensions in random orthonormal blocks of d rows; float32 [bits, d].

    Each block is the Q of a seeded Gaussian matrix, its signs fixed so that it is uniform over rotations.
    """
    generator = np.random.default_rng(seed)
    blocks = []
    for _ in range(max(1, -(-bits // d))):
        q_DD, r_DD = np.linalg.qr(generator.standard_normal((d, d)))
        blocks.append(q_DD * np.where(np.diag(r_DD) < 0, -1.0, 1.0))
    return on_grid(np.concatenate(blocks)[: max(bits, 0)], ROTATION_GRID).astype(np.float32)
