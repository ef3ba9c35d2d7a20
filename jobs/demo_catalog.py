"""Writes the demo's catalog, a small shop as WebDataset tars, and lets a night pass in it.

Each image is a member ``p0123_v04.jpg`` beside its labels ``p0123_v04.json``. The photos of a product are
scattered over the tars, and a handful of files are broken the way real feeds break. Arguments decide every
byte: owners and times in the tars are zero.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SourceError, UsageError
from pipeline.images.products import ProductLabels, catalog_images, image_name, product_jpeg, product_labels

N_TARS = 8

_BROKEN_VIEW = 90  # broken photos are views 90 and on of a product
_VIEWS_A_NIGHT = 100  # a photo taken again after night n is view n * 100 + its old number
_UNFINISHED = ".unfinished"
_ID = re.compile(r"p(\d{4,})_v(\d{2})")
_HTML = b"""<!DOCTYPE html>
<html><head><title>503 Service Unavailable</title></head>
<body><h1>Service Unavailable</h1><p>The image server is busy. Please try again later.</p></body></html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCatalog:
    """What was written: good images, broken ones by id with what is wrong with them, and the tars."""

    folder: Path
    n_products: int
    n_images: int
    broken: Mapping[str, str]
    tars: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogNight:
    """What a night changed: ids in byte order, and the names of the tars that were written again."""

    changed: tuple[str, ...]
    added: tuple[str, ...]
    deleted: tuple[str, ...]
    tars: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    image_id: str
    jpeg: bytes
    labels: bytes


def write_demo_catalog(
    folder: Path,
    *,
    n_products: int = 200,
    views: int = 10,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> DemoCatalog:
    """Writes the tars ``shop-00000.tar`` to ``shop-00007.tar`` into ``folder``, made if it is missing.

    The same numbers write the same bytes. An earlier demo catalog in the folder is overwritten. ``advance``
    is called with the number of images written so far.

    Raises:
        UsageError: if a count is out of range or the folder holds anything else.
    """
    if n_products < 1 or not 1 <= views <= _BROKEN_VIEW:
        raise UsageError(
            f"expected 1 product or more and 1..{_BROKEN_VIEW} views, got {n_products} and {views}"
        )
    names = tuple(f"shop-{i:05d}.tar" for i in range(N_TARS))
    _make_folder(folder, names)
    broken = _broken_images(n_products, seed)
    with ExitStack() as stack:
        tars = [stack.enter_context(_TarFile(folder / name)) for name in names]
        for done, (image_id, jpeg, labels) in enumerate(catalog_images(n_products, views, seed), start=1):
            if advance is not None:
                advance(done)
            tars[_tar_of(image_id, seed)].add(_sample(image_id, jpeg, labels))
        for product, image_id, jpeg, _ in broken:
            tars[_tar_of(image_id, seed)].add(_sample(image_id, jpeg, product_labels(product)))
    return DemoCatalog(
        folder=folder,
        n_products=n_products,
        n_images=n_products * views,
        broken={image_id: what for _, image_id, _, what in broken},
        tars=names,
        size_bytes=sum((folder / name).stat().st_size for name in names),
    )


def write_second_night(
    folder: Path, fraction: float = 0.01, *, seed: int = 0, night: int = 1
) -> CatalogNight:
    """Lets a night pass: ``fraction`` of the photos is taken again, one product is new, a few are gone.

    A fifth as many photos are deleted as changed (at least one of each); the new product has as many views
    as the others. Tars without a change are not touched. For a later night count ``night`` up.

    Args:
        folder: what ``write_demo_catalog`` wrote.
        fraction: share of the good images that change, above 0, at most 0.5.
        seed: that of the catalog.
        night: 1 or more; chooses the images.

    Raises:
        UsageError: if ``fraction`` or ``night`` is out of range.
        SourceError: if the folder holds no demo catalog.
    """
    if not 0 < fraction <= 0.5 or night < 1:
        raise UsageError(f"expected a fraction in (0, 0.5] and a night from 1, got {fraction} and {night}")
    samples = {path.name: list(_read_tar(path)) for path in sorted(folder.glob("shop-*.tar"))}
    ids = [sample.image_id for tar in samples.values() for sample in tar if _is_good(sample.image_id)]
    if not ids:
        raise SourceError(f"no demo catalog in {folder}", fix="write one first: bitsieve demo --help")
    drawn = sorted(ids, key=lambda image_id: _draw(f"{seed}/{night}/{image_id}"))
    n_changed = max(1, round(fraction * len(ids)))
    changed, deleted = set(drawn[:n_changed]), set(drawn[n_changed : n_changed + max(1, n_changed // 5)])
    added = _new_product(ids, seed)
    touched = []
    for i, (name, before) in enumerate(samples.items()):
        kept = [sample for sample in before if sample.image_id not in deleted]
        after = [_taken_again(s, seed, night) if s.image_id in changed else s for s in kept]
        after += [sample for sample in added if _tar_of(sample.image_id, seed) == i]
        if after != before:
            _write_tar(folder / name, after)
            touched.append(name)
    return CatalogNight(
        changed=tuple(sorted(changed)),
        added=tuple(sample.image_id for sample in added),
        deleted=tuple(sorted(deleted)),
        tars=tuple(touched),
    )


class _TarFile:
    """A tar being written, under another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + _UNFINISHED)

    def __enter__(self) -> "_TarFile":
        self._tar = tarfile.open(self._unfinished, "w", format=tarfile.USTAR_FORMAT)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tar.close()
        if kind is None:
            os.replace(self._unfinished, self._path)
        else:
            self._unfinished.unlink()

    def add(self, sample: _Sample) -> None:
        for extension, data in (("jpg", sample.jpeg), ("json", sample.labels)):
            info = tarfile.TarInfo(f"{sample.image_id}.{extension}")
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))


def _write_tar(path: Path, samples: list[_Sample]) -> None:
    with _TarFile(path) as tar:
        for sample in samples:
            tar.add(sample)


def _read_tar(path: Path) -> Iterator[_Sample]:
    """The samples of a tar written here: an image, then its labels."""
    with tarfile.open(path, "r:") as tar:
        members = [(info.name, _content(tar, info)) for info in tar]
    for (name, jpeg), (_, labels) in zip(members[::2], members[1::2], strict=True):
        yield _Sample(image_id=name.removesuffix(".jpg"), jpeg=jpeg, labels=labels)


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    if file is None:
        raise SourceError(f"{info.name} in {tar.name!s} is not a regular file, so no demo catalog")
    return file.read()


def _make_folder(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    strangers = sorted(
        path.name for path in folder.iterdir() if path.name.removesuffix(_UNFINISHED) not in names
    )
    if strangers:
        raise UsageError(
            f"{folder} holds other files ({strangers[0]} and {len(strangers) - 1} more)",
            fix="choose a new or empty folder for the demo catalog",
        )


def _broken_images(n_products: int, seed: int) -> list[tuple[int, str, bytes, str]]:
    """(product, id, bytes, what is wrong) of the files that no decoder can open."""
    good = product_jpeg(0, 0, seed)
    kinds = (
        (b"", "zero bytes: the upload never began"),
        (good[: len(good) * 3 // 5], "a JPEG cut off in transit"),
        (b"photo to follow, ask Kim\n", "a note saved under the photo's name"),
        (_HTML, "the error page of a busy server"),
        (good[:400], "a JPEG that ends in its header"),
        (b"\x00" * 2048, "a block of zeros from a failed disk"),
    )
    broken = []
    for i, (data, what) in enumerate(kinds):
        product = 37 * i % n_products
        broken.append((product, image_name(product, _BROKEN_VIEW + i), data, what))
    return broken


def _new_product(ids: list[str], seed: int) -> list[_Sample]:
    """The photos of the product after the last one, as many as the first product has views."""
    numbers = [_numbers(image_id) for image_id in ids]
    product = max(number for number, _ in numbers) + 1
    views = max(view for _, view in numbers) + 1
    labels = product_labels(product)
    return [_sample(image_name(product, v), product_jpeg(product, v, seed), labels) for v in range(views)]


def _taken_again(sample: _Sample, seed: int, night: int) -> _Sample:
    product, view = _numbers(sample.image_id)
    jpeg = product_jpeg(product, view + night * _VIEWS_A_NIGHT, seed)
    return _Sample(image_id=sample.image_id, jpeg=jpeg, labels=sample.labels)


def _sample(image_id: str, jpeg: bytes, labels: ProductLabels) -> _Sample:
    return _Sample(image_id=image_id, jpeg=jpeg, labels=json.dumps(labels, sort_keys=True).encode())


def _numbers(image_id: str) -> tuple[int, int]:
    match = _ID.fullmatch(image_id)
    if match is None:
        raise SourceError(f"{image_id} is no id of the demo catalog, which are like p0123_v04")
    return int(match.group(1)), int(match.group(2))


def _is_good(image_id: str) -> bool:
    return _numbers(image_id)[1] < _BROKEN_VIEW


def _tar_of(image_id: str, seed: int) -> int:
    return int.from_bytes(_draw(f"{seed}/{image_id}")[:4], "big") % N_TARS


def _draw(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
