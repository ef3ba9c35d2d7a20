"""The first stage against brute force: exact to the last tie, with dead rows, exclusions and any threads."""

from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index import kernel, plain
from pipeline.index.hamming import hamming_counts, hamming_of, nearest_codes
from pipeline.index.shard import IndexShard
from tests.support.index_shards import hamming_oracle


def _shard(codes_NW: Any, alive_N: Any = None) -> IndexShard:
    """A shard in memory; only its codes are looked at here."""
    n = len(codes_NW)
    return IndexShard(
        codes_NW=codes_NW,
        vectors_ND=np.zeros((n, 1), dtype=np.float32),
        ids=pa.array([f"{row:06d}" for row in range(n)], pa.large_string()),
        part_N=np.zeros(n, dtype=np.int32),
        row_N=np.arange(n, dtype=np.int32),
        alive_N=alive_N,
        faiss_index=None,
    )


@st.composite
def _codes(draw: st.DrawFn) -> tuple[Any, Any, Any, int]:
    """Codes of few distinct values, so that nearly every distance is a tie; and dead rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, width = draw(st.integers(1, 300)), draw(st.sampled_from([1, 4, 8, 16, 20, 32, 64, 72]))
    values = draw(st.sampled_from([1, 2, 4, 256]))
    codes_NW = rng.integers(0, values, (n, width)).astype(np.uint8)
    codes_QW = rng.integers(0, values, (draw(st.integers(1, 40)), width)).astype(np.uint8)
    alive_N = rng.random(n) < draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
    return codes_NW, codes_QW, alive_N, draw(st.integers(1, n + 5))


def _oracle(codes_NW: Any, codes_QW: Any, alive_N: Any, n: int) -> list[set[int]]:
    found = []
    for distance_N in hamming_oracle(codes_NW, codes_QW):
        live = sorted((int(distance_N[row]), int(row)) for row in np.flatnonzero(alive_N))
        found.append({row for _, row in live[:n]})
    return found


@given(_codes(), st.integers(1, 4))
@settings(max_examples=120, deadline=None)
def test_candidates_are_the_first_live_rows_by_hamming_and_row(case: Any, threads: int) -> None:
    codes_NW, codes_QW, alive_N, n = case
    place_QC = nearest_codes([_shard(codes_NW, alive_N)], codes_QW, n, threads=threads)
    assert [set(row[row >= 0].tolist()) for row in place_QC] == _oracle(codes_NW, codes_QW, alive_N, n)
    for row in place_QC:
        present = row[row >= 0]
        assert present.tolist() == sorted(present.tolist()) == row[: len(present)].tolist()


@given(_codes())
@settings(max_examples=60, deadline=None)
def test_excluded_rows_make_room_for_the_next(case: Any) -> None:
    codes_NW, codes_QW, alive_N, n = case
    excluded_QE = np.arange(len(codes_QW))[:, None] % (len(codes_NW) + 1) - 1  # -1: nothing to exclude
    place_QC = nearest_codes([_shard(codes_NW, alive_N)], codes_QW, n, excluded_QE=excluded_QE, threads=2)
    for query, row in enumerate(place_QC):
        alive = alive_N.copy()
        if excluded_QE[query, 0] >= 0:
            alive[excluded_QE[query, 0]] = False
        assert set(row[row >= 0].tolist()) == _oracle(codes_NW, codes_QW[query : query + 1], alive, n)[0]


@given(_codes())
@settings(max_examples=60, deadline=None)
def test_counts_are_the_histogram_over_live_rows(case: Any) -> None:
    codes_NW, codes_QW, alive_N, _ = case
    expected = [
        np.bincount(distance_N[alive_N], minlength=codes_NW.shape[1] * 8 + 1)
        for distance_N in hamming_oracle(codes_NW, codes_QW)
    ]
    np.testing.assert_array_equal(hamming_counts([_shard(codes_NW, alive_N)], codes_QW, threads=2), expected)


def test_distance_of_pairs_is_the_popcount_of_their_difference() -> None:
    rng = np.random.default_rng(0)
    codes_NW, codes_QW = (rng.integers(0, 256, (n, 8)).astype(np.uint8) for n in (30, 4))
    query_M, place_M = np.repeat(np.arange(4), 30), np.tile(np.arange(30), 4)
    found = hamming_of([_shard(codes_NW)], codes_QW, query_M, place_M)
    np.testing.assert_array_equal(found.reshape(4, 30), hamming_oracle(codes_NW, codes_QW))


@pytest.mark.parametrize("counting_bytes", [1 << 28, 0], ids=["counting", "heap"])
@pytest.mark.parametrize("alive_share", [1.0, 0.7])
def test_ties_across_faiss_blocks_and_slices_keep_the_smallest_rows(
    counting_bytes: int, alive_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than Faiss's block of 65,536 codes, hardly a distinct distance, one query on all threads."""
    monkeypatch.setattr(plain, "_COUNTING_BYTES", counting_bytes)
    monkeypatch.setattr(kernel, "available", lambda: False)
    rng = np.random.default_rng(1)
    codes_NW = rng.integers(0, 2, (200_003, 8)).astype(np.uint8)
    codes_QW = rng.integers(0, 2, (3, 8)).astype(np.uint8)
    alive_N = rng.random(len(codes_NW)) < alive_share
    place_QC = nearest_codes([_shard(codes_NW, alive_N)], codes_QW, 1_500, threads=5)
    key_QN = hamming_oracle(codes_NW, codes_QW).astype(np.int64) * len(codes_NW) + np.arange(len(codes_NW))
    key_QN[:, ~alive_N] = np.iinfo(np.int64).max
    np.testing.assert_array_equal(place_QC, np.sort(np.argsort(key_QN, axis=1)[:, :1_500], axis=1))


def test_faiss_binary_flat_itself_keeps_the_smallest_rows_among_ties() -> None:
    """What the first stage relies on, said of the index type that readers of our files will use."""
    index = faiss.IndexBinaryFlat(64)
    index.add(np.zeros((5_000, 8), dtype=np.uint8))
    for use_heap in (True, False):
        index.use_heap = use_heap
        _, row = index.search(np.ones((1, 8), dtype=np.uint8), 37)
        assert sorted(row[0].tolist()) == list(range(37))
