"""Embeddings as clip-retrieval's ``clip_inference`` writes them: pairs of .npy and Parquet files.

Row i of ``img_emb/img_emb_<n>.npy`` belongs to row i of ``metadata/metadata_<n>.parquet``.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.exchange.blocks import BATCH_ROWS, ID_COLUMNS, Block, as_text, pick, wrong_dimension
from pipeline.exchange.parquet_blocks import ParquetFileRef
from pipeline.index.arrays import Float32Array
from pipeline.storage.ranged import open_ranged
from pipeline.storage.store import ObjectStore

_VECTORS = re.compile(r"^img_emb/img_emb_(\d+)\.npy$")
_METADATA = re.compile(r"^metadata/metadata_(\d+)\.parquet$")
_BUDGET_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NumpyBlock:
    """One .npy file and its metadata."""

    store: ObjectStore
    key: str
    metadata: ParquetFileRef
    id_column: str
    n_rows: int

    @property
    def name(self) -> str:
        """The .npy file."""
        return f"{self.store.uri}/{self.key}"

    def ids(self) -> pa.Array:
        """As in ``Block``."""
        return as_text(self.metadata.column(self.id_column), self.metadata.name)

    def vectors(self, dim: int) -> Iterator[Float32Array]:
        """As in ``Block``."""
        with _opened(self.store, self.key) as (file, (n_rows, found), dtype):
            if found != dim:
                raise wrong_dimension(self.name, found, dim)
            for start in range(0, n_rows, BATCH_ROWS):
                n_bytes = min(BATCH_ROWS, n_rows - start) * dim * dtype.itemsize
                data = file.read(n_bytes)
                if len(data) != n_bytes:
                    raise SourceError(f"{self.name} ends before row {n_rows}", fix="write the file again")
                yield np.frombuffer(data, dtype=dtype).reshape(-1, dim).astype(np.float32)


def numpy_blocks(store: ObjectStore, keys: Sequence[str], id_column: str | None) -> list[Block]:
    """The pairs of files among ``keys``, by their numbers.

    Raises:
        SourceError: a file has no partner, they differ in length, or one cannot be read.
    """
    vectors, metadata = _numbered(keys, _VECTORS), _numbered(keys, _METADATA)
    lonely = sorted([*vectors.values()] if not metadata else [])
    lonely += [vectors.get(n, metadata.get(n, "")) for n in sorted(vectors.keys() ^ metadata.keys())]
    if lonely or not vectors:
        raise SourceError(
            f"{store.uri}: {lonely[0] if lonely else 'img_emb/img_emb_0.npy'} is there without its partner, "
            "or not there",
            fix="img_emb/img_emb_<n>.npy and metadata/metadata_<n>.parquet belong together",
        )
    return [_pair(store, vectors[number], metadata[number], id_column) for number in sorted(vectors)]


def _pair(store: ObjectStore, key: str, metadata_key: str, id_column: str | None) -> NumpyBlock:
    metadata = ParquetFileRef(store=store, key=metadata_key)
    with metadata.open() as file:
        column = pick(file.schema_arrow.names, id_column, ID_COLUMNS, "id", metadata.name)
        n_metadata = file.metadata.num_rows
    with _opened(store, key) as (_, (n_rows, _), _):
        pass
    if n_rows != n_metadata:
        raise SourceError(
            f"{store.uri}/{key} has {n_rows} rows, {metadata_key} has {n_metadata}",
            fix="take both from one run of clip_inference",
        )
    return NumpyBlock(store=store, key=key, metadata=metadata, id_column=column, n_rows=n_rows)


def _numbered(keys: Sequence[str], pattern: re.Pattern[str]) -> dict[int, str]:
    return {int(match[1]): key for key in keys if (match := pattern.match(key))}


@contextmanager
def _opened(
    store: ObjectStore, key: str
) -> Iterator[tuple[IO[bytes], tuple[int, int], "np.dtype[np.floating[Any]]"]]:
    """The file at its first row, its shape and its type."""
    local = store.local_path(key)
    with local.open("rb") if local else open_ranged(store, key, _BUDGET_BYTES) as opened:
        file = cast(IO[bytes], opened)
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
            shape, fortran, dtype = (read or np.lib.format.read_array_header_2_0)(file)
        except (ValueError, OSError) as exc:
            raise SourceError(f"{store.uri}/{key} is no .npy file: {exc}", fix="write it again") from exc
        if fortran or len(shape) != 2 or dtype.kind != "f":
            raise SourceError(
                f"{store.uri}/{key} has type {dtype} and shape {shape}{' in columns' if fortran else ''}, "
                "expected rows of floating-point numbers",
                fix="write it as float16 or float32 [N, D]",
            )
        yield file, (shape[0], shape[1]), dtype
