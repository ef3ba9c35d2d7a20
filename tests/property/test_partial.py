"""Several holders of index shards answer as one process does: dead rows, copies, ties, any C and k."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.index.encoder import fit_encoder
from pipeline.index.partial import merge, search_partly
from pipeline.index.search import Searcher
from tests.support.index_shards import spread, unit_rows

D, N = 8, 240
X_ND = unit_rows(60, D, seed=1)[np.random.default_rng(0).integers(0, 60, N)]  # every image about four times
ENCODER = fit_encoder(X_ND, bits=64)
IDS = [f"é{i % 50}-{i:03d}" for i in range(N)]


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    with tempfile.TemporaryDirectory() as folder:
        numbers = (np.random.default_rng(1).integers(0, 5, N)).tolist()
        return Searcher(ENCODER, spread(Path(folder), IDS, X_ND, ENCODER, numbers, dead=IDS[::7]), None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    holder_of=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    k=st.integers(1, 30),
    more=st.integers(0, 60) | st.none(),
    seed=st.integers(0, 5),
)
def test_holders_together_answer_as_one_process(
    holder_of: list[int], k: int, more: int | None, seed: int, searcher: Searcher
) -> None:
    xq_QD = np.concatenate([X_ND[seed : seed + 3], unit_rows(2, D, seed=seed)])
    n_candidates = None if more is None else k + more
    wanted = searcher.search(xq_QD, k, exact=more is None, candidates=n_candidates)
    holders = [
        Searcher(ENCODER, [s for s, h in zip(searcher.shards, holder_of, strict=True) if h == number], None)
        for number in range(3)
    ]
    parts = [search_partly(holder, xq_QD, k, n_candidates) for holder in holders]
    assert merge(parts, len(xq_QD), k, n_candidates) == (wanted.ids, wanted.distances)


def test_no_holder_or_no_query_has_no_answer(searcher: Searcher) -> None:
    assert merge([], 2, 3, None) == (((), ()), ((), ()))
    nothing = search_partly(searcher, X_ND[:0], 3, 10)
    assert merge([nothing], 0, 3, 10) == ((), ())
