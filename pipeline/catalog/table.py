"""The catalog as a table: one row per listed image, in plan order, before anything is decoded.

A listing is made by code that decodes nothing. It is an Arrow table, not Python objects, because catalogs
have millions of rows. Rows that cannot be embedded at all (two images in a sample, an id seen before, a link
in a tar) carry a ``reject`` reason from the start, so that ``listed`` counts them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.values import RejectReason

MAX_IMAGE_BYTES = 256 << 20
"""What is larger is refused unread."""

LISTING_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),  # changes when the bytes do
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("locator", pa.string(), nullable=False),
        pa.field(
            "container", pa.string(), nullable=False
        ),  # printable key of the tar or Parquet file, "" if none
        pa.field("row_group", pa.int32(), nullable=False),  # Parquet: row group; else -1
        pa.field(
            "offset", pa.int64(), nullable=False
        ),  # tar: byte offset; Parquet: row in the row group; else 0
        pa.field("attributes", pa.string(), nullable=False),  # JSON object of scalars
        pa.field("reject", pa.string(), nullable=True),  # a RejectReason that is known without reading
        pa.field("detail", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """One row of the listing; the fields are the columns of ``LISTING_SCHEMA``."""

    image_id: str
    version: str
    size_bytes: int
    locator: str
    container: str = ""
    row_group: int = -1
    offset: int = 0
    attributes: Mapping[str, object] = field(default_factory=dict)
    reject: RejectReason | None = None
    detail: str = ""


@dataclass(slots=True)
class ListingBuilder:
    """Collects rows and makes a table of them; one builder per container or per listing."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in LISTING_SCHEMA.names})

    def add(self, image: ListedImage) -> None:
        """Adds one listed image."""
        columns = self.columns
        columns["image_id"].append(image.image_id)
        columns["version"].append(image.version)
        columns["size_bytes"].append(image.size_bytes)
        columns["locator"].append(image.locator)
        columns["container"].append(image.container)
        columns["row_group"].append(image.row_group)
        columns["offset"].append(image.offset)
        columns["attributes"].append(attributes_json(image.attributes))
        columns["reject"].append(None if image.reject is None else image.reject.value)
        columns["detail"].append(image.detail)

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def table(self) -> pa.Table:
        """The rows so far, in the order they were added."""
        return pa.table(self.columns, schema=LISTING_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Catalog:
    """Everything the source lists, in plan order, ids unique among the rows without a ``reject``.

    ``skipped`` counts what was seen and is no image: directory markers, samples without an image, excluded
    keys.
    """

    table: pa.Table
    format: str
    skipped: Mapping[str, int]
    bytes_read: int = 0
    """The size of the tars and Parquet files that had to be walked."""

    @property
    def n_listed(self) -> int:
        """How many images the source lists, the refused ones included."""
        return int(self.table.num_rows)

    def images(self) -> pa.Table:
        """The rows that may be embedded."""
        if self.table["reject"].null_count == self.table.num_rows:
            return self.table  # as a rule, and a copy would be as large as all the rest of a plan
        return self.table.filter(pc.is_null(self.table["reject"]))

    def refused(self) -> pa.Table:
        """The rows that were refused while listing."""
        return self.table.filter(pc.is_valid(self.table["reject"]))


def listed_objects(
    *,
    image_id: pa.Array,
    version: pa.Array,
    size_bytes: pa.Array,
    locator: pa.Array,
    attributes: pa.Array,
    reject: pa.Array,
    detail: pa.Array,
) -> pa.Table:
    """Rows of objects that are an image each, from whole columns."""
    n_rows = len(image_id)
    columns = {
        "image_id": image_id,
        "version": version,
        "size_bytes": size_bytes,
        "locator": locator,
        "container": pa.array([""]).take(pa.array(np.zeros(n_rows, dtype=np.int64))),
        "row_group": pa.array(np.full(n_rows, -1, dtype=np.int32)),
        "offset": pa.array(np.zeros(n_rows, dtype=np.int64)),
        "attributes": attributes,
        "reject": reject,
        "detail": detail,
    }
    return pa.table(columns, schema=LISTING_SCHEMA)


def refuse_duplicates(table: pa.Table) -> pa.Table:
    """Marks every later row of an id as ``duplicate_id``: the first usable one in plan order wins."""
    alive = np.flatnonzero(pc.is_null(table["reject"]).to_numpy(zero_copy_only=False))
    codes = pc.dictionary_encode(table["image_id"].combine_chunks()).indices.to_numpy()[alive]
    _, first = np.unique(codes, return_index=True)
    later = np.ones(len(alive), dtype=bool)
    later[first] = False
    if not later.any():
        return table
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[alive[later]] = True
    reject = pc.if_else(pa.array(mask), RejectReason.DUPLICATE_ID.value, table["reject"])
    detail = pc.if_else(
        pa.array(mask), "the id was listed before; the first in plan order wins", table["detail"]
    )
    table = table.set_column(table.schema.get_field_index("reject"), LISTING_SCHEMA.field("reject"), reject)
    return table.set_column(table.schema.get_field_index("detail"), LISTING_SCHEMA.field("detail"), detail)


def attributes_json(attributes: Mapping[str, object]) -> str:
    """Scalars of ``attributes`` as one line of JSON; nested values and long text are left out."""
    if not attributes:
        return "{}"
    kept = {name: value for name, value in attributes.items() if _is_scalar(value)}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", errors="replace").decode()  # JSON may escape half a surrogate pair


def batches(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    """Consecutive slices of at most ``rows`` rows."""
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 1000
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int)
