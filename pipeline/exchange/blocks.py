"""What existing embeddings are to the import: blocks of rows, each with ids and vectors, in a fixed order.

A block is a row group, a pair of .npy and metadata, or a list of an index. Its ids are read at once, its
vectors a batch at a time, so that memory does not grow with the block. Ids are text as the catalog has them;
what has none is null. Vectors are float32 [N, D]; a row that has no vector is NaN.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.index.arrays import Float32Array

BATCH_ROWS = 8_192
ID_COLUMNS = ("image_id", "id", "image_path", "key", "__key__", "name", "path")
VECTOR_COLUMNS = ("embedding", "vector", "image_embedding", "img_emb", "emb")


class Block(Protocol):
    """Rows of existing embeddings."""

    @property
    def name(self) -> str:
        """Where they are, for messages."""
        ...

    @property
    def n_rows(self) -> int:
        """How many there are."""
        ...

    def ids(self) -> pa.Array:
        """Their ids, strings, with null where there is none."""
        ...

    def vectors(self, dim: int) -> Iterator[Float32Array]:
        """Their vectors in the order of ids, float32 [N, dim], not looked at any further.

        Raises:
            SourceError: they have another dimension, or cannot be read.
        """
        ...


def as_text(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """Ids as strings: text as it is, whole numbers in decimal.

    Raises:
        SourceError: they are something else.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise SourceError(f"{name} has ids of type {kind}", fix="ids are text or whole numbers")
    return column.cast(pa.string())


def as_vectors(column: pa.Array, dim: int, name: str) -> Float32Array:
    """A column of lists of numbers as float32 [N, dim]; null becomes NaN.

    Raises:
        SourceError: it is no such column, or a row has another length.
    """
    lengths = pc.unique(pc.drop_null(pc.list_value_length(column))).to_pylist()
    other = [length for length in lengths if length != dim]
    if other:
        raise wrong_dimension(name, other[0], dim)
    x_ND = np.full((len(column), dim), np.nan, dtype=np.float32)
    valid = column.is_valid()
    flat = column.filter(valid).flatten()
    x_ND[valid.to_numpy(zero_copy_only=False)] = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return x_ND


def wrong_dimension(name: str, found: int, dim: int) -> SourceError:
    """The refusal of vectors that the model cannot have made."""
    return SourceError(
        f"{name} has vectors of {found} dimensions, the model gives {dim}",
        fix="give the model that made them",
    )


def pick(names: list[str], asked: str | None, usual: tuple[str, ...], what: str, where: str) -> str:
    """The column that was asked for, or the first usual one.

    Raises:
        SourceError: there is none.
    """
    found = [name for name in ((asked,) if asked else usual) if name in names]
    if not found:
        raise SourceError(
            f"{where} has no {what} column {' or '.join(map(repr, (asked,) if asked else usual))}; "
            f"its columns are {', '.join(names)}",
            fix=f"name it with --{what}-column",
        )
    return found[0]
