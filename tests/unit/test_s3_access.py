"""Each URI is reached by its own profile, endpoint and role: the configuration reaches the request."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.place import find_place
from jobs.session import reach_s3_by
from pipeline.config import CatalogConfig, load_catalog
from pipeline.errors import ConfigError
from pipeline.storage.open import access_of, accesses_in_use, open_store, use_accesses

ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>{expires}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
PROFILES = """
[photos]
aws_access_key_id = AKIAPHOTOS
aws_secret_access_key = s
"""


class Service(BaseHTTPRequestHandler):
    """STS and S3 in one: notes the path and who signed; every object holds ``x``."""

    seen: list[tuple[str, str]] = []  # noqa: RUF012 reset by the fixture

    def do_GET(self) -> None:
        self._answer(b"x", etag=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Freader" in body
        expires = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
        self._answer(ASSUMED.format(expires=expires).encode())

    def _answer(self, data: bytes, *, etag: bool = False) -> None:
        credential = self.headers["Authorization"].partition("Credential=")[2]
        self.seen.append((f"{self.headers['Host']}{self.path}", credential.partition("/")[0]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 03:00:00 GMT")
        if etag:
            self.send_header("ETag", '"9dd4e461268c8034f5c8564e155c67a6"')  # md5 of x
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Host and port of the service; it is the environment's endpoint too."""
    Service.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    (tmp_path / "credentials").write_text(PROFILES)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    yield host
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_said() -> Iterator[None]:
    yield
    use_accesses([])


def config(**s3: dict[str, str]) -> CatalogConfig:
    return CatalogConfig.model_validate({"source": "/a", "store": "/b", "s3": s3})


def test_each_uri_is_reached_as_the_configuration_says(service: str) -> None:
    other = service.replace("127.0.0.1", "localhost")
    reach_s3_by(
        config(
            **{
                "s3://photos": {"profile": "photos"},
                "s3://photos/archive": {"role_arn": "arn:aws:iam::123456789012:role/reader"},
                "s3://index": {"endpoint": f"http://{other}"},
            }
        )
    )
    for uri in ("s3://photos/new", "s3://photos/archive/1999", "s3://index/shop", "s3://photosets"):
        assert open_store(uri).get("k") == b"x"
    assert Service.seen == [
        (f"{service}/photos/new/k", "AKIAPHOTOS"),
        (f"{service}/", "AKIAENVIRONMENT"),  # asks STS for the role
        (f"{service}/photos/archive/1999/k", "ASIAROLE"),
        (f"{other}/index/shop/k", "AKIAENVIRONMENT"),
        (f"{service}/photosets/k", "AKIAENVIRONMENT"),
    ]


def test_the_longest_uri_counts_and_the_last_configuration() -> None:
    reach_s3_by(config(**{"s3://b": {"profile": "all"}, "s3://b/x/": {"profile": "some"}}))
    profiles = {
        uri: access_of(uri).profile for uri in ("s3://b", "s3://b/x", "s3://b/x/y", "s3://b/xy", "s3://c")
    }
    assert profiles == {
        "s3://b": "all", "s3://b/x": "some", "s3://b/x/y": "some", "s3://b/xy": "all", "s3://c": None,
    }  # fmt: skip
    reach_s3_by(config())
    assert accesses_in_use() == ()


TOML = """
[s3."s3://photos"]
profile = "photos"

[catalogs.shop]
source = "s3://photos/shop"
store = "/indexes/shop"
collection = "canary"
hooks = { on_publish = ["tell"] }
"""


def test_a_catalogs_name_stands_for_its_store_collection_hooks_and_way_to_s3(tmp_path: Path) -> None:
    file = tmp_path / "bitsieve.toml"
    file.write_text(TOML)
    place = find_place("shop", None, file)
    assert (place.uri, place.collection, place.hooks.on_publish) == ("/indexes/shop", "canary", ("tell",))
    assert access_of("s3://photos/shop").profile == "photos"
    assert find_place("shop", "main", file).collection == "main"
    assert find_place("/elsewhere", None, None).collection == "main"
    assert accesses_in_use() == ()


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ('[s3."s3://b"]\nprofil = "x"', "'s3.s3://b.profil'", "'s3.s3://b.profile'"),
        ('[s3."/b"]\nprofile = "x"', "no URI of S3", "s3://bucket"),
        ('[s3."s3://user:s3cret@b"]\nprofile = "x"', "no URI of S3", "s3://bucket"),
        ('[s3."s3://b"]\nendpoint = "ceph"', "endpoint", ""),
        ('[s3."s3://b"]\nendpoint = "http://me:s3cret@ceph"', "endpoint", ""),
        ("s3 = 5", "s3", ""),
    ],
)
def test_an_s3_table_that_cannot_be_is_refused(text: str, message: str, fix: str, tmp_path: Path) -> None:
    file = tmp_path / "bitsieve.toml"
    file.write_text(f"{text}\n[catalogs.shop]\nsource = '/a'\nstore = '/b'\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_catalog(file, "shop", environ={}, settings=[], flags={})
    assert fix in caught.value.fix
    assert "s3cret" not in str(caught.value)
