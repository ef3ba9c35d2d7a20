"""What holds for every re-ranker, whatever the vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate.exact_base import ExactBase
from pipeline.rerank.base import Reranker
from pipeline.rerank.method import METHODS, parse_reranker, spelled
from tests.support.index_shards import unit_rows

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 1_000)
NO_CHANGE = [
    "aqe:n=0",
    "aqe-decay:n=0",
    "alpha-qe:n=0",
    "recursive-qe:n=0",
    "dba:n=0",
    "k-reciprocal:weight=1",
]
SMALL = [
    "aqe:n=3",
    "aqe-decay:n=3",
    "alpha-qe:n=3",
    "recursive-qe:n=3",
    "dba:n=3,window=9",
    "k-reciprocal:k1=4,k2=2,window=9",
    "diffusion:n=3,graph=8,window=9,damping=0.8",
]


def collection(n: int, seed: int) -> tuple[np.ndarray, list[str]]:
    return unit_rows(n, 8, seed, n_clusters=4), [f"{row:03d}" for row in range(n)]


@pytest.mark.parametrize("asked", NO_CHANGE)
@settings(max_examples=15, deadline=None)
@given(n=SIZES, seed=SEEDS)
def test_rerank_without_neighbours_or_weight_is_the_plain_ranking(asked: str, n: int, seed: int) -> None:
    x_ND, ids = collection(n, seed)
    base, xq_QD = ExactBase(x_ND, ids), unit_rows(3, 8, seed + 1)
    assert (parse_reranker(asked).rank(base, xq_QD, 7) == base.nearest(xq_QD, 7).row_QK).all()


@pytest.mark.parametrize("asked", SMALL)
@settings(max_examples=15, deadline=None)
@given(n=SIZES, seed=SEEDS)
def test_rerank_whatever_the_order_and_the_company_is_the_same_and_without_itself(
    asked: str, n: int, seed: int
) -> None:
    x_ND, ids = collection(n, seed)
    shuffled = np.random.default_rng(seed).permutation(n)
    base = ExactBase(x_ND, ids)
    other = ExactBase(x_ND[shuffled], [ids[row] for row in shuffled])
    reranker = parse_reranker(asked)
    own_Q = np.arange(min(n, 5))
    found = reranker.rank(base, x_ND[own_Q], 12, own_Q)
    assert (found == reranker.rank(other, x_ND[own_Q], 12, own_Q)).all()
    alone = [reranker.rank(base, x_ND[[row]], 12, np.array([row])) for row in own_Q]
    assert (found == np.concatenate(alone)).all()
    for own, row_K in zip(own_Q, found, strict=True):
        present = row_K[row_K >= 0].tolist()
        assert len(set(present)) == len(present) == min(12, n - 1)
        assert own not in present


def test_alpha_zero_is_the_average() -> None:
    x_ND, ids = collection(200, 0)
    base, xq_QD = ExactBase(x_ND, ids), unit_rows(9, 8, 5, n_clusters=4)
    average, alpha = parse_reranker("aqe:n=5"), parse_reranker("alpha-qe:n=5,alpha=0")
    assert (average.rank(base, xq_QD, 50) == alpha.rank(base, xq_QD, 50)).all()


@pytest.mark.parametrize("asked", SMALL)
def test_rerank_in_clusters_changes_the_order_and_finds_more_of_the_cluster(asked: str) -> None:
    rng = np.random.default_rng(3)
    cluster_N = np.repeat(np.arange(30), 10)
    x_ND = unit_rows(30, 16, 1)[cluster_N] + 0.22 * rng.standard_normal((300, 16))
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    base = ExactBase(x_ND, [f"{row:03d}" for row in range(300)])
    reranker = parse_reranker(asked if "window" not in asked else asked.replace("window=9", "window=30"))
    own_N = np.arange(300)

    def precision(row_QK: np.ndarray) -> float:
        return float((cluster_N[row_QK] == cluster_N[:, None]).mean())

    plain_NK = base.nearest(x_ND, 9, own_N).row_QK
    assert precision(reranker.rank(base, x_ND, 9, own_N)) > precision(plain_NK)


@pytest.mark.parametrize("name", METHODS)
def test_spelled_reranker_is_read_back(name: str) -> None:
    reranker: Reranker = parse_reranker(name)
    assert parse_reranker(spelled(reranker)) == reranker
