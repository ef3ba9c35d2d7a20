"""Deletes what nobody reaches any more, late and in an order in which a crash or a second run does no harm.

What is *reached*: everything that a retained snapshot or a candidate names, and the receipts of its tasks.

1. Snapshots beyond the retention are recorded as expired. Their manifests stay, listed as expired. Candidates
   that cannot be published any more, because their collection has moved on, go when they are as old.
2. Files that nobody reaches are written down under ``condemned/``; then their receipts are deleted, so that
   no run finds them from now on. Nothing younger than the age guard is condemned, by the store's own clock,
   and nothing while a run is at work, which may hold a receipt that it has read.
3. A day later, at the earliest, the files of such a list are deleted, unless they are reached again, or named
   by a receipt, or a run began before they were condemned and has not ended.
4. What killed writers left goes once it is older than the guard.

Of the listings of one tar or Parquet file the newest stays: no manifest says which are in use, and whoever
needs an older one walks the file again. Lists of parts and requests are never deleted.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.fingerprint import sealed, unsealed
from pipeline.snapshot.expired import record_expired
from pipeline.snapshot.followed import LISTINGS, followed_listings, overtaken_candidates
from pipeline.snapshot.reach import Published, Reach, SnapshotName, reach_of, read_published
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile, Receipt, stored_receipt
from pipeline.storage.store import ObjectStat, ObjectStore

DAY_S = 86_400.0
GRACE_S = DAY_S
"""How long condemned files stay after their receipts."""
_SILENT_S = DAY_S
"""A run writes how far it is every ten seconds; after a day of silence it holds no receipts."""
_DEAD_S = 14 * DAY_S
"""A run that was frozen so long does not publish any more."""
_DATA = ("embeddings/", "rejects/", "attributes/", "encoders/", "index/", "deletes/", "listings/", "models/")
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept: the newest ``keep_last`` snapshots, and whatever is younger than ``older_than_s``."""

    keep_last: int
    older_than_s: float
    min_age_s: float = 7 * DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """A run that has not ended: when it began and when it was last heard of, by the store's clock."""

    run_id: str
    began_s: float
    heard_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """What is to be done, in this order. ``busy`` are the runs for which nothing is condemned this time."""

    snapshots: tuple[SnapshotName, ...]
    candidates: tuple[ObjectStat, ...]
    condemned: tuple[ObjectStat, ...]
    receipts: tuple[ObjectStat, ...]
    due: tuple[ObjectStat, ...]
    lists_done: tuple[str, ...]
    leftovers: tuple[ObjectStat, ...]
    unfinished: tuple[ObjectStat, ...]
    busy: tuple[RunSeen, ...]

    @property
    def deleted_bytes(self) -> int:
        """The bytes that go now."""
        gone = (*self.candidates, *self.receipts, *self.due, *self.leftovers)
        return sum(stat.size_bytes for stat in gone)


def plan_expiry(store: ObjectStore, collection: str, retention: Retention, now_s: float) -> Expiry:
    """What would be deleted now; changes nothing.

    Args:
        store: all of it is looked at.
        collection: whose snapshots may expire; those of others are reached as they are.
        retention: what is kept.
        now_s: the store's clock.

    Raises:
        DataCorrupt: a manifest, receipt or list cannot be read: then nothing is deleted.
    """
    objects = {stat.key: stat for stat in store.list_objects()}
    published = read_published(store, objects)
    snapshots = tuple(_expiring(published, objects, collection, retention, now_s))
    runs = runs_seen(store, objects, now_s)
    busy = tuple(run for run in runs if now_s - run.heard_s < _SILENT_S)
    old_s = max(retention.older_than_s, retention.min_age_s)
    overtaken = {} if busy else overtaken_candidates(published, objects, collection, now_s - old_s)
    kept = [one for name, one in published.retained.items() if name not in snapshots]
    waiting_candidates = [one for key, one in published.candidates.items() if key not in overtaken]
    reach = reach_of([*kept, *waiting_candidates])
    once = reach_of(published.snapshots.values())
    receipts_of = _receipts_at(store, [key for key in objects if key.startswith(layout.RECEIPTS)])
    named = {key: _named(receipt) for key, receipt in receipts_of.items()}
    old_listings = followed_listings(receipts_of, objects, now_s - retention.min_age_s)

    def is_older(stat: ObjectStat, age_s: float) -> bool:
        return now_s - stat.modified_s >= age_s

    receipts = [
        objects[key]
        for key, files in named.items()
        if key in old_listings
        or (
            _is_lost(key, files, reach)
            and is_older(objects[key], retention.min_age_s if _was_reached(key, files, once) else old_s)
        )
    ]
    lost = {stat.key for stat in receipts}
    still_named = {file for key, files in named.items() if key not in lost for file in files}
    all_named = {file for files in named.values() for file in files}
    due, lists_done, waiting = _due(store, objects, reach, all_named, runs, now_s)
    needed = reach.files | still_named | waiting | {stat.key for stat in due}
    condemned = [
        stat
        for stat in objects.values()
        if stat.key.startswith(_DATA)
        and stat.key not in needed
        and is_older(stat, old_s if stat.key.startswith("models/") else retention.min_age_s)
    ]
    return Expiry(
        snapshots=snapshots,
        candidates=tuple(overtaken.values()),
        condemned=() if busy else tuple(condemned),
        receipts=() if busy else tuple(receipts),
        due=tuple(due),
        lists_done=tuple(lists_done),
        leftovers=tuple(_leftovers(objects, {run.run_id for run in runs}, now_s, retention.min_age_s, old_s)),
        unfinished=tuple(one for one in store.unfinished() if is_older(one, retention.min_age_s)),
        busy=busy,
    )


def carry_out(store: ObjectStore, expiry: Expiry, run_id: str, *, when: str, reason: str) -> None:
    """Does what ``plan_expiry`` planned just before; may be broken off anywhere and planned again.

    A run that began since the plan keeps everything that would be condemned.
    """
    for collection, sequence in expiry.snapshots:
        record_expired(store, collection, sequence, when=when, reason=reason)
    now_s = server_now_s(store, run_id)
    runs = runs_seen(store, {stat.key: stat for stat in store.list_objects(layout.RUNS)}, now_s)
    if not any(now_s - run.heard_s < _SILENT_S for run in runs):
        delete_all(store, [stat.key for stat in expiry.candidates])
        condemn(store, run_id, [stat.key for stat in expiry.condemned])
        delete_all(store, [stat.key for stat in expiry.receipts])
    delete_all(store, [stat.key for stat in (*expiry.due, *expiry.leftovers)])
    delete_all(store, expiry.lists_done)
    for write in expiry.unfinished:
        store.delete_unfinished(write)


def condemn(store: ObjectStore, run_id: str, keys: Sequence[str]) -> None:
    """Writes files down to be deleted after the grace; their receipts are deleted next."""
    if keys:
        store.create(layout.condemned(run_id), sealed({"files": sorted(keys)}))


def server_now_s(store: ObjectStore, run_id: str) -> float:
    """The store's clock, seconds since 1970: the time of an object that is written for it."""
    key = f"{layout.probe(run_id)}clock"
    store.put(key, b"")
    stat = store.stat(key)
    store.delete(key)
    if stat is None:
        raise DataCorrupt(
            f"{store.uri} lost {key} as soon as it was written", fix="see what else deletes there"
        )
    return stat.modified_s


def _expiring(
    published: Published,
    objects: Mapping[str, ObjectStat],
    collection: str,
    retention: Retention,
    now_s: float,
) -> Iterable[SnapshotName]:
    """Snapshots that are neither among the newest nor young; the newest of all never expires."""
    newest = published.newest.get(collection, 0)
    for name in sorted(published.retained):
        age_s = now_s - objects[layout.snapshot(*name)].modified_s
        is_recent = name[1] > newest - max(1, retention.keep_last)
        if name[0] == collection and not is_recent and age_s >= retention.older_than_s:
            yield name


def files_of_receipts(store: ObjectStore, receipts: Sequence[str]) -> dict[str, tuple[DataFile, ...]]:
    """The files that each receipt names; a receipt that goes meanwhile names none.

    Raises:
        DataCorrupt: one is no receipt.
    """
    found = _receipts_at(store, receipts)
    return {key: () if one is None else tuple(one.files.values()) for key, one in found.items()}


def _receipts_at(store: ObjectStore, keys: Sequence[str]) -> dict[str, Receipt | None]:
    with ThreadPoolExecutor(_THREADS, "receipts") as threads:
        return dict(zip(keys, threads.map(lambda key: stored_receipt(store, key), keys), strict=True))


def _named(receipt: Receipt | None) -> tuple[str, ...]:
    return () if receipt is None else tuple(file.key for file in receipt.files.values())


def _is_lost(receipt: str, files: Sequence[str], reach: Reach) -> bool:
    names = layout.receipt_names(receipt)
    if names is None or names[0] == LISTINGS:
        return False
    return names[1] not in reach.tasks and reach.files.isdisjoint(files)


def _was_reached(receipt: str, files: Sequence[str], once: Reach) -> bool:
    """Whether some snapshot ever reached it: then it is no work of a backfill that is to go on."""
    return not _is_lost(receipt, files, once)


def _due(
    store: ObjectStore,
    objects: Mapping[str, ObjectStat],
    reach: Reach,
    named: set[str],
    runs: Sequence[RunSeen],
    now_s: float,
) -> tuple[list[ObjectStat], list[str], set[str]]:
    """Condemned files whose time has come, the lists that are done with then, and files that have to wait."""
    due: dict[str, ObjectStat] = {}
    done, waiting = [], set()
    for key in sorted(key for key in objects if key.startswith(layout.CONDEMNED)):
        condemned_s = objects[key].modified_s
        files = _condemned_files(store, key)
        if now_s - condemned_s < GRACE_S or any(run.began_s <= condemned_s for run in runs):
            waiting |= set(files)
            continue
        done.append(key)
        for file in files:
            if file in objects and file not in reach.files and file not in named:
                due[file] = objects[file]
    return list(due.values()), done, waiting


def _condemned_files(store: ObjectStore, key: str) -> list[str]:
    try:
        files = unsealed(json.loads(store.get(key)))["files"]
    except ObjectMissing:
        return []  # another run is done with it
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DataCorrupt(f"{key} in {store.uri} is no list of files: {exc}", fix="delete it") from exc
    return [str(file) for file in files]


def runs_seen(store: ObjectStore, objects: Mapping[str, ObjectStat], now_s: float) -> list[RunSeen]:
    """Runs that have not said how they ended and were heard of in the last fourteen days."""
    seen: dict[str, list[float]] = {}
    for key, stat in objects.items():
        if key.startswith(layout.RUNS):
            seen.setdefault(key.removeprefix(layout.RUNS).partition("/")[0], []).append(stat.modified_s)
    recent = {run_id: times for run_id, times in seen.items() if now_s - max(times) < _DEAD_S}
    return [
        RunSeen(run_id=run_id, began_s=min(times), heard_s=max(times))
        for run_id, times in recent.items()
        if not _has_ended(store, run_id)
    ]


def _has_ended(store: ObjectStore, run_id: str) -> bool:
    try:
        return bool(json.loads(store.get(layout.run_progress(run_id))).get("ended"))
    except (ObjectMissing, ValueError, AttributeError):
        return False


def _leftovers(
    objects: Mapping[str, ObjectStat], alive: set[str], now_s: float, min_age_s: float, old_s: float
) -> Iterable[ObjectStat]:
    """Objects of store probes that were killed, of predictions, and of runs that ended long ago."""
    heard: dict[str, float] = {}
    for key, stat in objects.items():
        run_id = key.removeprefix(layout.RUNS).partition("/")[0]
        heard[run_id] = max(stat.modified_s, heard.get(run_id, 0.0))
    for key, stat in objects.items():
        run_id = key.removeprefix(layout.RUNS).partition("/")[0]
        is_old_run = key.startswith(layout.RUNS) and run_id not in alive and now_s - heard[run_id] >= old_s
        is_old_probe = key.startswith(layout.PROBES) and now_s - stat.modified_s >= min_age_s
        is_old_prediction = key.startswith(layout.PREDICTIONS) and now_s - stat.modified_s >= old_s
        if is_old_run or is_old_probe or is_old_prediction:
            yield stat


def delete_all(store: ObjectStore, keys: Sequence[str]) -> None:
    """Deletes objects, several at a time."""
    with ThreadPoolExecutor(_THREADS, "delete") as threads:
        for _ in threads.map(store.delete, keys):
            pass
