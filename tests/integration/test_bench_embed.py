"""``bitsieve bench embed --quick``: the shape of its result, and that every contender did the same work."""

import json
import os
from pathlib import Path

import pytest

from jobs.bench.peers_environment import find_or_make
from jobs.run import default_cache
from tests.support.command import Command

pytestmark = [pytest.mark.benchmark, pytest.mark.integration, pytest.mark.timeout(600)]


def test_bench_embed_quick_reports_ratios_of_everybody_who_ran(tmp_path: Path) -> None:
    usual = default_cache(os.environ)
    has_peers = find_or_make(usual, make=False).python is not None
    command = Command(usual if has_peers else tmp_path / "cache")
    result = command.json("bench", "embed", "--quick", "--json", "-o", tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["ratio_to_ceiling"] > 0
    assert result["machine"]["cores"] >= 1
    contenders = result["contenders"]
    assert set(contenders) == {"ours", "one_process", "a_process_per_core", "ray_data", "dataloader"}
    assert contenders["ours"]["memory"]["working_bytes"] > 0
    assert 0 <= contenders["ours"]["reports"][0]["outside_tasks"] < 1
    if not has_peers:
        pytest.skip("the peers' environment is not installed: run `bitsieve bench embed` once")
    for peer in ("ray_data", "dataloader"):
        assert contenders[peer]["failure"] == ""
        assert result[f"ratio_to_{peer}"] > 0
        agreement = result["agreement"][peer]
        assert (agreement["images"], agreement["only_ours"], agreement["only_theirs"]) == (400, 0, 0)
        assert agreement["cosine_min"] > 0.9999


def test_bench_embed_latency_without_a_service_says_so(tmp_path: Path) -> None:
    command = Command(tmp_path / "cache")
    result = command.json("bench", "embed", "--quick", "--set", "latency", "--json")
    assert "skipped" in result["latency"]
    assert result["ratio_to_ceiling"] is None


def test_bench_embed_growth_repeats_images_under_new_ids(tmp_path: Path) -> None:
    command = Command(tmp_path / "cache")
    result = command.json(
        "bench", "embed", "--quick", "--set", "latency", "--growth", "1,2", "--tars", 2, "--json"
    )
    one, two = result["growth"]
    assert two["images"] == 2 * one["images"]
    assert one["images_per_s"] > 0
    assert two["driver_bytes"] > 0
