"""The images that a benchmark runs on, as WebDataset tars on this machine, and the model that embeds them.

1. The built-in set is the demo's shop with the built-in model: it runs anywhere.
2. Any folder or S3 prefix of tars: peers and ceiling read copies on this machine, ours reads the source.
3. Photos of three megapixels, generated: decoding is the bound.
4. A set repeated under new ids. Every copy gets a few bytes after its end, so that no digest is met twice.
"""

import io
import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.demo_catalog import write_demo_catalog
from jobs.models import model_bytes
from jobs.session import absolute
from pipeline.catalog.webdataset import list_tar
from pipeline.errors import SourceError, UsageError
from pipeline.images.degrade import recompress_jpeg
from pipeline.images.products import render_product
from pipeline.model.card import MODEL_KEY, ModelCard
from pipeline.model.described import Model
from pipeline.model.file import image_input, inspect_graph, output_dim, read_model, wrap_model
from pipeline.storage.open import open_store
from pipeline.values import Preprocess

PHOTO_PX = (2048, 1536)
_DISTINCT_PHOTOS = 60
_TILE_PX = 160
_ATTRIBUTES = frozenset({"json", "cls", "txt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchModel:
    """A wrapped model file and what a script outside of bitsieve has to know to run it."""

    path: Path
    model: Model

    def for_peers(self) -> dict[str, Any]:
        """The settings that ``peers.plain`` reads."""
        return {
            "model": str(self.path),
            "input_name": self.model.input_name,
            "output_name": self.model.output_name,
            "preprocess": asdict(self.model.preprocess),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Tars on this machine, and the source that ours reads: the same tars, here or on S3."""

    name: str
    source: str
    tars: tuple[Path, ...]
    n_images: int
    read: dict[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The size of all tars."""
        return sum(tar.stat().st_size for tar in self.tars)

    def first(self, n_tars: int) -> "ImageSet":
        """The same set with its first ``n_tars`` tars only."""
        if n_tars >= len(self.tars):
            return self
        tars = self.tars[:n_tars]
        include = [tar.name for tar in tars]
        return ImageSet(
            name=self.name,
            source=self.source,
            tars=tars,
            n_images=_count(tars),
            read={**self.read, "include": include},
        )


def prepare_model(where: str, folder: Path) -> BenchModel:
    """The model in a file of its own; one without a card gets the plainest: RGB, 0..255, shortest side cut.

    Raises:
        ModelError: it is no model that runs here.
        UsageError: the peers' plain code does not know its preprocessing.
    """
    data = model_bytes(where)
    if MODEL_KEY not in inspect_graph(data, where).metadata:
        data = _wrapped(data, where)
    path = folder / "model.onnx"
    path.write_bytes(data)
    model = read_model(data, where)
    spec = model.preprocess
    if spec.resize not in ("shortest", "squash") or spec.crop_pct != 1 or spec.channel_order != "RGB":
        raise UsageError(
            f"bench embed compares models that take RGB resized by shortest or squash, {where} does not",
            fix="choose another --model, or the built-in one",
        )
    return BenchModel(path=path, model=model)


def demo_set(folder: Path, *, n_products: int, views: int = 10) -> ImageSet:
    """The demo's shop as tars, a few broken files among them."""
    catalog = write_demo_catalog(folder, n_products=n_products, views=views)
    return local_set("demo", folder, [folder / name for name in catalog.tars])


def source_set(uri: str, folder: Path) -> ImageSet:
    """The tars at ``uri``; those on S3 are copied into ``folder`` for the peers.

    Raises:
        SourceError: there are no tars.
    """
    uri = absolute(uri)
    store = open_store(uri)
    keys = [stat.key for stat in store.list_objects() if stat.key.endswith(".tar")]
    if not keys:
        raise SourceError(f"{uri} holds no tars", fix="bench embed compares on WebDataset tars")
    tars = []
    for key in keys:
        here = store.local_path(key)
        if here is None:
            here = folder / key
            here.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(key, here)
        tars.append(here)
    return ImageSet(
        name=uri.rpartition("/")[2],
        source=uri,
        tars=tuple(tars),
        n_images=_count(tars),
        read={"include": ["*.tar"]},
    )


def photo_set(folder: Path, n_images: int) -> ImageSet:
    """Generated photos of three megapixels, about 400 kB each, in six tars.

    After the first 60 they come again under new ids, with a few bytes after their end.
    """
    photos = list(_photos(min(n_images, _DISTINCT_PHOTOS)))
    folder.mkdir(parents=True)
    n_tars = 6
    tars = [folder / f"photo-{number:05d}.tar" for number in range(n_tars)]
    for number, path in enumerate(tars):
        with tarfile.open(path, "w") as tar:
            for image in range(number, n_images, n_tars):
                _add(tar, f"photo{image:05d}.jpg", photos[image % len(photos)] + b"photo%06d" % image)
    return local_set("decode-bound", folder, tars)


def _photos(n_photos: int) -> Iterator[bytes]:
    drawn = random.Random(0)  # noqa: S311 - a seeded picture, not a secret
    tiles = [render_product(product, view) for product in range(8) for view in range(4)]
    for _ in range(n_photos):
        sheet = drawn.choice(tiles).resize(PHOTO_PX)
        for left in range(0, PHOTO_PX[0], _TILE_PX):
            for top in range(0, PHOTO_PX[1], _TILE_PX):
                sheet.paste(drawn.choice(tiles), (left, top))
        yield recompress_jpeg(sheet, 88)


def repeated_set(images: ImageSet, times: int, folder: Path) -> ImageSet:
    """The images ``times`` times, each copy under ids and with bytes of its own."""
    folder.mkdir(parents=True)
    tars = []
    for copy in range(times):
        for source in images.tars:
            tars.append(folder / f"copy{copy:03d}-{source.name}")
            with tarfile.open(tars[-1], "w") as tar:
                for name, extension, data in _members(source):
                    tail = b"" if extension in _ATTRIBUTES else b"copy%06d" % copy
                    _add(tar, f"{name}_copy{copy:03d}.{extension}", data + tail)
    return local_set(f"{images.name} x {times}", folder, tars)


def members(images: ImageSet) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every image, tar by tar."""
    for tar in images.tars:
        for name, extension, data in _members(tar):
            if extension not in _ATTRIBUTES:
                yield f"{name}.{extension}", data


def local_set(name: str, folder: Path, tars: Sequence[Path]) -> ImageSet:
    """Tars that lie in ``folder``."""
    return ImageSet(name=name, source=str(folder), tars=tuple(tars), n_images=_count(tars))


def _count(tars: Sequence[Path]) -> int:
    return sum(_images_in(tar) for tar in tars)


def _images_in(tar: Path) -> int:
    with tar.open("rb") as file:
        return int(list_tar(file, tar.stat().st_size, tar.name)[0].num_rows)


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            if file is not None:
                name, _, extension = os.path.basename(info.name).partition(".")
                yield name, extension, file.read()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _wrapped(data: bytes, where: str) -> bytes:
    facts = inspect_graph(data, where)
    shape = image_input(facts, where).shape or ()
    sides = [side for side in shape[1:] if side not in (None, 3)]
    output = facts.outputs[0].name
    dim = output_dim(data, output, where)
    if len(sides) != 2 or dim is None:
        raise UsageError(
            f"the model {where} does not state its sizes", fix="wrap it first: bitsieve model wrap --help"
        )
    size = (int(sides[0] or 0), int(sides[1] or 0))
    layout: Any = "NCHW" if shape[1] == 3 else "NHWC"
    preprocess = Preprocess(
        size=size, resize="shortest", scale=1, mean=(0, 0, 0), std=(1, 1, 1), layout=layout
    )
    card = ModelCard(
        name=Path(where).stem, dim=dim, normalised=False, license="see its source", output=output
    )
    return wrap_model(data, card, preprocess, output)
