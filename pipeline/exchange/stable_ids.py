"""Whole-number ids for engines that know no others: the same image has the same number in every export.

The number of an id is the first 8 bytes of the sha256 of its UTF-8 bytes, big-endian, without the highest
bit, so that it is never negative. Two ids with the same number would be one row elsewhere: that is refused.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

_POSITIVE = (1 << 63) - 1


def stable_ids(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The numbers of ``ids``, int64 [N].

    >>> stable_ids(["cat"]).tolist() == [0x77AF778B51ABD4A3 & (2**63 - 1)]
    True
    """
    heads = b"".join(hashlib.sha256(image_id.encode()).digest()[:8] for image_id in ids)
    return (np.frombuffer(heads, dtype=">u8") & np.uint64(_POSITIVE)).astype(np.int64)


def check_distinct(numbers_N: npt.NDArray[np.int64], batches: Iterable[Sequence[str]]) -> None:
    """Refuses numbers that two ids share; ``batches`` are the ids, read only to name the two.

    Raises:
        UsageError: names them.
    """
    ordered_N = np.sort(numbers_N)
    shared = ordered_N[1:][ordered_N[1:] == ordered_N[:-1]]
    if not len(shared):
        return
    names = [image_id for ids in batches for image_id in ids if stable_ids([image_id])[0] == shared[0]]
    raise UsageError(
        f"the images {' and '.join(map(repr, names))} have the same 63-bit number {shared[0]}",
        fix="export --format parquet, whose ids are text",
    )
