"""Calibration: the C it chooses gives the recall it publishes, and catalogs of any shape have an outcome."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataCorrupt, UsageError
from pipeline.index.arrays import Float32Array
from pipeline.index.bootstrap import Bootstrap, queries_needed
from pipeline.index.calibrate import CalibrationSettings, calibrate, default_budget, n_steps
from pipeline.index.calibration import Calibration
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.order import places_of
from pipeline.index.queries import QuerySet
from pipeline.index.recall import recall_at, sieve_ranks
from pipeline.index.sample import fit_sample, seeded_order
from pipeline.index.search import Searcher
from tests.support.index_shards import open_shard, spread, unit_rows

D, N = 32, 2_000
IDS = [f"img{i:04d}" for i in range(N)]
X_ND = unit_rows(N, D, seed=1, n_clusters=60)


def _fit(x_ND: Float32Array, bits: int, ids: list[str] = IDS, n_lists: int | None = None) -> Encoder:
    sample = fit_sample(seeded_order(ids, 0))
    return fit_encoder(x_ND[sample.rows_N], bits=bits, n_lists=n_lists, fit_threshold=sample.fit_threshold)


def test_calibrated_candidates_reach_the_target_on_every_row(tmp_path: Path) -> None:
    """Independent of both query sets: leave-one-out over the whole catalog against exact search."""
    encoder = _fit(X_ND, 512)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard])
    assert (calibration.met, calibration.method, calibration.reason) == (True, "hamming", "")
    searcher = Searcher(encoder, [shard], calibration)
    exact = searcher.search(X_ND, 10, exact=True, exclude_ids=IDS)
    found = searcher.search(X_ND, 10, exclude_ids=IDS)
    assert found.candidates == calibration.candidates[10] < default_budget(N)
    overlap = [len({*a} & {*b}) / 10 for a, b in zip(exact.ids, found.ids, strict=True)]
    assert np.mean(overlap) >= 0.99
    published = calibration.ann_recall[10]
    assert 0.99 <= published.low <= published.mean <= published.high <= 1


def test_calibration_tells_every_step_once(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 256)
    settings = CalibrationSettings(k=5)
    told: list[int] = []
    calibrate(encoder, [open_shard(tmp_path, IDS, X_ND, encoder)], settings, advance=told.append)
    assert told == list(range(1, n_steps(settings) + 1))


def test_calibration_is_the_same_for_any_sharding_and_threads(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 256)
    dead = IDS[5:50]
    one = spread(tmp_path / "one", IDS, X_ND, encoder, [0] * N, dead=dead)
    four = spread(tmp_path / "four", IDS, X_ND, encoder, (np.arange(N) % 4).tolist(), dead=dead)
    assert calibrate(encoder, one, threads=1) == calibrate(encoder, four, threads=3)


def test_too_few_bits_miss_the_target_and_say_how_many_to_fit_next(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 32)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard])
    assert (calibration.met, calibration.next_bits, calibration.candidates[10]) == (False, 64, 200)
    assert "whole budget of 200 candidates" in calibration.reason
    assert calibration.ann_recall[10].low < 0.99
    assert calibrate(encoder, [shard], CalibrationSettings(budget=N, target=0.9)).met


def test_curve_is_a_lower_bound_of_what_search_finds_at_every_point(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 64)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    ids = tuple(IDS[:100])
    queries = QuerySet(xq_QD=X_ND[:100], excluded_QE=places_of([shard], ids), exclude_ids=ids)
    ranks = sieve_ranks([shard], queries, encoder.encode(X_ND[:100]), (1, 10))
    searcher = Searcher(encoder, [shard], None)
    for k in (1, 10):
        truth = searcher.search(X_ND[:100], k, exact=True, exclude_ids=ids)
        for candidates in (11, 40, 160, 640):
            found = searcher.search(X_ND[:100], k, candidates=candidates - 1, exclude_ids=ids)
            measured = np.array([len({*a} & {*b}) / k for a, b in zip(truth.ids, found.ids, strict=True)])
            promised = recall_at(ranks[k], candidates)
            assert (promised <= measured + 1e-12).all()
            assert measured.mean() - promised.mean() < 0.1
    assert (recall_at(ranks[10], N) == 1).all()


@pytest.mark.parametrize(("n_copies", "n_lists"), [(150, None), (N, None), (150, 8), (N, 8)])
def test_copies_of_one_picture_do_not_spoil_calibration(
    n_copies: int, n_lists: int | None, tmp_path: Path
) -> None:
    """Placeholders: more rows at one distance than any list of neighbours shows; even the whole catalog."""
    x_ND = X_ND.copy()
    x_ND[np.random.default_rng(0).permutation(N)[:n_copies]] = x_ND[0]
    encoder = _fit(x_ND, 512, n_lists=n_lists)
    shards = spread(tmp_path, IDS, x_ND, encoder, (np.arange(N) % 2).tolist())
    calibration = calibrate(encoder, shards)
    assert calibration.met
    if n_copies == N:
        assert calibration.candidates == {1: 2, 10: 11, 100: 100}  # a row itself takes one place; 99 is .99


@pytest.mark.parametrize(
    ("n", "n_lists"), [(0, None), (1, None), (2, None), (9, 4), (999, None), (0, 4), (1, 4)]
)
def test_small_catalogs_are_searched_exactly(n: int, n_lists: int | None, tmp_path: Path) -> None:
    ids = IDS[:n]
    encoder = _fit(X_ND[:n], 512, ids, n_lists)
    shard = open_shard(tmp_path, ids, X_ND[:n], encoder)
    calibration = calibrate(encoder, [shard])
    assert (calibration.method, calibration.met) == ("exact", True)
    assert calibration.ann_recall[10].mean == 1.0
    result = Searcher(encoder, [shard], calibration).search(X_ND[:1], 10)
    assert len(result.ids[0]) == min(n, 10)
    assert result.method == "exact"


def test_given_queries_calibrate_without_being_rows(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 512)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    noisy = X_ND[:900] + 0.2 * unit_rows(900, D, seed=8)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    calibration = calibrate(encoder, [shard], queries=noisy)
    assert (calibration.queries, calibration.n_calibration, calibration.n_verification) == ("given", 450, 450)
    assert calibration.met


def test_too_few_queries_are_not_taken_as_proof(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 512)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard], queries=unit_rows(60, D, seed=8))
    assert (calibration.met, calibration.next_bits) == (False, None)
    assert f"needs at least {queries_needed(0.99)}" in calibration.reason


def test_catalog_too_small_to_prove_the_target_is_searched_exactly(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 512)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard], CalibrationSettings(target=0.999))
    assert (calibration.met, calibration.method) == (True, "exact")
    assert f"needs at least {queries_needed(0.999)}" in calibration.reason


def test_another_k_is_calibrated_beside_the_reported_ones(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 512)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    calibration = calibrate(encoder, [shard], CalibrationSettings(k=20, target=0.95))
    assert sorted(calibration.candidates) == sorted(calibration.ann_recall) == [1, 10, 20, 100]
    assert calibration.ann_recall[20].low >= 0.95
    assert list(calibration.candidates.values()) == sorted(calibration.candidates.values())


def test_calibration_survives_json_and_refuses_other_json(tmp_path: Path) -> None:
    encoder = _fit(X_ND, 256)
    calibration = calibrate(encoder, [open_shard(tmp_path, IDS, X_ND, encoder)])
    text = json.dumps(calibration.to_json(), allow_nan=False)
    assert Calibration.from_json(json.loads(text)) == calibration
    for wrong in ({}, {**calibration.to_json(), "more": 1}, {**calibration.to_json(), "curve": 3}):
        with pytest.raises(DataCorrupt):
            Calibration.from_json(wrong)


@pytest.mark.parametrize(
    ("target", "k", "budget"), [(1.0, 10, None), (0.0, 10, None), (0.9, 0, None), (0.9, 10, 9)]
)
def test_impossible_settings_are_refused(target: float, k: int, budget: int | None) -> None:
    with pytest.raises(UsageError):
        CalibrationSettings(target=target, k=k, budget=budget)


@pytest.mark.parametrize(("n_live", "budget"), [(1_000, 100), (13_000, 1_300), (1_000_000, 8_192)])
def test_default_budget(n_live: int, budget: int) -> None:
    assert default_budget(n_live) == budget


def test_interval_never_claims_more_than_so_many_perfect_queries_can_show() -> None:
    perfect = Bootstrap(100, seed=0).interval(np.ones(100))
    assert (perfect.mean, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.025 ** (1 / 100))
    mixed = Bootstrap(400, seed=0).interval(np.r_[np.zeros(100), np.ones(300)])
    assert mixed.low == pytest.approx(0.7075, abs=0.01)
    assert mixed.high == pytest.approx(0.7925, abs=0.01)
    assert queries_needed(0.99) == 368
    assert Bootstrap(368, seed=0).interval(np.ones(368)).low >= 0.99
    assert Bootstrap(367, seed=0).interval(np.ones(367)).low < 0.99


def test_row_that_does_not_find_itself_stops_calibration(tmp_path: Path) -> None:
    """Vectors and codes of two builds under one name: every file is sound, and the index is wrong."""
    encoder = _fit(X_ND, 64)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    assert shard.codes_NW is not None
    mixed = replace(shard, codes_NW=np.ascontiguousarray(~shard.codes_NW))
    with pytest.raises(DataCorrupt, match="8 of 8 rows do not find themselves"):
        calibrate(encoder, [mixed])
