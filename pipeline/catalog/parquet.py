"""Lists a Parquet file that has a column of image bytes: ids, sha256 and attributes, a few rows at a time.

The image column may be plain binary or the struct ``{bytes, path}`` that Hugging Face datasets write. All
other columns with plain values are attributes. A row group is decoded as it is read, page by page, so memory
is bounded by the largest page (a writer's choice: pyarrow puts up to about 1,000 images into one), not by
the row group or the file.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.ids import container_locator, printable
from pipeline.catalog.table import ListedImage, ListingBuilder
from pipeline.errors import SourceError
from pipeline.storage.ranged import RangedFile
from pipeline.values import RejectReason

_ID_COLUMNS = ("image_id", "id", "key", "__key__", "name", "path")
_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "data")
_MOST_RATIO = 200
_FREE_BYTES = 256 << 20
_BUFFER_BYTES = 1 << 20  # of each column, between the file and the decoder
_BATCH_BYTES, _BATCH_ROWS = 4 << 20, 256
_DETAILS = {RejectReason.BAD_ID: "null or empty id", RejectReason.EMPTY: "null image bytes"}


def list_parquet(
    source: RangedFile, container: str, id_column: str | None, image_column: str | None
) -> tuple[pa.Table, dict[str, int]]:
    """The listing of one Parquet file in row order. Rows with a null id or null bytes are listed and refused.

    Raises:
        SourceError: not a Parquet file, columns missing or of a wrong type, or a row group that is a bomb.
    """
    file = open_parquet(source, container)
    id_name, image_name = image_columns(file, container, id_column, image_column)
    columns = [id_name, image_name, *_attribute_names(file, id_name, image_name)]
    source.expect(column_ranges(file, range(file.num_row_groups), columns))
    builder = ListingBuilder()
    for group in range(file.num_row_groups):
        start = 0
        for batch in read_group(file, group, columns, container):
            _list_batch(builder, batch.select(columns), (group, start), container)
            start += batch.num_rows
    return builder.table(), {}


def open_parquet(source: RangedFile | Path, container: str) -> pq.ParquetFile:
    """Opens a Parquet file, refusing one that is broken or grows out of proportion when it is decoded."""
    try:
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        largest = max(
            (file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), default=0
        )
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(
            f"{container} is not a readable Parquet file: {exc}", fix="write the file again"
        ) from exc
    size_bytes = source.stat().st_size if isinstance(source, Path) else source.size_bytes
    most = _FREE_BYTES + _MOST_RATIO * size_bytes
    if largest > most:
        raise SourceError(
            f"{container} has a row group of {largest} bytes, at most {most} are read of a file this small",
            fix="write the file again",
        )
    return file


def image_columns(
    file: pq.ParquetFile, container: str, id_column: str | None, image_column: str | None
) -> tuple[str, str]:
    """The names of the id column and the image column: as asked for, or the first usual name there."""
    schema = _schema(file, container)
    id_name = _pick(schema, container, id_column, _ID_COLUMNS, "id", _is_text_or_int)
    image_name = _pick(schema, container, image_column, _IMAGE_COLUMNS, "image", _is_image)
    return id_name, image_name


def each_image(column: pa.Array) -> Iterator[memoryview | None]:
    """The bytes of each row of an image column, whether plain binary or a struct with ``bytes``."""
    for value in pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column:
        yield memoryview(value.as_buffer()) if value.is_valid else None


def read_group(
    file: pq.ParquetFile, group: int, columns: Sequence[str], container: str
) -> Iterator[pa.RecordBatch]:
    """One row group's columns, in order, in batches of about 4 MiB.

    Raises:
        SourceError: the row group cannot be read.
    """
    try:
        about = file.metadata.row_group(group)
        usual_bytes = about.total_byte_size // max(1, about.num_rows)
        rows = min(max(1, _BATCH_BYTES // max(1, usual_bytes)), _BATCH_ROWS)
        yield from file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(
            f"{container}: row group {group} cannot be read: {exc}", fix="write the file again"
        ) from exc


def column_ranges(
    file: pq.ParquetFile, groups: Iterable[int], columns: Sequence[str]
) -> list[tuple[int, int]]:
    """Where in the file the columns of some row groups lie: [start, end) in bytes, as far as is known."""
    ranges = []
    for group in groups:
        about = file.metadata.row_group(group)
        for number in range(about.num_columns):
            column = about.column(number)
            if column.path_in_schema.partition(".")[0] in columns:
                start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
                ranges.append((start, start + column.total_compressed_size))
    return ranges


def _attribute_names(file: pq.ParquetFile, id_name: str, image_name: str) -> list[str]:
    fields = [field for field in file.schema_arrow if field.name not in (id_name, image_name)]
    return [field.name for field in fields if _is_plain(field.type)]


def _list_batch(builder: ListingBuilder, batch: pa.RecordBatch, place: tuple[int, int], key: str) -> None:
    """Adds rows of the columns id, image, attributes; ``place`` is their row group and first row in it."""
    container = printable(key)
    group, start = place
    try:
        ids = batch.column(0).to_pylist()
        attributes = batch.select(range(2, batch.num_columns)).to_pylist() or [{}] * batch.num_rows
    except ValueError as exc:  # text that is not UTF-8
        raise SourceError(
            f"{key}: row group {group} has unreadable text: {exc}", fix="write the file again"
        ) from exc
    for row, (image_id, data) in enumerate(zip(ids, each_image(batch.column(1)), strict=True)):
        usable = image_id is not None and str(image_id) != ""
        name = printable(str(image_id)) if usable else f"row {group}/{start + row}"
        reject = None if usable else RejectReason.BAD_ID
        if usable and data is None:
            reject = RejectReason.EMPTY
        builder.add(
            ListedImage(
                image_id=name,
                version=hashlib.sha256(data).hexdigest() if data is not None else "",
                size_bytes=0 if data is None else len(data),
                locator=container_locator(container, name),
                container=container,
                row_group=group,
                offset=start + row,
                attributes={key: value for key, value in attributes[row].items() if value is not None},
                reject=reject,
                detail="" if reject is None else _DETAILS[reject],
            )
        )


def _pick(
    schema: pa.Schema, container: str, asked: str | None, usual: tuple[str, ...], what: str, fits: object
) -> str:
    candidates = (asked,) if asked else usual
    for name in candidates:
        if name in schema.names and fits(schema.field(name).type):  # type: ignore[operator]
            return name
    raise SourceError(
        f"{container} has no usable {what} column among {', '.join(map(repr, candidates))}; "
        f"its columns are {', '.join(f'{field.name}: {field.type}' for field in schema)}",
        fix=f"name it with --{what}-column",
    )


def _schema(file: pq.ParquetFile, container: str) -> pa.Schema:
    try:
        return file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(
            f"{container} has a schema that cannot be read: {exc}", fix="write the file again"
        ) from exc


def _is_text_or_int(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):  # a category of pandas
        return _is_text_or_int(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_image(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_plain(kind: pa.DataType) -> bool:
    return bool(_is_text_or_int(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
