"""The nearest neighbours of every live image of a snapshot, asked of its own index.

Legend: N live rows, K neighbours.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.index.order import NOWHERE, to_place
from pipeline.index.search import Searcher
from pipeline.snapshot.reranking import IndexBase

_ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeighbourGraph:
    """Every live row with its nearest others; rows are in the order of their places."""

    place_N: npt.NDArray[np.int64]
    neighbour_NK: npt.NDArray[np.int32]
    """Row numbers of this graph, nearest first; -1 where there are fewer."""
    distance_NK: npt.NDArray[np.float32]
    """Squared L2; infinite where there is nobody."""


def neighbour_graph(searcher: Searcher, k: int) -> NeighbourGraph:
    """The ``k`` nearest of every live row, itself left out, by the search that users call."""
    place_N = live_places(searcher)
    base = IndexBase(searcher=searcher)
    neighbour_NK = np.full((len(place_N), k), NOWHERE, dtype=np.int32)
    distance_NK = np.full((len(place_N), k), np.inf, dtype=np.float32)
    for start in range(0, len(place_N), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        found = base.nearest(searcher.vectors(place_N[some]), k, place_N[some])
        n_found = found.row_QK.shape[1]
        there_QK = found.row_QK != NOWHERE
        row_QK = np.searchsorted(place_N, found.row_QK)
        neighbour_NK[some, :n_found] = np.where(there_QK, row_QK, NOWHERE)
        distance_NK[some, :n_found] = found.distance_QK
    return NeighbourGraph(place_N=place_N, neighbour_NK=neighbour_NK, distance_NK=distance_NK)


def live_places(searcher: Searcher) -> npt.NDArray[np.int64]:
    """The places of all live rows, ascending."""
    places = [np.empty(0, dtype=np.int64)]
    for number, shard in enumerate(searcher.shards):
        rows = np.arange(shard.n_rows) if shard.alive_N is None else np.flatnonzero(shard.alive_N)
        places.append(to_place(number, rows.astype(np.int64)))
    return np.concatenate(places)
