"""Compiled kernels against Faiss and numpy: the same answers to the last tie, whatever the rows look like."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index import hamming, kernel
from pipeline.index.hamming import hamming_counts, nearest_codes
from pipeline.index.order import to_place
from pipeline.index.shard import IndexShard

pytest.importorskip("numba")


def _shard(rng: Any, codes_NW: Any, ranks_N: Any, offsets_L: Any, alive_share: float) -> IndexShard:
    n = len(codes_NW)
    return IndexShard(
        codes_NW=codes_NW,
        vectors_ND=np.zeros((n, 1), dtype=np.float32),
        ids=pa.array([f"{rank:09d}" for rank in ranks_N], pa.large_string()),
        part_N=np.zeros(n, dtype=np.int32),
        row_N=np.arange(n, dtype=np.int32),
        alive_N=None if alive_share == 1.0 else rng.random(n) < alive_share,
        faiss_index=None,
        offsets_L=offsets_L,
        order_N=None if offsets_L is None else np.argsort(np.argsort(ranks_N)).astype(np.int32),
    )


@st.composite
def _case(draw: st.DrawFn) -> tuple[list[IndexShard], Any, dict[str, Any], int]:
    """One to three shards, in list order or not, hardly a distinct distance, and what a search may ask."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = draw(st.sampled_from([1, 4, 8, 16, 20, 24, 32, 64, 72, 128]))
    values, n_lists = draw(st.sampled_from([1, 2, 256])), draw(st.sampled_from([0, 1, 5, 40]))
    sizes = draw(st.lists(st.sampled_from([0, 1, 7, 8, 9, 63, 64, 200, 700]), min_size=1, max_size=3))
    names = rng.permutation(sum(sizes))
    shards = []
    for size in sizes:
        mine, names = names[:size], names[size:]
        offsets_L = None
        if n_lists:
            borders = np.sort(rng.integers(0, size + 1, n_lists - 1))
            offsets_L = np.concatenate([[0], borders, [size]]).astype(np.int64)
        else:
            mine = np.sort(mine)
        codes_NW = rng.integers(0, values, (size, width)).astype(np.uint8)
        shards.append(_shard(rng, codes_NW, mine, offsets_L, draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))))
    n_queries = draw(st.sampled_from([1, 3, 40]))
    asked: dict[str, Any] = {}
    if n_lists and draw(st.booleans()):
        probes_QL = rng.permuted(np.tile(np.arange(n_lists, dtype=np.int32), (n_queries, 1)), axis=1)
        asked["probes_QP"] = np.where(rng.random(probes_QL.shape) < 0.7, probes_QL, -1).astype(np.int32)
    if draw(st.booleans()):
        asked["excluded_QE"] = to_place(0, rng.integers(0, 50, (n_queries, 2)))
    codes_QW = rng.integers(0, values, (n_queries, width)).astype(np.uint8)
    return shards, codes_QW, asked, draw(st.sampled_from([1, 2, 30, 300, 2_500]))


@given(_case(), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_kernel_finds_the_candidates_that_faiss_and_numpy_find(case: Any, threads: int) -> None:
    shards, codes_QW, asked, n = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "MIN_SLICE_BYTES", 64)
        compiled_QC = nearest_codes(shards, codes_QW, n, threads=threads, **asked)
        patch.setattr(kernel, "available", lambda: False)
        plain_QC = nearest_codes(shards, codes_QW, n, threads=threads, **asked)
    np.testing.assert_array_equal(compiled_QC, plain_QC)


@pytest.mark.parametrize("descending", [False, True])
def test_rows_that_all_tie_are_kept_by_rank_in_bounded_memory(descending: bool) -> None:
    """Many more ties than the kernel's buffer holds, in the order that makes every one of them better."""
    rng = np.random.default_rng(0)
    ranks_N = np.arange(100_000)[::-1] if descending else rng.permutation(100_000)
    offsets_L = np.array([0, 40_000, 100_000])
    shard = _shard(rng, np.zeros((100_000, 32), np.uint8), ranks_N, offsets_L, 1.0)
    found_QC = nearest_codes([shard], np.ones((2, 32), np.uint8), 50, threads=1)
    assert sorted(ranks_N[found_QC[1]].tolist()) == list(range(50))


@given(_case(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_kernel_counts_distances_as_faiss_does(case: Any, threads: int) -> None:
    shards, codes_QW, _, _ = case
    counts_QH = hamming_counts(shards, codes_QW, threads=threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "available", lambda: False)
        np.testing.assert_array_equal(hamming_counts(shards, codes_QW, threads=threads), counts_QH)
