"""``bitsieve evaluate history``: how a collection went, night by night, from its manifests and events."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.evaluate.history_words import history_in_words
from jobs.evaluate.page import Page, write_page
from jobs.output import AsJson, print_result, say
from jobs.place import Collection, Config, Store, find_place
from jobs.session import open_snapshot
from pipeline.errors import StorageError, StoreMismatch
from pipeline.evaluate.history import Night, below_target, unusual_nights
from pipeline.evaluate.report.history_page import history_document
from pipeline.snapshot.manifest import Manifest, load
from pipeline.snapshot.publish import newest_sequence
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore


def command(
    store: Store,
    nights: Annotated[int, typer.Option("--last", min=1, help="How many snapshots, the newest.")] = 90,
    collection: Collection = None,
    config: Config = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Images, recall, rejects, drift, churn and seconds of every night, and which night is unlike the others.

    Example: bitsieve evaluate history --store index/ --last 30 -o history.html
    """
    place = find_place(store, collection, config)
    found = read_nights(place.open(), place.collection, nights)
    result = {
        "collection": place.collection,
        "nights": [night.to_json() for night in found],
        "unusual": [asdict(one) for one in unusual_nights(found)],
        "below_target": [night.snapshot for night in below_target(found)],
    }
    if output is not None:
        snapshot = open_snapshot(place.uri, place.collection, None)
        write_page(output, history_document(place.collection, found), result, snapshot)
    print_result(result, history_in_words(place.collection, found), as_json=as_json)


def read_nights(store: ObjectStore, collection: str, n: int) -> list[Night]:
    """The last ``n`` snapshots, oldest first; those that have expired are on record too.

    Raises:
        StoreMismatch: nothing is published.
    """
    last = newest_sequence(store, collection)
    if not last:
        raise StoreMismatch(
            f"collection {collection!r} in {store.uri} has no snapshot yet",
            fix="publish one with `bitsieve reindex`",
        )
    sequences = range(max(1, last - n + 1), last + 1)
    return [_night(store, load(store, layout.snapshot(collection, one))) for one in sequences]


def _night(store: ObjectStore, manifest: Manifest) -> Night:
    content, coverage, point = manifest.content, manifest.coverage, manifest.content.operating_point()
    recall = point.ann_recall.get(point.k)
    reported = _reported(store, manifest.run_id)
    churn = reported.get("neighbour_churn")
    return Night(
        snapshot=manifest.sequence,
        created=manifest.created,
        model_id=content.model.id,
        method=point.method,
        images=content.live_rows,
        embedded=coverage.embedded,
        reused=coverage.reused,
        stale=coverage.stale,
        rejected=coverage.rejected,
        deleted=coverage.deleted,
        k=point.k,
        recall=None if recall is None else recall.mean,
        recall_low=None if recall is None else recall.low,
        recall_high=None if recall is None else recall.high,
        target=point.target,
        candidates=point.candidates.get(point.k),
        seconds=manifest.seconds,
        mean_shift=reported.get("mean_shift"),
        bit_imbalance=reported.get("bit_imbalance"),
        churn=churn["share"] if churn else None,
        overridden=tuple(gate.name for gate in manifest.gates if gate.override is not None),
        note=_note(manifest),
    )


def _note(manifest: Manifest) -> str:
    if manifest.rollback is not None:
        return f"rollback to {manifest.rollback.content_of}"
    if manifest.adopted is not None:
        return f"from {manifest.adopted.collection}@{manifest.adopted.sequence}"
    return ""


def _reported(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """The night's report among the events of a run; empty if nobody kept it. It stands near their end."""
    try:
        batches = sorted(item.key for item in store.list_objects(layout.events_of(run_id)))
        for key in reversed(batches):
            for line in reversed(store.get(key).decode().splitlines()):
                event = json.loads(line)
                if event.get("event") == "reported":
                    return dict(event)
    except (StorageError, ValueError) as exc:
        say(f"bitsieve: warning: the events of run {run_id} cannot be read: {exc}")
    return {}
