"""Reading listed images: exactly the listed bytes in their order, or a reason for each that is not there."""

import hashlib
import random
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.catalog import read
from pipeline.catalog.listing import list_catalog
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.catalog.settle import settle_source
from pipeline.catalog.source import SourceSpec
from pipeline.errors import AccessDenied, StorageError
from pipeline.storage.local import LocalStore
from pipeline.storage.store import ObjectStat
from tests.support.tiny_catalogs import age, jpeg, list_of, tar_of, write_folder, write_parquet, write_tar

N = 40


def make_folder(source: Path, first: int = 0) -> None:
    write_folder(source, {f"d{n % 3}/{n:02d}.jpg": jpeg(first + n) for n in range(N)})


def make_tars(source: Path, first: int = 0) -> None:
    write_tar(source / "a.tar", [(f"{n:02d}.jpg", jpeg(first + n)) for n in range(0, N, 2)])
    write_tar(source / "b.tar", [(f"{n:02d}.jpg", jpeg(first + n)) for n in range(1, N, 2)])


def make_parquet(source: Path, first: int = 0) -> None:
    for name, numbers in (("a", range(0, N, 2)), ("b", range(1, N, 2))):
        columns = {"id": [f"{n:02d}" for n in numbers], "image": [jpeg(first + n) for n in numbers]}
        write_parquet(source / f"{name}.parquet", columns, rows_per_group=7)


def make_structs(source: Path, first: int = 0) -> None:
    images = [{"bytes": jpeg(first + n), "path": None} for n in range(N)]
    columns = {"id": [f"{n:02d}" for n in range(N)], "image": images}
    write_parquet(source / "a.parquet", columns, rows_per_group=7)


MAKERS = [make_folder, make_tars, make_parquet, make_structs]
Make = Callable[..., None]


def fetch(source: Path, rows: pa.Table) -> list[FetchedImage]:
    return list(read_images(LocalStore(source), SourceSpec(uri=str(source)), rows))


def reasons(images: list[FetchedImage]) -> list[str | None]:
    return [None if image.reject is None else image.reject.value for image in images]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("order", ["listed", "shuffled", "some"])
def test_read_images_gives_the_listed_bytes_in_the_asked_order(
    make: Make, order: str, tmp_path: Path
) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    where = list(range(N))
    if order != "listed":
        random.Random(1).shuffle(where)
    if order == "some":
        where = sorted(where[:13])
    rows = rows.take(pa.array(where))
    images = fetch(tmp_path / "src", rows)
    assert [image.image_id for image in images] == rows["image_id"].to_pylist()
    for image in images:
        number = int(image.image_id.rpartition("/")[2][:2])
        assert image.data == jpeg(number)
        assert image.content_digest == hashlib.sha256(jpeg(number)).hexdigest()
        assert image.reject is None
    assert [image.version for image in images] == rows["version"].to_pylist()
    assert [image.locator for image in images] == rows["locator"].to_pylist()


@pytest.mark.parametrize("make", MAKERS)
def test_read_images_source_that_is_gone_is_source_missing(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    (tmp_path / "src").rename(tmp_path / "elsewhere")
    images = fetch(tmp_path / "src", rows)
    assert reasons(images) == ["source_missing"] * N
    assert {(image.data, image.content_digest) for image in images} == {(b"", "")}
    assert all(image.detail for image in images)


@pytest.mark.parametrize("make", MAKERS)
def test_read_images_other_bytes_are_source_changed(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    make(tmp_path / "src", 1000)
    for path in (tmp_path / "src").rglob("*.*"):
        age(path)
    assert reasons(fetch(tmp_path / "src", rows)) == ["source_changed"] * N


@pytest.mark.parametrize("make", MAKERS)
def test_read_images_one_object_gone_refuses_only_its_rows(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    victim = sorted(path for path in (tmp_path / "src").rglob("*") if path.is_file())[0]
    victim.unlink()
    key = victim.relative_to(tmp_path / "src").as_posix()
    expected = [
        "source_missing" if key in (row["container"], row["locator"]) else None for row in rows.to_pylist()
    ]
    assert reasons(fetch(tmp_path / "src", rows)) == expected
    assert expected.count("source_missing") >= 1


@pytest.mark.parametrize("make", [make_tars, make_parquet, make_structs])
@pytest.mark.parametrize("damage", ["empty", "garbage", "half"])
def test_read_images_container_damaged_since_is_source_changed(
    make: Make, damage: str, tmp_path: Path
) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    path = next((tmp_path / "src").glob("a.*"))
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "garbage": bytes(len(data)), "half": data[: len(data) // 2]}[damage])
    images = fetch(tmp_path / "src", rows)
    assert len(images) == N
    assert set(reasons(images)) <= {None, "source_changed"}
    for image in images:
        assert (image.reject is None) == (image.data == jpeg(int(image.image_id)))
    assert "source_changed" in reasons(images)


def test_read_images_shorter_tar_still_gives_its_first_images(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "src" / "a.tar", tar_of(1, 2, 3))
    rows = list_of(tmp_path / "src", tmp_path).images()
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2].offset_data
    path.write_bytes(path.read_bytes()[: third + 10])
    assert reasons(fetch(tmp_path / "src", rows)) == [None, None, "source_changed"]


def test_read_images_parquet_of_fewer_or_other_columns_is_source_changed(tmp_path: Path) -> None:
    make_parquet(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    write_parquet(tmp_path / "src" / "a.parquet", {"id": ["00"], "image": [jpeg(0)]})
    write_parquet(tmp_path / "src" / "b.parquet", {"id": ["01"], "picture": [jpeg(1)]})
    images = fetch(tmp_path / "src", rows)
    assert reasons(images) == [None] + ["source_changed"] * (N - 1)


@pytest.mark.parametrize("sizes", [[0], [0, 0, 5, 0], [700_000, 5, 700_000]])
def test_read_images_of_any_size_come_whole(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "RANGE_BYTES", 1_000_000)
    monkeypatch.setattr(read, "_GAP_BYTES", 1024)
    rng = random.Random(2)
    bodies = [rng.randbytes(size) for size in sizes]
    members = [(f"{n}.bin", body) for n, body in enumerate(bodies)]
    write_tar(
        tmp_path / "src" / "a.tar", [(f"{n}.{kind}", body) for n, body in enumerate(bodies) for kind in ["x"]]
    )
    rows = list_of(tmp_path / "src", tmp_path).images()
    assert [image.data for image in fetch(tmp_path / "src", rows)] == [body for _, body in members]


def test_read_images_object_whose_size_nobody_listed_is_not_read_if_too_large(tmp_path: Path) -> None:
    write_folder(
        tmp_path, {"src/a.jpg": jpeg(1), "src/b.jpg": b"", "l.csv": b"key,version\na.jpg,1\nb.jpg,1\n"}
    )
    with open(tmp_path / "src" / "b.jpg", "wb") as file:
        file.truncate(1 << 40)
    spec = settle_source(str(tmp_path / "l.csv"), str(tmp_path / "src"), SourceSpec(uri=""))
    source = LocalStore(spec.uri)
    catalog = list_catalog(source, spec, LocalStore(tmp_path / "s"), tmp_path, lambda done, total: None)
    images = list(read_images(source, spec, catalog.images()))
    assert reasons(images) == [None, "too_large"]


class MeetingStore(LocalStore):
    """The first two reads wait for each other; notes how many bytes are asked for at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._meeting = threading.Barrier(2)
        self._lock = threading.Lock()
        self._reads = self._bytes = self.most_bytes = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._begin(length)
        data = super().get_range(key, start, length)
        self._begin(-length)
        return data

    def read(self, key: str, *, most_bytes: int | None = None) -> tuple[ObjectStat, bytes]:
        self._begin(1)
        return super().read(key, most_bytes=most_bytes)

    def _begin(self, length: int) -> None:
        with self._lock:
            self._reads += length > 0
            self._bytes += length
            self.most_bytes = max(self.most_bytes, self._bytes)
            meets = length > 0 and self._reads <= 2
        if meets:
            self._meeting.wait(20)


@pytest.mark.parametrize("make", [make_folder, make_tars])
def test_read_images_has_several_requests_under_way(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    images = list(read_images(MeetingStore(tmp_path / "src"), SourceSpec(uri=""), rows))
    assert reasons(images) == [None] * N


def test_read_images_of_a_tar_asks_for_no_more_than_its_budget(tmp_path: Path) -> None:
    bodies = [random.Random(n).randbytes(100_000) for n in range(20)]
    write_tar(tmp_path / "src" / "a.tar", [(f"{n:02d}.x", body) for n, body in enumerate(bodies)])
    rows = list_of(tmp_path / "src", tmp_path).images()
    store = MeetingStore(tmp_path / "src")
    images = list(read_images(store, SourceSpec(uri=""), rows, budget_bytes=500_000))
    assert [image.data for image in images] == bodies
    assert 200_000 <= store.most_bytes <= 500_000


class FarStore(LocalStore):
    """Answers the first 32 objects late, and the next 50 once all of these are waited for together."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._first, self._next = threading.Barrier(32), threading.Barrier(50)

    def read(self, key: str, *, most_bytes: int | None = None) -> tuple[ObjectStat, bytes]:
        if key < "032.jpg":
            self._first.wait(20)
            time.sleep(0.2)
        elif key < "082.jpg":
            self._next.wait(20)
        return super().read(key, most_bytes=most_bytes)


def test_read_images_asks_a_far_store_for_more_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {f"{n:03d}.jpg": jpeg(n) for n in range(130)})
    rows = list_of(tmp_path / "src", tmp_path).images()
    images = list(read_images(FarStore(tmp_path / "src"), SourceSpec(uri=""), rows))
    assert reasons(images) == [None] * 130


class BrokenStore(LocalStore):
    """Every read fails for reasons of its own."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        raise StorageError("the network is down")

    def read(self, key: str, *, most_bytes: int | None = None) -> tuple[ObjectStat, bytes]:
        raise AccessDenied("the credentials have expired")


@pytest.mark.parametrize("make", MAKERS)
def test_read_images_store_that_fails_is_an_error_never_a_reject(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "src")
    rows = list_of(tmp_path / "src", tmp_path).images()
    with pytest.raises(StorageError):
        next(read_images(BrokenStore(tmp_path / "src"), SourceSpec(uri=""), rows))
