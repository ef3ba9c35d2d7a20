"""The parts of ``bench index`` that can be right or wrong without measuring a speed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.index.contest import best_peer
from jobs.bench.index.data_set import DataSet, exact_bounds, identity_set, read_vectors, vectors_set
from jobs.bench.index.grid import HNSW32, chosen_peers, peers
from jobs.bench.index.identity import IMAGES_OF_ONE, D, identity_model
from jobs.bench.index.middle import measure_middle
from jobs.bench.index.picture import draw_curves, frontier
from jobs.bench.index.race import Race, best_point, our_runner, prepare_ours, row
from jobs.bench.peers.index.measure import recall
from jobs.bench.peers.index.residency import drop, resident_bytes
from pipeline.errors import UsageError, WorkerError
from pipeline.index.device import check_cuda


def test_identity_model_has_the_spectrum_and_the_cosines_that_were_measured_on_faces() -> None:
    model = identity_model(20_000, seed=3)
    x_ND = np.concatenate(list(model.blocks()))
    spectrum_D = np.linalg.eigvalsh(np.cov(x_ND.T))
    assert spectrum_D.sum() ** 2 / (spectrum_D**2).sum() == pytest.approx(85.7, abs=4)
    by_identity_IMD = x_ND[np.argsort(model.order_N // IMAGES_OF_ONE, kind="stable")].reshape(-1, 20, D)
    same = np.einsum("id,id->i", by_identity_IMD[:, 0], by_identity_IMD[:, 1]).mean()
    other = np.einsum("id,id->i", by_identity_IMD[:-1, 0], by_identity_IMD[1:, 0]).mean()
    assert same == pytest.approx(0.659, abs=0.03)
    assert other == pytest.approx(0.010, abs=0.02)


def test_identity_model_same_seed_draws_the_same_vectors_and_queries_are_new_images() -> None:
    one, two = (identity_model(2_000, seed=5) for _ in range(2))
    x_ND = np.concatenate(list(one.blocks()))
    assert np.array_equal(x_ND, np.concatenate(list(two.blocks())))
    inner_QN = one.queries(100) @ x_ND.T
    assert inner_QN.max() < 0.98  # no query is a row
    assert (inner_QN > 0.4).sum(axis=1).mean() == pytest.approx(IMAGES_OF_ONE, rel=0.2)  # of a known identity
    assert not np.array_equal(one.queries(100), one.queries(100, stream=1))


def test_exact_bounds_over_many_blocks_are_those_of_a_full_sort() -> None:
    generator = np.random.default_rng(0)
    base_ND, xq_QD = generator.standard_normal((5_000, 16)), generator.standard_normal((7, 16))
    base_ND, xq_QD = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (base_ND, xq_QD)
    )
    away_QN = ((xq_QD[:, np.newaxis].astype(np.float64) - base_ND) ** 2).sum(axis=2)
    assert np.allclose(exact_bounds(base_ND, xq_QD, 10), np.sort(away_QN, axis=1)[:, 9])


def test_recall_counts_by_distance_each_row_once_and_missing_rows_as_missed() -> None:
    base_ND = np.array([[1, 0], [0, 1], [0, 1], [-1, 0]], dtype=np.float32)
    xq_QD = np.array([[1, 0]], dtype=np.float32)
    bound_Q = np.array([2.0])  # of the second neighbour: rows 1 and 2 are equally far
    assert recall(base_ND, xq_QD, np.array([[0, 2]]), bound_Q, 2) == 1
    assert recall(base_ND, xq_QD, np.array([[0, 0]]), bound_Q, 2) == 0.5
    assert recall(base_ND, xq_QD, np.array([[0, 3]]), bound_Q, 2) == 0.5
    assert recall(base_ND, xq_QD, np.array([[-1, 9]]), bound_Q, 2) == 0


def test_vectors_set_queries_leave_the_base_and_parts_hold_the_base(tmp_path: Path) -> None:
    vectors_ND = np.random.default_rng(1).standard_normal((300, 8))
    data = vectors_set("given", tmp_path / "data", vectors_ND, None, k=3)
    base_ND, xq_QD = (np.load(data.folder / name) for name in ("base.npy", "queries.npy"))
    assert (data.rows, data.n_queries, data.float32_bytes) == (270, 30, 270 * 8 * 4)
    assert (xq_QD @ base_ND.T).max() < 1 - 1e-6
    table = pq.read_table(data.folder / "parts")
    assert table["image_id"].to_pylist() == [f"{row:010d}" for row in range(270)]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), base_ND)


def test_read_vectors_takes_npy_and_parquet_and_refuses_the_rest(tmp_path: Path) -> None:
    x_ND = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "x.npy", x_ND)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.reshape(-1)), 3)
    pq.write_table(pa.table({"embedding": column}), tmp_path / "x.parquet")
    assert np.array_equal(read_vectors(tmp_path / "x.npy"), x_ND)
    assert np.array_equal(read_vectors(tmp_path / "x.parquet"), x_ND)
    (tmp_path / "x.txt").write_text("no vectors")
    with pytest.raises(UsageError, match="neither"):
        read_vectors(tmp_path / "x.txt")


def test_vectors_set_with_a_zero_vector_is_refused(tmp_path: Path) -> None:
    vectors_ND = np.ones((200, 4), dtype=np.float32)
    vectors_ND[7] = 0
    with pytest.raises(UsageError, match="zero or not finite"):
        vectors_set("given", tmp_path / "data", vectors_ND, None, k=3)


def test_every_peer_of_the_grid_has_its_module_and_an_unknown_name_is_refused() -> None:
    every = peers(1_000_000, 128)
    assert HNSW32 in every
    assert every[HNSW32].first_that_reaches
    libraries = Path(__file__).parents[2] / "jobs" / "bench" / "peers" / "index"
    for peer in every.values():
        assert (libraries / f"{peer.library}.py").is_file()
        assert peer.builds
        assert peer.searches
    assert [peer.name for peer in chosen_peers(every, ["annoy"])] == ["annoy"]
    with pytest.raises(UsageError, match="no peer is called hnsw"):
        chosen_peers(every, ["hnsw"])


def test_best_point_is_the_fastest_that_reaches_the_target_or_the_nearest_to_it() -> None:
    points = [point(0.98, 900), point(0.991, 300), point(0.993, 400), point(0.999, 100)]
    assert best_point(points, 0.99) is points[2]
    assert best_point(points, 0.9995) is points[3]


def test_best_peer_leaves_out_who_misses_the_target_or_failed() -> None:
    rows: dict[str, dict[str, Any]] = {
        "fast": {"reached": False, "qps_batch": 900.0},
        "good": {"reached": True, "qps_batch": 500.0},
        "slow": {"reached": True, "qps_batch": 100.0},
        "failed": {"reached": False, "qps_batch": None},
    }
    assert best_peer(rows, "qps_batch") == "good"
    assert best_peer({"failed": rows["failed"]}, "qps_batch") is None


def test_frontier_keeps_what_no_other_point_beats() -> None:
    points = [point(0.9, 500), point(0.95, 600), point(0.99, 100), point(0.98, 90)]
    assert frontier(points, "qps_batch") == [(0.95, 600), (0.99, 100)]


def test_picture_shows_everybody_who_has_points_and_nothing_from_outside(tmp_path: Path) -> None:
    def row(title: str, points: list[dict[str, float]]) -> dict[str, Any]:
        last = points[-1] if points else {"qps_batch": None, "qps_single": None, "recall": None}
        tried = [{"points": points}] if points else [{"failure": "exceeded"}]
        return {"title": title, "tried": tried, "ann_recall@10": last["recall"], **last}

    result = {
        "ours": row("ours here", [point(0.95, 600), point(0.999, 300)]),
        "peers": {"a": row("a peer", [point(0.92, 100)]), "b": row("too slow", [])},
        "data": {"rows": 1000, "d": 128, "name": "identity"},
        "machine": {"cores": 2},
    }
    draw_curves(result, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert "a peer" in drawn  # matplotlib names its glyph groups after the text, in comments
    assert "too slow" not in drawn
    assert "<image" not in drawn


def test_drop_takes_a_mapped_file_out_of_memory_and_its_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(1 << 20))
    mapped = np.load(path, mmap_mode="r")
    total = int(mapped.sum())
    before = resident_bytes([path])
    drop([path])
    assert before >= path.stat().st_size // 2
    assert resident_bytes([path]) < before // 10
    assert int(mapped.sum()) == total


def test_identity_set_bounds_are_distances_to_images_of_the_same_identity(tmp_path: Path) -> None:
    data = identity_set(tmp_path / "data", 2_000, k=10)
    bound_Q = np.load(data.folder / "bounds.npy")
    assert data.n_queries == len(bound_Q) == 1_000
    assert 0.3 < np.median(bound_Q) < 1.2  # strangers are 2 apart


def test_row_of_a_device_that_is_not_there_says_why_not(tmp_path: Path) -> None:
    try:
        check_cuda()
    except WorkerError as exc:
        why = exc.message
    else:
        pytest.skip("there is a CUDA device")
    data = DataSet(name="none", folder=tmp_path, rows=1, d=1, n_queries=1)
    (tmp_path / "parts").mkdir()
    race = Race(
        data=data,
        cores=1,
        rounds=1,
        k=10,
        target=0.9,
        tuning_s=0.1,
        racing_s=0.1,
        limit_s=60,
        work=tmp_path,
    )
    runner = our_runner("ours_cuda", "bitsieve, flat, on a GPU")
    prepare_ours(race, runner, {"device": "cuda"}, with_curve=False)
    assert why in row(race, runner)["failure"]


def test_middle_stage_finds_more_neighbours_in_as_many_vectors(tmp_path: Path) -> None:
    vectors_ND = np.random.default_rng(0).standard_normal((3_000, 64))
    found = measure_middle(vectors_set("given", tmp_path / "data", vectors_ND, None, k=10), 10)
    assert [(row["bits"], row["read"]) for row in found[3:5]] == [(256, 200), (512, 20)]
    assert all(row["with_stage"] > row["recall"] + 0.01 for row in found[:3])
    assert 0.9 < found[3]["recall"] < found[7]["recall"] <= 1


def point(recall_: float, rate: float) -> dict[str, float]:
    return {"recall": recall_, "qps_batch": rate, "qps_single": rate}
