"""``bitsieve demo`` as a stranger runs it: in an empty folder, with nothing but what is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.model.file import read_model
from tests.support.command import Command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_demo_ends_in_about_ten_lines_and_a_report_that_is_there(command: Command, tmp_path: Path) -> None:
    outcome = command.run("demo", "-o", tmp_path / "demo", "--products", 30)
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.strip().splitlines()
    assert 6 <= len(lines) <= 16
    report = tmp_path / "demo" / "report.html"
    (named,) = [line.partition(" ")[2].strip() for line in lines if line.startswith("report ")]
    assert Path(named).resolve() == report.resolve()
    assert "<html" in report.read_text(encoding="utf-8")
    found = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["models"]["fixed filters"]["metrics"]["map"]["difference"] > 0
    listed = command.json("snapshots", "list", "--store", tmp_path / "demo" / "store")["snapshots"]
    assert [one["snapshot"] for one in listed] == [2, 1]


def test_the_built_in_model_is_trained_and_written_by_one_command(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    quick = ("steps=2", "classes=4", "size=32", "validate_every=1")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jobs.demo_model", "-o", str(file), "--products", "20"),
            *("--work", str(tmp_path / "work"), *(word for one in quick for word in ("--set", one))),
        ],
        env={**os.environ, "BITSIEVE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model = read_model(file.read_bytes(), "trained")
    assert (model.card.name, model.preprocess.size) == ("bitsieve-builtin", (32, 32))
