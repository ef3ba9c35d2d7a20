"""Several holders of index shards answer as one process does: dead rows, copies, ties, any C and k."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.index.calibrate import calibrate
from pipeline.index.encoder import fit_encoder
from pipeline.index.partial import merge, search_partly
from pipeline.index.probes import LiveRows, live_rows_of_lists
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


@pytest.fixture(scope="module")
def in_lists() -> Searcher:
    with tempfile.TemporaryDirectory() as folder:
        encoder = fit_encoder(X_ND, bits=64, n_lists=8)
        numbers = (np.random.default_rng(1).integers(0, 5, N)).tolist()
        return Searcher(encoder, spread(Path(folder), IDS, X_ND, encoder, numbers, dead=IDS[::7]), None)


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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    holder_of=st.lists(st.integers(0, 1), min_size=5, max_size=5),
    n_candidates=st.integers(5, 80),
    n_probes=st.integers(1, 9),
    n_calibrated=st.sampled_from([200, 2_000]),
)
def test_holders_probe_the_lists_that_one_process_would(
    holder_of: list[int], n_candidates: int, n_probes: int, n_calibrated: int, in_lists: Searcher
) -> None:
    """``n_calibrated`` of 2,000 is as after a filter: lists are probed by live rows over all holders."""
    encoder, xq_QD = in_lists.encoder, unit_rows(6, D, seed=n_candidates)
    assert encoder is not None
    point = replace(
        calibrate(encoder, []), method="hamming", candidates={5: n_candidates}, probes={5: n_probes},
        n_live=n_calibrated,
    )  # fmt: skip
    wanted = Searcher(encoder, in_lists.shards, point).search(xq_QD, 5)
    holders = [
        Searcher(encoder, [s for s, h in zip(in_lists.shards, holder_of, strict=True) if h == number], point)
        for number in range(2)
    ]
    n_candidates, _ = point.sieved(5, in_lists.n_live)
    assert n_candidates == wanted.candidates
    live = LiveRows(
        n=in_lists.n_live,
        n_calibrated=n_calibrated,
        by_list_L=sum(live_rows_of_lists(holder.shards, encoder.n_lists or 0) for holder in holders),
    )
    parts = [search_partly(holder, xq_QD, 5, n_candidates, live) for holder in holders]
    assert merge(parts, len(xq_QD), 5, n_candidates) == (wanted.ids, wanted.distances)


def test_no_holder_or_no_query_has_no_answer(searcher: Searcher) -> None:
    assert merge([], 2, 3, None) == (((), ()), ((), ()))
    nothing = search_partly(searcher, X_ND[:0], 3, 10)
    assert merge([nothing], 0, 3, 10) == ((), ())
