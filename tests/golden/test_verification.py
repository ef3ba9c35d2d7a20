"""Verification against the golden numbers of the design (science.md, section 3)."""

import numpy as np
import pytest

from pipeline.evaluate.accuracy import fold_accuracy
from pipeline.evaluate.error_curve import curve_of_pairs, val_at_far

_SAME = [[0.30, 0.55, 0.80, 0.95, 1.30], [0.25, 0.60, 0.70, 1.05, 1.15]]
_DIFFERENT = [[1.10, 1.35, 1.60, 1.75, 1.90], [1.00, 1.25, 1.45, 1.70, 1.85]]
DISTANCE = np.array([*_SAME[0], *_DIFFERENT[0], *_SAME[1], *_DIFFERENT[1]])
SAME = np.tile(np.repeat([True, False], 5), 2)
FOLD = np.repeat([0, 1], 10)


def test_accuracy_over_folds() -> None:
    facenet = fold_accuracy(DISTANCE, SAME, FOLD, "facenet")
    assert facenet.thresholds == pytest.approx((1.15, 0.95))
    assert facenet.folds == pytest.approx((0.8, 0.8))
    assert facenet.mean == pytest.approx(0.8)
    exact = fold_accuracy(DISTANCE, SAME, FOLD, "exact")
    assert exact.thresholds == pytest.approx((1.20, 1.025))
    assert exact.folds == pytest.approx((0.8, 0.7))
    assert exact.mean == pytest.approx(0.75)
    assert exact.std == pytest.approx(0.05)
    assert exact.sem == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("far", "val", "threshold"), [(0, 0.7, 1.0), (0.1, 0.8, 1.1), (0.2, 0.9, 1.25), (0.5, 1, 1.6)]
)
def test_val_at_far(far: float, val: float, threshold: float) -> None:
    found = val_at_far(curve_of_pairs(DISTANCE, SAME), [far], seed=0, n_resamples=50, few_different=True)[far]
    assert found.val == pytest.approx(val)
    assert found.threshold == pytest.approx(threshold)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= val <= found.high


def test_area_and_equal_error_rate() -> None:
    curve = curve_of_pairs(DISTANCE, SAME)
    assert curve.auc() == pytest.approx(0.94)
    assert curve.eer() == pytest.approx(0.2)
