"""Walking and reading take the same memory for a large tar, Parquet file or row group as for a small one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.tiny_catalogs import write_tar

pytestmark = pytest.mark.integration

IMAGE_BYTES = 200_000
PROGRAM = """
import sys
from pathlib import Path
from pipeline.catalog.listing import list_catalog
from pipeline.catalog.plan import plan_shards
from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec
from pipeline.storage.local import LocalStore
source, work = sys.argv[1:]
spec = SourceSpec(uri=source)
catalog = list_catalog(LocalStore(source), spec, LocalStore(work), Path(work), lambda done, total: None)
for shard in plan_shards(catalog.images()):
    for image in read_images(LocalStore(source), spec, shard.table, budget_bytes=8 << 20):
        assert image.reject is None, image.detail
status = Path("/proc/self/status").read_text()
print(catalog.n_listed, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def images(count: int) -> list[bytes]:
    noise = np.random.default_rng(1).bytes(IMAGE_BYTES + count)
    return [noise[n : n + IMAGE_BYTES] for n in range(count)]


def write_large_tar(folder: Path, count: int) -> None:
    write_tar(folder / "a.tar", [(f"{n:05d}.jpg", data) for n, data in enumerate(images(count))])


def write_row_group(folder: Path, count: int) -> None:
    folder.mkdir()
    table = pa.table({"id": [f"{n:05d}" for n in range(count)], "image": images(count)})
    pq.write_table(table, folder / "a.parquet", write_batch_size=8, use_dictionary=False)


def peak_mib(folder: Path, work: Path, count: int) -> float:
    argv = [sys.executable, "-c", PROGRAM, str(folder), str(work)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    n_images, peak_kib = done.stdout.split()
    assert int(n_images) == count
    return int(peak_kib) / 1024


@pytest.mark.parametrize("write", [write_large_tar, write_row_group])
def test_peak_memory_does_not_grow_with_the_file(write, tmp_path):
    peaks = []
    for count in (150, 1500):
        write(tmp_path / f"c{count}", count)
        peaks.append(peak_mib(tmp_path / f"c{count}", tmp_path / f"w{count}", count))
    small, large = peaks
    assert large - small < 60, "270 MB more of images"
