"""A disk without room, under the store, under the cache: the run says so, and goes on once there is some.

``make test`` tries a few sizes, ``make soak`` many, so that the last byte is missing everywhere.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.storage.s3 import S3Store
from tests.conftest import absent
from tests.support.command import Command
from tests.support.invariants import folder_state
from tests.support.nights import Collection
from tests.support.small_disk import CannotMountError, SmallDisk, small_disk
from tests.support.tally import judged, tally
from tests.support.tiny_catalogs import jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
SIZES_KIB = range(4, 160, 4) if "BITSIEVE_SOAK" in os.environ else (16, 48, 80)
PLENTY_KIB = 20_000
SETTINGS: dict[str, Any] = {"embed": {"shard_images": 3}}

MakeDisk = Callable[[Path, int], AbstractContextManager[SmallDisk]]


@pytest.fixture
def make_disk(tmp_path: Path) -> MakeDisk:
    try:
        with small_disk(tmp_path / "try", 4):
            return small_disk
    except CannotMountError as exc:
        absent("mount", f"no disk can be mounted here: {exc}")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    source = write_folder(tmp_path / "photos", {f"{number}.jpg": jpeg(number) for number in range(7)})
    return {**SETTINGS, "source": str(source)}


def failure_of_a_night(folder: Path, settings: dict[str, Any]) -> StorageError | None:
    """Of the first night of a collection in ``folder``; making its store may fail, too."""
    try:
        Collection(folder, settings=settings).night()
    except StorageError as exc:
        return exc
    return None


def test_store_on_a_disk_that_is_full_at_any_point_stays_sound_and_the_next_run_ends_it(
    make_disk: MakeDisk, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = Collection(tmp_path / "whole", settings=settings)
    whole.night()
    wanted = folder_state(whole.folder / "store")
    failed = 0
    for size_kib in SIZES_KIB:
        folder = tmp_path / f"disk-{size_kib}"
        with make_disk(folder / "store", size_kib) as disk:
            error = failure_of_a_night(folder, settings)
            assert error is None or "no space left" in error.message
            assert error is None or "free some space" in error.fix
            failed += error is not None
            tally.faults["disk full"] += error is not None
            full = folder_state(disk.folder)
            assert judged(full) == []
            disk.resize(PLENTY_KIB)
            Collection(folder, settings=settings, n_runs=1).night()
            resumed = folder_state(disk.folder)
            assert judged(resumed, before=full, wanted=wanted) == []
    assert failed >= len(SIZES_KIB) // 2


@pytest.mark.integration
def test_search_whose_cache_is_full_says_what_to_free_and_works_once_there_is_room(
    make_disk: MakeDisk,
    settings: dict[str, Any],
    s3_endpoint: str,
    make_bucket: Callable[[str], str],
    command: Command,
    tmp_path: Path,
) -> None:
    Collection(tmp_path / "local", settings=settings).night()
    store = S3Store(f"{make_bucket(s3_endpoint)}/store", endpoint_url=s3_endpoint)
    for key, data in folder_state(tmp_path / "local" / "store").items():
        store.put(key, data)
    search = ["search", Path(settings["source"]) / "3.jpg", "--store", store.uri, "-k", 1, "--json"]
    with make_disk(tmp_path / "cache", 4) as disk:
        here = Command(disk.folder, {**command.more, "AWS_ENDPOINT_URL": s3_endpoint})
        refused = here.run(*search)
        assert (refused.code, refused.json["error"]["kind"]) == (1, "storage")
        assert "no space left" in refused.json["error"]["message"]
        assert "free some space" in refused.json["error"]["fix"]
        disk.resize(PLENTY_KIB)
        found = here.run(*search).json["results"][0]["matches"]
    assert [match["id"] for match in found] == ["3.jpg"]


_BUILDER = """
import sys
from pathlib import Path
from pipeline.errors import StorageError
from pipeline.index.mapped import create_array, npy_header

shape = (1 << 20,)
try:
    with create_array(Path(sys.argv[1]), npy_header(shape, "uint8"), shape, "uint8") as mapped:
        mapped.array[:] = 1
except StorageError as exc:
    print(exc.message)
"""


_TRUNK = """
import sys
from pathlib import Path
import numpy as np
from pipeline.config import TrainConfig
from pipeline.errors import StorageError
from pipeline.train.examples import trunk_features
from pipeline.train.packed import PackedImages
from pipeline.values import DecodeLimits
from tests.support.models import pool_model
from tests.support.tiny_catalogs import jpeg

place, data = Path(sys.argv[1]), jpeg(1)
packed = place.parent.parent / "images"
packed.write_bytes(data * 10_000)
starts = np.arange(10_001) * len(data)
images = PackedImages(path=packed, kept=np.arange(10_000), starts=starts, rejected={})
try:
    trunk_features(
        images, pool_model(), settings=TrainConfig(), name="vectors.npy", folder=place.parent,
        limits=DecodeLimits(), advance=lambda _: None,
    )
except StorageError as exc:
    print(exc.message)
"""


@pytest.mark.parametrize("script", [_BUILDER, _TRUNK], ids=["an index shard", "features of a training"])
def test_mapped_file_that_the_disk_has_no_room_for_is_an_error_and_ends_no_process(
    script: str, make_disk: MakeDisk, tmp_path: Path
) -> None:
    """Pages of a mapped file that find no room would be a bus error."""
    with make_disk(tmp_path / "cache", 64) as disk:
        done = subprocess.run(
            [sys.executable, "-c", script, disk.folder / "vectors.npy"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
    assert "could not be written: no space left" in done.stdout


_WRITER = """
import resource, sys
from pipeline.errors import StorageError
from pipeline.storage.local import LocalStore

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
store = LocalStore(sys.argv[1])
for write in (store.put, store.create):
    try:
        write("big", bytes(1001))
    except StorageError as exc:
        print(exc.message)
store.put("small", bytes(1000))
"""


def test_write_beyond_the_limit_of_a_files_size_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, tmp_path / "store"], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("larger than this process may write") == 2
    assert list(folder_state(tmp_path / "store")) == ["small"]
    assert list((tmp_path / "store" / ".bitsieve-tmp").iterdir()) == []


_REPORTER = """
import resource, signal, sys
from pathlib import Path
from jobs.evaluate.page import write_page
from pipeline.errors import UsageError
from pipeline.evaluate.report.document import Document, Finding, Mark

output, end = Path(sys.argv[1]), sys.argv[2]
document = Document(kind="retrieval", title="shop", verdict=Finding(mark=Mark.NOTE, text="new"))
if end == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    write_page(output, document, {"figures": list(range(10_000))})
except UsageError as exc:
    print(exc)
"""


@pytest.mark.parametrize("end", ["killed", "refused"])
def test_report_broken_off_while_it_is_written_leaves_the_one_before(end: str, tmp_path: Path) -> None:
    """The kernel ends or stops whoever writes more than it may, in the middle of the page or of the JSON."""
    before = {name: f"{name} of yesterday" for name in ("report.html", "report.json")}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    program = [sys.executable, "-c", _REPORTER, tmp_path / "report.html", end]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    tally.faults[f"report {end}"] += 1
    assert {name: (tmp_path / name).read_text() for name in before} == before
    if end == "killed":
        assert done.returncode == -signal.SIGXFSZ
    else:
        assert "cannot be written" in done.stdout
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)
