"""Embeddings in Parquet: a file or all files of a folder, with a column of ids and one of vectors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.catalog.parquet import open_parquet
from pipeline.errors import SourceError
from pipeline.exchange.blocks import (
    BATCH_ROWS,
    ID_COLUMNS,
    VECTOR_COLUMNS,
    Block,
    as_text,
    as_vectors,
    pick,
)
from pipeline.index.arrays import Float32Array
from pipeline.storage.ranged import open_ranged
from pipeline.storage.store import ObjectStore

_BUDGET_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetFileRef:
    """A Parquet file in a store."""

    store: ObjectStore
    key: str

    @property
    def name(self) -> str:
        """Its URI."""
        return f"{self.store.uri}/{self.key}"

    @contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        """Opened for reading, by ranges where it is remote.

        Raises:
            SourceError: it is no Parquet file.
        """
        local = self.store.local_path(self.key)
        if local is not None:
            with open_parquet(local, self.name) as file:
                yield file
        else:
            with open_ranged(self.store, self.key, _BUDGET_BYTES) as ranged:
                yield open_parquet(ranged, self.name)

    def column(self, column: str, groups: Sequence[int] | None = None) -> pa.Array:
        """One column of some row groups, or of all."""
        with self.open() as file:
            try:
                numbers = list(range(file.num_row_groups)) if groups is None else list(groups)
                return file.read_row_groups(numbers, columns=[column])[column].combine_chunks()
            except (pa.ArrowException, OSError) as exc:
                raise _unreadable(self.name, exc) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetBlock:
    """One row group."""

    file: ParquetFileRef
    group: int
    n_rows: int
    id_column: str
    vector_column: str

    @property
    def name(self) -> str:
        """The file and the row group."""
        return f"{self.file.name}, row group {self.group}"

    def ids(self) -> pa.Array:
        """As in ``Block``."""
        return as_text(self.file.column(self.id_column, [self.group]), self.name)

    def vectors(self, dim: int) -> Iterator[Float32Array]:
        """As in ``Block``."""
        with self.file.open() as file:
            try:
                for batch in file.iter_batches(
                    BATCH_ROWS, row_groups=[self.group], columns=[self.vector_column], use_threads=False
                ):
                    yield as_vectors(batch.column(0), dim, self.name)
            except (pa.ArrowException, OSError) as exc:
                raise _unreadable(self.name, exc) from exc


def parquet_blocks(
    store: ObjectStore, keys: Sequence[str], id_column: str | None, vector_column: str | None
) -> list[Block]:
    """The row groups of the files, in order.

    Raises:
        SourceError: a file cannot be read, or has no such columns.
    """
    blocks: list[Block] = []
    for key in keys:
        ref = ParquetFileRef(store=store, key=key)
        with ref.open() as file:
            schema = file.schema_arrow
            id_name = pick(schema.names, id_column, ID_COLUMNS, "id", ref.name)
            vector_name = pick(schema.names, vector_column, VECTOR_COLUMNS, "vector", ref.name)
            _check_lists(schema.field(vector_name), ref.name)
            blocks += [
                ParquetBlock(
                    file=ref,
                    group=group,
                    n_rows=file.metadata.row_group(group).num_rows,
                    id_column=id_name,
                    vector_column=vector_name,
                )
                for group in range(file.num_row_groups)
            ]
    return blocks


def _check_lists(field: pa.Field, name: str) -> None:
    kind = field.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise SourceError(
            f"{name}: column {field.name!r} is {kind}, not lists of floating-point numbers",
            fix="name the right one with --vector-column",
        )


def _unreadable(name: str, exc: Exception) -> SourceError:
    return SourceError(f"{name} cannot be read: {exc}", fix="write the file again")
