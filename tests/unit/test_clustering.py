"""Clusters, their quality, hubs and near duplicates, against other people's code and brute force."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from pipeline.errors import UsageError
from pipeline.evaluate.clustering import Linkage, cluster
from pipeline.evaluate.clustering_quality import clustering_quality
from pipeline.evaluate.exact_base import ExactBase
from pipeline.evaluate.hubness import hubness, occurrences, skewness
from pipeline.index.near_duplicates import near_duplicate_groups
from tests.support.index_shards import hamming_oracle, unit_rows

N = 300


def neighbours(x_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    found = ExactBase(x_ND, [f"{row:04d}" for row in range(len(x_ND))]).nearest(x_ND, k, np.arange(len(x_ND)))
    return found.row_QK.astype(np.int32), found.distance_QK


def identities(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around 60 centres, some of them close together."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, 60, N)
    x_ND = unit_rows(60, 12, seed + 1)[label_N] + 0.16 * rng.standard_normal((N, 12))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32), label_N


def as_sets(cluster_N: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(cluster_N == number).tolist()) for number in np.unique(cluster_N)}


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_clusters_are_those_of_merging_all_images_at_once(linkage: Linkage, threshold: float) -> None:
    x_ND, _ = identities()
    found = cluster(x_ND, *neighbours(x_ND, N - 1), threshold, linkage=linkage)
    whole = AgglomerativeClustering(
        n_clusters=None, distance_threshold=float(np.sqrt(threshold)), linkage=linkage
    ).fit_predict(x_ND.astype(np.float64))
    assert as_sets(found.cluster_N) == as_sets(whole)
    assert 2 < len(found.size_C) < N
    assert (np.diff(found.size_C) <= 0).all()


def test_too_few_neighbours_may_split_clusters_and_are_counted() -> None:
    x_ND, _ = identities()
    whole, few = (cluster(x_ND, *neighbours(x_ND, k), 0.6, linkage="single") for k in (N - 1, 1))
    assert whole.n_crowded == 0 < few.n_crowded
    assert len(few.size_C) > len(whole.size_C)


def test_component_that_is_too_large_is_cut_and_counted() -> None:
    x_ND, label_N = identities()
    near = neighbours(x_ND, 32)
    whole = cluster(x_ND, *near, 1.2, linkage="single")
    found = cluster(x_ND, *near, 1.2, largest=40)
    assert whole.size_C[0] > 40 >= found.size_C[0]
    assert found.n_components_cut == 1
    judged, uncut = (clustering_quality(one.cluster_N, label_N.tolist()) for one in (found, whole))
    assert judged.bcubed.f > 0.75 > uncut.bcubed.f


@pytest.mark.parametrize("threshold", [0.0, 4.5, float("nan")])
def test_threshold_out_of_range_is_refused(threshold: float) -> None:
    x_ND, _ = identities()
    with pytest.raises(UsageError, match="above 0 and at most 4"):
        cluster(x_ND, *neighbours(x_ND, 5), threshold)


@pytest.mark.parametrize("seed", range(5))
def test_quality_agrees_with_scikit_learn_and_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cluster_N, label_N = rng.integers(0, 9, 120), rng.integers(0, 7, 120)
    found = clustering_quality(cluster_N, label_N.tolist())
    assert found.ari == pytest.approx(adjusted_rand_score(label_N, cluster_N))
    assert found.nmi == pytest.approx(normalized_mutual_info_score(label_N, cluster_N))
    (_, wrong), (missed, right) = pair_confusion_matrix(label_N, cluster_N)
    assert found.pairwise.precision == pytest.approx(right / (right + wrong))
    assert found.pairwise.recall == pytest.approx(right / (right + missed))
    same_NN, alike_NN = cluster_N[:, None] == cluster_N, label_N[:, None] == label_N
    assert found.bcubed.precision == pytest.approx(((same_NN & alike_NN).sum(1) / same_NN.sum(1)).mean())
    assert found.bcubed.recall == pytest.approx(((same_NN & alike_NN).sum(1) / alike_NN.sum(1)).mean())


def test_images_without_a_label_take_no_part() -> None:
    with_none = clustering_quality(np.array([0, 0, 1, 1, 1]), ["a", "a", None, "b", None])
    assert with_none == clustering_quality(np.array([0, 0, 1]), ["a", "a", "b"])
    assert (with_none.n_judged, with_none.ari, with_none.nmi, with_none.bcubed.f) == (3, 1, 1, 1)
    with pytest.raises(ValueError, match="no image has a label"):
        clustering_quality(np.array([0]), [None])


def test_hub_is_the_image_that_everybody_has_near() -> None:
    around_ND = unit_rows(40, 40, 2) * 2 + 0.8
    x_ND = np.concatenate([np.full((1, 40), 1.0), around_ND])
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    near_NK, _ = neighbours(x_ND, 5)
    found = hubness(near_NK, [f"i{row}" for row in range(41)], k=3, n_hubs=2)
    assert (found.hubs[0].image_id, found.hubs[0].occurrences) == ("i0", 40)
    assert found.skewness > 1
    assert occurrences(near_NK, 3).sum() == 3 * 41
    assert skewness(np.array([4, 4, 4])) == 0


@pytest.mark.parametrize("radius", [0, 1, 3, 7, 12])
def test_near_duplicates_are_what_pairs_within_the_radius_connect(radius: int) -> None:
    rng = np.random.default_rng(radius)
    original_NW = rng.integers(0, 256, (60, 8), dtype=np.uint8)
    codes_NW = original_NW[rng.integers(0, 60, 200)]
    flipped = rng.random((200, 64)) < 0.04
    codes_NW = codes_NW ^ np.packbits(flipped, axis=1, bitorder="little")
    expected_N = np.arange(200)
    within_NN = hamming_oracle(codes_NW, codes_NW) <= radius
    for _ in range(200):
        expected_N = np.where(within_NN, expected_N, 999).min(axis=1)
    found_N = near_duplicate_groups(codes_NW, radius)
    assert as_sets(found_N) == as_sets(expected_N)
    assert 1 < len(np.unique(found_N)) <= 200
    assert (np.diff(np.bincount(found_N)) <= 0).all()


@pytest.mark.parametrize("radius", [-1, 17])
def test_radius_out_of_range_is_refused(radius: int) -> None:
    with pytest.raises(UsageError, match="between 0 and a quarter of the 64 bits"):
        near_duplicate_groups(np.zeros((2, 8), dtype=np.uint8), radius)
