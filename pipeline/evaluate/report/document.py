"""A report as data, in the order in which a person should read it; ``page`` turns it into HTML.

1. The verdict, then one plain sentence for each finding.
2. Sections of blocks: tables, facts, drawings, galleries of pictures.
3. Methods: every definition, sample size, seed, digest and software version.

Texts may come from a catalog: whoever wrote them, they end as visible text. The JSON beside the page holds
the result itself; a document holds what is said of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

SERIES_AT_MOST = 6


class Mark(StrEnum):
    """How something is meant; shown as a sign and a word, never by colour alone."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A plain sentence; ``detail`` says how sure it is."""

    mark: Mark
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A term and what is to be said of it; ``code`` is a digest or another text for machines."""

    term: str
    text: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Terms with their values, side by side."""

    items: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A cell with a name and what it means, in smaller letters."""

    text: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A cell with a value in [0, 1] and its interval, drawn as a bar."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(one) for one in (self.value, self.low, self.high)):
            raise ValueError(f"a share and its interval are finite, got {self}")


Cell = str | Named | Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells; the first cell of a row names it, the others are numbers as text.

    Raises:
        ValueError: a row has another number of cells than there are columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""
    total: tuple[Cell, ...] | None = None

    def __post_init__(self) -> None:
        for row in (*self.rows, *([self.total] if self.total else [])):
            if len(row) != len(self.columns):
                raise ValueError(f"expected {len(self.columns)} cells, got {len(row)}: {row}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis of a drawing; its ends are the data's where ``low`` and ``high`` do not say otherwise."""

    title: str
    scale: Literal["linear", "log"] = "linear"
    low: float | None = None
    high: float | None = None
    as_percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place in a drawing; ``low`` and ``high`` are the interval of ``y``."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points with one name: joined by a line in the order of x, or scattered."""

    name: str
    points: tuple[Point, ...]
    kind: Literal["line", "scatter"] = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A dashed line across a drawing at ``value`` of the axis ``axis``, with a few words on it."""

    axis: Literal["x", "y"]
    value: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Lines and points over two axes.

    Attributes:
        title: What is drawn.
        alt: What the drawing shows, as a sentence for who does not see it.
        x: The axis across.
        y: The axis upwards.
        series: At most six, told apart by colour, dashes and legend.
        rules: Values to compare with.
        note: A sentence below the title.

    Raises:
        ValueError: nothing to draw, too many series, a number that is not finite, or one of at most 0 on a
            logarithmic axis.
    """

    title: str
    alt: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.series) <= SERIES_AT_MOST or not all(one.points for one in self.series):
            raise ValueError(f"expected 1 to {SERIES_AT_MOST} series, none of them empty: {self.title!r}")
        for axis, numbers in ((self.x, self.numbers("x")), (self.y, self.numbers("y"))):
            if not all(math.isfinite(n) and (n > 0 or axis.scale == "linear") for n in numbers):
                raise ValueError(f"{self.title!r}: a number cannot be drawn on a {axis.scale} axis")

    def numbers(self, axis: Literal["x", "y"]) -> list[float]:
        """Everything that stands along an axis."""
        points = [point for series in self.series for point in series.points]
        rules = [rule.value for rule in self.rules if rule.axis == axis]
        ends = [end for end in (getattr(self, axis).low, getattr(self, axis).high) if end is not None]
        if axis == "x":
            return [*(point.x for point in points), *rules, *ends]
        bounds = [bound for point in points for bound in (point.low, point.high) if bound is not None]
        return [*(point.y for point in points), *bounds, *rules, *ends]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A value with a name, from 0; with an interval where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    """The value in words; a number with three digits if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Values of named things below each other, which lie between 0 and ``high``.

    Raises:
        ValueError: nothing to draw, or a number that is negative or not finite.
    """

    title: str
    alt: str
    bars: tuple[Bar, ...]
    high: float | None = None
    """Right end; the largest number if absent."""
    note: str = ""

    def __post_init__(self) -> None:
        numbers = [n for bar in self.bars for n in (bar.value, bar.low, bar.high) if n is not None]
        if not numbers or not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError(f"{self.title!r}: bars need numbers from 0 upwards, got {numbers[:8]}")


def query_picture(image_id: str) -> str:
    """Under what the picture of a query of another collection is looked up: its id may be that of two."""
    return f"\0query {image_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of the catalog in a gallery.

    Attributes:
        image_id: Under which a thumbnail is looked up; without one a counted placeholder stands there.
        alt: What the picture is, in words.
        mark: A solid green border for good, a dashed red one for bad, a plain one for a note.
        word: The same in one word, such as ``same``.
        figure: A number beside the word.
        caption: A line below.
    """

    image_id: str
    alt: str
    mark: Mark = Mark.NOTE
    word: str = ""
    figure: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRow:
    """Pictures that belong together; ``lead`` is larger and stands before them, such as a query."""

    pictures: tuple[Picture, ...]
    title: str = ""
    subtitle: str = ""
    text: str = ""
    lead: Picture | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Rows of pictures worth looking at, and why."""

    rows: tuple[PictureRow, ...]
    title: str = ""
    note: str = ""

    def image_ids(self) -> Iterator[str]:
        """Of every picture, as often as it is shown."""
        for row in self.rows:
            yield from (picture.image_id for picture in (*([row.lead] if row.lead else []), *row.pictures))


Block = Table | Facts | Plot | Bars | Gallery


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Blocks under one heading, below each other or ``side_by_side`` where the screen is wide enough."""

    title: str
    blocks: tuple[Block, ...]
    note: str = ""
    side_by_side: bool = False

    def image_ids(self) -> frozenset[str]:
        """Every image that its galleries show."""
        galleries = (block for block in self.blocks if isinstance(block, Gallery))
        return frozenset(image_id for gallery in galleries for image_id in gallery.image_ids())


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A whole report.

    Attributes:
        kind: Which report it is, such as ``retrieval``.
        title: What was judged, such as ``shop, snapshot 12``.
        subtitle: How much of it, and when.
        verdict: The one sentence to remember.
        findings: The others, the most important first.
        sections: The evidence.
        methods: How it was measured, for who wants to measure it again.
    """

    kind: str
    title: str
    verdict: Finding
    subtitle: str = ""
    findings: tuple[Finding, ...] = ()
    sections: tuple[Section, ...] = ()
    methods: tuple[Fact, ...] = ()

    def image_ids(self) -> frozenset[str]:
        """Every image that a gallery shows: the thumbnails that the page asks for."""
        return frozenset[str]().union(*(section.image_ids() for section in self.sections))
