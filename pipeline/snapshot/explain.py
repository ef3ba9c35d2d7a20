"""What became of one image: why it is found, old, refused or missing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.refusals import refused_images


class Fate(StrEnum):
    """Where an image stands in a snapshot."""

    LIVE = "live"  # it has a vector of the bytes that are listed
    STALE = "stale"  # its new bytes were refused, the vector is that of older ones
    REJECTED = "rejected"  # it has no vector, because its bytes were refused
    DELETED = "deleted"  # it had a vector once, and was then listed no more
    UNKNOWN = "unknown"  # neither listed nor refused, as far as this snapshot knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The fate of an image and the evidence for it; None where there is none."""

    image_id: str
    fate: Fate
    row: dict[str, Any] | None
    refusal: dict[str, Any] | None
    attributes: dict[str, Any] | None


def explain(snapshot: OpenSnapshot, image_id: str) -> Explanation:
    """Looks ``image_id`` up in everything the snapshot holds."""
    live = _first(snapshot.live, image_id)
    refusal = _first(refused_images(snapshot.store, snapshot.content, snapshot.cache), image_id)
    attributes = _first(snapshot.attributes, image_id)
    if live is not None:
        fate = Fate.LIVE if refusal is None else Fate.STALE
    elif refusal is not None:
        fate = Fate.REJECTED
    else:
        fate = Fate.UNKNOWN if attributes is None else Fate.DELETED
    return Explanation(
        image_id=image_id,
        fate=fate,
        row=None if live is None else _row(snapshot, live),
        refusal=refusal,
        attributes=attributes,
    )


def _row(snapshot: OpenSnapshot, live: dict[str, Any]) -> dict[str, Any]:
    """The live row with the part it lies in and the snapshot that first had it."""
    part = snapshot.content.parts[live["part"]]
    return {
        "version": live["version"],
        "content_digest": live["content_digest"],
        "part": None if part.embeddings is None else part.embeddings.key,
        "row": live["row"],
        "since": part.since,
    }


def _first(table: pa.Table, image_id: str) -> dict[str, Any] | None:
    found = table.filter(pc.equal(table["image_id"], image_id)).slice(0, 1).to_pylist()
    return found[0] if found else None
