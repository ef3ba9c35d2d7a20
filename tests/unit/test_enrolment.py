"""Enrolment by one image each: counted by hand on points on a line, and by what it must say."""

import json

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.evaluate.enrolment import evaluate_enrolment
from pipeline.evaluate.ranking import LabelledVectors


def people(n_several: int, n_single: int, *, spread: float, seed: int = 3) -> LabelledVectors:
    generator = np.random.default_rng(seed)
    labels: list[str | None] = [f"several{i:03d}" for i in range(n_several) for _ in range(3)]
    labels += [f"single{i:03d}" for i in range(n_single)]
    centres = {label: generator.standard_normal(8) for label in dict.fromkeys(labels)}
    x_ND = np.array([centres[label] + spread * generator.standard_normal(8) for label in labels])
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return LabelledVectors(
        x_ND=x_ND.astype(np.float32), ids=[f"{n:04d}" for n in range(len(labels))], labels=labels
    )


def test_everybody_takes_part_once() -> None:
    base = people(50, 30, spread=0.1)
    report = evaluate_enrolment(
        LabelledVectors(x_ND=base.x_ND, ids=base.ids, labels=[*base.labels[:-1], None]), n_resamples=50
    )
    assert (report.n_enrolled, report.n_mated, report.n_unknown) == (40, 80, 10 * 3 + 29)
    assert report.n_without_label == 1


def test_tight_identities_are_recognised_and_loose_ones_less_often() -> None:
    base = people(60, 40, spread=0.5)
    report = evaluate_enrolment(base, false_alarm_rates=[0.2], n_resamples=50, seed=5)
    again = evaluate_enrolment(base, false_alarm_rates=[0.2], n_resamples=50, seed=5)
    assert report == again
    found = report.detection_rate["0.2"]
    assert found.value is not None
    assert found.threshold is not None
    assert report.rank_1.value is not None
    assert report.rank_1.low is not None
    assert report.rank_1.high is not None
    assert found.value <= report.rank_1.value
    named_wrongly = [one for one in report.wrong if not one.stranger]
    assert named_wrongly
    assert all(one.label != one.nearest_label for one in report.wrong)
    assert len({one.label for one in named_wrongly}) == len(named_wrongly) <= 12
    assert report.rank_1.low <= report.rank_1.value <= report.rank_1.high
    # identities far apart and tight are all recognised, and no stranger is taken for one of them
    tight = evaluate_enrolment(people(60, 40, spread=0.01), false_alarm_rates=[0.2], n_resamples=50)
    assert tight.rank_1.value == 1.0
    assert tight.detection_rate["0.2"].value == 1.0


def test_threshold_lets_in_as_many_strangers_as_stated() -> None:
    angle_N = np.deg2rad([0.0, 4.0, 90.0, 95.0, 180.0, 184.0, 270.0, 272.0, 10.0, 120.0, 140.0])
    x_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)
    labels = ["a", "a", "b", "b", "c", "c", "d", "d", "x", "y", "z"]
    base = LabelledVectors(x_ND=x_ND, ids=[str(n) for n in range(11)], labels=labels)
    report = evaluate_enrolment(base, false_alarm_rates=[0, 0.4, 1], n_resamples=20, few_unknown=True)
    assert (report.n_enrolled, report.n_mated, report.n_unknown) == (4, 4, 3)  # a fifth of four is nobody
    strict, middle, open_ = (report.detection_rate[key] for key in ("0", "0.4", "1"))
    assert strict.threshold is not None
    assert middle.threshold is not None
    assert strict.threshold < middle.threshold
    assert open_.threshold == np.inf
    assert '"threshold": null' in json.dumps(report.to_json(), allow_nan=False)
    assert open_.value == report.rank_1.value == 1.0
    strangers = [(one.label, one.nearest_label, one.stranger) for one in report.wrong]
    assert strangers == [("x", "a", True), ("y", "b", True), ("z", "c", True)]
    assert strict.value == 1.0  # every mate is nearer than the nearest stranger, 6 degrees away


def test_too_few_strangers_are_said() -> None:
    report = evaluate_enrolment(people(20, 10, spread=0.1), false_alarm_rates=[0, 0.001], n_resamples=20)
    assert report.detection_rate["0.001"].value is None
    assert "at least 10,000 are needed" in report.detection_rate["0.001"].reason
    assert "a rate of 0 never allows" in report.detection_rate["0"].reason


def test_nobody_to_enrol_is_an_error() -> None:
    with pytest.raises(UsageError, match="enrolment needs identities with several images"):
        evaluate_enrolment(people(0, 10, spread=0.1))
