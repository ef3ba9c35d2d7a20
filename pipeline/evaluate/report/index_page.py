"""Renders what `evaluate index` measured as one HTML page; nothing is loaded from elsewhere."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipeline.evaluate.report import plots, words
from pipeline.evaluate.report.facts import IndexFacts
from pipeline.evaluate.report.page import CONTENT_SECURITY_POLICY


def render_index_page(result: Mapping[str, Any], facts: IndexFacts) -> str:
    """The page; the same arguments give the same text.

    Args:
        result: The JSON of `evaluate index`; numbers and a digest, no text from a catalog.
        facts: What the curve is drawn from.
    """
    recall = {name: value for name, value in result.items() if name.startswith("ann_recall@")}
    filters = [
        (one, next(value for name, value in one.items() if name.startswith("ann_recall@")))
        for one in result["filters"]
    ]
    return _template().render(
        result=result, recall=recall, filters=filters, curve=plots.recall_curve(facts), facts=facts
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": words.count, "percent": words.percent}
    environment.globals |= {"csp": CONTENT_SECURITY_POLICY, "css": Markup(_file("page.css"))}  # noqa: S704 - our own file
    return environment.from_string(_file("index.html"))


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
