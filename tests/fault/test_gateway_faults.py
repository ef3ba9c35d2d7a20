"""An S3 service whose gateway or disk dies and comes back, or stands still, in the middle of a night.

``make soak`` freezes it for longer than one answer may take, ``make test`` for some seconds.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.storage.s3 import S3Store
from tests.support.ceph import CephCluster, Gateway
from tests.support.command import Command, Outcome
from tests.support.invariants import folder_state
from tests.support.models import pool_model
from tests.support.nights import Collection
from tests.support.tally import judged
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.integration, pytest.mark.timeout(240)]
FROZEN_S = 70.0 if "BITSIEVE_SOAK" in os.environ else 3.0
N_IMAGES = 120
SHARD_IMAGES = 5


@pytest.fixture(scope="module")
def gateway(ceph: CephCluster) -> Iterator[Gateway]:
    """A gateway that nobody else uses."""
    gateway = ceph.add_gateway()
    yield gateway
    gateway.kill()


@pytest.fixture
def bucket(ceph: CephCluster, make_bucket: Callable[[str], str]) -> str:
    return make_bucket(ceph.endpoints[0])


def test_store_answers_again_after_it_was_frozen_longer_than_an_answer_may_take(
    gateway: Gateway, bucket: str, tmp_path: Path
) -> None:
    store = S3Store(f"{bucket}/p", endpoint_url=gateway.endpoint, answer_s=0.5)
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 70_000)
    store.put("k", b"data")
    with ThreadPoolExecutor(4) as threads:
        gateway.freeze()
        read, created = threads.submit(store.get, "k"), threads.submit(store.create, "new", b"mine")
        written = threads.submit(store.put_file, "big", big)
        time.sleep(2)
        assert not any(one.done() for one in (read, created, written))
        gateway.wake()
        assert read.result() == b"data"
        created.result()  # whether it was first is unknown: `commit` reads back
        written.result()
    assert store.get("new") == b"mine"
    assert store.get("big") == big.read_bytes()


@dataclass(frozen=True, kw_only=True)
class Breakable:
    """A part of an S3 service that dies and is started again, freezes and wakes up; where it answers."""

    endpoint: str
    die: Callable[[], None]
    freeze: Callable[[], None]
    wake: Callable[[], None]


@pytest.fixture
def its_gateway(gateway: Gateway) -> Breakable:
    def die() -> None:
        gateway.kill()
        time.sleep(1)
        gateway.start()

    return Breakable(endpoint=gateway.endpoint, die=die, freeze=gateway.freeze, wake=gateway.wake)


@pytest.fixture
def its_disk(ceph: CephCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """Of a service of its own; ``ceph`` is asked for because it knows what has to be installed."""
    with CephCluster(tmp_path_factory.mktemp("ceph") / "cluster", 1, on_disk=True) as own:
        yield Breakable(
            endpoint=own.endpoints[0], die=own.kill_disk, freeze=own.freeze_disk, wake=own.wake_disk
        )


@pytest.mark.parametrize("part", ["its_gateway", "its_disk"])
def test_night_goes_on_where_a_part_of_the_service_died_and_again_where_it_froze(
    part: str,
    make_bucket: Callable[[str], str],
    command: Command,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    broken: Breakable = request.getfixturevalue(part)
    source = write_folder(
        tmp_path / "photos", {f"{number:04d}.jpg": jpeg(number) for number in range(N_IMAGES)}
    )
    Collection(tmp_path, settings={"source": str(source), "embed": {"shard_images": SHARD_IMAGES}}).night()
    model = tmp_path / "model.onnx"
    model.write_bytes(pool_model())
    store = S3Store(f"{make_bucket(broken.endpoint)}/store", endpoint_url=broken.endpoint)

    def wait_for(n_receipts: int) -> None:
        give_up_s = time.monotonic() + 100
        while sum(1 for _ in store.list_objects("receipts/embed/")) < n_receipts:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)

    here = command.with_environment(AWS_ENDPOINT_URL=broken.endpoint)
    how = ("--set", f"embed.shard_images={SHARD_IMAGES}", "--workers", 2, "--json")
    with here.start("reindex", source, "--store", store.uri, "--model", model, *how) as driver:
        wait_for(3)
        broken.die()
        wait_for(8)
        broken.freeze()
        time.sleep(FROZEN_S)
        assert driver.poll() is None
        broken.wake()
        stdout, stderr = driver.communicate()
    assert driver.returncode == 0, stderr
    said = Outcome(code=0, stdout=stdout, stderr=stderr).json
    assert (said["images"]["embedded"], said["images"]["rejected"]) == (N_IMAGES, 0)
    state = {stat.key: store.get(stat.key) for stat in store.list_objects()}
    assert judged(state, wanted=folder_state(tmp_path / "store")) == []
