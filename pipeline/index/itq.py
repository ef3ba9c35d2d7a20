"""Iterative quantisation: the rotation of the principal components that loses least when only signs stay.

Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011,
section 2.2: take V, the rows projected on their first ``bits`` principal components, and a random rotation R;
then in turn B = sign(V R) and R = the rotation that brings V nearest to B (orthogonal Procrustes, from the
SVD of B^T V). At most one bit per dimension.
"""

import numpy as np

from pipeline.errors import UsageError
from pipeline.index.arrays import Float32Array, VectorArray
from pipeline.index.rotation import ROTATION_GRID, on_grid, random_rotation

ITERATIONS = 50
"""As in the paper."""
MAX_ROWS = 16_384


def fit_itq(centred_ND: VectorArray, bits: int, seed: int) -> Float32Array:
    """The rotation, float32 [bits, D], multiples of 2**-24; its rows are orthonormal but for that rounding.

    Args:
        centred_ND: a sample less its mean; the first 16,384 rows are used.
        bits: at most D.
        seed: of the rotation it starts from.

    Raises:
        UsageError: more bits than dimensions.
    """
    d = centred_ND.shape[1]
    if bits > d:
        raise UsageError(
            f"the itq recipe has at most one bit per dimension: expected at most {d} bits, got {bits}",
            "ask for fewer bits, or for the recipe centred-rotated",
        )
    x_ND = centred_ND[:MAX_ROWS].astype(np.float64)
    _, components_DD = np.linalg.eigh(x_ND.T @ x_ND)
    projection_DB = components_DD[:, ::-1][:, :bits]
    v_NB = x_ND @ projection_DB
    r_BB = random_rotation(bits, bits, seed).astype(np.float64)
    for _ in range(ITERATIONS):
        u_BB, _, w_BB = np.linalg.svd(v_NB.T @ np.where(v_NB @ r_BB > 0, 1.0, -1.0))
        r_BB = u_BB @ w_BB
    return on_grid((projection_DB @ r_BB).T, ROTATION_GRID).astype(np.float32)
