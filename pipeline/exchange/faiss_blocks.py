"""Embeddings in a Faiss index file: its own whole-number ids, or those that a file beside it translates.

The file of ids is Parquet: either one id for every row of the index, in its order, or a column ``faiss_id``
with the ids in the index and one with the catalog's, as ``export --format faiss`` writes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.exchange.blocks import ID_COLUMNS, Block, as_text, pick, wrong_dimension
from pipeline.exchange.parquet_blocks import ParquetFileRef
from pipeline.index.arrays import Float32Array, IntArray
from pipeline.index.foreign import ForeignRows, read_foreign

_NUMBER = "faiss_id"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaissBlock:
    """Some rows of an index."""

    rows: ForeignRows
    dim: int
    names: pa.Array

    @property
    def name(self) -> str:
        """The index."""
        return str(self.rows.path)

    @property
    def n_rows(self) -> int:
        """As in ``Block``."""
        return len(self.rows.ids_N)

    def ids(self) -> pa.Array:
        """As in ``Block``."""
        return self.names

    def vectors(self, dim: int) -> Iterator[Float32Array]:
        """As in ``Block``."""
        if dim != self.dim:
            raise wrong_dimension(self.name, self.dim, dim)
        yield from self.rows.vectors()


def faiss_blocks(path: Path, ids: ParquetFileRef | None, id_column: str | None) -> list[Block]:
    """The index at ``path``, list by list.

    Raises:
        SourceError: it or the file of ids cannot be read, or they do not belong together.
    """
    dim, found = read_foreign(path)
    numbers_N = np.concatenate([np.empty(0, dtype=np.int64), *(rows.ids_N for rows in found)])
    names = pa.array(numbers_N).cast(pa.string()) if ids is None else _translated(numbers_N, ids, id_column)
    blocks: list[Block] = []
    start = 0
    for rows in found:
        blocks.append(FaissBlock(rows=rows, dim=dim, names=names.slice(start, len(rows.ids_N))))
        start += len(rows.ids_N)
    return blocks


def _translated(numbers_N: IntArray, ids: ParquetFileRef, id_column: str | None) -> pa.Array:
    """The catalog's id of every row of the index; null where the file has none."""
    with ids.open() as file:
        columns = file.schema_arrow.names
    names = as_text(ids.column(pick(columns, id_column, ID_COLUMNS, "id", ids.name)), ids.name)
    if _NUMBER in columns:
        known = ids.column(_NUMBER).cast(pa.int64())
        return names.take(pc.index_in(pa.array(numbers_N), value_set=known))
    if len(names) != len(numbers_N) or not np.array_equal(np.sort(numbers_N), np.arange(len(names))):
        raise SourceError(
            f"{ids.name} has {len(names)} ids and no column {_NUMBER!r}, "
            f"but the index has {len(numbers_N)} rows with ids of its own",
            fix=f"give one id for each row in the order of the index, or add a column {_NUMBER!r}",
        )
    return names.take(pa.array(numbers_N))
