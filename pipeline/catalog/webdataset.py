"""Walks the headers of a WebDataset tar up to its end marker; hashes the images, decodes nothing.

A sample is all members with one name up to the first dot after the last slash. ``json``, ``cls`` and ``txt``
members are the sample's attributes, any other regular member is its image. Python's tarfile ends silently
when a tar is cut between two members; a tar without its end marker is therefore refused.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.catalog.ids import container_locator, printable, sample_name
from pipeline.catalog.table import ListedImage, ListingBuilder
from pipeline.errors import SourceError
from pipeline.values import RejectReason

ATTRIBUTE_EXTENSIONS = frozenset({"json", "cls", "txt"})
MAX_IMAGE_BYTES = 256 << 20
_MAX_ATTRIBUTE_BYTES = 1 << 20
_BLOCK = 512


@dataclass(slots=True)
class _Image:
    member: str
    offset: int
    size_bytes: int
    sha256: str
    reject: RejectReason | None = None
    detail: str = ""


@dataclass(slots=True)
class _Sample:
    images: list[_Image] = field(default_factory=list)
    attributes: dict[str, object] = field(default_factory=dict)


def list_tar(path: Path, container: str, id_template: str = "{name}") -> tuple[pa.Table, dict[str, int]]:
    """The listing of one tar in member order, and counts of what was no image.

    Args:
        path: the tar on this machine.
        container: its key in the source; ``{tar}`` in the template is this key without ``.tar``.
        id_template: how an id is made of ``{name}`` and ``{tar}``.

    Raises:
        SourceError: not a tar, or it ends before its end marker.
    """
    samples: dict[str, _Sample] = {}
    with path.open("rb") as file:
        for info in _members(file, container):
            _take(samples, file, info)
    return _table(samples, printable(container), id_template)


def _members(file: BinaryIO, container: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            for info in tar:
                yield info
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as exc:
        raise SourceError(
            f"{container} is not a readable tar: {exc}",
            fix="write the tar again, or leave it out with --exclude",
        ) from exc
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise SourceError(
            f"{container} is cut off: no end-of-archive marker at byte {end}, so members may be missing",
            fix="upload or write the tar again, or leave it out with --exclude",
        )


def _take(samples: dict[str, _Sample], file: BinaryIO, info: tarfile.TarInfo) -> None:
    if info.isdir():
        return
    name, extension = sample_name(info.name)
    sample = samples.setdefault(name, _Sample())
    if info.isreg() and extension in ATTRIBUTE_EXTENSIONS:
        _take_attributes(sample, file, info, extension)
        return
    image = _Image(info.name, info.offset_data, info.size, "")
    if not info.isreg() or info.issparse():
        image.reject, image.detail = RejectReason.NOT_REGULAR, "a link, device or sparse member"
    elif info.size > MAX_IMAGE_BYTES:
        image.reject, image.detail = RejectReason.TOO_LARGE, f"{info.size} bytes, at most {MAX_IMAGE_BYTES}"
    else:
        image.sha256 = _sha256(file, info.offset_data, info.size)
    if any(other.member == info.name for other in sample.images):
        image.reject, image.detail = RejectReason.DUPLICATE_ID, "the member name occurs before in this tar"
    sample.images.append(image)


def _take_attributes(sample: _Sample, file: BinaryIO, info: tarfile.TarInfo, extension: str) -> None:
    if info.size > _MAX_ATTRIBUTE_BYTES:
        return
    file.seek(info.offset_data)
    data = file.read(info.size)
    text = data.decode("utf-8", errors="replace")
    if extension == "json":
        sample.attributes.update(_json_fields(text))
    else:
        sample.attributes[extension] = text.strip()


def _json_fields(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sha256(file: BinaryIO, offset: int, size: int) -> str:
    file.seek(offset)
    state = hashlib.sha256()
    while size > 0:
        block = file.read(min(size, 1 << 20))
        if not block:
            break
        state.update(block)
        size -= len(block)
    return state.hexdigest()


def _table(samples: dict[str, _Sample], container: str, id_template: str) -> tuple[pa.Table, dict[str, int]]:
    builder = ListingBuilder()
    without_image = 0
    tar_name = container.removesuffix(".tar")
    for name, sample in samples.items():
        if not sample.images:
            without_image += 1
            continue
        wanted = [image for image in sample.images if image.reject is None]
        for image in sample.images:
            if image.reject is None and len(wanted) > 1:
                image.reject = RejectReason.AMBIGUOUS_SAMPLE
                image.detail = f"the sample has {len(wanted)} images"
            builder.add(
                ListedImage(
                    image_id=id_template.format(name=printable(name), tar=tar_name),
                    version=image.sha256,
                    size_bytes=image.size_bytes,
                    locator=container_locator(container, printable(image.member)),
                    container=container,
                    offset=image.offset,
                    attributes=sample.attributes,
                    reject=image.reject,
                    detail=image.detail,
                )
            )
    return builder.table(), {"sample_without_image": without_image} if without_image else {}
