"""What reading a listed image comes to: its bytes, proved to be the listed ones, or why there are none."""

import hashlib
from dataclasses import dataclass
from typing import Any

from pipeline.values import RejectReason

Row = dict[str, Any]
"""One row of ``LISTING_SCHEMA``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedImage:
    """The bytes of one listed image, or why there are none (``reject`` and ``detail``)."""

    image_id: str
    version: str
    locator: str
    data: bytes
    content_digest: str
    reject: RejectReason | None = None
    detail: str = ""


def checked(row: Row, data: bytes) -> FetchedImage:
    """The image of a container's row, whose version is the sha256 of its bytes."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != row["version"]:
        return refused(
            row, RejectReason.SOURCE_CHANGED, f"listed with sha256 {row['version']}, read {digest}"
        )
    return fetched(row, data, digest)


def fetched(row: Row, data: bytes, digest: str) -> FetchedImage:
    """The image with its bytes and their sha256."""
    return FetchedImage(
        image_id=row["image_id"],
        version=row["version"],
        locator=row["locator"],
        data=data,
        content_digest=digest,
    )


def refused(row: Row, reason: RejectReason, detail: str) -> FetchedImage:
    """The image without bytes."""
    return FetchedImage(
        image_id=row["image_id"],
        version=row["version"],
        locator=row["locator"],
        data=b"",
        content_digest="",
        reject=reason,
        detail=detail,
    )
