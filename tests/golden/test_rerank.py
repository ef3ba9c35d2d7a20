"""Numbers worked out by hand, by other people's code and by a script that shares nothing with ours.

The base: unit vectors at 10, -12, 30 and 90 degrees, the query at 0.
"""

import numpy as np
import pytest

from pipeline.evaluate.exact_base import ExactBase
from pipeline.rerank.augmentation import Augmentation, augmented
from pipeline.rerank.base import Vectors
from pipeline.rerank.diffusion import Diffusion
from pipeline.rerank.expansion import RecursiveExpansion, alpha_weights, decaying_weights, expand
from pipeline.rerank.reciprocal import LocalReciprocal, ReciprocalCode


def at_degrees(*degrees: float) -> Vectors:
    angle_N = np.radians(degrees)
    return np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)


QUERY = at_degrees(0)
BASE = at_degrees(10, -12, 30, 90)
RECIPROCAL_BASE = at_degrees(0, 10, -12, 14, 25, 40, -90)


def base() -> ExactBase:
    return ExactBase(BASE, ["a", "b", "c", "d"])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (np.ones((1, 2)), (0.999933, -0.011563)),
        (alpha_weights(QUERY, BASE[None, :3], 3), (0.996271, 0.086275)),
        (alpha_weights(QUERY, BASE[None, :3], 0), (0.992684, 0.120745)),
        (decaying_weights(3)[None], (0.997632, 0.068783)),
    ],
    ids=["average", "alpha 3", "alpha 0", "decaying"],
)
def test_expanded_query_is_the_weighted_sum(weights: np.ndarray, expected: tuple[float, float]) -> None:
    near_QND = BASE[None, : weights.shape[1]]
    np.testing.assert_allclose(expand(QUERY, near_QND, weights)[0], expected, atol=1e-6)


def test_alpha_weights_are_powers_of_the_similarity_and_never_negative() -> None:
    found = alpha_weights(QUERY, at_degrees(10, -12, 30, 90, 180)[None], 3)
    np.testing.assert_allclose(found[0], [0.955112, 0.935865, 0.649519, 0, 0], atol=1e-6)


def test_recursive_expansion_after_two_rounds() -> None:
    found = RecursiveExpansion(n=2, alpha=3, rounds=2).expanded(base(), QUERY)
    np.testing.assert_allclose(found[0], (0.999942, -0.010799), atol=1e-6)


def test_augmented_rows_are_weighted_sums_of_themselves_and_their_nearest() -> None:
    found = augmented(base(), np.array([0, 3]), 2, 3.0)
    np.testing.assert_allclose(found, [(0.985810, 0.167862), (0.106046, 0.994361)], atol=1e-6)


def test_diffusion_over_the_full_graph() -> None:
    found = Diffusion(n=4, graph=4, gamma=3, damping=0.99).spread(
        QUERY, BASE[None], np.ones((1, 4), dtype=bool)
    )
    np.testing.assert_allclose(found[0], (0.887075, 0.764037, 0.809087, 0.247428), atol=1e-5)


@pytest.mark.parametrize(
    ("k1", "k2", "expected"),
    [
        (2, 1, (0.357386, 0.355799, 0.569395, 0.728108, 0.770187, 1)),
        (3, 2, (0.163596, 0.388559, 0.16795, 0.312155, 0.610265, 0.84063)),
    ],
)
def test_k_reciprocal_distances_of_the_whole_set(k1: int, k2: int, expected: tuple[float, ...]) -> None:
    exact = ReciprocalCode(RECIPROCAL_BASE, k1=k1, k2=k2, weight=0.3).distances(np.array([0]))
    np.testing.assert_allclose(exact[0, 1:], expected, atol=1e-5)
    local = LocalReciprocal(k1=k1, k2=k2, weight=0.3).distances(
        RECIPROCAL_BASE[None], np.ones((1, 6), dtype=bool)
    )
    np.testing.assert_allclose(local[0], expected, atol=1e-5)


def test_k_reciprocal_jaccard_distance_alone() -> None:
    found = ReciprocalCode(RECIPROCAL_BASE, k1=2, k2=1, weight=0).distances(np.array([0]))
    np.testing.assert_allclose(found[0, 1:], (0.504041, 0.498919, 0.800691, 1, 1, 1), atol=1e-5)


def test_places_of_nobody_change_no_distance_however_few_images_there_are() -> None:
    local = LocalReciprocal(k1=3, k2=10)
    few_QXD = RECIPROCAL_BASE[None, :5]
    padded_QXD = np.pad(few_QXD, ((0, 0), (0, 6), (0, 0)))
    alone = local.distances(few_QXD, np.ones((1, 4), dtype=np.bool_))
    among_nobody = local.distances(padded_QXD, np.arange(10)[None] < 4)
    np.testing.assert_allclose(among_nobody[:, :4], alone, atol=1e-6)


def test_augmentation_orders_by_where_the_candidates_moved() -> None:
    moved_ND = augmented(base(), np.arange(4), 2, 3.0)
    expected = np.argsort(-(moved_ND @ QUERY[0]), kind="stable")
    assert Augmentation(n=2, window=4).rank(base(), QUERY, 4).tolist() == [expected.tolist()]
    assert expected.tolist() != [0, 1, 2, 3]
