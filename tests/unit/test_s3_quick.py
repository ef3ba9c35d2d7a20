"""Quick GETs: signed as boto3 signs, and whatever is not a plain success is left to boto3."""

import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pipeline.errors import ObjectMissing
from pipeline.storage.s3 import S3Store
from pipeline.storage.s3_quick import Pattern, learn
from pipeline.storage.traffic import BYTES, GET

DATA = b"an image"
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
MOMENT = datetime(2026, 11, 23, 3, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("url", "key", "byte_range", "token"),
    [
        ("http://127.0.0.1:7480/bucket/", "photos/a b+c~d'(é).jpg", None, None),
        ("https://bucket.s3.eu-west-1.amazonaws.com/", "a//../b%20?x=1&y", "bytes=0-9", "a token"),
        ("https://minio.example:443/bucket/p/", "k", "bytes=5-5", None),
    ],
)
def test_signature_is_that_of_botocore(url: str, key: str, byte_range: str | None, token: str | None) -> None:
    credentials = Credentials("AK/ID", "secret", token)
    signer = S3SigV4Auth(credentials, "s3", "eu-west-1")
    asked = {"User-Agent": "me", **({} if byte_range is None else {"Range": byte_range})}
    sent = AWSRequest("GET", url + learned_key(key), headers=asked)
    signer.add_auth(sent)
    pattern = learn(sent.prepare(), key)
    assert pattern is not None
    assert (pattern.url, pattern.user_agent, pattern.region) == (url, "me", "eu-west-1")
    ours = pattern.headers(key, byte_range, credentials, MOMENT)

    theirs = AWSRequest("GET", url + learned_key(key), headers=asked | {"X-Amz-Date": ours["x-amz-date"]})
    theirs.context["timestamp"] = ours["x-amz-date"]
    theirs.headers["X-Amz-Content-SHA256"] = ours["x-amz-content-sha256"]
    if token is not None:
        theirs.headers["X-Amz-Security-Token"] = token
    del theirs.headers["User-Agent"]  # botocore signs it no more than we do
    to_sign = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert ours["Authorization"].endswith(f"Signature={signer.signature(to_sign, theirs)}")
    assert f"Credential={signer.scope(theirs)}," in ours["Authorization"]


def learned_key(key: str) -> str:
    """The key in a URL, spelled out byte by byte."""
    plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
    return "".join(chr(byte) if chr(byte) in plain else f"%{byte:02X}" for byte in key.encode())


def test_what_is_signed_otherwise_is_no_pattern() -> None:
    request = AWSRequest("GET", "http://h/b/k", headers={"Authorization": "AWS me:signature"})
    assert learn(request.prepare(), "k") is None


class Service(BaseHTTPRequestHandler):
    """Answers what ``answers`` says in turn, then plain successes; notes which requests are boto3's."""

    protocol_version = "HTTP/1.1"
    seen: list[str]
    answers: list[dict[str, Any]]

    def do_GET(self) -> None:
        self.seen.append("boto3" if "amz-sdk-invocation-id" in self.headers else "quick")
        answer: dict[str, Any] = {
            "status": 206 if "Range" in self.headers else 200,
            "etag": MD5,
            "body": DATA,
        }
        answer |= self.answers.pop(0) if self.answers else {}
        self.send_response(answer["status"])
        if chunked := answer.get("chunked", False):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(answer["body"])))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 03:00:00 GMT")
        self.send_header("ETag", f'"{answer["etag"]}"')
        self.end_headers()
        body = answer["body"]
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store at the service, after its first GET."""
    Service.seen, Service.answers = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = S3Store("s3://bucket/p", endpoint_url=f"http://127.0.0.1:{server.server_port}", patience_s=5)
    assert store.get("k") == DATA
    assert Service.seen == ["boto3"]
    yield store
    server.shutdown()
    server.server_close()


def test_all_but_the_first_are_quick_and_counted(store: S3Store) -> None:
    assert store.read("k")[0].etag == MD5
    assert store.get_range("other", 0, len(DATA)) == DATA
    assert Service.seen == ["boto3", "quick", "quick"]
    assert store.traffic.so_far() == {GET: 3, BYTES: 3 * len(DATA)}


def test_a_service_in_trouble_is_left_to_boto3_for_a_while(store: S3Store) -> None:
    Service.answers = [{"status": 503, "body": b"<Error><Code>SlowDown</Code></Error>"}]
    assert store.get("k") == DATA
    assert store.get("k") == DATA
    assert Service.seen == ["boto3", "quick", "boto3", "boto3"]


def test_an_object_that_its_etag_does_not_vouch_for_is_asked_for_with_its_checksum(store: S3Store) -> None:
    Service.answers = [{"etag": f"{MD5}-2"}, {"etag": f"{MD5}-2"}]
    assert store.get("k") == DATA
    assert Service.seen == ["boto3", "quick", "boto3"]
    assert store.get_range("k", 0, len(DATA)) == DATA


def test_a_damaged_body_is_fetched_afresh_by_boto3(store: S3Store) -> None:
    Service.answers = [{"body": b"an imagE"}]
    assert store.get("k") == DATA
    assert Service.seen == ["boto3", "quick", "boto3"]


@pytest.mark.parametrize("chunked", [False, True])  # AWS sends errors in chunks
def test_a_missing_object_takes_one_request_and_says_nothing_of_the_service(
    chunked: bool, store: S3Store
) -> None:
    missing = {"status": 404, "body": b"<Error><Code>NoSuchKey</Code></Error>", "chunked": chunked}
    Service.answers = [missing]
    with pytest.raises(ObjectMissing):
        store.get("k")
    assert store.get("k") == DATA
    assert Service.seen == ["boto3", "quick", "quick"]


def test_patterns_differ_by_region_and_day() -> None:
    credentials = Credentials("id", "secret")
    pattern = Pattern(url="http://h/b/", host="h", path="/b/", region="r", user_agent="")
    one = pattern.headers("k", None, credentials, MOMENT)["Authorization"]
    assert pattern.headers("k", None, credentials, MOMENT.replace(day=24))["Authorization"] != one
