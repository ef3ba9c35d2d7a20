"""Lists a Parquet file that has a column of image bytes: ids, sha256 and attributes, row group by row group.

The image column may be plain binary or the struct ``{bytes, path}`` that Hugging Face datasets write. All
other columns with plain values are attributes.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalog.ids import container_locator, printable
from pipeline.catalog.table import ListedImage, ListingBuilder
from pipeline.errors import SourceError
from pipeline.values import RejectReason

_ID_COLUMNS = ("image_id", "id", "key", "__key__", "name", "path")
_IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "data")
_MAX_GROUP_BYTES = 4 << 30
_DETAILS = {RejectReason.BAD_ID: "null or empty id", RejectReason.EMPTY: "null image bytes"}


def list_parquet(
    path: Path, container: str, id_column: str | None, image_column: str | None
) -> tuple[pa.Table, dict[str, int]]:
    """The listing of one Parquet file in row order. Rows with a null id or null bytes are listed and refused.

    Raises:
        SourceError: not a Parquet file, columns missing or of a wrong type, or a row group too large to hold.
    """
    with open_parquet(path, container) as file:
        names = image_columns(file, container, id_column, image_column)
        builder = ListingBuilder()
        for group in range(file.num_row_groups):
            _list_group(builder, file, group, printable(container), names)
    return builder.table(), {}


def open_parquet(path: Path, container: str) -> pq.ParquetFile:
    """Opens a Parquet file, refusing one that is broken or would not fit into memory."""
    try:
        file = pq.ParquetFile(path)
        largest = max(
            (file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), default=0
        )
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(
            f"{container} is not a readable Parquet file: {exc}", fix="write the file again"
        ) from exc
    if largest > _MAX_GROUP_BYTES:
        raise SourceError(
            f"{container} has a row group of {largest} bytes, at most {_MAX_GROUP_BYTES} are read",
            fix="write the file again with smaller row groups",
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


def image_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes of an image column, whether plain binary or a struct with ``bytes``."""
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def read_group(file: pq.ParquetFile, group: int, columns: list[str], container: str) -> pa.Table:
    """One row group's columns.

    Raises:
        SourceError: the row group cannot be read.
    """
    try:
        return file.read_row_group(group, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise SourceError(
            f"{container}: row group {group} cannot be read: {exc}", fix="write the file again"
        ) from exc


def _list_group(
    builder: ListingBuilder, file: pq.ParquetFile, group: int, container: str, names: tuple[str, str]
) -> None:
    id_name, image_name = names
    plain = [field.name for field in file.schema_arrow if field.name not in names and _is_plain(field.type)]
    table = read_group(file, group, [id_name, image_name, *plain], container)
    try:
        ids = table[id_name].to_pylist()
        attributes = table.select(plain).to_pylist() if plain else [{}] * table.num_rows
    except ValueError as exc:  # text that is not UTF-8
        raise SourceError(
            f"{container}: row group {group} has unreadable text: {exc}", fix="write the file again"
        ) from exc
    for row, (image_id, data) in enumerate(zip(ids, _each(table[image_name]), strict=True)):
        usable = image_id is not None and str(image_id) != ""
        name = printable(str(image_id)) if usable else f"row {group}/{row}"
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
                offset=row,
                attributes={key: value for key, value in attributes[row].items() if value is not None},
                reject=reject,
                detail="" if reject is None else _DETAILS[reject],
            )
        )


def _each(column: pa.ChunkedArray) -> Iterator[memoryview | None]:
    for chunk in image_bytes(column).chunks:
        for value in chunk:
            buffer = value.as_buffer() if value.is_valid else None
            yield None if buffer is None else memoryview(buffer)


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
