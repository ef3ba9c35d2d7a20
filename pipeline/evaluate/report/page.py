"""Renders a document: a value and thumbnails in, one HTML text out that loads nothing and runs nothing.

Autoescape is on, and every text that passes through the template is first made visible: control and
direction characters are spelled out. Ids and labels appear as text and alt text only, never in a link, an id
or a style.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from pipeline.evaluate.report import document as parts
from pipeline.evaluate.report import plots, words
from pipeline.evaluate.report.document import Document

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_THUMBNAIL = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")
_PARTS = re.compile(r"(?<=[_/.])(?=[^_/.])")
_NARROW_COLUMNS = 3  # a table with more of them is folded on a phone
_FOLDABLE_COLUMNS = 4  # with more of them each number has its column's name with it there


def render_html(document: Document, thumbnails: Mapping[str, str] | None = None) -> str:
    """The page as one HTML document; the same arguments give the same text.

    Args:
        document: The report.
        thumbnails: By image id a ``data:`` URI of a JPEG, PNG or WebP made from pixels; absent ones become
            placeholders, which are counted.

    Raises:
        ValueError: if a thumbnail is anything but such a URI.
    """
    thumbnails = thumbnails or {}
    for image_id in document.image_ids() & thumbnails.keys():
        if not _THUMBNAIL.fullmatch(thumbnails[image_id]):
            raise ValueError(f"the thumbnail of {image_id!r} is not a data: URI of a JPEG, PNG or WebP")
    return _template().render(document=document, thumbnails=thumbnails)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = lambda value: value if not _is_plain(value) else words.visible(value)
    environment.filters |= {"short": words.short, "count": words.count, "breakable": _breakable}
    environment.tests |= {
        kind.__name__.lower(): lambda value, kind=kind: isinstance(value, kind)
        for kind in (
            parts.Table,
            parts.Facts,
            parts.Plot,
            parts.Bars,
            parts.Gallery,
            parts.Named,
            parts.Share,
        )
    }
    environment.globals |= {
        "csp": CONTENT_SECURITY_POLICY,
        "css": Markup(_file("page.css")),  # noqa: S704 - our own file
        "draw": plots.draw,
        "draw_bars": plots.draw_bars,
        "interval_bar": plots.interval_bar,
        "swatch": plots.swatch,
        "narrow": _NARROW_COLUMNS,
        "foldable": _FOLDABLE_COLUMNS,
        "signs": {"good": "✓", "bad": "✗", "note": "·"},
    }
    return environment.from_string(_file("page.html"))


def _breakable(text: str) -> Markup:
    """A name that may end a line after each of its parts; what is copied from the page is the name."""
    return Markup("<wbr>").join(escape(words.visible(part)) for part in _PARTS.split(text))


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, Markup)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
