"""A task is done when its receipt is there and its files are whole; the first receipt counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DataCorrupt, ObjectMissing
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.receipts import DataFile, Receipt, fetch, read_receipt, upload, write_receipt

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def finished(store: LocalStore, data: bytes = b"rows") -> Receipt:
    file = upload(store, "embeddings", KEY, ".parquet", data)
    return Receipt(
        stage="embed",
        key=KEY,
        files={"part": file},
        counts={"embedded": 3, "rejected": 1},
        facts={"d": [1.5, None]},
    )


def test_upload_gives_every_attempt_a_name_of_its_own(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"rows")
    from_bytes = upload(store, "embeddings", KEY, ".parquet", b"rows")
    from_file = upload(store, "embeddings", KEY, ".parquet", tmp_path / "rows")
    assert from_bytes.key != from_file.key
    assert replace(from_bytes, key="") == replace(from_file, key="")
    assert from_bytes.key.startswith(f"embeddings/ab/{KEY}-")
    assert from_bytes.key.endswith(".parquet")
    assert from_file.size_bytes == 4


def test_receipt_round_trips(store: LocalStore) -> None:
    receipt = finished(store)
    assert read_receipt(store, "embed", KEY) is None
    assert write_receipt(store, receipt) == receipt
    assert read_receipt(store, "embed", KEY) == receipt
    assert write_receipt(store, receipt) == receipt


def test_second_receipt_changes_nothing_and_learns_the_first(store: LocalStore) -> None:
    first, late = finished(store), finished(store)
    write_receipt(store, first)
    assert write_receipt(store, late) == first
    assert read_receipt(store, "embed", KEY) == first


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_receipt_whose_file_is_damaged_means_not_done_and_gives_way(store: LocalStore, damage: str) -> None:
    first = finished(store)
    write_receipt(store, first)
    if damage == "missing":
        store.delete(first.files["part"].key)
    else:
        store.put(first.files["part"].key, b"row")
    assert read_receipt(store, "embed", KEY) is None
    again = finished(store)
    assert write_receipt(store, again) == again
    assert read_receipt(store, "embed", KEY) == again


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '"x"', "{}", '{"stage":"embed"}',
        '{"stage":"embed","key":"K","files":{},"counts":{},"facts":{},"more":1}',
        '{"stage":"embed","key":"K","files":{},"counts":{"n":"1"},"facts":{}}',
        '{"stage":"embed","key":"K","files":{"a":{"key":1,"sha256":"","size_bytes":0}},"counts":{},"facts":{}}',
        '{"stage":"embed","key":"K","files":[],"counts":{},"facts":{}}',
        '{"stage":"other","key":"K","files":{},"counts":{},"facts":{}}',
        "[" * 100_000, "\ufeff{}",
    ],
)  # fmt: skip
def test_garbled_receipt_is_corrupt_and_named(store: LocalStore, text: str) -> None:
    store.put(layout.receipt("embed", KEY), text.replace('"K"', f'"{KEY}"').encode())
    with pytest.raises(DataCorrupt, match=f"receipts/embed/{KEY}.json"):
        read_receipt(store, "embed", KEY)


def test_fetch_from_a_local_store_is_the_stored_file(store: LocalStore, tmp_path: Path) -> None:
    file = upload(store, "index", KEY, ".npy", b"rows")
    path = fetch(store, file, tmp_path / "cache", verify=True)
    assert path == store.local_path(file.key)
    assert not (tmp_path / "cache").exists()


def test_fetch_of_a_missing_short_or_changed_file_names_it(store: LocalStore, tmp_path: Path) -> None:
    file = upload(store, "index", KEY, ".npy", b"rows")
    store.put(file.key, b"rowz")
    assert fetch(store, file, tmp_path) == store.local_path(file.key)
    with pytest.raises(DataCorrupt, match=file.key):
        fetch(store, file, tmp_path, verify=True)
    store.put(file.key, b"row")
    with pytest.raises(DataCorrupt, match="expected 4 bytes, got 3"):
        fetch(store, file, tmp_path)
    with pytest.raises(ObjectMissing):
        fetch(store, DataFile(key="index/none", sha256="0" * 64, size_bytes=1), tmp_path)
