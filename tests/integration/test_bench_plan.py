"""``bitsieve bench plan`` on small listings: all is listed, and what was changed is to be embedded."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.bench.plan import Form, measure, write_night

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("form", list(Form))
def test_bench_plan_finds_what_was_changed(form: Form, tmp_path: Path) -> None:
    found = measure(3_000, form, tmp_path)
    listing = write_night(tmp_path, 3_000, form)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "data").iterdir())]
    versions = [f"{row['e_tag']}:{row['size']}" for table in tables for row in table.to_pylist()]
    parts = [pq.read_table(path) for path in sorted((tmp_path / "parts").iterdir())]
    known = [version for part in parts for version in part["version"].to_pylist()]
    n_changed = sum(now != then for now, then in zip(versions, known, strict=True))
    assert listing.is_file()
    assert 15 <= n_changed <= 60
    assert (found["listed"], found["to_embed"]) == (3_000, n_changed)
    assert found["stages"].keys() == {"list", "parent", "diff", "cut"}
    assert found["peak_bytes_per_row"] * 3_000 <= found["peak_bytes"] * 1.01
