"""Keeps the books of one image shard: every image that goes in comes out as a row or as a reject.

The same bytes under two ids are two rows, embedded once: the later one points at the earlier one's outcome.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.catalog.read import FetchedImage
from pipeline.embed.table import EmbeddedImage
from pipeline.values import Reject, RejectReason


@dataclass(slots=True)
class Outcome:
    """What became of one image: exactly one of ``vector_D``, ``reject`` and ``same_as`` is set in the end."""

    image_id: str
    version: str
    locator: str
    content_digest: str
    size_bytes: int
    width_px: int = 0
    height_px: int = 0
    vector_D: npt.NDArray[np.float32] | None = None
    reject: RejectReason | None = None
    detail: str = ""
    same_as: "Outcome | None" = None


@dataclass(slots=True)
class ShardOutcomes:
    """The outcomes of a shard's images, in the order they were added, which is plan order."""

    outcomes: list[Outcome] = field(default_factory=list)
    _first: dict[str, Outcome] = field(default_factory=dict)

    def add(self, image: FetchedImage) -> Outcome:
        """Opens the books on an image; settled at once if it was not readable or its bytes are known."""
        outcome = Outcome(
            image_id=image.image_id,
            version=image.version,
            locator=image.locator,
            content_digest=image.content_digest,
            size_bytes=len(image.data),
            reject=image.reject,
            detail=image.detail,
        )
        if image.reject is None:
            outcome.same_as = self._first.get(image.content_digest)
            self._first.setdefault(image.content_digest, outcome)
        self.outcomes.append(outcome)
        return outcome

    def settled(self) -> tuple[list[EmbeddedImage], list[npt.NDArray[np.float32]], list[Reject]]:
        """Rows, their vectors and rejects, each in plan order."""
        rows, vectors, rejects = [], [], []
        for outcome in self.outcomes:
            source = outcome.same_as or outcome
            if source.vector_D is not None:
                rows.append(_row(outcome, source))
                vectors.append(source.vector_D)
            else:
                rejects.append(_reject(outcome, source))
        return rows, vectors, rejects


def _row(outcome: Outcome, source: Outcome) -> EmbeddedImage:
    return EmbeddedImage(
        image_id=outcome.image_id,
        version=outcome.version,
        content_digest=outcome.content_digest,
        locator=outcome.locator,
        width_px=source.width_px,
        height_px=source.height_px,
    )


def _reject(outcome: Outcome, source: Outcome) -> Reject:
    return Reject(
        image_id=outcome.image_id,
        version=outcome.version,
        reason=source.reject or RejectReason.NONFINITE_EMBEDDING,
        detail=source.detail or "the model answered NaN, infinity or a zero vector",
        locator=outcome.locator,
        content_digest=outcome.content_digest,
        size_bytes=outcome.size_bytes,
    )
