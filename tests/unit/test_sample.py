"""Samples are decided by id and seed: not by order, not by what else is in the catalog."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from pipeline.index.sample import FIT_ROWS, fit_sample, query_sample, seeded_order, was_fitted


def _ids(n: int) -> list[str]:
    return [f"img/{i:05d}.jpg" for i in range(n)]


def test_key_is_the_start_of_sha256_of_seed_and_id() -> None:
    expected = int.from_bytes(hashlib.sha256("42\0café/1.jpg".encode()).digest()[:8], "big")
    assert seeded_order(["café/1.jpg"], 42).tolist() == [expected]


def test_arrow_arrays_and_lists_give_the_same_keys() -> None:
    ids = _ids(9)
    expected = seeded_order(ids, 1).tolist()
    assert seeded_order(pa.array(ids), 1).tolist() == expected
    assert seeded_order(pa.array(ids, pa.large_string()), 1).tolist() == expected
    assert seeded_order(pa.chunked_array([ids[:4], ids[4:]]), 1).tolist() == expected


def test_fit_rows_are_a_quarter_with_the_smallest_keys() -> None:
    keys_N = seeded_order(_ids(1003), 0)
    sample = fit_sample(keys_N)
    assert np.argsort(keys_N)[:250].tolist() == sample.rows_N.tolist()
    assert was_fitted(keys_N, sample.fit_threshold).sum() == 250


def test_fit_rows_are_capped() -> None:
    keys_N = np.random.default_rng(0).integers(0, 2**63, 300_000).astype(np.uint64)
    assert len(fit_sample(keys_N).rows_N) == FIT_ROWS


@pytest.mark.parametrize(
    ("n", "expected"), [(10_000, (1000, 1000)), (1000, (375, 375)), (4, (1, 2)), (1, (0, 1)), (0, (0, 0))]
)
def test_query_sets_have_the_promised_sizes(n: int, expected: tuple[int, int]) -> None:
    keys_N = seeded_order(_ids(n), 0)
    sample = query_sample(keys_N, fit_sample(keys_N).fit_threshold)
    assert (len(sample.calibration_Q), len(sample.verification_Q)) == expected


def test_query_sets_share_no_row_with_each_other_or_the_fit() -> None:
    keys_N = seeded_order(_ids(5000), 3)
    fit = fit_sample(keys_N)
    queries = query_sample(keys_N, fit.fit_threshold)
    rows = np.concatenate([fit.rows_N, queries.calibration_Q, queries.verification_Q])
    assert len(np.unique(rows)) == len(rows) == 1250 + 1000 + 1000


def test_membership_survives_rows_that_come_and_go() -> None:
    monday = _ids(2000)
    fit = fit_sample(seeded_order(monday, 0))
    fitted = {monday[row] for row in fit.rows_N}
    tuesday = [f"new/{i}" for i in range(500)] + monday[700:]
    keys_N = seeded_order(tuesday, 0)
    queries = query_sample(keys_N, fit.fit_threshold)
    asked = {tuesday[row] for row in np.concatenate([queries.calibration_Q, queries.verification_Q])}
    assert not asked & fitted


def test_order_of_the_input_does_not_choose() -> None:
    ids = _ids(800)
    shuffled = list(np.random.default_rng(0).permutation(ids))
    chosen = [
        [some[row] for row in query_sample(seeded_order(some, 9), "3" * 16).calibration_Q]
        for some in (ids, shuffled)
    ]
    assert chosen[0] == chosen[1]
