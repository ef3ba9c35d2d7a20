"""``bitsieve demo`` as a stranger runs it: in an empty folder, with nothing but what is installed."""

from pathlib import Path

import pytest

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
    assert report.with_suffix(".json").exists()
    listed = command.json("snapshots", "list", "--store", tmp_path / "demo" / "store")["snapshots"]
    assert [one["snapshot"] for one in listed] == [2, 1]
