"""Measures what embedding costs on this machine: a sample of the images to come, timed stage by stage."""

import time
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec
from pipeline.images.decode import ImageRejected, quiet_decoder_warnings
from pipeline.images.preprocess import load_pixels
from pipeline.model.session import EmbeddingSession
from pipeline.storage.store import ObjectStore
from pipeline.values import DecodeLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCost:
    """Mean milliseconds of one image on one thread; of ``n_images``, ``n_rejected`` were no images."""

    n_images: int
    n_rejected: int
    fetch_ms: float
    decode_ms: float
    infer_ms: float

    @property
    def images_per_s(self) -> float:
        """What one worker with one thread does: it fetches ahead, and decodes and infers in turn."""
        slowest_ms = max(self.fetch_ms, self.decode_ms + self.infer_ms)
        return 1000 / slowest_ms if slowest_ms else 0.0


def measure(source: ObjectStore, spec: SourceSpec, rows: pa.Table, session: EmbeddingSession) -> EmbedCost:
    """Fetches, decodes and infers the images of ``rows`` (a listing) one after the other."""
    quiet_decoder_warnings()
    fetch_s = decode_s = infer_s = 0.0
    rejected = 0
    images = read_images(source, spec, rows)
    while True:
        started = time.perf_counter()
        image = next(images, None)
        fetched = time.perf_counter()
        fetch_s += fetched - started
        if image is None:
            break
        if image.reject is not None:
            rejected += 1
            continue
        try:
            pixels: npt.NDArray[Any] = load_pixels(
                image.data, session.model.preprocess, DecodeLimits()
            ).pixels
        except ImageRejected:
            rejected += 1
            decode_s += time.perf_counter() - fetched
            continue
        decoded = time.perf_counter()
        session.embed([pixels])
        decode_s += decoded - fetched
        infer_s += time.perf_counter() - decoded
    n_images = max(rows.num_rows, 1)
    return EmbedCost(
        n_images=rows.num_rows,
        n_rejected=rejected,
        fetch_ms=1000 * fetch_s / n_images,
        decode_ms=1000 * decode_s / n_images,
        infer_ms=1000 * infer_s / n_images,
    )
