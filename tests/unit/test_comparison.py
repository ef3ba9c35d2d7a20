"""Comparisons of two sets of vectors of the same images: what a person must be told, planted and found."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.evaluate.all_pairs import curve_of_query_pairs
from pipeline.evaluate.comparison import Benchmark, Comparison, Options, QuerySet, compare
from pipeline.evaluate.evaluation import Mode
from pipeline.evaluate.label_sample import sample_by_label
from pipeline.evaluate.labelling_sheet import labelling_sheet
from pipeline.evaluate.paired import Verdict
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.retrieval import Asked, Subject, evaluate_retrieval

N_LABELS, PER_LABEL, D = 60, 4, 16
LABELS: list[str | None] = [f"label{n // PER_LABEL:02d}" for n in range(N_LABELS * PER_LABEL)]
QUICK = Options(n_resamples=200, n_permutations=499)


def unit(x_ND: np.ndarray) -> np.ndarray:
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def faces(noise_N: np.ndarray | float, seed: int = 0, d: int = D) -> np.ndarray:
    """Vectors around a centre of each label; more noise, worse vectors."""
    generator = np.random.default_rng(seed)
    centre_ND = np.repeat(generator.standard_normal((N_LABELS, d)), PER_LABEL, axis=0)
    noise_N1 = np.broadcast_to(noise_N, len(LABELS))[:, None]
    return unit(centre_ND + noise_N1 * generator.standard_normal(centre_ND.shape))


def benchmark(old_ND: np.ndarray, new_NE: np.ndarray, **slices: list[str | None]) -> Benchmark:
    return Benchmark(
        ids=[f"i{n:03d}" for n in range(len(LABELS))],
        labels=LABELS,
        groups=[label or "" for label in LABELS],
        slices=slices,
        old_ND=old_ND,
        new_NE=new_NE,
    )


@pytest.fixture(scope="module")
def worse() -> Comparison:
    return compare(benchmark(faces(0.5), faces(1.2, d=24)), QUICK)


def test_worse_vectors_are_worse_and_better_ones_better(worse: Comparison) -> None:
    assert worse.verdict is Verdict.WORSE
    back = compare(benchmark(faces(1.2, d=24), faces(0.5)), QUICK)
    assert back.verdict is Verdict.BETTER
    assert back.metrics["map"].difference == -worse.metrics["map"].difference
    assert back.metrics["map"].n_better == worse.metrics["map"].n_worse > 100
    assert (worse.n_images, worse.n_queries, worse.n_groups) == (240, 240, 60)


def test_same_vectors_are_not_worse_whatever_their_number() -> None:
    x_ND = faces(0.9)
    found = compare(benchmark(x_ND, x_ND.copy()), QUICK)
    assert (found.identical, found.verdict, found.changed) == (True, Verdict.NOT_WORSE, ())
    assert found.neighbours.share == found.neighbours.nearest_changed == 0
    assert {(one.low, one.high) for one in found.metrics.values()} == {(0, 0)}
    shift = found.thresholds[0]
    assert (shift.old_threshold, shift.old_val, shift.far) == (shift.new_threshold, shift.new_val, 0.1)


def test_rotated_vectors_answer_alike_and_are_not_called_identical() -> None:
    x_ND = faces(0.9)
    turned, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((D, D)))
    found = compare(benchmark(x_ND, unit(x_ND @ turned)), Options(margin=0.1))
    assert not found.identical
    assert found.verdict is Verdict.NOT_WORSE
    assert found.neighbours.share == 0
    assert all(one.n_worse == 0 for one in found.metrics.values())


def test_order_of_the_images_changes_nothing(worse: Comparison) -> None:
    given = benchmark(faces(0.5), faces(1.2, d=24))
    order = np.random.default_rng(8).permutation(len(LABELS))
    shuffled = Benchmark(
        ids=[given.ids[row] for row in order],
        labels=[given.labels[row] for row in order],
        groups=[given.groups[row] for row in order],
        slices={},
        old_ND=given.old_ND[order],
        new_NE=given.new_NE[order],
    )
    assert compare(shuffled, QUICK) == worse


def test_worse_slice_is_named_and_decides_though_the_mean_wins() -> None:
    kind: list[str | None] = ["shoe" if n // PER_LABEL < 15 else "hat" for n in range(len(LABELS))]
    noise_N = np.where(np.array(kind) == "shoe", 1.6, 0.4)
    sides = benchmark(faces(1.0), faces(noise_N, seed=0), kind=kind)
    found = compare(sides, QUICK)
    assert (found.verdict, found.verdict_of_mean) == (Verdict.WORSE_IN_PARTS, Verdict.BETTER)
    allowed = compare(sides, replace(QUICK, allow_worse_slices=True))
    assert (allowed.verdict, allowed.slices) == (Verdict.BETTER, found.slices)
    assert [(one.attribute, one.value) for one in found.slices.worse] == [("kind", "shoe")]
    assert found.slices.worse[0].difference < -0.1


def test_thresholds_move_as_the_distances_do() -> None:
    """Vectors in a narrow cone answer alike at smaller distances: an old threshold accepts more."""
    x_ND = faces(0.7)
    cone_ND = unit(np.hstack([x_ND, np.ones((len(x_ND), 1))]))
    shift = next(s for s in compare(benchmark(x_ND, cone_ND), QUICK).thresholds if s.far == 0.01)
    assert shift.old_threshold is not None
    assert shift.new_threshold is not None
    assert shift.kept_far is not None
    assert shift.new_threshold == pytest.approx(shift.old_threshold / 2, rel=0.05)
    assert shift.old_val == pytest.approx(shift.new_val, abs=0.02)
    assert shift.kept_far > 0.2
    few = compare(benchmark(x_ND, cone_ND), QUICK).thresholds[-1]
    assert (few.old_threshold, few.reason) == (None, "28,320 different pairs are too few")


def test_sheet_hides_the_sides_and_its_key_finds_them(worse: Comparison) -> None:
    assert {one.new_value < one.old_value for one in worse.changed} == {True, False}
    assert len(worse.changed) == 200
    sheet, key = labelling_sheet(worse.changed, seed=4)
    by_id = {one.image_id: one for one in worse.changed}
    for row, hidden in zip(sheet, key, strict=True):
        one = by_id[row.query]
        new, old = (row.left, row.right) if hidden.new_side == "left" else (row.right, row.left)
        assert (new, old, row.number) == (one.new_ids[:5], one.old_ids[:5], hidden.number)
    assert {hidden.new_side for hidden in key} == {"left", "right"}
    assert [row.query for row in sheet] != [one.image_id for one in worse.changed]
    assert labelling_sheet(worse.changed, seed=4) == (sheet, key)
    assert labelling_sheet(worse.changed, seed=5) != (sheet, key)


def at(*degrees: float) -> np.ndarray:
    radians_N = np.deg2rad(degrees)
    return np.column_stack([np.cos(radians_N), np.sin(radians_N)]).astype(np.float32)


def asked_on_a_circle() -> Benchmark:
    """`a` asks in person and `b` as another picture; `w` and `z` have nothing to find."""
    labels: list[str | None] = ["x", "y", "x", "w", None]
    return Benchmark(
        ids=["a", "b", "c", "d"],
        labels=["x", "y", "x", "y"],
        groups=["a", "b", "q", "w", "z"],
        slices={},
        old_ND=at(0, 10, 20, 40),
        new_NE=at(0, 10, 20, 40),
        queries=QuerySet(
            ids=["a", "b", "q", "w", "z"],
            labels=labels,
            old_QD=at(0, 12, 21, 5, 5),
            new_QE=at(0, 38, 9, 5, 5),
            namesakes=frozenset("b"),
        ),
    )


def test_query_set_gives_the_paired_differences_of_two_evaluations() -> None:
    given = asked_on_a_circle()
    queries = given.queries
    assert queries is not None
    found = compare(given, QUICK)
    one = found.metrics["map"]
    assert (found.mode, found.n_namesakes, found.identical) == (Mode.QUERY_SET, 1, False)
    assert (found.n_images, found.n_queries, found.n_groups) == (4, 3, 3)
    assert one.old == pytest.approx(np.mean([1 / 2, (1 + 2 / 4) / 2, (1 + 2 / 4) / 2]))
    assert one.new == pytest.approx(np.mean([1 / 2, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2]))
    assert (one.n_better, one.n_worse) == (1, 1)
    for x_ND, xq_QD, mean in (
        (given.old_ND, queries.old_QD, one.old),
        (given.new_NE, queries.new_QE, one.new),
    ):
        asked = Asked(
            queries=LabelledVectors(x_ND=xq_QD, ids=queries.ids, labels=queries.labels),
            namesakes=queries.namesakes,
        )
        base = LabelledVectors(x_ND=x_ND, ids=given.ids, labels=given.labels)
        report = evaluate_retrieval(base, Subject(label="", model_id=""), asked=asked)
        assert report.metrics["map"].macro == pytest.approx(mean)
    gain, loss = found.changed
    assert (gain.image_id, gain.label, gain.old_ids, gain.new_ids) == ("b", "y", tuple("bcad"), tuple("dcba"))
    assert (loss.image_id, loss.new_ids) == ("q", tuple("bacd"))
    assert found.thresholds[0].reason == "10 different pairs are too few"  # 4 x 4, less 5 same and `a` itself


def test_query_set_of_one_label_moves_no_threshold_and_one_without_relevants_is_refused() -> None:
    given = asked_on_a_circle()
    queries = given.queries
    assert queries is not None
    single = replace(given, labels=["x"] * 4, queries=replace(queries, labels=["x"] * 5))
    assert {one.reason for one in compare(single, QUICK).thresholds} == {
        "every image has the label of every query"
    }
    with pytest.raises(UsageError, match="of 5 queries that both have, 1 have no label and the others carry"):
        compare(replace(given, labels=["u"] * 4), QUICK)
    same = replace(given, queries=replace(queries, new_QE=queries.old_QD))
    assert compare(same, QUICK).identical


def test_pairs_of_queries_and_images_are_counted_block_by_block() -> None:
    generator = np.random.default_rng(3)
    xq_QD, x_ND = (unit(generator.standard_normal((n, 4))) for n in (1100, 1500))
    code_Q, code_N = generator.integers(9, size=1100), generator.integers(9, size=1500)
    own_Q = np.where(np.arange(1100) % 3, -1, np.arange(1100) + 400)
    curve = curve_of_query_pairs((xq_QD, code_Q), (x_ND, code_N), own_Q)
    other_QN = own_Q[:, None] != np.arange(1500)
    same_QN, near_QN = code_Q[:, None] == code_N, 2 - 2 * xq_QD @ x_ND.T < 1
    place = int(np.searchsorted(curve.thresholds_T, 1.0))
    assert curve.n_same == (same_QN & other_QN).sum()
    assert curve.n_different == (~same_QN & other_QN).sum()
    assert curve.same_below_T[place] == pytest.approx((near_QN & same_QN & other_QN).sum(), abs=2)
    assert curve.different_below_T[place] == pytest.approx((near_QN & ~same_QN & other_QN).sum(), abs=2)


def test_nothing_to_find_and_unknown_measures_are_errors() -> None:
    given = benchmark(faces(0.5), faces(0.5))
    alone = Benchmark(
        ids=given.ids,
        labels=list(given.ids),
        groups=given.groups,
        slices={},
        old_ND=given.old_ND,
        new_NE=given.new_NE,
    )
    with pytest.raises(UsageError, match="nothing to compare: of 240 images"):
        compare(alone, QUICK)
    with pytest.raises(UsageError, match="expected one of map"):
        compare(given, Options(metric="accuracy"))


def test_sample_keeps_labels_whole_and_their_sizes_as_they_are() -> None:
    labels: list[str | None] = ["giant"] * 500
    labels += (
        [f"pair{n // 2:03d}" for n in range(400)] + [f"single{n:03d}" for n in range(300)] + [None] * 100
    )
    ids = [f"{n:05d}" for n in range(len(labels))]
    rows = sample_by_label(ids, labels, 200, seed=1)
    names = [labels[row] for row in rows]
    assert 190 <= len(rows) <= 230
    assert names.count("giant") == 20
    pairs = [name for name in names if name and name.startswith("pair")]
    assert len(pairs) == 2 * len(set(pairs))
    assert 80 <= len(pairs) <= 110
    assert names.count(None) + sum(1 for name in names if name and "single" in name) == pytest.approx(
        98, abs=3
    )
    assert names.count(None) > 10
    assert list(rows) == list(sample_by_label(ids, labels, 200, seed=1)) == sorted(set(rows.tolist()))
    several = sample_by_label(ids, labels, 10_000, seed=1, least_per_label=2, most_per_label=5)
    assert len(several) == 400 + 5
