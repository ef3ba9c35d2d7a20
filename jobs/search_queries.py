"""The queries of a search, in batches: image files, folders, and Parquet files of images or vectors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.embed.query import EmbeddedQueries, QueryImage, embed_queries
from pipeline.errors import StoreMismatch, UsageError
from pipeline.model.session import EmbeddingSession

IMAGES_AT_ONCE = 256
VECTORS_AT_ONCE = 8_192
NORM_TOLERANCE = 1e-3
_VECTOR_COLUMNS = ("embedding", "vector")
_IMAGE_COLUMNS = ("image", "jpg", "bytes")
_TARS = (".tar", ".tar.gz", ".tgz")
_ID_COLUMNS = ("image_id", "query", "id")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryBatch:
    """Q queries: their names, unit vectors, and for those that cannot be searched a reason."""

    names: tuple[str, ...]
    xq_QD: npt.NDArray[np.float32]
    reasons: tuple[str | None, ...]

    @property
    def searchable_Q(self) -> npt.NDArray[np.bool_]:  # noqa: N802 - Q is the shape
        """Which queries have a vector."""
        return np.array([reason is None for reason in self.reasons], dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetColumns:
    """Which columns of a Parquet file of queries to read; None is found by name and type."""

    query: str | None = None
    """Image bytes or vectors."""
    name: str | None = None
    """What to call each query in the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryModel:
    """What queries have to fit: the model's id and dimensions, and how to open it if there are images.

    ``adapt`` takes its vectors into the space of the snapshot, None where they are of it; ``advice`` says
    what to do with vectors of the model with this id.
    """

    model_id: str
    dim: int
    open_session: Callable[[], EmbeddingSession]
    adapt: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] | None
    advice: Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParquetQueries:
    file: Path
    query: str
    name: str | None
    is_image: bool


Source = tuple[Path, ...] | _ParquetQueries


def query_sources(paths: Sequence[Path], columns: ParquetColumns) -> list[Source]:
    """What is given, in order: runs of image files (folders as the files in them), and Parquet files.

    Raises:
        UsageError: an empty folder, or a Parquet file without a column that can be queries.
    """
    sources: list[Source] = []
    for path in paths:
        if path.suffix.lower() == ".parquet":
            sources.append(_parquet_queries(path, columns))
        elif sources and isinstance(sources[-1], tuple):
            sources[-1] = (*sources[-1], *_files(path))
        else:
            sources.append(_files(path))
    if columns != ParquetColumns() and not any(isinstance(s, _ParquetQueries) for s in sources):
        raise UsageError("columns are named, but there is no Parquet file of queries", fix="name one")
    return sources


def count_queries(sources: Sequence[Source]) -> int:
    """How many queries there are in all; reads footers only."""
    return sum(
        len(source) if isinstance(source, tuple) else pq.read_metadata(source.file).num_rows
        for source in sources
    )


def read_queries(sources: Sequence[Source], model: QueryModel) -> Iterator[QueryBatch]:
    """All queries in order, in batches of bounded memory. The model is opened if there are images.

    Raises:
        UsageError: vectors of other dimensions than the model's.
        StoreMismatch: vectors of another model, where the file says which.
    """
    for batch in _read(sources, model):
        yield batch if model.adapt is None else replace(batch, xq_QD=model.adapt(batch.xq_QD))


def _read(sources: Sequence[Source], model: QueryModel) -> Iterator[QueryBatch]:
    session: EmbeddingSession | None = None
    try:
        for source in sources:
            if isinstance(source, _ParquetQueries) and not source.is_image:
                yield from _vectors(source, model)
                continue
            session = session or model.open_session()
            for names, images in _images(source):
                yield _batch(names, embed_queries(session, images))
    finally:
        if session is not None:
            session.close()


def _batch(names: Sequence[str], embedded: EmbeddedQueries) -> QueryBatch:
    return QueryBatch(names=tuple(names), xq_QD=embedded.xq_QD, reasons=embedded.reasons)


def _files(path: Path) -> tuple[Path, ...]:
    """A file as it is, a folder as the files in it, sorted by name."""
    inside = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not inside:
        raise UsageError(f"the folder {path} holds no query images", fix="name files, or another folder")
    if all(file.name.endswith(_TARS) for file in inside):
        raise UsageError(
            f"{path} {'holds tars' if path.is_dir() else 'is a tar'}; a query is an image file",
            fix=f"unpack some images first, as in `tar -xf {inside[0]} -C queries`, and name their folder",
        )
    return tuple(inside)


def _images(source: Source) -> Iterator[tuple[list[str], list[QueryImage]]]:
    if isinstance(source, tuple):
        for start in range(0, len(source), IMAGES_AT_ONCE):
            files = source[start : start + IMAGES_AT_ONCE]
            yield [str(file) for file in files], list(files)
        return
    for names, column in _column_batches(source, IMAGES_AT_ONCE):
        is_struct = pa.types.is_struct(column.type)  # as Hugging Face writes images
        yield names, (pc.struct_field(column, "bytes") if is_struct else column).to_pylist()


def _vectors(source: _ParquetQueries, model: QueryModel) -> Iterator[QueryBatch]:
    metadata = pq.read_schema(source.file).metadata or {}
    made_by = metadata.get(b"bitsieve.model_id", model.model_id.encode()).decode()
    if made_by != model.model_id:
        raise StoreMismatch(
            f"{source.file} holds vectors of model {made_by[:12]}, expected those of {model.model_id[:12]}",
            fix=model.advice(made_by),
        )
    for names, column in _column_batches(source, VECTORS_AT_ONCE):
        yield _checked(source, names, column, model.dim)


def _checked(source: _ParquetQueries, names: list[str], column: Any, dim: int) -> QueryBatch:
    length_N = np.asarray(pc.fill_null(pc.list_value_length(column), dim).to_numpy(zero_copy_only=False))
    if (length_N != dim).any():
        other = int(length_N[length_N != dim][0])
        raise UsageError(
            f"{source.file}: vectors in {source.query} have {other} dimensions, the snapshot's have {dim}",
            fix="embed the queries with the model of this snapshot",
        )
    xq_QD = np.zeros((len(column), dim), dtype=np.float32)
    present = np.flatnonzero(np.asarray(column.is_valid()))
    values = column.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    xq_QD[present] = values.reshape(-1, dim)
    norm_Q = np.sqrt(np.einsum("qd,qd->q", xq_QD, xq_QD, dtype=np.float64))
    bad_Q = ~(np.abs(norm_Q - 1) <= NORM_TOLERANCE)  # NaN and infinity fail the comparison too
    reasons: list[str | None] = [None] * len(xq_QD)
    for row in np.flatnonzero(bad_Q).tolist():
        reasons[row] = (
            f"nonfinite_embedding: expected a finite vector of length 1, got length {norm_Q[row]:.6g}"
        )
    xq_QD[bad_Q] = 0
    return QueryBatch(names=tuple(names), xq_QD=xq_QD, reasons=tuple(reasons))


def _column_batches(source: _ParquetQueries, rows: int) -> Iterator[tuple[list[str], Any]]:
    """Names and the query column, by batches; a file without names has row numbers."""
    wanted = [source.query] if source.name is None else [source.query, source.name]
    first = 0
    with _opened(source.file) as file:
        try:
            for batch in file.iter_batches(rows, columns=wanted):
                if source.name is None:
                    names = [str(first + row) for row in range(len(batch))]
                else:
                    names = [str(name) for name in batch.column(source.name).to_pylist()]
                yield names, batch.column(source.query)
                first += len(batch)
        except (pa.ArrowException, OSError) as exc:
            raise UsageError(
                f"{source.file} cannot be read after row {first}: {exc}", fix="write it again"
            ) from exc


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as exc:
        raise UsageError(
            f"{path} is not a Parquet file that can be read: {exc}", fix="check the path"
        ) from exc


def _parquet_queries(path: Path, columns: ParquetColumns) -> _ParquetQueries:
    with _opened(path) as file:
        schema = file.schema_arrow
    for asked in (columns.query, columns.name):
        if asked is not None and asked not in schema.names:
            raise UsageError(
                f"{path} has no column {asked!r}", fix=f"its columns are: {', '.join(schema.names)}"
            )
    usable = [name for name in schema.names if _is_vector(schema, name) or _is_image(schema, name)]
    query = columns.query or _first(usable, (*_VECTOR_COLUMNS, *_IMAGE_COLUMNS))
    if query is None or query not in usable:
        raise UsageError(
            f"{path}: {query or 'no column'} holds vectors (lists of floats) or images (bytes)",
            fix=f"name the column with --query-column; its columns are: {', '.join(schema.names)}",
        )
    name = columns.name or next((name for name in _ID_COLUMNS if name in schema.names), None)
    return _ParquetQueries(file=path, query=query, name=name, is_image=_is_image(schema, query))


def _first(usable: Sequence[str], known: Sequence[str]) -> str | None:
    """The first known name, else the only column that can be queries."""
    for name in known:
        if name in usable:
            return name
    return usable[0] if len(usable) == 1 else None


def _is_vector(schema: pa.Schema, name: str) -> bool:
    of = schema.field(name).type
    is_list = pa.types.is_fixed_size_list(of) or pa.types.is_list(of) or pa.types.is_large_list(of)
    return bool(is_list and pa.types.is_floating(of.value_type))


def _is_image(schema: pa.Schema, name: str) -> bool:
    of = schema.field(name).type
    if pa.types.is_struct(of) and of.get_field_index("bytes") >= 0:
        of = of.field("bytes").type
    return bool(pa.types.is_binary(of) or pa.types.is_large_binary(of))
