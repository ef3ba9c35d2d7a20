import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from jobs.demo_catalog import N_TARS, write_demo_catalog, write_second_night
from pipeline.errors import SourceError, UsageError
from pipeline.images.products import product_jpeg


def _contents(folder: Path) -> dict[str, bytes]:
    """Every member of every tar, by name; a name in two tars would be an error."""
    members: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                assert info.name not in members
                members[info.name] = file.read()
    return members


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_demo_catalog_written_twice_has_the_same_bytes(tmp_path: Path) -> None:
    first = write_demo_catalog(tmp_path / "a", n_products=6, views=3)
    write_demo_catalog(tmp_path / "b", n_products=6, views=3)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    assert list(_digests(tmp_path / "a")) == list(first.tars) == [f"shop-{i:05d}.tar" for i in range(N_TARS)]
    write_demo_catalog(tmp_path / "a", n_products=6, views=3)  # over itself
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


def test_demo_catalog_holds_each_image_with_its_labels(tmp_path: Path) -> None:
    catalog = write_demo_catalog(tmp_path, n_products=6, views=3, seed=2)
    members = _contents(tmp_path)
    ids = {name.removesuffix(".jpg") for name in members if name.endswith(".jpg")}
    assert ids == {f"p{p:04d}_v{v:02d}" for p in range(6) for v in range(3)} | set(catalog.broken)
    assert catalog.n_images == 18
    assert members["p0004_v01.jpg"] == product_jpeg(4, 1, 2)
    assert json.loads(members["p0004_v01.json"]) == {
        "product": "p0004",
        "category": "shirt",
        "group_id": "p0004",
    }
    assert catalog.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_demo_catalog_scatters_a_product_over_tars(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path, n_products=2, views=10)
    holders = set()
    for path in tmp_path.iterdir():
        with tarfile.open(path) as tar:
            if any(name.startswith("p0001") for name in tar.getnames()):
                holders.add(path.name)
    assert len(holders) >= 4


def test_demo_catalog_broken_files_are_what_they_say(tmp_path: Path) -> None:
    catalog = write_demo_catalog(tmp_path, n_products=40, views=1)
    members = _contents(tmp_path)
    broken = [members[f"{image_id}.jpg"] for image_id in catalog.broken]
    assert broken[0] == b""
    assert product_jpeg(0, 0).startswith(broken[1])
    assert len(broken[1]) < len(product_jpeg(0, 0))
    assert broken[3].startswith(b"<!DOCTYPE html>")
    assert len(broken) == 6


def test_demo_catalog_tar_members_carry_no_time_or_owner(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path, n_products=1, views=1)
    for path in tmp_path.iterdir():
        with tarfile.open(path) as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")


def test_demo_catalog_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holiday\.txt"):
        write_demo_catalog(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


@pytest.mark.parametrize(("n_products", "views"), [(0, 1), (1, 0), (1, 91)])
def test_demo_catalog_impossible_count_is_refused(tmp_path: Path, n_products: int, views: int) -> None:
    with pytest.raises(UsageError, match="expected"):
        write_demo_catalog(tmp_path, n_products=n_products, views=views)


def test_second_night_changes_exactly_what_it_says(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path, n_products=20, views=5)
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    before = _contents(tmp_path)
    night = write_second_night(tmp_path, fraction=0.06)
    after = _contents(tmp_path)

    assert len(night.changed) == 6
    assert len(night.added) == 5
    assert len(night.deleted) == 1
    assert set(before) - set(after) == {f"{i}.{e}" for i in night.deleted for e in ("jpg", "json")}
    assert set(after) - set(before) == {f"{i}.{e}" for i in night.added for e in ("jpg", "json")}
    differing = {name for name in set(before) & set(after) if before[name] != after[name]}
    assert differing == {f"{i}.jpg" for i in night.changed}
    assert {json.loads(after[f"{i}.json"])["product"] for i in night.added} == {"p0020"}
    untouched = {path.name for path in tmp_path.iterdir() if path.stat().st_mtime == 1}
    assert untouched == {f"shop-{i:05d}.tar" for i in range(N_TARS)} - set(night.tars)


def test_second_night_is_deterministic(tmp_path: Path) -> None:
    nights = []
    for name in ("a", "b"):
        write_demo_catalog(tmp_path / name, n_products=8, views=3)
        nights.append(write_second_night(tmp_path / name))
    assert nights[0] == nights[1]
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


def test_second_night_few_changes_leave_most_tars_alone(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path, n_products=20, views=1)
    assert len(write_second_night(tmp_path, fraction=0.01).tars) <= 3


def test_third_night_changes_other_images_again(tmp_path: Path) -> None:
    write_demo_catalog(tmp_path, n_products=8, views=3)
    second = write_second_night(tmp_path, fraction=0.2)
    between = _contents(tmp_path)
    third = write_second_night(tmp_path, fraction=0.2, night=2)
    after = _contents(tmp_path)
    assert third.changed != second.changed
    assert all(between[f"{i}.jpg"] != after[f"{i}.jpg"] for i in third.changed)
    assert third.added[0].startswith("p0009")


def test_second_night_without_a_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no demo catalog"):
        write_second_night(tmp_path)


def test_second_night_impossible_fraction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fraction"):
        write_second_night(tmp_path, fraction=0.7)
