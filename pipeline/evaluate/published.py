"""Published figures that a report shows beside its own."""

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedVal:
    """FaceNet's VAL at a FAR of .001 of one of its models; ``sem`` over five splits where it is stated."""

    name: str
    x: float
    val: float
    sem: float | None = None


FACENET_TABLES: Mapping[str, tuple[PublishedVal, ...]] = {
    "dimension": (
        PublishedVal(name="NN1, 64", x=64, val=0.868, sem=0.017),
        PublishedVal(name="NN1, 128", x=128, val=0.879, sem=0.019),
        PublishedVal(name="NN1, 256", x=256, val=0.877, sem=0.019),
        PublishedVal(name="NN1, 512", x=512, val=0.856, sem=0.020),
    ),
    "data": (
        PublishedVal(name="2.6 M images", x=2.6e6, val=0.763),
        PublishedVal(name="26 M images", x=26e6, val=0.851),
        PublishedVal(name="52 M images", x=52e6, val=0.851),
        PublishedVal(name="260 M images", x=260e6, val=0.862),
    ),
    "flops": (
        PublishedVal(name="NN1", x=1.6e9, val=0.879, sem=0.019),
        PublishedVal(name="NN2", x=1.6e9, val=0.894, sem=0.016),
        PublishedVal(name="NN3", x=815e6, val=0.883, sem=0.017),
        PublishedVal(name="NN4", x=285e6, val=0.820, sem=0.023),
        PublishedVal(name="NNS1", x=220e6, val=0.824, sem=0.024),
        PublishedVal(name="NNS2", x=20e6, val=0.519, sem=0.029),
    ),
}
"""The paper's tables by experiment: over dimensions, training images, multiply-adds (NN3's are counted here).

About 1 M faces of other identities than the 100 to 200 M it was trained on: other data, another scale.
"""
