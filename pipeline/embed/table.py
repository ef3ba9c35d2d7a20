"""The embedding table: one Parquet part per image shard, one row per image, and its rejects beside it.

Parts are plain Parquet (docs/data-formats.md): pandas, Polars, DuckDB and Spark read them without our code.
The bytes of a part depend on its rows only, not on who wrote it or when.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.values import Reject

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


def part_schema(dim: int) -> pa.Schema:
    """The schema of an embedding part with vectors of ``dim`` components."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
            pa.field("content_digest", pa.string(), nullable=False),  # sha256 of the image bytes, hex
            pa.field("locator", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),  # pixels, after EXIF orientation
            pa.field("height", pa.int32(), nullable=False),
            pa.field(
                "embedding", pa.list_(pa.field("item", pa.float32(), nullable=False), dim), nullable=False
            ),
        ]
    )


def part_bytes(
    images: Sequence[EmbeddedImage], vectors_ND: npt.NDArray[np.float32], metadata: dict[str, str]
) -> bytes:
    """A part as Parquet bytes.

    Args:
        images: N rows in plan order.
        vectors_ND: their unit vectors, float32.
        metadata: file metadata, keys ``bitsieve.…``.
    """
    n_rows, dim = vectors_ND.shape
    if n_rows != len(images):
        raise ValueError(f"expected a vector for each of {len(images)} images, got {n_rows}")
    schema = part_schema(dim)
    values = pa.array(np.ascontiguousarray(vectors_ND).reshape(-1), type=pa.float32())
    columns = [
        pa.array([image.image_id for image in images], type=pa.string()),
        pa.array([image.version for image in images], type=pa.string()),
        pa.array([image.content_digest for image in images], type=pa.string()),
        pa.array([image.locator for image in images], type=pa.string()),
        pa.array([image.width_px for image in images], type=pa.int32()),
        pa.array([image.height_px for image in images], type=pa.int32()),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
    ]
    table = pa.table(columns, schema=schema.with_metadata(dict(sorted(metadata.items()))))
    return _parquet(table)


def rejects_bytes(rejects: Sequence[Reject]) -> bytes:
    """The rejects of a task as Parquet bytes, in plan order."""
    rows = [
        {
            "image_id": reject.image_id,
            "version": reject.version,
            "reason": reject.reason.value,
            "detail": reject.detail,
            "locator": reject.locator,
            "content_digest": reject.content_digest,
            "size_bytes": reject.size_bytes,
        }
        for reject in rejects
    ]
    return _parquet(pa.Table.from_pylist(rows, schema=REJECTS_SCHEMA))


def read_vectors(path: Path) -> npt.NDArray[np.float32]:
    """The vectors of a part, float32 [N, D], rows as in the file."""
    column = pq.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    dim = column.type.list_size
    return np.asarray(column.flatten().to_numpy(), dtype=np.float32).reshape(-1, dim)


def read_model_id(path: Path) -> str:
    """The id of the model that a part's file metadata names."""
    metadata = pq.read_schema(path).metadata or {}
    return str(metadata.get(b"bitsieve.model_id", b"").decode())


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, row_group_size=10_000)
    return bytes(sink.getvalue())
