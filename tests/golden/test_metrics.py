"""Retrieval measures against hand-computed numbers and against trec_eval (through ir_measures)."""

from collections.abc import Callable
from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

from pipeline.errors import UsageError
from pipeline.evaluate import metrics
from pipeline.evaluate.aggregate import NoRelevant, bootstrap_interval, class_means, summarise
from pipeline.evaluate.metrics import Floats, GradedRanks, RelevantRanks
from pipeline.evaluate.ranked_ids import Pairs, from_ranked_ids, ranks_of_pairs

HITS = ("1010010000", "00100", "00000", "11111")
N_RELEVANT = (4, 1, 3, 7)
CLASSES = ("a", "b", "b", "a")

Measure = Callable[[RelevantRanks], Floats]
BY_NAME: dict[str, Measure] = {
    "P@5": lambda found: metrics.precision_at(found, 5),
    "success@5": lambda found: metrics.success_at(found, 5),
    "recall@5": lambda found: metrics.recall_at(found, 5),
    "Rprec": metrics.r_precision,
    "AP": metrics.average_precision,
    "AP@5": lambda found: metrics.average_precision_at(found, 5),
    "MAP@R": metrics.map_at_r,
    "nDCG@5": lambda found: metrics.ndcg_at(found, 5),
    "nDCG": metrics.ndcg_at,
    "RR": metrics.reciprocal_rank,
}
PER_QUERY = {
    "P@5": (0.4, 0.2, 0, 1),
    "success@5": (1, 1, 0, 1),
    "recall@5": (0.5, 1, 0, 0.714286),
    "Rprec": (0.5, 0, 0, 0.714286),
    "AP": (0.541667, 0.333333, 0, 0.714286),
    "AP@5": (0.416667, 0.333333, 0, 0.714286),
    "MAP@R": (0.416667, 0, 0, 0.714286),
    "nDCG@5": (0.585570, 0.5, 0, 1),
    "nDCG": (0.724626, 0.5, 0, 0.810462),
    "RR": (1, 1 / 3, 0, 1),
}
MACRO = {
    "P@5": 0.4,
    "success@5": 0.75,
    "recall@5": 0.553571,
    "Rprec": 0.303571,
    "AP": 0.397321,
    "nDCG@5": 0.521393,
}
WEIGHTED = {"P@5": 0.586667, "success@5": 0.8, "AP": 0.5, "nDCG@5": 0.656152}


def golden() -> RelevantRanks:
    ranks = [[i + 1 for i, hit in enumerate(hits) if hit == "1"] for hits in HITS]
    return RelevantRanks(
        ranks_H=np.array([rank for row in ranks for rank in row]),
        offsets_Q1=np.cumsum([0, *map(len, ranks)]),
        n_relevant_Q=np.array(N_RELEVANT),
    )


@pytest.mark.parametrize("name", PER_QUERY)
def test_measure_on_golden_rankings_gives_the_golden_values(name: str) -> None:
    np.testing.assert_allclose(BY_NAME[name](golden()), PER_QUERY[name], atol=5e-7)


def test_summary_of_golden_rankings_gives_macro_weighted_and_per_class() -> None:
    values = {name: measure(golden()) for name, measure in BY_NAME.items()}
    summary = summarise(values, golden().n_relevant_Q, CLASSES, seed=1)
    assert {name: summary[name].macro for name in MACRO} == pytest.approx(MACRO, abs=5e-7)
    assert {name: summary[name].weighted for name in WEIGHTED} == pytest.approx(WEIGHTED, abs=5e-7)
    assert summary["AP"].per_class == pytest.approx(((0.541667 + 0.714286) / 2 + 0.333333 / 2) / 2, abs=1e-6)
    by_class = class_means(values["P@5"], CLASSES)
    assert list(by_class) == ["a", "b"]
    assert by_class["a"] == pytest.approx((0.7, 2))
    assert by_class["b"] == pytest.approx((0.1, 2))


def test_trapezoid_average_precision_of_the_first_golden_query() -> None:
    assert metrics.average_precision_trapezoid(golden())[0] == pytest.approx(0.508333, abs=5e-7)


@pytest.mark.parametrize(("gain", "expected"), [("linear", 0.785002), ("exp", 0.751083)])
def test_graded_ndcg_of_the_golden_gains(gain: str, expected: float) -> None:
    graded = graded_ranks([3, 2, 3, 0, 1, 2], [3, 3, 3, 2, 2, 2, 1, 0])
    got = metrics.ndcg_graded(graded, 6, gain)  # type: ignore[arg-type]
    assert got == pytest.approx([expected], abs=5e-7)


def test_graded_ndcg_with_negative_gain_is_refused_and_without_judgement_undefined() -> None:
    assert np.isnan(metrics.ndcg_graded(graded_ranks([0.0], [0.0]))[0])
    with pytest.raises(ValueError, match="not negative"):
        graded_ranks([1.0], [-1.0])


def graded_ranks(gains_in_rank_order: list[float], judged: list[float]) -> GradedRanks:
    """One query; a gain of 0 is no hit."""
    hits = np.flatnonzero(gains_in_rank_order)
    found = RelevantRanks(
        ranks_H=hits + 1,
        offsets_Q1=np.array([0, len(hits)]),
        n_relevant_Q=np.array([np.count_nonzero(judged)]),
    )
    gains_H = np.array(gains_in_rank_order, dtype=np.float64)[hits]
    return GradedRanks(
        found=found,
        gains_H=gains_H,
        judged_J=np.array(judged, dtype=np.float64),
        judged_offsets_Q1=np.array([0, len(judged)]),
    )


def test_ranked_ids_with_junk_and_padding_close_up() -> None:
    ids_QK = np.array([["j", "a", "x", "b"], ["x", "", "", ""]])
    found = from_ranked_ids(ids_QK, [{"a", "b", "c"}, {"y"}], junk=[{"j", "c"}, ()])
    assert found.ranks_H.tolist() == [1, 3]
    assert found.offsets_Q1.tolist() == [0, 2, 2]
    assert found.n_relevant_Q.tolist() == [2, 1]
    as_numbers = from_ranked_ids(np.array([[9, 1, 7, -1, -1]]), [{7}])
    assert as_numbers.ranks_H.tolist() == [3]


def test_ranked_ids_with_an_id_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        from_ranked_ids(np.array([[1, 1]]), [{1}])


def test_measure_beyond_the_places_looked_at_is_refused() -> None:
    found = from_ranked_ids(np.array([[4, 2, 7]]), [{7}])
    assert metrics.success_at(found, 3) == [1.0]
    with pytest.raises(ValueError, match="only 3 were looked at"):
        metrics.recall_at(found, 4)


@pytest.mark.parametrize("scale", [1, 10_000_019])
def test_ranks_of_pairs_of_any_size_equal_ranks_of_sets(scale: int) -> None:
    rng = np.random.default_rng(11)
    ids_QK = np.stack([rng.permutation(50)[:20] for _ in range(30)]) * scale
    ids_QK[3, 15:] = -1
    relevant = [set((rng.permutation(50)[: rng.integers(0, 9)] * scale).tolist()) for _ in range(30)]
    junk = [set((rng.permutation(50)[: rng.integers(0, 4)] * scale).tolist()) for _ in range(30)]
    as_text = np.where(ids_QK < 0, "", np.char.mod("i%d", ids_QK))
    named = [[{f"i{number}" for number in ids} for ids in sets] for sets in (relevant, junk)]
    ours = ranks_of_pairs(ids_QK, Pairs.of(relevant), Pairs.of(junk)).found
    theirs = from_ranked_ids(as_text, *named)
    plain = [
        [item for item in row.tolist() if item >= 0 and item not in junk[q]] for q, row in enumerate(ids_QK)
    ]
    expected = [[i for i, item in enumerate(row, 1) if item in relevant[q]] for q, row in enumerate(plain)]
    for found in (ours, theirs):
        assert np.split(found.ranks_H, found.offsets_Q1[1:-1])[5].tolist() == expected[5]
        assert found.ranks_H.tolist() == [rank for row in expected for rank in row]
        assert found.n_relevant_Q.tolist() == [len(right - junk[q]) for q, right in enumerate(relevant)]


def test_graded_ndcg_agrees_with_trec_eval_on_random_rankings() -> None:
    rng = np.random.default_rng(3)
    ids_QK = np.stack([rng.permutation(40)[:25] for _ in range(20)])
    grades = [{int(i): int(rng.integers(1, 4)) for i in rng.permutation(40)[:9]} for _ in range(20)]
    pairs = Pairs.of(grades)
    gains = np.array([gain for one in grades for gain in one.values()], dtype=np.float64)
    graded = ranks_of_pairs(ids_QK, replace(pairs, gain_P=gains))
    qrels = {f"q{q:02d}": {f"{item:03d}": gain for item, gain in one.items()} for q, one in enumerate(grades)}
    run = {
        f"q{q:02d}": {f"{item:03d}": 25.0 - rank for rank, item in enumerate(row)}
        for q, row in enumerate(ids_QK)
    }
    theirs = {one.query_id: one.value for one in ir_measures.iter_calc([nDCG @ 10], qrels, run)}
    ours = metrics.ndcg_graded(graded, 10)
    assert ours == pytest.approx([theirs[f"q{q:02d}"] for q in range(20)], abs=1e-6)


@pytest.mark.parametrize(
    ("ranks", "offsets", "n_relevant"),
    [([2, 2], [0, 2], [2]), ([0], [0, 1], [1]), ([1, 2], [0, 2], [1]), ([1], [0, 2], [2]), ([1], [0], [1])],
)
def test_relevant_ranks_that_cannot_be_are_refused(
    ranks: list[int], offsets: list[int], n_relevant: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"rank|offset"):
        RelevantRanks(
            ranks_H=np.array(ranks),
            offsets_Q1=np.array(offsets),
            n_relevant_Q=np.array(n_relevant, dtype=np.int64),
        )


def test_measures_agree_with_trec_eval_on_random_rankings() -> None:
    rng = np.random.default_rng(7)
    n_queries, n_returned, n_items = 40, 25, 60
    ids_QK = np.stack([rng.permutation(n_items)[:n_returned] for _ in range(n_queries)])
    relevant = [set(rng.permutation(n_items)[: rng.integers(1, 20)].tolist()) for _ in range(n_queries)]
    run = {
        f"q{q:03d}": {f"{item:05d}": float(n_returned - rank) for rank, item in enumerate(row)}
        for q, row in enumerate(ids_QK)
    }
    qrels = {f"q{q:03d}": {f"{item:05d}": 1 for item in wanted} for q, wanted in enumerate(relevant)}
    theirs = {
        P @ 5: "P@5",
        Success @ 5: "success@5",
        R @ 5: "recall@5",
        Rprec: "Rprec",
        AP: "AP",
        AP @ 5: "AP@5",
    }
    theirs |= {nDCG @ 5: "nDCG@5", nDCG: "nDCG", RR: "RR"}
    found = from_ranked_ids(ids_QK, relevant)
    ours = {name: BY_NAME[name](found) for name in theirs.values()}
    seen = 0
    for metric in ir_measures.iter_calc(list(theirs), qrels, run):
        assert ours[theirs[metric.measure]][int(metric.query_id[1:])] == pytest.approx(metric.value, abs=1e-6)
        seen += 1
    assert seen == n_queries * len(theirs)


def without_relevants() -> RelevantRanks:
    return RelevantRanks(ranks_H=np.array([1]), offsets_Q1=np.array([0, 1, 1]), n_relevant_Q=np.array([1, 0]))


def test_query_without_relevants_is_undefined_then_excluded_zero_or_error() -> None:
    found = without_relevants()
    values = {name: measure(found) for name, measure in BY_NAME.items()}
    assert all(np.isnan(value[1]) for value in values.values())
    excluded = summarise(values, found.n_relevant_Q, ("a", "b"), seed=0)
    zero = summarise(values, found.n_relevant_Q, ("a", "b"), seed=0, no_relevant=NoRelevant.ZERO)
    assert (excluded["AP"].macro, zero["AP"].macro) == (1.0, 0.5)
    with pytest.raises(UsageError, match="1 of 2 queries"):
        summarise(values, found.n_relevant_Q, ("a", "b"), seed=0, no_relevant=NoRelevant.ERROR)
    with pytest.raises(UsageError, match="none of the 1 queries"):
        summarise({"AP": np.array([np.nan])}, np.array([0]), ("a",), seed=0)


def test_bootstrap_interval_matches_the_normal_one_and_is_seeded() -> None:
    values_QM = np.random.default_rng(3).random((2000, 1))
    low, high = bootstrap_interval(values_QM, seed=11)[:, 0]
    half = 1.96 * values_QM.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values_QM.mean() - half, values_QM.mean() + half), abs=0.15 * half)
    assert (bootstrap_interval(values_QM, seed=11)[:, 0] == (low, high)).all()
    assert (bootstrap_interval(values_QM, seed=12)[:, 0] != (low, high)).any()


def test_bootstrap_interval_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values_QM = np.random.default_rng(3).random((50, 2))
    whole = bootstrap_interval(values_QM, seed=1)
    monkeypatch.setattr("pipeline.evaluate.aggregate._DRAWS_AT_ONCE", 350)
    np.testing.assert_allclose(bootstrap_interval(values_QM, seed=1), whole, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_interval_of_a_perfect_sample_is_as_wide_as_its_size_allows(value: float) -> None:
    low, high = bootstrap_interval(np.full((20, 1), value), seed=0)[:, 0]
    assert high - low == pytest.approx(1 - 0.025 ** (1 / 20))
