"""Exact distances do not depend on company, and preselection in float32 loses no neighbour."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.index import exact
from pipeline.index.encoder import fit_encoder
from pipeline.index.exact import (
    float32_margin,
    nearest,
    pair_distances,
    pairs_at_distance,
    place_distances,
)
from pipeline.index.order import NOWHERE, ids_at
from tests.support.index_shards import open_shard, unit_rows


@pytest.mark.parametrize("d", [1, 2, 7, 8, 100, 128, 129, 1024])
def test_distance_of_a_pair_has_the_same_bits_alone_and_in_any_batch(d: int) -> None:
    x_ND, y_ND = unit_rows(517, d, seed=1), unit_rows(517, d, seed=2)
    together = pair_distances(x_ND, y_ND)
    alone = [pair_distances(x_ND[i : i + 1], y_ND[i : i + 1])[0] for i in range(517)]
    odd = np.concatenate([pair_distances(x_ND[a : a + 3], y_ND[a : a + 3]) for a in range(0, 517, 3)])
    assert together.tolist() == alone == odd.tolist()
    assert together.tolist() == pair_distances(y_ND, x_ND).tolist()


def test_distance_of_equal_vectors_is_zero_and_of_opposite_ones_four() -> None:
    x_ND = np.eye(4, dtype=np.float32)
    assert pair_distances(x_ND, x_ND).tolist() == [0.0] * 4
    assert pair_distances(x_ND, -x_ND).tolist() == [4.0] * 4


@pytest.mark.parametrize("d", [8, 128, 1024])
def test_float32_distances_stay_within_the_margin(d: int) -> None:
    x_ND, q_QD = unit_rows(400, d, seed=3), unit_rows(50, d, seed=4)
    near = x_ND[:50] + 1e-3 * q_QD
    q_QD = np.concatenate([q_QD, near / np.linalg.norm(near, axis=1, keepdims=True)])
    rough = (q_QD**2).sum(1)[:, None] + (x_ND**2).sum(1) - 2 * q_QD @ x_ND.T
    true = ((q_QD[:, None].astype(np.float64) - x_ND[None]) ** 2).sum(2)
    assert np.abs(rough - true).max() < float32_margin(d)


@pytest.mark.parametrize("elements", [1 << 23, 1])
def test_neighbours_closer_than_float32_can_tell_come_in_true_order(
    elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows around one point at steps below float32's resolution of a matrix product, over several blocks."""
    monkeypatch.setattr(exact, "_BLOCK_ELEMENTS", elements)
    d, n = 32, 3000
    q_D = unit_rows(1, d, seed=5)[0].astype(np.float64)
    direction = unit_rows(n, d, seed=6).astype(np.float64)
    direction -= (direction @ q_D)[:, None] * q_D
    x_ND = q_D + direction * np.linspace(2e-4, 3e-4, n)[:, None]
    x_ND = (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)
    shard = open_shard(tmp_path, [f"{i:05d}" for i in range(n)], x_ND, fit_encoder(x_ND, bits=16))
    q_QD = q_D[None].astype(np.float32)
    found = nearest([shard], q_QD, 50)
    distance_N = ((x_ND.astype(np.float64) - q_QD.astype(np.float64)) ** 2).sum(1).astype(np.float32)
    assert found.place_QK[0].tolist() == np.lexsort((np.arange(n), distance_N))[:50].tolist()


def test_fewer_rows_than_k_are_padded(tmp_path: Path) -> None:
    x_ND = unit_rows(3, 8, seed=0)
    shard = open_shard(tmp_path, ["a", "b", "c"], x_ND, fit_encoder(x_ND, bits=16), dead=["b"])
    found = nearest([shard], x_ND[:1], 4)
    assert ids_at([shard], found.place_QK[0, :2]).to_pylist() == ["a", "c"]
    assert found.place_QK[0, 2:].tolist() == [NOWHERE, NOWHERE]
    assert np.isinf(found.distance_QK[0, 2:]).all()


def test_no_shards_and_no_queries_have_no_neighbours() -> None:
    assert nearest([], unit_rows(2, 8, seed=0), 3).place_QK.tolist() == [[NOWHERE] * 3] * 2
    assert nearest([], np.empty((0, 8), dtype=np.float32), 3).place_QK.shape == (0, 3)


def test_pairs_at_a_distance_are_all_copies_that_are_alive(tmp_path: Path) -> None:
    x_ND = unit_rows(30, 8, seed=0)
    x_ND[10:20] = x_ND[3]
    ids = [f"{i:02d}" for i in range(30)]
    shard = open_shard(tmp_path, ids, x_ND, fit_encoder(x_ND, bits=16), dead=["12"])
    pairs = pairs_at_distance([shard], x_ND[[0, 3]], np.zeros(2, dtype=np.float32))
    found = {(int(q), int(p)) for query_M, place_M in pairs for q, p in zip(query_M, place_M, strict=True)}
    assert found == {(0, 0), (1, 3), *((1, row) for row in range(10, 20) if row != 12)}


def test_copies_of_a_neighbour_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 copies of the row that asks: of all that tie only the first by id go on, block by block."""
    x_ND = np.repeat(unit_rows(2, 8, seed=0), [20_000, 20], axis=0)
    ids = [f"{i:05d}" for i in np.random.default_rng(0).permutation(len(x_ND))]
    shard = open_shard(tmp_path, ids, x_ND, fit_encoder(x_ND, bits=16))
    asked: list[int] = []

    def counted(shards: object, xq_QD: object, query_M: np.ndarray, place_M: np.ndarray) -> object:
        asked.append(len(place_M))
        return place_distances(shards, xq_QD, query_M, place_M)  # type: ignore[arg-type]

    monkeypatch.setattr(exact, "place_distances", counted)
    found = nearest([shard], np.repeat(x_ND[:1], 3, axis=0), 5)
    assert found.place_QK.tolist() == [found.place_QK[0].tolist()] * 3
    first = sorted(ids[:20_000])[:5]
    assert ids_at([shard], found.place_QK[0]).to_pylist() == first
    assert max(asked) < 3 * (1 << 13) + 100
