"""Writes a large array into a mapped file in any order of rows, in bounded resident memory.

The pages that were written belong to the file; `release` gives them up, and the system writes them out when
it likes.
"""

import errno
import io
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import no_room

_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL)  # some file systems


class MappedArray:
    """An array behind a header in a file; rows are written through ``array``."""

    def __init__(self, mapping: mmap.mmap, array: npt.NDArray[Any]) -> None:
        """A view ``array`` of ``mapping``."""
        self.array = array
        self._mapping = mapping

    def release(self) -> None:
        """Gives up the resident pages; what was written stays in the file."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


@contextmanager
def create_array(
    path: Path, header: bytes, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> Iterator[MappedArray]:
    """A new file of ``header`` and then zeros for an array of this shape, C order.

    Raises:
        StorageError: the disk has no room for it.
    """
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    with path.open("wb+") as file:
        file.write(header)
        file.flush()
        _reserve(file.fileno(), path, len(header) + n_bytes)
        mapping = mmap.mmap(file.fileno(), len(header) + n_bytes)
        yield MappedArray(mapping, np.ndarray(shape, dtype, buffer=mapping, offset=len(header)))


def _reserve(handle: int, path: Path, n_bytes: int) -> None:
    """Makes the file so long, and takes the room: a mapped page without any would end the process."""
    try:
        os.ftruncate(handle, n_bytes)
        os.posix_fallocate(handle, 0, n_bytes)
    except OSError as exc:
        full = no_room(exc, str(path))
        if full is not None:
            raise full from exc
        if exc.errno not in _CANNOT_RESERVE:
            raise


def npy_header(shape: tuple[int, ...], dtype: npt.DTypeLike) -> bytes:
    """The header of an .npy file, format 1.0, of a C-order array."""
    buffer = io.BytesIO()
    plain = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, plain)
    return buffer.getvalue()


def faiss_header(n: int, bits: int) -> bytes:
    """The header of Faiss's file of an IndexBinaryFlat of ``n`` codes: type, sizes, trained, length."""
    return struct.pack("<4siIQBiQ", b"IBxF", bits, bits // 8, n, 1, 1, n * bits // 8)
