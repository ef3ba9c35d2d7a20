"""What would a stage between the two save? The float query against the bits of the 1,000 nearest codes.

A code says on which side of each threshold a row lies, and the query knows how far it lies from each:
summed over the bits, that orders the nearest codes better than counting the bits that differ. Here is what
the first C of either order hold, in a flat scan: C is the vectors that the second stage would read.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.bench.index.data_set import DataSet
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.sample import FIT_ROWS

_QUERIES = 200
_NEAREST = 1_000
_READ = (20, 50, 100, 200)
_BITS = (256, 512)
_EPSILON = 1e-7  # of float32 distances; a tie is no miss

Array = npt.NDArray[Any]


def measure_middle(data: DataSet, k: int) -> list[dict[str, Any]]:
    """For 256 and 512 bits recall@k of C vectors read, with that stage and without."""
    base_ND = np.load(data.folder / "base.npy", mmap_mode="r")
    xq_QD = np.load(data.folder / "queries.npy")[:_QUERIES]
    bound_Q = np.load(data.folder / "bounds.npy")
    found: list[dict[str, Any]] = []
    for bits in _BITS:
        encoder = fit_encoder(base_ND[:: max(1, data.rows // FIT_ROWS)], bits=bits)
        held = [
            (_held(near_C, k), _held(near_C[np.argsort(-score_C, kind="stable")], k))
            for near_C, score_C in _nearest_codes(encoder, base_ND, xq_QD, bound_Q)
        ]
        without, with_stage = np.mean(held, axis=0).round(4).tolist()
        found += [
            {"bits": bits, "read": n, "recall": plain, "with_stage": better}
            for n, plain, better in zip(_READ, without, with_stage, strict=True)
        ]
    return found


def _nearest_codes(
    encoder: Encoder, base_ND: Array, xq_QD: Array, bound_Q: Array
) -> Iterator[tuple[Array, Array]]:
    """Of each query's nearest codes, in their order: whether the row is wanted, and its score."""
    codes_NW, codes_QW = encoder.encode(base_ND), encoder.encode(xq_QD)
    away_QB = encoder.values(xq_QD) - encoder.thresholds_B
    for x_D, code_W, away_B, bound in zip(xq_QD, codes_QW, away_QB, bound_Q, strict=False):
        differing_NW = (codes_NW ^ code_W).view(np.uint64)
        hamming_N = np.bitwise_count(differing_NW).sum(axis=1, dtype=np.int32)
        near_C = np.argsort(hamming_N, kind="stable")[:_NEAREST]
        sides_CB = np.unpackbits(codes_NW[near_C], axis=1, bitorder="little")
        score_C = sides_CB @ away_B
        square_C = ((base_ND[near_C].astype(np.float64) - x_D) ** 2).sum(axis=1)
        yield square_C <= bound + _EPSILON, score_C


def _held(wanted_C: Array, k: int) -> list[float]:
    """Recall@k of the first C, for each C that is looked at."""
    return [min(k, int(wanted_C[:n].sum())) / k for n in _READ]
