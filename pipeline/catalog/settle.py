"""Tells a catalog source that is a file from one that is a folder, and settles where its images are.

A file lists images: our own listing (Parquet, CSV) or the manifest.json of an S3 Inventory. Its images lie
below a root: the one that was given, else the folder of the listing, or the bucket that the inventory speaks
of. The root is settled once, before anything is listed, and every worker reads below it only.
"""

from dataclasses import replace
from pathlib import Path

from pipeline.catalog.inventory import MANIFEST, read_manifest
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.errors import UsageError
from pipeline.storage.open import open_store
from pipeline.storage.store import ObjectStore

_ENDINGS = (".csv", ".csv.gz", ".parquet", f"/{MANIFEST}")


def settle_source(source: str, root: str | None, spec: SourceSpec) -> SourceSpec:
    """``spec`` with its images' URI, and its listing file and format if the source is a file.

    Args:
        source: what was given as the source: a folder, a prefix or a file.
        root: where the images of a listing are, as given; None for the usual place.
        spec: everything else about the source.

    Raises:
        UsageError: a root for a source that is no listing, or one that is not the inventory's bucket.
        SourceError: the manifest is not one that can be read.
    """
    kind = spec.format or _told(source, has_root=root is not None)
    if kind is SourceFormat.LISTING:
        return replace(spec, uri=root or source.rpartition("/")[0] or "/", listing=source, format=kind)
    if kind is SourceFormat.INVENTORY:
        store, key = open_listing(source)
        bucket = f"s3://{read_manifest(store, key).sourceBucket}"
        if root is not None and not f"{root}/".startswith(f"{bucket}/"):
            raise UsageError(
                f"the inventory {source} is one of {bucket}, not of {root}",
                fix=f"leave --root away, or give {bucket} or a prefix in it",
            )
        return replace(spec, uri=root or bucket, listing=source, format=kind)
    if root is not None:
        raise UsageError(
            f"a root goes with a listing file, {source} is read as {kind or 'a folder of images'}",
            fix="leave --root away, or pass --format listing",
        )
    return replace(spec, uri=source)


def open_listing(source: str) -> tuple[ObjectStore, str]:
    """The store that holds a listing file, and its key: its bucket, or the folder two levels above it.

    Two levels, because the files of an inventory lie beside the folder of its manifest.
    """
    if source.startswith("s3://"):
        bucket, _, key = source.removeprefix("s3://").partition("/")
        return open_store(f"s3://{bucket}"), key
    path = Path(source).resolve()
    return open_store(str(path.parent.parent)), path.relative_to(path.parent.parent).as_posix()


def _told(source: str, *, has_root: bool) -> SourceFormat | None:
    """The format of a source that is a file; None for a folder or prefix."""
    name = source.lower()
    if not has_root and not (name.endswith(_ENDINGS) and _is_file(source)):
        return None
    return SourceFormat.INVENTORY if name.endswith(f"/{MANIFEST}") else SourceFormat.LISTING


def _is_file(source: str) -> bool:
    if not source.startswith("s3://"):
        return Path(source).is_file()
    store, key = open_listing(source)
    return store.stat(key) is not None
