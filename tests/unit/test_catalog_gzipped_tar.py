"""Gzipped tars list and read as the plain ones do; bombs, cuts and tars inside tars are refused."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from pipeline.catalog.listing import list_catalog
from pipeline.catalog.read import FetchedImage, read_images
from pipeline.catalog.source import SourceFormat, SourceSpec
from pipeline.errors import SourceError
from pipeline.storage.gunzip import GunzipStream
from pipeline.storage.local import LocalStore
from tests.support.tiny_catalogs import ids_of, jpeg, list_of, rejects_of, tar_of, write_tar

COLUMNS = ["image_id", "version", "size_bytes", "offset", "attributes"]


def packed(tar: Path, name: str, *, members: int = 1) -> Path:
    """The tar gzipped under another name, in as many gzip members."""
    data = tar.read_bytes()
    step = -(-len(data) // members)
    target = tar.parent / name
    target.write_bytes(b"".join(gzip.compress(data[at : at + step]) for at in range(0, len(data), step)))
    tar.unlink()
    return target


def fetched(folder: Path, work: Path, *, reverse: bool = False) -> list[FetchedImage]:
    source, spec = LocalStore(folder), SourceSpec(uri=str(folder))
    catalog = list_catalog(source, spec, LocalStore(work / "s"), work / "c", lambda done, total: None)
    rows = catalog.images()
    if reverse:
        rows = rows.take(list(reversed(range(rows.num_rows))))
    return list(read_images(source, spec, rows))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "X.TAR.GZ"])
@pytest.mark.parametrize("members", [1, 3])
def test_gzipped_tar_lists_and_reads_as_the_plain_one(name: str, members: int, tmp_path: Path) -> None:
    entries = [
        *tar_of(*range(30)),
        ("0000.json", b'{"label": "shoe"}'),
        ("big.jpg", jpeg(99) + bytes(3 << 20)),
    ]
    write_tar(tmp_path / "plain" / "x.tar", entries)
    packed(write_tar(tmp_path / "gz" / "x.tar", entries), name, members=members)
    plain, listed = list_of(tmp_path / "plain", tmp_path / "w1"), list_of(tmp_path / "gz", tmp_path / "w2")
    assert listed.format == SourceFormat.WEBDATASET
    assert listed.table.select(COLUMNS) == plain.table.select(COLUMNS)
    wanted = [image.data for image in fetched(tmp_path / "plain", tmp_path / "w1")]
    assert [image.data for image in fetched(tmp_path / "gz", tmp_path / "w2")] == wanted
    backwards = fetched(tmp_path / "gz", tmp_path / "w3", reverse=True)
    assert [image.data for image in backwards] == wanted[::-1]
    assert all(image.reject is None for image in backwards)


def test_tar_template_leaves_out_the_whole_ending(tmp_path: Path) -> None:
    packed(write_tar(tmp_path / "c" / "x.tar", tar_of(1)), "x.tar.gz")
    assert ids_of(list_of(tmp_path / "c", tmp_path / "w", id_template="{tar}/{name}")) == ["x/0001"]


def test_gzipped_tar_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = packed(write_tar(tmp_path / "c" / "x.tar", tar_of(1, 2, 3)), "x.tar.gz")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(SourceError, match=r"x\.tar\.gz ends in the middle"):
        list_of(tmp_path / "c", tmp_path / "w")


def test_gzipped_tar_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = packed(write_tar(tmp_path / "c" / "x.tar", tar_of(1, 2, 3)), "x.tar.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"x\.tar\.gz"):
        list_of(tmp_path / "c", tmp_path / "w")


def test_tar_that_only_says_it_is_gzipped_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "c" / "x.tar", tar_of(1)).rename(tmp_path / "c" / "x.tgz")
    with pytest.raises(SourceError, match="is not whole gzip"):
        list_of(tmp_path / "c", tmp_path / "w")


def test_gzip_bomb_of_a_tar_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.gunzip.FREE_BYTES", 1 << 20)
    packed(write_tar(tmp_path / "c" / "x.tar", [("a.jpg", bytes(60 << 20))]), "x.tar.gz")
    with pytest.raises(SourceError, match=r"x\.tar\.gz"):
        list_of(tmp_path / "c", tmp_path / "w")


def test_gzipped_tar_replaced_since_it_was_listed_is_a_change(tmp_path: Path) -> None:
    packed(write_tar(tmp_path / "c" / "x.tar", tar_of(1, 2)), "x.tar.gz")
    rows = list_of(tmp_path / "c", tmp_path / "w").images()
    (tmp_path / "c" / "x.tar.gz").write_bytes(b"\x1f\x8b garbage")
    source, spec = LocalStore(tmp_path / "c"), SourceSpec(uri=str(tmp_path / "c"))
    assert [image.reject for image in read_images(source, spec, rows)] == ["source_changed"] * 2
    (tmp_path / "c" / "x.tar.gz").unlink()
    assert [image.reject for image in read_images(source, spec, rows)] == ["source_missing"] * 2


@pytest.mark.parametrize("name", ["in.tar", "in.tgz", "in.tar.zst", "in.jpg"])
def test_tar_inside_a_tar_is_refused_and_counted(name: str, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x.jpg"), io.BytesIO(b""))
    write_tar(tmp_path / "c" / "x.tar", [*tar_of(1), (name, inner.getvalue())])
    catalog = list_of(tmp_path / "c", tmp_path / "w")
    assert rejects_of(catalog) == {f"x.tar::{name}": "format_not_allowed"}
    assert (catalog.n_listed, ids_of(catalog)) == (2, ["0001"])


@pytest.mark.parametrize("name", ["x.tar.bz2", "x.tar.xz", "x.tar.zst"])
def test_tar_of_another_compression_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).write_bytes(b"x")
    with pytest.raises(SourceError, match="compression is not read"):
        list_of(tmp_path / "c", tmp_path / "w")


def test_stream_goes_back_over_a_block_and_not_further() -> None:
    data = bytes(range(256)) * 400
    file = io.BytesIO(gzip.compress(data))
    stream = GunzipStream(file, len(file.getvalue()), "s")
    assert stream.read(10_000) == data[:10_000]
    assert stream.seek(9_000) == 9_000
    assert stream.read(2_000) == data[9_000:11_000]
    assert stream.seek(50_000) == 50_000
    assert stream.read(1 << 20) == data[50_000:]
    assert stream.read(1) == b""
    with pytest.raises(io.UnsupportedOperation):
        stream.seek(0)
