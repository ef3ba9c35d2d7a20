"""Searches a snapshot: bits choose candidates, exact distances rank them.

1. Encode the queries; take the C nearest live codes of the whole snapshot (`hamming`).
2. Roughly rank the candidates in float32, and give those that can be among the k best their exact distance.
3. Order by (distance, image id).

C comes from the calibration, so a caller asks for k results at the recall the snapshot was published with.
Without a calibration, or where it says `exact`, every live row is compared. Results do not depend on index
shards, batches or threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from pipeline.errors import UsageError
from pipeline.index.arrays import Float32Array, IntArray, VectorArray
from pipeline.index.calibration import Calibration, Method
from pipeline.index.encoder import Encoder
from pipeline.index.exact import float32_margin, nearest, place_distances
from pipeline.index.hamming import nearest_codes
from pipeline.index.order import NOWHERE, Neighbours, ids_at, places_of, row_of, shard_of, to_neighbours
from pipeline.index.shard import IndexShard
from pipeline.index.threads import default_threads

NORM_TOLERANCE = 1e-3
_BATCH_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Matches of each query, best first by (distance, id in UTF-8 bytes); fewer than k if that is all."""

    ids: tuple[tuple[str, ...], ...]
    distances: tuple[tuple[float, ...], ...]
    """Squared L2 distances, float32 values."""
    method: Method
    candidates: int | None
    """C of the first stage; None where every row was compared."""
    warning: str = ""


class Searcher:
    """A snapshot's opened index shards and what it takes to search them. Safe to use from many threads."""

    def __init__(
        self,
        encoder: Encoder | None,
        shards: Sequence[IndexShard],
        calibration: Calibration | None,
        *,
        threads: int | None = None,
    ) -> None:
        """Args as the snapshot names them; ``threads`` defaults to all cores and changes no result.

        Raises:
            UsageError: the shards have different dimensions, or lack the codes of ``encoder``.
        """
        self.encoder = encoder
        self.shards = tuple(shards)
        self.calibration = calibration
        self.threads = default_threads() if threads is None else threads
        self.n_live = sum(shard.n_live for shard in shards)
        self.d = _common_d(encoder, self.shards)

    def search(
        self,
        xq_QD: VectorArray,
        k: int,
        *,
        exact: bool = False,
        candidates: int | None = None,
        exclude_ids: Sequence[str | None] | None = None,
    ) -> SearchResult:
        """The ``k`` nearest live images of each query.

        Args:
            xq_QD: unit vectors, one query a row.
            k: how many; more than there are gives all.
            exact: compare every live row.
            candidates: C, instead of the calibrated one (at least k are taken).
            exclude_ids: for each query an id that must not be a result (leave-one-out), or None.

        Raises:
            UsageError: wrong dimensions, a query that is not a finite vector of length 1, k below 1.
        """
        self._check(xq_QD, k, candidates, exclude_ids)
        xq_QD = np.ascontiguousarray(xq_QD, dtype=np.float32)
        excluded_QE = None if exclude_ids is None else places_of(self.shards, exclude_ids)
        n_candidates, warning = (None, "") if exact else self._candidates(k, candidates)
        k = min(k, max(self.n_live, 1))
        if n_candidates is None:
            found = nearest(self.shards, xq_QD, k, excluded_QE=excluded_QE)
        else:
            found = self._sieve(xq_QD, k, n_candidates, excluded_QE)
        ids, distances = self._to_tuples(found)
        method: Method = "exact" if n_candidates is None else "hamming"
        return SearchResult(
            ids=ids, distances=distances, method=method, candidates=n_candidates, warning=warning
        )

    def _candidates(self, k: int, asked: int | None) -> tuple[int | None, str]:
        """C and a warning; None where comparing every row is what was calibrated, or is no more work."""
        if self.encoder is None or (asked is None and (self.calibration is None or k >= self.n_live)):
            return None, ""
        if asked is not None:
            return max(asked, k), ""
        assert self.calibration is not None  # noqa: S101 (for the type checker)
        n_candidates, warning = self.calibration.candidates_for(k)
        if n_candidates is None or n_candidates >= self.n_live:
            return None, ""
        return n_candidates, warning

    def _sieve(
        self, xq_QD: Float32Array, k: int, n_candidates: int, excluded_QE: IntArray | None
    ) -> Neighbours:
        """Both stages, in batches of queries whose candidates fit into bounded memory."""
        per_query = 24 * (min(n_candidates, self.n_live) + 1) * max(1, len(self.shards))
        step = max(1, _BATCH_BYTES // per_query)
        batches = [
            self._sieve_batch(
                xq_QD[q0 : q0 + step],
                k,
                n_candidates,
                None if excluded_QE is None else excluded_QE[q0 : q0 + step],
            )
            for q0 in range(0, len(xq_QD), step)
        ]
        return Neighbours(
            place_QK=np.concatenate([np.empty((0, k), np.int64), *(b.place_QK for b in batches)]),
            distance_QK=np.concatenate([np.empty((0, k), np.float32), *(b.distance_QK for b in batches)]),
        )

    def _sieve_batch(
        self, xq_QD: Float32Array, k: int, n_candidates: int, excluded_QE: IntArray | None
    ) -> Neighbours:
        assert self.encoder is not None  # noqa: S101 (for the type checker)
        place_QC = nearest_codes(
            self.shards,
            self.encoder.encode(xq_QD),
            min(n_candidates, max(self.n_live, 1)),
            excluded_QE=excluded_QE,
            threads=self.threads,
        )
        return rank_candidates(self.shards, xq_QD, place_QC, k)

    def _to_tuples(
        self, found: Neighbours
    ) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[float, ...], ...]]:
        present_QK = found.place_QK != NOWHERE
        ids = ids_at(self.shards, found.place_QK[present_QK]).to_pylist()
        distances = found.distance_QK[present_QK].tolist()
        stops = np.cumsum(present_QK.sum(axis=1)).tolist()
        starts = [0, *stops[:-1]]
        spans = list(zip(starts, stops, strict=False))
        return tuple(tuple(ids[a:b]) for a, b in spans), tuple(tuple(distances[a:b]) for a, b in spans)

    def _check(
        self, xq_QD: VectorArray, k: int, candidates: int | None, exclude_ids: Sequence[str | None] | None
    ) -> None:
        if k < 1 or (candidates is not None and candidates < 1):
            raise UsageError(f"k and candidates must be at least 1, got {k} and {candidates}")
        if candidates is not None and self.encoder is None:
            raise UsageError(
                "this index was opened without an encoder: it has no candidates, only exact search"
            )
        if exclude_ids is not None and len(exclude_ids) != len(xq_QD):
            raise UsageError(f"expected one excluded id per query, got {len(exclude_ids)} for {len(xq_QD)}")
        check_queries(xq_QD, self.d)


def check_queries(xq_QD: VectorArray, d: int | None) -> None:
    """Refuses queries that are not finite vectors of length 1 and ``d`` dimensions, naming the first."""
    if xq_QD.ndim != 2 or (d is not None and xq_QD.shape[1] != d):
        raise UsageError(
            f"expected queries of {d} dimensions, got an array of shape {xq_QD.shape}",
            "embed the queries with the model of this snapshot",
        )
    norm_Q = np.sqrt(np.einsum("qd,qd->q", xq_QD, xq_QD, dtype=np.float64))
    bad = np.flatnonzero(~(np.abs(norm_Q - 1.0) <= NORM_TOLERANCE))
    if len(bad):
        raise UsageError(
            f"query {bad[0]}: expected a finite vector of length 1 within {NORM_TOLERANCE}, "
            f"got length {norm_Q[bad[0]]:.6g} ({len(bad)} of {len(xq_QD)} queries)",
            "normalise the queries; a zero or NaN vector means that its image could not be embedded",
        )


def rank_candidates(
    shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray, k: int
) -> Neighbours:
    """Second stage: the ``k`` nearest of each query's candidates (-1 for none) by exact distance."""
    rough_QC = _rough_distances(shards, xq_QD, place_QC)
    margin = 2 * float32_margin(xq_QD.shape[1])
    if place_QC.shape[1] > k:
        near_QC = rough_QC <= np.partition(rough_QC, k - 1, axis=1)[:, k - 1 : k] + margin
    else:
        near_QC = np.ones(place_QC.shape, dtype=np.bool_)
    query_M, column_M = np.nonzero(near_QC & (place_QC != NOWHERE))
    place_M = place_QC[query_M, column_M]
    distance_M = place_distances(shards, xq_QD, query_M, place_M)
    return to_neighbours(query_M, distance_M, place_M, shards, (len(xq_QD), k))


def _rough_distances(shards: Sequence[IndexShard], xq_QD: Float32Array, place_QC: IntArray) -> Float32Array:
    """Float32 distances of candidates, infinite where there is none; reads each shard's vectors in place."""
    rough_QC = np.full(place_QC.shape, np.inf, dtype=np.float32)
    for number, shard in enumerate(shards):
        here_QC = (place_QC != NOWHERE) & (shard_of(place_QC) == number)
        if not here_QC.any():
            continue
        row_QC = np.where(here_QC, row_of(place_QC), -1)
        if shard.vectors_ND.dtype == np.float32:
            mine_QC = _float32_distances(shard.vectors_ND, xq_QD, row_QC)
            rough_QC[here_QC] = mine_QC[here_QC]
        else:
            query_M, column_M = np.nonzero(here_QC)
            rough_QC[here_QC] = place_distances(shards, xq_QD, query_M, place_QC[query_M, column_M])
    return rough_QC


def _float32_distances(x_ND: VectorArray, xq_QD: Float32Array, row_QC: IntArray) -> Float32Array:
    """Faiss reads the rows from the mapping without gathering them; infinite where the row is -1."""
    distance_QC = np.empty(row_QC.shape, dtype=np.float32)
    faiss.fvec_L2sqr_by_idx(
        faiss.swig_ptr(distance_QC),
        faiss.swig_ptr(xq_QD),
        faiss.swig_ptr(x_ND),
        faiss.swig_ptr(row_QC),
        xq_QD.shape[1],
        *row_QC.shape,
    )
    return distance_QC


def _common_d(encoder: Encoder | None, shards: Sequence[IndexShard]) -> int | None:
    """The one dimension of encoder and shards; None where there is neither."""
    found = {shard.vectors_ND.shape[1] for shard in shards} | ({encoder.d} if encoder else set())
    if len(found) > 1:
        raise UsageError(
            f"the index shards and the encoder of one snapshot have different dimensions: {found}"
        )
    widths = {shard.codes_NW.shape[1] * 8 if shard.codes_NW is not None else 0 for shard in shards}
    if encoder is not None and not widths <= {encoder.bits}:
        raise UsageError(f"the encoder makes {encoder.bits} bits, the index shards were opened with {widths}")
    return found.pop() if found else None
