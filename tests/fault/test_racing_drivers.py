"""Two drivers of one collection: side by side, and one that is frozen while the other does everything.

``make test`` freezes a driver at every fifth write, ``make soak`` at each.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support import crash_driver
from tests.support.invariants import State, folder_state
from tests.support.tally import judged, tally
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
SOAK = "BITSIEVE_SOAK" in os.environ
STRIDE = 1 if SOAK else 5
ROUNDS = 50 if SOAK else 3
SETTINGS: dict[str, Any] = {
    "max_reembed": 1,
    "gates": {"max_rejected_share": 1.0, "max_shrink_share": 1.0},
    "embed": {"shard_images": 3},
    "index": {"compact_share": 1.0},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", {f"{number}.jpg": jpeg(number) for number in range(7)})


@pytest.fixture
def settings(source: Path) -> dict[str, Any]:
    return {**SETTINGS, "source": str(source)}


@pytest.fixture
def first_night(tmp_path: Path, settings: dict[str, Any], source: Path) -> Path:
    """A store of one snapshot; the catalog has changed since."""
    folder = tmp_path / "first"
    assert crash_driver.night(folder, settings, 1) == 0
    write_folder(source, {"3.jpg": jpeg(103), "4.jpg": GARBAGE, "8.jpg": jpeg(8)})
    (source / "5.jpg").unlink()
    return folder


def newest(state: State) -> dict[str, Any]:
    """The newest snapshot as it is stored."""
    key = max(key for key in state if "/snapshots/" in key)
    manifest: dict[str, Any] = json.loads(state[key])
    return manifest


def rows(state: State) -> str:
    """Which images are live, in which versions."""
    digest: str = newest(state)["content"]["rows_digest"]
    return digest


def test_two_drivers_at_once_publish_one_snapshot_and_both_end_well(
    first_night: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    before = folder_state(first_night / "store")
    for number in range(ROUNDS):
        folder = tmp_path / f"race-{number}"
        shutil.copytree(first_night, folder)
        racers = [crash_driver.started(folder, settings, run) for run in (2, 3)]
        assert [crash_driver.ended(racer) for racer in racers] == [0, 0]
        after = folder_state(folder / "store")
        assert judged(after, before=before, at_once=True) == []
        assert newest(after)["sequence"] == 2
        tally.faults["two drivers at once"] += 1


def test_driver_frozen_at_any_write_undoes_nothing_when_it_wakes_up(
    first_night: Path, settings: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    """It has listed a catalog that is gone by the time the other driver has published."""
    before = folder_state(first_night / "store")
    whole, late, aside = tmp_path / "whole", source / "late.jpg", tmp_path / "late.jpg"
    aside.write_bytes(jpeg(9))
    shutil.copytree(first_night, whole)
    assert crash_driver.night(whole, settings, 2) == 0
    n_writes = crash_driver.n_writes(whole)
    aside.rename(late)
    assert crash_driver.night(whole, settings, 3) == 0
    wanted = rows(folder_state(whole / "store"))
    for at in range(1, n_writes + 1, STRIDE):
        late.rename(aside)
        folder = tmp_path / "frozen"
        shutil.copytree(first_night, folder)
        zombie = crash_driver.frozen(folder, settings, 2, at)
        aside.rename(late)
        assert crash_driver.night(folder, settings, 3) == 0
        published = folder_state(folder / "store")
        assert rows(published) == wanted
        assert judged(published, before=before, at_once=True) == []
        assert crash_driver.wake(zombie) == 0
        after = folder_state(folder / "store")
        assert judged(after, before=published, at_once=True) == []
        assert newest(after)["digest"] == newest(published)["digest"], at
        shutil.rmtree(folder)
