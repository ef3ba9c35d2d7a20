"""A night that is killed at a write, whichever, is run again and ends as if nobody had killed it.

``make test`` takes every third write, ``make soak`` each.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import crash_driver
from tests.support.invariants import folder_state
from tests.support.tally import judged
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
STRIDE = 1 if "BITSIEVE_SOAK" in os.environ else 3
SETTINGS: dict[str, Any] = {
    "max_reembed": 1,
    "gates": {"max_rejected_share": 1.0, "max_shrink_share": 1.0},
    "embed": {"shard_images": 3},
}


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A night that nobody killed: the store before it and after it, and how to run it."""

    folder: Path
    before: Path | None
    settings: dict[str, Any]
    run: int

    def again(self, folder: Path, run: int, at: int | None = None) -> int:
        return crash_driver.night(folder, self.settings, run, at)


def undisturbed(folder: Path, *, nights: int, compact_share: float) -> Undisturbed:
    """The first night over 7 images, or the second, on which some were added, changed, spoilt and deleted."""
    source = write_folder(folder / "photos", {f"{number}.jpg": jpeg(number) for number in range(7)})
    write_folder(source, {"bad.jpg": GARBAGE})
    settings = {**SETTINGS, "source": str(source), "index": {"compact_share": compact_share}}
    before = None
    if nights == 2:
        before = folder / "before"
        assert crash_driver.night(before, settings, 1) == 0
        write_folder(source, {"3.jpg": jpeg(103), "4.jpg": GARBAGE, "8.jpg": jpeg(8), "9.jpg": jpeg(9)})
        (source / "5.jpg").unlink()
        shutil.copytree(before, folder / "whole")
    whole = Undisturbed(folder=folder / "whole", before=before, settings=settings, run=nights)
    assert whole.again(whole.folder, nights) == 0
    return whole


@pytest.mark.parametrize(
    ("nights", "compact_share", "packs"),
    [(1, 1.0, False), (2, 1.0, False), (2, 0.05, True)],
    ids=["first", "incremental", "compaction"],
)
def test_night_killed_at_any_write_ends_as_if_it_had_not_been(
    tmp_path: Path, nights: int, compact_share: float, packs: bool
) -> None:
    whole = undisturbed(tmp_path, nights=nights, compact_share=compact_share)
    wanted = folder_state(whole.folder / "store")
    assert any(key.startswith("receipts/pack/") for key in wanted) == packs
    n_writes = crash_driver.n_writes(whole.folder)
    assert n_writes >= 12
    for at in range(1, n_writes + 1, STRIDE):
        folder = tmp_path / "killed"
        if whole.before is not None:
            shutil.copytree(whole.before, folder)
        before = folder_state(folder / "store")
        assert whole.again(folder, nights, at) == crash_driver.KILLED
        killed = folder_state(folder / "store")
        assert judged(killed, before=before) == []
        assert whole.again(folder, nights + 1) == 0
        resumed = folder_state(folder / "store")
        assert judged(resumed, before=killed, wanted=wanted) == [], at
        assert [key for key in resumed if "/snapshots/" in key] == [
            key for key in wanted if "/snapshots/" in key
        ]
        shutil.rmtree(folder)
