"""Ray's folders under /tmp: those of killed drivers go, those that are in use stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.scratch import Scratch

pytestmark = [pytest.mark.fault]

_DRIVER = """
import sys
from pathlib import Path
from pipeline.cluster.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "logs").mkdir()
(scratch.path / "logs" / "log").write_text("a line")
print(scratch.path, flush=True)
sys.stdin.read()
"""


def _driver(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    return driver, Path(driver.stdout.readline().strip())


def _kill(driver: subprocess.Popen[str]) -> None:
    driver.kill()
    driver.communicate()


def test_scratch_is_private_and_gone_after_remove(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    (scratch.path / "session" / "logs").mkdir(parents=True)
    assert os.stat(scratch.path).st_mode & 0o777 == 0o700
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_driver_is_swept_away_by_the_next_one(tmp_path: Path) -> None:
    driver, folder = _driver(tmp_path)
    _kill(driver)
    assert (folder / "logs" / "log").exists()
    scratch = Scratch(tmp_path)
    assert list(tmp_path.iterdir()) == [scratch.path]
    scratch.remove()


def test_the_folder_of_a_living_driver_stays(tmp_path: Path) -> None:
    driver, folder = _driver(tmp_path)
    Scratch(tmp_path).remove()
    assert (folder / "logs" / "log").exists()
    _kill(driver)


def test_the_folder_of_a_killed_driver_stays_while_a_process_of_its_ray_lives(tmp_path: Path) -> None:
    driver, folder = _driver(tmp_path)
    _kill(driver)
    log = (folder / "logs" / "log").open()
    with log, subprocess.Popen(["sleep", "60"], stdin=log) as agent:
        Scratch(tmp_path).remove()
        assert folder.exists()
        agent.kill()
    Scratch(tmp_path).remove()
    assert not folder.exists()


def test_links_and_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bsv-foreign").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "driver.lock").touch()
    (tmp_path / "bsv-link").mkdir()
    (tmp_path / "bsv-link" / "driver.lock").symlink_to(tmp_path / "elsewhere" / "driver.lock")
    Scratch(tmp_path).remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bsv-foreign", "bsv-link", "elsewhere"]
