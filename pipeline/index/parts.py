"""Embedding parts as the build reads them: ids, and vectors by bounded batches, each of them checked."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataCorrupt
from pipeline.index.arrays import Float32Array, VectorArray

NORM_TOLERANCE = 1e-3
_BATCH_ROWS = 16_384
_KEPT_BYTES = 1 << 28

Batch: TypeAlias = tuple[int, int, VectorArray]
"""The number of a part, of its row, and vectors from there on."""


def ids_of(part: Path) -> "pa.ChunkedArray":
    """The image ids of a part.

    Raises:
        DataCorrupt: it has none, or one is missing.
    """
    with _open(part) as file:
        if "image_id" not in file.schema_arrow.names:
            raise DataCorrupt(f"{part} has no column image_id, only {file.schema_arrow.names}")
        try:
            ids = file.read(["image_id"])["image_id"].cast(pa.large_string())
        except (pa.ArrowException, OSError) as exc:
            raise DataCorrupt(f"{part}: column image_id cannot be read as strings: {exc}") from exc
    if ids.null_count:
        raise DataCorrupt(f"{part}: {ids.null_count} rows have no image_id")
    return ids


def batches_twice(
    parts: Sequence[Path], d: int, dtype: npt.DTypeLike, n_rows: int
) -> Callable[[], Iterator[Batch]]:
    """The vectors of ``n_rows`` rows whenever it is called, the second time from memory if they are few."""
    read = partial(batches, parts, d, dtype)
    if 4 * n_rows * d > _KEPT_BYTES:
        return read
    kept = list(read())
    return lambda: iter(kept)


def batches(parts: Sequence[Path], d: int, dtype: npt.DTypeLike) -> Iterator[Batch]:
    """The vectors of all parts, of type ``dtype``; a thread reads one batch ahead.

    Raises:
        DataCorrupt: a part is not a file of unit vectors of ``d`` dimensions.
    """
    found = (
        (number, first_row, x_ND.astype(dtype, copy=False))
        for number, part in enumerate(parts)
        for first_row, x_ND in _embeddings(part, d)
    )
    with ThreadPoolExecutor(1, thread_name_prefix="parts") as pool:
        coming = pool.submit(next, found, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, found, None)
            yield batch


def _open(part: Path) -> "pq.ParquetFile":
    try:
        return pq.ParquetFile(part)
    except (pa.ArrowInvalid, OSError) as exc:
        raise DataCorrupt(f"{part} is not a Parquet file: {exc}") from exc


def _embeddings(part: Path, d: int) -> Iterator[tuple[int, Float32Array]]:
    """Batches of checked vectors of a part with the number of their first row."""
    first_row = 0
    with _open(part) as file:
        _check_type(part, file.schema_arrow, d)
        try:
            for batch in file.iter_batches(_BATCH_ROWS, columns=["embedding"]):
                x_ND = _checked(part, first_row, batch.column(0), d)
                yield first_row, x_ND
                first_row += len(x_ND)
        except (pa.ArrowException, OSError) as exc:
            raise DataCorrupt(f"{part}: embeddings after row {first_row} cannot be read: {exc}") from exc


def _check_type(part: Path, schema: "pa.Schema", d: int) -> None:
    if "embedding" not in schema.names:
        raise DataCorrupt(f"{part} has no column embedding, only {schema.names}")
    found = schema.field("embedding").type
    ours = pa.types.is_fixed_size_list(found) and found.value_type in (pa.float32(), pa.float16())
    if not ours or found.list_size != d:
        raise DataCorrupt(f"{part}: expected embeddings of type fixed_size_list<float>[{d}], got {found}")


def _checked(part: Path, first_row: int, column: "pa.FixedSizeListArray", d: int) -> Float32Array:
    values = column.flatten()
    if column.null_count or values.null_count:
        raise DataCorrupt(
            f"{part}: an embedding between rows {first_row} and {first_row + len(column)} is null"
        )
    x_ND: Float32Array = np.asarray(values.to_numpy(zero_copy_only=True), np.float32).reshape(-1, d)
    norm_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND, dtype=np.float64))
    bad = np.flatnonzero(
        ~(np.abs(norm_N - 1.0) <= NORM_TOLERANCE)
    )  # NaN and infinity fail the comparison too
    if len(bad):
        raise DataCorrupt(
            f"{part}, row {first_row + int(bad[0])}: expected a finite vector of length 1 "
            f"within {NORM_TOLERANCE}, got length {norm_N[bad[0]]:.6g} ({len(bad)} such rows in this batch)",
            "embed this part again",
        )
    return x_ND
