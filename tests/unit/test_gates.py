"""Each gate passes at its threshold and fails beyond; overrides are recorded, unknown ones refused."""

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.snapshot.gates import GATES, Spread, Thresholds, judge, refusing
from tests.support.manifests import coverage, evidence

LIMITS = Thresholds()
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("coverage", {}, {"coverage": coverage(reused=1)}),
    ("coverage", {}, {"coverage": coverage(embedded=99)}),
    ("set_aside", {}, {"coverage": coverage(embedded=99, set_aside=1)}),
    (
        "rejected_share",
        {"coverage": coverage(embedded=95, rejected=5)},
        {"coverage": coverage(embedded=94, rejected=6)},
    ),
    ("shrink", {"live_rows": 80, "distinct_live_ids": 80}, {"live_rows": 79, "distinct_live_ids": 79}),
    (
        "not_empty",
        {"live_rows": 1, "distinct_live_ids": 1, "parent_live_rows": 1},
        {"live_rows": 0, "distinct_live_ids": 0, "parent_live_rows": 0},
    ),
    ("one_model", {"n_models": 1}, {"n_models": 2}),
    ("unit_norm", {"norm_error": 1e-3}, {"norm_error": 1.01e-3}),
    ("unique_ids", {}, {"distinct_live_ids": 99}),
    ("recall", {"recall_low": 0.99}, {"recall_low": 0.9899}),
    ("filtered_recall", {"filtered_recall_high": 0.99}, {"filtered_recall_high": 0.9899}),
    ("bit_balance", {"bit_imbalance": 0.1}, {"bit_imbalance": 0.11}),
    (
        "variance",
        {"spread": Spread(variance=0.001, distinct_codes=1)},
        {"spread": Spread(variance=0.0009, distinct_codes=1)},
    ),
    (
        "distinct_codes",
        {"spread": Spread(variance=1, distinct_codes=0.1)},
        {"spread": Spread(variance=1, distinct_codes=0.09)},
    ),
    ("not_rolled_back", {"rolled_back": False}, {"rolled_back": True}),
]


@pytest.mark.parametrize(("name", "at", "beyond"), CASES)
def test_gate_passes_at_its_threshold_and_fails_beyond(
    name: str, at: dict[str, Any], beyond: dict[str, Any]
) -> None:
    assert refusing(judge(evidence(**at), LIMITS, {})) == []
    (refused,) = refusing(judge(evidence(**beyond), LIMITS, {}))
    assert refused.name == name
    assert not refused.passed
    assert f"{refused.threshold:g}" in refused.message


@pytest.mark.parametrize(("name", "at", "beyond"), CASES)
def test_gate_overridden_by_name_does_not_refuse_and_says_why(
    name: str, at: dict[str, Any], beyond: dict[str, Any]
) -> None:
    records = judge(evidence(**beyond), LIMITS, {name: "known"})
    assert refusing(records) == []
    assert [(r.name, r.passed, r.override) for r in records if r.override] == [(name, False, "known")]
    unused = judge(evidence(**at), LIMITS, {name: "known"})
    assert all(record.override is None for record in unused)


def test_gates_are_all_tried_in_one_order() -> None:
    names = [record.name for record in judge(evidence(), LIMITS, {})]
    assert sorted(names) == sorted({name for name, _, _ in CASES})
    assert [record.name for record in judge(evidence(live_rows=0), LIMITS, {})] == names == list(GATES)


def test_gates_override_of_an_unknown_gate_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="'shrnk'") as caught:
        judge(evidence(), LIMITS, {"shrnk": "typo"})
    assert "shrink" in caught.value.fix


def test_gates_take_their_limits_from_the_configuration() -> None:
    strict = Thresholds(
        max_rejected_share=0, max_shrink_share=0.01, max_bit_imbalance=0.01, target_recall=0.999
    )
    found = evidence(
        coverage=coverage(embedded=99, rejected=1),
        live_rows=98,
        distinct_live_ids=98,
        recall_low=0.99,
        bit_imbalance=0.05,
    )
    assert {r.name for r in refusing(judge(found, strict, {}))} == {
        "rejected_share",
        "shrink",
        "recall",
        "bit_balance",
    }
    assert refusing(judge(found, LIMITS, {})) == []


def test_shrink_gate_of_a_first_or_a_growing_night_passes() -> None:
    assert refusing(judge(evidence(parent_live_rows=0), LIMITS, {})) == []
    assert refusing(judge(evidence(parent_live_rows=10), LIMITS, {})) == []
