"""Listing WebDataset tars: what is an image, what belongs to it, and which tars are refused."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from tests.support.tiny_catalogs import ids_of, jpeg, list_of, rejects_of, tar_of, write_folder, write_tar

BLOCK = 512


def member(name: str, kind: bytes, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_tar_samples_are_grouped_up_to_the_first_dot_after_the_last_slash(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "src" / "a.tar",
        [
            ("v1.0/red.left.jpg", jpeg(1)),
            ("v1.0/blue.JPG", jpeg(2)),
            ("v1.0/red.json", json.dumps({"price": 9.5, "sold": True, "tags": ["x"], "none": None}).encode()),
            ("v1.0/red.cls", b"7\n"),
            ("v1.0/blue.txt", "caf\u00e9".encode()),
            ("no-extension", jpeg(3)),
        ],
    )
    catalog = list_of(tmp_path / "src", tmp_path)
    rows = {row["image_id"]: row for row in catalog.images().to_pylist()}
    assert list(rows) == ["v1.0/red", "v1.0/blue", "no-extension"]
    assert json.loads(rows["v1.0/red"]["attributes"]) == {"price": 9.5, "sold": True, "cls": "7"}
    assert json.loads(rows["v1.0/blue"]["attributes"]) == {"txt": "caf\u00e9"}
    assert rows["v1.0/red"]["locator"] == "a.tar::v1.0/red.left.jpg"
    assert rows["v1.0/red"]["version"] == hashlib.sha256(jpeg(1)).hexdigest()
    assert catalog.format == "webdataset"


def test_tar_sample_without_image_is_counted_not_listed(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [*tar_of(1), ("2.json", b"{}"), ("3.txt", b"x"), ("3.cls", b"1")])
    catalog = list_of(tmp_path / "src", tmp_path)
    assert catalog.n_listed == 1
    assert catalog.skipped == {"sample_without_image": 2}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b'{"a": NaN}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a": null}',
        b'{"a": "' + b"x" * 1001 + b'"}',
    ],
)
def test_tar_json_that_says_nothing_usable_leaves_the_image(text: bytes, tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [("1.jpg", jpeg(1)), ("1.json", text)])
    row = list_of(tmp_path / "src", tmp_path).images().to_pylist()[0]
    assert (row["image_id"], row["attributes"]) == ("1", "{}")


def test_tar_json_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    data = b'{"title": "a\\ud800b", "\\udce9": 1}'
    write_tar(tmp_path / "src" / "a.tar", [("1.jpg", jpeg(1)), ("1.json", data)])
    row = list_of(tmp_path / "src", tmp_path).images().to_pylist()[0]
    assert json.loads(row["attributes"]) == {"title": "a?b", "?": 1}


def test_tar_two_images_in_a_sample_are_both_ambiguous(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [("1.jpg", jpeg(1)), ("2.jpg", jpeg(2)), ("1.png", jpeg(3))])
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == ["2"]
    assert rejects_of(catalog) == {"a.tar::1.jpg": "ambiguous_sample", "a.tar::1.png": "ambiguous_sample"}


def test_tar_member_name_twice_first_wins_second_is_a_duplicate(tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [("1.jpg", jpeg(1)), ("2.jpg", jpeg(2)), ("1.jpg", jpeg(3))])
    catalog = list_of(tmp_path / "src", tmp_path)
    assert dict(zip(ids_of(catalog), catalog.images()["version"].to_pylist(), strict=True)) == {
        "1": hashlib.sha256(jpeg(1)).hexdigest(),
        "2": hashlib.sha256(jpeg(2)).hexdigest(),
    }
    assert list(rejects_of(catalog).values()) == ["duplicate_id"]
    assert catalog.n_listed == 3


@pytest.mark.parametrize(
    "info",
    [
        member("x.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("x.jpg", tarfile.LNKTYPE, linkname="0001.jpg"),
        member("x.jpg", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("x.jpg", tarfile.FIFOTYPE),
        member("../../x.jpg", tarfile.SYMTYPE, linkname="."),
    ],
    ids=["symlink", "hardlink", "device", "fifo", "above"],
)
def test_tar_member_that_is_no_regular_file_is_refused(info: tarfile.TarInfo, tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [*tar_of(1), (info, b""), *tar_of(2)])
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == ["0001", "0002"]
    assert list(rejects_of(catalog).values()) == ["not_regular"]
    assert catalog.n_listed == 3


def test_tar_gnu_sparse_member_of_a_terabyte_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("sparse.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    info.size = BLOCK
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386 : 386 + 12], header[398 : 398 + 12] = b"00000000000\0", b"00000001000\0"
    header[483:495] = tarfile.itn(1 << 40, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info_1 = tarfile.TarInfo("1.jpg")
        info_1.size = len(jpeg(1))
        tar.addfile(info_1, io.BytesIO(jpeg(1)))
    write_folder(tmp_path / "src", {"a.tar": bytes(header) + b"x" * BLOCK + good.getvalue()})
    catalog = list_of(tmp_path / "src", tmp_path)
    assert ids_of(catalog) == ["1"]
    assert rejects_of(catalog) == {"a.tar::sparse.jpg": "not_regular"}


@pytest.mark.parametrize(
    "name", ["/etc/passwd.jpg", "../../up.jpg", "./here.jpg", "a//b.jpg", "caf\udce9/x.jpg"]
)
def test_tar_odd_member_name_is_only_a_name(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [(name, jpeg(1))])
    expected = name.removesuffix(".jpg").replace("\udce9", "\\xe9")
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == [expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src", "store"]


@pytest.mark.parametrize("name", [".jpg", "folder/._AppleDouble.jpg", ".DS_Store"])
def test_tar_member_without_a_name_before_its_dot_is_a_bad_id(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "src" / "a.tar", [*tar_of(1), (name, jpeg(2))])
    assert rejects_of(list_of(tmp_path / "src", tmp_path)) == {f"a.tar::{name}": "bad_id"}


def test_tar_in_folders_with_folders_inside_is_listed(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "src" / "x" / "y" / "a.tar", [(member("d/", tarfile.DIRTYPE), b""), ("d/1.jpg", jpeg(1))]
    )
    catalog = list_of(tmp_path / "src", tmp_path, id_template="{tar}/{name}")
    assert ids_of(catalog) == ["x/y/a/d/1"]


@pytest.mark.parametrize("tail", [b"", bytes(BLOCK), bytes(20 * BLOCK)])
def test_tar_empty_with_its_end_marker_lists_nothing(tail: bytes, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"empty.tar": bytes(BLOCK) + tail})
    write_tar(tmp_path / "src" / "full.tar", tar_of(1))
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == ["0001"]


def whole(*numbers: int) -> tuple[bytes, int]:
    """A tar's bytes, and where its end marker begins."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in tar_of(*numbers):
            info = tarfile.TarInfo(str(name))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return out.getvalue(), end


DATA, END = whole(1, 2, 3)
FIRST_END = BLOCK + -(-len(jpeg(1)) // BLOCK) * BLOCK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DATA[:100],
        DATA[:FIRST_END],
        DATA[: FIRST_END + 100],
        DATA[: FIRST_END + BLOCK],
        DATA[: FIRST_END + BLOCK + 10],
        DATA[:END],
        DATA[: END + 100],
        DATA[:FIRST_END] + b"garbage " * 200,
        DATA[:END] + b"garbage " * 200,
        b"garbage " * 200,
        DATA + DATA,
        DATA + b"x",
        gzip.compress(DATA),
        jpeg(1) * 3,
    ],
    ids=[
        "nothing",
        "first header",
        "after the first member",
        "second header",
        "before the second body",
        "inside the second body",
        "before the end marker",
        "inside the end marker",
        "garbage after the first member",
        "garbage after the last member",
        "garbage",
        "two tars joined by cat",
        "something after the end",
        "gzip",
        "a picture",
    ],
)
def test_tar_damaged_is_refused_by_name_and_leaves_no_listing(data: bytes, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"shop/bad.tar": data})
    write_tar(tmp_path / "src" / "shop" / "good.tar", tar_of(7))
    for _ in range(2):  # no receipt makes it good on the next night
        with pytest.raises(SourceError, match=r"shop/bad\.tar") as caught:
            list_of(tmp_path / "src", tmp_path)
        assert caught.value.fix


@pytest.mark.parametrize("cut", [FIRST_END, END])
def test_tar_cut_between_members_names_the_byte(cut: int, tmp_path: Path) -> None:
    write_folder(tmp_path / "src", {"bad.tar": DATA[:cut]})
    with pytest.raises(SourceError, match=rf"byte {cut}\b"):
        list_of(tmp_path / "src", tmp_path)


@pytest.mark.parametrize("size", [-1, -512, -(1 << 60), 1 << 62])
def test_tar_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    header = bytearray(DATA)
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header[:BLOCK]))[0]
    write_folder(tmp_path / "src", {"bad.tar": bytes(header)})
    with pytest.raises(SourceError, match=r"bad\.tar"):
        list_of(tmp_path / "src", tmp_path)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_of_any_format_lists_long_names(form: int, tmp_path: Path) -> None:
    name = "/".join(["folder"] * 20) + "/" + "x" * 90 + ".jpg"
    (tmp_path / "src").mkdir()
    with tarfile.open(tmp_path / "src" / "a.tar", "w", format=form) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(jpeg(1))
        tar.addfile(info, io.BytesIO(jpeg(1)))
    assert ids_of(list_of(tmp_path / "src", tmp_path)) == [name.removesuffix(".jpg")]
