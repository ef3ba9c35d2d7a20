"""What is in a snapshot, and what differs between two: ids for people, files for other engines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.snapshot.manifest import Content
from pipeline.snapshot.rows import dead_masks, live_rows
from pipeline.storage.receipts import DataFile
from pipeline.storage.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """One live file of a snapshot; ``rows`` counts dead rows too, None where the file has no rows."""

    kind: str
    file: DataFile
    rows: int | None = None
    dead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SnapshotDiff:
    """Live images of two snapshots side by side, ids in UTF-8 order."""

    added: pa.ChunkedArray
    changed: pa.ChunkedArray
    deleted: pa.ChunkedArray
    n_unchanged: int


def snapshot_files(content: Content) -> Iterator[SnapshotFile]:
    """Every file that the snapshot needs, kind by kind, in the order of the manifest."""
    dead = {ref.part: ref.dead for ref in content.dead_rows}
    for part in content.parts:
        if part.embeddings is not None:
            yield SnapshotFile(
                kind="embeddings", file=part.embeddings, rows=part.rows, dead=dead.get(part.key, 0)
            )
        if part.rejects is not None:
            yield SnapshotFile(kind="rejects", file=part.rejects, rows=sum(part.rejected.values()))
    if content.listing_rejects is not None:
        yield SnapshotFile(kind="rejects", file=content.listing_rejects)
    yield from (SnapshotFile(kind="deletes", file=ref.file) for ref in content.dead_rows)
    yield from (SnapshotFile(kind="attributes", file=ref.file, rows=ref.rows) for ref in content.attributes)
    yield SnapshotFile(kind="encoder", file=content.encoder.file)
    for shard in content.index_shards:
        for name, value in shard:
            if isinstance(value, DataFile):
                yield SnapshotFile(kind=f"index {name}", file=value, rows=shard.rows)


def diff(store: ObjectStore, before: Content, after: Content, cache: Path) -> SnapshotDiff:
    """Which images ``after`` has and ``before`` has not, has with other bytes, or has no more."""
    old, new = _live(store, before, cache), _live(store, after, cache)
    at = pc.index_in(new["image_id"], value_set=old["image_id"].combine_chunks())
    is_new = pc.is_null(at)
    if old.num_rows and new.num_rows:
        versions = old["version"].take(pc.fill_null(at, 0))
        is_changed = pc.and_(pc.invert(is_new), pc.not_equal(versions, new["version"]))
    else:
        is_changed = pa.chunked_array([pa.array(np.zeros(new.num_rows, dtype=np.bool_))])
    gone = pc.invert(pc.is_in(old["image_id"], value_set=new["image_id"].combine_chunks()))
    added = _sorted(new["image_id"].filter(is_new))
    changed = _sorted(new["image_id"].filter(is_changed))
    return SnapshotDiff(
        added=added,
        changed=changed,
        deleted=_sorted(old["image_id"].filter(gone)),
        n_unchanged=new.num_rows - len(added) - len(changed),
    )


def _live(store: ObjectStore, content: Content, cache: Path) -> pa.Table:
    return live_rows(store, content.parts, dead_masks(store, content, cache), cache)


def _sorted(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.take(pc.sort_indices(ids))
