"""Keeps the cache folder of downloads within its size: what was used longest ago goes first.

Ours to remove are files whose name is a sha256 (`receipts.fetch` names its copies so and marks every use by
the time of change), the neighbours that `evaluate index` and a night keep, and what killed writers left.
A file that was used within the hour stays, so that no process loses what it has just been told to open; a
mapped file that goes all the same stays readable.
"""

import contextlib
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

IN_USE_S = 3_600.0
_ABANDONED_S = 86_400.0
_ENTRY = re.compile(r"[0-9a-f]{64}")
_TRUTHS = "ground-truth"
_TRUTH = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\.np[yz]")
_ASIDE = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{32}")
_TRUTH_ASIDE = re.compile(rf"{_TRUTH.pattern}\.[0-9a-f]{{32}}(\.npy)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep removed, and what the folder still holds."""

    removed_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    used_s: float
    size_bytes: int
    path: Path


def sweep(folder: Path, limit_bytes: int, now_s: float, keep: Set[str] = frozenset()) -> Swept:
    """Removes files, longest unused first, until the others have at most ``limit_bytes``.

    Args:
        folder: of `receipts.fetch`; may be absent.
        limit_bytes: what may stay.
        now_s: seconds since 1970.
        keep: sha256 of files that stay whatever their age: those of the snapshot that is being opened.
    """
    entries = [*_entries(folder, _ENTRY), *_entries(folder / _TRUTHS, _TRUTH)]
    entries.sort(key=lambda entry: (entry.used_s, entry.path.name))
    total = sum(entry.size_bytes for entry in entries)
    removed = 0
    for entry in entries:
        if total - removed <= limit_bytes:
            break
        if entry.path.name not in keep and now_s - entry.used_s > IN_USE_S:
            removed += _remove(entry)
    asides = [*_entries(folder, _ASIDE), *_entries(folder / _TRUTHS, _TRUTH_ASIDE)]
    abandoned = sum(_remove(entry) for entry in asides if now_s - entry.used_s > _ABANDONED_S)
    return Swept(removed_bytes=removed + abandoned, kept_bytes=total - removed)


def _entries(folder: Path, name: re.Pattern[str]) -> Iterator[_Entry]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not name.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):  # another process swept it
            status = path.stat()
            yield _Entry(status.st_mtime, status.st_size, path)


def _remove(entry: _Entry) -> int:
    """The bytes that it freed."""
    with contextlib.suppress(OSError):
        entry.path.unlink()
        return entry.size_bytes
    return 0
