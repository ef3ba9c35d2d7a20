"""An evaluation from vectors to JSON and back."""

import json

import numpy as np
import pytest

from pipeline.errors import DataCorrupt, UsageError
from pipeline.evaluate.evaluation import Estimate, EvaluationReport, GalleryKind, Mode
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.retrieval import Options, Subject, evaluate_retrieval

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
    report = evaluate_retrieval(LINE, SUBJECT, queries=queries)
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
