"""``bitsieve bench embed --quick``: the shape of its result, and that every contender did the same work."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.bench.image_sets import demo_set
from jobs.bench.peers_environment import find_or_make
from jobs.run import default_cache
from pipeline.storage.s3 import S3Store
from tests.support.ceph import CephCluster
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
    one, two = result["growth"]["sizes"]
    assert two["images"] == 2 * one["images"]
    assert one["images_per_s"] > 0
    assert two["driver_bytes"] > 0
    goals = {goal["name"]: goal for goal in result["goals"]}
    assert {"growth_speed", "growth_peak", "growth_driver"} <= set(goals)
    assert goals["growth_peak"]["value"] == result["growth"]["peak_change"]


def test_bench_embed_crash_does_one_unit_twice_and_loses_nothing(tmp_path: Path) -> None:
    command = Command(tmp_path / "cache")
    result = command.json("bench", "embed", "--quick", "--set", "crash", "--json")["crash"]
    assert (result["killed"], result["units_done_twice"], result["images_lost"]) == (1, 1, 0)
    assert 0 < result["images_done_twice"] < result["images"]
    assert result["same_snapshot"] is True


def test_bench_embed_from_ceph_measures_the_ceiling_on_a_copy_here(
    ceph: CephCluster, make_bucket: Callable[[str], str], tmp_path: Path
) -> None:
    demo = demo_set(tmp_path / "shop", n_products=6, views=3)
    place = make_bucket(ceph.endpoints[0])
    command = Command(tmp_path / "cache", {"AWS_ENDPOINT_URL": ceph.endpoints[0]})
    store = S3Store(f"{place}/shop", endpoint_url=ceph.endpoints[0])
    for tar in demo.tars:
        store.put_file(tar.name, tar)
    result = command.json(
        "bench", "embed", "--quick", "--images", f"{place}/shop", "--s3", f"{place}/scratch", "--no-peers",
        "--set", "source", "--set", "small-objects", "--objects", 40,
    )  # fmt: skip
    assert result["images"]["on_s3"] is True
    assert result["images"]["count"] == demo.n_images
    assert [goal["name"] for goal in result["goals"]][:1] == ["ceiling_s3"]
    assert result["small_objects"]["uploaded"] == 40
    assert all(rate > 0 for rate in result["small_objects"]["requests_per_s"].values())
