"""The coarse quantiser: exact whatever the blocks and threads, and ties go to the smallest number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index.lists import (
    GRID,
    assign_lists,
    choose_lists,
    fit_centroids,
    list_imbalance,
    probe_order,
)
from tests.support.index_shards import nearest_lists, unit_rows

X_ND = unit_rows(3_000, 24, seed=0, n_clusters=20)
CENTROIDS_LD = fit_centroids(X_ND, 32)


def _by_definition(x_ND: np.ndarray, centroids_LD: np.ndarray) -> np.ndarray:
    """Squared distances between rounded rows and centroids, in whole numbers."""
    a, b = np.rint(x_ND * GRID).astype(np.int64), np.rint(centroids_LD * GRID).astype(np.int64)
    distances: np.ndarray = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    return distances


def test_lists_are_those_of_whole_number_arithmetic() -> None:
    distance_NL = _by_definition(X_ND[:500], CENTROIDS_LD)
    assert (assign_lists(X_ND[:500], CENTROIDS_LD) == distance_NL.argmin(axis=1)).all()
    order_NL = np.argsort(distance_NL, axis=1, kind="stable")
    probed = nearest_lists(X_ND[:500], CENTROIDS_LD, 5)
    assert (probed == np.sort(order_NL[:, :5], axis=1)).all()
    place_NL = probe_order(X_ND[:500], CENTROIDS_LD)
    assert (np.take_along_axis(place_NL, order_NL, axis=1) == np.arange(32)).all()


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["f2", "f4"]))
@settings(max_examples=25, deadline=None)
def test_lists_do_not_depend_on_the_block(seed: int, n: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    some = rng.integers(0, len(X_ND), n)
    x_ND = X_ND.astype(dtype)
    assert (assign_lists(x_ND[some], CENTROIDS_LD) == assign_lists(x_ND, CENTROIDS_LD)[some]).all()
    probes = int(rng.integers(1, 40))
    assert (
        nearest_lists(x_ND[some], CENTROIDS_LD, probes) == nearest_lists(x_ND, CENTROIDS_LD, probes)[some]
    ).all()


def test_ties_go_to_the_smallest_number() -> None:
    twice_LD = np.concatenate([CENTROIDS_LD, CENTROIDS_LD])
    assert assign_lists(X_ND, twice_LD).max() < 32
    assert nearest_lists(X_ND[:50], twice_LD, 1).max() < 32
    nearest_Q3 = nearest_lists(X_ND[:50], twice_LD, 3)
    first_Q2 = nearest_lists(X_ND[:50], CENTROIDS_LD, 2)
    for three, two in zip(nearest_Q3.tolist(), first_Q2.tolist(), strict=True):
        assert set(two) < {number % 32 for number in three} | set(three)
        assert sum(number < 32 for number in three) == 2


def test_centroids_are_the_same_for_any_number_of_threads() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1):
        alone = fit_centroids(X_ND, 32)
    assert (alone == CENTROIDS_LD).all()


def test_centroids_are_near_their_rows() -> None:
    random_LD = X_ND[:32]
    assert (
        _by_definition(X_ND, CENTROIDS_LD).min(axis=1).mean()
        < _by_definition(X_ND, random_LD).min(axis=1).mean()
    )
    assert 1 <= list_imbalance(np.bincount(assign_lists(X_ND, CENTROIDS_LD), minlength=32)) < 3


def test_identical_rows_make_one_list_and_no_rows_are_assigned_too() -> None:
    same_ND = np.repeat(X_ND[:1], 100, axis=0)
    assert len(fit_centroids(same_ND, 8)) == 1
    assert assign_lists(same_ND, fit_centroids(same_ND, 8)).tolist() == [0] * 100
    assert assign_lists(X_ND[:0], CENTROIDS_LD).shape == (0,)
    assert nearest_lists(X_ND[:2], CENTROIDS_LD, 999).tolist() == [list(range(32))] * 2


@pytest.mark.parametrize(
    ("rows", "sample", "lists"), [(100_000, 25_000, 256), (300_000, 65_536, 1024), (1, 0, 1)]
)
def test_number_of_lists_follows_rows_and_sample(rows: int, sample: int, lists: int) -> None:
    assert choose_lists(rows, sample) == lists
