"""Reads a catalog from an S3 Inventory: the manifest.json that S3 writes every day or week, and its files.

The manifest names the bucket it speaks of, the columns, and the data files with their MD5. Data files come
from where the manifest lies, never from elsewhere; the images are those of the source bucket. Versions that
are not the latest, and delete markers, are no images and are counted. ORC is not read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.catalog.container import container_file
from pipeline.catalog.csv_rows import csv_rows
from pipeline.catalog.listed_keys import KeyedCatalog, ListedKey
from pipeline.catalog.listing_file import open_csv, parquet_batches, whole_number
from pipeline.catalog.parquet import open_parquet
from pipeline.errors import DataCorrupt, SourceError
from pipeline.storage.store import ObjectStore

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_CSV_NAMES = {"etag": "e_tag", "islatest": "is_latest", "isdeletemarker": "is_delete_marker"}
_COLUMNS = ("bucket", "key", "is_latest", "is_delete_marker", "size", "e_tag")
_Text = Annotated[str, Field(max_length=4096)]
_Row = tuple[str, dict[str, str]]
"""Where a row stands, and its cells as text, by the names of ``_COLUMNS``."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    key: _Text
    size: int = Field(ge=0)
    MD5checksum: str = Field(pattern=r"^[0-9a-fA-F]{32}$")


class InventoryManifest(BaseModel):
    """What is used of a manifest.json, under the names that S3 gives it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sourceBucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")
    destinationBucket: _Text = ""
    fileFormat: _Text
    fileSchema: str
    files: tuple[_Part, ...]


def read_manifest(store: ObjectStore, key: str) -> InventoryManifest:
    """The manifest at ``key``.

    Raises:
        SourceError: not a manifest of an inventory, or one of ORC files.
        ObjectMissing: nothing is there.
    """
    stat, name = store.stat(key), f"{key!r} in {store.uri}"
    if stat is not None and stat.size_bytes > _MAX_MANIFEST_BYTES:
        raise SourceError(f"{name} has {stat.size_bytes} bytes: not a manifest", fix="check the path")
    try:
        manifest = InventoryManifest.model_validate_json(store.get(key).removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "it"
        raise SourceError(
            f"{name} is not the manifest of an S3 Inventory: {field}: {first['msg']}",
            fix="give the manifest.json that S3 wrote, as it is",
        ) from exc
    if manifest.fileFormat.upper() not in ("CSV", "PARQUET"):
        raise SourceError(
            f"{name} is an inventory in {manifest.fileFormat}, which is not read",
            fix="configure the inventory to write Parquet or CSV",
        )
    return manifest


def inventory_rows(store: ObjectStore, key: str, catalog: KeyedCatalog, cache: Path) -> Iterator[ListedKey]:
    """The latest version of every object, in the order of the data files; what is no image is counted.

    Args:
        store: where the manifest lies.
        key: the manifest.
        catalog: counts what is skipped; its ``spec.uri`` is the source bucket, or a prefix in it.
        cache: a folder for downloads.

    Raises:
        SourceError: a data file is not where it should be, or cannot be read.
        DataCorrupt: a data file is not the one that the manifest speaks of.
    """
    manifest = read_manifest(store, key)
    prefix = catalog.spec.uri.rstrip("/").removeprefix(f"s3://{manifest.sourceBucket}")[1:]
    prefix = f"{prefix}/" if prefix else ""
    for part in manifest.files:
        with container_file(store, _found(store, key, part.key), cache) as path:
            _check(path, part)
            for where, cells in _rows(path, part.key, manifest):
                listed = _listed(where, cells, manifest, prefix)
                if isinstance(listed, ListedKey):
                    yield listed
                else:
                    catalog.skip(listed)


def _found(store: ObjectStore, manifest: str, part: str) -> str:
    """The key of a data file: as the manifest says or, in a tree that was copied, beside the manifest.

    Raises:
        SourceError: it is nowhere there.
    """
    folder = manifest.rpartition("/")[0]
    above, base = folder.rpartition("/")[0], part.rpartition("/")[2]
    beside = [f"{place}/{base}".lstrip("/") for place in (f"{above}/data", folder, f"{folder}/data")]
    for candidate in [part, *beside]:
        if store.stat(candidate) is not None:
            return candidate
    raise SourceError(
        f"the inventory file {part} is not in {store.uri}",
        fix="copy the folder `data` along with the manifest, or give the manifest where S3 wrote it",
    )


def _check(path: Path, part: _Part) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, _md5).hexdigest()
    if found != part.MD5checksum.lower():
        raise DataCorrupt(
            f"the inventory file {part.key} has MD5 {found}, its manifest says {part.MD5checksum}",
            fix="fetch it again; if it stays so, use an older inventory",
        )


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def _listed(where: str, cells: dict[str, str], manifest: InventoryManifest, prefix: str) -> ListedKey | str:
    """The row as a listed key, or the name under which it is counted as no image."""
    if cells["is_delete_marker"].lower() == "true":
        return "delete_marker"
    if cells["is_latest"].lower() == "false":
        return "old_version"
    key: str | None = cells["key"]
    bucket = cells["bucket"] or manifest.sourceBucket
    if manifest.fileFormat.upper() == "CSV":
        key = _decoded(cells["key"])
    if key is not None and bucket == manifest.sourceBucket:
        if not key.startswith(prefix):
            return "outside_root"
        key = key[len(prefix) :]
        if key == "":
            return "directory_marker"
    return ListedKey(
        where=where,
        key=key,
        etag=cells["e_tag"] or None,
        size_bytes=whole_number(cells["size"], where, "size"),
        foreign="" if bucket == manifest.sourceBucket else f"it is in the bucket {bucket}",
    )


def _decoded(key: str) -> str | None:
    """The key as S3 has it; None if it does not decode to text."""
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        return None


def _rows(path: Path, name: str, manifest: InventoryManifest) -> Iterator[_Row]:
    if manifest.fileFormat.upper() == "PARQUET":
        return _parquet_rows(path, name)
    names = [column.strip().lower() for column in manifest.fileSchema.split(",")]
    return _csv_rows(path, name, [_CSV_NAMES.get(column, column) for column in names])


def _csv_rows(path: Path, name: str, names: Sequence[str]) -> Iterator[_Row]:
    _check_columns(names, name)
    with open_csv(path, name) as file:
        for line, fields in csv_rows(file, name):
            where = f"{name}: line {line}"
            if len(fields) != len(names):
                raise SourceError(
                    f"{where} has {len(fields)} fields, the manifest names {len(names)} columns",
                    fix="use an inventory as S3 wrote it",
                )
            cells = dict(zip(names, fields, strict=True))
            yield where, {column: cells.get(column, "") for column in _COLUMNS}


def _parquet_rows(path: Path, name: str) -> Iterator[_Row]:
    number = 0
    with open_parquet(path, name) as file:
        _check_columns(file.schema_arrow.names, name)
        columns = [column for column in _COLUMNS if column in file.schema_arrow.names]
        for batch in parquet_batches(file, columns, name):
            for row in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                number += 1
                cells = dict(zip(columns, (_text(value) for value in row), strict=True))
                yield f"{name}: row {number}", {column: cells.get(column, "") for column in _COLUMNS}


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return "" if value is None else str(value)


def _check_columns(names: Sequence[str], name: str) -> None:
    if "key" not in names:
        raise SourceError(
            f"the inventory file {name} has no column of keys; its columns are {', '.join(names)}",
            fix="use an inventory as S3 wrote it",
        )
