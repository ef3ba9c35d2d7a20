"""``bitsieve bench reindex`` on a small catalog, without Ray: what it counts and how it judges."""

from pathlib import Path

import pytest

from jobs.bench.reindex import SHARES, measure
from jobs.reindex import Night, reindex
from jobs.run import Run
from jobs.session import open_run
from pipeline.config import CatalogConfig
from tests.support.inline_pool import InlinePool

pytestmark = pytest.mark.integration


def night(config: CatalogConfig) -> tuple[Run, Night]:
    with open_run(config, quiet=True) as run:
        run.pool = InlinePool()
        return run, reindex(run)


def test_bench_reindex_embeds_exactly_what_changed(tmp_path: Path) -> None:
    result = measure(tmp_path, 1000, "builtin", night)
    assert result["images"] == result["first_night"]["embedded"] == 1000
    assert [one["changed"] for one in result["nights"]] == [round(share * 1000) for share in SHARES]
    assert result["goals"]["embedded_is_changed"]
    assert result["goals"]["nothing_changed_reads_no_image"]
    assert result["nothing_changed"]["embedded"] == 0
    assert result["nothing_changed"]["reused"] == 1000
    assert result["changed"] == result["embedded"] == 10
    assert result["goals"]["bytes_written_at_most_16384_per_changed_image_and_262144"]
    assert result["time_ratio"] < 1
