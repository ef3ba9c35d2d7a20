"""What ``evaluate reranking`` says of re-rankers that help, hurt, or do nothing."""

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.evaluate.ranking import LabelledVectors
from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.reranking_page import reranking_document
from pipeline.evaluate.reranking import Options, evaluate_reranking, verdict_of
from pipeline.evaluate.reranking_report import Gain, RerankRow
from pipeline.evaluate.retrieval import Subject, evaluate_retrieval
from pipeline.rerank.base import Reranker
from pipeline.rerank.method import parse_reranker
from tests.support.index_shards import unit_rows

FEW = Options(n_queries=400, depth=400, n_resamples=200)


def collection(n_identities: int, per_identity: int, noise: float) -> LabelledVectors:
    rng = np.random.default_rng(7)
    owner_N = np.repeat(np.arange(n_identities), per_identity)
    x_ND = unit_rows(n_identities, 16, 1)[owner_N] + noise * rng.standard_normal((len(owner_N), 16))
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"{row:04d}" for row in range(len(owner_N))]
    return LabelledVectors(x_ND=x_ND, ids=ids, labels=[f"p{owner}" for owner in owner_N])


def rerankers(*asked: str) -> list[Reranker]:
    return [parse_reranker(text) for text in asked]


def rows_of(base: LabelledVectors, *asked: str) -> dict[str, RerankRow]:
    report = evaluate_reranking(base, {name.partition(":")[0]: rerankers(name) for name in asked}, FEW)
    return {row.name: row for row in report.rerankers}


def test_rerankers_help_where_many_images_show_the_same() -> None:
    base = collection(40, 10, 0.22)
    found = rows_of(
        base, "alpha-qe:n=5", "k-reciprocal:k1=8,k2=3", "dba:n=4", "diffusion:n=9,graph=8,damping=0.8"
    )
    assert {row.verdict for row in found.values()} == {"helps"}
    assert all(row.map_gain.low <= row.map_gain.mean <= row.map_gain.high for row in found.values())


def test_expansion_by_strangers_hurts_and_is_said_to_hurt() -> None:
    base = collection(150, 2, 0.2)
    found = rows_of(base, "aqe:n=10")["aqe"]
    assert found.verdict == "hurts"
    assert found.map_gain.high < 0 > found.validation_gain


def test_no_expansion_is_no_difference_and_plain_is_what_retrieval_says() -> None:
    base = collection(30, 8, 0.3)
    report = evaluate_reranking(base, {"aqe": rerankers("aqe:n=0")}, FEW)
    row = report.rerankers[0]
    assert (row.verdict, row.map_gain.mean, row.map) == ("no difference shown", 0, report.plain_map)
    assert report.n_queries + report.n_validation_queries == 240
    whole = evaluate_retrieval(base, Subject(label="p", model_id=""))
    halves = (
        report.plain_map,
        evaluate_reranking(base, {"aqe": rerankers("aqe:n=0")}, Options(seed=1)).plain_map,
    )
    assert min(halves) - 0.05 < whole.metrics["map"].macro < max(halves) + 0.05


def test_setting_is_chosen_on_validation_and_judged_on_other_identities() -> None:
    base = collection(60, 5, 0.25)
    asked = rerankers("aqe:n=2", "aqe:n=4", "aqe:n=40")
    report = evaluate_reranking(base, {"aqe": asked}, FEW)
    row = report.rerankers[0]
    assert (row.n_settings, row.settings) == (3, row.settings)
    assert row.settings != "aqe:n=40"
    assert report.n_identities == 30
    assert report == evaluate_reranking(base, {"aqe": asked}, FEW)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        (((0.1, 0.2, 0.01), (-0.1, 0.1, 1.0)), "helps"),
        (((-0.1, 0.1, 1.0), (-0.2, -0.1, 0.01)), "hurts"),
        (((0.1, 0.2, 0.01), (-0.2, -0.1, 0.01)), "mixed"),
        (((0.1, 0.2, 0.01), (-0.2, -0.1, 0.06)), "helps"),
        (((0.1, 0.2, 0.06), (-0.1, 0.1, 1.0)), "no difference shown"),
        (((0.0, 0.2, 0.01), (-0.2, 0.0, 0.01)), "no difference shown"),
    ],
)
def test_verdict_needs_interval_and_corrected_p_of_a_gain(
    gains: tuple[tuple[float, float, float], tuple[float, float, float]], verdict: str
) -> None:
    found = [Gain(mean=(low + high) / 2, low=low, high=high, p_corrected=p) for low, high, p in gains]
    assert verdict_of(*found, n_identities=20) == verdict
    assert verdict_of(*found, n_identities=19) == "no difference shown"


def test_a_small_gain_is_shown_alone_and_not_among_many() -> None:
    """Holm: the same gain has the same interval in any company, and a larger p value in a larger one."""
    base = collection(60, 4, 0.27)
    alone = rows_of(base, "aqe:n=1")["aqe"]
    others = ("aqe-decay:n=0", "alpha-qe:n=0", "recursive-qe:n=0")  # change nothing, and are counted
    among = rows_of(base, "aqe:n=1", *others)["aqe"]
    assert (among.map_gain.mean, among.map_gain.low) == (alone.map_gain.mean, alone.map_gain.low)
    assert among.map_gain.p_corrected == pytest.approx(min(1.0, 4 * alone.map_gain.p_corrected))


def test_few_identities_conclude_nothing() -> None:
    """The interval of one identity has no width: any difference would be proven."""
    report = evaluate_reranking(collection(2, 10, 0.6), {"aqe": rerankers("aqe:n=9")}, FEW)
    row = report.rerankers[0]
    assert report.n_identities == 1
    assert row.map_gain.low == row.map_gain.high != 0
    assert row.verdict == "no difference shown"
    page = render_html(
        reranking_document(report.to_json() | {"label": "p", "snapshot": 1, "digest": "d", "model_id": "m"}),
        {},
    )
    assert "Nothing is concluded: to judge by takes 20 identities, here is 1." in page


def test_one_identity_cannot_choose_and_judge() -> None:
    base = collection(1, 5, 0.1)
    with pytest.raises(UsageError, match="at least 2 with several images, got 1"):
        evaluate_reranking(base, None, FEW)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nonsense", "there is no re-ranker 'nonsense'"),
        ("aqe:m=3", "no such setting: 'm'"),
        ("aqe:n=3,n=4", "twice: 'n'"),
        ("aqe:n=many", "n is a whole number, got 'many'"),
        ("aqe:n=-1", "n must be at least 0"),
        ("alpha-qe:alpha=nan", "alpha must be at least 0"),
        ("k-reciprocal:weight=2", "weight must be between 0 and 1"),
        ("diffusion:damping=1", "damping must be at least 0 and below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(asked: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_reranker(asked)


def test_page_names_what_helps_and_what_hurts() -> None:
    base = collection(40, 10, 0.22)
    report = evaluate_reranking(
        base, {"aqe": rerankers("aqe:n=5"), "much": rerankers("aqe:n=100")}, FEW, lambda one: 2.0
    )
    result = report.to_json() | {"label": "p<b>", "snapshot": 3, "digest": "d" * 64, "model_id": "m" * 64}
    page = render_html(reranking_document(result), {})
    assert "aqe helps most" in page
    assert "much hurts" in page
    assert "p&lt;b&gt;" in page
    assert "Gain against cost" in page
