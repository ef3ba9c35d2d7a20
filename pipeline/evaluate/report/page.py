"""Renders the page: an evaluation, thumbnails and facts in, one HTML text out.

Autoescape is on, and every text that passes through the template is first made visible: control and
direction characters are spelled out. Ids and labels appear as text and alt text only, never in a link, an id
or a style.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from itertools import groupby

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipeline.evaluate.evaluation import EvaluationReport, GalleryKind, GalleryQuery
from pipeline.evaluate.report import plots, words
from pipeline.evaluate.report.facts import IndexFacts, RunFacts

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")


def render_html(
    report: EvaluationReport,
    thumbnails: Mapping[str, str],
    *,
    index: IndexFacts | None = None,
    run: RunFacts | None = None,
) -> str:
    """The page as one HTML document; the same arguments give the same text.

    Args:
        report: The evaluation.
        thumbnails: By image id a ``data:`` URI of a JPEG, PNG or WebP made from pixels; absent ones become
            placeholders, which are counted.
        index: How the index was calibrated, where there is one.
        run: What the run covered, where the page belongs to one.

    Raises:
        ValueError: if a thumbnail is anything but such a URI.
    """
    shown = _shown_ids(report)
    for image_id in shown & thumbnails.keys():
        if not _THUMBNAIL.fullmatch(thumbnails[image_id]):
            raise ValueError(f"the thumbnail of {image_id!r} is not a data: URI of a JPEG, PNG or WebP")
    return _template().render(
        report=report,
        label=words.label_name(report),
        thumbnails=thumbnails,
        n_thumbnails=len(shown),
        n_thumbnails_absent=len(shown - thumbnails.keys()),
        sentences=words.verdict(report, index, run),
        measures=[(name, *words.MEASURES[name], report.metrics[name]) for name in words.MEASURES],
        gallery=_by_kind(report.gallery),
        index=index,
        curve=plots.recall_curve(index) if index else Markup(""),
        run=run,
        rejects=sorted(run.rejects.items(), key=lambda item: (-item[1], item[0])) if run else [],
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = lambda value: value if not _is_plain(value) else words.visible(value)
    environment.filters |= {"short": words.short, "count": words.count, "percent": words.percent}
    environment.globals |= {
        "csp": CONTENT_SECURITY_POLICY,
        "css": Markup(_file("page.css")),  # noqa: S704 - our own file
        "interval_bar": plots.interval_bar,
        "reasons": words.REASONS,
    }
    return environment.from_string(_file("page.html"))


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, Markup)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown_ids(report: EvaluationReport) -> set[str]:
    return {query.image_id for query in report.gallery} | {
        neighbour.image_id for query in report.gallery for neighbour in query.neighbours
    }


def _by_kind(gallery: tuple[GalleryQuery, ...]) -> list[tuple[str, str, list[GalleryQuery]]]:
    order = list(GalleryKind)
    ordered = sorted(gallery, key=lambda query: order.index(query.kind))
    return [
        (*words.GALLERY[kind], list(group)) for kind, group in groupby(ordered, key=lambda query: query.kind)
    ]
