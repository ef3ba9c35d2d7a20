"""What an opened index holds in memory: heap of this process, and pages of its files in the page cache."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_PAGE = mmap.PAGESIZE
_MADV_DONTNEED = 4
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


def heap_bytes() -> int:
    """Resident memory of this process that no file stands behind."""
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    return int(fields[fields.index("Anonymous:") + 1]) * 1024


def files_under(folder: Path) -> list[Path]:
    """Every file of an index, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def resident_bytes(files: Iterable[Path]) -> int:
    """Bytes of the files that lie in the page cache now, whoever read them."""
    return sum(_resident(path) for path in files)


def drop(files: Iterable[Path]) -> None:
    """Takes the files out of this process's mappings and out of the page cache; what they hold stays valid.

    Only read-only mappings are touched: the next access reads the page from the file again.
    """
    wanted = {os.path.realpath(path) for path in files}
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in wanted and "w" not in fields[1]:
            start, stop = (int(end, 16) for end in fields[0].split("-"))
            _LIBC.madvise(start, stop - start, _MADV_DONTNEED)
    for path in wanted:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # a dirty page is not dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _resident(path: Path) -> int:
    size = path.stat().st_size
    if size == 0:
        return 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)
    if address == _FAILED:
        raise OSError(ctypes.get_errno(), f"cannot map {path}")
    pages = ctypes.create_string_buffer(-(-size // _PAGE))
    try:
        if _LIBC.mincore(address, size, pages):
            raise OSError(ctypes.get_errno(), f"mincore of {path}")
    finally:
        _LIBC.munmap(address, size)
    return sum(page & 1 for page in pages.raw) * _PAGE
