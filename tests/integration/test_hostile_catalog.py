"""402 broken, odd and hostile images as one catalog, in all three formats: every one ends as expected.

The expected outcome of every file is committed in ``tests/golden/hostile_images.csv``. It was drawn up from
what this code does and then compared, file by file, with what plain Pillow makes of each (``manifest.csv``).
They differ in formats that are not opened (ICO, JPEG 2000, PSD), floating point pixels, AVIF, GIFs whose
first frame is whole, and a bad EXIF block.
"""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.catalog.parquet import list_parquet
from pipeline.errors import SourceError
from pipeline.model.filters import build_filter_model
from pipeline.snapshot.rows import live_rows, refused_rows
from pipeline.storage.local import LocalStore
from pipeline.storage.ranged import RangedFile
from tests.support.nights import Collection

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings(r"ignore:::PIL\."),
]

EXPECTED = Path(__file__).parents[1] / "golden" / "hostile_images.csv"


@pytest.fixture(scope="module")
def hostile(shared_data):
    return sorted((shared_data / "hostile" / "images").iterdir())


@pytest.fixture(scope="module")
def expected():
    with EXPECTED.open(newline="") as file:
        return {row["file"]: row["expected"] for row in csv.DictReader(file)}


def as_files(folder, files):
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())


def as_tar(folder, files):
    with tarfile.open(folder / "hostile.tar", "w") as tar:
        for number, file in enumerate(files):
            member = tarfile.TarInfo(f"{number:04d}.img")
            data = file.read_bytes()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def as_parquet(folder, files):
    table = pa.table(
        {
            "id": [f"{number:04d}" for number in range(len(files))],
            "image": [file.read_bytes() for file in files],
        }
    )
    pq.write_table(table, folder / "hostile.parquet", row_group_size=50)


@pytest.mark.parametrize("write", [as_files, as_tar, as_parquet])
def test_night_over_hostile_images_every_file_ends_as_expected(hostile, expected, write, tmp_path):
    collection = Collection(tmp_path, model=build_filter_model())
    write(collection.source, hostile)

    night = collection.night(gates={"max_rejected_share": 1.0})

    content, cache = night.manifest.content, tmp_path / "cache"
    rows = live_rows(
        collection.store,
        content.parts,
        {part.key: part_mask(part.rows) for part in content.parts},
        cache,
    )
    refused = refused_rows(collection.store, content.parts, cache)
    outcome = dict.fromkeys(rows["image_id"].to_pylist(), "embedded")
    outcome |= dict(zip(refused["image_id"].to_pylist(), refused["reason"].to_pylist(), strict=True))
    names = [file.name if write is as_files else f"{number:04d}" for number, file in enumerate(hostile)]
    assert {file.name: outcome[name] for file, name in zip(hostile, names, strict=True)} == expected
    assert night.manifest.coverage.adds_up
    assert night.manifest.coverage.listed == len(hostile)


def part_mask(rows):
    return np.zeros(rows, dtype=bool)


def test_hostile_parquet_files_each_is_refused_with_its_name(shared_data):
    folder = shared_data / "hostile" / "parquet"
    store = LocalStore(folder)
    for path in sorted(folder.iterdir()):
        with pytest.raises(SourceError, match=path.name.replace("-", ".")):
            list_parquet(RangedFile(store, path.name, path.stat().st_size, 1 << 20), path.name, None, None)
