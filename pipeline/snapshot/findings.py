"""What is wrong with a store: the object, the flaw, and what depends on it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.manifest import Content, Manifest
from pipeline.storage import layout


class Flaw(StrEnum):
    """In what way an object is not what it should be."""

    MISSING = "missing"  # it is not there
    SIZE = "size"  # it has another length than was written
    CHECKSUM = "checksum"  # its bytes are not those that were written
    UNREADABLE = "unreadable"  # it is no file of its format
    COUNT = "count"  # it holds another number of things than was said
    DUPLICATE_ID = "duplicate_id"  # an image is live twice
    NORM = "norm"  # a vector is not finite or not of length 1
    MODEL = "model"  # another model made it
    ENCODER = "encoder"  # another encoder made it, or it is another encoder
    ROWS = "rows"  # an index shard's rows are not those of its parts
    DEAD_ROWS = "dead_rows"  # a bitmap does not fit its part
    CHAIN = "chain"  # a snapshot is missing, or does not follow the one before it
    RECEIPT = "receipt"  # a receipt names what is not there
    EMBEDDING = "embedding"  # the source's image gives another vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong; ``key`` is the object's, ``needed_by`` what cannot be right without it."""

    flaw: Flaw
    key: str
    detail: str
    needed_by: tuple[str, ...] = ()


def dependents(manifests: Iterable[Manifest]) -> dict[str, tuple[str, ...]]:
    """For the key of every file and model: the snapshots and index shards that need it."""
    found: dict[str, dict[str, None]] = {}
    for manifest in manifests:
        snapshot = f"snapshot {manifest.sequence} of {manifest.collection}"
        found.setdefault(layout.model(manifest.content.model.id), {})[snapshot] = None
        for one in snapshot_files(manifest.content):
            found.setdefault(one.file.key, {})[snapshot] = None
        for key, shard in _built_from(manifest.content):
            found.setdefault(key, {})[f"index shard {shard}"] = None
    return {key: tuple(names) for key, names in found.items()}


def with_dependents(
    findings: Sequence[Finding], needed_by: Mapping[str, tuple[str, ...]]
) -> tuple[Finding, ...]:
    """The findings, each told what depends on its object."""
    return tuple(replace(one, needed_by=needed_by.get(one.key, one.needed_by)) for one in findings)


def _built_from(content: Content) -> Iterable[tuple[str, str]]:
    """Pairs of a part's file and an index shard that was built from it."""
    files = {part.key: part.embeddings.key for part in content.parts if part.embeddings is not None}
    for shard in content.index_shards:
        yield from ((files[part], shard.key) for part in shard.parts if part in files)
