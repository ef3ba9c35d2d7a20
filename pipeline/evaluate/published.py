"""Published figures that a report shows beside its own."""

from collections.abc import Mapping

_PUBLISHED: Mapping[str, Mapping[float, float]] = {
    "jpeg": {10: 0.673, 20: 0.814, 30: 0.839, 50: 0.855, 70: 0.861, 90: 0.865},
    "pixels": {40: 0.378, 80: 0.795, 120: 0.845, 160: 0.857, 256: 0.864},
}


def published_val(kind: str, level: float) -> float | None:
    """FaceNet's VAL at a FAR of .001 for this JPEG quality or side of a picture, of its model NN1.

    Schroff, Kalenichenko, Philbin, *FaceNet* (arXiv 1503.03832), its table on image quality:
    another model and other faces, so the shape of the curve is to be compared, not its height.
    """
    return _PUBLISHED.get(kind, {}).get(level)
