"""Reads a catalog from an S3 Inventory: the manifest.json that S3 writes every day or week, and its files.

The manifest names the bucket it speaks of, the columns, and the data files with their MD5. Data files come
from where the manifest lies, never from elsewhere; the images are those of the source bucket. Versions that
are not the latest, and delete markers, are no images and are counted. ORC is not read.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.catalog.container import container_file
from pipeline.catalog.inventory_cells import InventoryCells, read_cells
from pipeline.catalog.listed_batch import ListedBatch, filled, sizes
from pipeline.catalog.listed_keys import KeyedCatalog
from pipeline.errors import DataCorrupt, SourceError
from pipeline.storage.store import ObjectStore

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 64 << 20
_Text = Annotated[str, Field(max_length=4096)]


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


def inventory_batches(
    store: ObjectStore, key: str, catalog: KeyedCatalog, cache: Path
) -> Iterator[ListedBatch]:
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
            for cells in read_cells(path, part.key, manifest.fileFormat, manifest.fileSchema):
                yield _listed(cells, manifest.sourceBucket, prefix, catalog)


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


def _listed(cells: InventoryCells, source_bucket: str, prefix: str, catalog: KeyedCatalog) -> ListedBatch:
    """The rows that are objects of the source, keys below ``prefix``; what is no image is counted."""
    bucket = pc.if_else(pc.equal(cells.bucket, ""), source_bucket, cells.bucket)
    is_ours = _is_true(pc.equal(bucket, source_bucket))
    is_deleted = _is_true(pc.equal(pc.utf8_lower(cells.is_delete_marker), "true"))
    is_old = ~is_deleted & _is_true(pc.equal(pc.utf8_lower(cells.is_latest), "false"))
    is_placed = ~is_deleted & ~is_old & is_ours
    starts = _is_true(pc.starts_with(cells.key, prefix))
    is_outside = is_placed & _is_true(pc.is_valid(cells.key)) & ~starts
    below = pc.utf8_slice_codeunits(cells.key, start=len(prefix))
    key = pc.if_else(pa.array(is_placed & starts), below, cells.key)
    is_marker = is_placed & starts & _is_true(pc.equal(key, ""))
    for row, odd in cells.odd_keys.items():
        is_outside[row] = is_placed[row] and not odd.startswith(prefix)
    no_images = {
        "delete_marker": is_deleted,
        "old_version": is_old,
        "outside_root": is_outside,
        "directory_marker": is_marker,
    }
    for what, rows in no_images.items():
        catalog.skip(what, int(rows.sum()))
    where = np.flatnonzero(~np.any(list(no_images.values()), axis=0))
    position_of = {int(row): position for position, row in enumerate(where)} if cells.odd_keys else {}
    kept = pa.array(where)
    foreign = np.flatnonzero(~is_ours[where])
    buckets = bucket.take(pa.array(where[foreign])).to_pylist()
    return ListedBatch(
        name=cells.name,
        unit=cells.unit,
        numbers=cells.numbers[where],
        key=key.take(kept),
        etag=filled(cells.e_tag.take(kept)),
        size_bytes=sizes(cells.size.take(kept), cells.name, cells.unit, cells.numbers[where]),
        foreign={
            row: f"it is in the bucket {name}" for row, name in zip(foreign.tolist(), buckets, strict=True)
        },
        odd_keys={
            position_of[row]: odd[len(prefix) :] if is_placed[row] else odd
            for row, odd in cells.odd_keys.items()
            if row in position_of
        },
    )


def _is_true(mask: pa.Array) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.fill_null(mask, fill_value=False).to_numpy(zero_copy_only=False)
    return found.copy()
