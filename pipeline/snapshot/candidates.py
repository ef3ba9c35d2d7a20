"""Candidates: finished runs that are not published yet, and content of another collection.

Both become a snapshot by ``publish``, after the gates. A candidate was made on top of a certain snapshot; if
somebody has published since, its content would take that back, so it is refused: the run that made it has
left receipts, and doing it again costs little. Content of another collection replaces what stands whatever
that is, so a lost race only means judging it again against the new parent.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import CommitConflict, GateRefused, ObjectMissing, StoreMismatch
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.gates import judged_again, overridden, refusing
from pipeline.snapshot.manifest import Adopted, Content, GateRecord, Manifest, SourceRef, load
from pipeline.snapshot.publish import Published, newest, newest_sequence, publish, snapshot
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore

_ATTEMPTS = 3
_STAT_THREADS = 16
_MOST_NAMED = 10


def candidate_runs(store: ObjectStore, collection: str) -> list[str]:
    """The run ids of all candidates, newest first."""
    prefix = layout.candidates(collection)
    keys = [stat.key for stat in store.list_objects(prefix)]
    return sorted((key.removeprefix(prefix).removesuffix(".json") for key in keys), reverse=True)


def candidate(store: ObjectStore, collection: str, run_id: str) -> Manifest:
    """The candidate that run ``run_id`` left.

    Raises:
        StoreMismatch: there is none.
    """
    key = layout.candidate(collection, run_id)
    if store.stat(key) is None:
        known = candidate_runs(store, collection)[:_MOST_NAMED]
        raise StoreMismatch(
            f"collection {collection!r} in {store.uri} has no candidate of run {run_id!r}",
            fix=f"its candidates are of runs {', '.join(known)}" if known else "it has no candidates",
        )
    return load(store, key)


def promote(
    store: ObjectStore,
    collection: str,
    run_id: str,
    *,
    overrides: Mapping[str, str],
    commit_id: str,
    created: str,
) -> Published:
    """Publishes the candidate of ``run_id``; one that is published already stays so.

    Raises:
        StoreMismatch: there is no such candidate.
        CommitConflict: the collection has moved on since the run looked at it.
        GateRefused: a gate fails that ``overrides`` (gate -> reason) does not name.
        ObjectMissing: the candidate's files are gone.
        OutcomeUnknown: see ``storage.commit``.
    """
    made = candidate(store, collection, run_id)
    last = newest_sequence(store, collection)
    for sequence in range((made.parent or 0) + 1, last + 1):
        present = load(store, layout.snapshot(collection, sequence))
        if present.run_id == run_id or (sequence == last and present.digest == made.digest):
            return Published(manifest=present, published=False)
    if last != (made.parent or 0):
        raise CommitConflict(
            f"collection {collection!r} is at snapshot {last}, run {run_id} planned on top of "
            f"{made.parent or 'nothing'}",
            fix="run the same backfill or reindex again: its work is kept, only the plan is made anew",
        )
    gates = overridden(made.gates, overrides)
    _check_gates(gates)
    _check_files(store, made.content)
    return publish(
        store, made.model_copy(update={"gates": gates, "commit_id": commit_id, "created": created})
    )


def adopt(
    store: ObjectStore,
    origin: str,
    sequence: int | None,
    collection: str,
    *,
    overrides: Mapping[str, str],
    run_id: str,
    created: str,
    replace_source: bool = False,
) -> Published:
    """Publishes the content of snapshot ``sequence`` (None: the newest) of ``origin`` in ``collection``.

    The files are shared. Parts count as published anew, so that nights of staleness begin here.

    Raises:
        StoreMismatch: there is no such snapshot, or it is of another source and ``replace_source`` is false.
        CommitConflict: three times somebody else published first.
        GateRefused, ObjectMissing, OutcomeUnknown: as in ``promote``.
    """
    wanted = snapshot(store, origin, sequence)
    _check_files(store, wanted.content)
    for attempt in range(1, _ATTEMPTS + 1):
        last = newest(store, collection)
        if last is not None and last.digest == wanted.digest:
            return Published(manifest=last, published=False)
        if last is not None and last.source.uri != wanted.source.uri and not replace_source:
            raise StoreMismatch(
                f"collection {collection!r} is made from {last.source.uri}, "
                f"{origin!r} from {wanted.source.uri}",
                fix="check --from and --to; pass --replace-source if the catalog has moved",
            )
        try:
            return publish(store, _adopted(wanted, last, collection, overrides, run_id, created))
        except CommitConflict:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError


def _adopted(
    wanted: Manifest,
    last: Manifest | None,
    collection: str,
    overrides: Mapping[str, str],
    run_id: str,
    created: str,
) -> Manifest:
    """``wanted`` as a candidate on top of ``last``, judged there."""
    refused_digests = [] if last is None else last.refused_digests
    refused_rows = [] if last is None else last.refused_rows
    gates = judged_again(
        wanted.gates,
        live_rows=wanted.content.live_rows,
        parent_live_rows=0 if last is None else last.content.live_rows,
        rolled_back=wanted.digest in refused_digests or wanted.content.rows_digest in refused_rows,
    )
    gates = overridden(gates, overrides)
    _check_gates(gates)
    since = 1 if last is None else last.sequence + 1
    parts = [part.model_copy(update={"since": since}) for part in wanted.content.parts]
    return wanted.model_copy(
        update={
            "collection": collection,
            "parent": None if last is None else last.sequence,
            "run_id": run_id,
            "commit_id": run_id,
            "created": created,
            "source": _labelled(wanted, last),
            "content": wanted.content.model_copy(update={"parts": parts}),
            "gates": gates,
            "refused_digests": refused_digests,
            "refused_rows": refused_rows,
            "rollback": None,
            "adopted": Adopted(collection=wanted.collection, sequence=wanted.sequence),
        }
    )


def _labelled(wanted: Manifest, last: Manifest | None) -> SourceRef:
    """How ``wanted`` reads its source; where it was made without a label, that of the collection stays."""
    if last is None or wanted.source.label is not None:
        return wanted.source
    return wanted.source.model_copy(update={"label": last.source.label})


def _check_gates(gates: list[GateRecord]) -> None:
    refused = refusing(gates)
    if refused:
        said = "; ".join(f"{gate.name} ({gate.message})" for gate in refused)
        raise GateRefused(
            f"not published: {said}", fix="mend the cause, or publish with --override GATE=REASON"
        )


def _check_files(store: ObjectStore, content: Content) -> None:
    """A candidate may be weeks old: its files must still be there."""
    files = [one.file for one in snapshot_files(content)]
    with ThreadPoolExecutor(_STAT_THREADS) as threads:
        found = list(threads.map(store.stat, [file.key for file in files]))
    gone = [
        file.key
        for file, seen in zip(files, found, strict=True)
        if seen is None or seen.size_bytes != file.size_bytes
    ]
    if gone:
        raise ObjectMissing(
            f"{len(gone)} of {len(files)} files are missing or of another size in {store.uri}, "
            f"such as {gone[0]!r}",
            fix="run the same backfill or reindex again: it makes what is missing",
        )
