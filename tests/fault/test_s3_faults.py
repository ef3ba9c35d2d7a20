"""What the S3 store does when network or service fail: a real service behind a breaking proxy."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boto3.session import Session

from pipeline.catalog.listing import list_catalog
from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec
from pipeline.errors import AccessDenied, DataCorrupt, OutcomeUnknown, SourceError, StorageBusy, StoreMismatch
from pipeline.storage.commit import commit
from pipeline.storage.local import LocalStore
from pipeline.storage.probe import prepare_store
from pipeline.storage.receipts import fetch, upload
from pipeline.storage.s3 import S3Store
from tests.conftest import S3Service
from tests.support.proxy import FaultProxy, Kind
from tests.support.tiny_catalogs import jpeg, list_of, write_tar

pytestmark = [pytest.mark.integration, pytest.mark.fault, pytest.mark.timeout(150)]

MakeBucket = Callable[[str], str]


@pytest.fixture
def proxy(s3_service: S3Service) -> Iterator[FaultProxy]:
    with FaultProxy(s3_service.endpoints[0]) as proxy:
        yield proxy


@pytest.fixture
def uri(s3_service: S3Service, make_bucket: MakeBucket) -> str:
    return f"{make_bucket(s3_service.endpoints[0])}/p"


@pytest.fixture
def store(proxy: FaultProxy, uri: str) -> S3Store:
    return S3Store(uri, endpoint_url=proxy.endpoint, patience_s=30)


def no_pause(seconds: float) -> None:
    """Waiting proves nothing here."""


def test_create_whose_reply_is_lost_says_taken_by_its_own_success(store: S3Store, proxy: FaultProxy) -> None:
    proxy.inject(Kind.DROP_REPLY, "PUT")
    assert store.create("k", b"mine") is False
    assert store.get("k") == b"mine"


@pytest.mark.parametrize("kind", [Kind.DROP_REPLY, Kind.FAIL_AFTER])
def test_commit_that_took_effect_without_an_answer_is_won_once(
    store: S3Store, proxy: FaultProxy, kind: Kind
) -> None:
    proxy.inject(kind, "PUT")
    assert commit(store, "k", b"mine") is True
    assert commit(store, "k", b"another's") is False
    assert store.get("k") == b"mine"
    assert [item.key for item in store.list_objects()] == ["k"]


@pytest.mark.parametrize("kind", [Kind.DROP_REPLY, Kind.FAIL_AFTER])
def test_commit_of_a_loser_whose_answer_is_lost_is_lost(
    store: S3Store, proxy: FaultProxy, kind: Kind
) -> None:
    store.put("k", b"another's")
    proxy.inject(kind, "PUT")
    assert commit(store, "k", b"mine") is False
    assert store.get("k") == b"another's"


def test_commit_that_never_arrived_is_sent_again(proxy: FaultProxy, uri: str) -> None:
    hasty = S3Store(uri, endpoint_url=proxy.endpoint, patience_s=0)
    proxy.inject(Kind.FAIL_BEFORE, "PUT", times=4)
    assert commit(hasty, "k", b"mine", pause=no_pause) is True
    assert hasty.get("k") == b"mine"


def test_commit_that_cannot_be_read_back_is_unknown_and_the_next_one_resolves_it(
    proxy: FaultProxy, uri: str
) -> None:
    hasty = S3Store(uri, endpoint_url=proxy.endpoint, patience_s=0)
    proxy.inject(Kind.DROP_REPLY, "PUT", times=100)
    proxy.inject(Kind.FAIL_BEFORE, "GET", times=4)
    with pytest.raises(OutcomeUnknown, match="'k'") as caught:
        commit(hasty, "k", b"mine", pause=no_pause)
    assert caught.value.exit_code == 75
    assert commit(hasty, "k", b"mine", pause=no_pause) is True


def test_conflict_of_conditional_requests_is_sent_again(store: S3Store, proxy: FaultProxy) -> None:
    proxy.inject(Kind.FAIL_BEFORE, "PUT", times=3, status=409, code="ConditionalRequestConflict")
    assert store.create("k", b"mine") is True


def test_refusal_after_a_lost_reply_leaves_the_outcome_in_doubt(store: S3Store, proxy: FaultProxy) -> None:
    proxy.inject(Kind.DROP_REPLY, "PUT")
    proxy.inject(Kind.FAIL_BEFORE, "PUT", status=403, code="AccessDenied")
    with pytest.raises(StorageBusy, match="may have taken effect"):
        store.create("k", b"mine")


def test_truncated_body_is_fetched_afresh(store: S3Store, proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 100
    store.put("k", data)
    proxy.inject(Kind.TRUNCATE, "GET", times=2)
    assert store.get("k") == data
    assert proxy.count("GET", "/k") == 3
    proxy.inject(Kind.TRUNCATE, "GET")
    assert store.get_range("k", 100, 1000) == data[100:1100]


def test_damaged_body_is_fetched_afresh_and_never_believed(store: S3Store, proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 100
    store.put("k", data)
    proxy.inject(Kind.DAMAGE, "GET", times=2)
    assert store.get("k") == data
    assert proxy.count("GET", "/k") == 3
    proxy.inject(Kind.DAMAGE, "GET", times=100)
    with pytest.raises(DataCorrupt, match="not those of its ETag"):
        store.get("k")


def test_checksum_that_the_service_gives_is_compared(
    moto_endpoint: str, make_bucket: MakeBucket, tmp_path: Path
) -> None:
    uri = make_bucket(moto_endpoint)
    data = bytes(range(256)) * 100
    client = Session(region_name="us-east-1").client("s3", endpoint_url=moto_endpoint)
    client.put_object(Bucket=uri.removeprefix("s3://"), Key="k", Body=data, ChecksumAlgorithm="CRC32")
    with FaultProxy(moto_endpoint) as proxy:
        store = S3Store(uri, endpoint_url=proxy.endpoint)
        proxy.inject(Kind.DAMAGE, "GET", times=2)
        assert store.get("k") == data
        proxy.inject(Kind.DAMAGE, "GET", times=100)
        with pytest.raises(DataCorrupt, match="not those of its checksum"):
            store.get("k")


def test_tar_is_walked_and_read_through_bursts_of_faults(
    store: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    tar = write_tar(tmp_path / "src" / "a.tar", [(f"{n:03d}.jpg", jpeg(n) * 50) for n in range(100)])
    store.put_file("a.tar", tar)
    spec = SourceSpec(uri=store.uri)
    local = list_of(tmp_path / "src", tmp_path / "local")

    def inject() -> None:
        proxy.inject(Kind.FAIL_BEFORE, "GET", "a.tar", times=5)
        proxy.inject(Kind.TRUNCATE, "GET", "a.tar", times=2)
        proxy.inject(Kind.DROP_REPLY, "GET", "a.tar", times=2)

    inject()
    work = LocalStore(tmp_path / "work")
    catalog = list_catalog(store, spec, work, tmp_path / "cache", lambda done, total: None)
    assert catalog.table == local.table
    inject()
    images = list(read_images(store, spec, catalog.images(), budget_bytes=1 << 18))
    assert [image.data for image in images] == [jpeg(n) * 50 for n in range(100)]
    store.put("a.tar", tar.read_bytes()[:60_000])
    refused = [image.reject for image in read_images(store, spec, catalog.images())]
    assert 0 < refused.count(None) < 100
    assert set(refused) == {None, "source_changed"}


def test_truncated_download_goes_on_where_it_broke_off(
    store: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 20_000
    store.put("k", data)
    proxy.inject(Kind.TRUNCATE, "GET", times=3)
    store.get_file("k", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert proxy.count("GET", "/k") == 4


def test_body_that_is_always_truncated_is_busy_and_leaves_no_file(
    proxy: FaultProxy, uri: str, tmp_path: Path
) -> None:
    hasty = S3Store(uri, endpoint_url=proxy.endpoint, patience_s=0.5)
    hasty.put("k", b"0123456789")
    proxy.inject(Kind.TRUNCATE, "GET", times=1000)
    with pytest.raises(StorageBusy, match="'k'"):
        hasty.get("k")
    with pytest.raises(StorageBusy, match="'k'"):
        hasty.get_file("k", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_busy_service_is_waited_for(store: S3Store, proxy: FaultProxy) -> None:
    store.put("k", b"data")
    proxy.inject(Kind.FAIL_BEFORE, "GET", times=5, status=503, code="SlowDown")
    assert store.get("k") == b"data"
    assert proxy.count("GET", "/k") == 6


def test_service_that_stays_busy_ends_in_an_error_after_the_patience(proxy: FaultProxy, uri: str) -> None:
    hasty = S3Store(uri, endpoint_url=proxy.endpoint, patience_s=0.5)
    proxy.inject(Kind.FAIL_BEFORE, "GET", times=1000, status=503, code="SlowDown")
    with pytest.raises(StorageBusy, match="SlowDown"):
        hasty.get("k")


def test_multipart_upload_survives_lost_replies(store: S3Store, proxy: FaultProxy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 70_000)
    proxy.inject(Kind.DROP_REPLY, "PUT", "partNumber=1")
    proxy.inject(Kind.DROP_REPLY, "POST", "uploadId=")
    store.put_file("big", source)
    assert store.get("big") == source.read_bytes()


def test_failed_multipart_upload_leaves_nothing_visible(proxy: FaultProxy, uri: str, tmp_path: Path) -> None:
    hasty = S3Store(uri, endpoint_url=proxy.endpoint, patience_s=0)
    source = tmp_path / "source"
    source.write_bytes(bytes(17 << 20))
    proxy.inject(Kind.FAIL_BEFORE, "PUT", "partNumber=2", times=1000)
    with pytest.raises(StorageBusy):
        hasty.put_file("big", source)
    assert list(hasty.list_objects()) == []
    assert proxy.count("DELETE", "uploadId=") == 1


def test_fetch_downloads_once_proves_the_bytes_and_repairs_its_cache(
    store: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    file = upload(store, "index", "ab" * 32, ".npy", b"rows")
    cached = fetch(store, file, tmp_path)
    assert cached == tmp_path / file.sha256
    assert fetch(store, file, tmp_path, verify=True).read_bytes() == b"rows"
    assert proxy.count("GET", file.key) == 1
    cached.write_bytes(b"rowz")
    assert fetch(store, file, tmp_path, verify=True).read_bytes() == b"rows"
    store.put(file.key, b"rowz")
    cached.unlink()
    with pytest.raises(DataCorrupt, match=file.key):
        fetch(store, file, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_listening_is_busy_and_says_so(uri: str) -> None:
    with pytest.raises(StorageBusy, match="no whole answer"):
        S3Store(uri, endpoint_url="http://127.0.0.1:9", patience_s=0).get("k")


def test_missing_bucket_is_named(s3_service: S3Service) -> None:
    store = S3Store("s3://no-such-bucket/p", endpoint_url=s3_service.endpoints[0])
    for call in (lambda: list(store.list_objects()), lambda: store.get("k"), lambda: store.create("k", b"")):
        with pytest.raises(SourceError, match=r"no-such-bucket.*bucket does not exist"):
            call()


@pytest.mark.parametrize("secret", ["", "hunter2-wrong-secret"])
def test_bad_credentials_are_denied_without_showing_them(
    proxy: FaultProxy, uri: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        proxy.inject(Kind.FAIL_BEFORE, "GET", status=403, code="SignatureDoesNotMatch")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store(uri, endpoint_url=proxy.endpoint, patience_s=0)
    with pytest.raises(AccessDenied, match="fix: check AWS_PROFILE") as caught:
        store.get("k")
    assert "hunter2" not in f"{caught.value!r} {caught.value} {store!r} {pickle.dumps(store)!r}"


def test_uri_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(Exception, match="without credentials") as caught:
        S3Store("s3://key:hunter2@bucket/p")
    assert "hunter2" not in str(caught.value)


def test_service_that_ignores_the_condition_needs_the_named_override(
    moto_endpoint: str, make_bucket: MakeBucket
) -> None:
    uri = make_bucket(moto_endpoint)
    with FaultProxy(moto_endpoint, hide_headers=frozenset({"if-none-match"})) as careless:
        store = S3Store(uri, endpoint_url=careless.endpoint)
        with pytest.raises(StoreMismatch, match=r"(?s)exactly one wins.*--single-writer"):
            prepare_store(store)
        assert list(store.list_objects()) == []
        assert prepare_store(store, single_writer=True).single_writer is True
        with pytest.raises(StoreMismatch, match="--single-writer"):
            prepare_store(store)
