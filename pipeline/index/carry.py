"""Carries exact neighbours from one night to the next, so that only what changed is compared.

What is known is the ``L`` nearest live rows of some rows at an earlier time, and which rows were alive then.
Tonight:

1. Drop from each list the rows that have died. What is left is still the nearest of the rows that lived then
   and live now, up to the *horizon*: the distance of the last row that the list had.
2. Compare the queries with the rows that are alive now and were not then: new shards, and rows revived.
3. Merge both, and cut at the horizon: beyond it nobody knows which older rows there are.

A query that has fewer than ``k`` rows left, or is not the row it was, is compared with all rows. The outcome
is what `nearest` gives, bit for bit; the earlier time may be any, the sooner the cheaper.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.index.arrays import BoolArray, Float32Array, IntArray
from pipeline.index.exact import nearest
from pipeline.index.order import NOWHERE, ROW_BITS, Neighbours, row_of, shard_of, to_neighbours
from pipeline.index.queries import QuerySet
from pipeline.index.shard import IndexShard

SLACK = 60
"""Neighbours kept beyond the k that are asked for: so many may die before a query is compared anew."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Neighbours of rows at one time: lists of L places and distances, best first, exact below the horizon.

    Places count ``keys``, the index shards of that time by key; ``alive`` are their live rows, in bits.
    """

    keys: tuple[str, ...]
    alive: tuple[bytes, ...]
    place_Q: IntArray
    near: Neighbours
    horizon_Q: Float32Array

    def save(self, path: Path) -> None:
        """Writes the file that ``read`` reads."""
        with path.open("wb") as file:
            np.savez(
                file,
                keys=np.frombuffer(json.dumps(self.keys).encode(), dtype=np.uint8),
                sizes=np.array([len(bits) for bits in self.alive], dtype=np.int64),
                alive=np.frombuffer(b"".join(self.alive), dtype=np.uint8),
                place_Q=self.place_Q,
                place_QL=self.near.place_QK,
                distance_QL=self.near.distance_QK,
                horizon_Q=self.horizon_Q,
            )

    @classmethod
    def read(cls, path: Path) -> "Known | None":
        """What ``save`` wrote; None where there is no such file, or not a whole one."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                stops = np.cumsum(found["sizes"]).tolist()
                bits = found["alive"].tobytes()
                return cls(
                    keys=tuple(json.loads(found["keys"].tobytes())),
                    alive=tuple(bits[a:b] for a, b in zip([0, *stops], stops, strict=False)),
                    place_Q=found["place_Q"],
                    near=Neighbours(place_QK=found["place_QL"], distance_QK=found["distance_QL"]),
                    horizon_Q=found["horizon_Q"],
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def carried(
    known: Known | None, keys: Sequence[str], shards: Sequence[IndexShard], queries: QuerySet, k: int
) -> tuple[Neighbours, Known | None]:
    """The ``k`` nearest of catalog rows ``queries``, as `nearest` gives them, and what is known from now on.

    Args:
        known: of an earlier time, None to compare with all rows.
        keys: the key of each of ``shards``.
        shards: tonight's.
        queries: rows of the catalog; of given vectors nothing is carried.
        k: how many.
    """
    if queries.excluded_QE.shape[1] != 1:
        return nearest(shards, queries.xq_QD, k, excluded_QE=queries.excluded_QE), None
    place_Q = queries.excluded_QE[:, 0]
    place_QL = np.full((len(queries), k + SLACK), NOWHERE, dtype=np.int64)
    distance_QL = np.full(place_QL.shape, np.inf, dtype=np.float32)
    horizon_Q = np.full(len(queries), np.inf, dtype=np.float32)
    left = np.arange(len(queries))
    if known is not None and known.near.place_QK.shape[1] == k + SLACK:
        found_M, near, horizon_M = _merged(known, keys, shards, queries, k)
        place_QL[found_M], distance_QL[found_M], horizon_Q[found_M] = (
            near.place_QK,
            near.distance_QK,
            horizon_M,
        )
        left = np.setdiff1d(left, found_M)
    if len(left):
        anew = nearest(shards, queries.xq_QD[left], k + SLACK, excluded_QE=queries.excluded_QE[left])
        place_QL[left], distance_QL[left] = anew.place_QK, anew.distance_QK
        horizon_Q[left] = np.where(anew.place_QK[:, -1] == NOWHERE, np.inf, anew.distance_QK[:, -1])
    near = Neighbours(place_QK=place_QL, distance_QK=distance_QL)
    alive = tuple(np.packbits(_alive(shard)).tobytes() for shard in shards)
    now = Known(keys=tuple(keys), alive=alive, place_Q=place_Q, near=near, horizon_Q=horizon_Q)
    return Neighbours(place_QK=place_QL[:, :k], distance_QK=distance_QL[:, :k]), now


def _merged(
    known: Known, keys: Sequence[str], shards: Sequence[IndexShard], queries: QuerySet, k: int
) -> tuple[IntArray, Neighbours, Float32Array]:
    """Queries that need no full comparison, their neighbours, and how far those reach."""
    renumbered = _renumbered(known, keys)
    place_P = _place_now(known.place_Q, renumbered)
    order_P = np.argsort(place_P, kind="stable")
    place_Q = queries.excluded_QE[:, 0]
    where_Q = np.minimum(np.searchsorted(place_P, place_Q, sorter=order_P), max(len(place_P) - 1, 0))
    same_M = np.flatnonzero((place_P[order_P[where_Q]] == place_Q) & (place_Q != NOWHERE))
    before_M = order_P[where_Q[same_M]]
    old_ML = _place_now(known.near.place_QK[before_M], renumbered)
    horizon_M = known.horizon_Q[before_M]
    old_distance_ML = known.near.distance_QK[before_M]
    stays_ML = _is_alive(shards, old_ML) & (old_distance_ML < horizon_M[:, None])
    new = nearest(
        _changed(known, keys, shards),
        queries.xq_QD[same_M],
        old_ML.shape[1],
        excluded_QE=queries.excluded_QE[same_M],
    )
    comes_ML = (new.place_QK != NOWHERE) & (new.distance_QK < horizon_M[:, None])
    query_N = np.concatenate([np.nonzero(stays_ML)[0], np.nonzero(comes_ML)[0]])
    place_N = np.concatenate([old_ML[stays_ML], new.place_QK[comes_ML]])
    distance_N = np.concatenate([old_distance_ML[stays_ML], new.distance_QK[comes_ML]])
    enough_M = (np.bincount(query_N, minlength=len(same_M)) >= k) | np.isinf(horizon_M)
    near = to_neighbours(query_N, distance_N, place_N, shards, old_ML.shape)
    is_full_M = near.place_QK[:, -1] != NOWHERE
    horizon_M = np.where(is_full_M, near.distance_QK[:, -1], horizon_M)
    kept = Neighbours(place_QK=near.place_QK[enough_M], distance_QK=near.distance_QK[enough_M])
    return same_M[enough_M], kept, horizon_M[enough_M]


def _renumbered(known: Known, keys: Sequence[str]) -> IntArray:
    """The number tonight of each shard of that time; -1 where it is gone."""
    number_of = {key: number for number, key in enumerate(keys)}
    return np.array([number_of.get(key, NOWHERE) for key in known.keys], dtype=np.int64)


def _place_now(place: IntArray, renumbered: IntArray) -> IntArray:
    """Places of that time as places of tonight; `NOWHERE` in shards that are gone."""
    number = np.where(place == NOWHERE, NOWHERE, renumbered[shard_of(np.maximum(place, 0))])
    return np.where(number == NOWHERE, NOWHERE, row_of(place) | (np.maximum(number, 0) << ROW_BITS))


def _is_alive(shards: Sequence[IndexShard], place: IntArray) -> BoolArray:
    """Which places are rows that live tonight."""
    alive: BoolArray = place != NOWHERE
    for number, shard in enumerate(shards):
        if shard.alive_N is not None:
            here = alive & (shard_of(place) == number)
            alive[here] = shard.alive_N[row_of(place[here])]
    return alive


def _changed(known: Known, keys: Sequence[str], shards: Sequence[IndexShard]) -> list[IndexShard]:
    """Tonight's shards with those rows alive that were not alive then."""
    bits_of = dict(zip(known.keys, known.alive, strict=True))
    changed = []
    for key, shard in zip(keys, shards, strict=True):
        alive_N = _alive(shard)
        if key in bits_of:
            then = np.frombuffer(bits_of[key], dtype=np.uint8)
            alive_N = alive_N & ~np.unpackbits(then, count=shard.n_rows).astype(np.bool_)
        changed.append(replace(shard, alive_N=alive_N))
    return changed


def _alive(shard: IndexShard) -> BoolArray:
    return np.ones(shard.n_rows, dtype=np.bool_) if shard.alive_N is None else shard.alive_N
