"""Where vectors of an image shard's bytes may lie already: a help for whoever embeds it, in no key.

A hint may be wrong, old, or lead to a file that is gone: then the image is embedded. It never changes what a
part is made of, only what that costs.
"""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.storage.receipts import DataFile

HINTS_SCHEMA = pa.schema(
    [
        pa.field("content_digest", pa.string()),  # sha256 of image bytes, hex
        pa.field("file", pa.int32()),  # position in ``Hints.files``
        pa.field("row", pa.int32()),  # row in that file
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hints:
    """Rows of embedding parts, made under the same embed config, that may serve a shard again."""

    files: tuple[DataFile, ...]
    table: pa.Table
