"""``bitsieve explain``: why an image is missing, old or rejected."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.output import AsJson, print_result, visible
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from pipeline.snapshot.explain import Explanation, Fate, explain
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.purge import id_digest, purged_digests

_SAYS = {
    Fate.LIVE: "is in the index",
    Fate.STALE: "is in the index with an older vector: its new bytes were refused",
    Fate.REJECTED: "is not in the index: its bytes were refused",
    Fate.DELETED: "was in the catalog once and is listed no more",
    Fate.UNKNOWN: "is unknown: no listing up to this snapshot had it under this id",
}


def command(
    image_id: Annotated[str, typer.Argument(metavar="ID", help="The image's id, as `search` prints it.")],
    store: Store,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    as_json: AsJson = False,
) -> None:
    """Why an image is missing, old or rejected, with the evidence.

    Example: bitsieve explain shoes/1234.jpg --store index/
    """
    snapshot = find_place(store, collection, config).snapshot(sequence)
    found = explain(snapshot, image_id)
    result = {
        "collection": snapshot.manifest.collection,
        "snapshot": snapshot.manifest.sequence,
        "id": image_id,
        **{name: value for name, value in asdict(found).items() if name != "image_id"},
        "advice": _advice(snapshot, found),
    }
    print_result(result, _in_words(snapshot, found, result["advice"]), as_json=as_json)


def _advice(snapshot: OpenSnapshot, found: Explanation) -> str:
    """What to do about it; empty where all is well."""
    if found.refusal is not None and found.refusal["in_listing"]:
        return "mend the source; the next run lists it anew"
    if found.refusal is not None:
        reason = found.refusal["reason"]
        return f"mend the image, or let the next run try it again: bitsieve rejects --requeue {reason}"
    if found.fate in (Fate.DELETED, Fate.UNKNOWN):
        if id_digest(found.image_id) in purged_digests(snapshot.store):
            return "it was purged, so no night lists it; `bitsieve purge --forget` lets it in again"
        return "check the id, and --include, --exclude and --id-template of the collection's runs"
    return ""


def _in_words(snapshot: OpenSnapshot, found: Explanation, advice: str) -> str:
    manifest = snapshot.manifest
    where = f"(snapshot {manifest.sequence} of {manifest.collection})"
    head = f"{visible(found.image_id)} {_SAYS[found.fate]} {where}"
    sections: list[tuple[str, dict[str, Any] | None]] = [
        ("vector", found.row),
        ("refused", found.refusal),
        ("attributes", found.attributes),
    ]
    lines = [
        f"  {title:<11}{name}: {visible(str(value))}"
        for title, fields in sections
        if fields is not None
        for name, value in fields.items()
        if value is not None and name != "image_id"
    ]
    return "\n".join([head, *lines, *([f"  {advice}"] if advice else [])])
