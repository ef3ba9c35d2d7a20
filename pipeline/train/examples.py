"""Gives the loop its inputs: images that are decoded and changed on the way, or features of a frozen trunk.

What row, step and place in the batch decide is the same on every rank and in every sitting. Legend: B images
of a batch, V views, N images, F features.
"""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.images.augment import Augment, augmented
from pipeline.images.preprocess import Pixels, load_pixels
from pipeline.index.mapped import create_array, npy_header
from pipeline.model.session import EmbeddingSession
from pipeline.train.packed import PackedImages
from pipeline.train.settings import augment_of
from pipeline.values import DecodeLimits, Preprocess

_BLOCK = 64


class Examples(Protocol):
    """Inputs of a network by their place among the usable images."""

    def batch(self, places_B: NDArray[np.int64], step: int, offset: int) -> Tensor:
        """Training inputs; ``offset`` is where these rows begin in the whole batch of ``step``."""
        ...

    def plain(self, places_B: NDArray[np.int64]) -> Tensor:
        """The same inputs as in use, unchanged."""
        ...


class ImageExamples:
    """Images out of a pack: uint8 [B, 3, H, W]; decoded by threads, in the order that was asked for."""

    def __init__(
        self, packed: PackedImages, spec: Preprocess, limits: DecodeLimits, augment: Augment, seed: int
    ) -> None:
        self._packed = packed
        self._spec = spec
        self._limits = limits
        self._augment = augment
        self._seed = seed
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "decode")

    def batch(self, places_B: NDArray[np.int64], step: int, offset: int) -> Tensor:
        """See ``Examples``."""

        def one(place: int, number: int) -> Pixels:
            seed = image_seed(self._seed, step, offset + number)
            return augmented(self._packed.read(place), self._spec, self._limits, self._augment, seed)

        return _stacked(list(self._threads.map(one, places_B.tolist(), range(len(places_B)))))

    def plain(self, places_B: NDArray[np.int64]) -> Tensor:
        """See ``Examples``."""

        def one(place: int) -> Pixels:
            return load_pixels(self._packed.read(place), self._spec, self._limits).pixels

        return _stacked(list(self._threads.map(one, places_B.tolist())))


class FeatureExamples:
    """Features that a frozen trunk gave for views of each image: float32 [B, F]; view 0 is plain."""

    def __init__(self, features_VNF: NDArray[np.float32], seed: int) -> None:
        self._features_VNF = features_VNF
        self._seed = seed

    def with_seed(self, seed: int) -> "FeatureExamples":
        """The same features, whose views another seed draws."""
        return FeatureExamples(self._features_VNF, seed)

    @property
    def n_features(self) -> int:
        """F."""
        return int(self._features_VNF.shape[2])

    def batch(self, places_B: NDArray[np.int64], step: int, offset: int) -> Tensor:
        """See ``Examples``."""
        n_views = len(self._features_VNF)
        views_B = [image_seed(self._seed, step, offset + number) % n_views for number in range(len(places_B))]
        return torch.from_numpy(self._features_VNF[views_B, places_B])

    def plain(self, places_B: NDArray[np.int64]) -> Tensor:
        """See ``Examples``."""
        return torch.from_numpy(self._features_VNF[0, places_B])


def trunk_features(
    packed: PackedImages,
    trunk: bytes,
    *,
    settings: TrainConfig,
    name: str,
    folder: Path,
    limits: DecodeLimits,
    advance: Callable[[int], None],
) -> NDArray[np.float32]:
    """What the ONNX model ``trunk`` gives for some views of each image: [V, N, F], mapped.

    Kept in ``folder`` under ``name``; made once on each machine. ``advance`` is called with the images done.

    Raises:
        ModelError: the trunk cannot be run.
        StorageError: the disk has no room for the features.
    """
    path = folder / f"{name}.features.npy"
    n_images = len(packed.kept)
    if not path.exists():
        aside = path.with_suffix(f".{uuid.uuid4().hex}")
        cores = os.cpu_count() or 1
        try:
            with ExitStack() as opened:
                session = opened.enter_context(EmbeddingSession(trunk, threads=cores, where="trunk"))
                threads = opened.enter_context(ThreadPoolExecutor(cores, "decode"))
                shape = (settings.views, n_images, session.model.card.dim)
                header = npy_header(shape, np.float32)
                features = opened.enter_context(create_array(aside, header, shape, np.float32))
                spec, augment = session.model.preprocess, augment_of(settings)

                def view(place: int, number: int) -> Pixels:
                    data = packed.read(place)
                    if number == 0:
                        return load_pixels(data, spec, limits).pixels
                    seed = image_seed(settings.seed, number, place)
                    return augmented(data, spec, limits, augment, seed)

                for start in range(0, n_images, _BLOCK):
                    places = range(start, min(start + _BLOCK, n_images))
                    for number in range(settings.views):
                        pixels = list(threads.map(view, places, [number] * len(places)))
                        features.array[number, start : start + len(places)] = session.run_raw(pixels)
                    advance(places.stop)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    advance(n_images)
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped


def image_seed(seed: int, step: int, place: int) -> int:
    """The seed of one image in one batch."""
    return int(np.random.SeedSequence([seed, step, place]).generate_state(1)[0])


def _stacked(pixels: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(pixels))
