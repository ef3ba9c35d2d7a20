"""Searching: both stages together, what a caller may ask, and what is refused in words."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.index.arrays import Float32Array
from pipeline.index.calibrate import calibrate
from pipeline.index.calibration import Calibration
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard
from tests.support.index_shards import open_shard, spread, unit_rows

D, N = 32, 400
X_ND = unit_rows(N, D, seed=1, n_clusters=20)
IDS = [f"img{i:04d}" for i in range(N)]
ENCODER = fit_encoder(X_ND, bits=256)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[IndexShard]:
    return spread(tmp_path_factory.mktemp("shards"), IDS, X_ND, ENCODER, (np.arange(N) % 3).tolist())


def _calibrated(candidates: dict[int, int]) -> Calibration:
    return replace(calibrate(ENCODER, []), method="hamming", candidates=candidates)


def test_stored_vector_finds_itself_first_at_distance_zero(shards: list[IndexShard]) -> None:
    result = Searcher(ENCODER, shards, _calibrated({10: 50})).search(X_ND[:20], 5)
    assert [row[0] for row in result.ids] == IDS[:20]
    assert [row[0] for row in result.distances] == [0.0] * 20
    assert (result.method, result.candidates, result.warning) == ("hamming", 50, "")


def test_sieve_with_enough_candidates_agrees_with_exact_search_bit_for_bit(shards: list[IndexShard]) -> None:
    searcher, xq_QD = Searcher(ENCODER, shards, None), unit_rows(40, D, seed=9, n_clusters=20)
    exact, sieved = searcher.search(xq_QD, 10, exact=True), searcher.search(xq_QD, 10, candidates=N - 1)
    assert (exact.ids, exact.distances) == (sieved.ids, sieved.distances)
    assert (exact.method, sieved.method) == ("exact", "hamming")


def test_float16_vectors_rank_by_what_is_stored(tmp_path: Path) -> None:
    shard = open_shard(tmp_path, IDS, X_ND, ENCODER_16, vector_dtype="float16")
    searcher, xq_QD = Searcher(ENCODER_16, [shard], None), unit_rows(10, D, seed=9)
    exact, sieved = searcher.search(xq_QD, 10, exact=True), searcher.search(xq_QD, 10, candidates=N)
    assert (exact.ids, exact.distances) == (sieved.ids, sieved.distances)


ENCODER_16 = fit_encoder(X_ND.astype(np.float16), bits=64)


def test_results_do_not_depend_on_threads_or_query_batches(
    shards: list[IndexShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    xq_QD = unit_rows(50, D, seed=3)
    expected = Searcher(ENCODER, shards, None, threads=1).search(xq_QD, 7, candidates=30)
    assert Searcher(ENCODER, shards, None, threads=4).search(xq_QD, 7, candidates=30) == expected
    monkeypatch.setattr("pipeline.index.sieve._BATCH_BYTES", 1)
    assert Searcher(ENCODER, shards, None).search(xq_QD, 7, candidates=30) == expected


def test_one_query_at_a_time_gives_what_a_batch_gives(shards: list[IndexShard]) -> None:
    searcher, xq_QD = Searcher(ENCODER, shards, _calibrated({10: 40})), unit_rows(6, D, seed=3)
    assert tuple(searcher.search(x_D[None], 5).ids[0] for x_D in xq_QD) == searcher.search(xq_QD, 5).ids


def test_copies_of_one_image_come_in_id_order(tmp_path: Path) -> None:
    ids = ["b", "é", "a", "Z", "aa"]
    x_ND = np.repeat(unit_rows(1, D, seed=0), 5, axis=0)
    shards = spread(tmp_path, ids, x_ND, ENCODER, [0, 1, 1, 0, 2])
    for options in ({"exact": True}, {"candidates": 3}):
        assert Searcher(ENCODER, shards, None).search(x_ND[:1], 3, **options).ids == (("Z", "a", "aa"),)


def test_a_hundred_thousand_copies_of_one_image_take_no_longer_than_as_many_images(tmp_path: Path) -> None:
    n, spent_s = 100_000, {}
    ids = [f"{row:06d}" for row in range(n)]
    for name, x_ND in (
        ("different", unit_rows(n, 16, seed=1)),
        ("alike", np.repeat(unit_rows(1, 16, seed=1), n, axis=0)),
    ):
        encoder = fit_encoder(x_ND[:500], bits=64)
        (tmp_path / name).mkdir()
        searcher = Searcher(encoder, [open_shard(tmp_path / name, ids, x_ND, encoder)], None, threads=1)
        found = searcher.search(x_ND[:1], 10, candidates=100)
        begun_s = time.process_time()
        searcher.search(x_ND[:100], 10, candidates=100)
        spent_s[name] = time.process_time() - begun_s
    assert found.ids == (tuple(ids[:10]),)
    assert spent_s["alike"] < 5 * spent_s["different"] + 0.1


def test_more_results_than_images_gives_all_of_them(shards: list[IndexShard]) -> None:
    result = Searcher(ENCODER, shards, _calibrated({10: 50})).search(X_ND[:2], 10_000)
    assert [sorted(row) for row in result.ids] == [IDS, IDS]
    assert result.method == "exact"


def test_without_encoder_or_calibration_search_is_exact(shards: list[IndexShard]) -> None:
    for searcher in (Searcher(None, shards, None), Searcher(ENCODER, shards, None)):
        assert searcher.search(X_ND[:1], 3).method == "exact"


def test_k_beyond_calibration_scales_candidates_and_warns(shards: list[IndexShard]) -> None:
    searcher = Searcher(ENCODER, shards, _calibrated({1: 5, 10: 20}))
    assert [searcher.search(X_ND[:1], k).candidates for k in (1, 2, 10)] == [5, 20, 20]
    result = searcher.search(X_ND[:1], 25)
    assert (result.candidates, len(result.ids[0])) == (50, 25)
    assert "measured up to k = 10" in result.warning


def test_candidates_never_fall_below_k(shards: list[IndexShard]) -> None:
    assert len(Searcher(ENCODER, shards, None).search(X_ND[:1], 30, candidates=2).ids[0]) == 30


def test_index_without_live_rows_answers_with_nothing(tmp_path: Path) -> None:
    shard = open_shard(tmp_path, IDS[:3], X_ND[:3], ENCODER, dead=IDS[:3])
    for options in ({"exact": True}, {"candidates": 5}):
        for some in ([], [shard]):
            result = Searcher(ENCODER, some, None).search(X_ND[:2], 4, **options)
            assert (result.ids, result.distances) == (((), ()), ((), ()))


def test_no_queries_have_no_results(shards: list[IndexShard]) -> None:
    for options in ({"exact": True}, {"candidates": 5}):
        assert Searcher(ENCODER, shards, None).search(X_ND[:0], 4, **options).ids == ()


def _with_row(value: float) -> Float32Array:
    xq_QD = X_ND[:3].copy()
    xq_QD[1] *= np.float32(value)
    return xq_QD


@pytest.mark.parametrize(
    ("xq_QD", "message"),
    [
        (_with_row(0.0), "query 1: .*got length 0 "),
        (_with_row(np.nan), "query 1: .*got length nan"),
        (_with_row(1.01), "query 1: .*got length 1.01"),
        (unit_rows(2, D + 1, seed=0), r"32 dimensions, got an array of shape \(2, 33\)"),
        (X_ND[0], r"shape \(32,\)"),
    ],
)
def test_impossible_query_is_refused_naming_its_row(
    xq_QD: Float32Array, message: str, shards: list[IndexShard]
) -> None:
    with pytest.raises(UsageError, match=message):
        Searcher(ENCODER, shards, None).search(xq_QD, 3)


def test_impossible_requests_are_refused(shards: list[IndexShard]) -> None:
    searcher = Searcher(ENCODER, shards, None)
    with pytest.raises(UsageError, match="at least 1"):
        searcher.search(X_ND[:1], 0)
    with pytest.raises(UsageError, match="at least 1"):
        searcher.search(X_ND[:1], 3, candidates=0)
    with pytest.raises(UsageError, match="got 2 for 1"):
        searcher.search(X_ND[:1], 3, exclude_ids=["a", "b"])
    with pytest.raises(UsageError, match="without an encoder"):
        Searcher(None, shards, None).search(X_ND[:1], 3, candidates=5)


def test_shards_of_another_encoder_size_are_refused(shards: list[IndexShard]) -> None:
    wider: Encoder = fit_encoder(X_ND, bits=512)
    with pytest.raises(UsageError, match="512 bits"):
        Searcher(wider, shards, None)
