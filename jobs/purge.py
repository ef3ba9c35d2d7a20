"""``bitsieve purge``: takes an image out of every retained snapshot, and out of the store a day later."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from jobs.output import AsJson, print_result, visible
from jobs.place import Config, Store, find_place
from jobs.progress import TerminalProgress
from jobs.rebuild import coverage_of, publish_rebuilt, rebuilt
from jobs.run import default_cache, new_run_id, utc_now
from pipeline.errors import CommitConflict, UsageError
from pipeline.progress import Progress
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.expire import (
    GRACE_S,
    condemn,
    delete_all,
    files_of_receipts,
    runs_seen,
    server_now_s,
)
from pipeline.snapshot.expired import record_expired
from pipeline.snapshot.manifest import Content, Manifest
from pipeline.snapshot.publish import newest
from pipeline.snapshot.purge import (
    fewer_rejected,
    forget,
    held_ids,
    id_digest,
    ids_array,
    remember,
    rewrite_layer,
    rewrite_listing_rejects,
    rewrite_part,
)
from pipeline.snapshot.reach import reach_of, read_published
from pipeline.snapshot.refusals import refused_images
from pipeline.snapshot.rows import Mask, dead_masks, live_rows
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile
from pipeline.storage.store import ObjectStore

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """What to purge, from where, and why."""

    store: ObjectStore
    ids: tuple[str, ...]
    reason: str
    run_id: str
    now: datetime
    cache: Path
    progress: Progress
    forget: bool = False


def command(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, as `search` prints them.")],
    store: Store,
    reason: Annotated[str, typer.Option(help="Why; recorded. It should not name the image.")],
    forget_: Annotated[
        bool, typer.Option("--forget", help="Do not remember: the next night may bring it back.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Removes images from every collection of the store, and says until when which files still hold them.

    Example: bitsieve purge photos/1234.jpg --store index/ --reason "asked for by the owner"
    """
    if not reason.strip():
        raise UsageError("a purge needs a reason", fix="pass --reason")
    now = utc_now()
    with TerminalProgress() as progress:
        result = purge(
            Purge(
                store=find_place(store, None, config).open(),
                ids=tuple(dict.fromkeys(ids)),
                reason=reason,
                run_id=new_run_id(now),
                now=now,
                cache=default_cache(os.environ),
                progress=progress,
                forget=forget_,
            )
        )
    print_result(result, in_words(result), as_json=as_json)


def purge(order: Purge) -> dict[str, Any]:
    """Carries the order out in every collection; may be broken off anywhere and given again.

    1. Remember the images, so that no night lists them from now on.
    2. Publish each collection's newest snapshot anew without them.
    3. Expire every other snapshot that holds them, and delete candidates that do.
    4. Condemn every file that holds them, delete the receipts that name it; `bitsieve expire` deletes the
       file a day later.

    Raises:
        DataCorrupt: a manifest, receipt or table cannot be read: what holds the images cannot be told.
        CommitConflict: somebody publishes again and again.
    """
    store = order.store
    names = sorted({name for name, _ in read_published(store, _keys(store)).snapshots})
    for name in names:
        if order.forget:
            forget(store, name, order.ids)
        else:
            remember(store, name, order.ids, when=order.now.isoformat(), reason=order.reason)
    collections = {name: _publish_without(order, name) for name in names}
    return {**_condemn(order), "images": len(order.ids), "collections": collections}


def in_words(result: Mapping[str, Any]) -> str:
    """What was published and expired, and what still holds the images until when."""
    lines = []
    for name, found in result["collections"].items():
        if found["snapshot"] is None:
            lines.append(f"{name}: the newest snapshot does not hold them")
        else:
            lines.append(f"{name}: published snapshot {found['snapshot']} without {found['removed']} rows")
    lines += [f"{name}: snapshot {sequence} expired" for name, sequence in result["expired"]]
    lines += [f"deleted the candidate {key}" for key in result["candidates"]]
    if result["files"]:
        lines.append(f"these hold them until `bitsieve expire --delete` is run after {result['held_until']}:")
        lines += [f"    {visible(key)}" for key in result["files"]]
    lines += [
        f"no file of this store holds {visible(one)}: is it gone already, or spelled otherwise? see "
        "`bitsieve explain`"
        for one in result["unknown"]
    ]
    for run_id in result["at_work"]:
        lines.append(f"run {run_id} is at work and may store them again: purge once more when it has ended")
    return "\n".join(lines)


def _publish_without(order: Purge, collection: str) -> dict[str, Any]:
    for attempt in range(_ATTEMPTS):
        parent = newest(order.store, collection)
        if parent is None:
            break
        ids = ids_array(order.ids)
        held = _holding(order, (one.file for one in snapshot_files(parent.content)), ids)
        if not held:
            break
        try:
            return _publish(order, parent, ids, held, attempt)
        except CommitConflict:
            if attempt == _ATTEMPTS - 1:
                raise
    return {"snapshot": None, "removed": 0}


def _publish(order: Purge, parent: Manifest, ids: pa.Array, held: set[str], attempt: int) -> dict[str, Any]:
    content, masks = _without(order, parent.content, ids, held)
    content = rebuilt(order.store, content, masks, order.cache, order.progress)
    removed = parent.content.live_rows - content.live_rows
    run_id = f"{order.run_id}-{parent.collection}-{attempt}"
    stale = parent.coverage.stale - _n_stale(order, parent.content, ids)
    coverage = coverage_of(parent.coverage, content, deleted=removed, n_stale=max(0, stale))
    published = publish_rebuilt(
        order.store, parent, content, coverage, run_id=run_id, now=order.now, reason=f"purge: {order.reason}"
    )
    return {"snapshot": published.manifest.sequence, "removed": removed}


def _without(
    order: Purge, content: Content, ids: pa.Array, held: set[str]
) -> tuple[Content, dict[str, Mask]]:
    """The content with parts, attributes and rejects rewritten; index shards of rewritten parts left out."""
    store, cache = order.store, order.cache
    before, masks, parts = dead_masks(store, content, cache), {}, []
    for part in content.parts:
        if held.isdisjoint(file.key for file in (part.embeddings, part.rejects) if file is not None):
            parts.append(part)
            masks[part.key] = before[part.key]
            continue
        rewritten = rewrite_part(store, part, before[part.key], ids, cache)
        if rewritten.part is not None:
            parts.append(rewritten.part)
            masks[rewritten.part.key] = rewritten.mask
    listing = content.listing_rejects
    refused = refused_images(store, content, cache)
    return content.model_copy(
        update={
            "parts": parts,
            "index_shards": [shard for shard in content.index_shards if masks.keys() >= set(shard.parts)],
            "attributes": [
                rewrite_layer(store, layer, ids, cache) if layer.file.key in held else layer
                for layer in content.attributes
            ],
            "listing_rejects": rewrite_listing_rejects(store, listing, ids, cache)
            if listing is not None and listing.key in held
            else listing,
            "rejected": fewer_rejected(
                content.rejected, refused.filter(pc.is_in(refused["image_id"], value_set=ids))
            ),
        }
    ), masks


def _n_stale(order: Purge, content: Content, ids: pa.Array) -> int:
    """How many of the images are live with an older vector."""
    refused = refused_images(order.store, content, order.cache)
    live = live_rows(order.store, content.parts, dead_masks(order.store, content, order.cache), order.cache)
    stale = pc.and_(
        pc.is_in(refused["image_id"], value_set=ids),
        pc.is_in(refused["image_id"], value_set=live["image_id"].combine_chunks()),
    )
    return int(pc.sum(stale).as_py() or 0)


def _condemn(order: Purge) -> dict[str, Any]:
    """Expires what still names the images, and condemns all that holds them."""
    store, ids = order.store, ids_array(order.ids)
    keys = _keys(store)
    published = read_published(store, keys)
    receipts = files_of_receipts(store, [key for key in keys if key.startswith(layout.RECEIPTS)])
    manifests = [*published.snapshots.values(), *published.candidates.values()]
    groups = [[one.file for one in snapshot_files(manifest.content)] for manifest in manifests]
    present = set(keys)
    files = {
        file.key: file for group in (*groups, *receipts.values()) for file in group if file.key in present
    }
    found = {file.key: held_ids(store, file, ids, order.cache) for file in files.values()}
    held = {key for key, images in found.items() if images}
    held |= _siblings(manifests, receipts, held) & present
    expired = [
        name
        for name, manifest in sorted(published.retained.items())
        if published.newest[name[0]] != name[1] and not held.isdisjoint(reach_of([manifest]).files)
    ]
    for name in expired:
        record_expired(
            store, *name, when=order.now.isoformat(), reason=f"it held a purged image ({order.reason})"
        )
    candidates = [
        key
        for key, manifest in published.candidates.items()
        if not held.isdisjoint(reach_of([manifest]).files)
    ]
    now_s = server_now_s(store, order.run_id)
    condemn(store, order.run_id, sorted(held))
    delete_all(
        store, [*candidates, *(key for key, named in receipts.items() if held & {f.key for f in named})]
    )
    objects = {stat.key: stat for stat in store.list_objects(layout.RUNS)}
    return {
        "expired": [list(name) for name in expired],
        "candidates": candidates,
        "files": sorted(held),
        "held_until": datetime.fromtimestamp(now_s + GRACE_S, UTC).isoformat(timespec="minutes"),
        "at_work": [run.run_id for run in runs_seen(store, objects, now_s)],
        "unknown": sorted(set(order.ids).difference(*found.values())),
        "remembered": [] if order.forget else sorted(id_digest(one) for one in order.ids),
    }


def _siblings(
    manifests: Sequence[Manifest], receipts: Mapping[str, Sequence[DataFile]], held: set[str]
) -> set[str]:
    """The other files of an index shard whose rows hold an image, and the bitmaps of a part that does."""
    found = {file.key for named in receipts.values() for file in named if _is_index(named, held)}
    for manifest in manifests:
        content = manifest.content
        for shard in content.index_shards:
            if shard.row_ids.key in held:
                found |= {file.key for _, file in shard if isinstance(file, DataFile)}
        parts = {part.key for part in content.parts if part.embeddings and part.embeddings.key in held}
        found |= {ref.file.key for ref in content.dead_rows if ref.part in parts}
    return found


def _is_index(named: Sequence[DataFile], held: set[str]) -> bool:
    return any(file.key in held and file.key.startswith("index/") for file in named)


def _holding(order: Purge, files: Any, ids: pa.Array) -> set[str]:
    return {file.key for file in files if held_ids(order.store, file, ids, order.cache)}


def _keys(store: ObjectStore) -> list[str]:
    return [stat.key for stat in store.list_objects()]
