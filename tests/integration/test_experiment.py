"""An experiment by the command: a report, and a second time only what is missing."""

from pathlib import Path

import pytest

from pipeline.images.products import product_jpeg
from tests.support.command import Command
from tests.support.tiny_catalogs import write_folder

pytestmark = pytest.mark.integration

_PRODUCTS, _VIEWS = 16, 3
_SMALL = (
    *("--steps", "2", "--set", "train.classes=3", "--set", "train.images=2"),
    *("--set", "train.validate_every=2", "--set", "train.warmup_steps=1", "--set", "train.cpus=1"),
)


@pytest.mark.timeout(300)
def test_an_experiment_ends_in_a_report_and_goes_on_where_it_was(tmp_path: Path) -> None:
    photos = {
        f"p{product:02d}/{view}.jpg": product_jpeg(product, view)
        for product in range(_PRODUCTS)
        for view in range(_VIEWS)
    }
    shop, store = write_folder(tmp_path / "shop", photos), tmp_path / "store"
    command = Command(tmp_path / "cache")
    asked = ("experiment", "dimension", shop, "--store", store, "--label", "@folder", *_SMALL)
    first = command.json(*asked, "--seeds", "1")
    assert [way["name"] for way in first["ways"]] == ["64", "128", "256", "512", "untrained"]
    assert [way["x"] for way in first["ways"]] == [64, 128, 256, 512, None]
    assert not first["concludes"]
    kept = {path: path.stat().st_mtime_ns for path in store.glob("trainings/*/result.json")}
    assert len(kept) == 4
    page = tmp_path / "report.html"
    second = command.json(*asked, "--seeds", "2", "-o", page)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(store.glob("trainings/*/result.json"))) == 8
    assert second["ways"][0]["metrics"]["map_at_r"]["seeds"][0] == pytest.approx(
        first["ways"][0]["metrics"]["map_at_r"]["mean"]
    )
    assert "Nothing is concluded" in page.read_text()
    refused = command.run(*("experiment", "flops"), *asked[2:], "--set", "train.size=32")
    assert refused.code == 2
    assert "flops brings its own networks" in refused.stderr
    networks = command.json(*("experiment", "flops"), *asked[2:], "--seeds", "1", "--steps", "1")
    costs = [way["mult_adds"] for way in networks["ways"][:-1]]
    assert costs == sorted(costs, reverse=True)
    assert "0.25 of the published filters" in networks["scaled"]
