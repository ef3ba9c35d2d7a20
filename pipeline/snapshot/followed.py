"""What something newer has followed, so that nobody needs it: candidates and listings, for ``expire``."""

from collections.abc import Mapping

from pipeline.snapshot.reach import Published
from pipeline.storage import layout
from pipeline.storage.receipts import Receipt
from pipeline.storage.store import ObjectStat

LISTINGS = "list"
"""The stage whose receipts are those of listings."""


def overtaken_candidates(
    published: Published, objects: Mapping[str, ObjectStat], collection: str, before_s: float
) -> dict[str, ObjectStat]:
    """Candidates written before then that nobody can publish: another snapshot has followed their parent."""
    newest = published.newest.get(collection, 0)
    prefix = layout.candidates(collection)
    return {
        key: objects[key]
        for key, made in published.candidates.items()
        if key.startswith(prefix) and (made.parent or 0) != newest and objects[key].modified_s <= before_s
    }


def followed_listings(
    receipts: Mapping[str, Receipt | None], objects: Mapping[str, ObjectStat], before_s: float
) -> set[str]:
    """Keys of receipts of listings that another listing of the same file, read in the same way, has followed.

    The follower has to be from before then, so that no run is left that took the older one for the newest.
    """
    of_file: dict[str, list[str]] = {}
    for key, receipt in receipts.items():
        if receipt is not None and receipt.stage == LISTINGS and "file" in receipt.facts:
            of_file.setdefault(str(receipt.facts["file"]), []).append(key)
    old = set()
    for keys in of_file.values():
        settled = [key for key in keys if objects[key].modified_s <= before_s]
        newest_s = max((objects[key].modified_s for key in settled), default=0.0)
        old |= {key for key in settled if objects[key].modified_s < newest_s}
    return old
