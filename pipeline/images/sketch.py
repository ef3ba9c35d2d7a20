"""Draws masks in the unit square (x right, y down): blobs, bodies of revolution, boxes, discs and lines.

A mask is an ``L`` image of ``CANVAS_PX`` squared, 0 or 255; ``silhouettes`` says what is drawn on it.
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw

CANVAS_PX = 512

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Pen:
    """Draws on one mask in unit coordinates."""

    def __init__(self) -> None:
        self.mask = Image.new("L", (CANVAS_PX, CANVAS_PX), 0)
        self._draw = ImageDraw.Draw(self.mask)

    def polygon(self, points: Sequence[Point], *, fill: int = 255) -> None:
        """A closed polygon with sharp corners."""
        self._draw.polygon([(x * CANVAS_PX, y * CANVAS_PX) for x, y in points], fill=fill)

    def blob(self, points: Sequence[Point], *, fill: int = 255) -> None:
        """A smooth closed curve through ``points`` (Catmull-Rom, eight steps a span)."""
        self.polygon(_smooth(points), fill=fill)

    def profile(self, points: Sequence[tuple[float, float]], *, x: float = 0.5) -> None:
        """A body of revolution: (y, half width) from top to bottom, mirrored at ``x``, corners kept."""
        left = [(x - half, y) for y, half in points]
        self.polygon(left + [(2 * x - px, py) for px, py in reversed(left)])

    def box(self, box: Box, *, radius: float = 0.0, fill: int = 255) -> None:
        """A box (left, top, right, bottom) with rounded corners."""
        scaled = (box[0] * CANVAS_PX, box[1] * CANVAS_PX, box[2] * CANVAS_PX, box[3] * CANVAS_PX)
        self._draw.rounded_rectangle(scaled, radius * CANVAS_PX, fill=fill)

    def disc(self, x: float, y: float, rx: float, ry: float, *, fill: int = 255) -> None:
        """An ellipse around (x, y)."""
        box = ((x - rx) * CANVAS_PX, (y - ry) * CANVAS_PX, (x + rx) * CANVAS_PX, (y + ry) * CANVAS_PX)
        self._draw.ellipse(box, fill=fill)

    def line(self, points: Sequence[Point], width: float, *, smooth: bool = False) -> None:
        """An open line through ``points``, at least two pixels wide."""
        path = _smooth(points, closed=False) if smooth else points
        scaled = [(x * CANVAS_PX, y * CANVAS_PX) for x, y in path]
        self._draw.line(scaled, fill=255, width=max(2, round(width * CANVAS_PX)), joint="curve")


class Sketch:
    """The three pens of one silhouette."""

    def __init__(self) -> None:
        self.body, self.trim, self.seams = Pen(), Pen(), Pen()


def _smooth(points: Sequence[Point], *, closed: bool = True) -> list[Point]:
    """Points along the Catmull-Rom spline through ``points``."""
    path = [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    out: list[Point] = []
    for a, b, c, d in zip(path, path[1:], path[2:], path[3:], strict=False):
        for step in range(8):
            t = step / 8
            out.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return out if closed else [*out, points[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    cubic = (2 * b) + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    return 0.5 * cubic
