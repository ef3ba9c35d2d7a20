"""Manifests: what is saved is loaded, the digest covers the content only, damage is noticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataCorrupt, ObjectMissing, StoreMismatch
from pipeline.snapshot.manifest import Content, DeadRowsRef, Manifest, load, save
from pipeline.storage.local import LocalStore
from tests.support.manifests import content, data_file, index_shard, manifest, part

KEY = "collections/main/snapshots/x.json"


def stored(store: LocalStore, value: Manifest) -> bytes:
    data = save(store, value)
    store.put(KEY, data)
    return data


def test_manifest_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    value = manifest(content("a", "b"), parent=4, sequence=5)
    stored(store, value)
    assert load(store, KEY) == value
    assert save(store, load(store, KEY)) == save(store, value)


@pytest.mark.parametrize("n_parts", [500, 501, 1203])
def test_manifest_of_many_parts_stays_small_and_loads(n_parts: int, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    value = manifest(content(*(f"part {n}" for n in range(n_parts))))
    data = stored(store, value)
    assert load(store, KEY) == value
    lists = [item.key for item in store.list_objects("lists/")]
    assert len(lists) == (0 if n_parts <= 500 else 2)
    assert (len(data) < 20_000) == (n_parts > 500)
    stored(store, value)
    assert [item.key for item in store.list_objects("lists/")] == lists


def test_manifest_whose_list_is_gone_is_missing_not_empty(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    stored(store, manifest(content(*(f"part {n}" for n in range(501)))))
    for item in list(store.list_objects("lists/")):
        store.delete(item.key)
    with pytest.raises(ObjectMissing):
        load(store, KEY)


def test_digest_ignores_file_names_attempts_times_and_who(tmp_path: Path) -> None:
    one = content("a", "b", attempt="1")
    other = content("a", "b", attempt="2", parts=[part("a", since=7, attempt="3"), part("b", attempt="2")])
    assert one.digest() == other.digest()
    assert one != other


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": [part("a"), part("c")]},
        {"parts": [part("b"), part("a")]},
        {"parts": [part("a"), part("b", rejects=True)]},
        {"index_shards": [index_shard("a")]},
        {"dead_rows": [DeadRowsRef(part="a", dead=1, file=data_file("bitmap"))]},
        {"live_rows": 5},
        {"rejected": {"empty": 1}},
        {"settings": {"bits": 64, "recall": 0.99}},
        {"calibration": {"other": 1}},
        {"model": content().model.model_copy(update={"id": "n" * 64})},
        {"encoder": content().encoder.model_copy(update={"digest": "f" * 64})},
    ],
)
def test_digest_sees_every_part_of_the_content(changes: dict[str, Any]) -> None:
    assert content("a", "b", **changes).digest() != content("a", "b").digest()


def _live_rows(document: dict[str, Any]) -> None:
    document["content"]["live_rows"] += 1


def _sha(document: dict[str, Any]) -> None:
    document["content"]["parts"][0]["embeddings"]["sha256"] = "0" * 64


def _drop_part(document: dict[str, Any]) -> None:
    document["content"]["parts"].pop()


def _digest(document: dict[str, Any]) -> None:
    document["digest"] = "0" * 64


def _unknown_field(document: dict[str, Any]) -> None:
    document["surprise"] = 1


def _missing_field(document: dict[str, Any]) -> None:
    del document["coverage"]


def _parts_of_text(document: dict[str, Any]) -> None:
    document["content"]["parts"] = "many"


def _no_content(document: dict[str, Any]) -> None:
    document["content"] = None


@pytest.mark.parametrize(
    "tamper",
    [_live_rows, _sha, _drop_part, _digest, _unknown_field, _missing_field, _parts_of_text, _no_content],
)
def test_manifest_tampered_with_is_corrupt(tamper: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    document = json.loads(save(store, manifest(content("a", "b"))))
    tamper(document)
    store.put(KEY, json.dumps(document).encode())
    with pytest.raises(DataCorrupt, match=KEY):
        load(store, KEY)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'"text"', b"[" * 100_000])
def test_manifest_that_is_none_is_corrupt(data: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put(KEY, data)
    with pytest.raises(DataCorrupt, match=KEY):
        load(store, KEY)


def test_many_faults_of_a_manifest_are_one_line(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    document = json.loads(save(store, manifest(content(*"abcdef"))))
    del document["seal"]
    for one in document["content"]["parts"]:
        del one["config"]
    store.put(KEY, json.dumps(document).encode())
    with pytest.raises(DataCorrupt, match=r"content\.parts\.0\.config: Field required, and 5 more"):
        load(store, KEY)


def test_manifest_list_that_is_none_is_corrupt(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    stored(store, manifest(content(*(f"part {n}" for n in range(501)))))
    for item in list(store.list_objects("lists/")):
        store.put(item.key, b"{}")
    with pytest.raises(DataCorrupt):
        load(store, KEY)


def test_manifest_of_a_newer_layout_asks_for_an_upgrade(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    document = {**json.loads(save(store, manifest(content("a")))), "layout": 2, "news": True}
    store.put(KEY, json.dumps(document).encode())
    with pytest.raises(StoreMismatch, match="layout 2") as caught:
        load(store, KEY)
    assert "upgrade" in caught.value.fix


def test_manifest_absent_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        load(LocalStore(tmp_path), KEY)


def test_content_gives_back_its_operating_point() -> None:
    body: Content = content("a")
    assert body.operating_point().to_json() == body.calibration
    assert body.operating_point().method == "exact"


@pytest.mark.parametrize("field", ["created", "coverage", "run_id", "seal"])
def test_manifest_whose_field_was_changed_by_hand_is_refused(tmp_path: Path, field: str) -> None:
    store = LocalStore(tmp_path)
    data = save(store, manifest(content("a")))
    at = data.index(f'"{field}"'.encode()) + len(field) + 6
    store.put(KEY, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(DataCorrupt, match="not a readable manifest"):
        load(store, KEY)
