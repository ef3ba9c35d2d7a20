"""Draws the outlines of shop goods: which pixels are body and trim, where the seams and the label are.

A silhouette has no colours; ``products`` paints it. Every outline follows from five shape numbers in 0..1, so
that products of one line share a shape and lines of one kind differ in it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from pipeline.images.sketch import Box, Point, Sketch

N_SHAPE_NUMBERS = 5

Shape = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Silhouette:
    """Three masks, the box for a label (None where goods carry none), and whether the body is round."""

    body: Image.Image
    trim: Image.Image
    seams: Image.Image
    label: Box | None
    is_round: bool


def draw_silhouette(category: str, shape: Shape) -> Silhouette:
    """The silhouette of a kind of goods for five shape numbers in 0..1.

    Raises:
        KeyError: for a category that is not in ``CATEGORIES``.
        ValueError: if there are not five shape numbers.
    """
    if len(shape) != N_SHAPE_NUMBERS:
        raise ValueError(f"expected {N_SHAPE_NUMBERS} shape numbers, got {len(shape)}")
    draw, is_round = _KINDS[category]
    sketch = Sketch()
    label = draw(sketch, shape)
    return Silhouette(
        body=sketch.body.mask,
        trim=sketch.trim.mask,
        seams=sketch.seams.mask,
        label=label,
        is_round=is_round,
    )


def _bottle(s: Sketch, p: Shape) -> Box:
    half, neck = 0.13 + 0.07 * p[0], 0.045 + 0.02 * p[1]
    shoulder = 0.3 + 0.12 * p[2]
    s.body.profile([(0.14, neck), (shoulder - 0.12, neck), (shoulder - 0.04, half * 0.8), (shoulder, half)])
    s.body.box((0.5 - half, shoulder - 0.01, 0.5 + half, 0.94), radius=0.03)
    s.trim.box((0.5 - neck - 0.012, 0.06, 0.5 + neck + 0.012, 0.13 + 0.05 * p[3]), radius=0.012)
    return (0.5 - half, shoulder + 0.1, 0.5 + half, 0.62 + 0.2 * p[4])


def _can(s: Sketch, p: Shape) -> Box:
    half, top = 0.16 + 0.07 * p[0], 0.14 + 0.18 * p[1]
    s.body.profile([(top, half - 0.03), (top + 0.05, half), (0.88, half), (0.92, half - 0.03)])
    s.trim.disc(0.5, top, half - 0.025, 0.028)
    s.trim.box((0.5 - half + 0.03, 0.9, 0.5 + half - 0.03, 0.925))
    s.seams.line([(0.5 - half, top + 0.05), (0.5 + half, top + 0.05)], 0.006)
    return (0.5 - half, top + 0.12 + 0.1 * p[2], 0.5 + half, 0.7 + 0.1 * p[3])


def _jar(s: Sketch, p: Shape) -> Box:
    half, top = 0.2 + 0.08 * p[0], 0.22 + 0.16 * p[1]
    s.body.box((0.5 - half, top, 0.5 + half, 0.9), radius=0.05 + 0.07 * p[2])
    s.trim.box((0.5 - half * 0.88, top - 0.1, 0.5 + half * 0.88, top + 0.015), radius=0.018)
    for i in range(-4, 5):
        x = 0.5 + half * 0.2 * i
        s.seams.line([(x, top - 0.085), (x, top)], 0.005)
    return (0.5 - half, top + 0.14, 0.5 + half, 0.76)


def _vase(s: Sketch, p: Shape) -> None:
    lip, neck, belly = 0.06 + 0.1 * p[0], 0.04 + 0.05 * p[1], 0.15 + 0.13 * p[2]
    middle = 0.5 + 0.2 * p[3]
    left = [(0.5 - lip, 0.12), (0.5 - neck, 0.26), (0.5 - belly, middle), (0.5 - 0.09 - 0.04 * p[4], 0.93)]
    right = [(1 - x, y) for x, y in reversed(left)]
    s.body.blob(left + right)
    s.trim.disc(0.5, 0.125, lip, 0.022)


def _mug(s: Sketch, p: Shape) -> Box:
    half, top = 0.2 + 0.05 * p[0], 0.26 + 0.1 * p[1]
    foot = half * (0.78 + 0.22 * p[2])
    reach = 0.12 + 0.06 * p[3]
    edge = 0.44 + half
    loop = [(edge - 0.03, top + 0.1), (edge + reach, top + 0.14), (edge + reach, 0.64), (edge - 0.06, 0.72)]
    s.trim.line(loop, 0.045 + 0.015 * p[4], smooth=True)
    s.body.profile([(top, half), (0.8, foot), (0.84, foot * 0.93)], x=0.44)
    s.seams.disc(0.44, top, half, 0.03)
    return (0.44 - half * 0.6, top + 0.15, 0.44 + half * 0.6, 0.7)


def _carton(s: Sketch, p: Shape) -> Box:
    left, right, top = 0.2 - 0.06 * p[0], 0.68 + 0.06 * p[1], 0.16 + 0.22 * p[2]
    deep = 0.07 + 0.07 * p[3]
    s.body.polygon([(left, top), (right, top), (right, 0.9), (left, 0.9)])
    s.trim.polygon([(right, top), (right + deep, top - 0.05), (right + deep, 0.84), (right, 0.9)])
    s.body.polygon([(left, top), (left + deep, top - 0.05), (right + deep, top - 0.05), (right, top)])
    s.seams.line([(left, top), (right, top), (right, 0.9)], 0.005)
    return (left + 0.03, top + 0.12, right - 0.03, 0.55 + 0.25 * p[4])


def _book(s: Sketch, p: Shape) -> Box:
    left, right, top = 0.22 - 0.05 * p[0], 0.74 + 0.04 * p[1], 0.12 + 0.12 * p[2]
    s.body.box((left, top, right, 0.9), radius=0.012)
    s.trim.polygon([(right, top + 0.02), (right + 0.035, top + 0.04), (right + 0.035, 0.93), (right, 0.9)])
    s.trim.polygon([(left, 0.9), (right, 0.9), (right + 0.035, 0.93), (left + 0.035, 0.93)])
    s.seams.line([(left + 0.045, top), (left + 0.045, 0.9)], 0.007)
    y = top + 0.1 + 0.28 * p[3]
    return (left + 0.09, y, right - 0.05, y + 0.2 + 0.1 * p[4])


def _shirt(s: Sketch, p: Shape) -> Box:
    half, cuff = 0.21 + 0.04 * p[0], 0.34 + 0.32 * p[1]
    hem = 0.84 + 0.07 * p[2]
    wide = 0.42 + 0.03 * p[3]
    left = [(0.4, 0.12), (0.28, 0.17), (0.5 - wide, cuff), (0.5 - wide + 0.11, cuff + 0.05)]
    left += [(0.5 - half, 0.34), (0.5 - half, hem)]
    s.body.polygon(left + [(1 - x, y) for x, y in reversed(left)])
    s.trim.line([(0.4, 0.12), (0.44, 0.18), (0.5, 0.2), (0.56, 0.18), (0.6, 0.12)], 0.025, smooth=True)
    s.seams.line([(0.5 - half, 0.34), (0.28, 0.19)], 0.005)
    s.seams.line([(0.5 + half, 0.34), (0.72, 0.19)], 0.005)
    return (0.37, 0.3, 0.63, 0.48 + 0.14 * p[4])


def _dress(s: Sketch, p: Shape) -> None:
    waist, flare = 0.1 + 0.04 * p[0], 0.2 + 0.17 * p[1]
    middle, hem = 0.4 + 0.1 * p[2], 0.78 + 0.15 * p[3]
    left = [(0.42, 0.08), (0.38, 0.1), (0.36 - 0.03 * p[4], 0.27), (0.5 - waist, middle), (0.5 - flare, hem)]
    top = [(0.44, 0.2), (0.56, 0.2)]
    s.body.polygon(left + [(1 - x, y) for x, y in reversed(left)] + list(reversed(top)))
    s.trim.box((0.5 - waist - 0.01, middle - 0.02, 0.5 + waist + 0.01, middle + 0.015))
    for i in (-2, -1, 0, 1, 2):
        s.seams.line([(0.5 + waist * 0.3 * i, middle + 0.03), (0.5 + flare * 0.4 * i, hem)], 0.004)


def _shoe(s: Sketch, p: Shape) -> Box:
    ankle, toe = 0.36 - 0.16 * p[0], 0.6 - 0.06 * p[1]
    sole = 0.045 + 0.045 * p[2]
    s.body.blob(
        [(0.1, 0.72), (0.11, 0.5), (0.12, ankle), (0.36, ankle + 0.02), (0.52, 0.5), (0.74, toe), (0.9, 0.7)]
    )
    s.body.box((0.1, 0.62, 0.9, 0.74), radius=0.05)
    s.trim.box((0.08, 0.73, 0.93, 0.73 + sole), radius=0.025)
    for i in range(4):
        x, y = 0.38 + 0.055 * i, ankle + 0.08 + (0.5 - ankle) * 0.27 * i
        s.trim.line([(x - 0.06, y + 0.05), (x + 0.05, y)], 0.016)
    s.seams.line([(0.1, 0.56), (0.3, 0.6), (0.45, 0.73)], 0.008, smooth=True)
    return (0.14, 0.58, 0.36, 0.7) if p[3] > 0.5 else (0.4, 0.62, 0.62, 0.71)


def _bag(s: Sketch, p: Shape) -> Box:
    top, spread = 0.38 + 0.12 * p[0], 0.02 + 0.08 * p[1]
    left = 0.2 - 0.04 * p[2]
    s.trim.line(
        [(0.36, top + 0.03), (0.38, top - 0.2), (0.62, top - 0.2), (0.64, top + 0.03)], 0.032, smooth=True
    )
    s.body.polygon([(left + spread, top), (1 - left - spread, top), (1 - left, 0.9), (left, 0.9)])
    s.seams.line([(left + spread, top + 0.07), (1 - left - spread, top + 0.07)], 0.006)
    if p[3] > 0.5:
        s.trim.box((left + 0.01, 0.82, 1 - left - 0.01, 0.9), radius=0.01)
    return (0.36, top + 0.15, 0.64, top + 0.26 + 0.08 * p[4])


def _lamp(s: Sketch, p: Shape) -> None:
    upper, lower = 0.08 + 0.12 * p[0], 0.2 + 0.12 * p[1]
    bottom = 0.4 + 0.12 * p[2]
    s.trim.line([(0.5, bottom), (0.5, 0.9)], 0.022 + 0.05 * p[3])
    s.trim.disc(0.5, 0.9, 0.13 + 0.06 * p[4], 0.032)
    s.body.profile([(0.1, upper), (bottom, lower)])
    s.seams.line([(0.5 - lower, bottom - 0.01), (0.5 + lower, bottom - 0.01)], 0.008)


def _chair(s: Sketch, p: Shape) -> None:
    half, top = 0.19 + 0.06 * p[0], 0.1 + 0.12 * p[1]
    seat = 0.54 + 0.05 * p[2]
    for x, foot in ((-1, -0.05), (1, 0.05), (-0.75, 0.02), (0.75, -0.02)):
        s.trim.line([(0.5 + half * x * 0.9, seat), (0.5 + half * x * 0.9 + foot, 0.94)], 0.026)
    s.body.box((0.5 - half, top, 0.5 + half, seat - 0.08), radius=0.02 + 0.1 * p[3])
    s.trim.line([(0.5 - half * 0.8, seat - 0.1), (0.5 - half * 0.8, seat)], 0.024)
    s.trim.line([(0.5 + half * 0.8, seat - 0.1), (0.5 + half * 0.8, seat)], 0.024)
    s.body.box((0.45 - half, seat, 0.55 + half, seat + 0.05 + 0.04 * p[4]), radius=0.025)


def _cap(s: Sketch, p: Shape) -> Box:
    top = 0.28 + 0.08 * p[0]
    s.body.blob([(0.14, 0.64), (0.18, 0.42), (0.4, top), (0.6, 0.4), (0.68, 0.62), (0.42, 0.67)])
    s.trim.blob([(0.38, 0.63), (0.66, 0.59), (0.84, 0.66), (0.94, 0.73 + 0.04 * p[1]), (0.6, 0.7)])
    s.trim.disc(0.4, top, 0.022, 0.014)
    s.seams.line([(0.4, top), (0.34, 0.48), (0.35, 0.66)], 0.006, smooth=True)
    return (0.4, 0.44 + 0.03 * p[2], 0.6, 0.58)


def _clock(s: Sketch, p: Shape) -> None:
    radius, rim = 0.3 + 0.08 * p[0], 0.03 + 0.04 * p[1]
    s.trim.disc(0.5, 0.5, radius, radius)
    s.trim.disc(0.5, 0.5, radius - rim, radius - rim, fill=0)
    s.body.disc(0.5, 0.5, radius - rim + 0.005, radius - rim + 0.005)
    for hour in range(12):
        c, n = math.cos(hour * math.pi / 6), math.sin(hour * math.pi / 6)
        inner, outer = (radius - rim) * 0.82, (radius - rim) * 0.93
        s.seams.line([(0.5 + c * inner, 0.5 + n * inner), (0.5 + c * outer, 0.5 + n * outer)], 0.014)
    turn = 2 * math.pi * p[2]
    s.seams.line([(0.5, 0.5), (0.5 + 0.14 * math.cos(turn), 0.5 + 0.14 * math.sin(turn))], 0.022)
    turn = 2 * math.pi * p[3]
    s.seams.line([(0.5, 0.5), (0.5 + 0.22 * math.cos(turn), 0.5 + 0.22 * math.sin(turn))], 0.014)


def _plant(s: Sketch, p: Shape) -> None:
    n_leaves = 5 + int(5 * p[0])
    for i in range(n_leaves):
        turn = math.pi * (0.08 + 0.84 * i / (n_leaves - 1))
        reach = (0.27 + 0.16 * p[1]) * (0.8 + 0.2 * math.sin(3 * i + 6 * p[2]))
        tip = (0.5 - reach * math.cos(turn), 0.62 - 1.15 * reach * math.sin(turn))
        side = (0.036 + 0.03 * p[3]) * math.sin(turn), (0.036 + 0.03 * p[3]) * math.cos(turn)
        half = ((0.5 + tip[0]) / 2, (0.62 + tip[1]) / 2)
        s.body.blob(
            [(0.5, 0.62), (half[0] - side[0], half[1] - side[1]), tip, (half[0] + side[0], half[1] + side[1])]
        )
        s.seams.line([(0.5, 0.62), tip], 0.004)
    s.trim.profile([(0.6, 0.15 + 0.05 * p[4]), (0.66, 0.15 + 0.05 * p[4]), (0.66, 0.14), (0.93, 0.1)])


def _sofa(s: Sketch, p: Shape) -> None:
    top, arm = 0.34 + 0.06 * p[0], 0.09 + 0.05 * p[1]
    for x in (0.14, 0.86):
        s.trim.line([(x, 0.78), (x, 0.86)], 0.03)
    s.body.box((0.1, top, 0.9, 0.7), radius=0.03 + 0.06 * p[2])
    s.body.box((0.06, 0.48, 0.06 + arm, 0.8), radius=0.04)
    s.body.box((0.94 - arm, 0.48, 0.94, 0.8), radius=0.04)
    s.body.box((0.08, 0.6, 0.92, 0.8), radius=0.02)
    n_seats = 2 + int(p[3] * 1.99)
    for i in range(1, n_seats):
        x = 0.06 + arm + (0.88 - 2 * arm) * i / n_seats
        s.seams.line([(x, top + 0.02), (x, 0.7)], 0.008)
    s.seams.line([(0.06 + arm, 0.6), (0.94 - arm, 0.6)], 0.008)
    s.seams.line([(0.06 + arm, 0.7), (0.94 - arm, 0.7)], 0.006)


def _cushion(s: Sketch, p: Shape) -> None:
    half, high = 0.34 + 0.04 * p[0], 0.26 + 0.1 * p[1]
    pinch = 0.01 + 0.02 * p[2]
    corners = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    outline: list[Point] = []
    for (x, y), (nx, ny) in zip(corners, corners[1:] + corners[:1], strict=True):
        mx, my = (x + nx) / 2, (y + ny) / 2
        outline += [(0.5 + half * x, 0.52 + high * y)]
        outline += [(0.5 + (half - pinch) * mx, 0.52 + (high - pinch) * my)]
    s.body.blob(outline)
    if p[3] > 0.4:
        for x, y in corners:
            s.trim.disc(0.5 + half * x, 0.52 + high * y, 0.028, 0.028)
    s.seams.line([(0.5, 0.52 - high + pinch), (0.5 + 0.03 * p[4], 0.52 - high + 0.1)], 0.004)


_Drawer = Callable[[Sketch, Shape], Box | None]
_KINDS: dict[str, tuple[_Drawer, bool]] = {
    "bottle": (_bottle, True),
    "shirt": (_shirt, False),
    "mug": (_mug, True),
    "carton": (_carton, False),
    "shoe": (_shoe, False),
    "lamp": (_lamp, True),
    "bag": (_bag, False),
    "chair": (_chair, False),
    "can": (_can, True),
    "plant": (_plant, False),
    "book": (_book, False),
    "vase": (_vase, True),
    "cap": (_cap, False),
    "dress": (_dress, False),
    "jar": (_jar, True),
    "sofa": (_sofa, False),
    "clock": (_clock, False),
    "cushion": (_cushion, False),
}
CATEGORIES = tuple(_KINDS)
