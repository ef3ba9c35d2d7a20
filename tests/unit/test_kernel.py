"""Both stages with compiled kernels and without: the same bits, lists, places and distances."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.index import kernel
from pipeline.index.calibrate import calibrate
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.exact import pair_distances
from pipeline.index.int8 import to_int8
from pipeline.index.lists import fit_centroids
from pipeline.index.order import to_place
from pipeline.index.probes import choose, live_rows_of_lists
from pipeline.index.rank import rank_candidates
from pipeline.index.rough import worth_reading
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard
from tests.support.index_shards import nearest_lists, open_shard, spread, unit_rows

pytest.importorskip("numba")

D, N, L = 20, 3_000, 32
X_ND = unit_rows(N, D, seed=1, n_clusters=60)
X_ND[1_000:1_100] = X_ND[5]  # one picture on a hundred products
XQ_QD = np.concatenate([X_ND[:30], unit_rows(100, D, seed=2, n_clusters=60)])
IDS = [f"img{i:05d}" for i in np.random.default_rng(0).permutation(N)]
ENCODER = replace(fit_encoder(X_ND, bits=192), centroids_LD=fit_centroids(X_ND, L))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[IndexShard]:
    numbers = (np.arange(N) % 3).tolist()
    return spread(tmp_path_factory.mktemp("shards"), IDS, X_ND, ENCODER, numbers, dead=IDS[5:400:7])


def _filtered(shards: list[IndexShard], share: float) -> list[IndexShard]:
    rng = np.random.default_rng(3)
    return [replace(shard, alive_N=rng.random(shard.n_rows) < share) for shard in shards]


def _without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "available", lambda: False)


def _same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a.neighbours.place_QK, b.neighbours.place_QK)
    np.testing.assert_array_equal(a.neighbours.distance_QK, b.neighbours.distance_QK)


@pytest.mark.parametrize(("d", "bits"), [(1, 8), (7, 16), (64, 256), (129, 136)])
def test_codes_of_queries_are_those_of_the_encoder(d: int, bits: int) -> None:
    encoder, xq_QD = fit_encoder(unit_rows(50, d, seed=1), bits=bits), unit_rows(33, d, seed=2)
    encoder = replace(encoder, thresholds_B=np.linspace(-0.1, 0.1, bits))
    np.testing.assert_array_equal(kernel.encode(encoder, xq_QD), encoder.encode(xq_QD))


def test_lists_probed_are_the_nearest_whatever_the_batch(
    shards: list[IndexShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    live_L = live_rows_of_lists(shards, L)
    assert live_L.sum() == sum(shard.n_live for shard in shards)
    for min_live in (0, 900):
        together = choose(ENCODER, XQ_QD, 4, live_L, min_live)
        alone = [choose(ENCODER, x_D[None], 4, live_L, min_live)[0] for x_D in XQ_QD]
        assert [{*row[row >= 0]} for row in together] == [{*row[row >= 0]} for row in alone]
        assert all(live_L[row[row >= 0]].sum() >= min_live for row in together)
        with monkeypatch.context() as patch:
            _without_kernel(patch)
            plain = choose(ENCODER, XQ_QD, 4, live_L, min_live)
        np.testing.assert_array_equal(np.sort(together), np.sort(plain))
    four_Q4 = choose(ENCODER, XQ_QD, 4, live_L, 0)
    np.testing.assert_array_equal(np.sort(four_Q4), nearest_lists(XQ_QD, ENCODER.centroids_LD, 4))


@pytest.mark.parametrize("probes", [None, 1, 5])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.005])
def test_search_finds_the_same_with_and_without_kernels(
    share: float, probes: int | None, shards: list[IndexShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    filtered = shards if share == 1.0 else _filtered(shards, share)
    calibration = replace(calibrate(ENCODER, []), method="hamming", candidates={10: 40}, n_live=N)
    searcher = Searcher(ENCODER, filtered, calibration, threads=2)
    options: dict[str, Any] = {"probes": probes, "candidates": 40, "exclude_ids": IDS[: len(XQ_QD)]}
    compiled = searcher.search_places(XQ_QD, 10, **options)
    enough = min(10, searcher.n_live - 1)
    assert (compiled.neighbours.place_QK[:, :enough] >= 0).all()
    _without_kernel(monkeypatch)
    _same(compiled, searcher.search_places(XQ_QD, 10, **options))


@pytest.mark.parametrize("probes", [None, 3])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_one_call_for_one_shard_gives_what_the_stages_give(
    probes: int | None, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = _filtered([open_shard(tmp_path, IDS, X_ND, ENCODER)], share)
    calibration = replace(calibrate(ENCODER, []), method="hamming", candidates={10: 40}, n_live=N)
    for threads in (1, 2):
        for xq_QD in (XQ_QD, XQ_QD[7:8]):
            found = Searcher(ENCODER, shards, calibration, threads=threads).search_places(
                xq_QD, 10, probes=probes
            )
            with monkeypatch.context() as patch:
                patch.setattr(kernel, "can_sieve", lambda *_: False)
                staged = Searcher(ENCODER, shards, calibration, threads=threads)
                _same(found, staged.search_places(xq_QD, 10, probes=probes))


def test_lists_give_the_same_in_any_batch_threads_and_split(shards: list[IndexShard], tmp_path: Path) -> None:
    one = open_shard(tmp_path, IDS, X_ND, ENCODER, dead=IDS[5:400:7])
    expected = Searcher(ENCODER, shards, None, threads=1).search(XQ_QD, 7, candidates=50, probes=3)
    assert Searcher(ENCODER, [one], None, threads=3).search(XQ_QD, 7, candidates=50, probes=3) == expected
    for row in (0, 40):
        alone = Searcher(ENCODER, shards, None).search(XQ_QD[row : row + 1], 7, candidates=50, probes=3)
        assert (alone.ids[0], alone.distances[0]) == (expected.ids[row], expected.distances[row])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("d", [1, 7, 8, 100, 130])
def test_exact_distances_have_the_bits_of_pair_distances(
    d: int, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_ND = unit_rows(60, d, seed=4)
    encoder: Encoder = fit_encoder(x_ND, bits=8)
    shard = open_shard(tmp_path, [f"{i:02d}" for i in range(60)], x_ND, encoder, vector_dtype=dtype)
    place_QC = np.tile(to_place(0, np.arange(60)), (5, 1))
    place_QC[3, 40:] = -1
    xq_QD = unit_rows(5, d, seed=5)
    found = rank_candidates([shard], xq_QD, place_QC, 12)
    expected_K = pair_distances(shard.vectors_ND[found.place_QK[3]], np.repeat(xq_QD[3:4], 12, axis=0))
    assert found.distance_QK[3].tolist() == expected_K.tolist() == sorted(expected_K)
    _without_kernel(monkeypatch)
    plain = rank_candidates([shard], xq_QD, place_QC, 12)
    np.testing.assert_array_equal(found.place_QK, plain.place_QK)
    np.testing.assert_array_equal(found.distance_QK, plain.distance_QK)


def test_rough_look_at_8_bit_vectors_keeps_the_same_with_and_without_kernels(
    shards: list[IndexShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    rough = []
    for shard in shards:
        int8_ND, scale_N = to_int8(np.asarray(shard.vectors_ND))
        rough.append(replace(shard, int8_ND=int8_ND, int8_scale_N=scale_N))
    options: dict[str, Any] = {"candidates": 400, "exclude_ids": [None] * len(XQ_QD)}
    found = Searcher(ENCODER, rough, None).search_places(XQ_QD, 10, **options)
    place_QC = np.sort(np.random.default_rng(0).permuted(np.tile(np.arange(900), (9, 1)), axis=1)[:, :300])
    place_QC[4, 250:] = -1
    kept_QC = worth_reading(rough, XQ_QD[:9], place_QC, 10)
    n_kept_Q = (kept_QC >= 0).sum(axis=1)
    assert n_kept_Q.min() >= 100
    assert n_kept_Q.max() < 250
    _same(found, Searcher(ENCODER, shards, None).search_places(XQ_QD, 10, **options))
    _without_kernel(monkeypatch)
    np.testing.assert_array_equal(kept_QC, worth_reading(rough, XQ_QD[:9], place_QC, 10))


@pytest.mark.parametrize("n_lists", [127, 128, 300])
def test_lists_are_chosen_from_several_groups_and_ties_go_by_number(n_lists: int) -> None:
    """Every third centroid stands there twice, so that the last list probed often ties with the next one."""
    centroids_LD = np.rint(unit_rows(n_lists, 7, seed=5) * 2**11).astype(np.float32) / np.float32(2**11)
    centroids_LD[3::3] = centroids_LD[:-3:3]
    encoder = replace(fit_encoder(unit_rows(50, 7, seed=1), bits=8), centroids_LD=centroids_LD)
    xq_QD, live_L = unit_rows(20, 7, seed=6), np.ones(n_lists, dtype=np.int64)
    for n_probes in (1, 2, 9, n_lists // 2, n_lists - 1, n_lists):
        chosen_QP = kernel.choose_lists(encoder, xq_QD, n_probes, live_L, 0)
        np.testing.assert_array_equal(np.sort(chosen_QP), nearest_lists(xq_QD, centroids_LD, n_probes))


def test_kernels_load_no_linear_algebra_and_leave_it_to_others() -> None:
    """SciPy's takes 10 MiB of every process that searches; numba code of somebody else may need it."""
    code = """
import sys
import numba
import numpy as np
from pipeline.index import kernel_sort
kernel_sort.smallest_first(np.arange(9)[::-1].copy(), 9, 2)
assert "scipy.linalg" not in sys.modules
print(numba.njit(lambda x: np.dot(x, x))(np.ones(3)), "scipy.linalg" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["3.0", "True"]
