"""Did this model make these vectors of these images? A random sample is read and embedded again.

One vector that disagrees refuses all: what it says of the others is not known. An image that cannot be read
or decoded says nothing, nor does a vector of zeros or NaN; more than half of those, and there is no proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec
from pipeline.embed.query import embed_queries
from pipeline.errors import UsageError
from pipeline.exchange.blocks import Block
from pipeline.exchange.match import Matched
from pipeline.index.arrays import Float32Array, IntArray
from pipeline.model.session import EmbeddingSession
from pipeline.storage.store import ObjectStore

LEAST_COSINE = 0.999
SAMPLE = 200
_BATCH = 32
_WORST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Of ``asked`` images ``compared`` gave a vector; the cosines with the imported ones."""

    asked: int
    compared: int
    least_cosine: float
    mean_cosine: float


def prove(
    blocks: Sequence[Block],
    matched: Matched,
    fresh: pa.Table,
    session: EmbeddingSession,
    source: tuple[ObjectStore, SourceSpec],
    *,
    n: int,
    seed: int,
    least_cosine: float,
) -> Proof:
    """Compares ``n`` matched rows, all if there are fewer, with what the model makes of their images now.

    Raises:
        UsageError: a vector disagrees, with the worst examples; or too few images can be embedded.
        StorageError: the source cannot be read.
    """
    rows_S = matched.sample(n, seed)
    x_SD = _vectors_at(blocks, rows_S, session.model.card.dim)
    fresh_S = matched.fresh_M[rows_S]
    order_S = np.argsort(fresh_S)  # the source is read in its own order
    listed = fresh.take(pa.array(fresh_S[order_S]))
    cosines: list[tuple[float, str]] = []
    for start in range(0, len(order_S), _BATCH):
        images = list(read_images(*source, listed.slice(start, _BATCH)))
        usable = [row for row, image in enumerate(images) if image.reject is None]
        embedded = embed_queries(session, [images[row].data for row in usable])
        for row, y_D, reason in zip(usable, embedded.xq_QD, embedded.reasons, strict=True):
            cosine = _cosine(x_SD[order_S[start + row]], y_D)
            if reason is None and np.isfinite(cosine):
                cosines.append((cosine, images[row].image_id))
    cosines.sort()
    wrong = [one for one in cosines if one[0] < least_cosine]
    if wrong:
        examples = ", ".join(f"{image_id!r} {cosine:.4f}" for cosine, image_id in wrong[:_WORST])
        raise UsageError(
            f"{len(wrong)} of {len(cosines)} sampled vectors are not what {session.model.card.name} makes of "
            f"their images (cosine below {least_cosine}); the worst: {examples}",
            fix="give the model and the preprocessing that made them (`bitsieve model show`), "
            "or lower --least-cosine if you know why they differ",
        )
    if len(cosines) * 2 < max(1, len(rows_S)):
        raise UsageError(
            f"only {len(cosines)} of {len(rows_S)} sampled images can be read and embedded: that is no proof",
            fix="check the source, or take a larger --sample",
        )
    values = np.array([cosine for cosine, _ in cosines])
    return Proof(
        asked=len(rows_S),
        compared=len(cosines),
        least_cosine=float(values.min()),
        mean_cosine=float(values.mean()),
    )


def _vectors_at(blocks: Sequence[Block], rows_S: IntArray, dim: int) -> Float32Array:
    """The vectors of some rows (ascending), float32 [S, D]; blocks without any are not read."""
    x_SD = np.empty((len(rows_S), dim), dtype=np.float32)
    start = 0
    for block in blocks:
        low, high = np.searchsorted(rows_S, [start, start + block.n_rows])
        if low < high:
            first = start
            for batch_ND in block.vectors(dim):
                here = low + np.flatnonzero(
                    (rows_S[low:high] >= first) & (rows_S[low:high] < first + len(batch_ND))
                )
                x_SD[here] = batch_ND[rows_S[here] - first]
                first += len(batch_ND)
        start += block.n_rows
    return x_SD


def _cosine(x_D: Float32Array, y_D: Float32Array) -> float:
    """NaN if one of them is zero or not finite."""
    a_D, b_D = x_D.astype(np.float64), y_D.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(a_D @ b_D / np.sqrt((a_D @ a_D) * (b_D @ b_D)))
