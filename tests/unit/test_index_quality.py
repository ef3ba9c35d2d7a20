"""What `evaluate index` measures: against brute force, and on indexes that are broken on purpose."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import run
from pipeline.evaluate.index_facts import bit_facts, list_facts
from pipeline.evaluate.index_quality import evaluate_index
from pipeline.evaluate.index_queries import fresh_queries, neighbour_distances
from pipeline.index.calibrate import CalibrationSettings, calibrate
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.sample import fit_sample, query_sample, seeded_order
from pipeline.index.search import Searcher
from pipeline.snapshot.selection import narrowed
from tests.support.index_shards import nearest_oracle, spread, unit_rows
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder

D, N = 24, 1_500
X_ND = unit_rows(N, D, seed=1, n_clusters=12)
IDS = [f"img{i:04d}" for i in range(N)]
SAMPLE = fit_sample(seeded_order(IDS, 0))
DEAD = IDS[:30]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return fit_encoder(X_ND[SAMPLE.rows_N], bits=64, fit_threshold=SAMPLE.fit_threshold)


@pytest.fixture(scope="module")
def searcher(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    shards = spread(tmp_path_factory.mktemp("q"), IDS, X_ND, encoder, (np.arange(N) % 2).tolist(), dead=DEAD)
    point = calibrate(encoder, shards, CalibrationSettings(max_queries=100))
    point = replace(
        point, method="hamming", candidates={1: 15, 10: 40}, n_calibration=100, n_verification=100
    )
    return Searcher(encoder, shards, point)


def test_fresh_queries_are_live_rows_that_nothing_was_chosen_by(searcher: Searcher) -> None:
    queries = fresh_queries(searcher, 200, seed=0)
    live = [image_id for image_id in IDS if image_id not in DEAD]
    sample = query_sample(seeded_order(live, 0), SAMPLE.fit_threshold, max_queries=100)
    spent = {IDS[row] for row in SAMPLE.rows_N}
    spent |= {live[row] for row in (*sample.calibration_Q, *sample.verification_Q)}
    assert len(set(queries.ids)) == 200
    assert not set(queries.ids) & (spent | set(DEAD))
    np.testing.assert_array_equal(queries.xq_QD, X_ND[[IDS.index(image_id) for image_id in queries.ids]])
    assert fresh_queries(searcher, 200, seed=0).ids == queries.ids
    assert set(fresh_queries(searcher, 200, seed=1).ids) != set(queries.ids)


def test_recall_is_the_overlap_with_brute_force(searcher: Searcher, tmp_path: Path) -> None:
    queries = fresh_queries(searcher, 25, seed=3)
    truth_QK, _ = neighbour_distances(searcher, queries, 10, "digest", tmp_path)
    quality = evaluate_index(searcher, queries, truth_QK, (1, 10), narrowed)
    for k, n_candidates in ((1, 15), (10, 40)):
        hits = []
        for image_id, x_D in zip(queries.ids, queries.xq_QD, strict=True):
            alive_N = np.array([one not in DEAD and one != image_id for one in IDS])
            exact = set(nearest_oracle(X_ND, IDS, alive_N, x_D[None], k)[0])
            got = searcher.search(x_D[None], k, candidates=n_candidates, exclude_ids=[image_id]).ids[0]
            hits.append(len(exact & set(got)) / k)
        assert quality.recall[k].mean == pytest.approx(np.mean(hits), abs=1e-6)
        assert quality.candidates[k] == n_candidates
        (point,) = (point for point in quality.curve if point.candidates == n_candidates)
        assert point.recall[k] == pytest.approx(np.mean(hits), abs=1e-6)
        (lost,) = (lost for lost in quality.lost if lost.k == k)
        assert (lost.code, lost.lists) == (pytest.approx(1 - np.mean(hits), abs=1e-6), 0)
    assert quality.probe_curve == ()
    assert 0.3 < quality.recall[10].mean < 1
    assert quality.recall[10].low < quality.recall[10].mean < quality.recall[10].high
    recalls = [point.recall[10] for point in quality.curve if 10 in point.recall]
    assert recalls == sorted(recalls)
    for one in quality.filters:  # so few rows are compared exactly
        assert (one.recall is None) == (one.n_excluded == 25) == (one.n_matching < 10)
        assert one.recall is None or one.recall.mean == 1.0
    assert [(one.asked, one.found) for one in quality.self_queries] == [(64, 64)] * 2


def test_loss_is_parted_between_code_and_lists(tmp_path: Path) -> None:
    encoder = fit_encoder(X_ND[SAMPLE.rows_N], bits=64, n_lists=8, fit_threshold=SAMPLE.fit_threshold)
    shards = spread(tmp_path, IDS, X_ND, encoder, (np.arange(N) % 2).tolist())
    point = replace(calibrate(encoder, []), method="hamming", candidates={10: 100}, probes={10: 2}, n_live=N)
    searcher = Searcher(encoder, shards, point)
    queries = fresh_queries(searcher, 50, seed=3)
    truth_QK, _ = neighbour_distances(searcher, queries, 10, "lists", tmp_path)
    quality = evaluate_index(searcher, queries, truth_QK, (10,), narrowed)
    (lost,) = quality.lost
    recall = {point.probes: point.recall[10] for point in quality.probe_curve}
    assert sorted(recall) == [1, 2, 4, 8]
    assert lost.lists == pytest.approx(recall[8] - recall[2], abs=1e-5)
    assert lost.code == pytest.approx(1 - recall[8], abs=1e-5)
    assert quality.lists is not None
    assert quality.lists.n_lists == 8


def test_truth_is_found_once_for_a_snapshot(searcher: Searcher, tmp_path: Path) -> None:
    queries = fresh_queries(searcher, 5, seed=0)
    first, known = neighbour_distances(searcher, queries, 10, "one", tmp_path)
    again, known_again = neighbour_distances(searcher, queries, 10, "one", tmp_path)
    assert (known, known_again) == (False, True)
    np.testing.assert_array_equal(first, again)
    assert not neighbour_distances(searcher, queries, 10, "two", tmp_path)[1]
    assert not neighbour_distances(searcher, queries, 5, "one", tmp_path)[1]
    for file in (tmp_path / "ground-truth").iterdir():
        file.write_bytes(b"garbled")
    mended, known = neighbour_distances(searcher, queries, 10, "one", tmp_path)
    assert not known
    np.testing.assert_array_equal(first, mended)


def test_index_shard_whose_codes_are_of_other_rows_does_not_find_itself(
    searcher: Searcher, tmp_path: Path
) -> None:
    good, bad = searcher.shards
    assert bad.codes_NW is not None
    broken = Searcher(
        searcher.encoder,
        [good, replace(bad, codes_NW=np.ascontiguousarray(~bad.codes_NW))],
        searcher.calibration,
    )
    queries = fresh_queries(broken, 20, seed=0)
    truth_QK, _ = neighbour_distances(broken, queries, 10, "broken", tmp_path)
    found = evaluate_index(broken, queries, truth_QK, (10,), narrowed).self_queries
    assert found[0].found == found[0].asked
    assert found[1].found < found[1].asked / 2


def test_dead_and_doubled_bits_are_seen(searcher: Searcher) -> None:
    plain = bit_facts(searcher)
    assert plain is not None
    codes = [shard.codes_NW.copy() for shard in searcher.shards if shard.codes_NW is not None]
    bits_NB = np.concatenate(
        [np.unpackbits(c[s.alive_N if s.alive_N is not None else slice(None)], axis=1, bitorder="little")
         for c, s in zip(codes, searcher.shards, strict=True)]
    )  # fmt: skip
    correlation = np.abs(np.corrcoef(bits_NB.T))[~np.eye(64, dtype=bool)]
    assert plain.correlation_mean == pytest.approx(correlation.mean(), abs=1e-3)
    assert plain.balance_mean == pytest.approx(np.abs(bits_NB.mean(axis=0) - 0.5).mean(), abs=1e-4)
    for code in codes:
        code[:, 1] = code[:, 0]
        code[:, 2] = 0
    shards = [replace(s, codes_NW=c) for s, c in zip(searcher.shards, codes, strict=True)]
    worse = bit_facts(Searcher(searcher.encoder, shards, None))
    assert worse is not None
    assert worse.balance_max == 0.5
    assert worse.correlation_max == 1.0


def test_lists_are_measured_over_all_shards(searcher: Searcher) -> None:
    assert list_facts(searcher) is None
    offsets = [np.array([0, 10, 10, 40]), np.array([0, 0, 0, 20])]
    shards = [replace(s, offsets_L=o) for s, o in zip(searcher.shards, offsets, strict=True)]
    facts = list_facts(Searcher(None, shards, None))
    assert facts is not None
    assert (facts.n_lists, facts.smallest, facts.largest, facts.empty) == (3, 0, 50, 1)
    assert facts.imbalance == pytest.approx(3 * (10**2 + 50**2) / 60**2, abs=1e-3)


def test_command_measures_a_collection_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BITSIEVE_CACHE", str(tmp_path / "cache"))
    made = Collection(tmp_path)
    write_folder(made.source, {f"{i}.jpg": jpeg(i) for i in range(20)})
    made.night()
    (made.source / "3.jpg").write_bytes(jpeg(99))
    made.night()
    page = tmp_path / "index.html"
    arguments = ["evaluate", "index", "--store", str(made.folder / "store"), "-k", "1,5", "-o", str(page)]
    assert run([*arguments, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["snapshot"], result["n_vectors"], result["method"]) == (2, 20, "exact")
    assert result["ann_recall@5"]["mean"] == 1
    assert result["staleness"]["dead_rows"] == 1
    assert result["staleness"]["delta_shards"] == 1
    assert result["warnings"] == []
    assert result["too_few"] == []
    assert result["filters"][2]["n_excluded"] == result["n_queries"] > 0
    assert result["filters"][2]["ann_recall@10"] is None
    assert json.loads(page.with_suffix(".json").read_text()) == result
    html = page.read_text()
    assert "ann_recall@5" in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert "<script" not in html
    assert run(arguments) == 0
    assert "ann_recall@1 " in capfd.readouterr().out
    asked = ["evaluate", "index", "--store", str(made.folder / "store"), "-k", "1,20,50"]
    assert run([*asked, "--json"]) == 0
    beyond = json.loads(capfd.readouterr().out)
    assert (beyond["too_few"], list(beyond["candidates"])) == ([20, 50], ["1"])
    assert "ann_recall@20" not in beyond
    assert run(asked) == 0
    assert "ann_recall@20   is not measured" in capfd.readouterr().out


@pytest.mark.parametrize("ks", ["", "0", "1,x"])
def test_command_refuses_a_k_that_is_none(ks: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = Collection(tmp_path)
    write_folder(made.source, {"1.jpg": jpeg(1)})
    made.night()
    assert run(["evaluate", "index", "--store", str(made.folder / "store"), "-k", ks]) == 2
    assert "whole numbers" in capfd.readouterr().err
