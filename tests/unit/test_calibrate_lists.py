"""Calibration of the lists form: probes and candidates together give the recall that is published."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.index.arrays import IntArray
from pipeline.index.calibrate import SELECTIVITIES, CalibrationSettings, calibrate
from pipeline.index.calibration import Calibration
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.exact import nearest
from pipeline.index.levels import ProbeLevels
from pipeline.index.order import places_of, row_of
from pipeline.index.queries import QuerySet
from pipeline.index.recall import NEVER, probed_ranks, sieve_ranks
from pipeline.index.sample import fit_sample, seeded_order
from pipeline.index.search import Searcher
from tests.support.index_shards import hamming_oracle, nearest_lists, open_shard, spread, unit_rows

D, N, LISTS = 32, 2_000, 16
IDS = [f"img{i:04d}" for i in range(N)]
X_ND = unit_rows(N, D, seed=1, n_clusters=60)


def _fit(bits: int) -> Encoder:
    sample = fit_sample(seeded_order(IDS, 0))
    return fit_encoder(X_ND[sample.rows_N], bits=bits, n_lists=LISTS, fit_threshold=sample.fit_threshold)


def test_probes_and_candidates_reach_the_target_on_every_row(tmp_path: Path) -> None:
    encoder = _fit(512)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard])
    assert (calibration.met, calibration.method, calibration.form) == (True, "hamming", "lists")
    assert 1 <= calibration.probes[1] <= calibration.probes[10] <= calibration.probes[100] <= LISTS
    searcher = Searcher(encoder, [shard], calibration)
    exact = searcher.search(X_ND, 10, exact=True, exclude_ids=IDS)
    found = searcher.search(X_ND, 10, exclude_ids=IDS)
    overlap = [len({*a} & {*b}) / 10 for a, b in zip(exact.ids, found.ids, strict=True)]
    assert np.mean(overlap) >= 0.99
    assert [(point.share, point.candidates) for point in calibration.filtered] == [
        (share, None)
        for share in SELECTIVITIES  # so few rows are compared exactly
    ]
    assert Calibration.from_json(calibration.to_json()) == calibration
    assert {point.probes for point in calibration.curve} <= {1, 2, 3, 4, 6, 8, 12, 16}
    (in_use,) = {point.probes for point in calibration.curve_in_use()}
    assert in_use is not None
    assert in_use <= calibration.probes[10] < 2 * in_use


def test_lists_calibrate_the_same_for_any_sharding_and_threads(tmp_path: Path) -> None:
    encoder, dead = _fit(256), IDS[5:50]
    one = spread(tmp_path / "one", IDS, X_ND, encoder, [0] * N, dead=dead)
    four = spread(tmp_path / "four", IDS, X_ND, encoder, (np.arange(N) % 4).tolist(), dead=dead)
    assert calibrate(encoder, one, threads=1) == calibrate(encoder, four, threads=3)


def test_too_few_bits_ask_for_more_in_lists_form_too(tmp_path: Path) -> None:
    encoder = _fit(32)
    calibration = calibrate(encoder, [open_shard(tmp_path, IDS, X_ND, encoder)])
    assert (calibration.met, calibration.next_bits, calibration.candidates[10]) == (False, 64, 200)
    assert f"200 candidates from {calibration.probes[10]} lists" in calibration.reason


def test_filtered_search_gets_more_candidates_where_fewer_rows_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies in pairs: with a tenth of the rows the second of a pair is gone, and neighbours are far."""
    monkeypatch.setattr("pipeline.index.calibrate.GATHERED_ROWS", 100)
    x_ND = np.concatenate([X_ND[:N], X_ND[:N] + np.float32(1e-4) * unit_rows(N, D, seed=9)])
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    ids = [*IDS, *(f"{name}b" for name in IDS)]
    sample = fit_sample(seeded_order(ids, 0))
    encoder = fit_encoder(x_ND[sample.rows_N], bits=128, n_lists=LISTS, fit_threshold=sample.fit_threshold)
    settings = CalibrationSettings(k=1, budget=400, max_queries=400)
    calibration = calibrate(encoder, [open_shard(tmp_path, ids, x_ND, encoder)], settings)
    half, tenth, *rest = calibration.filtered
    assert calibration.met
    assert tenth.candidates is not None
    assert half.candidates is not None
    assert calibration.candidates[1] < half.candidates <= tenth.candidates
    assert all(point.recall.mean >= 0.99 for point in calibration.filtered)
    assert [point.candidates for point in rest] == [None, None]
    live = 2 * N
    asked = [calibration.candidates_for(1, n)[0] for n in (live, live // 2, live // 3, live // 10)]
    assert asked == [calibration.candidates[1], half.candidates, tenth.candidates, tenth.candidates]


def test_unproven_lists_are_all_probed(tmp_path: Path) -> None:
    encoder = _fit(64)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard], CalibrationSettings(), queries=X_ND[:20])
    assert (calibration.met, calibration.probes[10]) == (False, LISTS)


@pytest.mark.parametrize("copies", [1, 40])
def test_ranks_are_those_of_brute_force_at_every_level(copies: int, tmp_path: Path) -> None:
    """By definition, one query at a time; with copies the nearest k end within a tie."""
    n, k = 200, 5
    x_ND = np.repeat(unit_rows(n // copies, D, seed=2), copies, axis=0)
    ids = [f"{i:03d}" for i in range(n)]
    encoder = fit_encoder(x_ND[:100], bits=64, n_lists=4)
    shards = spread(tmp_path, ids, x_ND, encoder, (np.arange(n) % 2).tolist(), dead=ids[::7])
    asked = [ids[i] for i in (1, 50, 120, 199)]
    xq_QD = x_ND[[1, 50, 120, 199]]
    queries = QuerySet(xq_QD=xq_QD, excluded_QE=places_of(shards, asked), exclude_ids=tuple(asked))
    assert encoder.centroids_LD is not None
    levels = ProbeLevels(xq_QD, encoder.centroids_LD)
    codes_QW = encoder.encode(xq_QD)
    found = probed_ranks(shards, queries, codes_QW, [k], levels)[k]
    list_N = nearest_lists(x_ND, encoder.centroids_LD, 1)[:, 0]
    hamming_QN = hamming_oracle(encoder.encode(x_ND), codes_QW)
    for g, probes in enumerate(levels.probes):
        probed_QP = nearest_lists(xq_QD, encoder.centroids_LD, probes)
        for query, image_id in enumerate(asked):
            not_dead = np.arange(n) % 7 != 0
            live = not_dead & (np.array(ids) != image_id)
            expected = _ranks_by_definition(
                x_ND, xq_QD[query], live, not_dead & np.isin(list_N, probed_QP[query]), hamming_QN[query], k
            )
            assert found[g, query].tolist() == expected
    flat = sieve_ranks(shards, queries, codes_QW, [k])[k]
    assert (flat == found[-1]).all()


def _ranks_by_definition(
    x_ND: np.ndarray, q_D: np.ndarray, live: np.ndarray, probed: np.ndarray, hamming_N: np.ndarray, k: int
) -> list[int]:
    distance_N = ((x_ND.astype(np.float64) - q_D.astype(np.float64)) ** 2).sum(axis=1).astype(np.float32)
    member = live & (distance_N <= np.sort(distance_N[live])[k - 1])
    hits = sorted(hamming_N[probed & member].tolist())[:k]
    ranks = [int((probed & ~member & (hamming_N <= h)).sum()) + i + 1 for i, h in enumerate(hits)]
    return ranks + [int(NEVER)] * (k - len(ranks))


def test_levels_hold_every_list_once_and_rows_add_up(tmp_path: Path) -> None:
    encoder = _fit(64)
    shards = spread(tmp_path, IDS, X_ND, encoder, (np.arange(N) % 3).tolist())
    assert encoder.centroids_LD is not None
    levels = ProbeLevels(X_ND[:50], encoder.centroids_LD)
    assert levels.probes == [1, 2, 3, 4, 6, 8, 12, 16]
    assert levels.mean_rows(shards)[-1] == N
    truth = nearest(shards, X_ND[:50], 3)
    level_QK: IntArray = levels.reached(shards, truth, 3)
    for query in range(50):
        for place, level in zip(truth.place_QK[query].tolist(), level_QK[query].tolist(), strict=True):
            shard = shards[place >> 40]
            assert shard.offsets_L is not None
            number = np.searchsorted(shard.offsets_L, row_of(np.array([place])), side="right")[0] - 1
            probed = nearest_lists(X_ND[query : query + 1], encoder.centroids_LD, levels.probes[level])
            assert number in probed
