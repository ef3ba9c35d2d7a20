"""What a snapshot holds, what differs between two, and what became of one image."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobs.cli import run
from tests.support.nights import Collection
from tests.support.tiny_catalogs import GARBAGE, jpeg, write_folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Two nights: an image goes, one comes, one changes, one turns into garbage; one always was."""
    shop = Collection(tmp_path_factory.mktemp("shop"), settings={"gates": {"max_rejected_share": 1.0}})
    files = {f"{number:03d}.jpg": jpeg(number) for number in range(8)}
    write_folder(shop.source, files | {"bad.jpg": GARBAGE})
    shop.night()
    (shop.source / "000.jpg").unlink()
    write_folder(shop.source, {"001.jpg": jpeg(101), "002.jpg": GARBAGE + b"2", "new.jpg": jpeg(50)})
    shop.night()
    return shop


def said(shop: Collection, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--store", str(shop.folder / "store"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def test_diff_names_what_came_changed_and_went(shop: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    result = said(shop, capsys, "snapshots", "diff", "1", "2")
    assert (result["added"], result["changed"], result["deleted"]) == (["new.jpg"], ["001.jpg"], ["000.jpg"])
    assert result["counts"] == {"added": 1, "changed": 1, "deleted": 1, "unchanged": 6}
    back = said(shop, capsys, "snapshots", "diff", "2", "1")
    assert (back["added"], back["deleted"]) == (["000.jpg"], ["new.jpg"])
    assert run(["snapshots", "diff", "1", "2", "--store", str(shop.folder / "store")]) == 0
    assert "1 added, 1 changed, 1 deleted, 6 unchanged" in capsys.readouterr().out


def test_files_are_all_there_and_another_engine_reads_them(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    files = said(shop, capsys, "snapshots", "files")["files"]
    assert {file["kind"] for file in files} >= {"embeddings", "rejects", "deletes", "attributes", "encoder"}
    for file in files:
        assert Path(file["uri"]).stat().st_size == file["bytes"]
    parts = said(shop, capsys, "snapshots", "files", "--kind", "embeddings")["files"]
    rows = duckdb.read_parquet([file["uri"] for file in parts]).shape[0]
    assert rows == sum(file["rows"] for file in parts) == 8 + sum(file["dead_rows"] for file in parts)
    assert run(["snapshots", "files", "--kind", "x", "--store", str(shop.folder / "store")]) == 2


@pytest.mark.parametrize(
    ("image_id", "fate", "reason", "advised"),
    [
        ("003.jpg", "live", None, ""),
        ("002.jpg", "stale", "unidentified", "--requeue unidentified"),
        ("bad.jpg", "rejected", "unidentified", "--requeue unidentified"),
        ("000.jpg", "deleted", None, "check the id"),
        ("nobody", "unknown", None, "check the id"),
    ],
)
def test_explain_tells_what_became_of_an_image(
    shop: Collection,
    capsys: pytest.CaptureFixture[str],
    image_id: str,
    fate: str,
    reason: str | None,
    advised: str,
) -> None:
    result = said(shop, capsys, "explain", image_id)
    assert result["fate"] == fate
    assert (result["refusal"] or {}).get("reason") == reason
    assert advised in result["advice"]
    assert (result["row"] is not None) == (fate in ("live", "stale"))
    assert run(["explain", image_id, "--store", str(shop.folder / "store")]) == 0
    assert image_id in capsys.readouterr().out
