"""Paired differences: nulls reject at the nominal rate, planted effects and slices are found."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluate.paired import (
    PairedDifference,
    Verdict,
    holm,
    paired_differences,
    sign_flip_p_values,
    verdict_of,
)
from pipeline.evaluate.slice_tests import slice_differences

N_GROUPS, PER_GROUP = 40, 4
GROUPS = [f"g{q // PER_GROUP}" for q in range(N_GROUPS * PER_GROUP)]


def measured(
    generator: np.random.Generator, effect: float = 0.0, groups: list[str] = GROUPS
) -> dict[str, np.ndarray]:
    """Old and new values whose difference is shared by the whole group: queries are not independent."""
    n_groups = len(groups) // PER_GROUP
    old = generator.uniform(0.3, 0.7, len(groups))
    shift = np.repeat(generator.normal(effect, 0.1, n_groups), PER_GROUP)
    return {"old": old, "new": old + shift + generator.normal(0, 0.01, len(groups))}


def difference(values: dict[str, np.ndarray], groups: list[str] = GROUPS, seed: int = 0) -> PairedDifference:
    return paired_differences(
        {"map": values["old"]}, {"map": values["new"]}, groups, seed=seed, n_resamples=200, n_permutations=199
    )["map"]


def simulated(effect: float, n_times: int, groups: list[str] | None = None) -> list[PairedDifference]:
    generator = np.random.default_rng(5)
    return [difference(measured(generator, effect), groups or GROUPS, seed) for seed in range(n_times)]


def test_null_rejects_at_the_nominal_rate() -> None:
    found = simulated(0, 400)
    assert 8 <= sum(one.p_value < 0.05 for one in found) <= 34  # of 20 expected
    assert 340 <= sum(one.low <= 0 <= one.high for one in found) <= 396
    assert sum(verdict_of(one, 0, N_GROUPS) is Verdict.BETTER for one in found) <= 18  # of 10


def test_taking_queries_for_independent_would_reject_a_null_far_too_often() -> None:
    queries_alone = [str(q) for q in range(len(GROUPS))]
    found = simulated(0, 100, queries_alone)
    assert sum(one.p_value < 0.05 for one in found) > 20  # of 5 expected: this is why groups are needed


def test_planted_effect_is_found_as_often_as_the_minimum_detectable_effect_says() -> None:
    stated = np.mean([one.minimum_detectable for one in simulated(0, 40)])
    assert stated == pytest.approx(2.8 * 0.1 / np.sqrt(N_GROUPS), rel=0.1)
    found = simulated(float(stated), 100)
    assert 68 <= sum(one.p_value < 0.05 for one in found) <= 92
    assert np.mean([one.difference for one in found]) == pytest.approx(stated, rel=0.1)


def test_sign_flips_are_those_of_all_eight_signs() -> None:
    total_GC = np.array([[1.0, -1.0], [2.0, -2.0], [4.0, 3.0], [0.0, 0.0]])
    as_far_C, as_low_C = sign_flip_p_values(total_GC, seed=1, n_permutations=20_000)
    # +-1 +-2 +-4: only 7 and -7 are as far as 7; +-1 +-2 +-3: all are as far as 0, five as low
    np.testing.assert_allclose(as_far_C, [2 / 8, 1.0], atol=0.015)
    np.testing.assert_allclose(as_low_C, [1.0, 5 / 8], atol=0.015)
    nothing, _ = sign_flip_p_values(np.zeros((5, 1)), seed=1, n_permutations=99)
    assert nothing.tolist() == [1.0]


def test_no_loss_seen_is_not_no_loss() -> None:
    groups = [str(n) for n in range(30)]
    ones = np.ones(30)
    found = difference({"old": ones, "new": ones}, groups)
    unseen = 1 - 0.025 ** (1 / 30)
    assert (found.low, found.high) == (pytest.approx(-unseen), pytest.approx(unseen))
    assert found.minimum_detectable == pytest.approx(unseen)
    assert verdict_of(found, 0.01, 30) is Verdict.INCONCLUSIVE
    assert verdict_of(found, 0.2, 30) is Verdict.NOT_WORSE


@pytest.mark.parametrize(
    ("low", "high", "p_value", "n_groups", "expected"),
    [
        (0.001, 0.02, 0.01, 50, Verdict.BETTER),
        (0.001, 0.02, 0.20, 50, Verdict.NOT_WORSE),
        (-0.009, 0.02, 0.50, 50, Verdict.NOT_WORSE),
        (-0.009, -0.001, 0.01, 50, Verdict.NOT_WORSE),  # a loss is proven, and is smaller than the margin
        (-0.03, -0.001, 0.01, 50, Verdict.WORSE),
        (-0.03, -0.001, 0.20, 50, Verdict.INCONCLUSIVE),
        (-0.03, 0.02, 0.50, 50, Verdict.INCONCLUSIVE),
        (0.1, 0.2, 0.001, 19, Verdict.INCONCLUSIVE),
    ],
)
def test_verdict(low: float, high: float, p_value: float, n_groups: int, expected: Verdict) -> None:
    found = PairedDifference(
        old=0.5,
        new=0.5 + (low + high) / 2,
        difference=(low + high) / 2,
        low=low,
        high=high,
        p_value=p_value,
        minimum_detectable=0.01,
        n_better=1,
        n_worse=1,
    )
    assert verdict_of(found, 0.01, n_groups) is expected
    assert expected.passes is (expected in {Verdict.BETTER, Verdict.NOT_WORSE})


def test_holm() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_planted_worse_slice_is_named_while_the_mean_wins() -> None:
    generator = np.random.default_rng(2)
    values = measured(generator, 0.08)
    kind = [f"kind{q // PER_GROUP % 3}" for q in range(len(GROUPS))]
    lost = np.array(kind) == "kind1"
    values["new"] = np.where(
        lost, values["old"] - np.abs(generator.normal(0.1, 0.05, len(lost))), values["new"]
    )
    assert difference(values).difference > 0.0
    colour: list[str | None] = ["red" if q % 2 else None for q in range(len(GROUPS))]
    rare = ["rare" if q < 4 * PER_GROUP else "usual" for q in range(len(GROUPS))]
    slices = {"kind": kind, "colour": colour, "how": rare}
    found = slice_differences(values["old"], values["new"], GROUPS, slices, seed=0, n_permutations=999)
    assert [(one.attribute, one.value) for one in found.worse] == [("kind", "kind1")]
    assert found.tested[0].n_groups == 13
    assert found.tested[0].low <= found.tested[0].difference <= found.tested[0].high < -0.05
    assert (len(found.tested), found.n_untested) == (5, 1)  # four groups are too few to say anything


@pytest.mark.parametrize(
    ("of_the_mean", "margin", "expected"),
    [
        (Verdict.BETTER, 0.01, Verdict.WORSE_IN_PARTS),
        (Verdict.NOT_WORSE, 0.01, Verdict.WORSE_IN_PARTS),
        (Verdict.NOT_WORSE, 0.5, Verdict.NOT_WORSE),  # no slice loses so much
        (Verdict.WORSE, 0.01, Verdict.WORSE),
        (Verdict.INCONCLUSIVE, 0.01, Verdict.INCONCLUSIVE),
    ],
)
def test_slice_that_loses_the_margin_outweighs_a_mean_that_passes(
    of_the_mean: Verdict, margin: float, expected: Verdict
) -> None:
    old_Q = np.full(len(GROUPS), 0.5)
    lost = np.arange(len(GROUPS)) < 20 * PER_GROUP
    slices: dict[str, list[str | None]] = {"kind": ["lost" if one else "won" for one in lost]}
    found = slice_differences(old_Q, np.where(lost, 0.4, 0.7), GROUPS, slices, seed=0, n_permutations=999)
    assert [one.value for one in found.worse] == ["lost"]
    assert found.verdict(of_the_mean, margin) is expected
    assert not expected.passes or expected is of_the_mean
    unproven = replace(found, tested=tuple(replace(one, p_corrected=0.05) for one in found.tested))
    assert unproven.verdict(of_the_mean, margin) is of_the_mean


def test_many_slices_of_a_null_rarely_give_a_worse_one() -> None:
    generator = np.random.default_rng(3)
    named = 0
    for seed in range(60):
        values = measured(generator)
        slices = {
            f"attribute{a}": generator.integers(0, 3, len(GROUPS)).astype(str).tolist() for a in range(5)
        }
        found = slice_differences(
            values["old"], values["new"], GROUPS, slices, seed=seed, n_resamples=20, n_permutations=1999
        )
        assert len(found.tested) == 15
        named += bool(found.worse)
    assert named <= 8  # of 3 expected at most
