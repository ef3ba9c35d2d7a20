"""Keeps the encoded images of a training in one local file, because each is read many times. No torch here.

The file is made once on each machine, under the digest of what is in it. Every image is decoded once on the
way: one that cannot be used is left out with its reason, before any plan counts on it.
"""

import itertools
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.catalog.fetched import FetchedImage
from pipeline.catalog.read import read_images
from pipeline.catalog.source import SourceSpec
from pipeline.errors import StorageError
from pipeline.images.decode import ImageRejected
from pipeline.images.preprocess import load_pixels
from pipeline.storage.store import ObjectStore
from pipeline.values import DecodeLimits, Preprocess

_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedImages:
    """The images of a pack: ``kept`` are the usable rows, ``rejected`` counts the others by reason."""

    path: Path
    kept: NDArray[np.int64]
    starts: NDArray[np.int64]
    rejected: dict[str, int]

    def read(self, place: int) -> bytes:
        """The encoded bytes of the image at this place of ``kept``."""
        start, stop = int(self.starts[place]), int(self.starts[place + 1])
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), stop - start, start)


def pack_images(
    source: ObjectStore,
    spec: SourceSpec,
    rows: pa.Table,
    *,
    name: str,
    folder: Path,
    preprocess: Preprocess,
    limits: DecodeLimits,
    advance: Callable[[int], None],
) -> PackedImages:
    """Packs the images of ``rows`` into ``folder`` under ``name``, unless they are there already.

    ``advance`` is called with the images done. Several processes may do it at once; the last one's file
    stays.

    Raises:
        StorageError: the source failed, or no image of it can be used.
    """
    path, facts_path = folder / f"{name}.images", folder / f"{name}.json"
    if not (path.exists() and facts_path.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            facts = _write(aside, _judged(read_images(source, spec, rows), preprocess, limits), advance)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        facts_aside = facts_path.with_suffix(f".{uuid.uuid4().hex}")
        facts_aside.write_text(json.dumps(facts))
        facts_aside.replace(facts_path)
    facts = json.loads(facts_path.read_text())
    advance(rows.num_rows)
    if not facts["kept"]:
        raise StorageError(
            f"none of {rows.num_rows} images of {spec.uri} can be used: {facts['rejected']}",
            fix="look at one of them; if the catalog is mended, delete the pack " + str(path),
        )
    return PackedImages(
        path=path,
        kept=np.array(facts["kept"], dtype=np.int64),
        starts=np.concatenate([[0], np.cumsum(np.array(facts["sizes"], dtype=np.int64))]),
        rejected=facts["rejected"],
    )


def _judged(
    images: Iterator[FetchedImage], preprocess: Preprocess, limits: DecodeLimits
) -> Iterator[tuple[bytes, str]]:
    """Each image's bytes and the reason why it cannot be used, empty if it can; in order."""

    def judge(image: FetchedImage) -> tuple[bytes, str]:
        if image.reject is not None:
            return b"", image.reject.value
        try:
            load_pixels(image.data, preprocess, limits)
        except ImageRejected as exc:
            return b"", exc.reason.value
        return image.data, ""

    with ThreadPoolExecutor(os.cpu_count() or 1, "decode") as threads:
        while some := list(itertools.islice(images, _AT_ONCE)):
            yield from threads.map(judge, some)


def _write(
    path: Path, judged: Iterator[tuple[bytes, str]], advance: Callable[[int], None]
) -> dict[str, object]:
    kept: list[int] = []
    sizes: list[int] = []
    rejected: Counter[str] = Counter()
    with open(path, "wb") as file:
        for place, (data, reason) in enumerate(judged):
            if reason:
                rejected[reason] += 1
            else:
                file.write(data)
                kept.append(place)
                sizes.append(len(data))
            advance(place + 1)
    return {"kept": kept, "sizes": sizes, "rejected": dict(rejected)}


def plain_input(size: Sequence[int]) -> Preprocess:
    """How a network of ours takes its images: uint8 RGB of this (height, width), cut at the centre."""
    height, width = size
    return Preprocess(
        size=(height, width),
        resize="shortest",
        resize_to=max(height, width),
        scale=1.0,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        dtype="uint8",
        interpolation="bilinear",
    )
