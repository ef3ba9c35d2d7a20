"""Listing folders: every object is an image, whatever it is called, and what is none is counted."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.catalog.ids import original
from pipeline.catalog.listing import list_catalog, rows_at
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.errors import AccessDenied, SourceError, StorageError
from pipeline.storage.local import LocalStore
from pipeline.storage.store import ObjectStat
from tests.support.tiny_catalogs import (
    age,
    ids_of,
    jpeg,
    list_of,
    rejects_of,
    tar_of,
    write_folder,
    write_parquet,
    write_tar,
)


def test_list_folder_nested_names_in_key_order(tmp_path: Path) -> None:
    names = ["b/c.jpg", "a.jpg", "b-d.png", "b/a/deep/x", "no extension", "Z.JPG"]
    write_folder(tmp_path / "src", {name: jpeg(n) for n, name in enumerate(names)})
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == sorted(names, key=str.encode)
    assert catalog.format == "prefix"
    row = catalog.table.to_pylist()[catalog.table["image_id"].to_pylist().index("b/a/deep/x")]
    assert row["attributes"] == '{"folder": "b/a/deep"}'
    assert row["size_bytes"] == len(jpeg(3))
    assert row["version"].endswith(f":{len(jpeg(3))}")


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("caf\udce9.jpg", "caf\\xe9.jpg"),
        ("back\\slash.jpg", "back\\\\slash.jpg"),
        ("new\nline\tand\x1b[2Jescape", "new\nline\tand\x1b[2Jescape"),
        ("=cmd|'x'", "=cmd|'x'"),
        ("-leading", "-leading"),
        ('"><script>alert(1)</script>'.replace("/", "\u2215"), '"><script>alert(1)<\u2215script>'),
        ("e\u0301 NFD", "e\u0301 NFD"),
        ("\u00e9 NFC", "\u00e9 NFC"),
        ("\U0001f600 \u202eRTL", "\U0001f600 \u202eRTL"),
        ("%2e%2e%2f", "%2e%2e%2f"),
        ("{name}{tar}", "{name}{tar}"),
        ("a::b", "a::b"),
    ],
)
def test_list_folder_odd_name_is_kept_and_found_again(name: str, image_id: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {name: jpeg(1), "plain.jpg": jpeg(2)})
    catalog = list_of(tmp_path / "src", tmp_path)
    assert set(ids_of(catalog)) == {image_id, "plain.jpg"}
    assert original(image_id) == name
    spec = SourceSpec(uri=str(tmp_path / "src"), format=SourceFormat.PREFIX)
    source = LocalStore(tmp_path / "src")
    assert rows_at(source, spec, source, [image_id], tmp_path)["image_id"].to_pylist() == [image_id]


class MarkerStore(LocalStore):
    """A local folder as S3 consoles show it: with empty objects that stand for folders."""

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        yield ObjectStat(key="shoes/", size_bytes=0, etag="d41d8", modified_s=0)
        yield from super().list_objects(prefix, start_after=start_after)


def test_list_prefix_directory_markers_are_skipped_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"shoes/1.jpg": jpeg(1), "zero.jpg": b""})
    source = MarkerStore(tmp_path / "src")
    catalog = list_catalog(source, SourceSpec(uri=source.uri), source, tmp_path, lambda done, total: None)
    assert ids_of(catalog) == ["shoes/1.jpg", "zero.jpg"]
    assert catalog.skipped == {"directory_marker": 1}


def test_list_folder_include_and_exclude_narrow_and_count(tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {name: jpeg(1) for name in ("a.jpg", "b/a.jpg", "b/thumb.jpg", "c.txt")})
    catalog = list_of(tmp_path / "src", tmp_path, include=("*.jpg",), exclude=("*thumb*",))
    assert ids_of(catalog) == ["a.jpg", "b/a.jpg"]
    assert catalog.skipped == {"excluded": 2}


def test_list_folder_nothing_left_says_how_much_was_excluded(tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"a.jpg": jpeg(1)})
    with pytest.raises(SourceError, match="1 excluded") as caught:
        list_of(tmp_path / "src", tmp_path, include=("*.png",))
    assert "--include" in caught.value.fix


def test_list_missing_folder_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="lists no images"):
        list_of(tmp_path / "nowhere", tmp_path)


def test_list_mixed_formats_names_them_and_can_be_narrowed(tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"a.jpg": jpeg(1)})
    write_tar(tmp_path / "src" / "b.tar", tar_of(1, 2))
    with pytest.raises(SourceError, match="prefix and webdataset"):
        list_of(tmp_path / "src", tmp_path)
    assert ids_of(list_of(tmp_path / "src", tmp_path, include=("*.tar",))) == ["0001", "0002"]
    both = list_of(tmp_path / "src", tmp_path, format=SourceFormat.PREFIX)
    assert ids_of(both) == ["a.jpg", "b.tar"]


@pytest.mark.parametrize("name", ["tar", "parquet", "my.tar/parquet", "x.TAR.jpg"])
def test_list_folder_name_that_only_resembles_a_container_is_an_image(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {name: jpeg(1)})
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == [name]


@pytest.mark.parametrize("suffix", [".TAR.ZST", ".tar.bz2", ".tar.xz"])
def test_list_compressed_tars_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {f"a{suffix}": b"\x1f\x8b", "b.jpg": jpeg(1)})
    with pytest.raises(SourceError, match="compression") as caught:
        list_of(tmp_path / "src", tmp_path)
    assert "--exclude" in caught.value.fix
    assert ids_of(list_of(tmp_path / "src", tmp_path, include=("*.jpg",))) == ["b.jpg"]


def test_list_folder_huge_object_is_refused_unread(tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"a.jpg": jpeg(1), "backup.img": b""})
    with (tmp_path / "src" / "backup.img").open("r+b") as file:
        file.truncate(1 << 40)
    catalog = list_of(tmp_path / "src", tmp_path)
    assert rejects_of(catalog) == {"backup.img": "too_large"}
    assert catalog.n_listed == 2


def test_list_ids_in_two_tars_first_in_plan_order_wins(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "b.tar", tar_of(1, 2))
    write_tar(tmp_path / "src" / "a.tar", tar_of(2, 3))
    catalog = list_of(tmp_path / "src", tmp_path)
    images = {row["image_id"]: row["container"] for row in catalog.images().to_pylist()}
    assert images == {"0002": "a.tar", "0003": "a.tar", "0001": "b.tar"}
    assert rejects_of(catalog) == {"b.tar::0002.jpg": "duplicate_id"}
    assert catalog.n_listed == 4


def test_list_first_of_two_ids_is_refused_second_takes_its_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [("1.jpg", jpeg(1)), ("1.png", jpeg(2))])
    write_tar(tmp_path / "src" / "b.tar", [("1.jpg", jpeg(3))])
    catalog = list_of(tmp_path / "src", tmp_path)
    assert catalog.images()["locator"].to_pylist() == ["b.tar::1.jpg"]
    assert set(rejects_of(catalog).values()) == {"ambiguous_sample"}


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_list_unchanged_container_is_not_opened_again(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "src" / f"a.{kind}"
    if kind == "tar":
        write_tar(path, tar_of(1, 2, 3))
    else:
        write_parquet(path, {"id": ["1", "2", "3"], "image": [jpeg(1), jpeg(2), jpeg(3)]})
    first = list_of(tmp_path / "src", tmp_path)
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)  # the same inode and size, and not a container any more
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = list_of(tmp_path / "src", tmp_path)
    assert again.table.equals(first.table)
    assert (first.bytes_read, again.bytes_read) == (status.st_size, 0)
    age(path)
    with pytest.raises(SourceError, match=f"a.{kind}"):
        list_of(tmp_path / "src", tmp_path)


def listed_bytes(store: LocalStore) -> int:
    return sum(stat.size_bytes for stat in store.list_objects("listings/"))


def test_list_tar_written_again_stores_what_differs_and_reads_as_if_listed_afresh(tmp_path: Path) -> None:
    """Random nights over one tar: images change their size, come, go, and change places."""
    rng, path, store = random.Random(3), tmp_path / "src" / "a.tar", LocalStore(tmp_path / "store")
    numbers, sizes = list(range(400)), []
    for night in range(25):
        write_tar(
            path, [(f"{number % 1000:04d}.jpg", b"%d" % number * (1 + number % 900)) for number in numbers]
        )
        age(path, 10 * (night + 1))
        before = listed_bytes(store)
        listed = list_of(tmp_path / "src", tmp_path, store)
        sizes.append(listed_bytes(store) - before)
        afresh = list_of(tmp_path / "src", tmp_path / f"afresh-{night}")
        again = list_of(tmp_path / "src", tmp_path, store)
        assert listed.table.equals(afresh.table)
        assert again.table.equals(afresh.table)
        assert again.bytes_read == 0
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(numbers))
            match rng.randrange(4):
                case 0:
                    numbers[place] += 1000
                case 1:
                    del numbers[place]
                case 2:
                    numbers.insert(place, 1000 - night)
                case 3:
                    numbers[place : place + 9] = reversed(numbers[place : place + 9])
    whole = sizes[0]
    assert whole > 16_000
    assert sorted(sizes)[12] < whole / 2
    assert sum(size > 0.8 * whole for size in sizes) >= 2  # what differs was too much in between


def test_list_tar_whose_earlier_listing_is_gone_is_stored_whole(tmp_path: Path) -> None:
    path, store = tmp_path / "src" / "a.tar", LocalStore(tmp_path / "store")
    write_tar(path, tar_of(*range(30)))
    list_of(tmp_path / "src", tmp_path, store)
    for stat in [*store.list_objects("receipts/list/"), *store.list_objects("listings/")]:
        store.delete(stat.key)
    write_tar(path, tar_of(*range(1, 30)))
    age(path)
    assert len(ids_of(list_of(tmp_path / "src", tmp_path, store))) == 29
    (receipt,) = store.list_objects("receipts/list/")
    assert b"base" not in store.get(receipt.key)


def test_list_tar_whose_earlier_listing_is_damaged_is_stored_whole_and_differs_from_that_one_then(
    tmp_path: Path,
) -> None:
    """A whole listing, damaged, a whole one again, and a difference, which has no file of the older role."""
    path, store, files = tmp_path / "src" / "a.tar", LocalStore(tmp_path / "store"), list[set[str]]()
    seen: set[str] = set()
    for night in range(3):
        write_tar(path, [(f"{number:03d}.jpg", b"%d" % number) for number in range(night, 300)])
        age(path, 10 * (night + 1))
        assert len(ids_of(list_of(tmp_path / "src", tmp_path, store))) == 300 - night
        (new,) = {stat.key for stat in store.list_objects("receipts/list/")} - seen
        seen.add(new)
        files.append(set(json.loads(store.get(new))["files"]))
        if night == 0:
            (listing,) = store.list_objects("listings/")
            data = bytearray(store.get(listing.key))
            data[len(data) // 2] ^= 1
            store.put(listing.key, bytes(data))
    assert files == [{"listing"}, {"listing"}, {"base", "difference"}]


def test_list_other_id_template_does_not_use_the_old_listing(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "x.tar", tar_of(1))
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == ["0001"]
    assert ids_of(list_of(tmp_path / "src", tmp_path, id_template="{tar}/{name}")) == ["x/0001"]


@pytest.mark.parametrize("template", ["{nme}", "{name", "{}", "{0}", "{tar}", "{name.upper}", "{name!r}"])
def test_list_bad_id_template_is_a_usage_error(template: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "x.tar", tar_of(1))
    with pytest.raises(SourceError, match="template"):
        list_of(tmp_path / "src", tmp_path, id_template=template)


class VanishingStore(LocalStore):
    """Objects go between the listing and the reading."""

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        found = list(super().list_objects(prefix, start_after=start_after))
        yield from found
        for stat in found:
            self.delete(stat.key)


class ChangingStore(LocalStore):
    """Objects are replaced between the listing and the reading."""

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        found = list(super().list_objects(prefix, start_after=start_after))
        yield from found
        write_tar(Path(self.uri) / "a.tar", tar_of(1, 2, 3))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_list_container_that_goes_meanwhile_is_a_storage_error(kind: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", tar_of(1))
    if kind == "parquet":
        (tmp_path / "src" / "a.tar").unlink()
        write_parquet(tmp_path / "src" / "a.parquet", {"id": ["1"], "image": [jpeg(1)]})
    source = VanishingStore(tmp_path / "src")
    with pytest.raises(StorageError, match="a\\."):
        list_catalog(
            source,
            SourceSpec(uri=source.uri),
            LocalStore(tmp_path / "store"),
            tmp_path,
            lambda done, total: None,
        )


def test_list_tar_that_changes_meanwhile_leaves_no_false_listing(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "src" / "a.tar", tar_of(1))
    source, store = ChangingStore(tmp_path / "src"), LocalStore(tmp_path / "store")
    with pytest.raises(StorageError, match="changed"):
        list_catalog(source, SourceSpec(uri=source.uri), store, tmp_path, lambda done, total: None)
    assert list(store.list_objects("receipts/")) == []
    assert path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_list_unreadable_tar_is_denied(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "src" / "a.tar", tar_of(1))
    path.chmod(0)
    with pytest.raises(AccessDenied):
        list_of(tmp_path / "src", tmp_path)
