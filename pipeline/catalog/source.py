"""A catalog source: where images come from, and how its kind is told from what lies there.

A source is a folder or an S3 prefix, read through the same object stores that results are written to. Its
*format* is one of ``prefix`` (every object an image), ``webdataset`` (tars) and ``parquet`` (a column with
image bytes). With ``listing`` and ``inventory`` the images are objects too, but a file says which there are.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.catalog.tars import OTHER_COMPRESSED, SUFFIXES
from pipeline.errors import SourceError
from pipeline.storage.local import LocalStore
from pipeline.storage.parallel_listing import list_in_parallel
from pipeline.storage.store import ObjectStat, ObjectStore


class SourceFormat(StrEnum):
    """What the objects of a source are."""

    PREFIX = "prefix"
    WEBDATASET = "webdataset"
    PARQUET = "parquet"
    LISTING = "listing"
    INVENTORY = "inventory"

    @property
    def is_of_objects(self) -> bool:
        """Whether every image is an object of its own."""
        return self not in (SourceFormat.WEBDATASET, SourceFormat.PARQUET)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """How to read a source; everything here that changes what is listed is part of the listing's key.

    ``uri`` is where the images are. ``listing`` is the file that lists them, for the formats that have one.
    """

    uri: str
    listing: str | None = None
    format: SourceFormat | None = None  # None: told from the objects
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    id_template: str = "{name}"
    id_column: str | None = None
    image_column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListing:
    """The objects of a source after ``include`` and ``exclude``, and what was left out, counted."""

    format: SourceFormat
    objects: Sequence[ObjectStat]
    skipped: dict[str, int]


def list_source(store: ObjectStore, spec: SourceSpec) -> SourceListing:
    """Lists the source's objects in ascending key order and settles its format.

    Raises:
        SourceError: nothing is there, or tars, Parquet files and other objects lie side by side.
    """
    skipped = {"directory_marker": 0, "excluded": 0}
    objects = []
    local = isinstance(store, LocalStore)  # one disk, walked in order
    for stat in store.list_objects() if local else list_in_parallel(store):
        if stat.key.endswith("/") and stat.size_bytes == 0:
            skipped["directory_marker"] += 1
        elif not is_wanted(stat.key, spec):
            skipped["excluded"] += 1
        else:
            objects.append(stat)
    if not objects:
        raise SourceError(
            f"the catalog source {spec.uri} lists no images ({_left_out(skipped)})",
            fix="check the path or prefix, --include and --exclude, and the credentials for listing",
        )
    return SourceListing(
        format=spec.format or _told_format(objects, spec.uri),
        objects=objects,
        skipped={name: count for name, count in skipped.items() if count},
    )


def is_wanted(key: str, spec: SourceSpec) -> bool:
    """Whether ``include`` and ``exclude`` let the key through."""
    if spec.include and not any(fnmatch.fnmatchcase(key, pattern) for pattern in spec.include):
        return False
    return not any(fnmatch.fnmatchcase(key, pattern) for pattern in spec.exclude)


def _told_format(objects: Sequence[ObjectStat], uri: str) -> SourceFormat:
    compressed = next((s.key for s in objects if s.key.lower().endswith(OTHER_COMPRESSED)), None)
    if compressed is not None:
        raise SourceError(
            f"the catalog source {uri} holds a tar whose compression is not read, {compressed!r}",
            fix="write it as .tar or .tar.gz, or leave it out, as in --exclude '*.tar.zst'",
        )
    kinds = set(_kinds(objects))
    if len(kinds) == 1:
        return SourceFormat(kinds.pop())
    raise SourceError(
        f"the catalog source {uri} mixes {' and '.join(sorted(kinds))} objects",
        fix="say which with --format and narrow it with --include or --exclude, as in --include '*.tar'",
    )


def _kinds(objects: Sequence[ObjectStat]) -> Iterator[str]:
    for stat in objects:
        name = stat.key.lower()
        yield (
            "webdataset" if name.endswith(SUFFIXES) else "parquet" if name.endswith(".parquet") else "prefix"
        )


def _left_out(skipped: dict[str, int]) -> str:
    return f"{skipped['directory_marker']} directory markers and {skipped['excluded']} excluded objects"
