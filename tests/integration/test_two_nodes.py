"""Catalog and store on S3, workers on two Ray nodes: the same rows and vectors as on one machine.

And on that cluster, what makes the bytes of a part: neither workers nor batches nor threads nor where it ran.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest

from pipeline.snapshot.open import OpenSnapshot
from pipeline.snapshot.publish import snapshot
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_store
from tests.support.catalogs import Face, grocery_photos, lfw_faces, write_tar
from tests.support.command import Command, events, named
from tests.support.processes import ray_processes
from tests.support.ray_nodes import ray_nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def on_s3(s3_endpoint: str) -> Iterator[str]:
    """This process and all it starts use the S3 service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        yield s3_endpoint


@pytest.fixture(scope="module")
def two_nodes(mark: str, on_s3: str, command: Command) -> Iterator[Command]:
    """``bitsieve`` in the environment of a cluster of two nodes with two CPUs each."""
    with ray_nodes(2, 2) as cluster:
        yield command.with_environment(**cluster.driver)


def _upload(bucket: str, endpoint: str, files: dict[str, bytes]) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
    name = bucket.removeprefix("s3://")
    with ThreadPoolExecutor(4) as threads:
        puts = [
            threads.submit(client.put_object, Bucket=name, Key=key, Body=data) for key, data in files.items()
        ]
        for put in puts:
            put.result()
    client.close()


def _opened(uri: str, cache: Path) -> OpenSnapshot:
    store = open_store(uri)
    return OpenSnapshot(store=store, manifest=snapshot(store, "main"), cache=cache)


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> dict[str, Path]:
    """About 600 photos of groceries: key and file."""
    return dict(grocery_photos(shared_data, every=5))


@pytest.fixture(scope="module")
def photos_on_s3(
    photos: dict[str, Path],
    two_nodes: Command,
    photo_model: Path,
    on_s3: str,
    make_bucket: Callable[[str], str],
) -> tuple[str, dict[str, Any]]:
    """A store on S3, made by two nodes from photos on S3; and what ``reindex`` said."""
    bucket = make_bucket(on_s3)
    _upload(bucket, on_s3, {f"photos/{key}": file.read_bytes() for key, file in photos.items()})
    store = f"{bucket}/store"
    said = two_nodes.json(
        "reindex", f"{bucket}/photos", "--store", store, "--model", photo_model, "--label", "@folder",
        "--set", "embed.shard_images=100",
    )  # fmt: skip
    return store, said


def test_photos_on_s3_become_a_published_snapshot_by_workers_on_two_nodes(
    photos: dict[str, Path], photos_on_s3: tuple[str, dict[str, Any]]
) -> None:
    store, said = photos_on_s3
    assert (said["published"], said["snapshot"]) == (True, 1)
    assert said["images"] == {
        "listed": len(photos), "embedded": len(photos), "reused": 0, "stale": 0, "rejected": 0,
        "set_aside": 0, "deleted": 0,
    }  # fmt: skip
    assert said["index"]["ann_recall@10"]["low"] >= 0.99 or said["index"]["method"] == "exact"
    done = named(events(open_store(store), said["run"]), "task_succeeded")
    assert len({event["worker"].partition(":")[0] for event in done if event["stage"] == "embed"}) == 2


def test_photos_on_s3_have_the_rows_and_vectors_of_the_same_photos_in_a_folder(
    photos: dict[str, Path],
    photos_on_s3: tuple[str, dict[str, Any]],
    two_nodes: Command,
    photo_model: Path,
    tmp_path: Path,
) -> None:
    for key, file in photos.items():
        (tmp_path / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, tmp_path / "photos" / key)
    two_nodes.json("reindex", tmp_path / "photos", "--store", tmp_path / "store", "--model", photo_model)
    far = _opened(photos_on_s3[0], tmp_path / "cache")
    near = _opened(str(tmp_path / "store"), tmp_path / "cache")
    vectors = [dict(zip(one.live["image_id"].to_pylist(), one.vectors, strict=True)) for one in (far, near)]
    assert vectors[0].keys() == vectors[1].keys() == photos.keys()
    assert all(np.array_equal(vectors[0][key], vectors[1][key]) for key in photos)


def test_search_reads_a_store_on_s3_through_a_cache_that_it_needs_no_second_time(
    photos: dict[str, Path], photos_on_s3: tuple[str, dict[str, Any]], command: Command, tmp_path: Path
) -> None:
    here = Command(tmp_path / "cache", command.more)
    key, query = next(iter(photos.items()))
    found = [here.json("search", query, "--store", photos_on_s3[0], "-k", 3) for _ in range(2)]
    assert found[0] == found[1]
    best = found[0]["results"][0]["matches"][0]
    assert (best["id"], best["label"]) == (key, os.path.dirname(key))
    assert best["distance"] == pytest.approx(0, abs=1e-6)
    cached = {
        path.name: path.stat().st_ino for path in (tmp_path / "cache").iterdir()
    }  # a use is noted by its time
    here.json("search", query, "--store", photos_on_s3[0], "-k", 3)
    assert {path.name: path.stat().st_ino for path in (tmp_path / "cache").iterdir()} == cached


def test_tars_on_s3_give_the_snapshot_of_the_same_tars_in_a_folder_byte_for_byte(
    shared_data: Path,
    two_nodes: Command,
    face_model: Path,
    on_s3: str,
    make_bucket: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """A tar's versions are digests of its images: the same tars give the same snapshot from any place."""
    bucket = make_bucket(on_s3)
    faces = lfw_faces(shared_data, 600)
    for number in range(2):
        write_tar(tmp_path / "faces" / f"{number}.tar", faces[number * 300 : number * 300 + 300])
    _upload(bucket, on_s3, {f"faces/{tar.name}": tar.read_bytes() for tar in (tmp_path / "faces").iterdir()})
    places = [(f"{bucket}/faces", f"{bucket}/store"), (tmp_path / "faces", tmp_path / "store")]
    made = []
    for source, store in places:
        two_nodes.json("reindex", source, "--store", store, "--model", face_model, "--label", "identity")
        made.append(snapshot(open_store(str(store)), "main"))
    far, near = made
    assert far.content.live_rows == near.content.live_rows == 600
    assert far.digest == near.digest


@pytest.fixture(scope="module")
def odd_tars(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small tars of faces with a torn one, an empty one, and one that is there under two names."""
    folder = tmp_path_factory.mktemp("odd") / "tars"
    faces = lfw_faces(shared_data, 120)
    torn = Face(name="torn", identity="nobody", jpeg=faces[3].jpeg[:900])
    empty = Face(name="empty", identity="nobody", jpeg=b"")
    twin = Face(name="twin", identity=faces[5].identity, jpeg=faces[5].jpeg)
    write_tar(folder / "0.tar", [*faces[:40], torn])
    write_tar(folder / "1.tar", [empty, *faces[40:80], twin])
    write_tar(folder / "2.tar", [*faces[80:], twin])
    return folder


def _digests(command: Command, odd_tars: Path, store: Path, model: Path, *how: object) -> tuple[Any, ...]:
    said = command.json(
        "reindex", odd_tars, "--store", store, "--model", model, "--set", "embed.shard_images=30", *how
    )
    assert said["images"]["rejected"] == 3
    assert said["images"]["embedded"] == 121
    content = snapshot(LocalStore(str(store)), "main").content
    files = [(part.key, part.embeddings, part.rejects) for part in content.parts]
    parts = [(key, rows and rows.sha256, rejects and rejects.sha256) for key, rows, rejects in files]
    assert len(parts) >= 4
    return said["digest"], parts


@pytest.fixture(scope="module")
def plain_digests(
    command: Command, odd_tars: Path, face_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ...]:
    """Digests of the odd tars, made by one worker, one image at a time, in a Ray of its own."""
    store = tmp_path_factory.mktemp("plain") / "store"
    return _digests(command, odd_tars, store, face_model, "--workers", 1, "--batch-size", 1)


@pytest.mark.parametrize(("workers", "batch_size", "threads"), [(2, 7, 1), (3, 64, 1), (1, 64, 2)])
def test_workers_batches_threads_and_place_change_no_byte(
    workers: int,
    batch_size: int,
    threads: int,
    two_nodes: Command,
    plain_digests: tuple[Any, ...],
    odd_tars: Path,
    face_model: Path,
    tmp_path: Path,
) -> None:
    how = ("--workers", workers, "--batch-size", batch_size, "--set", f"embed.threads={threads}")
    assert _digests(two_nodes, odd_tars, tmp_path / "store", face_model, *how) == plain_digests


def test_a_run_that_joined_a_cluster_leaves_it_running(two_nodes: Command, mark: str) -> None:
    assert sum(" raylet" in process or "/raylet" in process for process in ray_processes(mark)) == 2
