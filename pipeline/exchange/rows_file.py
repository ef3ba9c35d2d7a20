"""Writes live rows, or changes, as one Parquet file that any engine reads.

Columns: ``image_id``, ``embedding`` (float32, unit length) and, if wanted, the attributes. A file of changes
begins with ``change``, which is ``upsert`` or ``delete``; a deleted row has an id only. Rows come in the
order of the snapshot's parts, deletes last. Memory holds a batch of vectors, and the attributes if wanted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exchange.aside import written_aside
from pipeline.exchange.changes import Changes
from pipeline.exchange.live import BATCH_ROWS, LiveBatch, alive_masks, joined_attributes, live_batches
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import Mask

_CHANGE, _ID, _VECTOR = "change", "image_id", "embedding"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attributes:
    """The attributes that go along: a table, and for every wanted row its row there, -1 for none."""

    table: pa.Table
    place_N: npt.NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: OpenSnapshot, wanted: Mapping[str, Mask]) -> "Attributes":
        """Those of the wanted rows."""
        table, place_N = joined_attributes(snapshot, wanted)
        return cls(table=table.drop_columns([_ID]), place_N=place_N)

    @property
    def fields(self) -> list[pa.Field]:
        """Their columns; one that has the name of a column every file has is ``attribute.<name>``."""
        taken = {_CHANGE, _ID, _VECTOR}
        return [
            pa.field(f"attribute.{field.name}" if field.name in taken else field.name, field.type)
            for field in self.table.schema
        ]

    def rows(self, start: int, end: int) -> list[pa.Array]:
        """The columns of the wanted rows [start, end)."""
        place_N = self.place_N[start:end]
        at = pa.array(place_N, mask=place_N < 0)
        return [column.take(at).combine_chunks() for column in self.table.columns]


def write_rows(snapshot: OpenSnapshot, path: Path, *, with_attributes: bool) -> int:
    """Writes all live rows; how many there are."""
    wanted = alive_masks(snapshot)
    attributes = Attributes.of(snapshot, wanted) if with_attributes else None
    schema = _schema(snapshot, attributes, [], {})
    with written_aside(path) as aside, _writer(aside, schema) as writer:
        return _write(writer, schema, live_batches(snapshot, wanted), attributes)


def write_changes(
    snapshot: OpenSnapshot, changes: Changes, since: int, path: Path, *, with_attributes: bool
) -> None:
    """Writes what has changed from snapshot ``since`` to this one."""
    attributes = Attributes.of(snapshot, changes.upserts) if with_attributes else None
    schema = _schema(snapshot, attributes, [pa.field(_CHANGE, pa.string())], {"bitsieve.since": str(since)})
    with written_aside(path) as aside, _writer(aside, schema) as writer:
        _write(writer, schema, live_batches(snapshot, changes.upserts), attributes)
        for start in range(0, len(changes.deletes), BATCH_ROWS):
            ids = changes.deletes.slice(start, BATCH_ROWS).combine_chunks()
            known = {_CHANGE: pa.array(["delete"] * len(ids)), _ID: ids}
            columns = [known.get(field.name, pa.nulls(len(ids), field.type)) for field in schema]
            writer.write_table(pa.table(columns, schema=schema))


def vectors_array(x_ND: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Vectors as an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(x_ND).reshape(-1)), type=_vector_type(x_ND.shape[1])
    )


def snapshot_metadata(snapshot: OpenSnapshot) -> dict[str, str]:
    """What a file says of where it comes from."""
    manifest = snapshot.manifest
    return {
        "bitsieve.collection": manifest.collection,
        "bitsieve.digest": manifest.digest,
        "bitsieve.model_id": manifest.content.model.id,
        "bitsieve.snapshot": str(manifest.sequence),
    }


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Dictionaries for attributes only: ids and components of vectors hardly repeat."""
    attributes = [name for name in schema.names if name not in (_ID, _VECTOR)]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=attributes or False)


def _write(
    writer: pq.ParquetWriter, schema: pa.Schema, batches: Iterator[LiveBatch], attributes: Attributes | None
) -> int:
    done = 0
    for batch in batches:
        n_rows = len(batch.ids)
        columns = [batch.ids, vectors_array(batch.x_ND)]
        if schema.names[0] == _CHANGE:
            columns = [pa.array(["upsert"] * n_rows), *columns]
        if attributes is not None:
            columns += attributes.rows(done, done + n_rows)
        writer.write_table(pa.table(columns, schema=schema))
        done += n_rows
    return done


def _schema(
    snapshot: OpenSnapshot, attributes: Attributes | None, first: list[pa.Field], more: dict[str, str]
) -> pa.Schema:
    vector = pa.field(_VECTOR, _vector_type(snapshot.content.model.dim))
    fields = [*first, pa.field(_ID, pa.string()), vector, *(attributes.fields if attributes else [])]
    return pa.schema(fields).with_metadata({**snapshot_metadata(snapshot), **more})


def _vector_type(dim: int) -> pa.FixedSizeListType:
    return pa.list_(pa.field("item", pa.float32()), dim)
