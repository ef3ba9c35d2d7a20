"""Writes a plain Faiss IndexIVFFlat of float vectors into one file, however many there are.

Faiss itself builds such an index in memory. Here the vectors stream past twice and never lie in memory:

1. Every vector's list is found (int32 a row is kept), so that the place of every list in the file is known.
2. Faiss writes the empty index; its end, the empty lists, is replaced by lists of these lengths.
3. Every vector and its id is put where it belongs, in the mapped file.

The file is opened again by Faiss, which must find as many vectors and lists.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import faiss
import numpy as np

from pipeline.errors import DataCorrupt
from pipeline.index.arrays import ByteArray, Float32Array, Int32Array, IntArray
from pipeline.index.lists import assign_lists
from pipeline.index.mapped import create_array

Batches: TypeAlias = Callable[[], Iterator[tuple[IntArray, Float32Array]]]
"""Ids, int64 [N], and vectors, float32 [N, D]; the same ones whenever it is called."""

_NO_LISTS = struct.Struct("<4sQQ4sQ")  # "ilar", lists, bytes of a vector, "sprs", number of lengths
_LISTS = struct.Struct("<4sQQ4sQ")  # the same with "full" and as many lengths as lists
_NTOTAL_AT = 8  # behind the type and d
_ID_BYTES = 8
_RESIDENT_BYTES = 1 << 29
_PAGE_BYTES = 4_096


def write_inverted_file(path: Path, centroids_LD: Float32Array, batches: Batches, n_probes: int) -> None:
    """Writes the index to ``path``; its distance is squared L2, a search looks into ``n_probes`` lists.

    Raises:
        DataCorrupt: Faiss does not read the file as what was written, or the batches were others the second
            time.
    """
    n_lists, d = centroids_LD.shape
    list_N = np.concatenate(
        [np.empty(0, np.int32), *(assign_lists(x_ND, centroids_LD) for _, x_ND in batches())]
    )
    n_rows_L = np.bincount(list_N, minlength=n_lists)
    header = _header(centroids_LD, n_rows_L, n_probes)
    start_L = np.cumsum(n_rows_L) - n_rows_L
    n_bytes = len(list_N) * (4 * d + _ID_BYTES)
    with create_array(path, header, (n_bytes,), np.uint8) as mapped:
        done, touched = 0, 0
        filled_L = np.zeros(n_lists, dtype=np.int64)
        for ids_N, x_ND in batches():
            here_N = list_N[done : done + len(ids_N)]
            if len(here_N) != len(ids_N):
                raise DataCorrupt("there were more vectors the second time they were read")
            _put(mapped.array, ids_N, x_ND, here_N, (start_L, n_rows_L, filled_L))
            done += len(ids_N)
            touched += len(ids_N) * max(_PAGE_BYTES, 4 * d)
            if touched > _RESIDENT_BYTES:
                mapped.release()
                touched = 0
    if done != len(list_N):
        raise DataCorrupt(f"{len(list_N)} vectors were read first, then {done}")
    _check(path, len(list_N), n_lists)


def _header(centroids_LD: Float32Array, n_rows_L: IntArray, n_probes: int) -> bytes:
    """Everything before the first list: Faiss's own bytes of the empty index, but for counts and lengths."""
    n_lists, d = centroids_LD.shape
    quantiser = faiss.IndexFlatL2(d)
    quantiser.add(np.ascontiguousarray(centroids_LD))
    index = faiss.IndexIVFFlat(quantiser, d, n_lists, faiss.METRIC_L2)
    index.is_trained = True
    index.nprobe = n_probes
    empty = bytes(faiss.serialize_index(index))
    front, tail = empty[: -_NO_LISTS.size], empty[-_NO_LISTS.size :]
    if tail != _NO_LISTS.pack(b"ilar", n_lists, 4 * d, b"sprs", 0):
        raise DataCorrupt(
            f"Faiss {faiss.__version__} writes inverted lists in a form that is not known here",
            fix="install the release of faiss that pyproject.toml names",
        )
    total = struct.pack("<q", int(n_rows_L.sum()))
    front = front[:_NTOTAL_AT] + total + front[_NTOTAL_AT + len(total) :]
    return front + _LISTS.pack(b"ilar", n_lists, 4 * d, b"full", n_lists) + n_rows_L.astype("<u8").tobytes()


def _put(
    file: ByteArray,
    ids_N: IntArray,
    x_ND: Float32Array,
    list_N: Int32Array,
    lists: tuple[IntArray, IntArray, IntArray],
) -> None:
    """Appends rows to their lists, ``lists`` being first row, length and rows so far of each."""
    start_L, n_rows_L, filled_L = lists
    row_bytes = x_ND.shape[1] * 4
    order_N = np.argsort(list_N, kind="stable")
    numbers, first = np.unique(list_N[order_N], return_index=True)
    for number, rows in zip(numbers, np.split(order_N, first[1:]), strict=True):
        base = int(start_L[number]) * (row_bytes + _ID_BYTES)
        at = base + int(filled_L[number]) * row_bytes
        file[at : at + len(rows) * row_bytes] = x_ND[rows].astype("<f4").reshape(-1).view(np.uint8)
        at = base + int(n_rows_L[number]) * row_bytes + int(filled_L[number]) * _ID_BYTES
        file[at : at + len(rows) * _ID_BYTES] = ids_N[rows].astype("<i8").view(np.uint8)
        filled_L[number] += len(rows)


def _check(path: Path, n_rows: int, n_lists: int) -> None:
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as exc:
        raise DataCorrupt(f"Faiss does not read the index that was written to {path}: {exc}") from exc
    if (index.ntotal, index.nlist) != (n_rows, n_lists):
        raise DataCorrupt(
            f"{path} was written with {n_rows} vectors in {n_lists} lists, "
            f"Faiss reads {index.ntotal} in {index.nlist}"
        )
