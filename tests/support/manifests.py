"""Manifests with made-up files, for what looks at manifests only."""

from typing import Any

from pipeline.fingerprint import sha256_hex
from pipeline.index.calibrate import calibrate
from pipeline.snapshot.gates import Evidence, Spread
from pipeline.snapshot.manifest import (
    Content,
    Coverage,
    EncoderRef,
    IndexShardRef,
    Manifest,
    ModelRef,
    PartRef,
    SourceRef,
)
from pipeline.storage.receipts import DataFile

CALIBRATION = calibrate(None, []).to_json()


def data_file(name: str, attempt: str = "1") -> DataFile:
    """A file whose bytes are told by ``name``; another attempt, another file name."""
    return DataFile(key=f"files/{name}-{attempt}", sha256=sha256_hex(name.encode()), size_bytes=len(name))


def part(name: str, *, since: int = 1, attempt: str = "1", rejects: bool = False) -> PartRef:
    return PartRef(
        key=name,
        config="c" * 64,
        rows=3,
        rejected={"empty": 1} if rejects else {},
        embeddings=data_file(f"{name} rows", attempt),
        rejects=data_file(f"{name} rejects", attempt) if rejects else None,
        since=since,
    )


def index_shard(name: str, *, attempt: str = "1") -> IndexShardRef:
    return IndexShardRef(
        key=name,
        parts=[name],
        rows=3,
        codes=data_file(f"{name} codes", attempt),
        vectors=data_file(f"{name} vectors", attempt),
        row_ids=data_file(f"{name} row ids", attempt),
    )


def content(*names: str, attempt: str = "1", **changes: Any) -> Content:
    """Content of parts and index shards with these names."""
    plain = Content(
        model=ModelRef(id="m" * 64, name="tiny", dim=3, provider="cpu"),
        encoder=EncoderRef(
            key="e", digest="e" * 64, bits=8, recipe="sign", file=data_file("encoder", attempt)
        ),
        parts=[part(name, attempt=attempt) for name in names],
        index_shards=[index_shard(name, attempt=attempt) for name in names],
        dead_rows=[],
        attributes=[],
        live_rows=3 * len(names),
        rows_digest=sha256_hex("".join(names).encode()),
        rejected={},
        settings={"bits": None, "recall": 0.99},
        listing_rejects=None,
        calibration=CALIBRATION,
    )
    return plain.model_copy(update=changes)


def manifest(body: Content, *, parent: int | None = None, run_id: str = "run", **changes: Any) -> Manifest:
    """A candidate on top of ``parent``."""
    plain = Manifest(
        collection="main",
        sequence=0,
        parent=parent,
        run_id=run_id,
        commit_id=run_id,
        created="2026-01-02T03:04:05+00:00",
        software={"bitsieve": "0"},
        source=SourceRef(
            uri="/photos",
            format="prefix",
            include=(),
            exclude=(),
            id_template="{name}",
            id_column=None,
            image_column=None,
            label=None,
        ),
        content=body,
        digest=body.digest(),
        coverage=coverage(),
        gates=[],
        refused_digests=[],
        refused_rows=[],
        seconds={},
    )
    return plain.model_copy(update=changes)


def coverage(**changes: int) -> Coverage:
    """100 images listed, all embedded."""
    plain = Coverage(listed=100, embedded=100, reused=0, stale=0, rejected=0, set_aside=0, deleted=0)
    return plain.model_copy(update=changes)


def evidence(**changes: Any) -> Evidence:
    """What every gate lets pass."""
    plain: dict[str, Any] = {
        "coverage": coverage(),
        "live_rows": 100,
        "distinct_live_ids": 100,
        "parent_live_rows": 100,
        "n_models": 1,
        "norm_error": 0.0,
        "recall_low": 1.0,
        "filtered_recall_high": 1.0,
        "bit_imbalance": 0.0,
        "spread": Spread(variance=1.0, distinct_codes=1.0),
        "rolled_back": False,
    }
    return Evidence(**{**plain, **changes})
