"""Reads the float vectors and ids out of somebody else's Faiss index, a list or a range of rows at a time.

The index is mapped, not loaded, where Faiss can: inverted lists and plain codes. Whatever Faiss can
reconstruct is read; vectors that were compressed come out as what they were compressed to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from pipeline.errors import SourceError
from pipeline.index.arrays import ByteArray, Float32Array, IntArray

_BATCH_ROWS = 8_192
_INVERTED = b"Iw"  # how the type of every index with inverted lists begins


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForeignRows:
    """Rows of an index: ``number`` of an inverted list, or of the whole index (-1); ids as Faiss has them.

    ``index`` may be a part of ``owner``, and does not outlive it.
    """

    path: Path
    index: Any
    owner: Any
    number: int
    ids_N: IntArray

    def vectors(self) -> Iterator[Float32Array]:
        """The vectors, in the order of the ids.

        Raises:
            SourceError: Faiss cannot reconstruct them.
        """
        for start in range(0, len(self.ids_N), _BATCH_ROWS):
            n = min(_BATCH_ROWS, len(self.ids_N) - start)
            try:
                if self.number < 0:
                    yield self.index.reconstruct_n(start, n)
                else:
                    yield self.index.sa_decode(self._codes(start, n))
            except RuntimeError as exc:
                raise SourceError(
                    f"Faiss gives no vectors back from {self.path} ({type(self.index).__name__}): {exc}",
                    fix="import the embeddings that the index was made of",
                ) from exc

    def _codes(self, start: int, n: int) -> ByteArray:
        """Codes of the list as ``sa_decode`` takes them: the number of the list, then the vector's own."""
        lists, size = self.index.invlists, self.index.code_size
        coarse = self.index.coarse_code_size()
        codes = lists.get_codes(self.number)
        try:
            whole = faiss.rev_swig_ptr(codes, lists.list_size(self.number) * size)
            code_NW = np.array(whole[start * size : (start + n) * size]).reshape(n, size)
        finally:
            lists.release_codes(self.number, codes)
        head = np.frombuffer(self.number.to_bytes(8, "little")[:coarse], dtype=np.uint8)
        return np.ascontiguousarray(np.concatenate([np.broadcast_to(head, (n, coarse)), code_NW], axis=1))


def read_foreign(path: Path) -> tuple[int, list[ForeignRows]]:
    """The dimension of an index file, and its rows.

    Raises:
        SourceError: Faiss does not open it, or its rows have no order and no ids.
    """
    try:
        with path.open("rb") as file:
            inverted = file.read(2) == _INVERTED
        with _no_larger_than(path):
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if inverted else faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, OSError) as exc:
        raise SourceError(
            f"Faiss does not open {path}: {exc}", fix="give a float index that it wrote"
        ) from exc
    ids_N = np.arange(index.ntotal, dtype=np.int64)
    if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2):
        ids_N = faiss.vector_to_array(index.id_map)
        base = faiss.downcast_index(index.index)
    else:
        base = index
    if isinstance(base, faiss.IndexIVF):
        return index.d, _lists(path, index, base, ids_N)
    if isinstance(base, faiss.IndexPreTransform) and isinstance(
        faiss.downcast_index(base.index), faiss.IndexIVF
    ):
        raise SourceError(
            f"{path} transforms vectors before it puts them into lists, which is not read",
            fix="import the embeddings that the index was made of",
        )
    return index.d, [ForeignRows(path=path, index=base, owner=index, number=-1, ids_N=ids_N)]


@contextmanager
def _no_larger_than(path: Path) -> Iterator[None]:
    """While Faiss reads, it makes nothing of twice the size of the file: a number in it may be made up."""
    size = 2 * path.stat().st_size
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


def _lists(path: Path, index: Any, inverted: Any, ids_N: IntArray) -> list[ForeignRows]:
    """One for each list that has rows; where there is a map of ids, lists have positions in it."""
    found = []
    for number in range(inverted.nlist):
        n = inverted.invlists.list_size(number)
        if n:
            pointer = inverted.invlists.get_ids(number)
            try:
                in_list_N = np.array(faiss.rev_swig_ptr(pointer, n), dtype=np.int64)
            finally:
                inverted.invlists.release_ids(number, pointer)
            mapped_N = in_list_N if index is inverted else ids_N[in_list_N]
            found.append(ForeignRows(path=path, index=inverted, owner=index, number=number, ids_N=mapped_N))
    return found
