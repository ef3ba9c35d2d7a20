"""Do the files of a snapshot agree with each other and with what its manifest says of them?

Only files whose bytes are right are looked into. Of every part all vectors are read: are they of length 1,
does the index shard hold the very same rows? Codes and lists are computed again for a seeded sample of the
rows of each index shard, or for all.

N rows, D dimensions, W bytes of a code, L lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.embed.table import REJECTS_SCHEMA, part_schema, read_model_id, read_vectors
from pipeline.errors import DataCorrupt
from pipeline.index.encoder import Encoder
from pipeline.index.int8 import to_int8
from pipeline.index.lists import assign_lists
from pipeline.index.reduce import read_encoder
from pipeline.index.shard import IndexShard
from pipeline.snapshot.findings import Finding, Flaw
from pipeline.snapshot.manifest import Content, DeadRowsRef, IndexShardRef, Manifest, PartRef
from pipeline.snapshot.rows import Mask, live_rows, rows_digest
from pipeline.storage import layout
from pipeline.storage.receipts import DataFile, fetch
from pipeline.storage.store import ObjectStore

NORM_TOLERANCE = 1e-3
CODES_CHECKED = 256
"""Rows of an index shard whose codes are computed again unless all are asked for."""

_Vectors = npt.NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class Examiner:
    """Looks into the files of one or more snapshots; what several of them share is looked into once.

    ``damaged`` holds the keys of files that are known to be wrong; they and what is found here are passed
    over. ``n_rows`` counts the rows of parts.
    """

    store: ObjectStore
    cache: Path
    damaged: set[str]
    deep: bool = False
    n_rows: int = 0
    _seen: set[tuple[str, ...]] = field(default_factory=set)

    def examine(self, manifest: Manifest) -> Iterator[Finding]:
        """What is wrong within the files of ``manifest``; what no file is to blame for is the manifest's."""
        key = layout.snapshot(manifest.collection, manifest.sequence)
        for finding in self._all(manifest.content):
            self.damaged.add(finding.key or key)
            yield replace(finding, key=finding.key or key)

    def _all(self, content: Content) -> Iterator[Finding]:
        encoder = None
        if self._is_sound(content.encoder.file):
            found = _read_encoder(self, content)
            encoder = found if isinstance(found, Encoder) else None
            if isinstance(found, Finding):
                yield found
        for part in content.parts:
            if self._is_new("part", part.key, content.model.id):
                yield from self._part(part, content)
        yield from self._attributes(content)
        yield from self._index(content, encoder)
        yield from self._rows(content)

    def _part(self, part: PartRef, content: Content) -> Iterator[Finding]:
        if part.rejects is not None and self._is_sound(part.rejects):
            yield from _rejects_findings(self.path(part.rejects), part.rejects.key, part.rejected)
        if part.embeddings is not None and self._is_sound(part.embeddings):
            self.n_rows += part.rows
            yield from _part_findings(self.path(part.embeddings), part.embeddings.key, part.rows, content)

    def _attributes(self, content: Content) -> Iterator[Finding]:
        for ref in content.attributes:
            if self._is_new("attributes", ref.file.key) and self._is_sound(ref.file):
                table = _parquet(self.path(ref.file), ["image_id", "locator"])
                if isinstance(table, str):
                    yield Finding(flaw=Flaw.UNREADABLE, key=ref.file.key, detail=table)
                elif table.num_rows != ref.rows:
                    yield _count(ref.file.key, "rows", table.num_rows, ref.rows)
        refused = content.listing_rejects
        if refused is not None and self._is_new("rejects", refused.key) and self._is_sound(refused):
            table = _parquet(self.path(refused), REJECTS_SCHEMA.names)
            if isinstance(table, str):
                yield Finding(flaw=Flaw.UNREADABLE, key=refused.key, detail=table)

    def _index(self, content: Content, encoder: Encoder | None) -> Iterator[Finding]:
        parts = {part.key: part for part in content.parts}
        indexed: dict[str, int] = {}
        for shard in content.index_shards:
            for key in shard.parts:
                indexed[key] = indexed.get(key, 0) + 1
            strangers = [key for key in shard.parts if key not in parts]
            if strangers:
                detail = f"it is built from part {strangers[0]}, which the snapshot does not have"
                yield Finding(flaw=Flaw.ROWS, key=shard.row_ids.key, detail=detail)
            elif encoder is not None and self._is_new("shard", shard.codes.key, *shard.parts):
                yield from self._shard(shard, [parts[key] for key in shard.parts], encoder)
        for part in content.parts:
            if part.embeddings is not None and part.rows and indexed.get(part.key, 0) != 1:
                detail = f"{indexed.get(part.key, 0)} index shards hold its rows, expected 1"
                yield Finding(flaw=Flaw.ROWS, key=part.embeddings.key, detail=detail)

    def _shard(self, ref: IndexShardRef, parts: list[PartRef], encoder: Encoder) -> Iterator[Finding]:
        files = [ref.codes, ref.vectors, ref.row_ids, *ref.extra.values()]
        sources = [part.embeddings for part in parts if part.embeddings is not None]
        if not all(self._is_sound(file) for file in (*files, *sources)):
            return
        try:
            shard = IndexShard.open(
                self.path(ref.codes),
                self.path(ref.vectors),
                self.path(ref.row_ids),
                encoder,
                extra={name: self.path(file) for name, file in ref.extra.items()},
            )
        except DataCorrupt as exc:
            yield Finding(flaw=Flaw.ENCODER, key=ref.codes.key, detail=exc.message)
            return
        if not shard.n_rows == ref.rows == sum(part.rows for part in parts):
            yield _count(ref.row_ids.key, "rows", shard.n_rows, sum(part.rows for part in parts))
            return
        for number, part in enumerate(parts):
            if part.embeddings is not None:
                wrong = _row_flaw(shard, number, self.path(part.embeddings))
                if wrong:
                    yield Finding(flaw=Flaw.ROWS, key=ref.row_ids.key, detail=f"part {part.key}: {wrong}")
        if _order_flaw(shard):
            yield Finding(flaw=Flaw.ROWS, key=ref.row_ids.key, detail=_order_flaw(shard))
        yield from _code_findings(shard, ref, encoder, self._sampled(shard.n_rows))

    def _sampled(self, n: int) -> npt.NDArray[np.int64]:
        if self.deep or n <= CODES_CHECKED:
            return np.arange(n)
        return np.sort(np.random.default_rng(n).choice(n, CODES_CHECKED, replace=False))

    def _rows(self, content: Content) -> Iterator[Finding]:
        """Bitmaps of dead rows, and the live rows that they leave."""
        parts = {part.key: part for part in content.parts}
        masks = {part.key: np.zeros(part.rows, dtype=bool) for part in content.parts}
        for ref in content.dead_rows:
            if not self._is_sound(ref.file):
                return
            found = _mask(self.path(ref.file), ref, parts.get(ref.part))
            if isinstance(found, str):
                yield Finding(flaw=Flaw.DEAD_ROWS, key=ref.file.key, detail=found)
                return
            masks[ref.part] = found
        if not all(part.embeddings is None or self._is_sound(part.embeddings) for part in content.parts):
            return
        live = live_rows(self.store, content.parts, masks, self.cache)
        if live.num_rows != content.live_rows:
            yield _count("", "live rows", live.num_rows, content.live_rows)
        distinct = pc.count_distinct(live["image_id"]).as_py()
        if distinct != live.num_rows:
            counts = pc.value_counts(live["image_id"])
            twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()[:3]
            detail = f"{live.num_rows - distinct} rows more than ids; live twice: {', '.join(twice)}"
            yield Finding(flaw=Flaw.DUPLICATE_ID, key="", detail=detail)
        elif rows_digest(live) != content.rows_digest:
            detail = "its live ids and versions are not those that were published"
            yield Finding(flaw=Flaw.ROWS, key="", detail=detail)

    def path(self, file: DataFile) -> Path:
        """The file on this machine."""
        return fetch(self.store, file, self.cache)

    def _is_sound(self, file: DataFile) -> bool:
        return file.key not in self.damaged

    def _is_new(self, *names: str) -> bool:
        is_new = names not in self._seen
        self._seen.add(names)
        return is_new


def _read_encoder(examiner: Examiner, content: Content) -> Encoder | Finding:
    ref = content.encoder
    try:
        encoder = read_encoder(examiner.store, ref.file, examiner.cache)
    except DataCorrupt as exc:
        return Finding(flaw=Flaw.UNREADABLE, key=ref.file.key, detail=exc.message)
    got, expected = (encoder.digest, encoder.bits, encoder.d), (ref.digest, ref.bits, content.model.dim)
    if got != expected:
        detail = f"it is encoder {got[0][:12]} of {got[1]} bits and {got[2]} dimensions, expected {expected}"
        return Finding(flaw=Flaw.ENCODER, key=ref.file.key, detail=detail)
    return encoder


def _part_findings(path: Path, key: str, rows: int, content: Content) -> Iterator[Finding]:
    try:
        model_id, schema = read_model_id(path), pq.read_schema(path).remove_metadata()
        known = [part_schema(content.model.dim, dtype) for dtype in ("float32", "float16")]
        if not any(schema.equals(one) for one in known):
            raise DataCorrupt(f"its columns are {schema.names} of {schema.types}")
        x_ND = read_vectors(path)
    except (pa.ArrowException, OSError, DataCorrupt) as exc:
        yield Finding(flaw=Flaw.UNREADABLE, key=key, detail=str(exc))
        return
    if model_id != content.model.id:
        detail = f"it has vectors of model {model_id[:12]}, the snapshot of {content.model.id[:12]}"
        yield Finding(flaw=Flaw.MODEL, key=key, detail=detail)
    if len(x_ND) != rows:
        yield _count(key, "rows", len(x_ND), rows)
    norm_N = np.linalg.norm(x_ND.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(norm_N - 1) <= NORM_TOLERANCE))  # NaN is wrong too
    if len(wrong):
        detail = f"{len(wrong)} vectors are not of length 1; row {wrong[0]} has {norm_N[wrong[0]]:.6g}"
        yield Finding(flaw=Flaw.NORM, key=key, detail=detail)


def _rejects_findings(path: Path, key: str, expected: dict[str, int]) -> Iterator[Finding]:
    table = _parquet(path, REJECTS_SCHEMA.names)
    if isinstance(table, str):
        yield Finding(flaw=Flaw.UNREADABLE, key=key, detail=table)
        return
    reasons = pc.value_counts(table["reason"]).to_pylist()
    counts = {row["values"]: row["counts"] for row in reasons}
    if counts != expected:
        yield Finding(flaw=Flaw.COUNT, key=key, detail=f"it refuses {counts}, the manifest says {expected}")


def _row_flaw(shard: IndexShard, number: int, part: Path) -> str:
    """How the shard's rows of one part differ from the part's own; empty if they are the same."""
    target_N = np.flatnonzero(shard.part_N == number)
    target_N = target_N[np.argsort(shard.row_N[target_N], kind="stable")]
    ids = pq.read_table(part, columns=["image_id"])["image_id"].cast(pa.large_string()).combine_chunks()
    if not np.array_equal(shard.row_N[target_N], np.arange(len(ids))):
        return f"{len(target_N)} rows point at it, not each of its {len(ids)} once"
    if not shard.ids.take(pa.array(target_N)).equals(ids):
        return "rows have other ids than the rows they point at"
    stored_ND = read_vectors(part).astype(shard.vectors_ND.dtype)
    wrong = np.flatnonzero((shard.vectors_ND[target_N] != stored_ND).any(axis=1))
    return f"{len(wrong)} vectors differ, the first is that of row {wrong[0]}" if len(wrong) else ""


def _order_flaw(shard: IndexShard) -> str:
    order_N = np.arange(shard.n_rows) if shard.order_N is None else np.asarray(shard.order_N)
    if not np.array_equal(np.sort(order_N), np.arange(shard.n_rows)):
        return "the ranks of its ids are no permutation"
    ids = shard.ids.take(pa.array(np.argsort(order_N)))
    if len(ids) > 1 and not pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
        return "its ids are not in the order it says"
    return ""


def _code_findings(
    shard: IndexShard, ref: IndexShardRef, encoder: Encoder, rows_N: npt.NDArray[np.int64]
) -> Iterator[Finding]:
    x_ND = np.asarray(shard.vectors_ND[rows_N])
    if shard.codes_NW is not None:
        wrong = np.flatnonzero((encoder.encode(x_ND) != shard.codes_NW[rows_N]).any(axis=1))
        if len(wrong):
            detail = f"{len(wrong)} of {len(rows_N)} codes are not those of the encoder"
            yield Finding(flaw=Flaw.ENCODER, key=ref.codes.key, detail=detail)
    if shard.offsets_L is not None and encoder.centroids_LD is not None and ref.offsets is not None:
        list_N = np.searchsorted(shard.offsets_L, rows_N, side="right") - 1
        if not np.array_equal(list_N, assign_lists(x_ND, encoder.centroids_LD)):
            detail = "rows lie in lists that the encoder did not choose"
            yield Finding(flaw=Flaw.ENCODER, key=ref.offsets.key, detail=detail)
    if shard.int8_ND is not None and shard.int8_scale_N is not None and ref.int8 is not None:
        int8_ND, scale_N = to_int8(x_ND)
        same = (shard.int8_ND[rows_N] == int8_ND).all() and (shard.int8_scale_N[rows_N] == scale_N).all()
        if not same:
            yield Finding(flaw=Flaw.ROWS, key=ref.int8.key, detail="int8 vectors are not the vectors rounded")


def _mask(path: Path, ref: DeadRowsRef, part: PartRef | None) -> Mask | str:
    """The dead rows, or what is wrong with them."""
    if part is None:
        return f"it is of part {ref.part}, which the snapshot does not have"
    data = np.fromfile(path, dtype=np.uint8)
    if len(data) != (part.rows + 7) // 8:
        return f"it has {len(data)} bytes, {part.rows} rows need {(part.rows + 7) // 8}"
    bits = np.unpackbits(data, bitorder="little").astype(bool)
    if bits[part.rows :].any() or int(bits.sum()) != ref.dead:
        return f"it has {int(bits.sum())} dead rows, the manifest says {ref.dead} of {part.rows}"
    mask: Mask = bits[: part.rows]
    return mask


def _parquet(path: Path, columns: list[str]) -> pa.Table | str:
    """The columns of the file, or what is wrong with it."""
    try:
        missing = set(columns) - set(pq.read_schema(path).names)
        return f"it has no column {', '.join(sorted(missing))}" if missing else pq.read_table(path)
    except (pa.ArrowException, OSError) as exc:
        return str(exc)


def _count(key: str, what: str, got: int, expected: int) -> Finding:
    return Finding(flaw=Flaw.COUNT, key=key, detail=f"it has {got} {what}, the manifest says {expected}")
