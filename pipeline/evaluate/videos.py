"""Videos in place of images: how alike are two of them, over all pairs of their frames?

FaceNet, on YouTube Faces, takes the mean similarity of all pairs of the first hundred frames of each. The
mean of all inner products is the inner product of the mean vectors, so a video is the mean of its frames, and
two videos cost as much as two images. Legend: N frames, V videos, D dimensions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.errors import UsageError
from pipeline.evaluate.ranking import LabelledVectors

FRAMES = 100


def videos_of(frames: LabelledVectors, video_N: Sequence[str | None], most: int = FRAMES) -> LabelledVectors:
    """Videos with the names as ids and the mean of the first frames (in the order of ids) as vectors.

    The means are not of unit length: 2 - 2 times their inner product is the mean squared distance.

    Args:
        frames: Unit vectors with their labels.
        video_N: The video of each frame; a frame without one takes no part.
        most: Frames of a video that count.

    Raises:
        UsageError: if there is no video, or one whose frames carry two labels.
    """
    rows_of = _rows_of(frames.ids, video_N)
    if not rows_of:
        raise UsageError(
            f"none of the {len(frames.ids)} images belongs to a video",
            fix="name the attribute that says which video a frame is from",
        )
    labels = []
    for name, rows in rows_of.items():
        found = {frames.labels[row] for row in rows}
        if len(found) > 1:
            raise UsageError(
                f"the frames of {name!r} carry {len(found)} labels, such as {sorted(map(str, found))[:2]}",
                fix="a video shows one; name another attribute for videos or labels",
            )
        labels.append(found.pop())
    x_VD = np.stack([frames.x_ND[rows[:most]].mean(axis=0, dtype=np.float64) for rows in rows_of.values()])
    return LabelledVectors(x_ND=x_VD.astype(np.float32), ids=list(rows_of), labels=labels)


def first_frames(ids: Sequence[str], video_N: Sequence[str | None]) -> Mapping[str, str]:
    """The image that stands for each video."""
    return {name: ids[rows[0]] for name, rows in _rows_of(ids, video_N).items()}


def _rows_of(ids: Sequence[str], video_N: Sequence[str | None]) -> Mapping[str, list[int]]:
    """The rows of each video, in the order of their ids."""
    rows_of: dict[str, list[int]] = {}
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        name = video_N[row]
        if name is not None:
            rows_of.setdefault(name, []).append(row)
    return rows_of
