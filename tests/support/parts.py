"""Embedding parts made by hand, by the code that writes the real ones."""

import io
from collections.abc import Sequence

import numpy as np

from pipeline.embed.table import EmbeddedImage, PartWriter, VectorDtype


def part_bytes(
    images: Sequence[EmbeddedImage],
    vectors_ND: np.ndarray,
    metadata: dict[str, str],
    dtype: VectorDtype = "float32",
) -> bytes:
    """A part of these rows as Parquet bytes."""
    buffer = io.BytesIO()
    writer = PartWriter(buffer, vectors_ND.shape[1], metadata, dtype)
    for image, vector_D in zip(images, vectors_ND, strict=True):
        writer.add(image, vector_D)
    writer.close()
    return buffer.getvalue()
