"""Maps the vectors of one model into the space of another, fitted from images that both have embedded.

With A the vectors of the model that queries have and B those of the model that the snapshot has, row by row
of the same images:

* Procrustes: U S V' = svd(A' B), map a -> a (U V'): the rotation with the least squared error (Schönemann
  1966), semi-orthogonal where the dimensions differ. Centred: the means are taken off first and B's added.
* Ridge: on centred data W = (A'A + l I)^-1 A'B, map a -> (a - mean A) W + mean B.

What comes out is made unit length. Legend: N rows, S dimensions of the source, T dimensions of the target.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

Vectors: TypeAlias = npt.NDArray[np.float32]
_Floats: TypeAlias = npt.NDArray[np.float64]
_LEAST_NORM = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AffineMap:
    """x -> (x - shift) W + offset, made unit length; the figures are float32, the arithmetic is float64."""

    shift_S: Vectors
    weight_ST: Vectors
    offset_T: Vectors

    def apply(self, x_NS: Vectors) -> Vectors:
        """Unit vectors of the target's space, float32 [N, T]; a row that maps to nothing is zeros.

        Raises:
            UsageError: the vectors have other dimensions than the source.
        """
        if x_NS.ndim != 2 or x_NS.shape[1] != len(self.shift_S):
            raise UsageError(
                f"the adapter takes vectors [N, {len(self.shift_S)}], got {list(x_NS.shape)}",
                fix="give it vectors of the model that it maps from",
            )
        y_NT = (x_NS.astype(np.float64) - self.shift_S) @ self.weight_ST.astype(np.float64) + self.offset_T
        norm_N1 = np.linalg.norm(y_NT, axis=1, keepdims=True)
        unit_NT: Vectors = np.where(norm_N1 > _LEAST_NORM, y_NT / np.maximum(norm_N1, _LEAST_NORM), 0).astype(
            np.float32
        )
        return unit_NT


def fit_procrustes(a_NS: Vectors, b_NT: Vectors, *, centred: bool) -> AffineMap:
    """The rotation (semi-orthogonal map) nearest to taking each row of ``a_NS`` to that of ``b_NT``.

    Raises:
        UsageError: they are not rows of the same images.
    """
    a, b, mean_S, mean_T = _prepared(a_NS, b_NT, centred=centred)
    u, _, vt = np.linalg.svd(a.T @ b, full_matrices=False)
    return _affine(mean_S, np.asarray(u @ vt, dtype=np.float64), mean_T)


def fit_ridge(a_NS: Vectors, b_NT: Vectors, penalty: float) -> AffineMap:
    """The affine map with the least squared error plus ``penalty`` times the squared weights.

    Raises:
        UsageError: they are not rows of the same images, or the penalty is not positive.
    """
    if not penalty > 0:
        raise UsageError(f"the ridge penalty is a positive number, got {penalty}", fix="as in 1.0")
    a, b, mean_S, mean_T = _prepared(a_NS, b_NT, centred=True)
    weight_ST = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ b)
    return _affine(mean_S, weight_ST.astype(np.float64), mean_T)


def identity_map(dim: int) -> AffineMap:
    """The map that changes nothing but, to the last digits, the length."""
    zeros = np.zeros(dim, dtype=np.float32)
    return AffineMap(shift_S=zeros, weight_ST=np.eye(dim, dtype=np.float32), offset_T=zeros)


def _prepared(a_NS: Vectors, b_NT: Vectors, *, centred: bool) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Both as float64, their means taken off where centred, and the means."""
    if a_NS.ndim != 2 or b_NT.ndim != 2 or len(a_NS) != len(b_NT) or len(a_NS) == 0:
        raise UsageError(
            f"an adapter is fitted on [N, S] and [N, T] rows of the same images, got {list(a_NS.shape)} and "
            f"{list(b_NT.shape)}",
            fix="embed the same images with both models",
        )
    a, b = a_NS.astype(np.float64), b_NT.astype(np.float64)
    mean_S = a.mean(axis=0) if centred else np.zeros(a.shape[1])
    mean_T = b.mean(axis=0) if centred else np.zeros(b.shape[1])
    return a - mean_S, b - mean_T, mean_S, mean_T


def _affine(shift_S: _Floats, weight_ST: _Floats, offset_T: _Floats) -> AffineMap:
    return AffineMap(
        shift_S=shift_S.astype(np.float32),
        weight_ST=weight_ST.astype(np.float32),
        offset_T=offset_T.astype(np.float32),
    )
