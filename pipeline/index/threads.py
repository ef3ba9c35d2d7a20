"""Runs the independent pieces of a scan on all cores, each piece on one.

Faiss parallelises its Hamming scan over queries only, so one query would use one core. Here the caller cuts a
scan into pieces (queries by code ranges); inside a piece OpenMP gets a single thread. How many threads there
are never changes a result, only which core computes it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


def default_threads() -> int:
    """What OMP_NUM_THREADS allows (Ray sets it to a task's cores), else the number of cores."""
    import faiss

    return int(faiss.omp_get_max_threads())


def map_pieces(work: Callable[[Piece], Answer], pieces: Sequence[Piece], threads: int) -> list[Answer]:
    """``[work(piece) for piece in pieces]``, in that order; one piece or one thread runs in the caller."""
    if threads <= 1 or len(pieces) <= 1:
        return [work(piece) for piece in pieces]
    return list(_pool(threads).map(work, pieces))


def cut(n: int, n_pieces: int, *, multiple: int = 1) -> list[tuple[int, int]]:
    """At most ``n_pieces`` ranges (start, stop) that cover range(n); inner borders are whole multiples.

    >>> cut(20, 2, multiple=8)
    [(0, 16), (16, 20)]
    """
    step = max(1, -(-n // max(n_pieces, 1)))
    step = -(-step // multiple) * multiple
    return [(start, min(start + step, n)) for start in range(0, n, step)]


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sieve", initializer=_one_openmp_thread)


def _one_openmp_thread() -> None:
    import faiss

    faiss.omp_set_num_threads(1)  # OpenMP keeps this number per calling thread
