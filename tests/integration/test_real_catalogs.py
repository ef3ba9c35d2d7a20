"""The whole of LFW and of the grocery photos: the figures of a bare loop, and the recall asked for."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Command, events, named

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def faces(
    command: Command, shared_data: Path, face_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """All 13,233 faces: the store, and what ``reindex`` said."""
    store = tmp_path_factory.mktemp("lfw") / "store"
    source = shared_data / "lfw-aligned112"
    how = ("--store", store, "--model", face_model, "--label", "identity")
    return store, command.json("reindex", source, *how)


@pytest.fixture(scope="module")
def photos(
    command: Command, shared_data: Path, photo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The 2,640 photos of groceries of the train split: the store, and what ``reindex`` said."""
    store = tmp_path_factory.mktemp("grocery") / "store"
    source = shared_data / "grocery" / "train"
    how = ("--store", store, "--model", photo_model, "--label", "@folder")
    return store, command.json("reindex", source, *how)


def test_all_faces_are_indexed_and_the_recall_asked_for_is_met(faces: tuple[Path, dict[str, Any]]) -> None:
    _, said = faces
    counts = [said["images"][name] for name in ("listed", "embedded", "rejected")]
    assert counts == [13233, 13233, 0]
    assert said["index"]["method"] == "hamming"
    assert said["index"]["ann_recall@10"]["low"] >= 0.99
    assert said["published"]


def test_faces_are_told_apart_as_well_as_by_a_bare_loop(
    command: Command, faces: tuple[Path, dict[str, Any]]
) -> None:
    report = command.json("evaluate", "retrieval", "--store", faces[0])
    assert report["n_queries"] == 9164
    assert report["metrics"]["success@1"]["macro"] == pytest.approx(0.990, abs=0.003)
    assert report["metrics"]["map"]["macro"] == pytest.approx(0.983, abs=0.003)


def test_faces_are_verified_by_the_lists_of_view_1_and_by_all_pairs(
    command: Command, shared_data: Path, faces: tuple[Path, dict[str, Any]]
) -> None:
    lists = shared_data / "lfw-lists"
    listed = command.json(
        "evaluate", "verification", "--store", faces[0], "--pairs", lists / "pairsDevTest.txt"
    )
    assert (listed["n_pairs"], listed["n_missing"]) == (1000, 0)
    assert listed["accuracy"]["mean"] == pytest.approx(0.992, abs=0.003)
    assert listed["val_at_far"]["0.001"]["val"] is None  # 500 different pairs cannot say
    every = command.json("evaluate", "verification", "--store", faces[0])
    assert every["n_pairs"] == 13233 * 13232 // 2
    assert every["val_at_far"]["0.001"]["val"] == pytest.approx(0.9966, abs=0.001)
    assert every["val_at_far"]["0.001"]["low"] < every["val_at_far"]["0.001"]["val"]


def test_all_photos_are_indexed_and_the_recall_asked_for_is_met(photos: tuple[Path, dict[str, Any]]) -> None:
    _, said = photos
    assert (said["images"]["listed"], said["images"]["embedded"]) == (2640, 2640)
    assert said["index"]["ann_recall@10"]["low"] >= 0.99
    assert said["published"]


def test_photos_find_their_product_far_more_often_than_chance(
    command: Command, photos: tuple[Path, dict[str, Any]]
) -> None:
    report = command.json("evaluate", "retrieval", "--store", photos[0])
    assert report["n_queries"] == 2640
    assert report["metrics"]["success@1"]["macro"] == pytest.approx(0.954, abs=0.01)


def test_a_second_night_without_change_starts_no_ray_and_publishes_nothing(
    command: Command, shared_data: Path, face_model: Path, faces: tuple[Path, dict[str, Any]]
) -> None:
    store, first = faces
    said = command.json("reindex", shared_data / "lfw-aligned112", "--store", store, "--label", "identity")
    assert (said["published"], said["snapshot"], said["digest"]) == (False, 1, first["digest"])
    assert (said["images"]["embedded"], said["images"]["reused"]) == (0, 13233)
    assert said["bytes"]["read"] == 0
    happened = events(store, said["run"])
    assert [event["ray_started"] for event in named(happened, "run_ended")] == [False]
    assert [event["ray_started"] for event in named(events(store, first["run"]), "run_ended")] == [True]


def test_search_finds_first_what_exact_search_finds_first(
    command: Command, shared_data: Path, photos: tuple[Path, dict[str, Any]]
) -> None:
    queries = sorted((shared_data / "grocery" / "val").rglob("*.jpg"))[::8]
    assert len(queries) >= 30
    found = command.json("search", *queries, "--store", photos[0], "-k", 5)
    exact = command.json("search", *queries, "--store", photos[0], "-k", 5, "--exact")
    assert (found["method"], exact["method"]) == ("hamming", "exact")
    pairs = list(zip(found["results"], exact["results"], strict=True))
    assert [one["query"] for one, _ in pairs] == [str(query) for query in queries]
    agree = [one["matches"][0] == other["matches"][0] for one, other in pairs]
    assert sum(agree) >= len(agree) - 1  # one in a hundred true neighbours may be missed
