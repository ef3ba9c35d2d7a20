"""What must hold for the measures whatever the ranking."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate import metrics
from pipeline.evaluate.metrics import RelevantRanks

EVERY = (
    metrics.r_precision,
    metrics.average_precision,
    metrics.map_at_r,
    metrics.average_precision_trapezoid,
    metrics.reciprocal_rank,
    metrics.ndcg_at,
)


@st.composite
def found_ranks(draw: st.DrawFn) -> RelevantRanks:
    rows = draw(st.lists(st.lists(st.booleans(), max_size=30), min_size=1, max_size=5))
    ranks = [[i + 1 for i, hit in enumerate(row) if hit] for row in rows]
    missing = [draw(st.integers(0, 5)) for _ in rows]
    return RelevantRanks(
        ranks_H=np.array([rank for row in ranks for rank in row], dtype=np.int64),
        offsets_Q1=np.cumsum([0, *map(len, ranks)]),
        n_relevant_Q=np.array(
            [len(row) + more for row, more in zip(ranks, missing, strict=True)], dtype=np.int64
        ),
    )


@given(found_ranks())
@settings(max_examples=60, deadline=None)
def test_every_measure_is_between_zero_and_one_and_undefined_only_without_relevants(
    found: RelevantRanks,
) -> None:
    for measure in EVERY:
        values_Q = measure(found)
        assert (np.isnan(values_Q) == (found.n_relevant_Q == 0)).all()
        assert ((values_Q >= 0) & (values_Q <= 1 + 1e-12))[found.n_relevant_Q > 0].all()


@given(found_ranks())
@settings(max_examples=60, deadline=None)
def test_average_precision_is_one_exactly_when_all_relevant_items_lead(found: RelevantRanks) -> None:
    last_Q = np.array([found.ranks_H[a:b].max(initial=0) for a, b in itertools.pairwise(found.offsets_Q1)])
    lead_Q = (np.diff(found.offsets_Q1) == found.n_relevant_Q) & (last_Q == found.n_relevant_Q)
    defined_Q = found.n_relevant_Q > 0
    assert (np.isclose(metrics.average_precision(found), 1.0) == lead_Q)[defined_Q].all()


@given(found_ranks())
@settings(max_examples=60, deadline=None)
def test_success_and_recall_never_fall_with_k(found: RelevantRanks) -> None:
    defined_Q = found.n_relevant_Q > 0
    for measure in (metrics.success_at, metrics.recall_at, metrics.average_precision_at):
        curve = np.stack([measure(found, k)[defined_Q] for k in (1, 2, 5, 10, 30)])
        assert (np.diff(curve, axis=0) >= -1e-12).all()


@given(found_ranks())
@settings(max_examples=60, deadline=None)
def test_r_precision_is_precision_and_recall_at_r(found: RelevantRanks) -> None:
    for q, r in enumerate(found.n_relevant_Q):
        if r:
            both = metrics.precision_at(found, int(r))[q], metrics.recall_at(found, int(r))[q]
            np.testing.assert_allclose(metrics.r_precision(found)[q], both)
