"""What the snapshots and candidates of a store reach: files, models, and tasks, whose receipts they need."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import BitsieveError, DataCorrupt
from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.manifest import Manifest, load
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore

_SNAPSHOT = re.compile(r"collections/([^/]+)/snapshots/(\d{20})\.json")
_EXPIRATION = re.compile(r"collections/([^/]+)/expired/(\d{20})\.json")
_CANDIDATE = re.compile(r"collections/[^/]+/candidates/[^/]+\.json")

SnapshotName = tuple[str, int]
"""Collection and sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Keys of files and models, and keys of tasks; a receipt is reached by its task or by a file of it."""

    files: frozenset[str]
    tasks: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Every manifest of a store; ``expired`` names the snapshots that are not retained."""

    snapshots: dict[SnapshotName, Manifest]
    candidates: dict[str, Manifest]
    expired: frozenset[SnapshotName]

    @property
    def newest(self) -> dict[str, int]:
        """The newest sequence of each collection."""
        found: dict[str, int] = {}
        for collection, sequence in self.snapshots:
            found[collection] = max(sequence, found.get(collection, 0))
        return found

    @property
    def retained(self) -> dict[SnapshotName, Manifest]:
        """The snapshots whose files must stay."""
        return {name: manifest for name, manifest in self.snapshots.items() if name not in self.expired}


def read_published(store: ObjectStore, keys: Iterable[str]) -> Published:
    """Reads all manifests among ``keys``, a listing of the store.

    Raises:
        DataCorrupt: one cannot be read, or the sequences have a gap: then nobody knows what is reached.
    """
    snapshots, candidates, expired = {}, {}, set()
    for key in keys:
        if match := _SNAPSHOT.fullmatch(key):
            snapshots[match[1], int(match[2])] = _load(store, key)
        elif match := _EXPIRATION.fullmatch(key):
            expired.add((match[1], int(match[2])))
        elif _CANDIDATE.fullmatch(key):
            candidates[key] = _load(store, key)
    for collection, sequence in snapshots:
        if sequence > 1 and (collection, sequence - 1) not in snapshots:
            raise DataCorrupt(
                f"snapshot {sequence - 1} of {collection!r} in {store.uri} is missing; nothing was deleted",
                fix=f"restore {layout.snapshot(collection, sequence - 1)} from a copy of the store",
            )
    return Published(snapshots=snapshots, candidates=candidates, expired=frozenset(expired))


def reach_of(manifests: Iterable[Manifest]) -> Reach:
    """What ``manifests`` need."""
    files, tasks = set(), set()
    for manifest in manifests:
        content = manifest.content
        files |= {one.file.key for one in snapshot_files(content)} | {layout.model(content.model.id)}
        tasks |= {part.key for part in content.parts} | {shard.key for shard in content.index_shards}
        tasks |= {ref.key for ref in content.attributes} | {content.encoder.key}
    return Reach(files=frozenset(files), tasks=frozenset(tasks))


def _load(store: ObjectStore, key: str) -> Manifest:
    try:
        return load(store, key)
    except BitsieveError as exc:
        raise DataCorrupt(
            f"what {key} reaches cannot be told, so nothing was deleted: {exc.message}",
            fix="look with `bitsieve verify`, restore the object from a copy of the store, and run again",
        ) from exc
