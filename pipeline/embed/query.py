"""Embeds query images: the same decoding, preprocessing and model as the catalog's, outside of any run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.images.decode import DecodeLimits, ImageRejected
from pipeline.images.preprocess import load_pixels
from pipeline.model.session import EmbeddingSession

_BATCH = 64


def embed_files(session: EmbeddingSession, files: Sequence[Path]) -> npt.NDArray[np.float32]:
    """The vectors of image files, float32 [Q, D] of unit length, in their order.

    Raises:
        UsageError: a file is missing, is no image, or the model has no vector for it; says which and why.
    """
    vectors = [np.empty((0, session.model.card.dim), dtype=np.float32)]
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        vectors_ND, ok_N = session.embed(np.stack([_pixels(session, file) for file in batch]))
        for file, ok in zip(batch, ok_N, strict=True):
            if not ok:
                raise UsageError(f"the model has no finite vector for {file}", fix="leave this query out")
        vectors.append(vectors_ND)
    return np.concatenate(vectors)


def _pixels(session: EmbeddingSession, file: Path) -> npt.NDArray[np.generic]:
    try:
        return load_pixels(file.read_bytes(), session.model.preprocess, DecodeLimits()).pixels
    except ImageRejected as exc:
        raise UsageError(
            f"{file} cannot be used as a query: {exc.reason} ({exc.detail})", fix="leave it out"
        ) from exc
    except OSError as exc:
        raise UsageError(f"the query {file} cannot be read: {exc.strerror}", fix="check the path") from exc
