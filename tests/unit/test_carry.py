"""Carried neighbours are those that a comparison with all rows finds, whatever happened to the rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.index.arrays import BoolArray
from pipeline.index.carry import SLACK, Known, carried
from pipeline.index.encoder import fit_encoder
from pipeline.index.exact import nearest
from pipeline.index.order import Neighbours, places_of
from pipeline.index.queries import QuerySet
from pipeline.index.shard import IndexShard
from tests.support.index_shards import open_shard, unit_rows

D, K, N_SHARDS, ROWS = 8, 5, 6, 60
KEYS = [f"shard {number}" for number in range(N_SHARDS)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[IndexShard]:
    """Six shards of 60 rows with many copies, so that distances tie; ids are theirs alone."""
    x_ND = unit_rows(N_SHARDS * ROWS, D, seed=3, n_clusters=9)
    x_ND[::4] = x_ND[0]
    encoder = fit_encoder(x_ND, bits=16)
    folder = tmp_path_factory.mktemp("carry")
    return [
        open_shard(
            folder / key,
            [f"{row:04d}" for row in range(number * ROWS, (number + 1) * ROWS)],
            x_ND[number * ROWS : (number + 1) * ROWS],
            encoder,
        )
        for number, key in enumerate(KEYS)
    ]


def living(shards: list[IndexShard], numbers: list[int], alive: dict[int, BoolArray]) -> list[IndexShard]:
    return [replace(shards[number], alive_N=alive[number]) for number in numbers]


def queries_of(present: list[IndexShard], rng: np.random.Generator, n: int) -> QuerySet:
    ids = [
        image_id
        for shard in present
        for image_id, alive in zip(shard.ids.to_pylist(), shard.alive_N, strict=True)  # type: ignore[arg-type]
        if alive
    ]
    chosen = tuple(rng.permutation(ids)[:n].tolist())
    place_QE = places_of(present, chosen)
    vectors = [present[place >> 40].vectors_ND[place & (1 << 40) - 1] for place in place_QE[:, 0].tolist()]
    return QuerySet(xq_QD=np.stack(vectors), excluded_QE=place_QE, exclude_ids=chosen)


def same(found: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(expected.place_QK, found.place_QK)
    np.testing.assert_array_equal(expected.distance_QK, found.distance_QK)


@pytest.mark.parametrize("seed", range(8))
def test_carried_neighbours_over_nights_equal_those_of_all_rows(
    seed: int, shards: list[IndexShard], tmp_path: Path
) -> None:
    """Rows die, live again and come in new shards; shards go; the queries are mostly the same ones."""
    rng = np.random.default_rng(seed)
    numbers, path = [0, 1, 2], tmp_path / "known.npz"
    alive = {number: rng.random(ROWS) < 0.9 for number in range(N_SHARDS)}
    for _ in range(7):
        present = living(shards, numbers, alive)
        keys = [KEYS[number] for number in numbers]
        queries = queries_of(present, np.random.default_rng(seed), 12)
        found, known = carried(Known.read(path), keys, present, queries, K)
        same(found, nearest(present, queries.xq_QD, K, excluded_QE=queries.excluded_QE))
        assert known is not None
        known.save(path)
        for mask in alive.values():
            mask[rng.integers(0, ROWS, 4)] ^= True
        numbers = sorted({*numbers, int(rng.integers(N_SHARDS))} - {int(rng.integers(N_SHARDS))}) or [0]
        rng.shuffle(numbers)


def test_carried_neighbours_compare_only_what_changed(shards: list[IndexShard]) -> None:
    """The rows that stayed are out of reach: their vectors are spoilt, and nothing of them shows."""
    rng = np.random.default_rng(0)
    everything = {number: np.ones(ROWS, dtype=np.bool_) for number in range(N_SHARDS)}
    before = living(shards, [0, 1, 2, 3, 4], everything)
    queries = queries_of(before, rng, 20)
    found, known = carried(None, KEYS[:5], before, queries, K)
    same(found, nearest(before, queries.xq_QD, K, excluded_QE=queries.excluded_QE))
    after = living(shards, [0, 1, 2, 3, 4, 5], everything)
    expected = nearest(after, queries.xq_QD, K, excluded_QE=queries.excluded_QE)
    spoilt = [replace(shard, vectors_ND=np.zeros_like(shard.vectors_ND)) for shard in after[:5]]
    far = known.horizon_Q > expected.distance_QK[:, -1]  # type: ignore[union-attr]
    assert far.sum() >= 10
    some = QuerySet(
        xq_QD=queries.xq_QD[far],
        excluded_QE=queries.excluded_QE[far],
        exclude_ids=tuple(np.array(queries.exclude_ids)[far]),
    )
    carried_on, _ = carried(known, KEYS, [*spoilt, after[5]], some, K)
    np.testing.assert_array_equal(expected.distance_QK[far], carried_on.distance_QK)


def test_known_neighbours_that_cannot_be_read_are_found_anew(
    shards: list[IndexShard], tmp_path: Path
) -> None:
    everything = {number: np.ones(ROWS, dtype=np.bool_) for number in range(N_SHARDS)}
    present = living(shards, [0, 1], everything)
    queries = queries_of(present, np.random.default_rng(1), 5)
    _, known = carried(None, KEYS[:2], present, queries, K)
    path = tmp_path / "known.npz"
    known.save(path)  # type: ignore[union-attr]
    assert known.near.place_QK.shape == (5, K + SLACK)  # type: ignore[union-attr]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert Known.read(path) is None
    assert Known.read(tmp_path / "absent.npz") is None
