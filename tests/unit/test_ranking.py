"""Exact ranks against brute force, with duplicates, missing labels and singletons in the way."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate import distances, metrics, ranking
from pipeline.evaluate.groups import Groups
from pipeline.evaluate.ranking import Contest, LabelledVectors, Ranking, leave_one_out_ranks, query_set_ranks
from pipeline.evaluate.relevance import ByJudgements, ByLabel, IdOrder, Judgements, OtherGroups, Relevance


def vectors(x: object, labels: list[str | None], prefix: str = "i") -> LabelledVectors:
    x_ND = np.asarray(x, dtype=np.float32)
    return LabelledVectors(x_ND=x_ND, ids=[f"{prefix}{i:04d}" for i in range(len(x_ND))], labels=labels)


def brute_force(
    queries: LabelledVectors, base: LabelledVectors
) -> dict[int, tuple[list[int], list[int], NDArray[np.float32]]]:
    """Per judged query: ranks of the relevant rows, the ranking as rows, its distances; by plain sorting."""
    out = {}
    for q in sorted(range(len(queries.ids)), key=lambda q: queries.ids[q].encode()):
        name, label = queries.ids[q], queries.labels[q]
        d2 = ((queries.x_ND[q].astype(np.float64) - base.x_ND.astype(np.float64)) ** 2).sum(axis=1)
        d2 = d2.astype(np.float32)
        others = [i for i in range(len(base.ids)) if base.ids[i] != name]
        order = sorted(others, key=lambda i: (d2[i], base.ids[i].encode()))
        ranks = [r for r, i in enumerate(order, start=1) if label is not None and base.labels[i] == label]
        if ranks:
            out[q] = (ranks, order, d2[order])
    return out


def random_base(seed: int, n: int = 150, d: int = 6) -> LabelledVectors:
    """Unit vectors with duplicates and near duplicates, labels with gaps and singletons, ids unsorted."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[n // 2 : n // 2 + n // 4] = x[: n // 4]
    x[-10:] = x[:10] + np.float32(1e-6)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = [f"c{c}" if c < 12 else None for c in rng.integers(0, 14, size=n)]
    labels[0] = "alone"
    ids = [f"{'é' if i % 3 else 'z'}{i}" for i in rng.permutation(n)]
    return LabelledVectors(x_ND=x, ids=ids, labels=labels)


def check_against_brute_force(queries: LabelledVectors, base: LabelledVectors) -> None:
    got = query_set_ranks(queries, base, depth=7)
    expected = brute_force(queries, base)
    assert got.query_rows_Q.tolist() == list(expected)
    for i, (ranks, order, d2) in enumerate(expected.values()):
        start, stop = got.found.offsets_Q1[i : i + 2]
        assert got.found.ranks_H[start:stop].tolist() == ranks
        assert got.neighbours_QK[i].tolist() == order[:7]
        assert (got.distances_QK[i] == d2[:7]).all()


def test_leave_one_out_on_a_line_gives_the_golden_means() -> None:
    points = vectors([[0], [1], [2.1], [3.3], [10], [11.2], [20]], ["0", "1", "0", "0", "1", "1", "2"])
    got = leave_one_out_ranks(points)
    assert got.n_queries_without_relevants == 1
    means = {
        "P@1": metrics.precision_at(got.found, 1).mean(),
        "Rprec": metrics.r_precision(got.found).mean(),
        "MAP@R": metrics.map_at_r(got.found).mean(),
        "MAP": metrics.average_precision(got.found).mean(),
        "MRR": metrics.reciprocal_rank(got.found).mean(),
    }
    golden = {"P@1": 0.5, "Rprec": 0.416667, "MAP@R": 0.333333, "MAP": 0.629167, "MRR": 0.708333}
    assert means == pytest.approx(golden, abs=5e-7)


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_with_duplicates_equals_brute_force(seed: int) -> None:
    base = random_base(seed)
    check_against_brute_force(base, base)


def test_query_set_sharing_some_ids_with_the_base_equals_brute_force() -> None:
    base, other = random_base(1), random_base(2, n=40)
    queries = LabelledVectors(
        x_ND=np.concatenate([base.x_ND[:20], other.x_ND]),
        ids=[*base.ids[:20], *(f"new{i}" for i in range(40))],
        labels=[*base.labels[:20], *other.labels],
    )
    check_against_brute_force(queries, base)


def test_small_blocks_give_the_same_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    base = random_base(4)
    monkeypatch.setattr(ranking, "_DISTANCES_AT_ONCE", 1000)
    monkeypatch.setattr(distances, "_BASE_AT_ONCE", 17)
    monkeypatch.setattr(distances, "_PAIRS_AT_ONCE", 3)
    check_against_brute_force(base, base)


def test_permuting_the_base_changes_no_rank() -> None:
    base = random_base(5)
    order = np.random.default_rng(0).permutation(len(base.ids))
    shuffled = LabelledVectors(
        x_ND=base.x_ND[order], ids=[base.ids[i] for i in order], labels=[base.labels[i] for i in order]
    )
    ours, theirs = leave_one_out_ranks(base), leave_one_out_ranks(shuffled)
    by_id = {shuffled.ids[row]: q for q, row in enumerate(theirs.query_rows_Q)}
    for q, row in enumerate(ours.query_rows_Q):
        other = by_id[base.ids[row]]
        a, b = (
            r.found.ranks_H[slice(*r.found.offsets_Q1[i : i + 2])] for r, i in ((ours, q), (theirs, other))
        )
        assert a.tolist() == b.tolist()


def test_self_is_removed_by_id_although_a_duplicate_comes_first() -> None:
    got = leave_one_out_ranks(vectors([[1, 0], [1, 0], [0, 1]], ["a", "b", "b"]), depth=5)
    assert got.query_rows_Q.tolist() == [1, 2]
    assert got.neighbours_QK.tolist() == [[0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert got.distances_QK[:, :2].tolist() == [[0, 2], [2, 2]]
    assert np.isinf(got.distances_QK[:, 2:]).all()
    assert got.found.ranks_H.tolist() == [2, 2]


def test_negative_zero_does_not_break_a_tie() -> None:
    got = leave_one_out_ranks(vectors([[0.0, 1], [-0.0, 1], [0.0, 1], [1, 0]], ["a", "b", "a", "b"]))
    assert got.distances_QK[0, :2].tolist() == [0, 0]
    assert got.found.ranks_H.tolist() == [2, 3, 1, 2]


def test_rows_without_label_and_singletons_are_counted_and_still_stand_in_the_way() -> None:
    got = leave_one_out_ranks(vectors([[0], [1], [2], [9]], ["a", None, "a", "b"]))
    assert (got.n_queries_without_label, got.n_queries_without_relevants) == (1, 1)
    assert got.found.ranks_H.tolist() == [2, 2]


def test_nothing_to_judge_gives_an_empty_ranking() -> None:
    got = leave_one_out_ranks(vectors([[0], [1]], ["a", "b"]))
    assert got.found.n_queries == 0
    assert got.neighbours_QK.shape == (0, 10)


@pytest.mark.parametrize(
    ("x", "ids", "labels", "message"),
    [
        ([[1], [2]], ["a", "a"], ["x", "x"], "distinct"),
        ([[1], [2]], ["a"], ["x", "x"], "equal lengths"),
        ([1, 2], ["a", "b"], ["x", "x"], "shape"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    x: object, ids: list[str], labels: list[str | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledVectors(x_ND=np.asarray(x, dtype=np.float32), ids=ids, labels=labels)


def test_vectors_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"1 of 2 vectors .* such as that of 'i0001'"):
        vectors([[1.0], [np.nan]], ["x", "x"])


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="2 dimensions"):
        query_set_ranks(vectors([[1.0]], ["a"]), vectors([[1.0, 0.0]], ["a"]))


def ranked(
    queries: LabelledVectors,
    base: LabelledVectors,
    relevance: Relevance,
    order: IdOrder,
    groups: Groups | None = None,
) -> Ranking:
    contest = Contest(queries, base, relevance, order, depth=5, groups=groups)
    return contest.ranking(contest.rank(block) for block in contest.blocks())


def ranks_by_id(base: LabelledVectors, got: Ranking) -> dict[str, list[int]]:
    names = [base.ids[row] for row in got.query_rows_Q.tolist()]
    ranks = np.split(got.found.ranks_H, got.found.offsets_Q1[1:-1])
    return {name: found.tolist() for name, found in zip(names, ranks, strict=True)}


@pytest.mark.parametrize("seed", range(2))
def test_judgements_with_junk_equal_brute_force(seed: int) -> None:
    base, rng = random_base(seed), np.random.default_rng(seed)
    grades = {
        asking: {base.ids[i]: int(rng.integers(-1, 4)) for i in rng.permutation(len(base.ids))[:12]}
        for asking in rng.choice(base.ids, 20, replace=False).tolist()
    }
    grades["nobody"], grades[base.ids[0]] = {base.ids[1]: 1}, {"nothing": 2}
    order = IdOrder.of(base.ids)
    relevance = ByJudgements(base.ids, Judgements(grades=grades), order)
    assert relevance.missing() == (["nobody"], ["nothing"])
    got = ranked(base, base, relevance, order)
    expected, gains = {}, []
    for asking in sorted(set(grades) - {"nobody"}):
        judged = {name: grade for name, grade in grades[asking].items() if name != asking}
        q = base.ids.index(asking)
        d2 = ((base.x_ND[q].astype(np.float64) - base.x_ND) ** 2).sum(axis=1).astype(np.float32)
        kept = [i for i in range(len(d2)) if base.ids[i] != asking and judged.get(base.ids[i], 0) >= 0]
        kept.sort(key=lambda i: (d2[i], base.ids[i]))
        right = [
            (rank, judged[base.ids[i]]) for rank, i in enumerate(kept, 1) if judged.get(base.ids[i], 0) > 0
        ]
        if right:
            expected[asking] = [rank for rank, _ in right]
            gains += [grade for _, grade in right]
    assert ranks_by_id(base, got) == expected
    assert got.graded.gains_H.tolist() == gains
    assert got.n_queries_without_relevants == len(grades) - 1 - len(expected)


@pytest.mark.parametrize("own_group", [True, False])
def test_groups_are_ranked_at_their_nearest_image(own_group: bool) -> None:
    base, rng = random_base(4), np.random.default_rng(4)
    groups = [None if g == 0 else f"g{g}" for g in rng.integers(0, 40, size=len(base.ids))]
    order = IdOrder.of(base.ids)
    relevance: Relevance = ByLabel(base.ids, base.labels, base.labels, order)
    if not own_group:
        relevance = OtherGroups(relevance, groups, groups, order)
    collapsed = Groups.of([groups[row] for row in order.rows_N.tolist()])
    got = ranked(base, base, relevance, order, collapsed)
    expected = {}
    for q in range(len(base.ids)):
        d2 = ((base.x_ND[q].astype(np.float64) - base.x_ND) ** 2).sum(axis=1).astype(np.float32)
        others = [
            i for i in range(len(d2)) if i != q and (own_group or groups[q] is None or groups[i] != groups[q])
        ]
        others.sort(key=lambda i: (d2[i], base.ids[i]))
        names = list(dict.fromkeys(groups[i] or base.ids[i] for i in others))
        right = {
            groups[i] or base.ids[i]
            for i in others
            if base.labels[q] is not None and base.labels[i] == base.labels[q]
        }
        if right:
            expected[base.ids[q]] = [rank for rank, name in enumerate(names, 1) if name in right]
    assert ranks_by_id(base, got) == expected


def test_junk_neither_asks_nor_stands_in_the_way() -> None:
    points = vectors([[0], [1], [2], [10]], ["a", "b", "a", "b"])
    order = IdOrder.of(points.ids)
    got = ranked(
        points, points, ByLabel(points.ids, points.labels, points.labels, order, {"i0001", "gone"}), order
    )
    assert ranks_by_id(points, got) == {"i0000": [1], "i0002": [1]}
    assert got.right_QK[:, :2].tolist() == [[True, False], [True, False]]


def test_another_picture_under_the_query_s_id_is_found_and_judged() -> None:
    """The ids of two collections may be the same names: without a word, a right image would be taken out."""
    base = vectors([[0], [1], [5]], ["a", "b", "a"])
    queries = vectors([[0.1], [0.9]], ["a", "b"])
    order = IdOrder.of(base.ids)
    grades = {"i0000": {"i0000": 1, "i0002": 1}}
    found = {}
    without: set[str] = set()
    for namesakes in (without, {"i0000"}):
        for relevance in (
            ByLabel(queries.ids, queries.labels, base.labels, order, namesakes=namesakes),
            ByJudgements(queries.ids, Judgements(grades=grades), order, namesakes),
        ):
            got = ranked(queries, base, relevance, order)
            found[type(relevance), bool(namesakes)] = ranks_by_id(queries, got)
    assert found[ByLabel, False] == {"i0000": [2]}
    assert found[ByLabel, True] == {"i0000": [1, 3]}
    assert found[ByJudgements, False] == {"i0000": [2]}
    assert found[ByJudgements, True] == {"i0000": [1, 3]}
    junk = {"i0000"}  # an image of the base, not the query under its name
    relevance = ByLabel(queries.ids, queries.labels, base.labels, order, junk, junk)
    assert ranks_by_id(queries, ranked(queries, base, relevance, order)) == {"i0000": [2]}


def test_drawn_queries_are_the_same_whatever_their_order_and_rank_as_all_do() -> None:
    base = random_base(5)
    shuffled = np.random.default_rng(1).permutation(len(base.ids))
    other = LabelledVectors(
        x_ND=base.x_ND[shuffled],
        ids=[base.ids[i] for i in shuffled],
        labels=[base.labels[i] for i in shuffled],
    )
    found = []
    for one in (base, other):
        order = IdOrder.of(one.ids)
        contest = Contest(one, one, ByLabel(one.ids, one.labels, one.labels, order), order, depth=3)
        contest.draw(20, seed=7)
        got = contest.ranking(contest.rank(block) for block in contest.blocks())
        found.append(ranks_by_id(one, got))
    everybody = ranks_by_id(base, leave_one_out_ranks(base))
    assert found[0] == found[1] == {name: everybody[name] for name in found[0]}
    assert len(found[0]) == 20


def test_repeats_are_found_across_slices_and_signs_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_BASE_AT_ONCE", 5)
    rng = np.random.default_rng(9)
    x_ND = rng.integers(-1, 2, size=(200, 3)).astype(np.float32)
    x_ND[50:60] *= np.float32(-0.0)
    table = distances.DistanceTable.of(x_ND)
    first_of: dict[tuple[float, ...], int] = {}
    firsts = [first_of.setdefault(tuple((row + 0.0).tolist()), number) for number, row in enumerate(x_ND)]
    expected = [(row, first) for row, first in enumerate(firsts) if row != first]
    assert list(zip(table.repeats_P.tolist(), table.firsts_P.tolist(), strict=True)) == expected
    assert (
        table.squared_l2(x_ND[:4])[:, table.repeats_P] == table.squared_l2(x_ND[:4])[:, table.firsts_P]
    ).all()


def test_base_in_a_file_is_read_in_slices_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allocated while ranking is a small part of the base; the answers are those of any order."""
    n_rows, n_dims = 12_000, 256
    monkeypatch.setattr(distances, "_BASE_AT_ONCE", 512)
    monkeypatch.setattr(ranking, "_DISTANCES_AT_ONCE", 4 * n_rows)
    file = tmp_path / "vectors"
    np.random.default_rng(3).standard_normal((n_rows, n_dims), dtype=np.float32).tofile(file)
    mapped_ND = np.memmap(file, dtype=np.float32, mode="r", shape=(n_rows, n_dims))
    ids = [f"{row:06d}" for row in range(n_rows)]
    labels: list[str | None] = [f"l{row // 2}" for row in range(n_rows)]
    labels[8:] = [None] * (n_rows - 8)  # eight queries
    base = LabelledVectors(x_ND=mapped_ND, ids=ids, labels=labels)
    order = IdOrder.of(ids)
    contest = Contest(base, base, ByLabel(ids, labels, labels, order), order, depth=3)
    tracemalloc.start()
    answers = [contest.rank(block) for block in contest.blocks()]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(answers) == 2
    assert peak_bytes < mapped_ND.nbytes / 2
    shuffled = np.random.default_rng(4).permutation(n_rows)
    again = leave_one_out_ranks(
        LabelledVectors(
            x_ND=mapped_ND[shuffled],
            ids=[ids[row] for row in shuffled],
            labels=[labels[row] for row in shuffled],
        ),
        depth=3,
    )
    found = contest.ranking(answers)
    assert again.found.ranks_H.tolist() == found.found.ranks_H.tolist()
    assert shuffled[again.neighbours_QK].tolist() == found.neighbours_QK.tolist()
