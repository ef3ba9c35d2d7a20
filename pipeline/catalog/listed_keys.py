"""Turns what a listing file says into a catalog: keys are checked, versions completed, rows put in key order.

A listing file is data, perhaps somebody else's, so it never decides where bytes come from: a key counts only
below the root that the command line or the configuration names. Absolute paths, ``..``, URLs and other
buckets are refused one by one as ``source_not_allowed``. Rows without a version are looked up in the store,
many at a time.

What is decided here row by row, ``plain_rows`` does column by column for the many rows that have nothing
special: of 60 million rows hardly one comes here.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.ids import printable
from pipeline.catalog.listed_batch import ListedBatch, ListedKey
from pipeline.catalog.plain_rows import MAX_KEY_BYTES, URL, plain_rows
from pipeline.catalog.source import SourceSpec, is_wanted
from pipeline.catalog.table import LISTING_SCHEMA, MAX_IMAGE_BYTES, ListedImage, ListingBuilder
from pipeline.catalog.versions import GONE, object_version, own_version
from pipeline.errors import SourceError
from pipeline.storage.local import LocalStore
from pipeline.storage.store import ObjectStat, ObjectStore
from pipeline.values import RejectReason

_STAT_THREADS = 32
_URL = re.compile(URL, re.IGNORECASE)


@dataclass(slots=True, kw_only=True)
class KeyedCatalog:
    """Builds the catalog of listed keys below ``root``, the store that ``spec.uri`` names.

    ``has_ids`` says that the file has a column of ids: a row without one is then refused. ``literal`` says
    that keys are spelled as S3 itself spells them, where ``..`` and ``//`` mean nothing.
    """

    root: ObjectStore
    spec: SourceSpec
    has_ids: bool = False
    literal: bool = False
    skipped: dict[str, int] = field(default_factory=dict)

    def table(self, batches: Iterable[ListedBatch]) -> pa.Table:
        """The listing in ascending key order; of equal keys the first in the file stays the first.

        Raises:
            StorageError: an object without a listed version could not be looked up.
        """
        tables = [LISTING_SCHEMA.empty_table()]
        with ThreadPoolExecutor(_STAT_THREADS) as threads:
            tables += [self._batch(batch, threads) for batch in batches]
        table = pa.concat_tables(tables)
        if _ascends(table["locator"]):
            return table
        return table.take(pc.sort_indices(table, sort_keys=[("locator", "ascending")]))

    def skip(self, what: str, count: int = 1) -> None:
        """Counts rows that are no image."""
        if count:
            self.skipped[what] = self.skipped.get(what, 0) + count

    def _batch(self, batch: ListedBatch, threads: ThreadPoolExecutor) -> pa.Table:
        is_plain, plain = plain_rows(
            batch, self.spec, has_ids=self.has_ids, literal=self.literal, is_ours=self.asked()
        )
        plain_at, others_at = np.flatnonzero(is_plain), np.flatnonzero(~is_plain)
        if self.spec.include or self.spec.exclude:
            wanted = np.array([is_wanted(key, self.spec) for key in plain["locator"].to_pylist()], dtype=bool)
            self.skip("excluded", int((~wanted).sum()))
            plain, plain_at = plain.filter(pa.array(wanted)), plain_at[wanted]
        if len(others_at) == 0:
            return plain
        listed, others = self.one_by_one(list(batch.rows(others_at)), threads)
        order = np.argsort(np.concatenate([plain_at, others_at[listed]]), kind="stable")
        return pa.concat_tables([plain, others]).take(pa.array(order))

    def asked(self) -> Callable[[str], bool] | None:
        """What is to be asked of a key that looks plain: of a folder, that it is no link that leads out."""
        return (lambda key: not self._foreign(key)) if isinstance(self.root, LocalStore) else None

    def one_by_one(
        self, rows: Sequence[ListedKey], threads: ThreadPoolExecutor
    ) -> tuple[list[int], pa.Table]:
        """Which of ``rows`` are images, by position, and their listing."""
        builder = ListingBuilder()
        checked = [
            (number, row, key, why)
            for number, row in enumerate(rows)
            for key, why in [self._checked(row)]
            if self._is_image(row, key)
        ]
        unknown = [key for _, row, key, why in checked if why is None and self._version(row) is None]
        stats = dict(zip(unknown, threads.map(self.root.stat, unknown), strict=True))
        for _, row, key, why in checked:
            refused = None if why is None else self._refused(row, *why)
            builder.add(refused or self._listed(row, key, stats.get(key)))
        return [number for number, *_ in checked], builder.table()

    def _checked(self, row: ListedKey) -> tuple[str, tuple[RejectReason, str] | None]:
        """The key below the root, and why it cannot be one."""
        key = row.key or ""
        if not self.literal:
            key = key.removeprefix(f"{self.spec.uri.rstrip('/')}/")
        if key == "" or "\0" in key:
            return key, (RejectReason.BAD_ID, f"{row.where} has no key")
        if self.has_ids and (not row.image_id or "\0" in row.image_id):
            return key, (RejectReason.BAD_ID, f"{row.where} has no id")
        foreign = row.foreign or self._foreign(key)
        return key, None if not foreign else (RejectReason.SOURCE_NOT_ALLOWED, f"{row.where}: {foreign}")

    def _foreign(self, key: str) -> str:
        """Why the key is not the name of an object below the root."""
        if not self.literal and _URL.match(key):
            return f"a URL, not a key below {self.spec.uri}"
        if not self.literal and (key.startswith("/") or ".." in key.split("/")):
            return f"the key leads out of {self.spec.uri}"
        if len(key.encode()) > MAX_KEY_BYTES:
            return f"the key has more than {MAX_KEY_BYTES} bytes"
        try:
            self.root.local_path(key)  # a folder also knows its links
        except SourceError as exc:
            return exc.message
        return ""

    def _is_image(self, row: ListedKey, key: str) -> bool:
        if key.endswith("/") and row.size_bytes == 0:
            self.skip("directory_marker")
            return False
        if not is_wanted(key, self.spec):
            self.skip("excluded")
            return False
        return True

    def _version(self, row: ListedKey) -> str | None:
        """What the file itself says; an ETag means something to an S3 store only."""
        if row.version:
            return own_version(row.version, self.spec.uri)
        etag = (row.etag or "").strip('"')
        if not etag:
            return None
        if not self.spec.uri.startswith("s3://"):
            return own_version(etag, self.spec.uri)
        return None if row.size_bytes is None else f"{etag}:{row.size_bytes}"

    def _listed(self, row: ListedKey, key: str, stat: ObjectStat | None) -> ListedImage:
        name = printable(key)
        size_bytes = stat.size_bytes if stat is not None else row.size_bytes or 0
        folder = name.rpartition("/")[0]
        too_large = size_bytes > MAX_IMAGE_BYTES
        return ListedImage(
            image_id=printable(row.image_id) if self.has_ids and row.image_id else name,
            version=self._version(row) or (GONE if stat is None else object_version(stat)),
            size_bytes=size_bytes,
            locator=name,
            attributes={**({"folder": folder} if folder else {}), **row.attributes},
            reject=RejectReason.TOO_LARGE if too_large else None,
            detail=f"{size_bytes} bytes, at most {MAX_IMAGE_BYTES}" if too_large else "",
        )

    def _refused(self, row: ListedKey, reason: RejectReason, detail: str) -> ListedImage:
        name = printable(row.image_id or row.key or row.where)
        return ListedImage(
            image_id=name,
            version="",
            size_bytes=row.size_bytes or 0,
            locator=printable(row.key or row.where),
            reject=reason,
            detail=detail,
        )


def _ascends(locator: pa.ChunkedArray) -> bool:
    """Whether the rows are in key order already, as a store lists them."""
    if len(locator) < 2:
        return True
    return bool(pc.all(pc.less_equal(locator.slice(0, len(locator) - 1), locator.slice(1))).as_py())
