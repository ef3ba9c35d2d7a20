"""The page's drawings as SVG text: deterministic, coloured by the page's style sheet, no scripts or fonts.

Numbers become coordinates; every text is made visible and escaped on its way in, and stays text that can be
selected. Series differ in colour, dashes and the shape of their points.
"""

from collections.abc import Sequence

from markupsafe import Markup, escape

from pipeline.evaluate.report.document import Bar, Bars, Plot, Point, Rule, Series, Share
from pipeline.evaluate.report.scale import Ruler
from pipeline.evaluate.report.words import short, visible

_WIDTH, _HEIGHT = 440.0, 274.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 424.0, 32.0, 222.0
_DIGIT = 8.0  # width of a digit of the style sheet's size, and a little
_WHISKERS_AT_MOST = 12  # with more points the intervals of a line become a band
_DOTS_AT_MOST = 40
_BAR_HEIGHT = 40.0


def interval_bar(share: Share) -> Markup:
    """A track from 0 to 1 with the interval and the value on it; says nothing that the table does not say."""
    low, high, mean = (100 * min(max(value, 0.0), 1.0) for value in (share.low, share.high, share.value))
    return Markup(  # noqa: S704 - numbers only
        '<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="4" width="100" height="4" rx="1"/>'
        f'<rect class="span" x="{low:.2f}" y="4" width="{max(high - low, 0.3):.2f}" height="4"/>'
        f'<rect class="tick" x="{min(mean, 99.2):.2f}" y="0" width="0.8" height="12"/></svg>'
    )


def draw(plot: Plot) -> Markup:
    """Lines and points over two axes."""
    y = Ruler.over(plot.y, plot.numbers("y"), _BOTTOM, _TOP)
    x = Ruler.over(plot.x, plot.numbers("x"), _left_of(y), _RIGHT)
    drawn = [_series(number, series, x, y) for number, series in enumerate(plot.series)]
    return _svg([_grid(x, y), *(_rule(rule, x, y) for rule in plot.rules), *drawn], plot.alt, _HEIGHT)


def swatch(number: int, series: Series) -> Markup:
    """A piece of a series for the legend."""
    line = f'<line class="line s{number}" x1="0" x2="28" y1="7" y2="7"/>' if series.kind == "line" else ""
    return Markup(  # noqa: S704 - numbers only
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true">{line}{_dot(number, 14, 7)}</svg>'
    )


def draw_bars(chart: Bars) -> Markup:
    """Named values below each other, each with its name above its bar."""
    end = chart.high or max(n for bar in chart.bars for n in (bar.value, bar.high or 0.0)) or 1.0
    rows = [_bar(number, bar, end) for number, bar in enumerate(chart.bars)]
    return _svg(rows, chart.alt, _BAR_HEIGHT * len(rows) + 4)


def _svg(parts: Sequence[Markup], alt: str, height: float) -> Markup:
    return Markup('<svg class="drawing" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, visible(alt), Markup("").join(parts)
    )


def _left_of(y: Ruler) -> float:
    """Where the drawing begins, so that the longest number of the axis upwards stands before it."""
    longest = max(len(y.text(number)) for number in y.ticks(24))
    return max(_LEFT, _DIGIT * longest + 8)


def _grid(x: Ruler, y: Ruler) -> Markup:
    rows = [
        f'<line class="grid" x1="{x.first:g}" x2="{_RIGHT:g}" y1="{y.place(v):.1f}" y2="{y.place(v):.1f}"/>'
        f'<text x="{x.first - 8:g}" y="{y.place(v) + 4.5:.1f}" text-anchor="end">{y.text(v)}</text>'
        for v in y.ticks(24)
    ]
    columns = [_column(x.place(v), x.text(v)) for v in x.ticks(58)]
    titles = Markup(
        '<text class="axis" x="0" y="14">{}</text>'
        '<text class="axis" x="{:g}" y="{:g}" text-anchor="middle">{}</text>'
    ).format(_title(y), (x.first + _RIGHT) / 2, _HEIGHT - 8, _title(x))
    return Markup("".join([*rows, *columns])) + titles  # noqa: S704 - numbers only


def _column(at: float, number: str) -> str:
    """A number below the drawing; the last one ends with it."""
    place, anchor = (at, "middle") if at < _RIGHT - 8 else (_WIDTH - 1, "end")
    return f'<text x="{place:.1f}" y="{_BOTTOM + 19:g}" text-anchor="{anchor}">{number}</text>'


def _title(ruler: Ruler) -> Markup:
    return _said(ruler.axis.title + (" (logarithmic)" if ruler.axis.scale == "log" else ""))


def _rule(rule: Rule, x: Ruler, y: Ruler) -> Markup:
    if rule.axis == "y":
        at = y.place(rule.value)
        ends = f'x1="{x.first:g}" x2="{_RIGHT:g}" y1="{at:.1f}" y2="{at:.1f}"'
        below = at + 16 if at < _BOTTOM - 24 else at - 7
        place = f'x="{x.first + 6:g}" y="{below:.1f}"'
    else:
        at = x.place(rule.value)
        ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP:g}" y2="{_BOTTOM:g}"'
        anchor, shift = ("end", -7) if at > (x.first + _RIGHT) / 2 else ("start", 7)
        place = f'x="{at + shift:.1f}" y="{_BOTTOM - 9:g}" text-anchor="{anchor}"'
    line = Markup(f'<line class="asked" {ends}/><text class="strong" {place}>')  # noqa: S704 - numbers only
    return line + _said(rule.text) + Markup("</text>")


def _series(number: int, series: Series, x: Ruler, y: Ruler) -> Markup:
    points = sorted(series.points, key=lambda point: point.x) if series.kind == "line" else series.points
    at = [(x.place(point.x), y.place(point.y)) for point in points]
    parts = [_spread(number, series, points, x, y)]
    if series.kind == "line":
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in at)
        parts.append(f'<polyline class="line s{number}" points="{path}"/>')
    if series.kind == "scatter" or len(points) <= _DOTS_AT_MOST:
        parts += [_dot(number, across, up) for across, up in at]
    return Markup("".join(parts))  # noqa: S704 - numbers only


def _spread(number: int, series: Series, points: Sequence[Point], x: Ruler, y: Ruler) -> str:
    """The intervals of the points that have one."""
    bounded = [
        (x.place(point.x), y.place(point.low), y.place(point.high))
        for point in points
        if point.low is not None and point.high is not None
    ]
    if series.kind == "scatter" or len(bounded) <= _WHISKERS_AT_MOST:
        return "".join(
            f'<line class="whisker s{number}" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            for at, low, high in bounded
        )
    outline = [(at, low) for at, low, _ in bounded] + [(at, high) for at, _, high in reversed(bounded)]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in outline)
    return f'<polygon class="band s{number}" points="{path}"/>'


def _dot(number: int, x: float, y: float) -> str:
    """A point of the series: circle, square or diamond, filled for the first three, hollow for the others."""
    kind = f'class="dot s{number}"' if number < 3 else f'class="dot hollow s{number}"'
    if number % 3 == 0:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    if number % 3 == 1:
        return f'<rect {kind} x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
    corners = ((0, -5), (5, 0), (0, 5), (-5, 0))
    return f'<polygon {kind} points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}"/>'


def _bar(number: int, bar: Bar, end: float) -> Markup:
    top, width = number * _BAR_HEIGHT, _WIDTH - 2
    parts = [
        f'<rect class="track" x="1" y="{top + 22:g}" width="{width:g}" height="12" rx="2"/>',
        f'<rect class="fill" x="1" y="{top + 22:g}" width="{width * min(bar.value / end, 1):.1f}" '
        'height="12" rx="2"/>',
    ]
    if bar.low is not None and bar.high is not None:
        low, high = (1 + width * min(bound / end, 1) for bound in (bar.low, bar.high))
        parts.append(
            f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{top + 28:g}" y2="{top + 28:g}"/>'
        )
    texts = Markup(
        '<text class="strong" x="1" y="{:g}">{}</text><text x="{:g}" y="{:g}" text-anchor="end">{}</text>'
    ).format(
        top + 16, _said(short(bar.name, 44)), _WIDTH - 1, top + 16, _said(bar.text or f"{bar.value:.3g}")
    )
    return Markup("".join(parts)) + texts  # noqa: S704 - numbers only


def _said(text: str) -> Markup:
    return escape(visible(text))
