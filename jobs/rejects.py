"""``bitsieve rejects``: which images are not in the index and why, and asking for another try."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, Store, find_place
from jobs.run import default_cache, new_run_id, utc_now
from pipeline.errors import UsageError
from pipeline.snapshot.publish import snapshot
from pipeline.snapshot.refusals import refused_images
from pipeline.snapshot.requeue import write_request
from pipeline.storage.store import ObjectStore
from pipeline.values import RejectReason

_SAMPLES = 10


def command(
    store: Store,
    collection: Collection = None,
    config: Config = None,
    reason: Annotated[str | None, typer.Option(help="All images refused for this reason.")] = None,
    requeue: Annotated[
        list[str] | None, typer.Option(help="Let the next run try this reason again; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The images that the newest snapshot refused: counts by reason, with samples.

    Example: bitsieve rejects --store index/ --requeue decode_timeout
    """
    place = find_place(store, collection, config)
    opened = place.open()
    manifest = snapshot(opened, place.collection)
    wanted = [_reason(name) for name in requeue or []]
    only = None if reason is None else _reason(reason)
    refused = refused_images(opened, manifest.content, default_cache(os.environ))
    result: dict[str, Any] = {
        "collection": place.collection,
        "snapshot": manifest.sequence,
        "rejected": dict(manifest.content.rejected),
        "samples": _samples(refused, only),
        "requeued": _requeue(opened, place.collection, manifest.sequence, refused, wanted),
    }
    if only is not None:
        result["reason"] = only.value
        result["ids"] = _of(refused, only)["image_id"].to_pylist()
    print_result(result, _in_words(result), as_json=as_json)


def _reason(name: str) -> RejectReason:
    try:
        return RejectReason(name)
    except ValueError as exc:
        known = ", ".join(reason.value for reason in RejectReason)
        raise UsageError(f"{name!r} is not a reason for a reject", fix=f"reasons are {known}") from exc


def _of(refused: pa.Table, reason: RejectReason) -> pa.Table:
    return refused.filter(pc.equal(refused["reason"], reason.value))


def _samples(refused: pa.Table, only: RejectReason | None) -> dict[str, list[dict[str, Any]]]:
    found = set(refused["reason"].to_pylist())
    shown = [reason for reason in RejectReason if reason.value in found and only in (None, reason)]
    columns = ["image_id", "detail", "locator", "version", "content_digest", "size_bytes"]
    return {
        reason.value: _of(refused, reason).select(columns).slice(0, _SAMPLES).to_pylist() for reason in shown
    }


def _requeue(
    store: ObjectStore, collection: str, sequence: int, refused: pa.Table, wanted: Sequence[RejectReason]
) -> dict[str, int]:
    """Writes the requests; how many images each speaks of. The listing's own refusals need none."""
    counts = {}
    for reason in dict.fromkeys(wanted):
        rows = _of(refused, reason)
        counts[reason.value] = rows.num_rows - (pc.sum(rows["in_listing"]).as_py() or 0)
        if counts[reason.value]:
            write_request(store, collection, sequence, reason, new_run_id(utc_now()))
    return counts


def _in_words(result: Mapping[str, Any]) -> str:
    if "ids" in result and not result["requeued"]:
        return "\n".join(result["ids"])
    rejected: Mapping[str, int] = result["rejected"]
    total = sum(rejected.values())
    lines = [f"snapshot {result['snapshot']} of {result['collection']} refused {total} images"]
    for reason, count in sorted(rejected.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"{count:>9}  {reason}")
        samples = result["samples"].get(reason, [])
        lines += [f"{'':11}{sample['image_id']}: {sample['detail']}" for sample in samples]
    for reason, count in result["requeued"].items():
        said = "the next run tries them again" if count else "nothing to try again: the listing judges anew"
        lines.append(f"requeued {count} images refused as {reason}: {said}")
    return "\n".join(lines)
