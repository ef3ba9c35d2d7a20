"""What a run counts can be scraped over HTTP from the Ray that it started, as Prometheus would."""

import re
import time
import urllib.request
from pathlib import Path

import pytest

from jobs.reindex import reindex
from jobs.session import open_run
from pipeline.config import CatalogConfig
from tests.support.models import pool_model
from tests.support.nights import Silence
from tests.support.pictures import jpeg
from tests.support.tiny_catalogs import write_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

N_IMAGES = 8


def scraped(port: int) -> dict[str, float]:
    """Our counters, by ``name outcome``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^ray_(bitsieve_images_total)\{.*outcome="(\w+)".*\} ([0-9.e+]+)$', text, re.M)
    return {f"{name} {outcome}": float(value) for name, outcome, value in found}


class WhileReducing(Silence):
    """Asks for the counters once everything is embedded: a night leaves Ray before it publishes."""

    def __init__(self, expected: dict[str, float]) -> None:
        self.expected = expected
        self.found: dict[str, float] = {}

    def stage(self, name: str, total: int, unit: str) -> None:
        if name != "reduce":
            return
        import ray  # it reads its environment when it is first imported, so not before the run

        (node,) = ray.nodes()
        deadline = time.monotonic() + 60
        while self.found != self.expected and time.monotonic() < deadline:
            self.found = scraped(node["MetricsExportPort"])
            time.sleep(0.2)


def test_counters_of_an_embedding_are_exported_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    monkeypatch.setenv("BITSIEVE_CACHE", str(tmp_path / "cache"))
    photos = {f"{number}.jpg": jpeg(40, 30, seed=number) for number in range(N_IMAGES)}
    source = write_folder(tmp_path / "source", {**photos, "broken.jpg": b"no image at all"})
    (tmp_path / "model.onnx").write_bytes(pool_model())
    config = CatalogConfig.model_validate(
        {
            "source": str(source),
            "store": str(tmp_path / "store"),
            "model": str(tmp_path / "model.onnx"),
            "embed": {"workers": 1, "few_images": 0},
            "gates": {"max_rejected_share": 1},
        }
    )
    expected = {"bitsieve_images_total embedded": N_IMAGES, "bitsieve_images_total unidentified": 1}
    with open_run(config, quiet=True) as run:
        run.progress = progress = WhileReducing(expected)
        assert reindex(run).published
    assert progress.found == expected
