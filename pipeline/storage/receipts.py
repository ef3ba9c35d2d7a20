"""Proves that a task is done: its data files, written once, and the receipt that names them.

A receipt is created only if absent: of two attempts at a task the first to finish is the one that counts,
and a worker that was frozen and wakes up late changes nothing. A receipt whose files are gone proves
nothing: the task is to be done again, and then its receipt may be replaced (``write_receipt``).
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.fingerprint import canonical_json, sealed, sha256_hex, unsealed
from pipeline.storage import layout
from pipeline.storage.commit import commit
from pipeline.storage.store import ObjectStore

_DOWNLOAD_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A data file in a store; ``sha256`` is 64 hex digits."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a finished task leaves: files by role, counts, and whatever else is a fact (JSON values)."""

    stage: str
    key: str
    files: Mapping[str, DataFile]
    counts: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_receipt(store: ObjectStore, stage: str, key: str) -> Receipt | None:
    """The receipt of a task, None if the task is not done: no receipt, or a file missing or of another size.

    Costs one read, and one stat per file; hashes nothing.

    Raises:
        DataCorrupt: the receipt is not one.
    """
    name = layout.receipt(stage, key)
    try:
        data = store.get(name)
    except ObjectMissing:
        return None
    receipt = _decoded(data, f"{name!r} in {store.uri}")
    if (receipt.stage, receipt.key) != (stage, key):
        raise DataCorrupt(f"{name!r} in {store.uri} is the receipt of {receipt.stage}/{receipt.key}")
    return receipt if all(_is_present(store, file) for file in receipt.files.values()) else None


def stored_receipt(store: ObjectStore, name: str) -> Receipt | None:
    """The receipt under ``name``, whether its files are there or not; None if it is gone.

    Raises:
        DataCorrupt: it is no receipt.
    """
    try:
        data = store.get(name)
    except ObjectMissing:
        return None
    return _decoded(data, f"{name!r} in {store.uri}")


def write_receipt(store: ObjectStore, receipt: Receipt) -> Receipt:
    """Declares the task done; returns the receipt that counts, which is the first one written.

    Only a receipt whose files are missing is replaced, by a plain ``put``. That is safe because (1) such a
    receipt is of use to nobody, (2) two attempts that replace it at once both name whole files made from the
    same inputs, so it does not matter which one stays, and a reader sees one or the other, never a mixture,
    and (3) a snapshot names data files, not receipts: what was read from the receipt that lost stays true.

    Raises:
        OutcomeUnknown: as in ``commit``; calling again with the same receipt is safe.
    """
    name, data = layout.receipt(receipt.stage, receipt.key), sealed(asdict(receipt))
    if commit(store, name, data):
        return receipt
    present = read_receipt(store, receipt.stage, receipt.key)
    if present is not None:
        return present
    store.put(name, data)
    return read_receipt(store, receipt.stage, receipt.key) or receipt


def upload(store: ObjectStore, folder: str, key: str, suffix: str, source: Path | bytes) -> DataFile:
    """Stores the output of an attempt at task ``key`` under a name never used before.

    ``source`` is the bytes themselves or the file that holds them. Called twice it makes two files; the
    receipt says which one counts.
    """
    name = layout.data_file(folder, key, uuid.uuid4().hex, suffix)
    if isinstance(source, bytes):
        store.put(name, source)
        return DataFile(key=name, sha256=sha256_hex(source), size_bytes=len(source))
    sha256, size_bytes = _sha256(source), source.stat().st_size
    store.put_file(name, source)
    return DataFile(key=name, sha256=sha256, size_bytes=size_bytes)


def fetch(store: ObjectStore, data_file: DataFile, cache_dir: Path, *, verify: bool = False) -> Path:
    """A local file with the bytes of ``data_file``, not to be written to.

    In a local store it is the stored file itself; else a copy in ``cache_dir`` under its sha256, which is
    downloaded and hashed once; its time of change is that of its last use (`cache.sweep`). ``verify`` hashes
    also what was already on this machine. May be called by many processes at once.

    Raises:
        DataCorrupt: the bytes are not those that were stored.
        ObjectMissing: the file is gone.
    """
    stored = store.local_path(data_file.key)
    if stored is not None:
        if not stored.is_file():
            raise ObjectMissing(f"{data_file.key!r} in {store.uri} does not exist")
        _check(stored, data_file, store, hashed=verify)
        return stored
    cached = cache_dir / data_file.sha256
    if not (_is_cached(cached, data_file, hashed=verify) and _mark_used(cached)):
        _download(store, data_file, cached)
    return cached


def _mark_used(cached: Path) -> bool:
    """False if it was swept in this moment; somebody else's file may be used without being marked."""
    with contextlib.suppress(PermissionError):
        try:
            os.utime(cached)
        except FileNotFoundError:
            return False
    return True


def _is_cached(cached: Path, data_file: DataFile, *, hashed: bool) -> bool:
    if not cached.is_file() or cached.stat().st_size != data_file.size_bytes:
        return False
    return not hashed or _sha256(cached) == data_file.sha256


def _download(store: ObjectStore, data_file: DataFile, cached: Path) -> None:
    """Fills the cache entry with proven bytes; tries twice, because a bit can flip on the way."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    aside = cached.with_name(f"{cached.name}.{uuid.uuid4().hex}")
    try:
        for attempt in range(_DOWNLOAD_TRIES):
            store.get_file(data_file.key, aside)
            try:
                _check(aside, data_file, store, hashed=True)
            except DataCorrupt:
                if attempt == _DOWNLOAD_TRIES - 1:
                    raise
            else:
                os.replace(aside, cached)
                return
    finally:
        aside.unlink(missing_ok=True)


def _check(path: Path, data_file: DataFile, store: ObjectStore, *, hashed: bool) -> None:
    name = f"{data_file.key!r} in {store.uri}"
    size_bytes = path.stat().st_size
    if size_bytes != data_file.size_bytes:
        raise DataCorrupt(f"{name}: expected {data_file.size_bytes} bytes, got {size_bytes}", _REDO)
    if hashed and (sha256 := _sha256(path)) != data_file.sha256:
        raise DataCorrupt(f"{name}: expected sha256 {data_file.sha256}, got {sha256}", _REDO)


_REDO = "restore the file from a copy of the store, or delete its receipt and run again to make it anew"


def _is_present(store: ObjectStore, file: DataFile) -> bool:
    stat = store.stat(file.key)
    return stat is not None and stat.size_bytes == file.size_bytes


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decoded(data: bytes, name: str) -> Receipt:
    """The receipt in ``data``, whose every field has the type it should; unknown fields are refused."""
    try:
        value = unsealed(json.loads(data))
        files = {role: _decoded_file(file) for role, file in value["files"].items()}
        receipt = Receipt(**{**value, "files": files})
        if canonical_json(asdict(receipt)) != canonical_json(value):
            raise ValueError("fields are missing")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise DataCorrupt(
            f"{name} is not a receipt ({exc})", "delete it; the task is then done again"
        ) from exc
    if not all(isinstance(count, int) for count in receipt.counts.values()):
        raise DataCorrupt(f"{name} is not a receipt: a count is not a whole number")
    return receipt


def _decoded_file(value: dict[str, Any]) -> DataFile:
    file = DataFile(**value)
    if not (isinstance(file.key, str) and isinstance(file.sha256, str) and isinstance(file.size_bytes, int)):
        raise TypeError(f"a file of it has a field of the wrong type: {value!r}")
    return file
