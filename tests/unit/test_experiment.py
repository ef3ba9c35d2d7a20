"""Ways of training beside each other: what is shown to differ, and what the page makes of it."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from jobs.experiment.command import in_words
from jobs.experiment.ways import Experiment, ways_of
from pipeline.config import TrainConfig
from pipeline.errors import UsageError
from pipeline.evaluate import experiment
from pipeline.evaluate.experiment import Answers, Tried, Verdict, answers_of, compare_ways
from pipeline.evaluate.report import render_html
from pipeline.evaluate.report.document import Table
from pipeline.evaluate.report.experiment_page import experiment_document, experiment_verdict

N_CLASSES, EACH = 30, 6
CLASSES = [f"c{row // EACH:02d}" for row in range(N_CLASSES * EACH)]
IDS = [f"i{row:03d}" for row in range(N_CLASSES * EACH)]


def vectors(noise: float, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors around a centre for each class."""
    rng = np.random.default_rng([seed, 7])
    centre_CD = np.random.default_rng(1).normal(size=(N_CLASSES, 16))
    x_ND = np.repeat(centre_CD, EACH, axis=0) + noise * rng.normal(size=(len(IDS), 16))
    unit_ND: np.ndarray[Any, np.dtype[np.float32]] = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    return unit_ND.astype(np.float32)


def tried(name: str, noises: list[float], validation: float | None) -> Tried:
    answers = [answers_of(vectors(noise, seed), IDS, CLASSES) for seed, noise in enumerate(noises)]
    return Tried(
        name=name, answers_S=answers, validation_S=[] if validation is None else [validation] * len(noises)
    )


@pytest.fixture(scope="module")
def ways() -> list[Tried]:
    return [
        tried("good", [0.5, 0.53, 0.51], 0.9),
        tried("same", [0.51, 0.5, 0.53], 0.8),
        tried("bad", [0.9, 1.0, 0.95], 0.95),
        tried("torn", [0.3, 3.0, 3.0], 0.7),
        tried("untrained", [9.0, 9.0, 9.0], None),
    ]


def test_the_reference_is_chosen_by_validation_and_judged_by_others(ways: list[Tried]) -> None:
    outcome = compare_ways(ways, seed=0, n_resamples=200, n_permutations=999)
    assert outcome.reference == "bad"
    assert outcome.concludes
    verdicts = {way.name: way.verdict for way in outcome.ways}
    assert verdicts == {
        "good": Verdict.BETTER,
        "same": Verdict.BETTER,
        "bad": Verdict.REFERENCE,
        "torn": Verdict.NOT_SHOWN,
        "untrained": Verdict.WORSE,
    }
    good, untrained = outcome.ways[0], outcome.ways[4]
    assert good.difference is not None
    assert good.difference.difference == pytest.approx(
        good.metrics["map_at_r"].mean - outcome.ways[2].metrics["map_at_r"].mean
    )
    assert good.p_corrected == pytest.approx(4 * good.difference.p_value)
    assert good.val is not None
    assert good.val.low <= good.val.mean <= good.val.high
    assert good.val.mean == pytest.approx(np.mean(good.val.seeds))
    assert good.val.sd == pytest.approx(np.std(good.val.seeds, ddof=1))
    assert untrained.validation is None


def test_a_difference_that_one_seed_does_not_have_is_not_shown(ways: list[Tried]) -> None:
    good, same, torn = ways[0], ways[1], ways[3]
    assert np.mean(torn.answers_S[0].values["map_at_r"]) > np.mean(good.answers_S[0].values["map_at_r"])
    outcome = compare_ways([good, same, torn], seed=0, n_resamples=200, n_permutations=999)
    found = {way.name: way for way in outcome.ways}["torn"]
    assert found.difference is not None
    assert found.difference.high < 0
    assert found.p_corrected is not None
    assert found.p_corrected < 0.05
    assert found.verdict is Verdict.NOT_SHOWN


def test_val_is_of_pairs_by_class_and_absent_where_they_are_too_few() -> None:
    some = [row for row in range(len(IDS)) if row // EACH < 5]
    few = answers_of(vectors(0.4)[some], [IDS[row] for row in some], [CLASSES[row] for row in some])
    assert few.accepted_I is None
    assert "360 different pairs are too few" in few.reason
    spot_ND = vectors(0.4)[:1] + np.float32(1e-4) * vectors(0.4)
    on_one_spot = answers_of(spot_ND / np.linalg.norm(spot_ND, axis=1, keepdims=True), IDS, CLASSES)
    assert on_one_spot.accepted_I is None
    assert "not told apart" in on_one_spot.reason
    outcome = compare_ways(
        [Tried(name="a", answers_S=[few], validation_S=[0.5])], seed=0, n_resamples=100, n_permutations=99
    )
    assert outcome.ways[0].val is None
    assert not outcome.concludes
    enough = answers_of(vectors(0.01), IDS, CLASSES)
    assert enough.n_same_I.tolist() == [EACH * (EACH - 1) // 2] * N_CLASSES
    assert enough.accepted_I is not None
    assert enough.accepted_I.tolist() == enough.n_same_I.tolist()


def test_images_without_partners_are_refused() -> None:
    with pytest.raises(UsageError, match="none of 3 images that were set apart"):
        answers_of(vectors(0.1)[:3], IDS[:3], ["a", "b", "c"])


def result_of(name: str, ways: list[Tried], x: list[float | None]) -> dict[str, Any]:
    outcome = compare_ways(ways, seed=0, n_resamples=100, n_permutations=999)
    known = {"meaning": "<b>", "parameters": None, "mult_adds": None, "n_collapsed": 0}
    return {
        "experiment": name,
        "source": "photos",
        "generated": False,
        "quick": True,
        "label": "@folder",
        "images": {"usable": 400, "judged": len(IDS), "without_label": 1, "rejected": {"truncated": 2}},
        "seeds": [0, 1, 2],
        **{field: value for field, value in asdict(outcome).items() if field != "ways"},
        "concludes": outcome.concludes,
        "ways": [{**known, "x": at, **way.to_json()} for way, at in zip(outcome.ways, x, strict=True)],
        "scaled": "",
        "settings": TrainConfig().model_dump(),
        "software": {"numpy": "2"},
    }


def test_the_page_shows_the_published_table_beside_its_own(ways: list[Tried]) -> None:
    good, same, bad, _, untrained = ways
    good = Tried(name="64", answers_S=good.answers_S, validation_S=[1.0])
    bad = Tried(name="512", answers_S=bad.answers_S, validation_S=[0.1])
    result = result_of("dimension", [good, bad, untrained], [64, 512, None])
    page = render_html(experiment_document(result))
    for said in (
        "The dimension 64 was best on the classes to choose by, and 1 of 1 others",
        "FaceNet&#39;s own",
        "0.879",
        "Training with 64 is better than none",
        "By success@1 it is",
        "A quick run",
        "1 images without the label, 2 rejected",
    ):
        assert said in page
    assert "<b>" not in page
    result["ways"][1]["n_collapsed"] = 2
    assert "512 collapsed in 2 of 3 trainings" in render_html(experiment_document(result))
    same = Tried(name="same", answers_S=same.answers_S, validation_S=[0.1])
    others = result_of("losses", [good, same, untrained], [None] * 3)
    assert experiment_verdict(others).text.endswith("none of 1 others is shown to be worse.")
    assert "Published" not in render_html(experiment_document(others))


def test_few_classes_conclude_nothing(ways: list[Tried], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "MIN_GROUPS", N_CLASSES + 1)
    result = result_of("mining", [ways[0], ways[2], ways[4]], [None] * 3)
    assert {way["verdict"] for way in result["ways"]} == {"reference", "no difference shown"}
    assert experiment_verdict(result).text.startswith("Nothing is concluded")


def test_one_seed_has_no_spread_and_concludes_nothing(ways: list[Tried]) -> None:
    firsts = [
        Tried(name=one.name, answers_S=one.answers_S[:1], validation_S=one.validation_S[:1]) for one in ways
    ]
    result = {**result_of("mining", firsts, [None] * len(ways)), "seeds": [0]}
    assert {way["verdict"] for way in result["ways"]} == {"reference", "no difference shown"}
    assert not result["concludes"]
    assert experiment_verdict(result).text.startswith("Nothing is concluded: one training of each way")
    assert result["ways"][0]["metrics"]["map_at_r"]["sd"] is None
    table = experiment_document(result).sections[0].blocks[0]
    assert isinstance(table, Table)
    assert {row[3] for row in table.rows} == {"\u2013"}
    assert " \u2013 " in in_words({**result, "n_classes": 30})


def test_answers_are_of_images_with_partners_in_order_of_ids() -> None:
    found: Answers = answers_of(vectors(0.1)[:4], ["b", "a", "d", "c"], ["x", "x", "y", "z"])
    assert found.classes_Q == ("x", "x")


@pytest.mark.parametrize(
    ("experiment", "settings", "said"),
    [
        (Experiment.POOLING, {"network": "onnx:trunk.onnx"}, "there is no map left to pool"),
        (Experiment.FLOPS, {"network": "nn4"}, "flops brings its own networks"),
        (Experiment.LOSSES, {"compatible_with": "index#main"}, "free of an older model"),
        (Experiment.LOSSES, {"init": "a" * 64}, "may have seen them"),
    ],
)
def test_settings_that_leave_nothing_to_compare_are_refused(
    experiment: Experiment, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        ways_of(experiment, TrainConfig(**settings), full=False)


def test_every_way_is_a_training_that_can_be_asked_for() -> None:
    for experiment_ in Experiment:
        ways = ways_of(experiment_, TrainConfig(), full=experiment_ is Experiment.FLOPS)
        for way in ways:
            TrainConfig.model_validate({**TrainConfig().model_dump(), **way.settings})
        assert len({way.name for way in ways}) == len(ways)
