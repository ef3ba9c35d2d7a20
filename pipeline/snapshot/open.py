"""Opens a snapshot for reading: live rows, attributes and a searcher over all its index shards.

Readers take no lock: everything a manifest names is immutable. On a local store the files are mapped where
they lie; from S3 they come through a cache folder, verified by their sha256.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import DataCorrupt
from pipeline.index.device import on_device
from pipeline.index.encoder import Encoder
from pipeline.index.reduce import read_encoder
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard
from pipeline.snapshot.attributes import read_attributes
from pipeline.snapshot.manifest import Content, IndexShardRef, Manifest
from pipeline.snapshot.rows import Mask, dead_masks, live_rows, live_vectors
from pipeline.storage.receipts import fetch
from pipeline.storage.store import ObjectStore
from pipeline.values import SearchDevice


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenSnapshot:
    """A snapshot or candidate and the store it lies in; everything is read when it is first asked for."""

    store: ObjectStore
    manifest: Manifest
    cache: Path
    device: SearchDevice = "cpu"

    @property
    def content(self) -> Content:
        """What the snapshot contains."""
        return self.manifest.content

    @cached_property
    def live(self) -> pa.Table:
        """The live rows, ``snapshot.rows.LIVE_SCHEMA``."""
        return live_rows(
            self.store, self.content.parts, dead_masks(self.store, self.content, self.cache), self.cache
        )

    @cached_property
    def attributes(self) -> pa.Table:
        """One row per image that was ever listed with attributes; join on ``image_id``."""
        return read_attributes(self.store, self.content.attributes, self.cache)

    @cached_property
    def vectors(self) -> npt.NDArray[np.float32]:
        """The vectors of ``live``, in its order, float32 [N, D]."""
        content = self.content
        return live_vectors(self.store, self.live, content.parts, content.model.dim, self.cache)

    @cached_property
    def searcher(self) -> Searcher:
        """The two-stage searcher, with the calibration the snapshot was published with."""
        return on_device(open_searcher(self.store, self.content, self.cache), self.device)


def open_searcher(store: ObjectStore, content: Content, cache: Path) -> Searcher:
    """Maps every index shard of ``content`` with its dead rows."""
    encoder = read_encoder(store, content.encoder.file, cache)
    dead = dead_masks(store, content, cache)
    shards = open_shards(store, content.index_shards, encoder, dead, cache)
    return Searcher(encoder, shards, content.operating_point())


def open_shards(
    store: ObjectStore, refs: Sequence[IndexShardRef], encoder: Encoder, dead: Mapping[str, Mask], cache: Path
) -> list[IndexShard]:
    """Maps the index shards, each with the live rows of its parts."""
    return [_open_shard(store, ref, encoder, dead, cache) for ref in refs]


def _open_shard(
    store: ObjectStore, ref: IndexShardRef, encoder: Encoder, dead: Mapping[str, Mask], cache: Path
) -> IndexShard:
    rows_path = fetch(store, ref.row_ids, cache)
    alive = _alive(rows_path, ref, dead)
    return IndexShard.open(
        fetch(store, ref.codes, cache),
        fetch(store, ref.vectors, cache),
        rows_path,
        encoder,
        alive,
        extra={name: fetch(store, file, cache) for name, file in ref.extra.items()},
    )


def _alive(rows_path: Path, ref: IndexShardRef, dead: Mapping[str, Mask]) -> Mask | None:
    masks = [dead[part] for part in ref.parts]
    if not any(mask.any() for mask in masks):
        return None
    with pa.memory_map(str(rows_path)) as file:
        rows = pa.ipc.open_file(file).read_all()
    starts = np.cumsum([0, *(len(mask) for mask in masks)])
    positions = starts[rows["part"].to_numpy()] + rows["row"].to_numpy()
    if len(positions) and positions.max() >= starts[-1]:
        raise DataCorrupt(
            f"{ref.row_ids.key} names rows that its parts do not have", fix="rebuild the index shard"
        )
    alive: Mask = ~np.concatenate(masks)[positions]
    return alive
