"""Cuts the images to embed into image shards: units of work that are committed one by one.

Where a shard ends depends on the rows near the cut, not on how many came before: after an id whose checksum
says so, or at the end of a tar or row group, and before it grows beyond 10,000 images or 1 GiB. Behind an
image that is added or deleted in the middle of a catalog the cuts soon fall where they fell before, so that
few shards get another key, and a backfill that is resumed a week later still finds its work done.

A gzipped tar and a row group of Parquet can only be read from their start, so every shard cut from one reads
again what lies before it. They are cut into about four, unless they are so large that the limits cut them.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.hints import Hints
from pipeline.catalog.tars import is_gzipped
from pipeline.fingerprint import canonical_json, sha256_hex

MAX_SHARD_IMAGES = 10_000
MAX_SHARD_BYTES = 1 << 30
_SHARDS_WANTED = 64
_SHARDS_OF_STREAM = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageShard:
    """Rows of a listing that one task embeds, in plan order; ``digest`` names their ids and versions.

    ``redo`` counts the earlier nights on which the very same images were tried; ``hints`` are in no key.
    """

    table: pa.Table
    digest: str
    redo: int = 0
    hints: Hints | None = None

    @property
    def n_images(self) -> int:
        """How many images the shard has."""
        return int(self.table.num_rows)

    @property
    def n_bytes(self) -> int:
        """How many bytes of images the shard has, as far as the listing says."""
        return int(pc.sum(self.table["size_bytes"]).as_py() or 0)


def plan_shards(
    fresh: pa.Table, max_images: int = MAX_SHARD_IMAGES, max_bytes: int = MAX_SHARD_BYTES
) -> list[ImageShard]:
    """Cuts ``fresh`` (a listing in plan order) into shards of at most ``max_images`` and ``max_bytes``.

    One image is a shard, however large it is.
    """
    fresh = fresh.combine_chunks()
    shards = []
    start = 0
    for end in _cuts(fresh, max_images, max_bytes):
        shards.append(_shard(fresh.slice(start, end - start)))
        start = end
    return shards


def _usual_images(n_images: int, max_images: int) -> int:
    """A power of two near a 64th of the catalog: it stays the same while the catalog grows by half."""
    usual = 64
    while usual * 4 <= max_images and usual * _SHARDS_WANTED < n_images:
        usual *= 2
    return min(usual, max(1, max_images // 2))


def _affordable_images(sizes: list[int], max_images: int, max_bytes: int) -> int:
    """``max_images``, or a power of two below if so many of the mean size are above ``max_bytes``.

    So cuts fall by checksum where there are large images too, not where the bytes are used up.
    """
    mean_bytes = sum(sizes) // max(1, len(sizes))
    affordable = max_images
    while affordable > 2 and affordable * mean_bytes > max_bytes:
        affordable = 1 << ((affordable - 1).bit_length() - 1)
    return affordable


def _cuts(fresh: pa.Table, max_images: int, max_bytes: int) -> Iterator[int]:
    ids, sizes = fresh["image_id"].to_pylist(), fresh["size_bytes"].to_pylist()
    at_most = _affordable_images(sizes, max_images, max_bytes)
    usual = _usual_images(len(ids), at_most)
    start = n_bytes = 0
    for unit in _units(fresh):
        between = unit.images_between_cuts(usual, at_most)
        for row in range(unit.start, unit.end):
            if row > start and n_bytes + sizes[row] > max_bytes:
                yield row
                start, n_bytes = row, 0
            n_bytes += sizes[row]
            size = row + 1 - start
            by_checksum = size >= between // 2 and zlib.crc32(ids[row].encode()) % between == 0
            by_unit = size >= usual and row + 1 == unit.end
            if size >= min(2 * between, at_most) or by_checksum or by_unit:
                yield row + 1
                start, n_bytes = row + 1, 0
    if start < len(ids):
        yield len(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Rows [start, end) of one tar or row group, or of no container."""

    start: int
    end: int
    is_stream: bool

    def images_between_cuts(self, usual: int, at_most: int) -> int:
        """How many images lie between two cuts by checksum: more where a cut has a price."""
        if not self.is_stream:
            return usual
        share = 1 << max(0, ((self.end - self.start) // _SHARDS_OF_STREAM).bit_length() - 1)
        return max(usual, min(share, max(1, at_most // 2)))


def _units(fresh: pa.Table) -> Iterator[_Unit]:
    places = zip(fresh["container"].to_pylist(), fresh["row_group"].to_pylist(), strict=True)
    start = 0
    for (container, row_group), rows in groupby(places):
        end = start + sum(1 for _ in rows)
        yield _Unit(start=start, end=end, is_stream=row_group >= 0 or is_gzipped(container))
        start = end


def _shard(table: pa.Table) -> ImageShard:
    rows = [table["image_id"].to_pylist(), table["version"].to_pylist()]
    return ImageShard(table=table, digest=sha256_hex(canonical_json(rows)))
