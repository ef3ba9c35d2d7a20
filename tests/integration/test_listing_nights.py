"""Nights from listing files, by the command: another file every night, one collection."""

from pathlib import Path

import pytest

from jobs.models import BUILTIN
from tests.support.command import Command
from tests.support.pictures import jpeg

pytestmark = pytest.mark.integration


def test_nights_from_dated_listings_are_one_collection(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(12):
        path = photos / f"{number % 3}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(40, 30, seed=number))
    keys = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    bitsieve = Command(tmp_path / "cache")

    def night(name: str, lines: list[str]) -> dict[str, object]:
        (tmp_path / name).write_text("\n".join(["key,price", *lines]) + "\n")
        options = ("--root", photos, "--store", tmp_path / "store", "--model", BUILTIN)
        return bitsieve.json(
            "reindex", tmp_path / name, *options, "--label", "price", "--set", "embed.workers=1"
        )

    first = night("monday.csv", [f"{key},1" for key in keys])
    assert first["published"]
    same = night("tuesday.csv", [f"{key},1" for key in reversed(keys)])
    assert (same["published"], same["snapshot"], same["digest"]) == (False, 1, first["digest"])
    fewer = night("wednesday.csv", [f"{key},2" for key in keys[1:]])
    assert fewer["published"]
    assert fewer["images"] == {
        "listed": 11, "embedded": 0, "reused": 11, "stale": 0, "rejected": 0, "set_aside": 0, "deleted": 1,
    }  # fmt: skip
    options = ("--store", tmp_path / "store", "--label", "@folder")
    folder = bitsieve.json("reindex", photos, *options, "--set", "embed.workers=1")
    assert folder["images"]["listed"] == 12
