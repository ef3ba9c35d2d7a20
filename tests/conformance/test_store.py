"""Every object store keeps the same promises: one class of tests, run against each implementation."""

import os
import pickle
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import DataCorrupt, ObjectMissing, SourceError
from pipeline.storage.local import TEMPORARY, LocalStore
from pipeline.storage.s3 import S3Store
from pipeline.storage.store import ObjectStat, ObjectStore
from tests.support.ceph import CephCluster

Pair = tuple[ObjectStore, ObjectStore]

ODD_KEYS = [
    "a b", "a\nb", "tab\tkey", "é", "e\u0301", "😀/ﬀ", "%2e", "a%2Fb", "-x", "a+b", "?q#f", "~", "a\\b",
    '"><script>', "\u202eabc", "..a", "...", "a&b=c", "x" * 200,
]  # fmt: skip
IN_ORDER = sorted(
    ["Z", "a", "a b", "a-b", "a.b/c", "a/b", "a/b-c", "a/b/c", "a0", "b/c/d", "b/c0", "é", "ﬀ", "😀"],
    key=str.encode,
)


def _is_plain(key: str) -> bool:
    return "\0" not in key and not any(part in {"", ".", ".."} for part in key.split("/"))


PLAIN_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(_is_plain)


class StoreConformance:
    """What the protocol in ``pipeline.storage.store`` promises. ``pair``: two stores on the same objects."""

    atomic_create: ClassVar[bool] = True
    lost_keys: ClassVar[re.Pattern[str] | None] = None  # keys this service cannot hold
    objects_may_be_folders: ClassVar[bool] = True  # "a" and "a/b" at once
    dates_uploads: ClassVar[bool] = True

    @pytest.fixture
    def store(self, pair: Pair) -> ObjectStore:
        return pair[0]

    def holds(self, key: str) -> bool:
        return self.lost_keys is None or self.lost_keys.search(key) is None

    def test_put_then_get_and_read_give_the_bytes_on_both_stores(self, pair: Pair) -> None:
        for data in [b"", b"x", bytes(range(256)) * 700]:
            pair[0].put("k", data)
            stat, read = pair[1].read("k")
            assert pair[1].get("k") == read == data
            assert stat.size_bytes == len(data)

    def test_read_of_a_larger_object_than_wanted_gives_its_stat_alone(self, store: ObjectStore) -> None:
        store.put("k", b"12345")
        assert store.read("k", most_bytes=5) == (store.read("k")[0], b"12345")
        assert store.read("k", most_bytes=4) == (store.read("k")[0], b"")

    def test_put_again_replaces_the_bytes_and_changes_the_etag(self, store: ObjectStore) -> None:
        store.put("k", b"one")
        before = store.stat("k")
        store.put("k", b"two")
        after = store.stat("k")
        assert before is not None
        assert after is not None
        assert before.etag != after.etag
        assert store.get("k") == b"two"

    def test_stat_read_and_listing_agree(self, store: ObjectStore) -> None:
        store.put("folder/k", b"12345")
        stat = store.stat("folder/k")
        (listed,) = store.list_objects()
        assert stat is not None
        assert _timeless(stat) == _timeless(listed) == _timeless(store.read("folder/k")[0])
        assert stat.key == "folder/k"
        assert stat.size_bytes == 5
        assert '"' not in stat.etag

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_odd_key_round_trips(self, store: ObjectStore, key: str) -> None:
        if not self.holds(key):
            pytest.skip("a known limit of this service")
        store.put(key, key.encode())
        stat = store.stat(key)
        assert stat is not None
        assert stat.key == key
        assert [item.key for item in store.list_objects()] == [key]
        assert store.get(key) == key.encode()
        store.delete(key)
        assert list(store.list_objects()) == []

    @given(keys=st.lists(PLAIN_KEYS, unique=True, min_size=1, max_size=4))
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # every example has a place of its own
            HealthCheck.differing_executors,  # the class runs once per store
            HealthCheck.too_slow,
        ],
    )
    def test_any_keys_round_trip_in_byte_order(self, store: ObjectStore, keys: list[str]) -> None:
        place = uuid.uuid4().hex
        full = [f"{place}/{number}/{key}" for number, key in enumerate(keys) if self.holds(key)]
        for key in full:
            store.put(key, key.encode())
        assert [item.key for item in store.list_objects(f"{place}/")] == sorted(full, key=str.encode)
        assert all(store.get(key) == key.encode() for key in full)

    def test_get_range_gives_exactly_the_range(self, store: ObjectStore) -> None:
        data = bytes(range(256))
        store.put("k", data)
        assert store.get_range("k", 0, 256) == data
        assert store.get_range("k", 10, 5) == data[10:15]
        assert store.get_range("k", 255, 1) == data[255:]
        assert store.get_range("k", 100, 0) == b""

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (100, 5)])
    def test_get_range_past_the_end_is_corrupt_data(
        self, store: ObjectStore, start: int, length: int
    ) -> None:
        store.put("k", b"0123456789")
        with pytest.raises(DataCorrupt, match="'k'"):
            store.get_range("k", start, length)

    def test_what_is_absent_is_missing_by_name(self, store: ObjectStore, tmp_path: Path) -> None:
        assert store.stat("no/such") is None
        store.delete("no/such")
        for read in (
            lambda: store.get("no/such"),
            lambda: store.read("no/such"),
            lambda: store.get_range("no/such", 0, 1),
            lambda: store.get_range("no/such", 0, 0) or store.get("no/such"),
            lambda: store.get_file("no/such", tmp_path / "copy"),
        ):
            with pytest.raises(ObjectMissing, match="'no/such'"):
                read()
        assert list(tmp_path.glob("copy*")) == []

    def test_key_with_nul_or_lone_surrogate_or_none_at_all_is_refused(self, store: ObjectStore) -> None:
        for key in ["a\0b", "\ud800", ""]:
            with pytest.raises(SourceError):
                store.get(key)

    def test_create_succeeds_once_and_never_overwrites(self, pair: Pair) -> None:
        assert pair[0].create("new/k", b"first") is True
        assert pair[1].create("new/k", b"second") is False
        assert pair[0].get("new/k") == b"first"

    def test_create_after_put_is_refused_and_after_delete_succeeds(self, store: ObjectStore) -> None:
        store.put("k", b"put")
        assert store.create("k", b"created") is False
        store.delete("k")
        assert store.create("k", b"created") is True
        assert store.get("k") == b"created"

    def test_racing_creates_have_exactly_one_winner_whose_bytes_stay(self, pair: Pair) -> None:
        if not self.atomic_create:
            pytest.skip("this service checks and then writes, without a lock")
        barrier = Barrier(16)

        def enter(number: int, key: str) -> bool:
            barrier.wait()
            return pair[number % 2].create(key, b"writer %d" % number)

        with ThreadPoolExecutor(16) as threads:
            for round_number in range(6):
                key = f"race/{round_number}"
                won = list(threads.map(enter, range(16), [key] * 16))
                assert won.count(True) == 1
                assert pair[0].get(key) == pair[1].get(key) == b"writer %d" % won.index(True)

    def test_listing_is_in_byte_order_by_prefix_and_start(self, store: ObjectStore) -> None:
        keys = [key for key in IN_ORDER if self.objects_may_be_folders or key not in {"a", "a/b"}]
        for key in keys:
            store.put(key, b"")
        for prefix in ["", "a", "a/", "a/b", "a/b/", "b/c", "b/c/", "no", "é"]:
            for start_after in ["", "a", "a/b", "a/b/c", "a/b0", "b/c/", "zzz", "\U0010ffff"]:
                listed = [item.key for item in store.list_objects(prefix, start_after=start_after)]
                expected = [
                    key for key in keys if key.startswith(prefix) and key.encode() > start_after.encode()
                ]
                assert listed == expected, (prefix, start_after)

    def test_listing_starts_after_and_below_control_characters(self, store: ObjectStore) -> None:
        if not self.holds("\x01"):
            pytest.skip("a known limit of this service")
        for key in ["\x01/a", "\x01/b", "c"]:
            store.put(key, b"")
        assert [item.key for item in store.list_objects("\x01/")] == ["\x01/a", "\x01/b"]
        assert [item.key for item in store.list_objects(start_after="\x01/a")] == ["\x01/b", "c"]

    def test_listing_more_than_a_page_gives_every_key_once(self, pair: Pair) -> None:
        keys = [f"many/{number:05d}" for number in range(1005)]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda key: pair[0].put(key, b""), keys))
        assert [item.key for item in pair[1].list_objects("many/")] == keys
        assert [item.key for item in pair[1].list_objects(start_after=keys[2])] == keys[3:]

    def test_files_of_20_mb_round_trip(self, pair: Pair, tmp_path: Path) -> None:
        source, copy = tmp_path / "source", tmp_path / "copy"
        source.write_bytes(os.urandom(20_000_001))
        pair[0].put_file("big", source)
        copy.write_bytes(b"is replaced")
        pair[1].get_file("big", copy)
        assert copy.read_bytes() == source.read_bytes()
        assert pair[1].get_range("big", 16_777_210, 20) == source.read_bytes()[16_777_210:16_777_230]
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy", "source"]

    def test_empty_file_round_trips(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "source").touch()
        store.put_file("empty", tmp_path / "source")
        store.get_file("empty", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b""

    def test_pickled_store_reads_the_same_objects(self, store: ObjectStore) -> None:
        store.put("k", b"data")
        twin = pickle.loads(pickle.dumps(store))
        assert twin.get("k") == b"data"
        assert twin.uri == store.uri

    def test_unfinished_write_is_no_object_and_can_be_given_up(self, pair: Pair) -> None:
        pair[0].put("whole", b"data")
        _begin_write(pair[0])
        (write,) = pair[1].unfinished()
        assert abs(write.modified_s - time.time()) < 60 or not self.dates_uploads
        assert [item.key for item in pair[1].list_objects()] == ["whole"]
        for _ in range(2):
            pair[1].delete_unfinished(write)
        assert list(pair[1].unfinished()) == []
        assert pair[0].get("whole") == b"data"

    def test_local_path_holds_the_bytes_or_is_none(self, store: ObjectStore) -> None:
        store.put("folder/k", b"data")
        path = store.local_path("folder/k")
        assert path is None or path.read_bytes() == b"data"


class TestLocalStore(StoreConformance):
    objects_may_be_folders = False

    @pytest.fixture
    def pair(self, tmp_path: Path) -> Pair:
        return LocalStore(tmp_path / "store"), LocalStore(tmp_path / "store")


@pytest.mark.integration
@pytest.mark.timeout(180)
class TestS3StoreOnCeph(StoreConformance):
    @pytest.fixture
    def pair(self, ceph: CephCluster, make_bucket: Callable[[str], str]) -> Pair:
        uri = f"{make_bucket(ceph.endpoints[0])}/a prefix"
        first, second = ceph.endpoints
        return S3Store(uri, endpoint_url=first, patience_s=20), S3Store(
            uri, endpoint_url=second, patience_s=20
        )

    @pytest.mark.parametrize("key", ["a//b", "/a", "a/", "../a", "a/./b", ".", "a/../b"])
    def test_key_that_no_folder_could_hold_round_trips(self, store: ObjectStore, key: str) -> None:
        store.put(key, b"data")
        assert [item.key for item in store.list_objects()] == [key]
        assert store.get(key) == b"data"


@pytest.mark.integration
class TestS3StoreOnMoto(StoreConformance):
    """For machines without Ceph; what moto cannot do is said here."""

    atomic_create = False
    dates_uploads = False  # all in 2010
    lost_keys = re.compile(r"[\x00-\x1f\x7f-\x9f\\?#%\u2028\u2029\ufffe\uffff]")  # werkzeug's routing and XML

    @pytest.fixture
    def pair(self, moto_endpoint: str, make_bucket: Callable[[str], str]) -> Pair:
        uri = f"{make_bucket(moto_endpoint)}/prefix"
        return S3Store(uri, endpoint_url=moto_endpoint, patience_s=20), S3Store(
            uri, endpoint_url=moto_endpoint, patience_s=20
        )


def _begin_write(store: ObjectStore) -> None:
    """What a writer leaves that is killed half way."""
    if isinstance(store, LocalStore):
        (Path(store.uri) / TEMPORARY / "half").write_bytes(b"da")
    elif isinstance(store, S3Store):
        bucket, key = store._bucket, store._full("half")
        store._connection.call(lambda s3: s3.create_multipart_upload(Bucket=bucket, Key=key), "a test")


def _timeless(stat: ObjectStat) -> tuple[str, int, str, int]:
    return stat.key, stat.size_bytes, stat.etag, int(stat.modified_s)
