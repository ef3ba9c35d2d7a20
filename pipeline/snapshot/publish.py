"""Publication: the creation, only if absent, of the next small snapshot object. Nothing is edited in place.

Readers find the newest snapshot by probing upwards from a hint that is never trusted; sequences have no gaps,
because the next one is only ever created after its predecessor was seen. A loser of a race finds out who won:
the same digest is success, another one means planning again on top of it.
"""

import contextlib
from dataclasses import dataclass

from pipeline.errors import CommitConflict, StorageError, StoreMismatch, UsageError
from pipeline.snapshot.expired import expiry
from pipeline.snapshot.manifest import Manifest, Rollback, load, save
from pipeline.storage import layout
from pipeline.storage.commit import commit
from pipeline.storage.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Which snapshot now holds the content; ``published`` is False if it was there already."""

    manifest: Manifest
    published: bool


def newest_sequence(store: ObjectStore, collection: str) -> int:
    """The sequence of the newest snapshot, 0 if there is none. No listing is trusted, no hint believed."""
    low = _hint(store, collection)
    step = 1
    while _exists(store, collection, low + step):
        low += step
        step *= 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _exists(store, collection, middle) else (low, middle)
    return low


def newest(store: ObjectStore, collection: str) -> Manifest | None:
    """The newest snapshot of the collection, None before the first publication."""
    sequence = newest_sequence(store, collection)
    return load(store, layout.snapshot(collection, sequence)) if sequence else None


def snapshot(store: ObjectStore, collection: str, sequence: int | None = None) -> Manifest:
    """The snapshot with this sequence, or the newest, to be opened.

    Raises:
        StoreMismatch: there is no such snapshot, or it has expired: its files may be gone.
    """
    manifest = manifest_of(store, collection, sequence)
    gone = None if sequence is None else expiry(store, collection, sequence)
    if gone is not None:
        raise StoreMismatch(
            f"snapshot {sequence} of {collection!r} {gone}; its files may be gone",
            fix="see which are retained with `bitsieve snapshots list`",
        )
    return manifest


def manifest_of(store: ObjectStore, collection: str, sequence: int | None = None) -> Manifest:
    """What is on record of the snapshot with this sequence, or the newest; it may have expired.

    Raises:
        StoreMismatch: there is no such snapshot.
    """
    newest_one = newest_sequence(store, collection)
    wanted = newest_one if sequence is None else sequence
    if not 1 <= wanted <= newest_one:
        which = "no snapshot yet" if newest_one == 0 else f"snapshots 1 to {newest_one}"
        raise StoreMismatch(
            f"collection {collection!r} in {store.uri} has {which}"
            + (f", not {sequence}" if sequence is not None else ""),
            fix="publish one with `bitsieve reindex`, or look with `bitsieve snapshots list`",
        )
    return load(store, layout.snapshot(collection, wanted))


def publish(store: ObjectStore, candidate: Manifest) -> Published:
    """Publishes ``candidate`` as the successor of its parent.

    Raises:
        CommitConflict: somebody else published other content first; plan again on top of it.
        OutcomeUnknown: see ``storage.commit``; nothing is deleted.
    """
    sequence = (candidate.parent or 0) + 1
    manifest = candidate.model_copy(update={"sequence": sequence})
    key = layout.snapshot(candidate.collection, sequence)
    if commit(store, key, save(store, manifest)):
        with contextlib.suppress(StorageError):  # only a hint
            store.put(layout.latest(candidate.collection), str(sequence).encode())
        return Published(manifest=manifest, published=True)
    winner = load(store, key)
    if winner.digest == manifest.digest:
        return Published(manifest=winner, published=False)
    raise CommitConflict(
        f"snapshot {sequence} of {candidate.collection!r} was published by run {winner.run_id} first",
        fix="run again: the work done is kept, only the plan is made anew",
    )


def rollback(
    store: ObjectStore, collection: str, to: int, *, reason: str, run_id: str, created: str
) -> Published:
    """Publishes the content of snapshot ``to`` again as the next snapshot.

    What was published after ``to`` is refused from now on, by its digest and by its live rows (gate
    ``not_rolled_back``): the next night over an unchanged source does not bring it back.

    Raises:
        UsageError: ``to`` is the newest snapshot already.
        CommitConflict: somebody published meanwhile; look, and run again.
    """
    last = snapshot(store, collection)
    wanted = snapshot(store, collection, to)
    if wanted.sequence == last.sequence:
        raise UsageError(f"snapshot {to} is the newest already", fix="name an earlier one with --to")
    taken_back = [manifest_of(store, collection, sequence) for sequence in range(to + 1, last.sequence + 1)]
    bad = {manifest.digest for manifest in taken_back} - {wanted.digest}
    refused = {*last.refused_digests, *bad} - {wanted.digest}
    bad_rows = {*last.refused_rows, *(manifest.content.rows_digest for manifest in taken_back)}
    return publish(
        store,
        wanted.model_copy(
            update={
                "parent": last.sequence,
                "run_id": run_id,
                "commit_id": run_id,
                "created": created,
                "refused_digests": sorted(refused),
                "refused_rows": sorted(bad_rows - {wanted.content.rows_digest}),
                "rollback": Rollback(
                    content_of=to, taken_back=[manifest.sequence for manifest in taken_back], reason=reason
                ),
            }
        ),
    )


def keep_candidate(store: ObjectStore, candidate: Manifest) -> str:
    """Stores a candidate that was not published, for a person to look at; returns its key."""
    key = layout.candidate(candidate.collection, candidate.run_id)
    store.put(key, save(store, candidate))
    return key


def _exists(store: ObjectStore, collection: str, sequence: int) -> bool:
    return store.stat(layout.snapshot(collection, sequence)) is not None


def _hint(store: ObjectStore, collection: str) -> int:
    try:
        text = store.get(layout.latest(collection))[:24]
        sequence = int(text)
    except (StorageError, ValueError):
        return 0
    return sequence if sequence > 0 and _exists(store, collection, sequence) else 0
