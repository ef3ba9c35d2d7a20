"""Nights from a change list: the same snapshot as a whole night would make, without listing the source."""

from pathlib import Path
from typing import Any

import pytest

from jobs.reindex import Night
from pipeline.catalog.change_list import read_changes
from pipeline.errors import SourceError, UsageError
from tests.support.nights import Collection, live
from tests.support.tiny_catalogs import GARBAGE, jpeg, tar_of, write_folder, write_parquet, write_tar


@pytest.fixture
def shop(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path, settings={"gates": {"max_rejected_share": 1}})
    files = {f"shoes/{number:03d}.jpg": jpeg(number) for number in range(20)}
    write_folder(collection.source, files | {"bad.jpg": GARBAGE, "worse.jpg": b""})
    return collection


def changed(shop: Collection, text: str, **settings: Any) -> Night:
    """A night from a change list."""
    path = shop.folder / "changes.csv"
    path.write_text(text)
    shop.changes = read_changes(path)
    try:
        return shop.night(**settings)
    finally:
        shop.changes = None


def test_changes_make_the_snapshot_of_a_whole_night(shop: Collection) -> None:
    shop.night(label="@folder")
    write_folder(shop.source, {"new.jpg": jpeg(50), "shoes/003.jpg": jpeg(53), "shoes/004.jpg": GARBAGE})
    write_folder(shop.source, {"not named.jpg": jpeg(70)})
    (shop.source / "shoes/007.jpg").unlink()
    (shop.source / "worse.jpg").unlink()
    night = changed(
        shop,
        "op,key,price\nupsert,new.jpg,7\n,shoes/003.jpg,\nupsert,shoes/004.jpg,\ndelete,shoes/007.jpg,\n",
    )
    assert night.published
    assert night.manifest.coverage.model_dump() == {
        "listed": 21, "embedded": 2, "reused": 17, "stale": 1, "rejected": 1, "set_aside": 0, "deleted": 1,
    }  # fmt: skip
    found = live(shop, night)
    assert {"new.jpg", "shoes/004.jpg"} <= set(found)
    assert not {"shoes/007.jpg", "not named.jpg"} & set(found)
    prices = shop.open(night).attributes
    rows = dict(zip(prices["image_id"].to_pylist(), prices["price"].to_pylist(), strict=True))
    assert rows["new.jpg"] == "7"
    folders = dict(zip(prices["image_id"].to_pylist(), prices["folder"].to_pylist(), strict=True))
    assert folders["shoes/001.jpg"] == "shoes"
    again = changed(shop, "key\nnew.jpg\n")
    assert again.manifest.coverage.reused == 19
    whole = shop.night()
    coverage = whole.manifest.coverage
    assert (coverage.embedded, coverage.reused, coverage.stale, coverage.rejected) == (1, 19, 1, 1)


def test_changes_stale_image_that_is_mended_is_found_without_being_named(shop: Collection) -> None:
    shop.night()
    write_folder(shop.source, {"shoes/004.jpg": GARBAGE})
    assert changed(shop, "key\nshoes/004.jpg\n").manifest.coverage.stale == 1
    kept = changed(shop, "op,key\ndelete,shoes/001.jpg\n")
    assert (kept.manifest.coverage.stale, kept.manifest.coverage.deleted) == (1, 1)
    write_folder(shop.source, {"shoes/004.jpg": jpeg(99)})
    mended = changed(shop, "op,key\ndelete,shoes/002.jpg\n")
    assert (mended.manifest.coverage.stale, mended.manifest.coverage.embedded) == (0, 1)


def test_changes_deleting_what_was_never_listed_warns_and_repeating_does_not(
    shop: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.night()
    changed(shop, "op,key\ndelete,shoes/001.jpg\ndelete,001\n")
    assert "1 of 2 images to delete were never listed, such as 001;" in capsys.readouterr().err
    assert changed(shop, "op,key\ndelete,shoes/001.jpg\n").manifest.coverage.reused == 19
    assert "warning" not in capsys.readouterr().err


def test_changes_of_tars_read_the_named_tars_only(tmp_path: Path) -> None:
    shop = Collection(tmp_path)
    write_tar(shop.source / "a.tar", tar_of(*range(9)))
    write_tar(shop.source / "b.tar", tar_of(*range(9, 18)))
    shop.night()
    write_tar(shop.source / "b.tar", [*tar_of(*range(9, 17)), ("0017.jpg", jpeg(90)), *tar_of(30)])
    night = changed(shop, "key\nb.tar::0017.jpg\nb.tar::0030.jpg\n")
    coverage = night.manifest.coverage
    assert (coverage.listed, coverage.embedded, coverage.reused) == (19, 2, 17)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("op,key\nremove,a.jpg\n", "line 2 says 'remove'"),
        ("op,key\nupsert,nowhere.jpg\n", "1 images to upsert are not in .*nowhere.jpg"),
        ("op,name\nupsert,a.jpg\n", "key"),
    ],
)
def test_changes_that_cannot_be_are_refused(text: str, message: str, shop: Collection) -> None:
    shop.night()
    with pytest.raises(SourceError, match=message):
        changed(shop, text)


def test_changes_need_a_snapshot(shop: Collection) -> None:
    with pytest.raises(UsageError, match="no snapshot"):
        changed(shop, "key\nbad.jpg\n")


def test_changes_in_parquet_and_the_last_row_of_a_key_counts(tmp_path: Path) -> None:
    columns = {"op": ["delete", "upsert", "upsert"], "key": ["a", "b", "a"], "colour": [None, "red", "blue"]}
    found = read_changes(write_parquet(tmp_path / "list.parquet", columns))
    assert found.deletes == set()
    assert found.upserts == {"b": {"colour": "red"}, "a": {"colour": "blue"}}
    with pytest.raises(SourceError, match="no change list"):
        read_changes(tmp_path / "missing.csv")
