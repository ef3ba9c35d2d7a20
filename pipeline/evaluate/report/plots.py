"""The page's drawings as SVG text: deterministic, coloured by the page's style sheet, no scripts or fonts.

Everything drawn is a number; no id, label or other text from outside enters here.
"""

import math
from itertools import pairwise

from markupsafe import Markup

from pipeline.evaluate.aggregate import MetricSummary
from pipeline.evaluate.report.facts import IndexFacts

_WIDTH, _HEIGHT = 520.0, 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 492.0, 16.0, 218.0


def interval_bar(summary: MetricSummary) -> Markup:
    """A track from 0 to 1 with the interval and the mean on it; says nothing the table does not say."""
    low, high, mean = (100 * value for value in (summary.low, summary.high, summary.macro))
    parts = [
        '<rect class="track" x="0" y="4" width="100" height="4" rx="1"/>',
        f'<rect class="span" x="{low:.2f}" y="4" width="{max(high - low, 0.3):.2f}" height="4"/>',
        f'<rect class="tick" x="{min(mean, 99.2):.2f}" y="0" width="0.8" height="12"/>',
    ]
    svg = "".join(parts)
    return Markup(  # noqa: S704 - numbers only
        f'<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">{svg}</svg>'
    )


def recall_curve(index: IndexFacts) -> Markup:
    """Recall against candidates: the calibration curve, what was asked, and what was chosen."""
    points = sorted((point.candidates, point.recall) for point in index.curve if point.candidates > 0)
    if len(points) < 2:
        return Markup("")
    floor = math.floor(10 * min(index.recall_asked, *(recall for _, recall in points))) / 10
    axes = _Axes(points[0][0], max(points[-1][0], index.candidates), min(floor, 0.9))
    alt = (
        f"Recall at {index.k} rises from {points[0][1]:.3f} with {points[0][0]} candidates "
        f"to {points[-1][1]:.3f} with {points[-1][0]}; {index.candidates} were chosen."
    )
    body = axes.grid() + axes.asked(index.recall_asked) + axes.line(points) + axes.chosen(index)
    return Markup(  # noqa: S704 - numbers only
        f'<svg class="curve" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{alt}">{body}</svg>'
    )


class _Axes:
    """Candidates on a logarithmic axis, recall from ``floor`` to 1."""

    def __init__(self, first: int, last: int, floor: float) -> None:
        self._low, self._high, self._floor = math.log10(first), math.log10(max(last, first + 1)), floor

    def x(self, candidates: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (math.log10(candidates) - self._low) / (self._high - self._low)

    def y(self, recall: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (recall - self._floor) / (1 - self._floor)

    def grid(self) -> str:
        steps = max(1, round((1 - self._floor) * 10))
        every = 1 if steps <= 5 else 2
        levels = [1 - step / 10 for step in range(0, steps + 1, every)]
        if steps == 1:
            levels = [1 - step / 50 for step in range(6)]
        rows = "".join(
            f'<line class="grid" x1="{_LEFT:g}" x2="{_RIGHT:g}" y1="{self.y(v):.1f}" y2="{self.y(v):.1f}"/>'
            f'<text x="{_LEFT - 8:g}" y="{self.y(v) + 4:.1f}" text-anchor="end">{v:.2f}</text>'
            for v in levels
        )
        ticks = "".join(
            f'<text x="{self.x(c):.1f}" y="{_BOTTOM + 18:g}" text-anchor="middle">{c:,}</text>'
            for c in self._ticks()
        )
        middle = (_LEFT + _RIGHT) / 2
        return (
            f'{rows}{ticks}<text x="{middle:g}" y="{_HEIGHT - 4:g}" text-anchor="middle">candidates C</text>'
        )

    def asked(self, recall: float) -> str:
        y = self.y(recall)
        return (
            f'<line class="asked" x1="{_LEFT:g}" x2="{_RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="strong" x="{_LEFT + 6:g}" y="{y + 15:.1f}">asked {recall:.3g}</text>'
        )

    def line(self, points: list[tuple[int, float]]) -> str:
        path = " ".join(f"{self.x(c):.1f},{self.y(recall):.1f}" for c, recall in points)
        return f'<polyline class="line" points="{path}"/>'

    def chosen(self, index: IndexFacts) -> str:
        if index.candidates < 10**self._low:
            return ""
        x, y = self.x(index.candidates), self.y(max(index.recall.mean, self._floor))
        anchor, shift = ("end", -8) if x > (_LEFT + _RIGHT) / 2 else ("start", 8)
        return (
            f'<line class="drop" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{_BOTTOM:g}"/>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
            f'<text class="strong" x="{x + shift:.1f}" y="{_BOTTOM - 10:g}" text-anchor="{anchor}">'
            f"C = {index.candidates:,}, measured {index.recall.mean:.3f}</text>"
        )

    def _ticks(self) -> list[int]:
        series = [m * 10**e for e in range(9) for m in (1, 2, 5)]
        inside = [c for c in series if self._low - 1e-9 <= math.log10(c) <= self._high + 1e-9]
        kept = inside[-1:]
        for left, right in reversed(list(pairwise(inside))):
            if self.x(kept[0]) - self.x(left) >= 52 and right:
                kept.insert(0, left)
        return kept
