"""The embedding table: one Parquet part per image shard, one row per image, and its rejects beside it.

Parts are plain Parquet (docs/data-formats.md): pandas, Polars, DuckDB and Spark read them without our code.
The bytes of a part depend on its rows only, not on who wrote it, when, or with how much memory: rows are
written in row groups whose length follows from the vectors' dimension.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.values import Reject

VectorDtype = Literal["float32", "float16"]

_GROUP_BYTES = 4 << 20
_GROUP_ROWS = 10_000
_READ_ROWS = 16_384
_WRITTEN: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field("content_digest", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedImage:
    """Everything a row of the embedding table says of an image, but its vector."""

    image_id: str
    version: str
    content_digest: str
    locator: str
    width_px: int
    height_px: int


def part_schema(dim: int, dtype: VectorDtype = "float32") -> pa.Schema:
    """The schema of an embedding part with vectors of ``dim`` components."""
    component = pa.field("item", pa.float32() if dtype == "float32" else pa.float16(), nullable=False)
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
            pa.field("content_digest", pa.string(), nullable=False),  # sha256 of the image bytes, hex
            pa.field("locator", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),  # pixels, after EXIF orientation
            pa.field("height", pa.int32(), nullable=False),
            pa.field("embedding", pa.list_(component, dim), nullable=False),
        ]
    )


class PartWriter:
    """Writes a part row by row to ``sink``; holds one row group at most."""

    def __init__(
        self, sink: IO[bytes], dim: int, metadata: dict[str, str], dtype: VectorDtype = "float32"
    ) -> None:
        schema = part_schema(dim, dtype).with_metadata(dict(sorted(metadata.items())))
        self._groups = _RowGroups(sink, schema, _group_rows(schema))

    def add(self, image: EmbeddedImage, vector_D: npt.NDArray[np.floating[Any]]) -> None:
        """Appends one image and its unit vector."""
        self._groups.add(
            (
                image.image_id,
                image.version,
                image.content_digest,
                image.locator,
                image.width_px,
                image.height_px,
                vector_D,
            )
        )

    def close(self) -> None:
        """Writes what is held, and the end of the file."""
        self._groups.close()


class RejectsWriter:
    """Writes rejects one by one to ``sink``; holds one row group at most."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._groups = _RowGroups(sink, REJECTS_SCHEMA, _GROUP_ROWS)

    def add(self, reject: Reject) -> None:
        """Appends one reject."""
        self._groups.add(
            (
                reject.image_id,
                reject.version,
                reject.reason.value,
                reject.detail,
                reject.locator,
                reject.content_digest,
                reject.size_bytes,
            )
        )

    def close(self) -> None:
        """Writes what is held, and the end of the file."""
        self._groups.close()


def rejects_bytes(rejects: Sequence[Reject]) -> bytes:
    """The rejects of a task as Parquet bytes, in plan order."""
    buffer = io.BytesIO()
    writer = RejectsWriter(buffer)
    for reject in rejects:
        writer.add(reject)
    writer.close()
    return buffer.getvalue()


def write_rows(sink: IO[bytes], table: pa.Table) -> None:
    """Writes whole rows of a part, with the file metadata of their schema; the bytes are ``PartWriter``'s."""
    with pq.ParquetWriter(sink, table.schema, **_WRITTEN) as writer:
        writer.write_table(table, _group_rows(table.schema))


def read_vectors(path: Path) -> npt.NDArray[np.float32]:
    """The vectors of a part, float32 [N, D], in file order; a whole column at once takes twice the time."""
    with pq.ParquetFile(path) as file:
        dim = file.schema_arrow.field("embedding").type.list_size
        x_ND = np.empty((file.metadata.num_rows, dim), dtype=np.float32)
        first = 0
        for batch in file.iter_batches(_READ_ROWS, columns=["embedding"]):
            x_ND[first : first + len(batch)] = batch.column(0).flatten().to_numpy().reshape(-1, dim)
            first += len(batch)
    return x_ND


def read_model_id(path: Path) -> str:
    """The id of the model that a part's file metadata names."""
    metadata = pq.read_schema(path).metadata or {}
    return str(metadata.get(b"bitsieve.model_id", b"").decode())


class _RowGroups:
    """A Parquet file written in row groups of equal length; byte-stream split is not used: Spark cannot."""

    def __init__(self, sink: IO[bytes], schema: pa.Schema, group_rows: int) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._rows: list[tuple[Any, ...]] = []
        self._writer = pq.ParquetWriter(sink, schema, **_WRITTEN)

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == self._group_rows:
            self._write()

    def close(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        columns = [
            _column(values, field)
            for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        self._rows.clear()
        self._writer.write_table(pa.table(columns, schema=self._schema), self._group_rows)


def _group_rows(schema: pa.Schema) -> int:
    """How many rows of a part are one row group: it follows from the vectors alone."""
    vector = schema.field("embedding").type
    row_bytes: int = vector.list_size * vector.value_type.bit_width // 8
    return max(1, min(_GROUP_ROWS, _GROUP_BYTES // row_bytes))


def _column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if not pa.types.is_fixed_size_list(field.type):
        return pa.array(values, type=field.type)
    dtype = field.type.value_type.to_pandas_dtype()
    flat = np.concatenate(values, dtype=dtype, casting="same_kind")
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, type=field.type.value_type), type=field.type)
