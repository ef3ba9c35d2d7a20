"""Breaks stored objects the ways disks, people and bugs do."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.index.reduce import PartFile, ReduceTask, ReduceWorker
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.manifest import Content, IndexShardRef, Manifest, save
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile, upload
from pipeline.storage.store import ObjectStore


def flip(path: Path) -> None:
    """Changes one bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    shutil.move(one, aside)
    shutil.move(other, one)
    shutil.move(aside, other)


def without_last_row(store: ObjectStore, file: DataFile, key: str) -> DataFile:
    """The part with a row less, stored as a careless writer would: whole, and with its right checksum."""
    path = store.local_path(file.key)
    assert path is not None
    table = pq.read_table(path)
    out = path.with_name("shorter.parquet")
    pq.write_table(table.slice(0, table.num_rows - 1), out)
    stored = upload(store, "embeddings", key, ".parquet", out)
    out.unlink()
    return stored


def with_another_vector(store: ObjectStore, file: DataFile, key: str) -> DataFile:
    """The vectors of an index shard, one component the least bit greater."""
    path = store.local_path(file.key)
    assert path is not None
    x_ND = np.load(path)
    x_ND[0, 0] = np.nextafter(x_ND[0, 0], x_ND.dtype.type(2))
    out = path.with_name("another.npy")
    np.save(out, x_ND)
    stored = upload(store, "index", key, ".npy", out)
    out.unlink()
    return stored


def swap_vectors(store: ObjectStore, manifest: Manifest, cache: Path) -> None:
    """Publishes the only part with its vectors in reverse, and an index shard that agrees with it."""
    content = manifest.content
    (part,) = content.parts
    assert part.embeddings is not None
    path = store.local_path(part.embeddings.key)
    assert path is not None
    table = pq.read_table(path)
    backwards = table["embedding"].take(np.arange(table.num_rows)[::-1])
    out = path.with_name("backwards.parquet")
    pq.write_table(
        table.set_column(table.schema.get_field_index("embedding"), "embedding", backwards).cast(
            table.schema
        ),
        out,
    )
    file = upload(store, "embeddings", part.key, ".parquet", out)
    task = ReduceTask(
        parts=(PartFile(key=part.key, rows=part.rows, file=file),),
        encoder_digest=content.encoder.digest,
        encoder_file=content.encoder.file,
        vector_dtype="float32",
    )
    made = ReduceWorker(store.uri, cache).run(task)
    shard = IndexShardRef(key=task.key, parts=[part.key], rows=part.rows, **made.files)
    changed = {"parts": [part.model_copy(update={"embeddings": file})], "index_shards": [shard]}
    publish_anyway(store, manifest, content.model_copy(update=changed))


def publish_anyway(store: ObjectStore, manifest: Manifest, content: Content) -> None:
    """Replaces a snapshot by one with other content, sealed and with the right digest."""
    changed = manifest.model_copy(update={"content": content, "digest": content.digest()})
    store.put(layout.snapshot(manifest.collection, manifest.sequence), save(store, changed))


def files_by_kind(store: ObjectStore, content: Content) -> dict[str, Path]:
    """One stored file of each kind."""
    found = {}
    for one in snapshot_files(content):
        path = store.local_path(one.file.key)
        assert path is not None
        found[one.kind] = path
    return found
