"""An evaluation from vectors to JSON and back."""

import json

import numpy as np
import pytest

from pipeline.errors import DataCorrupt, UsageError
from pipeline.evaluate.evaluation import Estimate, EvaluationReport, GalleryKind, Mode
from pipeline.evaluate.judgements_file import read_judgements
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.relevance import Judgements
from pipeline.evaluate.retrieval import Asked, Options, Subject, evaluate_retrieval
from pipeline.evaluate.slices import slices_by

SUBJECT = Subject(label="product", model_id="m" * 64, snapshot=3, digest="d" * 64, software={"numpy": "2"})
LINE = LabelledVectors(
    x_ND=np.array([[0], [1], [2.1], [3.3], [10], [11.2], [20]], dtype=np.float32),
    ids=list("abcdefg"),
    labels=["0", "1", "0", "0", "1", "1", None],
)
ASKED = {"map", "r_precision", "success@1", "success@10", "recall@10", "precision@10", "ndcg@10"}


def test_report_has_the_shape_scripts_rely_on_and_the_golden_figures() -> None:
    report = evaluate_retrieval(LINE, SUBJECT, ann_recall=Estimate(mean=0.99, low=0.98, high=1.0))
    document = json.loads(json.dumps(report.to_json()))
    assert set(document["metrics"]) >= ASKED | {"success@5", "mrr", "map_at_r"}
    assert document["n_queries"] == 6
    assert document["metrics"]["map"]["macro"] == pytest.approx(0.629167, abs=5e-7)
    assert document["metrics"]["mrr"]["macro"] == pytest.approx(0.708333, abs=5e-7)
    for figures in document["metrics"].values():
        assert set(figures) == {"macro", "weighted", "per_class", "low", "high"}
        assert 0 <= figures["low"] <= figures["macro"] <= figures["high"] <= 1
    assert document["ann_recall@10"] == {"mean": 0.99, "low": 0.98, "high": 1.0}
    assert (document["n_images"], document["n_without_label"], document["snapshot"]) == (7, 1, 3)
    assert EvaluationReport.from_json(document) == report


def test_json_that_is_no_report_is_refused() -> None:
    with pytest.raises(DataCorrupt, match="not an evaluation report"):
        EvaluationReport.from_json({"n_queries": "many"})


def test_gallery_shows_confusion_first_and_no_query_twice() -> None:
    report = evaluate_retrieval(LINE, SUBJECT, options=Options(gallery_per_kind=2, gallery_neighbours=3))
    confused = [query for query in report.gallery if query.kind is GalleryKind.CONFUSED]
    assert [(query.image_id, query.neighbours[0].image_id) for query in confused] == [("a", "b")]
    assert confused[0].first_relevant_rank == 2
    assert [neighbour.relevant for neighbour in confused[0].neighbours] == [False, True, True]
    ids = [query.image_id for query in report.gallery]
    assert len(set(ids)) == len(ids)
    assert all(len(query.neighbours) == 3 for query in report.gallery)


def test_classes_are_worst_first_and_in_one_list_only() -> None:
    report = evaluate_retrieval(LINE, SUBJECT)
    assert [score.label for score in report.worst_classes + report.best_classes] == ["1", "0"]
    assert report.worst_classes[0].map < report.best_classes[0].map


def test_query_set_does_not_find_itself() -> None:
    queries = LabelledVectors(x_ND=LINE.x_ND[2:3], ids=["c"], labels=["0"])
    report = evaluate_retrieval(LINE, SUBJECT, asked=Asked(queries=queries))
    assert (report.mode, report.n_queries) == (Mode.QUERY_SET, 1)
    assert report.metrics["map"].macro == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert "c" not in [neighbour.image_id for neighbour in report.gallery[0].neighbours]


def test_report_of_a_shuffled_base_is_the_same() -> None:
    order = [4, 2, 6, 0, 5, 3, 1]
    shuffled = LabelledVectors(
        x_ND=LINE.x_ND[order], ids=[LINE.ids[i] for i in order], labels=[LINE.labels[i] for i in order]
    )
    ours, theirs = (evaluate_retrieval(base, SUBJECT) for base in (LINE, shuffled))
    assert ours == theirs


def test_labels_that_nobody_shares_are_a_usage_error() -> None:
    base = LabelledVectors(x_ND=LINE.x_ND[:2], ids=["a", "b"], labels=["x", None])
    with pytest.raises(UsageError, match="1 images have none, and 1 carry one"):
        evaluate_retrieval(base, SUBJECT)


def test_judged_queries_are_graded_and_what_is_unknown_or_unjudged_is_counted() -> None:
    grades = {"a": {"b": 3.0, "c": 1.0, "gone": 2.0}, "e": {"f": 0.0}, "nobody": {"a": 1.0}}
    report = evaluate_retrieval(LINE, SUBJECT, asked=Asked(judgements=Judgements(grades=grades)))
    assert report.n_queries == 1
    assert (report.n_unknown_queries, report.n_unknown_images) == (1, 1)
    assert (report.n_queries_without_relevants, report.n_without_label) == (1, 5)
    assert report.metrics["map"].macro == 1.0  # b and c are the nearest of a
    assert report.metrics["ndcg@10"].macro == 1.0
    assert report.unjudged_at_10 is not None
    assert report.unjudged_at_10.mean == pytest.approx(4 / 6)
    assert json.loads(json.dumps(report.to_json()))["unjudged@10"]["mean"] == pytest.approx(4 / 6)
    assert report.gallery[0].neighbours[0].relevant


def test_grades_change_ndcg_and_not_average_precision() -> None:
    ndcg, ap = [], []
    for far in (1.0, 3.0):
        judgements = Judgements(grades={"a": {"b": 1.0, "d": far}})
        report = evaluate_retrieval(LINE, SUBJECT, asked=Asked(judgements=judgements))
        ndcg.append(report.metrics["ndcg@10"].macro)
        ap.append(report.metrics["map"].macro)
    assert ap[0] == ap[1] == pytest.approx((1 + 2 / 3) / 2)
    assert ndcg == pytest.approx([(1 + 1 / 2) / (1 + 1 / np.log2(3)), (1 + 3 / 2) / (3 + 1 / np.log2(3))])


def test_intervals_resample_groups_whole() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(12) < 0.5, 20)  # twenty images of a product stand or fall together
    x = np.arange(240.0)[:, None] * 10
    groups = [f"g{i // 20}" for i in range(240)]
    base = LabelledVectors(
        x_ND=np.concatenate([x, x + np.where(right, 1, 4)[:, None], x + 2]).astype(np.float32),
        ids=[f"{kind}{i:03d}" for kind in "qrw" for i in range(240)],
        labels=[*(f"l{i}" for i in range(240)), *(f"l{i}" for i in range(240)), *[None] * 240],
        groups=groups * 3,
    )
    queries = LabelledVectors(
        x_ND=base.x_ND[:240], ids=base.ids[:240], labels=base.labels[:240], groups=groups
    )
    alone, together = (
        evaluate_retrieval(base, SUBJECT, asked=Asked(queries=queries, resampled_by=by)).metrics["success@1"]
        for by in (None, "product")
    )
    assert alone.macro == together.macro == right.mean()
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_slices_have_the_means_of_their_queries_and_numbers_are_cut_in_quarters() -> None:
    asked = Asked(
        sliced_by={"colour": ["red", "red", None, "blue", "blue", "blue", "red"], "price": list("abcdefg")}
    )
    report = evaluate_retrieval(LINE, SUBJECT, asked=asked)
    by_value = {one.value: one for one in report.slices if one.column == "colour"}
    assert {value: one.n_queries for value, one in by_value.items()} == {"red": 2, "blue": 3, "(none)": 1}
    assert EvaluationReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    total = sum(one.n_queries * one.metrics["map"].mean for one in by_value.values())
    assert total / 6 == pytest.approx(report.metrics["map"].macro)
    prices = [*(float(i) for i in range(1, 40)), None]
    names = {
        one.value: one.n_queries for one in slices_by("price", prices, {"map": np.ones(40)}, None, seed=0)
    }
    assert names == {"1 to 10.5": 10, "10.5 to 20": 9, "20 to 29.5": 10, "29.5 to 39": 10, "(none)": 1}


@pytest.mark.parametrize(
    ("labels", "ks", "message"),
    [
        (["x"] * 7, (), "all 7 images carry the same label 'x'"),
        (LINE.labels, (7,), "1 to 6 others"),
        (LINE.labels, (0,), "1 to 6 others"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: list[str], ks: tuple[int, ...], message: str) -> None:
    base = LabelledVectors(x_ND=LINE.x_ND, ids=LINE.ids, labels=labels)
    with pytest.raises(UsageError, match=message):
        evaluate_retrieval(base, SUBJECT, options=Options(ks=ks))


def test_judgements_of_nothing_here_are_refused() -> None:
    asked = Asked(judgements=Judgements(grades={"q1": {"d1": 1.0}}))
    with pytest.raises(UsageError, match="none of the 1 judged queries, such as 'q1'"):
        evaluate_retrieval(LINE, SUBJECT, asked=asked)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("q1 0 d1 2\nq1 0 d2 -1\n", {"q1": {"d1": 2, "d2": -1}}),
        ("a b\tc d\t1\n\na b\tc d\t1\n", {"a b": {"c d": 1}}),
    ],
)
def test_judgements_are_read_with_blanks_or_tabs(text: str, expected: object) -> None:
    assert read_judgements(text, "qrels").grades == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no judgement"),
        ("q1 d1\n", "line 1: expected query, image and grade"),
        ("q1 d1 1\nq1 d2 good\n", "line 2"),
        ("q1 d1 nan\n", "line 1"),
        ("q1 d1 1\nq1 d1 2\n", "graded 1 for 'q1' before, and 2 here"),
    ],
)
def test_judgements_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_judgements(text, "qrels")
