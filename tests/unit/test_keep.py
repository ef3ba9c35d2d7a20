"""A point that is kept has C and probes of the night that chose it, and the recall of tonight's search."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.index import keep
from pipeline.index.arrays import Float32Array
from pipeline.index.calibrate import calibrate
from pipeline.index.calibration import Calibration
from pipeline.index.encoder import Encoder, fit_encoder
from pipeline.index.exact import nearest
from pipeline.index.keep import kept
from pipeline.index.order import Neighbours
from pipeline.index.queries import QuerySet, keys_of, share_of
from pipeline.index.sample import fit_sample, seeded_order
from pipeline.index.search import Searcher
from pipeline.index.shard import IndexShard
from tests.support.index_shards import open_shard, spread, unit_rows

D, N = 32, 2_000
IDS = [f"img{i:04d}" for i in range(N)]
X_ND = unit_rows(N, D, seed=1, n_clusters=60)


def brute_force(shards: Sequence[IndexShard], queries: QuerySet, k: int) -> Neighbours:
    return nearest(shards, queries.xq_QD, k, excluded_QE=queries.excluded_QE)


def fitted(x_ND: Float32Array, n_lists: int | None = None) -> Encoder:
    sample = fit_sample(seeded_order(IDS, 0))
    return fit_encoder(x_ND[sample.rows_N], bits=256, n_lists=n_lists, fit_threshold=sample.fit_threshold)


@pytest.mark.parametrize("n_lists", [None, 8])
def test_kept_point_of_the_same_rows_is_the_point_that_was_chosen(
    n_lists: int | None, tmp_path: Path
) -> None:
    encoder = fitted(X_ND, n_lists)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    point = calibrate(encoder, [shard])
    assert kept(point, encoder, [shard], brute_force) == replace(point, kept=1)


def test_kept_point_says_the_recall_of_tonights_rows(tmp_path: Path) -> None:
    """Independent of the bootstrap: the mean over the queries it drew, by search against exact search."""
    encoder = fitted(X_ND)
    parts = (np.arange(N) % 3).tolist()
    shards = spread(tmp_path, IDS, X_ND, encoder, parts, dead=IDS[1_500:1_600])
    before = [replace(shard, alive_N=None) for shard in shards]
    point = calibrate(encoder, before)
    drawn: list[QuerySet] = []

    def truth(shards: Sequence[IndexShard], queries: QuerySet, k: int) -> Neighbours:
        drawn.append(queries)
        return brute_force(shards, queries, k)

    found = kept(point, encoder, shards, truth)
    assert found is not None
    assert (found.candidates, found.curve, found.filtered) == (point.candidates, point.curve, point.filtered)
    assert (found.n_live, found.kept) == (N - 100, 1)
    (queries,) = drawn
    searcher = Searcher(encoder, shards, None)
    exact = searcher.search(queries.xq_QD, 10, exact=True, exclude_ids=queries.exclude_ids)
    rough = searcher.search(
        queries.xq_QD, 10, candidates=point.candidates[10] - 1, exclude_ids=queries.exclude_ids
    )
    overlap = [len({*a} & {*b}) / 10 for a, b in zip(exact.ids, rough.ids, strict=True)]
    assert found.ann_recall[10].mean == pytest.approx(np.mean(overlap), abs=1e-5)


def test_point_whose_recall_fell_does_not_hold(tmp_path: Path) -> None:
    encoder = fitted(X_ND)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    point = calibrate(encoder, [shard])
    fewer = replace(point, candidates={k: k for k in point.candidates})
    assert kept(fewer, encoder, [shard], brute_force) is None


def test_point_does_not_hold_where_a_filter_leaves_more_rows_than_are_all_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows under a filter were compared when C was chosen; the limit falls in place of growing rows."""
    encoder = fitted(X_ND)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    point = calibrate(encoder, [shard])
    assert [under.candidates for under in point.filtered] == [None] * 4
    half = sum(one.n_live for one in share_of([shard], keys_of([shard], encoder.seed), 0.5))
    monkeypatch.setattr(keep, "GATHERED_ROWS", half)
    assert kept(point, encoder, [shard], brute_force) is not None
    monkeypatch.setattr(keep, "GATHERED_ROWS", half - 1)
    assert kept(point, encoder, [shard], brute_force) is None


def test_point_without_evidence_does_not_hold(tmp_path: Path) -> None:
    encoder = fitted(X_ND)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    point = calibrate(encoder, [shard])
    assert kept(replace(point, met=False), encoder, [shard], brute_force) is None
    assert kept(replace(point, queries="given"), encoder, [shard], brute_force) is None
    few = replace(shard, alive_N=np.arange(N) < 900)
    assert kept(point, encoder, [few], brute_force) is None
    exact = calibrate(encoder, [few])
    assert exact.method == "exact"
    assert kept(exact, encoder, [shard], brute_force) is None


def test_kept_calibration_is_read_back_and_an_older_one_was_kept_for_no_night(tmp_path: Path) -> None:
    encoder = fitted(X_ND)
    shard = open_shard(tmp_path, IDS, X_ND, encoder)
    point = replace(calibrate(encoder, [shard]), kept=3)
    assert Calibration.from_json(point.to_json()) == point
    older = {name: value for name, value in point.to_json().items() if name != "kept"}
    assert Calibration.from_json(older).kept == 0
