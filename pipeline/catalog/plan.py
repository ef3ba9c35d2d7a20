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
from typing import Any

import numpy as np
import numpy.typing as npt
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Its own rows travel to a worker: Arrow would pickle the whole listing that they are a slice of."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as stream:
            stream.write_table(self.table)
        return _arrived, (sink.getvalue().to_pybytes(), self.digest, self.redo, self.hints)


def _arrived(rows: bytes, digest: str, redo: int, hints: Hints | None) -> ImageShard:
    return ImageShard(table=pa.ipc.open_stream(rows).read_all(), digest=digest, redo=redo, hints=hints)


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


def _affordable_images(mean_bytes: int, max_images: int, max_bytes: int) -> int:
    """``max_images``, or a power of two below if so many of the mean size are above ``max_bytes``.

    So cuts fall by checksum where there are large images too, not where the bytes are used up.
    """
    affordable = max_images
    while affordable > 2 and affordable * mean_bytes > max_bytes:
        affordable = 1 << ((affordable - 1).bit_length() - 1)
    return affordable


def _cuts(fresh: pa.Table, max_images: int, max_bytes: int) -> Iterator[int]:
    """Where shards end, ascending; looks at a row only if one may end there."""
    n_rows = fresh.num_rows
    bytes_before_N1 = np.concatenate([[0], np.cumsum(fresh["size_bytes"].to_numpy())])
    at_most = _affordable_images(int(bytes_before_N1[-1]) // max(1, n_rows), max_images, max_bytes)
    usual = _usual_images(n_rows, at_most)
    checksum_N = _checksums(fresh["image_id"])
    start = 0
    for unit in _units(fresh):
        between = unit.images_between_cuts(usual, at_most)
        marked = unit.start + np.flatnonzero(checksum_N[unit.start : unit.end] % between == 0)
        row = unit.start
        while start < unit.end:
            full = int(np.searchsorted(bytes_before_N1, bytes_before_N1[start] + max_bytes, side="right")) - 1
            mark = int(np.searchsorted(marked, max(row, start + between // 2 - 1)))
            by_bytes = max(full, start + 1)
            by_images = max(start + min(2 * between, at_most), row + 1)
            by_checksum = int(marked[mark]) + 1 if mark < len(marked) else n_rows
            by_unit = unit.end if unit.end - start >= usual else n_rows
            end = min(by_images, by_checksum, by_unit)
            if by_bytes < min(unit.end, end):
                end = by_bytes
            elif end > unit.end or (end == unit.end == n_rows):
                break
            yield end
            start = row = end
    if start < n_rows:
        yield n_rows


def _checksums(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The CRC-32 of every id in UTF-8; int64 [N]."""
    names = ids.cast(pa.binary()).to_pylist()
    return np.fromiter(map(zlib.crc32, names), dtype=np.int64, count=len(names))


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
    containers = pc.dictionary_encode(fresh["container"].combine_chunks())
    code_N, group_N = containers.indices.to_numpy(), fresh["row_group"].to_numpy()
    changes = np.flatnonzero((np.diff(code_N) != 0) | (np.diff(group_N) != 0)) + 1
    starts = [0, *changes.tolist()] if len(code_N) else []
    gzipped = [is_gzipped(name) for name in containers.dictionary.to_pylist()]
    for start, end in zip(starts, [*starts[1:], len(code_N)], strict=False):
        yield _Unit(start=start, end=end, is_stream=bool(group_N[start] >= 0 or gzipped[code_N[start]]))


def _shard(table: pa.Table) -> ImageShard:
    rows = [table["image_id"].to_pylist(), table["version"].to_pylist()]
    return ImageShard(table=table, digest=sha256_hex(canonical_json(rows)))
