"""Searches over Ray actors that each hold some of the index shards; the answers are those of one process.

A question goes to all holders at once. Where a filter leaves few images every holder has to compare them
exactly or none: so the holders first count what is left, and the question carries the sums.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.cluster.pool import ClusterOptions
from pipeline.cluster.ray_pool import RayPool
from pipeline.index.calibration import GATHERED_ROWS, Calibration
from pipeline.index.partial import PartialResult, merge, search_partly
from pipeline.index.probes import LiveRows
from pipeline.index.search import SearchResult, check_queries
from pipeline.snapshot.attributes import read_attributes
from pipeline.snapshot.filter import Filter
from pipeline.snapshot.manifest import Content, IndexShardRef
from pipeline.snapshot.open import OpenSnapshot, open_searcher
from pipeline.snapshot.selection import LeftOut, Selection, Totals
from pipeline.storage.open import open_store

if TYPE_CHECKING:
    from pipeline.cluster.residents import Residents

_PAIRS_AT_ONCE = 1 << 20  # candidates that a holder sends at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inquiry:
    """A question to all holders: the nearest of each query, or, without queries, how many rows are left."""

    xq_QD: npt.NDArray[np.float32] | None
    k: int = 1
    n_candidates: int | None = None
    left_out: LeftOut | None = None
    totals: Totals | None = None
    live: LiveRows | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Holding:
    """How many rows of a holder are left, in all and in each list of the coarse quantiser."""

    n: int
    by_list_L: npt.NDArray[np.int64]


class ShardHolder:
    """Holds some index shards of a snapshot, opened once; a plain class that Ray makes an actor of."""

    def __init__(
        self, store_uri: str, content: Content, chosen: str | None, cache: Path, number: int, n_holders: int
    ) -> None:
        store = open_store(store_uri)
        mine = content.model_copy(update={"index_shards": held_by(content.index_shards, number, n_holders)})
        searcher = open_searcher(store, mine, cache)
        self._n_lists = 0 if searcher.encoder is None else searcher.encoder.n_lists or 0
        table = partial(read_attributes, store, content.attributes, cache)
        self._selection = Selection(searcher, table, None if chosen is None else Filter(chosen))

    def run(self, task: Inquiry) -> PartialResult | Holding:
        """The answer of these index shards."""
        if task.xq_QD is None:
            n = self._selection.n_live(task.left_out, task.totals)
            by_list_L = self._selection.live_rows_of_lists(self._n_lists, task.left_out, task.totals)
            return Holding(n=n, by_list_L=by_list_L)
        searcher = self._selection.searcher(task.left_out, task.totals)
        return search_partly(searcher, task.xq_QD, task.k, task.n_candidates, task.live)


class RaySearch:
    """A search over all holders."""

    def __init__(
        self,
        holders: "Residents[Inquiry, PartialResult | Holding]",
        calibration: Calibration,
        dim: int,
        *,
        filtered: bool,
        exact: bool,
    ) -> None:
        """``filtered``: the holders have a filter. ``calibration`` and ``dim`` are the snapshot's."""
        self._holders = holders
        self._calibration = calibration
        self._dim = dim
        self._filtered = filtered
        self._exact = exact
        self._chosen = self._count(None, None)

    @property
    def n_live(self) -> int:
        """How many images can be found."""
        return self._chosen.n

    def search(self, xq_QD: npt.NDArray[np.float32], k: int, left_out: LeftOut | None = None) -> SearchResult:
        """The ``k`` nearest images of each query that are not left out."""
        check_queries(xq_QD, self._dim)
        totals, live = Totals(chosen=self._chosen.n), self._chosen
        if left_out is not None:
            live = self._count(left_out, totals)
            totals = replace(totals, left=live.n)
        n_live = live.n
        gathered = (self._filtered or left_out is not None) and n_live <= GATHERED_ROWS
        n_candidates, warning = (None, "") if self._exact or gathered else self._calibration.sieved(k, n_live)
        k = min(k, max(n_live, 1))
        ids: list[tuple[str, ...]] = []
        distances: list[tuple[float, ...]] = []
        step = max(1, _PAIRS_AT_ONCE // (n_candidates or k))
        for start in range(0, len(xq_QD), step):
            some_QD = np.ascontiguousarray(xq_QD[start : start + step])
            inquiry = Inquiry(xq_QD=some_QD, k=k, n_candidates=n_candidates, left_out=left_out, totals=totals)
            parts = [part for part in self._holders.ask(inquiry) if isinstance(part, PartialResult)]
            found = merge(parts, len(some_QD), k, n_candidates)
            ids.extend(found[0])
            distances.extend(found[1])
        return SearchResult(
            ids=tuple(ids),
            distances=tuple(distances),
            method="exact" if n_candidates is None else "hamming",
            candidates=n_candidates,
            warning=warning,
        )

    def _count(self, left_out: LeftOut | None, totals: Totals | None) -> LiveRows:
        answers = self._holders.ask(Inquiry(xq_QD=None, left_out=left_out, totals=totals))
        held = [answer for answer in answers if isinstance(answer, Holding)]
        return LiveRows(
            n=sum(one.n for one in held),
            n_calibrated=self._calibration.n_live,
            by_list_L=np.sum([one.by_list_L for one in held], axis=0),
        )


def held_by(refs: list[IndexShardRef], number: int, n_holders: int) -> list[IndexShardRef]:
    """The index shards of holder ``number``: the largest first, each to whoever has the fewest rows."""
    rows = [0] * n_holders
    mine = []
    for ref in sorted(refs, key=lambda ref: (-ref.rows, ref.key)):
        least = rows.index(min(rows))
        rows[least] += ref.rows
        if least == number:
            mine.append(ref)
    return mine


@contextmanager
def ray_search(
    snapshot: OpenSnapshot, chosen: str | None, options: ClusterOptions, *, exact: bool
) -> Iterator[RaySearch]:
    """A search over Ray actors while the context lasts."""
    content = snapshot.content
    make = partial(ShardHolder, snapshot.store.uri, content, chosen, snapshot.cache)
    with RayPool(options) as pool, pool.residents(max(1, len(content.index_shards)), make) as holders:
        yield RaySearch(
            holders,
            content.operating_point(),
            content.model.dim,
            filtered=chosen is not None,
            exact=exact,
        )
