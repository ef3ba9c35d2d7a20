"""``bitsieve verify --repair``: has damaged things made again.

1. Receipts that name anything damaged are deleted, so that nobody takes it for done.
2. Index shards and encoder are built again from the parts. Where the bytes come out as they were published,
   they are put back under the same name, and every snapshot that names it is whole again.
3. Else, and where a part or a layer of attributes is damaged, a snapshot without the damaged things is
   published; the next night finds their images new. Snapshots that stay damaged expire.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.rebuild import coverage_of, publish_rebuilt, rebuilt
from pipeline.progress import Progress
from pipeline.snapshot.expire import delete_all, files_of_receipts
from pipeline.snapshot.expired import record_expired
from pipeline.snapshot.findings import Finding
from pipeline.snapshot.manifest import Manifest
from pipeline.snapshot.reach import reach_of
from pipeline.snapshot.repair import Prescription, prescribe, remade, without
from pipeline.snapshot.rows import dead_masks
from pipeline.storage import layout
from pipeline.storage.receipts import fetch
from pipeline.storage.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Where, when and by whom."""

    store: ObjectStore
    run_id: str
    now: datetime
    cache: Path
    progress: Progress


def repair(order: Repair, retained: Sequence[Manifest], findings: Sequence[Finding]) -> dict[str, Any]:
    """Mends the newest of ``retained`` as far as that can be done; says what was done and what is left.

    Raises:
        CommitConflict: somebody published meanwhile; verify again.
    """
    manifest = retained[-1]
    todo = prescribe(manifest.content, findings)
    _delete_receipts(order.store, todo)
    delete_all(order.store, sorted(todo.models))
    content = without(manifest.content, todo)
    masks = dead_masks(order.store, content, order.cache)
    content = rebuilt(order.store, content, masks, order.cache, order.progress, refit=todo.encoder)
    healed = remade(manifest.content, content, todo.damaged)
    for key, file in healed.items():
        order.store.put_file(key, fetch(order.store, file, order.cache, verify=True))
    left = todo.damaged - healed.keys() - todo.models
    published = None
    if todo.leaves_out or not left.isdisjoint(reach_of([manifest]).files):
        lost = manifest.content.live_rows - content.live_rows
        published = publish_rebuilt(
            order.store,
            manifest,
            content,
            coverage_of(manifest.coverage, content, deleted=lost),
            run_id=order.run_id,
            now=order.now,
            reason="repair",
        ).manifest.sequence
    expired = [one for one in retained if not left.isdisjoint(reach_of([one]).files)]
    for one in expired:
        record_expired(
            order.store, one.collection, one.sequence, when=order.now.isoformat(), reason="it is damaged"
        )
    return {
        "put_back": sorted(healed),
        "published": published,
        "images_missing": manifest.content.live_rows - content.live_rows,
        "expired": [one.sequence for one in expired],
        "deleted": sorted(todo.models | todo.receipts),
        "hopeless": sorted({finding.key for finding in todo.hopeless} - reach_of(expired).files),
    }


def repair_in_words(done: Mapping[str, Any]) -> str:
    """What was done and what is left to do."""
    lines = [f"built again and put back: {key}" for key in done["put_back"]]
    lines += [f"deleted: {key}" for key in done["deleted"]]
    if done["published"] is not None:
        lines.append(
            f"published snapshot {done['published']}; {done['images_missing']} images are missing from it "
            "until the next `bitsieve reindex` makes them again"
        )
    lines += [f"snapshot {sequence} is damaged for good and has expired" for sequence in done["expired"]]
    if any(key.startswith("models/") for key in done["deleted"]):
        lines.append("pass the model to the next run: `bitsieve reindex --model FILE`")
    lines += [f"cannot be repaired, restore it from a copy of the store: {key}" for key in done["hopeless"]]
    return "\n".join(lines)


def _delete_receipts(store: ObjectStore, todo: Prescription) -> None:
    """First those that cannot be read, so that the others can be."""
    delete_all(store, sorted(todo.receipts))
    names = [stat.key for stat in store.list_objects(layout.RECEIPTS)]
    naming = {
        name
        for name, files in files_of_receipts(store, names).items()
        if not todo.damaged.isdisjoint(file.key for file in files)
    }
    delete_all(store, sorted(naming))
