"""The fsck of a store: is what is published whole, and does it agree with itself?

1. Snapshots of the collection: none is missing, each follows the one before it, a run occurs once.
2. Bytes: every file of the snapshots in question is read from the store and hashed.
3. Agreement: counts, ids, norms, encoder, codes, rows (`agreement`). Files found damaged are passed over.
4. Receipts: each is whole, and what it names is there. Adapters: each is whole.

Nothing is written. A failing store is an error, not a finding.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataCorrupt, ModelError, ObjectMissing, StoreMismatch
from pipeline.index.reduce import REDUCE_STAGE
from pipeline.model.adapter_file import damaged_adapters
from pipeline.model.file import read_model
from pipeline.progress import Progress
from pipeline.snapshot.agreement import Examiner
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.findings import Finding, Flaw, dependents, with_dependents
from pipeline.snapshot.manifest import Manifest, load
from pipeline.snapshot.stored import check_files
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile, read_receipt
from pipeline.storage.store import ObjectStore

_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was looked at, and what is wrong with it."""

    sequences: tuple[int, ...]
    n_files: int
    n_bytes: int
    n_rows: int
    n_receipts: int
    findings: tuple[Finding, ...]


def read_history(store: ObjectStore, collection: str) -> tuple[list[Manifest], list[Finding]]:
    """Every snapshot of the collection that can be read, oldest first, and what is wrong with the chain."""
    findings: list[Finding] = []
    manifests: dict[int, Manifest] = {}
    listed = _listed_sequences(store, collection)
    for sequence in range(1, max(listed, default=0) + 1):
        key = layout.snapshot(collection, sequence)
        try:
            manifests[sequence] = load(store, key)
        except ObjectMissing as exc:
            is_gap = sequence not in listed
            detail = "the snapshot is missing, later ones exist" if is_gap else exc.message
            findings.append(Finding(flaw=Flaw.CHAIN if is_gap else Flaw.MISSING, key=key, detail=detail))
        except (DataCorrupt, StoreMismatch) as exc:
            findings.append(Finding(flaw=Flaw.UNREADABLE, key=key, detail=exc.message))
    findings += _chain_findings(collection, list(manifests.items()))
    return list(manifests.values()), findings


def verify(
    store: ObjectStore, manifests: Sequence[Manifest], cache: Path, progress: Progress, *, deep: bool = False
) -> Verified:
    """Looks at everything that ``manifests`` name, and at every receipt and adapter of the store.

    Args:
        store: holds them.
        manifests: the snapshots in question.
        cache: folder of this machine for downloads.
        progress: told the bytes that were hashed.
        deep: compute every code again, not those of 256 rows of each index shard.
    """
    files = {one.file.key: one.file for manifest in manifests for one in snapshot_files(manifest.content)}
    findings = list(_bytes_findings(store, list(files.values()), progress))
    findings += _model_findings(store, {manifest.content.model.id for manifest in manifests})
    findings += [
        Finding(flaw=Flaw.UNREADABLE, key=key, detail=detail) for key, detail in damaged_adapters(store)
    ]
    examiner = Examiner(store=store, cache=cache, damaged={one.key for one in findings}, deep=deep)
    progress.stage("examine", len(manifests), "snapshots")
    for done, manifest in enumerate(manifests, start=1):
        findings += [*_count_findings(manifest), *examiner.examine(manifest)]
        progress.advance(done)
    names = [stat.key for stat in store.list_objects(layout.RECEIPTS)]
    findings += _receipt_findings(store, names, progress)
    findings += _unreceipted(manifests, set(names))
    return Verified(
        sequences=tuple(manifest.sequence for manifest in manifests),
        n_files=len(files),
        n_bytes=sum(file.size_bytes for file in files.values()),
        n_rows=examiner.n_rows,
        n_receipts=len(names),
        findings=with_dependents(findings, dependents(manifests)),
    )


def _listed_sequences(store: ObjectStore, collection: str) -> set[int]:
    prefix = layout.snapshots(collection)
    names = (stat.key.removeprefix(prefix).removesuffix(".json") for stat in store.list_objects(prefix))
    return {int(name) for name in names if name.isdecimal()}


def _chain_findings(collection: str, history: Sequence[tuple[int, Manifest]]) -> Iterator[Finding]:
    runs = Counter(manifest.run_id for _, manifest in history)
    for sequence, manifest in history:
        key = layout.snapshot(collection, sequence)
        if (manifest.collection, manifest.sequence) != (collection, sequence):
            detail = f"it says that it is snapshot {manifest.sequence} of {manifest.collection}"
            yield Finding(flaw=Flaw.CHAIN, key=key, detail=detail)
        if (manifest.parent or 0) != sequence - 1:
            detail = f"its parent is {manifest.parent}, expected {sequence - 1}"
            yield Finding(flaw=Flaw.CHAIN, key=key, detail=detail)
        if runs[manifest.run_id] > 1:
            detail = f"run {manifest.run_id} published {runs[manifest.run_id]} snapshots"
            yield Finding(flaw=Flaw.CHAIN, key=key, detail=detail)


def _bytes_findings(store: ObjectStore, files: Sequence[DataFile], progress: Progress) -> Iterator[Finding]:
    megabytes = sum(file.size_bytes for file in files) >> 20
    progress.stage("hash", megabytes, "MiB")
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress.advance(done >> 20)

    yield from check_files(store, files, advance)


def _model_findings(store: ObjectStore, model_ids: set[str]) -> Iterator[Finding]:
    """A model's id is the digest of its graph, weights and card."""
    for model_id in sorted(model_ids):
        key = layout.model(model_id)
        try:
            found = read_model(store.get(key), key).model_id
        except ObjectMissing:
            yield Finding(flaw=Flaw.MISSING, key=key, detail="there is no such object")
        except ModelError as exc:
            yield Finding(flaw=Flaw.UNREADABLE, key=key, detail=exc.message)
        else:
            if found != model_id:
                yield Finding(flaw=Flaw.MODEL, key=key, detail=f"it holds the model {found}")


def _count_findings(manifest: Manifest) -> Iterator[Finding]:
    key = layout.snapshot(manifest.collection, manifest.sequence)
    coverage, rejected = manifest.coverage, sum(manifest.content.rejected.values())
    if not coverage.adds_up:
        yield Finding(flaw=Flaw.COUNT, key=key, detail=f"its coverage does not add up: {coverage}")
    if coverage.rejected + coverage.stale != rejected:
        detail = f"{rejected} refusals by reason, {coverage.rejected} rejected and {coverage.stale} stale"
        yield Finding(flaw=Flaw.COUNT, key=key, detail=detail)


def _receipt_findings(store: ObjectStore, names: Sequence[str], progress: Progress) -> Iterator[Finding]:
    progress.stage("receipts", len(names), "receipts")
    with ThreadPoolExecutor(_THREADS, "receipts") as threads:
        found = threads.map(_receipt_checker(store), names)
        for done, finding in enumerate(found, start=1):
            progress.advance(done)
            if finding is not None:
                yield finding


def _receipt_checker(store: ObjectStore) -> Callable[[str], Finding | None]:
    def check(name: str) -> Finding | None:
        names = layout.receipt_names(name)
        if names is None:
            return Finding(flaw=Flaw.RECEIPT, key=name, detail="it has not the name of a receipt")
        try:
            receipt = read_receipt(store, *names)
        except DataCorrupt as exc:
            return Finding(flaw=Flaw.RECEIPT, key=name, detail=exc.message)
        if receipt is None and store.stat(name) is not None:  # else: expired meanwhile
            detail = "a file that it names is missing or has another size"
            return Finding(flaw=Flaw.RECEIPT, key=name, detail=detail)
        return None

    return check


def _unreceipted(manifests: Sequence[Manifest], names: set[str]) -> Iterator[Finding]:
    """The next night needs the receipts of the index shards that it keeps."""
    keys = dict.fromkeys(shard.key for manifest in manifests for shard in manifest.content.index_shards)
    for key in keys:
        name = layout.receipt(REDUCE_STAGE, key)
        if name not in names:
            needed_by = (f"index shard {key}",)
            detail = "the index shard has lost its receipt"
            yield Finding(flaw=Flaw.RECEIPT, key=name, detail=detail, needed_by=needed_by)
