"""Reads five points of the face in each image, as detectors give them.

A table in CSV whose first line is ``image_id,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5``: eye, eye, nose, mouth corner,
mouth corner, those on the left of the picture first, in pixels of the upright picture.
"""

import csv
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

_HEADER = ["image_id", *(f"{axis}{n}" for n in range(1, 6) for axis in "xy")]


def read_landmarks(text: str, where: str) -> Mapping[str, npt.NDArray[np.float64]]:
    """The points [5, 2] of each image.

    Args:
        text: The file.
        where: Its name, for messages.

    Raises:
        UsageError: the file has other columns, a line has no five points, or an image has two lines.
    """
    lines = csv.reader(text.splitlines())
    header = next(lines, [])
    if header != _HEADER:
        raise UsageError(
            f"{where}: expected the columns {','.join(_HEADER)}, got {','.join(header)[:120]!r}",
            fix="points are eye, eye, nose, mouth corner, mouth corner, the left of the picture first",
        )
    found: dict[str, npt.NDArray[np.float64]] = {}
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        points_52 = _points(line, f"{where}, line {number}")
        if line[0] in found:
            raise UsageError(
                f"{where}, line {number}: {line[0]!r} has points already", fix="leave the line of one face"
            )
        found[line[0]] = points_52
    if not found:
        raise UsageError(f"{where} holds no points", fix="write a line for each image")
    return found


def _points(line: list[str], where: str) -> npt.NDArray[np.float64]:
    try:
        points_52 = np.array([float(field) for field in line[1:]]).reshape(5, 2)
    except ValueError:
        points_52 = np.full((5, 2), np.nan)
    if not np.isfinite(points_52).all() or np.ptp(points_52, axis=0).max() < 1:
        raise UsageError(
            f"{where}: expected an image and five points apart, got {','.join(line)[:120]!r}",
            fix="ten numbers, in pixels of the upright picture",
        )
    return points_52
