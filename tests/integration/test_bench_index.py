"""``bitsieve bench index --quick``: the shape of its result, and that everybody answered the same queries."""

import json
from pathlib import Path

import pytest

from tests.support.command import Command

pytestmark = [pytest.mark.benchmark, pytest.mark.integration, pytest.mark.timeout(300)]


def test_bench_index_quick_compares_ours_with_the_peers_that_need_no_installing(tmp_path: Path) -> None:
    command = Command(tmp_path / "cache")
    wanted = ("--quick", "--json", "--rows", 5_000, "--peers", "hnsw32,annoy")
    result = command.json(
        "bench", "index", *wanted, "-o", tmp_path / "result.json", "--svg", tmp_path / "curves.svg"
    )
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "curves.svg").stat().st_size > 1_000
    assert set(result["peers"]) == {"hnsw32", "annoy"}
    assert result["peers"]["annoy"]["qps_batch"] is None
    assert "not installed" in result["peers"]["annoy"]["failure"]
    for row in (result["ours"], result["best_peer"], result["peers"]["hnsw32"]):
        assert row["failure"] == ""
        assert row["ann_recall@10"] > 0.95
        assert min(row[name] for name in ("build_s", "qps_batch", "qps_single", "hot_bytes")) > 0
    assert result["ours"]["build_and_calibrate_s"] >= result["ours"]["build_s"]
    assert result["best_peer"]["name"] == "hnsw32"
    assert result["ours"]["dropped"]["qps_batch"] > 0  # its second stage is a file of its own
    assert result["peers"]["hnsw32"]["dropped"] is None
