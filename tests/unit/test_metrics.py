"""The metrics and whoever names them: the dashboard and the documentation know the same ones as the code."""

import json
import re
from pathlib import Path

from pipeline.cluster.metrics import METRICS

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "infra" / "grafana" / "embedding.json"
_NAMED = re.compile(r"\bray_(bitsieve_[a-z_]+)(\{[^}]*\})?")


def test_dashboard_shows_every_metric_and_only_metrics_that_exist() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    named = {found[0] for query in queries for found in _NAMED.findall(query)}
    assert named == {metric.name for metric in METRICS}


def test_dashboard_asks_only_for_labels_that_its_metrics_have() -> None:
    labels = {metric.name: {"collection", *metric.labels} for metric in METRICS}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            found = _NAMED.findall(query)
            for name, selector in found:
                assert set(re.findall(r"(\w+)\s*!?=~?", selector)) <= labels[name], query
            shown = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
            shown |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= set.intersection(*(labels[name] for name, _ in found)), query


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        assert f"| `{metric.name}` | {labels} |" in text
    assert set(re.findall(r"^\| `(bitsieve_\w+)` \|", text, re.M)) == {metric.name for metric in METRICS}
