"""Cuts the images to embed into image shards: units of work that are committed one by one.

Where a shard ends depends on the rows near the cut, not on how many came before: after an id whose checksum
says so, or at the end of a tar or Parquet file. Behind an image that is added or deleted in the middle of a
catalog the cuts soon fall where they fell before, so that few shards get another key, and a backfill that is
resumed a week later still finds its work done.
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
    """Rows of a listing that one task embeds, in plan order; ``digest`` names their ids and versions.

    ``redo`` counts the earlier nights on which the very same images were tried.
    """

    table: pa.Table
    digest: str
    redo: int = 0

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
    usual = 64
    while usual * 4 <= max_images and usual * _SHARDS_WANTED < n_images:
        usual *= 2
    return min(usual, max(1, max_images // 2))


def _cuts(fresh: pa.Table, usual: int, max_images: int) -> Iterator[int]:
    ids = fresh["image_id"].to_pylist()
    containers = fresh["container"].to_pylist()
    at_most = min(2 * usual, max_images)
    start = 0
    for row, image_id in enumerate(ids, start=1):
        size = row - start
        last = row == len(ids)
        container_ends = last or containers[row] != containers[row - 1]
        by_checksum = size >= usual // 2 and zlib.crc32(image_id.encode()) % usual == 0
        by_container = size >= usual and container_ends
        if last or size >= at_most or by_checksum or by_container:
            yield row
            start = row


def _shard(table: pa.Table) -> ImageShard:
    rows = [table["image_id"].to_pylist(), table["version"].to_pylist()]
    return ImageShard(table=table, digest=sha256_hex(canonical_json(rows)))
