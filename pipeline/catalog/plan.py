"""Cuts the images to embed into image shards: units of work that are committed one by one.

Where a shard ends depends on the rows near the cut only, not on how many came before: at the end of a tar or
Parquet file, or after an id whose checksum says so. An image that is added or deleted in the middle of a
catalog therefore changes one shard's key, not all that follow, and a backfill that is resumed a week later
still finds its work done.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.fingerprint import canonical_json, sha256_hex

MAX_SHARD_IMAGES = 10_000
_SHARDS_WANTED = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageShard:
    """Rows of a listing that one task embeds, in plan order; ``digest`` names their ids and versions."""

    table: pa.Table
    digest: str

    @property
    def n_images(self) -> int:
        """How many images the shard has."""
        return int(self.table.num_rows)


def plan_shards(fresh: pa.Table, max_images: int = MAX_SHARD_IMAGES) -> list[ImageShard]:
    """Cuts ``fresh`` (a listing in plan order) into shards of at most ``max_images`` images."""
    fresh = fresh.combine_chunks()
    usual = _usual_images(fresh.num_rows, max_images)
    shards = []
    start = 0
    for end in _cuts(fresh, usual, max_images):
        shards.append(_shard(fresh.slice(start, end - start)))
        start = end
    return shards


def _usual_images(n_images: int, max_images: int) -> int:
    """A power of two near a 64th of the catalog: it stays the same while the catalog grows by half."""
    usual = 256
    while usual * 2 <= max_images and usual * _SHARDS_WANTED < n_images:
        usual *= 2
    return min(usual, max_images)


def _cuts(fresh: pa.Table, usual: int, max_images: int) -> Iterator[int]:
    ids = fresh["image_id"].to_pylist()
    containers = fresh["container"].to_pylist()
    start = 0
    for row, image_id in enumerate(ids, start=1):
        size = row - start
        last = row == len(ids)
        container_ends = last or containers[row] != containers[row - 1]
        in_prefix = containers[row - 1] == ""
        by_checksum = in_prefix and size >= usual // 2 and zlib.crc32(image_id.encode()) % usual == 0
        by_container = container_ends and not in_prefix and size >= usual
        if last or size >= max_images or by_checksum or by_container or (in_prefix and size >= 2 * usual):
            yield row
            start = row


def _shard(table: pa.Table) -> ImageShard:
    rows = [table["image_id"].to_pylist(), table["version"].to_pylist()]
    return ImageShard(table=table, digest=sha256_hex(canonical_json(rows)))
