"""The rows of a snapshot: which rows of its immutable parts are alive, one bitmap of dead rows per part.

A row dies when its image is listed no more, or when a newer part has a row for the same id. Bitmaps are
packed little-endian (bit i of byte i >> 3 is row i), as ``numpy.packbits(bitorder="little")`` makes them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.embed.table import REJECTS_SCHEMA, read_vectors, rejects_bytes
from pipeline.errors import DataCorrupt
from pipeline.fingerprint import sha256_hex, task_key
from pipeline.snapshot.manifest import Content, DeadRowsRef, PartRef
from pipeline.storage.receipts import DataFile, Receipt, fetch, read_receipt, upload, write_receipt
from pipeline.storage.store import ObjectStore
from pipeline.values import Reject, RejectReason

Mask = npt.NDArray[np.bool_]

STAGE = "deletes"
LISTING_STAGE = "listing_rejects"
STAGE_VERSION = 1

LIVE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("version", pa.string()),
        pa.field("content_digest", pa.string()),
        pa.field("part", pa.int32()),  # position in Content.parts
        pa.field("row", pa.int32()),  # row in that part
    ]
)


def dead_masks(store: ObjectStore, content: Content, cache: Path) -> dict[str, Mask]:
    """For each part (by key) the rows that are dead."""
    dead = {ref.part: ref for ref in content.dead_rows}
    return {
        part.key: _read_mask(store, dead[part.key], part.rows, cache)
        if part.key in dead
        else np.zeros(part.rows, dtype=bool)
        for part in content.parts
    }


def live_rows(
    store: ObjectStore, parts: Sequence[PartRef], dead: Mapping[str, Mask], cache: Path
) -> pa.Table:
    """All live rows (``LIVE_SCHEMA``), in the order of parts and rows; vectors stay where they are."""
    tables = [LIVE_SCHEMA.empty_table()]
    for number, part in enumerate(parts):
        if part.embeddings is None:
            continue
        path = fetch(store, part.embeddings, cache)
        table = pq.read_table(path, columns=["image_id", "version", "content_digest"])
        if table.num_rows != part.rows:
            raise DataCorrupt(
                f"{part.embeddings.key} has {table.num_rows} rows, the manifest says {part.rows}",
                fix="restore the object from a copy of the store, or rebuild with `bitsieve reindex`",
            )
        rows = np.flatnonzero(~dead[part.key]).astype(np.int32)
        alive = table if len(rows) == table.num_rows else table.take(pa.array(rows))
        alive = alive.replace_schema_metadata(None)
        alive = alive.append_column("part", pa.array(np.full(len(rows), number, dtype=np.int32)))
        tables.append(alive.append_column("row", pa.array(rows)).cast(LIVE_SCHEMA))
    return pa.concat_tables(tables)


def rows_digest(live: pa.Table) -> str:
    """The digest of the live ids and their versions, whatever parts they lie in."""
    joined = pc.binary_join_element_wise(live["image_id"], live["version"], "\0").cast(pa.large_string())
    ordered = joined.combine_chunks().take(pc.sort_indices(joined))
    state = hashlib.sha256(str(live.num_rows).encode())
    for buffer in ordered.buffers()[1:]:
        state.update(memoryview(buffer) if buffer is not None else b"")
    return state.hexdigest()


def live_vectors(
    store: ObjectStore, live: pa.Table, parts: Sequence[PartRef], dim: int, cache: Path
) -> npt.NDArray[np.float32]:
    """The vectors of ``live`` (rows of ``LIVE_SCHEMA``, counting ``parts``), float32 [N, dim]."""
    gathered_ND = np.empty((live.num_rows, dim), dtype=np.float32)
    for here, x_PD in vectors_by_part(store, live, parts, cache):
        gathered_ND[here] = x_PD
    return gathered_ND


def vectors_by_part(
    store: ObjectStore, live: pa.Table, parts: Sequence[PartRef], cache: Path
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """For each part that has some of ``live``: where they stand there, and their vectors."""
    part_N = live["part"].to_numpy()
    row_N = live["row"].to_numpy()
    for number in np.unique(part_N):
        file = parts[number].embeddings
        if file is not None:  # a part of rejects only has no live rows
            here = np.flatnonzero(part_N == number)
            yield here, read_vectors(fetch(store, file, cache))[row_N[here]]


def norm_error(store: ObjectStore, parts: Sequence[PartRef], dead: Mapping[str, Mask], cache: Path) -> float:
    """The largest |norm - 1| of a live row's vector, 0 without rows; reads the parts one after the other."""
    largest = 0.0
    for part in parts:
        if part.embeddings is not None:
            x_ND = read_vectors(fetch(store, part.embeddings, cache))[~dead[part.key]]
            error_N = np.abs(np.linalg.norm(x_ND.astype(np.float64), axis=1) - 1)
            largest = max(largest, float(error_N.max(initial=0.0)))
    return largest


def refused_rows(store: ObjectStore, parts: Sequence[PartRef], cache: Path) -> pa.Table:
    """All rejects of the snapshot's parts, oldest part first, with ``since`` and ``config`` of their part."""
    schema = REJECTS_SCHEMA.append(pa.field("since", pa.int64())).append(pa.field("config", pa.string()))
    tables = [schema.empty_table()]
    for part in parts:
        if part.rejects is not None:
            table = pq.read_table(fetch(store, part.rejects, cache), schema=REJECTS_SCHEMA)
            table = table.append_column("since", pa.array([part.since] * table.num_rows, type=pa.int64()))
            config = pa.array([part.config] * table.num_rows, type=pa.string())
            tables.append(table.append_column("config", config))
    return pa.concat_tables(tables)


def write_dead_rows(store: ObjectStore, masks: Mapping[str, Mask]) -> list[DeadRowsRef]:
    """Writes the bitmaps of parts that have dead rows; an unchanged bitmap is not written again."""
    refs = []
    for part, mask in masks.items():
        n_dead = int(mask.sum())
        if n_dead == 0:
            continue
        data = np.packbits(mask, bitorder="little").tobytes()
        key = task_key(STAGE, STAGE_VERSION, {}, [part, sha256_hex(data)])
        receipt = read_receipt(store, STAGE, key)
        if receipt is None:
            file = upload(store, "deletes", key, ".bitmap", data)
            receipt = write_receipt(
                store,
                Receipt(stage=STAGE, key=key, files={"bitmap": file}, counts={"dead": n_dead}, facts={}),
            )
        refs.append(DeadRowsRef(part=part, dead=n_dead, file=receipt.files["bitmap"]))
    return refs


def write_listing_rejects(store: ObjectStore, refused: pa.Table) -> DataFile | None:
    """The rows that the listing itself refused, as a table of rejects; None if there are none."""
    if refused.num_rows == 0:
        return None
    data = rejects_bytes([_as_reject(row) for row in refused.to_pylist()])
    key = task_key(LISTING_STAGE, STAGE_VERSION, {}, [sha256_hex(data)])
    receipt = read_receipt(store, LISTING_STAGE, key)
    if receipt is None:
        file = upload(store, "rejects", key, ".parquet", data)
        counts = {"rejected": refused.num_rows}
        receipt = write_receipt(
            store, Receipt(stage=LISTING_STAGE, key=key, files={"rejects": file}, counts=counts, facts={})
        )
    return receipt.files["rejects"]


def _as_reject(row: Mapping[str, Any]) -> Reject:
    return Reject(
        image_id=row["image_id"],
        version=row["version"],
        reason=RejectReason(row["reject"]),
        detail=row["detail"],
        locator=row["locator"],
        size_bytes=row["size_bytes"],
    )


def _read_mask(store: ObjectStore, ref: DeadRowsRef, rows: int, cache: Path) -> Mask:
    data = np.fromfile(fetch(store, ref.file, cache), dtype=np.uint8)
    if len(data) != (rows + 7) // 8:
        raise DataCorrupt(
            f"{ref.file.key} has {len(data)} bytes, a part of {rows} rows needs {(rows + 7) // 8}",
            fix="restore the object from a copy of the store",
        )
    return np.unpackbits(data, count=rows, bitorder="little").astype(bool)
