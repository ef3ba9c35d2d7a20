"""The manifest of a snapshot: the parts, index shards and dead rows of a collection, and their proof.

A manifest is one small JSON object whose creation is the publication. Its *digest* covers what the snapshot
contains, never when, by whom, or under which file names it was made: two runs over the same catalog give the
same digest. Pydantic is used here because this is where JSON enters and leaves.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import DataCorrupt, StoreMismatch
from pipeline.fingerprint import canonical_json, digest, sealed, sha256_hex, unsealed
from pipeline.index.calibration import Calibration
from pipeline.index.shard import ShardFile
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile
from pipeline.storage.store import ObjectStore

MANIFEST_VERSION = 1
_INLINE_ITEMS = 500


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartRef(_Value):
    """An embedding part, or only its rejects; ``since`` is the sequence it was first published in.

    ``config`` is the digest of the embed config it was made with: model, provider, decode limits.
    """

    key: str
    config: str
    rows: int
    rejected: dict[str, int]
    embeddings: DataFile | None
    rejects: DataFile | None
    since: int


class IndexShardRef(_Value):
    """An index shard over the rows of ``parts`` (keys, in the order of the shard's part numbers)."""

    key: str
    parts: list[str]
    rows: int
    codes: DataFile
    vectors: DataFile
    row_ids: DataFile
    offsets: DataFile | None = None
    order: DataFile | None = None
    int8: DataFile | None = None
    scales: DataFile | None = None

    @property
    def extra(self) -> dict[ShardFile, DataFile]:
        """The files that only the lists form or rough vectors have."""
        files: dict[ShardFile, DataFile | None] = {
            "offsets": self.offsets,
            "order": self.order,
            "int8": self.int8,
            "scales": self.scales,
        }
        return {name: file for name, file in files.items() if file is not None}


class DeadRowsRef(_Value):
    """The bitmap of dead rows of one part: bit i of byte i >> 3, little-endian, is row i."""

    part: str
    dead: int
    file: DataFile


class AttributesRef(_Value):
    """One layer of the attributes table; a later layer's row replaces an earlier one's."""

    key: str
    rows: int
    file: DataFile


class EncoderRef(_Value):
    """The pinned encoder: float vector to bits."""

    key: str
    digest: str
    bits: int
    recipe: str
    file: DataFile


class ModelRef(_Value):
    """The model whose vectors these are; its file lies in the store under its id."""

    id: str
    name: str
    dim: int
    provider: str


class SourceRef(_Value):
    """Where the catalog comes from and how it is read, so that a later night need not be told again."""

    uri: str
    format: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    id_template: str
    id_column: str | None
    image_column: str | None
    label: str | None
    listing: str | None = None

    def reads_like(self, other: "SourceRef") -> bool:
        """Whether both read the same images in the same way; a listing file has another name every night."""
        return self.model_copy(update={"listing": None}) == other.model_copy(update={"listing": None})


class Coverage(_Value):
    """The coverage identity of a run: listed = embedded + reused + stale + rejected + set_aside."""

    listed: int
    embedded: int
    reused: int
    stale: int
    rejected: int
    set_aside: int
    deleted: int

    @property
    def adds_up(self) -> bool:
        """Whether every listed image ended in exactly one place."""
        return self.listed == self.embedded + self.reused + self.stale + self.rejected + self.set_aside


class GateRecord(_Value):
    """A gate's verdict; ``override`` is the reason somebody gave for publishing all the same."""

    name: str
    passed: bool
    value: float
    threshold: float
    message: str
    override: str | None = None


class Content(_Value):
    """What a snapshot contains; the digest is taken over this, less file names.

    ``rows_digest`` names the live ids and versions, however they came to be in parts: a rollback refuses it.
    """

    model: ModelRef
    encoder: EncoderRef
    parts: list[PartRef]
    index_shards: list[IndexShardRef]
    dead_rows: list[DeadRowsRef]
    attributes: list[AttributesRef]
    live_rows: int
    rows_digest: str
    rejected: dict[str, int]
    settings: dict[str, Any]
    listing_rejects: DataFile | None
    calibration: dict[str, Any]

    def digest(self) -> str:
        """The snapshot digest (DESIGN.md section 3)."""
        return digest(
            {
                "model": self.model.id,
                "encoder": self.encoder.digest,
                "parts": [[p.key, p.rows, _sha(p.embeddings), _sha(p.rejects)] for p in self.parts],
                "index_shards": [
                    [s.key, s.codes.sha256, s.vectors.sha256, s.row_ids.sha256]
                    + [[name, file.sha256] for name, file in s.extra.items()]
                    for s in self.index_shards
                ],
                "dead_rows": [[d.part, d.file.sha256] for d in self.dead_rows],
                "attributes": [a.file.sha256 for a in self.attributes],
                "counts": {"live": self.live_rows, "rejected": self.rejected},
                "settings": self.settings,
                "calibration": self.calibration,
            }
        )

    def operating_point(self) -> Calibration:
        """The calibration as a value."""
        return Calibration.from_json(self.calibration)


class Rollback(_Value):
    """This snapshot publishes ``content_of`` again, taking back everything after it."""

    content_of: int
    taken_back: list[int]
    reason: str


class Adopted(_Value):
    """This snapshot publishes the content of a snapshot of another collection."""

    collection: str
    sequence: int


class Manifest(_Value):
    """A snapshot or a candidate. A candidate has sequence 0."""

    layout: Literal[1] = 1
    collection: str
    sequence: int
    parent: int | None
    run_id: str
    commit_id: str
    created: str
    software: dict[str, str]
    source: SourceRef
    content: Content
    digest: str
    coverage: Coverage
    gates: list[GateRecord]
    refused_digests: list[str]
    refused_rows: list[str]
    seconds: dict[str, float]
    rollback: Rollback | None = None
    adopted: Adopted | None = None


def save(store: ObjectStore, manifest: Manifest) -> bytes:
    """The manifest's bytes; great numbers of parts are written to second-level objects first."""
    document = manifest.model_dump(mode="json")
    for name in ("parts", "index_shards"):
        items = document["content"][name]
        if len(items) > _INLINE_ITEMS:
            data = canonical_json(items)
            key = layout.object_list(sha256_hex(data))
            if store.stat(key) is None:
                store.put(key, data)
            document["content"][name] = {"list": key}
    return sealed(document)


def load(store: ObjectStore, key: str) -> Manifest:
    """Reads a manifest and checks it against its own digest.

    Raises:
        DataCorrupt: not a manifest, or its content does not have the digest it claims.
        StoreMismatch: written by a newer bitsieve.
    """
    data = store.get(key)
    try:
        document = _json_object(data)
        version = document.get("layout")
        if isinstance(version, int) and version > MANIFEST_VERSION:
            raise StoreMismatch(
                f"{key} has layout {version}, this bitsieve reads up to {MANIFEST_VERSION}",
                fix="upgrade bitsieve",
            )
        document = unsealed(document)
        for name in ("parts", "index_shards"):
            items = document["content"][name]
            if isinstance(items, dict):
                document["content"][name] = _json_list(store.get(items["list"]))
        manifest = Manifest.model_validate(document)
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as exc:
        said = f"{key} in {store.uri} is not a readable manifest: {_first(exc)}"
        raise DataCorrupt(said, fix=_FIX) from exc
    if manifest.content.digest() != manifest.digest:
        raise DataCorrupt(
            f"{key} in {store.uri} claims digest {manifest.digest}, "
            f"its content has {manifest.content.digest()}",
            fix=_FIX,
        )
    return manifest


_FIX = (
    "restore this object from a copy of the store; until then, what takes --snapshot can use an earlier one"
)


def _first(exc: Exception) -> str:
    """The first of what may be hundreds of lines about the same manifest."""
    if not isinstance(exc, ValidationError):
        return str(exc)
    error, *others = exc.errors(include_url=False)
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {error['msg']}" + (f", and {len(others)} more" if others else "")


def _json_object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def _json_list(data: bytes) -> list[Any]:
    value = json.loads(data)
    if not isinstance(value, list):
        raise TypeError("not a JSON list")
    return value


def _sha(file: DataFile | None) -> str | None:
    return None if file is None else file.sha256
