"""Clusters and their measures against numbers computed elsewhere."""

import numpy as np
import pytest

from pipeline.evaluate.clustering import Linkage, cluster
from pipeline.evaluate.clustering_quality import clustering_quality
from pipeline.evaluate.exact_base import ExactBase

TRUTH, PREDICTED = "000112", "112223"


def test_quality_of_six_images() -> None:
    found = clustering_quality(np.array(list(map(int, PREDICTED))), list(TRUTH))
    for value in (found.bcubed.precision, found.bcubed.recall, found.bcubed.f):
        assert value == pytest.approx(0.777778, abs=1e-6)
    assert (found.pairwise.precision, found.pairwise.recall) == (0.5, 0.5)
    assert found.ari == pytest.approx(0.318182, abs=1e-6)
    assert found.nmi == pytest.approx(0.685331, abs=1e-6)
    assert (found.n_judged, found.n_labels) == (6, 3)


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
def test_clusters_of_six_angles(linkage: Linkage) -> None:
    angle_N = np.radians([0, 8, 15, 80, 95, 180])
    x_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)
    near = ExactBase(x_ND, list("abcdef")).nearest(x_ND, 5, np.arange(6))
    found = cluster(x_ND, near.row_QK.astype(np.int32), near.distance_QK, 0.25, linkage=linkage)
    assert found.cluster_N.tolist() == [0, 0, 0, 1, 1, 2]
