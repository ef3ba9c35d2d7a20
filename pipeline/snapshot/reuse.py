"""Finds rows of the parent whose vectors may serve for images that are fresh tonight.

The same bytes come back under another id, from another tar, or with another time of change. Three things
point to them: a version that is the sha256 of a live row (tar and Parquet rows), a version that a live row
has under whatever id (a renamed object), and the id itself (a touched file). All are hints: the bytes decide.
Rows made under another embed config are no help: their vectors would not be the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.change import contains
from pipeline.catalog.hints import HINTS_SCHEMA, Hints
from pipeline.catalog.plan import ImageShard
from pipeline.catalog.table import LISTING_SCHEMA
from pipeline.snapshot.manifest import PartRef

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reusable:
    """Live rows (``LIVE_SCHEMA``, counting ``parts``) that were made under tonight's embed config."""

    rows: pa.Table
    parts: Sequence[PartRef]

    def surely(self, fresh: pa.Table) -> _Mask:
        """Which rows of a listing have a version that says, unread, that their bytes are known."""
        by_bytes = contains(fresh["version"], self.rows["content_digest"])
        return by_bytes | contains(fresh["version"], self.rows["version"])

    def maybe(self, fresh: pa.Table) -> _Mask:
        """Which rows of a listing have a known id, and a version that does not tell their bytes."""
        single = fresh["container"].to_numpy() == ""
        known: _Mask = contains(fresh["image_id"], self.rows["image_id"]) & single
        return known

    def hint(self, shards: Sequence[ImageShard]) -> list[ImageShard]:
        """The shards, told of the rows that may have vectors of their images' bytes."""
        columns = ["image_id", "version", "container"]
        fresh = pa.concat_tables([LISTING_SCHEMA.empty_table(), *(one.table for one in shards)]).select(
            columns
        )
        near = self._near(fresh)
        if near.num_rows == 0:
            return list(shards)
        ids = pc.if_else(pc.equal(fresh["container"], ""), fresh["image_id"], pa.scalar(None, pa.string()))
        where = pc.coalesce(
            _first(fresh["version"], near["content_digest"]),
            _first(fresh["version"], near["version"]),
            _first(ids, near["image_id"]),
        )
        hinted, start = [], 0
        for shard in shards:
            found = pc.drop_null(pc.unique(where.slice(start, shard.n_images)))
            start += shard.n_images
            hinted.append(replace(shard, hints=self._hints(near.take(found))) if len(found) else shard)
        return hinted

    def _near(self, fresh: pa.Table) -> pa.Table:
        """The rows that have anything in common with a listing."""
        rows = self.rows
        shared = contains(rows["content_digest"], fresh["version"])
        shared |= contains(rows["version"], fresh["version"])
        shared |= contains(rows["image_id"], fresh["image_id"])
        return rows.filter(pa.array(shared))

    def _hints(self, rows: pa.Table) -> Hints:
        numbers, file_N = np.unique(rows["part"].to_numpy(), return_inverse=True)
        files = tuple(file for number in numbers if (file := self.parts[number].embeddings) is not None)
        columns = [rows["content_digest"], pa.array(file_N.astype(np.int32)), rows["row"]]
        return Hints(files=files, table=pa.table(columns, schema=HINTS_SCHEMA))


def reusable(live: pa.Table, parts: Sequence[PartRef], config: str) -> Reusable:
    """What of ``live`` (``LIVE_SCHEMA``, counting ``parts``) may serve again under this embed config."""
    usable = np.asarray([part.config == config for part in parts], dtype=bool)
    rows = live if usable.all() else live.filter(pa.array(usable[live["part"].to_numpy()]))
    return Reusable(rows=rows, parts=parts)


def _first(values: pa.ChunkedArray, value_set: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where each of ``values`` stands first in ``value_set``; null is nowhere."""
    return pc.index_in(values, value_set=value_set.combine_chunks(), skip_nulls=True)
