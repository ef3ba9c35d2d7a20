"""An S3 service that dies and comes back, or stands still, in the middle of a night.

``make soak`` freezes it for longer than one answer may take, ``make test`` for some seconds.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def test_night_goes_on_where_the_gateway_died_and_again_where_it_froze(
    gateway: Gateway, ceph: CephCluster, bucket: str, command: Command, tmp_path: Path
) -> None:
    source = write_folder(
        tmp_path / "photos", {f"{number:04d}.jpg": jpeg(number) for number in range(N_IMAGES)}
    )
    Collection(tmp_path, settings={"source": str(source), "embed": {"shard_images": SHARD_IMAGES}}).night()
    model = tmp_path / "model.onnx"
    model.write_bytes(pool_model())
    store = S3Store(f"{bucket}/store", endpoint_url=ceph.endpoints[0])

    def wait_for(n_receipts: int) -> int:
        give_up_s = time.monotonic() + 100
        while (found := sum(1 for _ in store.list_objects("receipts/embed/"))) < n_receipts:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        return found

    here = command.with_environment(AWS_ENDPOINT_URL=gateway.endpoint)
    how = ("--set", f"embed.shard_images={SHARD_IMAGES}", "--workers", 2, "--json")
    with here.start("reindex", source, "--store", store.uri, "--model", model, *how) as driver:
        wait_for(3)
        gateway.kill()
        time.sleep(1)
        gateway.start()
        wait_for(8)
        gateway.freeze()
        frozen_with = wait_for(0)
        time.sleep(FROZEN_S)
        assert wait_for(0) == frozen_with < N_IMAGES // SHARD_IMAGES
        gateway.wake()
        stdout, stderr = driver.communicate()
    assert driver.returncode == 0, stderr
    said = Outcome(code=0, stdout=stdout, stderr=stderr).json
    assert (said["images"]["embedded"], said["images"]["rejected"]) == (N_IMAGES, 0)
    state = {stat.key: store.get(stat.key) for stat in store.list_objects()}
    assert judged(state, wanted=folder_state(tmp_path / "store")) == []
