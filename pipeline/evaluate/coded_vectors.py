"""What do smaller vectors cost? Codes and projections of the same images, judged as the whole vectors are.

Codes become unit vectors again: two codes of B bits as vectors of +1 and -1 over the root of B have the
squared distance 4/B times their Hamming distance, so bits are judged by what judges vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.robustness import CleanImages, Quality, Vectors
from pipeline.index.encoder import Encoder
from pipeline.index.int8 import to_int8


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeQuality:
    """What a coarser form of the clean vectors costs; ``projected`` says that no model was trained for it."""

    name: str
    bytes_per_vector: int
    projected: bool
    quality: Quality

    def to_json(self) -> dict[str, object]:
        """The row as JSON values."""
        document = asdict(self)
        for name in ("val_fixed", "far_fixed"):
            del document["quality"][name]  # the clean threshold means nothing to other distances
        return document


def code_qualities(clean: CleanImages, x_ND: Vectors, encoder: Encoder | None) -> Iterator[CodeQuality]:
    """The clean vectors as float32, float16, int8 and as bits, of signs and of the index."""
    d = x_ND.shape[1]
    int8_ND, scale_N = to_int8(x_ND)
    coded: dict[str, tuple[int, Vectors]] = {
        "float32": (4 * d, x_ND),
        "float16": (2 * d, x_ND.astype(np.float16).astype(np.float32)),
        "int8, a scale for each row": (d + 4, int8_ND * scale_N[:, None]),
        f"{d} bits, signs": (-(-d // 8), np.where(x_ND > 0, 1, -1).astype(np.float32)),
    }
    if encoder is not None:
        bits_NB = np.unpackbits(encoder.encode(x_ND), axis=1, bitorder="little")
        coded[f"{encoder.bits} bits, {encoder.recipe}"] = (
            encoder.bits // 8,
            2 * bits_NB.astype(np.float32) - 1,
        )
    for name, (n_bytes, values_NE) in coded.items():
        yield CodeQuality(
            name=name, bytes_per_vector=n_bytes, projected=False, quality=clean.coded(_unit(values_NE))
        )


def projected_qualities(
    clean: CleanImages, x_ND: Vectors, fitted_on_ND: Vectors, dims: Sequence[int]
) -> Iterator[CodeQuality]:
    """The clean vectors projected on the first principal components of other vectors, then of length 1."""
    mean_D = fitted_on_ND.mean(axis=0, dtype=np.float64)
    centred_ND = fitted_on_ND - mean_D
    _, components_DD = np.linalg.eigh(centred_ND.T @ centred_ND)  # ascending
    projected_ND = (x_ND - mean_D) @ components_DD[:, ::-1]
    for d in dims:
        yield CodeQuality(
            name=f"{d} dimensions",
            bytes_per_vector=4 * d,
            projected=True,
            quality=clean.coded(_unit(projected_ND[:, :d].astype(np.float32))),
        )


def _unit(x_ND: NDArray[np.generic]) -> Vectors:
    wide_ND = x_ND.astype(np.float64)
    unit_ND: Vectors = (wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)).astype(np.float32)
    return unit_ND
