"""Vectors of live rows in a file without a name: read many times over, in memory only while they are read.

Exact search over a whole base reads every vector once for each block of queries, in the order of ids. In a
mapped file they are the system's to keep or to drop; the disk's room comes back with the last reference,
however the process ends.
"""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.index.mapped import create_array
from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.rows import vectors_by_part

Ints = npt.NDArray[np.int64]


def mapped_vectors(snapshot: OpenSnapshot, order_N: Ints) -> npt.NDArray[np.float32]:
    """The vectors of ``live`` in the order ``order_N`` (each row once), float32 [N, D], read-only.

    Parts are read one after the other. The file lies in the snapshot's cache folder.

    Raises:
        StorageError: the disk has no room for it.
    """
    content, shape = snapshot.content, (len(order_N), snapshot.content.model.dim)
    if not len(order_N):
        return np.empty(shape, dtype=np.float32)
    place_N = np.empty(len(order_N), dtype=np.int64)
    place_N[order_N] = np.arange(len(order_N))
    snapshot.cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=snapshot.cache) as folder,
        create_array(Path(folder) / "vectors", b"", shape, np.float32) as mapped,
    ):
        (Path(folder) / "vectors").unlink()  # now, not when it is filled: a killed process leaves no bytes
        for here, x_PD in vectors_by_part(snapshot.store, snapshot.live, content.parts, snapshot.cache):
            mapped.array[place_N[here]] = x_PD
            mapped.release()
        mapped.array.flags.writeable = False
        return mapped.array
