"""What only a local folder can get wrong: links, other writers' half-written files, full disks, odd names."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pipeline.errors import AccessDenied, ObjectMissing, SourceError, StorageError
from pipeline.storage.local import TEMPORARY, LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root")


def keys(store: LocalStore) -> list[str]:
    return [item.key for item in store.list_objects()]


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    assert list(store.list_objects()) == []
    assert store.stat("k") is None
    assert not (tmp_path / "root").exists()


def test_read_only_folder_is_readable_and_writing_is_denied(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "k").write_bytes(b"data")
    tmp_path.chmod(0o500)
    assert LocalStore(tmp_path).get("k") == b"data"
    with pytest.raises(AccessDenied):
        LocalStore(tmp_path).put("new", b"")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "..", "../x", "a/../b", "a/./b", "a//b", "a/", ".", "a\0"]
)
def test_key_that_is_no_path_below_the_root_is_refused(store: LocalStore, key: str) -> None:
    for call in (store.get, store.stat, store.delete, store.local_path, lambda key: store.put(key, b"")):
        with pytest.raises(SourceError, match="is not a key"):
            call(key)


def test_key_in_the_folder_of_half_written_files_is_refused(store: LocalStore) -> None:
    with pytest.raises(SourceError, match="half-written"):
        store.put(f"{TEMPORARY}/k", b"")


def test_link_that_leads_outside_is_refused_by_name(tmp_path: Path, store: LocalStore) -> None:
    store.put("inside", b"")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root" / "file-link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "folder-link").symlink_to(tmp_path)
    for call in (
        lambda: store.get("file-link"),
        lambda: store.get("folder-link/secret"),
        lambda: keys(store),
    ):
        with pytest.raises(SourceError, match="leads outside"):
            call()
    with pytest.raises(SourceError, match="leads outside"):
        store.put("folder-link/new", b"")
    assert not (tmp_path / "new").exists()


def test_link_that_stays_inside_is_followed(tmp_path: Path, store: LocalStore) -> None:
    store.put("folder/k", b"data")
    (tmp_path / "root" / "alias").symlink_to("folder")
    (tmp_path / "root" / "alias-of-k").symlink_to("folder/k")
    assert keys(store) == ["alias-of-k", "alias/k", "folder/k"]
    assert store.get("alias/k") == store.get("alias-of-k") == b"data"


def test_link_in_a_circle_is_refused(tmp_path: Path, store: LocalStore) -> None:
    store.put("folder/k", b"")
    (tmp_path / "root" / "folder" / "up").symlink_to("..")
    with pytest.raises(SourceError, match="folder above it"):
        keys(store)


def test_what_holds_no_bytes_is_logged_and_not_listed(
    tmp_path: Path, store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("k", b"")
    (tmp_path / "root" / "nowhere").symlink_to("missing")
    os.mkfifo(tmp_path / "root" / "fifo")
    with caplog.at_level(logging.WARNING):
        assert keys(store) == ["k"]
    assert len(caplog.records) == 2


def test_name_that_is_not_utf8_round_trips_in_byte_order(tmp_path: Path) -> None:
    for name in [b"\xff", b"\xc3\xa9", b"a\xe9", b"z"]:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    store = LocalStore(tmp_path)
    assert [os.fsencode(key) for key in keys(store)] == [b"a\xe9", b"z", b"\xc3\xa9", b"\xff"]
    assert all(store.get(key) == os.fsencode(key) for key in keys(store))


def test_file_where_a_folder_is_needed_is_missing_not_a_crash(store: LocalStore) -> None:
    store.put("k", b"")
    assert store.stat("k/below") is None
    with pytest.raises(ObjectMissing):
        store.get("k/below")
    with pytest.raises(StorageError):
        store.put("k/below", b"")


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="not a folder"):
        list(LocalStore(tmp_path / "file").list_objects())


def test_relative_root_means_the_same_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("root")
    store.put("k", b"data")
    monkeypatch.chdir("/")
    assert store.get("k") == b"data"
    assert store.uri == "root"


@pytest.mark.fault
def test_killed_writer_leaves_nothing_visible(tmp_path: Path, store: LocalStore) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = "import sys, pathlib; from pipeline.storage.local import LocalStore as S; "
    program += "S(sys.argv[1]).put_file('k', pathlib.Path(sys.argv[2]))"
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "root"), str(pipe)])
    with pipe.open("wb") as source:  # opens once the writer reads
        source.write(bytes(4 << 20))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert len(list((tmp_path / "root" / TEMPORARY).iterdir())) == 1
    assert keys(store) == []
    assert store.create("k", b"whole") is True
    assert keys(store) == ["k"]


def _race(root: Path, number: int, barrier: Barrier, results: "multiprocessing.Queue[list[bool]]") -> None:
    store = LocalStore(root)
    won = []
    for round_number in range(60):
        barrier.wait()
        won.append(store.create(f"race/{round_number}", b"%d" % number))
    results.put(won if number == 0 else [not result for result in won])


@pytest.mark.fault
def test_two_processes_that_race_have_one_winner_each_round(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    racers = [spawn.Process(target=_race, args=(tmp_path, number, barrier, results)) for number in range(2)]
    for racer in racers:
        racer.start()
    first, second = results.get(timeout=50), results.get(timeout=50)
    for racer in racers:
        racer.join()
    assert first == second
    bodies = [LocalStore(tmp_path).get(f"race/{number}") for number in range(60)]
    assert len(bodies) == 60
    assert sorted(os.listdir(tmp_path / TEMPORARY)) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault
def test_full_disk_is_named_and_nothing_half_written_is_visible(tiny_disk: Path, tmp_path: Path) -> None:
    store = LocalStore(tiny_disk)
    store.put("small", b"data")
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    for write in (
        lambda: store.put("k", bytes(2 << 20)),
        lambda: store.create("k", bytes(2 << 20)),
        lambda: store.put_file("k", tmp_path / "big"),
    ):
        with pytest.raises(StorageError, match=r"no space left(.|\n)*fix: free some space"):
            write()
    assert keys(store) == ["small"]
    store.put("k", b"fits")
