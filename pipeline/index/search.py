"""Searches a snapshot: bits choose candidates, exact distances rank them.

1. Encode the queries; take the C nearest live codes of the whole snapshot, or of the lists probed (`sieve`).
2. Rank the candidates by exact distance, then image id (`rank`).

C and probes come from the calibration, so a caller asks for k results at the recall the snapshot was
published with. Without a calibration, or where it says `exact`, every live row is compared. Results do not
depend on index shards, batches or threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.index.arrays import Float32Array, IntArray, VectorArray
from pipeline.index.calibration import Calibration, Method
from pipeline.index.encoder import Encoder
from pipeline.index.exact import nearest, place_distances, vectors_at
from pipeline.index.hamming import DeviceScan
from pipeline.index.order import NOWHERE, Neighbours, ids_at, places_of
from pipeline.index.shard import IndexShard
from pipeline.index.sieve import Sieve
from pipeline.index.threads import default_threads

NORM_TOLERANCE = 1e-3
_MAX_POINTS = 1_000


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundPlaces:
    """A `SearchResult` as arrays: no string is made for an id that nobody reads."""

    neighbours: Neighbours
    """Places, which `Searcher.ids` turns into ids, and distances; padded with -1 and infinity."""
    method: Method
    candidates: int | None
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """What a search costs: looked up for every query, worked out once."""

    k: int
    candidates: int | None
    probes: int | None
    method: Method
    warning: str


class Searcher:
    """A snapshot's opened index shards and what it takes to search them. Safe to use from many threads."""

    def __init__(
        self,
        encoder: Encoder | None,
        shards: Sequence[IndexShard],
        calibration: Calibration | None,
        *,
        threads: int | None = None,
        device: DeviceScan | None = None,
    ) -> None:
        """Args as the snapshot names them.

        ``threads`` defaults to all cores; neither they nor the ``device`` that scans codes change a result.

        Raises:
            UsageError: the shards have different dimensions, or lack the codes of ``encoder``.
        """
        self.encoder = encoder
        self.shards = tuple(shards)
        self.calibration = calibration
        self.threads = default_threads() if threads is None else threads
        self.device = device
        self.n_live = sum(shard.n_live for shard in shards)
        self.d = _common_d(encoder, self.shards)
        self._points: dict[tuple[int, bool, int | None, int | None], _Point] = {}
        n_calibrated = self.n_live if calibration is None else calibration.n_live
        self._sieve = None
        if encoder is not None:
            self._sieve = Sieve(encoder, self.shards, self.threads, n_calibrated, device)

    def search(
        self,
        xq_QD: VectorArray,
        k: int,
        *,
        exact: bool = False,
        candidates: int | None = None,
        probes: int | None = None,
        exclude_ids: Sequence[str | None] | None = None,
    ) -> SearchResult:
        """The ``k`` nearest live images of each query: `search_places` with ids.

        Args:
            xq_QD: unit vectors, one query a row.
            k: how many; more than there are gives all.
            exact: compare every live row.
            candidates: C, instead of the calibrated one (at least k are taken).
            probes: lists to look into, instead of the calibrated number.
            exclude_ids: for each query an id that must not be a result (leave-one-out), or None.

        Raises:
            UsageError: wrong dimensions, a query that is not a finite vector of length 1, k below 1.
        """
        found = self.search_places(
            xq_QD, k, exact=exact, candidates=candidates, probes=probes, exclude_ids=exclude_ids
        )
        ids, distances = self._to_tuples(found.neighbours)
        return SearchResult(
            ids=ids,
            distances=distances,
            method=found.method,
            candidates=found.candidates,
            warning=found.warning,
        )

    def search_places(
        self,
        xq_QD: VectorArray,
        k: int,
        *,
        exact: bool = False,
        candidates: int | None = None,
        probes: int | None = None,
        exclude_ids: Sequence[str | None] | None = None,
        excluded_QE: IntArray | None = None,
    ) -> FoundPlaces:
        """As `search`, in arrays; ``excluded_QE`` are places instead of ``exclude_ids``, -1 for none."""
        asked = (k, exact, candidates, probes)
        point = self._points.get(asked)
        if point is None:
            if len(self._points) >= _MAX_POINTS:
                self._points.clear()
            point = self._points[asked] = self._point(*asked)
        if exclude_ids is not None:
            if len(exclude_ids) != len(xq_QD):
                raise UsageError(
                    f"expected one excluded id per query, got {len(exclude_ids)} for {len(xq_QD)}"
                )
            excluded_QE = places_of(self.shards, exclude_ids)
        check_queries(xq_QD, self.d)
        xq_QD = np.ascontiguousarray(xq_QD, dtype=np.float32)
        n_candidates = point.candidates
        if n_candidates is None or self._sieve is None:
            found = nearest(self.shards, xq_QD, point.k, excluded_QE=excluded_QE, device=self.device)
        else:
            found = self._sieve.search(xq_QD, point.k, n_candidates, point.probes, excluded_QE)
        return FoundPlaces(
            neighbours=found, method=point.method, candidates=n_candidates, warning=point.warning
        )

    def ids(self, place_M: IntArray) -> "pa.LargeStringArray":
        """Image ids of places that `search_places` found (not of -1), in their order."""
        return ids_at(self.shards, place_M)

    def vectors(self, place_M: IntArray) -> Float32Array:
        """Stored vectors of places (not of -1), in their order; float32 [M, D]."""
        return vectors_at(self.shards, place_M)

    def distances(self, xq_QD: Float32Array, query_M: IntArray, place_M: IntArray) -> Float32Array:
        """Exact distance of each pair of a query (a row of ``xq_QD``) and a place; float32 [M]."""
        return place_distances(self.shards, xq_QD, query_M, place_M)

    def _point(self, k: int, exact: bool, candidates: int | None, probes: int | None) -> "_Point":  # noqa: FBT001
        """What such a search does, the same whatever its queries are."""
        for name, value in (("k", k), ("candidates", candidates), ("probes", probes)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if candidates is not None and self.encoder is None:
            raise UsageError(
                "this index was opened without an encoder: it has no candidates, only exact search"
            )
        n_candidates, warning = (None, "") if exact else self._candidates(k, candidates)
        return _Point(
            k=min(k, max(self.n_live, 1)),
            candidates=n_candidates,
            probes=probes if probes or self.calibration is None else self.calibration.probes_for(k),
            method="exact" if n_candidates is None else "hamming",
            warning=warning,
        )

    def _candidates(self, k: int, asked: int | None) -> tuple[int | None, str]:
        """C and a warning; None where comparing every row is what was calibrated, or is no more work."""
        if self.encoder is None:
            return None, ""
        if asked is not None:
            return max(asked, k), ""
        return (None, "") if self.calibration is None else self.calibration.sieved(k, self.n_live)

    def _to_tuples(
        self, found: Neighbours
    ) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[float, ...], ...]]:
        present_QK = found.place_QK != NOWHERE
        ids = self.ids(found.place_QK[present_QK]).to_pylist()
        distances = found.distance_QK[present_QK].tolist()
        stops = np.cumsum(present_QK.sum(axis=1)).tolist()
        starts = [0, *stops[:-1]]
        spans = list(zip(starts, stops, strict=False))
        return tuple(tuple(ids[a:b]) for a, b in spans), tuple(tuple(distances[a:b]) for a, b in spans)


def check_queries(xq_QD: VectorArray, d: int | None) -> None:
    """Refuses queries that are not finite vectors of length 1 and ``d`` dimensions, naming the first."""
    if xq_QD.ndim != 2 or (d is not None and xq_QD.shape[1] != d):
        raise UsageError(
            f"expected queries of {d} dimensions, got an array of shape {xq_QD.shape}",
            "embed the queries with the model of this snapshot",
        )
    square_Q = np.vecdot(xq_QD, xq_QD, dtype=np.float32)
    off = abs(square_Q[0] - 1) if len(square_Q) == 1 else np.abs(square_Q - 1).max(initial=0)
    if off <= NORM_TOLERANCE:
        return  # for rounding they may be twice as far off
    norm_Q = np.sqrt(np.einsum("qd,qd->q", xq_QD, xq_QD, dtype=np.float64))
    bad = np.flatnonzero(~(np.abs(norm_Q - 1.0) <= NORM_TOLERANCE))
    if len(bad):
        raise UsageError(
            f"query {bad[0]}: expected a finite vector of length 1 within {NORM_TOLERANCE}, "
            f"got length {norm_Q[bad[0]]:.6g} ({len(bad)} of {len(xq_QD)} queries)",
            "normalise the queries; a zero or NaN vector means that its image could not be embedded",
        )


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
