"""`bitsieve publish` where the store loses its reply: once or not at all, and the exit code says which."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pipeline.snapshot.contents import snapshot_files
from pipeline.snapshot.gates import Thresholds, judge
from pipeline.snapshot.publish import keep_candidate, newest_sequence, snapshot
from pipeline.storage.probe import prepare_store
from pipeline.storage.s3 import S3Store
from tests.conftest import S3Service
from tests.support.command import Command
from tests.support.manifests import content, evidence, manifest
from tests.support.proxy import FaultProxy, Kind

pytestmark = [pytest.mark.fault, pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass(frozen=True)
class Shop:
    """A store behind a proxy with the candidates of runs ``a`` and ``b``, and the command that sees it so."""

    store: S3Store
    proxy: FaultProxy
    command: Command

    def publish(self, run_id: str) -> list[object]:
        return ["publish", run_id, "--store", self.store.uri, "--json"]

    def history(self) -> list[str]:
        last = newest_sequence(self.store, "main")
        return [snapshot(self.store, "main", sequence).run_id for sequence in range(1, last + 1)]


@pytest.fixture
def shop(s3_service: S3Service, make_bucket: Callable[[str], str], command: Command) -> Iterator[Shop]:
    endpoint = s3_service.endpoints[0]
    store = S3Store(f"{make_bucket(endpoint)}/store", endpoint_url=endpoint)
    prepare_store(store)
    for run_id in "ab":
        made = content(run_id)
        for one in snapshot_files(made):
            store.put(one.file.key, bytes(one.file.size_bytes))
        keep_candidate(store, manifest(made, run_id=run_id, gates=judge(evidence(), Thresholds(), {})))
    with FaultProxy(endpoint) as proxy:
        yield Shop(store, proxy, command.with_environment(AWS_ENDPOINT_URL=proxy.endpoint))


@pytest.mark.parametrize("kind", [Kind.DROP_REPLY, Kind.FAIL_AFTER])
def test_publish_whose_reply_is_lost_is_published_once(shop: Shop, kind: Kind) -> None:
    shop.proxy.inject(kind, "PUT", "/snapshots/")
    outcome = shop.command.run(*shop.publish("a"))
    assert (outcome.code, outcome.json["published"]) == (0, True)
    assert shop.history() == ["a"]


def test_publish_that_cannot_be_read_back_is_unknown_and_the_next_start_looks_first(shop: Shop) -> None:
    shop.proxy.inject(Kind.DROP_REPLY, "PUT", "/snapshots/")
    denied = {"status": 403, "code": "AccessDenied", "times": 2}  # a quick GET asks again as boto3 does
    shop.proxy.inject(Kind.FAIL_BEFORE, "GET", "/snapshots/", **denied)
    outcome = shop.command.run(*shop.publish("a"))
    assert (outcome.code, outcome.json["error"]["kind"]) == (75, "unknown")
    again = shop.command.run(*shop.publish("a"))
    assert (again.code, again.json["published"]) == (0, False)
    assert shop.history() == ["a"]


def test_two_publishers_of_two_candidates_one_wins_and_the_other_is_told(shop: Shop) -> None:
    with shop.command.start(*shop.publish("a")) as first, shop.command.start(*shop.publish("b")) as second:
        said = [process.communicate()[0] for process in (first, second)]
    assert sorted((first.returncode, second.returncode)) == [0, 1]
    loser = said[0] if first.returncode else said[1]
    assert '"kind": "conflict"' in loser
    assert shop.history() == ["b" if first.returncode else "a"]


def test_a_publisher_that_was_frozen_and_wakes_up_late_changes_nothing(shop: Shop) -> None:
    with shop.command.start(*shop.publish("a")) as zombie:
        give_up_s = time.monotonic() + 30
        while not shop.proxy.count("GET", "/candidates/"):
            assert time.monotonic() < give_up_s
            time.sleep(0.001)
        os.kill(zombie.pid, signal.SIGSTOP)
        other = shop.command.run(*shop.publish("a"))
        before = shop.store.get("collections/main/snapshots/00000000000000000001.json")
        os.kill(zombie.pid, signal.SIGCONT)
        stdout, _ = zombie.communicate()
    assert (other.code, zombie.returncode) == (0, 0)
    assert sorted([other.json["published"], json.loads(stdout)["published"]]) == [False, True]
    assert shop.history() == ["a"]
    assert shop.store.get("collections/main/snapshots/00000000000000000001.json") == before
