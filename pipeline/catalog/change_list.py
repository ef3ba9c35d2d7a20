"""Change lists: what to upsert and what to delete, for a small publication without listing the source.

A change list is a listing file, CSV or Parquet, with a column ``op``: ``upsert``, which is also what an empty
field means, or ``delete``. ``key`` (``path``, ``locator``) names the image as the catalog's listing does: the
key of the object, or ``container::member``. All other columns are attributes of what is upserted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.catalog.ids import printable
from pipeline.catalog.listing_file import read_listing
from pipeline.errors import SourceError

_OP = "op"


@dataclass(slots=True, kw_only=True)
class ChangeList:
    """Locators to upsert, with the attributes that the list gives them, and locators to delete."""

    upserts: dict[str, Mapping[str, object]] = field(default_factory=dict)
    deletes: set[str] = field(default_factory=set)


def read_changes(path: Path) -> ChangeList:
    """Reads a change list; of several rows for one key the last counts.

    Raises:
        SourceError: no such file, not a table of keys, or a row that says neither upsert nor delete.
    """
    if not path.is_file():
        raise SourceError(f"there is no change list {path}", fix="check --changes")
    found = ChangeList()
    for row in read_listing(path, str(path), None).rows:
        op = str(row.attributes.get(_OP) or "upsert")
        if op not in ("upsert", "delete") or not row.key:
            raise SourceError(
                f"{row.where} says {op!r} of {row.key!r}", fix="a row has a key, and op upsert or delete"
            )
        locator = printable(row.key)
        found.upserts.pop(locator, None)
        found.deletes.discard(locator)
        if op == "delete":
            found.deletes.add(locator)
        else:
            found.upserts[locator] = {name: value for name, value in row.attributes.items() if name != _OP}
    return found
