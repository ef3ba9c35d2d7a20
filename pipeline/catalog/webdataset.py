"""Walks the headers of a WebDataset tar up to its end marker; hashes the images, decodes nothing.

A sample is all members with one name up to the first dot after the last slash. ``json``, ``cls`` and ``txt``
members are the sample's attributes, any other regular member is its image. Python's tarfile ends silently
when a tar is cut between two members, and does not see what follows an end marker; a tar without its end
marker, or with anything but zeros after it, is therefore refused.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from string import Formatter
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalog.ids import container_locator, printable, sample_name
from pipeline.catalog.table import MAX_IMAGE_BYTES, ListedImage, ListingBuilder
from pipeline.catalog.tars import is_inner_tar, tar_stream, without_suffix
from pipeline.errors import SourceError
from pipeline.values import RejectReason

ATTRIBUTE_EXTENSIONS = frozenset({"json", "cls", "txt"})
_MAX_ATTRIBUTE_BYTES = 1 << 20
_BLOCK = 512
_PLAIN_NUMBERS = re.compile(rb"([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})[ \0]{2}")
"""Of a header from byte 124 on: size, time of change, checksum."""
_TEMPLATE_FIELDS = (("name", "", None), ("tar", "", None))


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
    members: set[str] = field(default_factory=set)
    attributes: dict[str, object] = field(default_factory=dict)


class _Header(tarfile.TarInfo):
    """A header; of a regular file with a short name, as nearly all are, only what a listing needs is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """See ``tarfile.TarInfo``, which reads whatever is not as plain as it can be."""
        is_short = len(buf) == _BLOCK and buf[156:157] == tarfile.REGTYPE and not buf[345]  # no prefix
        numbers = _PLAIN_NUMBERS.match(buf, 124) if is_short else None
        if numbers is None or sum(buf) - sum(buf[148:156]) + 8 * ord(" ") != int(numbers[2], 8):
            return super().frombuf(buf, encoding, errors)
        header = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
        header.size = int(numbers[1], 8)
        return header


def list_tar(
    file: BinaryIO, size_bytes: int, container: str, id_template: str = "{name}"
) -> tuple[pa.Table, dict[str, int]]:
    """The listing of one tar in member order, and counts of what was no image.

    Args:
        file: the tar; what is not needed of it is sought over.
        size_bytes: how long the file is.
        container: its key in the source; ``{tar}`` in the template is this key without ``.tar``.
        id_template: how an id is made of ``{name}`` and ``{tar}``.

    Raises:
        SourceError: not a tar, or it ends before its end marker.
    """
    samples: dict[str, _Sample] = {}
    stream, most_bytes = tar_stream(file, size_bytes, container)
    for info in _members(stream, most_bytes, container):
        _take(samples, stream, info)
    return _table(samples, printable(container), id_template)


def check_id_template(template: str) -> None:
    """Refuses a template that is not made of text, ``{name}`` and ``{tar}``.

    Raises:
        SourceError: it has another field, or no ``{name}``, so that ids could not differ.
    """
    try:
        fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:
        fields = []
    if ("name", "", None) not in fields or any(f not in _TEMPLATE_FIELDS for f in fields):
        raise SourceError(
            f"the id template {template!r} must contain {{name}} and nothing else in braces but {{tar}}",
            fix="for example --id-template '{tar}/{name}'",
        )


def _members(file: BinaryIO, size_bytes: int, container: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=_Header
        ) as tar:
            for info in tar:
                if not info.offset < tar.offset <= size_bytes:
                    raise tarfile.ReadError(
                        f"{info.name!r} at byte {info.offset} would end at byte {tar.offset} of {size_bytes}"
                    )
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
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            raise SourceError(
                f"{container} goes on after its end-of-archive marker at byte {end}: the rest is not read",
                fix="write it as one tar (tars are joined by `tar -A`, not by `cat`), or leave it out",
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
        image.sha256, head = _sha256(file, info.offset_data, info.size)
        if is_inner_tar(info.name, head):
            image.reject, image.detail = RejectReason.FORMAT_NOT_ALLOWED, "a tar inside a tar is not opened"
    if info.name in sample.members:
        image.reject, image.detail = RejectReason.DUPLICATE_ID, "the member name occurs before in this tar"
    elif name == "" or name.endswith("/"):
        image.reject, image.detail = RejectReason.BAD_ID, "nothing stands before the first dot of the name"
    sample.members.add(info.name)
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


def _sha256(file: BinaryIO, offset: int, size: int) -> tuple[str, bytes]:
    """The digest of a member, and its first block."""
    file.seek(offset)
    head = b""
    state = hashlib.sha256()
    while size > 0:
        block = file.read(min(size, 1 << 20))
        if not block:
            break
        head = head or block[:_BLOCK]
        state.update(block)
        size -= len(block)
    return state.hexdigest(), head


def _table(samples: dict[str, _Sample], container: str, id_template: str) -> tuple[pa.Table, dict[str, int]]:
    builder = ListingBuilder()
    without_image = 0
    tar_name = without_suffix(container)
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
    table = builder.table()
    table = table.take(pc.sort_indices(table["offset"]))  # read in one go, forward
    return table, {"sample_without_image": without_image} if without_image else {}
