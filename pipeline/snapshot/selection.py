"""Narrows a search to some images: a searcher over the same index shards in which fewer rows are alive.

Dead rows are skipped inside the scan, so the candidates and the k results all come from the rows that are
left, however few they are. Where at most 65,536 are left they are gathered and compared exactly: that costs
less than scanning the codes of all, and misses nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.index.calibration import GATHERED_ROWS
from pipeline.index.probes import live_rows_of_lists
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard
from pipeline.snapshot.filter import Filter
from pipeline.snapshot.rows import Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Images that a search passes over: ``ids``, and those whose ``column`` has one of ``values``."""

    column: str
    values: frozenset[Any]
    ids: frozenset[str]


def narrowed(searcher: Searcher, keep: Callable[[IndexShard], Mask], n_live: int | None = None) -> Searcher:
    """The same search over the live rows that ``keep`` (bool [N] of a shard) leaves.

    Its candidates are those the calibration found for such a share of all rows. ``n_live`` is how many
    rows are left in the whole snapshot, where other processes hold some.
    """
    return _over(searcher, _masks(searcher, keep), n_live)


def values_of(table: pa.Table, column: str, ids: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """The attribute of each of ``ids``, in their order; null where the table has no row for an id.

    One pass over the table, whatever its size; the memory is that of ``ids``.
    """
    wanted = ids.cast(table.schema.field("image_id").type)
    read = table.select(sorted({"image_id", column}))  # an id is an attribute too
    present = read.filter(pc.is_in(table["image_id"], value_set=_flat(wanted)))
    where = pc.index_in(wanted, value_set=_flat(present["image_id"]))
    return pa.chunked_array([_flat(present[column]).take(_flat(where))])


def rows_with(shard: IndexShard, ids: pa.Array | pa.ChunkedArray) -> Mask:
    """Which rows of ``shard`` hold one of ``ids``; bool [N]."""
    found = pc.is_in(shard.ids, value_set=_flat(ids).cast(shard.ids.type))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)


def matching(table: pa.Table, chosen: Filter) -> Callable[[IndexShard], Mask]:
    """Which rows of a shard hold an image that the filter is true of; ``table`` has the attributes.

    An image without a row in the table has no attribute: all of them are null.
    """
    mask = chosen.mask(table)
    no_attributes = pa.table({field.name: pa.nulls(1, field.type) for field in table.schema})
    if bool(chosen.mask(no_attributes)[0]):
        others = table["image_id"].filter(pa.array(~mask))
        return lambda shard: ~rows_with(shard, others)
    those = table["image_id"].filter(pa.array(mask))
    return lambda shard: rows_with(shard, those)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How many live rows of the whole snapshot a filter leaves, and how many if some are left out too."""

    chosen: int
    left: int | None = None


class Selection:
    """The images that a search may find, of the index shards that one process has opened."""

    def __init__(self, searcher: Searcher, table: Callable[[], pa.Table], chosen: Filter | None) -> None:
        """``table`` reads the attributes, if they are needed; ``chosen`` narrows the search for good."""
        self._all = searcher
        self._table = table
        self._masks = None if chosen is None else _masks(searcher, matching(table(), chosen))
        self._chosen: Searcher | None = None if chosen else searcher
        self._left: tuple[LeftOut, list[Mask], Searcher | None] | None = None

    def n_live(self, left_out: LeftOut | None = None, totals: Totals | None = None) -> int:
        """How many images of these shards can be found."""
        return sum(shard.n_live for shard in self._shards(left_out, totals))

    def live_rows_of_lists(
        self, n_lists: int, left_out: LeftOut | None = None, totals: Totals | None = None
    ) -> npt.NDArray[np.int64]:
        """The same for each list of the coarse quantiser: int64 [L]."""
        return live_rows_of_lists(self._shards(left_out, totals), n_lists)

    def _shards(self, left_out: LeftOut | None, totals: Totals | None) -> Sequence[IndexShard]:
        """The shards with what is left of them alive, before anything is gathered."""
        if left_out is not None:
            shards, masks = self.searcher(None, totals).shards, self._left_masks(left_out, totals)
        elif self._masks is not None:
            shards, masks = self._all.shards, self._masks
        else:
            return self._all.shards
        return [replace(shard, alive_N=mask) for shard, mask in zip(shards, masks, strict=True)]

    def searcher(self, left_out: LeftOut | None = None, totals: Totals | None = None) -> Searcher:
        """The search over them. Without ``totals`` these shards are all there are."""
        if self._chosen is None:
            assert self._masks is not None  # noqa: S101 (for the type checker)
            self._chosen = _over(self._all, self._masks, None if totals is None else totals.chosen)
        if left_out is None:
            return self._chosen
        masks = self._left_masks(left_out, totals)
        found = None if self._left is None else self._left[2]
        if found is None:
            found = _over(self._chosen, masks, None if totals is None else totals.left)
            self._left = (left_out, masks, found)
        return found

    def _left_masks(self, left_out: LeftOut, totals: Totals | None) -> list[Mask]:
        """The last ones are kept: the next batch often leaves out the same."""
        if self._left is None or self._left[0] != left_out:
            table = self._table()
            values = pa.array(list(left_out.values), type=table.schema.field(left_out.column).type)
            grouped = table["image_id"].filter(pc.is_in(table[left_out.column], value_set=values))
            ids = pa.array([*grouped.to_pylist(), *left_out.ids], type=pa.string())
            masks = _masks(self.searcher(None, totals), lambda shard: ~rows_with(shard, ids))
            self._left = (left_out, masks, None)
        return self._left[1]


def _over(searcher: Searcher, masks: Sequence[Mask], n_live: int | None) -> Searcher:
    if (_count(masks) if n_live is None else n_live) <= GATHERED_ROWS:
        gathered = [_gathered(shard, mask) for shard, mask in zip(searcher.shards, masks, strict=True)]
        return Searcher(None, gathered, None, threads=searcher.threads)
    shards = [replace(shard, alive_N=mask) for shard, mask in zip(searcher.shards, masks, strict=True)]
    return Searcher(
        searcher.encoder, shards, searcher.calibration, threads=searcher.threads, device=searcher.device
    )


def _masks(searcher: Searcher, keep: Callable[[IndexShard], Mask]) -> list[Mask]:
    return [_alive(shard, keep(shard)) for shard in searcher.shards]


def _count(masks: Sequence[Mask]) -> int:
    return sum(int(np.count_nonzero(mask)) for mask in masks)


def _alive(shard: IndexShard, kept: Mask) -> Mask:
    return kept if shard.alive_N is None else kept & shard.alive_N


def _gathered(shard: IndexShard, mask: Mask) -> IndexShard:
    """An index shard in memory of these rows, in id order, for exact search."""
    rows = np.flatnonzero(mask)
    if shard.order_N is not None:
        rows = rows[np.argsort(shard.order_N[rows], kind="stable")]
    return IndexShard(
        codes_NW=None,
        vectors_ND=shard.vectors_ND[rows],
        ids=shard.ids.take(pa.array(rows)),
        part_N=shard.part_N[rows],
        row_N=shard.row_N[rows],
        alive_N=None,
        faiss_index=None,
    )


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
