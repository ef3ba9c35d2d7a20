"""A clock that is wrong or jumps: nights are right all the same, and files go by the store's clock."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.probe import prepare_store
from pipeline.storage.s3 import S3Store
from tests.conftest import S3Service, absent
from tests.support.command import Command
from tests.support.invariants import folder_state
from tests.support.nights import Collection
from tests.support.tally import judged, tally
from tests.support.tiny_catalogs import jpeg, write_folder
from tests.support.wrong_clock import PACKAGE, is_installed, wrong_clock

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]
SETTINGS: dict[str, Any] = {"max_reembed": 1, "embed": {"shard_images": 3}}

_JUMPING = """
import sys
from datetime import datetime
from itertools import cycle
from pathlib import Path
from tests.support.inline_pool import InlinePool
from tests.support.nights import Collection

folder, source, clock = map(Path, sys.argv[1:])
jumps, seen = cycle(["+400d", "-3h", "-2d"]), set()

def jump():
    clock.write_text(next(jumps))
    seen.add(datetime.now().date())

settings = {"max_reembed": 1, "embed": {"shard_images": 3}, "source": str(source)}
Collection(folder, settings=settings, n_runs=1, pool=InlinePool(before_task=jump)).night()
assert len(seen) >= 3, seen
"""


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    if not is_installed():
        absent("faketime", f"{PACKAGE} not found: apt install {PACKAGE}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", {f"{number}.jpg": jpeg(number) for number in range(7)})


def test_night_whose_clock_jumps_to_and_fro_ends_as_any_other(source: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "source": str(source)}
    right, jumping = (Collection(tmp_path / name, settings=settings) for name in ("right", "jumping"))
    right.night()
    jumping.night()
    write_folder(source, {"3.jpg": jpeg(103), "8.jpg": jpeg(8), "9.jpg": jpeg(9), "10.jpg": jpeg(10)})
    right.night()
    before = folder_state(jumping.folder / "store")
    clock = tmp_path / "clock"
    clock.write_text("+1h")
    done = subprocess.run(
        [sys.executable, "-c", _JUMPING, jumping.folder, source, clock],
        env={**os.environ, **wrong_clock(clock)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = folder_state(jumping.folder / "store")
    assert judged(after, before=before, wanted=folder_state(right.folder / "store")) == []
    tally.faults["clock jumps"] += 1


@pytest.mark.parametrize("offset", ["+400d", "-400d"])
def test_expire_goes_by_the_clock_of_the_store(
    offset: str, source: Path, command: Command, tmp_path: Path
) -> None:
    """All of it was written a moment ago, whatever the clock of this process says."""
    collection = Collection(tmp_path / "c", settings={**SETTINGS, "source": str(source)})
    collection.night()
    write_folder(source, {"3.jpg": jpeg(103)})
    collection.night()
    (collection.folder / "store" / "embeddings" / "nobodys-a.parquet").write_bytes(b"nobody names it")
    before = folder_state(collection.folder / "store")
    here = command.with_environment(**wrong_clock(offset))
    said = here.json("expire", "--store", collection.folder / "store", "--keep-last", 1, "--delete")
    assert (said["snapshots"], said["condemned"], said["due"], said["unfinished"]) == ([], [], [], [])
    after = folder_state(collection.folder / "store")
    assert judged(after, before=before, wanted=before) == []
    assert before.items() <= after.items()


@pytest.mark.integration
def test_s3_that_refuses_a_wrong_clock_is_explained(
    s3_service: S3Service, make_bucket: Callable[[str], str], command: Command
) -> None:
    if s3_service.name != "ceph":
        pytest.skip("moto does not look at the clock")
    store = S3Store(f"{make_bucket(s3_service.endpoints[0])}/p", endpoint_url=s3_service.endpoints[0])
    prepare_store(store)
    here = command.with_environment(AWS_ENDPOINT_URL=s3_service.endpoints[0], **wrong_clock("+1h"))
    said = here.run("status", "--store", store.uri, "--json")
    error = said.json["error"]
    assert (said.code, error["kind"]) == (1, "access")
    assert "this machine's clock is wrong" in error["message"]
    assert error["fix"] == "set the clock"
