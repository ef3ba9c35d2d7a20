"""Compaction: what is dead is left out and what is small is put together, without the model.

Dead rows and small nightly pieces cost every search and every later night a little. An index shard is built
again when more than a share of its rows is dead; the small ones, all but the largest, are built into one when
they are many or have grown to a share of the largest. The parts below such a shard are packed first where
that helps: those with a like share of dead rows, and small neighbours. Other parts stay as they are, with few
dead rows. What was refused in a packed part is still in the books: its file of rejects is named as before.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.embed.table import write_rows
from pipeline.errors import DataCorrupt
from pipeline.fingerprint import canonical_json, sha256_hex, task_key
from pipeline.index.reduce import PartFile
from pipeline.snapshot.manifest import IndexShardRef, PartRef
from pipeline.snapshot.rows import Mask
from pipeline.storage.open import open_store
from pipeline.storage.receipts import Receipt, fetch, read_receipt, upload, write_receipt

STAGE = "pack"
STAGE_VERSION = 1
PART = "embeddings"
PART_ROWS = 10_000
"""The most rows in a packed part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When compaction is due: a share of dead rows, a number and share of small index shards."""

    max_dead_share: float
    max_deltas: int
    shard_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTask:
    """Parts to be made one of, in order, and the packed bitmaps of their dead rows."""

    parts: tuple[PartFile, ...]
    dead: tuple[bytes, ...]

    @property
    def key(self) -> str:
        """The key of the packed part: the bytes of the parts and of the bitmaps."""
        inputs = [part.file.sha256 for part in self.parts] + [sha256_hex(mask) for mask in self.dead]
        return task_key(STAGE, STAGE_VERSION, {}, inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """Index shards that are ``kept`` and those to be built again, after ``packs`` have made one part each."""

    kept: tuple[IndexShardRef, ...]
    rewritten: tuple[IndexShardRef, ...]
    packs: tuple[PackTask, ...]


def plan_compaction(
    parts: Sequence[PartRef],
    dead: Mapping[str, Mask],
    shards: Sequence[IndexShardRef],
    limits: Limits,
    *,
    fixed: frozenset[str] = frozenset(),
) -> Compaction | None:
    """What is to be done for ``shards`` over ``parts`` with these dead rows; None if nothing is due.

    The parts in ``fixed`` (keys) are not packed: they hold stale rows, which are told by the age of their
    part.
    """
    n_dead = {key: 0 if key in fixed else int(mask.sum()) for key, mask in dead.items()}
    due = {
        ref.key for ref in shards if sum(n_dead[key] for key in ref.parts) > limits.max_dead_share * ref.rows
    } | _due_deltas(shards, limits)
    if not due:
        return None
    rewritten = tuple(ref for ref in shards if ref.key in due)
    below = {key for ref in rewritten for key in ref.parts}
    packs = _packs([part for part in parts if part.key in below - fixed], dead, limits.max_dead_share)
    kept = tuple(ref for ref in shards if ref.key not in due)
    return Compaction(kept=kept, rewritten=rewritten, packs=tuple(packs))


def replace_packed(
    parts: Sequence[PartRef], packs: Sequence[PackTask], receipts: Mapping[str, Receipt]
) -> list[PartRef]:
    """The parts, each pack in the place of its first part; what was refused in packed parts stays."""
    pack_of = {part.key: pack for pack in packs for part in pack.parts}
    of_key = {part.key: part for part in parts}
    replaced: list[PartRef] = []
    for part in parts:
        pack = pack_of.get(part.key)
        if pack is None:
            replaced.append(part)
            continue
        receipt = receipts[pack.key]
        if part.key == pack.parts[0].key and receipt.counts["rows"]:
            replaced.append(
                PartRef(
                    key=pack.key,
                    config=part.config,
                    rows=receipt.counts["rows"],
                    rejected={},
                    embeddings=receipt.files[PART],
                    rejects=None,
                    since=max(of_key[one.key].since for one in pack.parts),
                )
            )
        if part.rejects is not None:
            replaced.append(part.model_copy(update={"rows": 0, "embeddings": None}))
    return replaced


class PackWorker:
    """Packs parts; a plain class that Ray makes an actor of."""

    def __init__(self, store_uri: str, cache: Path) -> None:
        self._store = open_store(store_uri)
        self._cache = cache

    def run(self, task: PackTask) -> Receipt:
        """Packs the parts unless that has a receipt, and returns the receipt.

        Raises:
            DataCorrupt: a part is not what its receipt says, or the parts are of different kinds.
        """
        done = read_receipt(self._store, STAGE, task.key)
        if done is not None:
            return done
        tables = [self._live(part, mask) for part, mask in zip(task.parts, task.dead, strict=True)]
        table = pa.concat_tables(tables)
        files = {}
        if table.num_rows:
            self._cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._cache) as sink:
                write_rows(sink, table.replace_schema_metadata(_marks(tables)))
                sink.flush()
                files[PART] = upload(self._store, "embeddings", task.key, ".parquet", Path(sink.name))
        dropped = sum(part.rows for part in task.parts) - table.num_rows
        counts = {"rows": table.num_rows, "parts": len(task.parts), "dropped": dropped}
        return write_receipt(self._store, Receipt(stage=STAGE, key=task.key, files=files, counts=counts))

    def _live(self, part: PartFile, packed_dead: bytes) -> pa.Table:
        path = fetch(self._store, part.file, self._cache, verify=True)
        table = pq.read_table(path)
        if table.num_rows != part.rows:
            raise DataCorrupt(
                f"{part.file.key} has {table.num_rows} rows, its receipt says {part.rows}",
                fix="restore the object from a copy of the store",
            )
        bits = np.frombuffer(packed_dead, dtype=np.uint8)
        dead = np.unpackbits(bits, count=part.rows, bitorder="little").astype(bool)
        return table.filter(pa.array(~dead))


def _due_deltas(shards: Sequence[IndexShardRef], limits: Limits) -> set[str]:
    """The keys of the small index shards if they are too many, or too large beside the largest of all."""
    small = [ref for ref in shards if ref.rows <= limits.shard_rows // 2]
    if len(small) < 2:
        return set()
    base = max(small, key=lambda ref: ref.rows)
    delta_rows = sum(ref.rows for ref in small) - base.rows
    largest = max(ref.rows for ref in shards)
    if len(small) - 1 <= limits.max_deltas and delta_rows <= limits.max_dead_share * largest:
        return set()
    return {ref.key for ref in small}


def _packs(parts: Sequence[PartRef], dead: Mapping[str, Mask], max_dead_share: float) -> list[PackTask]:
    """Consecutive parts of one embed config that are worth it, at most ``PART_ROWS`` live rows together."""
    packs: list[PackTask] = []
    for _, run in groupby(parts, key=lambda part: (part.config, _is_worth(part, dead, max_dead_share))):
        group: list[PartRef] = []
        rows = 0
        for part in run:
            live = part.rows - int(dead[part.key].sum())
            if group and rows + live > PART_ROWS:
                packs += _pack(group, dead, max_dead_share)
                group, rows = [], 0
            group.append(part)
            rows += live
        packs += _pack(group, dead, max_dead_share)
    return packs


def _is_worth(part: PartRef, dead: Mapping[str, Mask], max_dead_share: float) -> bool:
    return part.rows <= PART_ROWS // 2 or int(dead[part.key].sum()) > max_dead_share * part.rows


def _pack(group: Sequence[PartRef], dead: Mapping[str, Mask], max_dead_share: float) -> list[PackTask]:
    """The task for a group; none where nothing would be gained."""
    n_dead = sum(int(dead[part.key].sum()) for part in group)
    if not _is_worth(group[0], dead, max_dead_share):
        return []
    if len(group) == 1 and n_dead <= max_dead_share * group[0].rows:
        return []
    files = [
        PartFile(key=part.key, rows=part.rows, file=part.embeddings)
        for part in group
        if part.embeddings is not None
    ]
    masks = [np.packbits(dead[part.key], bitorder="little").tobytes() for part in group]
    return [PackTask(parts=tuple(files), dead=tuple(masks))]


def _marks(tables: Sequence[pa.Table]) -> dict[bytes, bytes]:
    """What all the parts say of themselves alike, and the digest of the packed ids and versions."""
    said = [dict(table.schema.metadata or {}) for table in tables]
    alike = {name: value for name, value in said[0].items() if all(one.get(name) == value for one in said)}
    if b"bitsieve.model_id" not in alike:
        raise DataCorrupt(
            "parts that are to be packed name different models",
            fix="`bitsieve verify` says which part is not what it should be",
        )
    rows = [
        [text for table in tables for text in table[name].to_pylist()] for name in ("image_id", "version")
    ]
    alike[b"bitsieve.source_digest"] = sha256_hex(canonical_json(rows)).encode()
    return dict(sorted(alike.items()))
