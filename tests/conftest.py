"""Real parts for tests: a Ceph cluster, an S3 service, the shared data sets.

A part that is missing skips the tests that need it, with a message that says what to install, unless the
environment variable ``BITSIEVE_REQUIRE`` (a comma-separated list of ``ceph``, ``shared``, ``faketime``,
``mount``) names it: then they fail.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support import ceph as ceph_support
from tests.support.command import Command
from tests.support.processes import MARK, ray_processes_left
from tests.support.tally import tally

_ROOT = Path(__file__).parents[1]
_REAL = ("browser", "conformance", "fault", "integration")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Service:
    """A running S3 service: Ceph with two gateways, or moto, whose creates are not atomic."""

    name: str
    endpoints: tuple[str, ...]


def absent(part: str, message: str) -> NoReturn:
    """Skips the test, or fails it where the part is required."""
    if part in os.environ.get("BITSIEVE_REQUIRE", "").split(","):
        pytest.fail(f"{message} (BITSIEVE_REQUIRE names {part})")
    pytest.skip(message)


class RealTogether(LoadScopeScheduling):
    """Two processes have all tests of real parts: each has a Ceph cluster, and they mostly wait."""

    def _split_scope(self, nodeid: str) -> str:
        folder = Path(nodeid.partition("::")[0]).parent.name
        if folder not in _REAL:
            return nodeid
        return "faults" if folder == "fault" else "parts"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> RealTogether:
    """How tests are shared out where there are several processes."""
    return RealTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def tally_report() -> Iterator[None]:
    """What was done to stores, and what became of them, as JSON where ``BITSIEVE_TALLY`` names a file."""
    yield
    if "BITSIEVE_TALLY" in os.environ:
        tally.write(Path(os.environ["BITSIEVE_TALLY"]))


@pytest.fixture(scope="session", autouse=True)
def no_real_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Test credentials, no profile, and an endpoint where nothing listens unless a test names another."""
    folder = tmp_path_factory.mktemp("aws")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ACCESS_KEY_ID": ceph_support.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": ceph_support.SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        }.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def ceph(no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph_support.CephCluster]:
    """A Ceph cluster with two gateways."""
    missing = ceph_support.missing_programs()
    if missing:
        absent("ceph", f"{', '.join(missing)} not found: apt install {ceph_support.PACKAGES}")
    with ceph_support.CephCluster(tmp_path_factory.mktemp("ceph") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def moto_endpoint(no_real_aws: None) -> Iterator[str]:
    """An S3 service inside this process; good for requests and answers, proves nothing about races."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_service(request: pytest.FixtureRequest) -> S3Service:
    """Ceph where it is installed (or required), else moto."""
    required = "ceph" in os.environ.get("BITSIEVE_REQUIRE", "").split(",")
    if required or not ceph_support.missing_programs():
        return S3Service(name="ceph", endpoints=tuple(request.getfixturevalue("ceph").endpoints))
    return S3Service(name="moto", endpoints=(request.getfixturevalue("moto_endpoint"),))


@pytest.fixture(scope="session")
def s3_endpoint(s3_service: S3Service) -> str:
    """The URL of an S3 service."""
    return s3_service.endpoints[0]


@pytest.fixture(scope="session")
def make_bucket() -> Callable[[str], str]:
    """Makes a new bucket on the service at an endpoint; returns its URI, ``s3://name``."""

    def make(endpoint: str) -> str:
        import boto3

        name = f"test-{uuid.uuid4().hex[:12]}"
        client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket=name)
        client.close()
        return f"s3://{name}"

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets that are not part of the repository."""
    folder = Path(os.environ.get("BITSIEVE_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        absent(
            "shared", f"no data sets at {folder}: set BITSIEVE_DATA to the folder that holds lfw-aligned112 …"
        )
    return folder


@pytest.fixture(scope="session")
def mark(no_real_aws: None) -> Iterator[str]:
    """A mark in the environment of everything that the tests start; no Ray that bears it may be left."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        yield mark
    assert ray_processes_left(mark) == []


@pytest.fixture(scope="session")
def command(mark: str, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command ``bitsieve``, with a cache folder of its own."""
    return Command(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def face_model(command: Command, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The face model, wrapped as its users have to."""
    return _wrapped(command, shared_data, tmp_path_factory, ("mobilefacenet128", 112, "squash"))


@pytest.fixture(scope="session")
def photo_model(command: Command, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of general photos, wrapped as its users have to."""
    return _wrapped(command, shared_data, tmp_path_factory, ("mobilenet_v2_pca128", 224, "shortest"))


def _wrapped(
    command: Command, shared_data: Path, folders: pytest.TempPathFactory, how: tuple[str, int, str]
) -> Path:
    name, size, resize = how
    path = folders.mktemp("model") / f"{name}.onnx"
    source = shared_data / "models" / f"{name}_l2.onnx"
    more = ("--scale", 1, "--mean", "0,0,0", "--std", "1,1,1", "--normalised", "--license", "Apache-2.0")
    wrapped = command.run(
        "model", "wrap", source, "-o", path, "--name", name, "--size", size, "--resize", resize, *more
    )
    assert wrapped.code == 0, wrapped.stderr
    return path
