"""A file read by ranges: the same bytes as the object, in bounded memory, several ranges under way."""

import io
import random
import tarfile
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataCorrupt, ObjectMissing, StorageError
from pipeline.storage.local import LocalStore
from pipeline.storage.ranged import RangedFile
from tests.support.tiny_catalogs import jpeg, tar_of, write_parquet, write_tar

KIB = 1 << 10
DATA = random.Random(3).randbytes(3_000_000)


class CountingStore(LocalStore):
    """Notes the ranges that are asked for; the first two wait for each other if they are to ``meet``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[int, int]] = []
        self.meet = False
        self._meeting = threading.Barrier(2)
        self._lock = threading.Lock()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._lock:
            self.ranges.append((start, length))
            meets = self.meet and len(self.ranges) <= 2
        if meets:
            self._meeting.wait(20)
        return super().get_range(key, start, length)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    (tmp_path / "o").write_bytes(DATA)
    return CountingStore(tmp_path)


def open_file(store: LocalStore, budget_bytes: int = 512 * KIB) -> RangedFile:
    return RangedFile(store, "o", len(DATA), budget_bytes)


@pytest.mark.parametrize("budget_bytes", [0, 300 * KIB, 1 << 30])
def test_reads_anywhere_give_the_bytes_of_the_object(store: CountingStore, budget_bytes: int) -> None:
    rng = random.Random(4)
    real = io.BytesIO(DATA)
    with open_file(store, budget_bytes) as file:
        for _ in range(300):
            if rng.random() < 0.4:
                offset, whence = rng.choice([(rng.randrange(len(DATA) + 99), 0), (-rng.randrange(999), 2)])
                assert file.seek(offset, whence) == real.seek(offset, whence)
            size = rng.choice([0, 1, 512, rng.randrange(400_000)])
            assert file.read(size) == real.read(size)
            assert file.tell() == real.tell()
        file.seek(5)
        assert file.read() == DATA[5:]


def test_reading_forward_asks_for_every_byte_once_and_ahead(store: CountingStore) -> None:
    with open_file(store) as file:
        assert b"".join(iter(lambda: file.read(10_000), b"")) == DATA
    assert sum(length for _, length in store.ranges) == len(DATA)
    assert len(set(store.ranges)) == len(store.ranges)


def test_ranges_are_under_way_at_once_and_no_more_than_the_budget_holds(store: CountingStore) -> None:
    store.meet = True
    with open_file(store) as file:
        assert file.read(200 * KIB) == DATA[: 200 * KIB]
    assert 200 * KIB < sum(length for _, length in store.ranges) <= 512 * KIB


def test_jump_reads_one_block_and_expected_ranges_alone_are_read_ahead(store: CountingStore) -> None:
    with open_file(store) as file:
        file.seek(1_000_000)
        file.read(10)
        assert len(store.ranges) == 1
        file.expect([(0, 10), (2_000_000, 2_000_001)])
        file.seek(0)
        file.read(10)
    blocks = {start // (64 * KIB) for start, _ in store.ranges}
    assert blocks <= {1_000_000 // (64 * KIB), 0, 2_000_000 // (64 * KIB)}


def test_object_that_went_or_shrank_or_cannot_be_read_says_so(store: CountingStore, tmp_path: Path) -> None:
    (tmp_path / "o").write_bytes(DATA[:1000])
    with open_file(store) as file, pytest.raises(DataCorrupt):
        file.read(10)
    (tmp_path / "o").unlink()
    with open_file(store) as file, pytest.raises(ObjectMissing):
        file.read(10)


class BrokenStore(LocalStore):
    """Reads fail from some moment on."""

    broken = False

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.broken:
            raise StorageError("the network is down")
        return super().get_range(key, start, length)


def test_failure_of_the_store_passes_through_tarfile_and_pyarrow(tmp_path: Path) -> None:
    """An error of the store must never look like a broken file."""
    tar = write_tar(tmp_path / "a.tar", [*tar_of(*range(200))])
    table = {"id": [str(n) for n in range(300)], "image": [jpeg(n) for n in range(300)]}
    parquet = write_parquet(tmp_path / "a.parquet", table, rows_per_group=10)
    store = BrokenStore(tmp_path)
    with tarfile.open(fileobj=RangedFile(store, tar.name, tar.stat().st_size, 0)) as archive:
        store.broken = True
        with pytest.raises(StorageError, match="network is down"):
            archive.getmembers()
    store.broken = False
    file = RangedFile(store, parquet.name, parquet.stat().st_size, 0)
    opened = pq.ParquetFile(file, pre_buffer=False, buffer_size=4096)
    store.broken = True
    with pytest.raises(StorageError, match="network is down"):
        opened.read_row_group(0)
