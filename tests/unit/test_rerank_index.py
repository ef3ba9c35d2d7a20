"""Re-rankers that ask an index answer as over all vectors in memory, however rows are spread over shards."""

import numpy as np
import pytest

from pipeline.evaluate.exact_base import ExactBase
from pipeline.index.encoder import fit_encoder
from pipeline.index.search import Searcher
from pipeline.rerank.method import parse_reranker
from pipeline.snapshot.neighbour_graph import neighbour_graph
from pipeline.snapshot.reranking import IndexBase, reranked
from tests.support.index_shards import spread, unit_rows

N, D = 160, 16
IDS = [f"i{row:03d}" for row in np.random.default_rng(1).permutation(N)]
X_ND = unit_rows(N, D, 4, n_clusters=20)
X_ND[7] = X_ND[90]  # the same picture twice
DEAD = IDS[5]


@pytest.fixture(scope="module", params=[1, 3])
def searcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    encoder = fit_encoder(X_ND, bits=64)
    numbers = [row % request.param for row in range(N)]
    folder = tmp_path_factory.mktemp("rerank")
    return Searcher(encoder, spread(folder, IDS, X_ND, encoder, numbers, dead=[DEAD]), None)


@pytest.fixture(scope="module")
def exact() -> ExactBase:
    live = [row for row in range(N) if IDS[row] != DEAD]
    return ExactBase(X_ND[live], [IDS[row] for row in live])


@pytest.mark.parametrize(
    "asked",
    [
        "alpha-qe:n=4",
        "recursive-qe:n=3",
        "dba:n=3,window=20",
        "k-reciprocal:k1=5,k2=2,window=30",
        "diffusion:n=4,graph=6,window=30",
    ],
)
def test_reranked_search_is_that_of_all_vectors_in_memory(
    searcher: Searcher, exact: ExactBase, asked: str
) -> None:
    reranker, xq_QD = parse_reranker(asked), unit_rows(6, D, 9, n_clusters=20)
    found = reranked(IndexBase(searcher=searcher), reranker, xq_QD, 12)
    names = sorted(name for name in IDS if name != DEAD)
    expected_QK = reranker.rank(exact, xq_QD, 12)
    assert found.ids == tuple(tuple(names[row] for row in row_K) for row_K in expected_QK)
    x_of = dict(zip(IDS, X_ND, strict=True))
    for q_D, ids, distances in zip(xq_QD, found.ids, found.distances, strict=True):
        np.testing.assert_allclose(distances, [((x_of[one] - q_D) ** 2).sum() for one in ids], atol=1e-6)
    assert (found.method, found.candidates) == ("exact", None)


def test_reranked_search_for_more_than_there_are_gives_all(searcher: Searcher) -> None:
    found = reranked(IndexBase(searcher=searcher), parse_reranker("aqe:n=500"), X_ND[:2], 1_000)
    assert [len(ids) for ids in found.ids] == [N - 1, N - 1]


def test_neighbour_graph_is_of_all_live_rows_without_themselves(searcher: Searcher, exact: ExactBase) -> None:
    graph = neighbour_graph(searcher, 5)
    ids = searcher.ids(graph.place_N).to_pylist()
    expected_NK = exact.neighbours(np.arange(N - 1), 5)
    names = sorted(ids)
    found = {one: [ids[row] for row in row_K] for one, row_K in zip(ids, graph.neighbour_NK, strict=True)}
    assert found == {names[row]: [names[near] for near in near_K] for row, near_K in enumerate(expected_NK)}
    twins = found[IDS[7]][0], found[IDS[90]][0]
    assert twins == (IDS[90], IDS[7])
