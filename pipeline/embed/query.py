"""Embeds query images: the same decoding, preprocessing and model as the catalog's, outside of any run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.images.decode import ImageRejected
from pipeline.images.preprocess import load_pixels
from pipeline.model.session import EmbeddingSession
from pipeline.values import DecodeLimits

QueryImage: TypeAlias = Path | bytes | None
"""A file, the bytes of one, or None where there is none."""
_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedQueries:
    """Q images: the vectors of those that have one, and in words why the others have none."""

    xq_QD: npt.NDArray[np.float32]
    """Unit vectors; zeros where there is a reason."""
    reasons: tuple[str | None, ...]


def embed_queries(session: EmbeddingSession, images: Sequence[QueryImage]) -> EmbeddedQueries:
    """The vectors of query images, in their order; an image without one does not stop the others."""
    xq_QD = np.zeros((len(images), session.model.card.dim), dtype=np.float32)
    reasons: list[str | None] = [None] * len(images)
    for start in range(0, len(images), _BATCH):
        prepared: list[npt.NDArray[np.generic]] = []
        rows: list[int] = []
        for row in range(start, min(start + _BATCH, len(images))):
            pixels = _pixels(session, images[row])
            if isinstance(pixels, str):
                reasons[row] = pixels
            else:
                prepared.append(pixels)
                rows.append(row)
        if rows:
            vectors_ND, ok_N = session.embed(np.stack(prepared))
            xq_QD[rows] = np.where(ok_N[:, None], vectors_ND, 0)
            for row in np.array(rows)[~ok_N].tolist():
                reasons[row] = "nonfinite_embedding: the model has no finite vector for it"
    return EmbeddedQueries(xq_QD=xq_QD, reasons=tuple(reasons))


def _pixels(session: EmbeddingSession, image: QueryImage) -> npt.NDArray[np.generic] | str:
    """The prepared image, or why there is none."""
    if image is None:
        return "empty: there is no image"
    try:
        data = image.read_bytes() if isinstance(image, Path) else image
        return load_pixels(data, session.model.preprocess, DecodeLimits()).pixels
    except ImageRejected as exc:
        return f"{exc.reason.value}: {exc.detail}"
    except OSError as exc:
        return f"source_missing: it cannot be read: {exc.strerror}"
