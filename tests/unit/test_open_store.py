"""Which places bitsieve opens, which it prepares, and which it leaves alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StoreMismatch, UsageError
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.open import open_existing_store, open_store
from pipeline.storage.probe import prepare_store
from pipeline.storage.s3 import S3Store


def test_uri_names_a_local_folder_or_an_s3_prefix(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path)), LocalStore)
    assert isinstance(open_store("relative/folder"), LocalStore)
    assert isinstance(open_store("s3://bucket/prefix"), S3Store)


@pytest.mark.parametrize(
    "uri", ["", "file:///tmp/x", "http://host/x", "gs://bucket", "s3:/bucket", "s3://", "s3:///p"]
)
def test_other_uri_is_refused_with_what_is_allowed(uri: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        open_store(uri)


def test_empty_store_is_probed_once_and_left_with_its_format_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "new")
    made = prepare_store(store)
    assert made.layout == layout.LAYOUT_VERSION
    assert made.probe.failures == []
    assert made.single_writer is False
    assert abs(made.probe.clock_skew_s) < 30
    assert [item.key for item in store.list_objects()] == [layout.FORMAT]
    assert prepare_store(store) == made


def test_many_that_prepare_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: prepare_store(LocalStore(tmp_path / "new")), range(4)))
    assert all(each == made[0] for each in made)


def test_folder_that_is_not_ours_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(StoreMismatch, match=r"not empty and not ours.*photo\.jpg") as caught:
        prepare_store(LocalStore(tmp_path))
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_newer_layout_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put(layout.FORMAT, b'{"layout": 99}')
    for call in (lambda: prepare_store(store), lambda: open_existing_store(str(tmp_path))):
        with pytest.raises(StoreMismatch, match="layout 99"):
            call()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"layout": 1}', b'{"layout": "x"}', b"\xff"])
def test_format_that_is_not_ours_is_refused(tmp_path: Path, text: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put(layout.FORMAT, text)
    with pytest.raises(StoreMismatch, match="not that of a bitsieve store"):
        prepare_store(store)


def test_reader_insists_on_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMismatch, match="no bitsieve store at"):
        open_existing_store(str(tmp_path / "none"))
    prepare_store(LocalStore(tmp_path / "made"))
    assert open_existing_store(str(tmp_path / "made")).get(layout.FORMAT)
