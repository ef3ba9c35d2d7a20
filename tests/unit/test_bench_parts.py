"""The parts of ``bench embed`` that can be right or wrong without measuring anything."""

import json
import os
import socket
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.agreement import compare_vectors
from jobs.bench.contender import Contender, Outcome, run
from jobs.bench.delay import DelayProxy
from jobs.bench.goals import GOALS, judged
from jobs.bench.growth import changes
from jobs.bench.image_sets import demo_set, prepare_model, repeated_set, source_set
from jobs.bench.memory import ProcessMemory, peak, sample
from jobs.bench.timed_pool import StageTimes
from jobs.bench.where import where_time_goes
from pipeline.errors import SourceError


def test_sample_of_this_process_counts_what_it_holds() -> None:
    before = sample(os.getpid())[os.getpid()].pss_bytes
    held = np.ones(64 << 20, dtype=np.uint8)
    after = sample(os.getpid())[os.getpid()].pss_bytes
    assert after - before >= 60 << 20
    assert held.sum() == 64 << 20


def test_peak_keeps_a_daemons_shared_memory_and_drops_the_rest_of_it() -> None:
    raylet = ProcessMemory(pss_bytes=500, shared_bytes=200, is_daemon=True)
    actor = ProcessMemory(pss_bytes=90, shared_bytes=20, is_daemon=False)
    found = peak([{1: actor, 2: raylet}], root=1, idle={1: 70})
    assert (found.working_bytes, found.total_bytes) == (220, 590)


def test_delay_proxy_passes_everything_on_later() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        connection, _ = server.accept()
        with connection:
            while block := connection.recv(1 << 16):
                connection.sendall(block)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    message = os.urandom(300_000)
    with DelayProxy(f"http://127.0.0.1:{server.getsockname()[1]}", 0.05) as proxy:
        with socket.create_connection(("127.0.0.1", int(proxy.endpoint.rpartition(":")[2]))) as client:
            started = time.monotonic()
            client.sendall(message)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while block := client.recv(1 << 16):
                answer += block
        waited_s = time.monotonic() - started
    thread.join()
    server.close()
    assert answer == message
    assert waited_s >= 0.05


def test_repeated_set_has_new_ids_and_new_bytes_that_decode_alike(tmp_path: Path) -> None:
    images = demo_set(tmp_path / "shop", n_products=2, views=1)
    twice = repeated_set(images, 2, tmp_path / "twice")
    assert twice.n_images == 2 * images.n_images
    contents: dict[str, bytes] = {}
    for path in twice.tars:
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                contents[info.name] = file.read()
    one, other = contents["p0000_v00_copy000.jpg"], contents["p0000_v00_copy001.jpg"]
    assert one != other
    assert one[:-10] == other[:-10]


def test_source_set_without_tars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no tars"):
        source_set(str(tmp_path), tmp_path / "copies")


def test_first_tars_of_a_set_narrow_what_ours_reads(tmp_path: Path) -> None:
    images = demo_set(tmp_path, n_products=4, views=2)
    part = images.first(3)
    assert part.read["include"] == [tar.name for tar in images.tars[:3]]
    assert part.n_images < images.n_images


def test_contender_that_fails_says_why(tmp_path: Path) -> None:
    outcome = run(Contender(name="ceiling", module="jobs.bench.peers.ceiling", settings={}), tmp_path)
    assert outcome.images_per_s is None
    assert "tars" in outcome.failure
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("processes", "streams"), [(2, 1), (1, 2)])
def test_ceiling_counts_every_image_of_the_tars(tmp_path: Path, processes: int, streams: int) -> None:
    images = demo_set(tmp_path / "shop", n_products=4, views=2)
    model = prepare_model("builtin", tmp_path)
    settings = {
        **model.for_peers(),
        "tars": [str(tar) for tar in images.tars],
        "processes": processes,
        "streams": streams,
        "intra": 1,
        "batch": 4,
    }
    outcome = run(Contender(name="ceiling", module="jobs.bench.peers.ceiling", settings=settings), tmp_path)
    assert outcome.failure == ""
    assert outcome.n_images == images.n_images


def test_compare_vectors_counts_what_only_one_side_has(tmp_path: Path) -> None:
    def write(path: Path, ids: list[str], vectors_ND: list[list[float]]) -> None:
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"image_id": ids, "embedding": vectors_ND}), path)

    write(tmp_path / "ours" / "store" / "embeddings" / "x" / "a.parquet", ["a", "b"], [[1, 0], [0, 1]])
    write(tmp_path / "peer" / "a.parquet", ["b", "c"], [[0, 2], [1, 1]])
    found = compare_vectors(tmp_path, "ours", ("peer", "nobody"))
    assert found["nobody"] is None
    assert json.loads(json.dumps(found["peer"])) == {
        "images": 1,
        "only_ours": 1,
        "only_theirs": 1,
        "cosine_min": 1.0,
        "cosine_mean": 1.0,
    }


def test_a_goal_is_judged_by_its_own_side_and_by_where_the_images_lie() -> None:
    result = {
        "images": {"on_s3": True},
        "ratio_to_ceiling": 0.86,
        "memory_ratio_to_ray_data": 0.3,
        "latency": {"skipped": "no place"},
        "crash": {"units_done_twice": 1, "images_lost": 1},
    }
    assert [(one["name"], one["met"]) for one in judged(result)] == [
        ("ceiling_s3", True),
        ("memory", False),
        ("crash_units_done_twice", True),
        ("crash_images_lost", False),
    ]
    assert len({goal.name for goal in GOALS}) == len(GOALS)


def test_growth_without_a_figure_for_one_size_has_no_verdict() -> None:
    rows = [
        {"images_per_s": 100.0, "working_bytes": 50, "driver_bytes": 20},
        {"images_per_s": 120.0, "working_bytes": None, "driver_bytes": 25},
    ]
    assert changes(rows) == {"images_per_s_change": 0.2, "peak_change": None, "driver_change": 0.25}


def test_where_time_goes_adds_up_to_all_cores() -> None:
    report = {
        "embed_seconds": {"wall": 9.0, "infer": 6.0, "decode": 2.0},
        "cpu_s": {"workers": 7.0, "driver": 0.5, "ray": 0.5},
    }
    ours = Outcome(n_images=1000, seconds=5.0, wall_s=8.0, report=report)
    bare = Outcome(n_images=1000, seconds=4.0, wall_s=5.0, report={"cpu_ms_per_image": 7.5})
    found = where_time_goes([ours], [[bare]], cores=2)
    assert found is not None
    assert found["clock_ms"] == {
        "whole": 10.0, "infer": 6.0, "decode": 2.0, "rest_of_tasks": 1.0, "outside_tasks": 1.0
    }  # fmt: skip
    assert found["processor_ms"] == {"workers": 7.0, "driver": 0.5, "ray": 0.5, "idle": 2.0}
    assert found["ceiling"] == {"clock_ms": 8.0, "processor_ms": 7.5}


def test_a_task_handed_out_again_is_counted_with_its_images() -> None:
    times = StageTimes(called_s=0.0, handed_out=[(0, 60), (1, 70), (0, 60), (2, 5), (0, 60)])
    assert times.begun_again() == [60, 60]
