"""The extras in pyproject.toml can be resolved together, without downloading what they name."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.integration
@pytest.mark.timeout(400)
@pytest.mark.parametrize("extra", ["cpu", "gpu", "gpu-cu13", "device"])
def test_extra_resolves_on_this_platform(extra, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run(
        [*command, "--report", str(tmp_path / "report.json"), f"{ROOT}[{extra}]"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.json").stat().st_size > 0
