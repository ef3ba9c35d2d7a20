"""The live rows of a snapshot as a stream: part by part, a batch of ids and vectors at a time.

A part of which no row is wanted is not read. Attributes are joined by position: which row of the attributes
table belongs to which live row is worked out once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataCorrupt
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import Mask, dead_masks
from pipeline.storage.receipts import fetch

BATCH_ROWS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveBatch:
    """Some live rows: their ids, and their vectors, float32 [N, D]."""

    ids: pa.Array
    x_ND: npt.NDArray[np.float32]


def alive_masks(snapshot: OpenSnapshot) -> dict[str, Mask]:
    """For each part (by key) the rows that are alive."""
    return {key: ~dead for key, dead in dead_masks(snapshot.store, snapshot.content, snapshot.cache).items()}


def live_ids(snapshot: OpenSnapshot, wanted: Mapping[str, Mask]) -> Iterator[pa.Array]:
    """The ids of the wanted rows, in the order of parts and rows."""
    for batch in _batches(snapshot, wanted, ["image_id"]):
        yield batch.column(0)


def live_batches(snapshot: OpenSnapshot, wanted: Mapping[str, Mask]) -> Iterator[LiveBatch]:
    """The wanted rows, in the order of parts and rows; a batch has 1 to 8,192."""
    dim = snapshot.content.model.dim
    for batch in _batches(snapshot, wanted, ["image_id", "embedding"]):
        flat = batch.column(1).flatten().to_numpy(zero_copy_only=False)
        yield LiveBatch(ids=batch.column(0), x_ND=np.asarray(flat, dtype=np.float32).reshape(-1, dim))


def joined_attributes(
    snapshot: OpenSnapshot, wanted: Mapping[str, Mask]
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The attributes, and for every wanted row in order its row among them, -1 if it has none."""
    table = snapshot.attributes.drop_columns(["locator"])
    known = table["image_id"].combine_chunks()
    ids = pa.chunked_array([pa.array([], type=pa.string()), *live_ids(snapshot, wanted)])
    place_N = pc.fill_null(pc.index_in(ids, value_set=known), -1)
    return table, np.asarray(place_N.to_numpy(), dtype=np.int64)


def _batches(
    snapshot: OpenSnapshot, wanted: Mapping[str, Mask], columns: list[str]
) -> Iterator[pa.RecordBatch]:
    for part in snapshot.content.parts:
        if part.embeddings is None or not wanted[part.key].any():
            continue
        mask_N, first = wanted[part.key], 0
        try:
            with pq.ParquetFile(fetch(snapshot.store, part.embeddings, snapshot.cache)) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    here_N = mask_N[first : first + batch.num_rows]
                    first += batch.num_rows
                    if here_N.any():
                        yield batch.filter(pa.array(here_N))
        except (pa.ArrowException, OSError) as exc:
            raise DataCorrupt(
                f"{part.embeddings.key} in {snapshot.store.uri} cannot be read: {exc}",
                fix="restore the object from a copy of the store",
            ) from exc
