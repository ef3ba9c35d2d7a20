"""The policies of ``infra/aws``, on a service that enforces them: each role does its job and nothing else's.

Ceph has no policies of roles here, so the same statements are put on the buckets, for one user a role. Of the
bucket policy Ceph 16 enforces that snapshots stay. It takes the statements on ``s3:if-none-match``, which it
does not know, and ``aws:SecureTransport``, which it knows only over TLS, and enforces neither.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.support.ceph import CephCluster
from tests.support.command import Command
from tests.support.models import pool_model
from tests.support.ray_nodes import ray_nodes
from tests.support.tiny_catalogs import jpeg

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

AWS = Path(__file__).parents[2] / "infra" / "aws"
ROLES = ("reader", "worker", "publisher", "janitor")
BOTH = "keeper"  # a user who is publisher and janitor
N_IMAGES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Two buckets whose policies let each role do what its file says; the role's secret."""

    endpoint: str
    photos: str
    indexes: str
    secret: str

    @property
    def source(self) -> str:
        return f"s3://{self.photos}/products"

    @property
    def store(self) -> str:
        return f"s3://{self.indexes}/shop"

    def credentials(self, role: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": role,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    @contextmanager
    def client(self, role: str) -> "Iterator[S3Client]":
        found = boto3.session.Session(role, self.secret, region_name="us-east-1").client(
            "s3", endpoint_url=self.endpoint, config=Config(s3={"addressing_style": "path"})
        )
        yield found
        found.close()

    @contextmanager
    def owner(self) -> "Iterator[S3Client]":
        found = boto3.session.Session().client("s3", endpoint_url=self.endpoint)
        yield found
        found.close()


def on_bucket(bucket: str, name: str) -> dict[str, Any]:
    """The statements of all roles about the bucket that the files call ``name``, for their users."""
    here = f"arn:aws:s3:::{name}"
    statements = []
    for role in ROLES:
        for statement in json.loads((AWS / "policies" / f"{role}.json").read_text())["Statement"]:
            resources = [
                resource.replace(here, f"arn:aws:s3:::{bucket}", 1)
                for resource in statement["Resource"]
                if resource == here or resource.startswith(f"{here}/")
            ]
            if resources:
                users = [role, BOTH] if role in {"publisher", "janitor"} else [role]
                principal = {"AWS": [f"arn:aws:iam:::user/{user}" for user in users]}
                about = {"Sid": f"{role}{statement['Sid']}", "Principal": principal, "Resource": resources}
                statements.append({**statement, **about})
    return {"Version": "2012-10-17", "Statement": statements}


@pytest.fixture(scope="module")
def place(ceph: CephCluster, make_bucket: Callable[[str], str]) -> Place:
    secret = secrets.token_hex(16)
    for user in (*ROLES, BOTH):
        ceph.add_user(user, secret)
    endpoint = ceph.endpoints[0]
    photos, indexes = (make_bucket(endpoint).removeprefix("s3://") for _ in range(2))
    owner = boto3.session.Session().client("s3", endpoint_url=endpoint)
    owner.put_bucket_policy(Bucket=photos, Policy=json.dumps(on_bucket(photos, "photos")))
    owner.put_bucket_policy(Bucket=indexes, Policy=json.dumps(on_bucket(indexes, "indexes")))
    for number in range(N_IMAGES):
        owner.put_object(Bucket=photos, Key=f"products/{number:02d}.jpg", Body=jpeg(number))
    owner.close()
    return Place(endpoint=endpoint, photos=photos, indexes=indexes, secret=secret)


@pytest.fixture(scope="module")
def cluster(mark: str, place: Place) -> Iterator[dict[str, str]]:
    """A Ray cluster whose only CPUs are on a node with the credentials of a worker; how to reach it."""
    with ray_nodes(0, 2, others=place.credentials("worker"), every={"AWS_ACCESS_KEY_ID": "nobody"}) as nodes:
        yield nodes.driver


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(pool_model())
    return path


@pytest.fixture(scope="module")
def night(place: Place, cluster: Mapping[str, str], command: Command, model: Path) -> dict[str, Any]:
    """A night: its driver has the role of a publisher, everything in Ray that of a worker."""
    driver = command.with_environment(**cluster, **place.credentials("publisher"))
    return driver.json(
        "reindex", place.source, "--store", place.store, "--model", model, "--set", "embed.shard_images=10"
    )


def test_publisher_and_workers_make_a_night(night: dict[str, Any]) -> None:
    assert (night["published"], night["images"]["embedded"]) == (True, N_IMAGES)


def test_reader_searches_and_verifies_and_cannot_run_a_night(
    night: dict[str, Any], place: Place, command: Command, model: Path, tmp_path: Path
) -> None:
    reader = command.with_environment(**place.credentials("reader"))
    query = tmp_path / "query.jpg"
    query.write_bytes(jpeg(3))
    (found,) = reader.json("search", query, "--store", place.store, "-k", 1)["results"]
    assert found["matches"][0]["id"] == "03.jpg"
    assert reader.json("verify", "--store", place.store, "--sample", 0)["findings"] == []
    refused = reader.run("reindex", place.source, "--store", place.store, "--model", model, "--json")
    assert (refused.code, refused.json["error"]["kind"]) == (1, "access")


def test_janitor_expires(night: dict[str, Any], place: Place, command: Command) -> None:
    janitor = command.with_environment(**place.credentials("janitor"))
    said = janitor.json("expire", "--store", place.store, "--keep-last", 1, "--older-than", 0, "--delete")
    assert said["deleted"] is True


SNAPSHOT = "collections/main/snapshots/00000000000000000001.json"
PART = "embeddings/zz/zz-1.parquet"


@pytest.mark.parametrize(
    ("role", "operation", "key", "may"),
    [
        ("worker", "put_object", PART, True),
        ("worker", "put_object", SNAPSHOT, False),
        ("worker", "put_object", "format.json", False),
        ("worker", "delete_object", PART, False),
        ("publisher", "put_object", PART, True),
        ("publisher", "put_object", "collections/main/candidates/x.json", True),
        ("publisher", "delete_object", PART, False),
        ("publisher", "delete_object", SNAPSHOT, False),
        ("janitor", "put_object", PART, False),
        ("janitor", "put_object", SNAPSHOT, False),
        ("janitor", "delete_object", SNAPSHOT, False),
        ("janitor", "delete_object", "format.json", False),
        ("janitor", "delete_object", PART, True),
        ("reader", "put_object", PART, False),
        ("reader", "delete_object", PART, False),
        ("reader", "get_object", SNAPSHOT, True),
    ],
)
def test_role_is_refused_what_is_not_its_own(
    night: dict[str, Any], place: Place, role: str, operation: str, key: str, may: bool
) -> None:
    with place.client(role) as client:
        if may:
            getattr(client, operation)(Bucket=place.indexes, Key=f"shop/{key}")
            if operation == "put_object" and key != PART:  # the next test reads every manifest
                with place.owner() as owner:
                    owner.delete_object(Bucket=place.indexes, Key=f"shop/{key}")
            return
        with pytest.raises(ClientError) as refused:
            getattr(client, operation)(Bucket=place.indexes, Key=f"shop/{key}")
    assert refused.value.response["Error"]["Code"] == "AccessDenied"


@pytest.mark.parametrize("role", ROLES)
def test_missing_object_is_missing_and_not_forbidden(place: Place, role: str) -> None:
    with place.client(role) as client, pytest.raises(ClientError) as missing:
        client.get_object(Bucket=place.indexes, Key="shop/receipts/embed/none.json")
    assert missing.value.response["Error"]["Code"] == "NoSuchKey"


@pytest.mark.parametrize("role", ["reader", "janitor"])
def test_role_without_the_source_cannot_read_images(place: Place, role: str) -> None:
    with place.client(role) as client, pytest.raises(ClientError) as refused:
        client.get_object(Bucket=place.photos, Key="products/00.jpg")
    assert refused.value.response["Error"]["Code"] == "AccessDenied"


def test_bucket_policy_keeps_snapshots_from_their_owner_too(
    ceph: CephCluster, make_bucket: Callable[[str], str]
) -> None:
    endpoint = ceph.endpoints[0]
    bucket = make_bucket(endpoint).removeprefix("s3://")
    policy = (AWS / "bucket-policy.json").read_text()
    owner = boto3.session.Session().client("s3", endpoint_url=endpoint)
    try:
        owner.put_object(Bucket=bucket, Key=f"shop/{SNAPSHOT}", Body=b"1", IfNoneMatch="*")
        owner.put_bucket_policy(Bucket=bucket, Policy=policy.replace("s3:::indexes", f"s3:::{bucket}"))
        with pytest.raises(ClientError, match="AccessDenied"):
            owner.delete_object(Bucket=bucket, Key=f"shop/{SNAPSHOT}")
        owner.put_object(Bucket=bucket, Key=f"shop/{PART}", Body=b"1")
        owner.delete_object(Bucket=bucket, Key=f"shop/{PART}")
    finally:
        owner.close()


def test_publisher_and_janitor_in_one_purge_an_image_and_either_alone_does_not(
    night: dict[str, Any], place: Place, command: Command
) -> None:
    purge = ("purge", "05.jpg", "--store", place.store, "--reason", "asked for")
    for role in ("publisher", "janitor"):
        refused = command.with_environment(**place.credentials(role)).run(*purge, "--json")
        assert (refused.code, refused.json["error"]["kind"]) == (1, "access"), (role, refused.json)
    said = command.with_environment(**place.credentials(BOTH)).json(*purge)
    assert said["collections"]["main"]["removed"] == 1
