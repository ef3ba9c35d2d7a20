"""Whether what S3 sent is what was stored: lengths always, checksums where the service gives them.

A whole object is compared with the CRC or SHA that came with it (botocore does that), else with its ETag
where that is an MD5. A range has neither: its length is compared, and its bytes by whoever knows a digest of
them. A body that is cut short is asked for again; one that is damaged too, a few times.
"""

import hashlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from pipeline.errors import DataCorrupt, StorageBusy
from pipeline.storage.s3_connection import BodyDamagedError
from pipeline.storage.s3_quick import has_md5

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

_CHUNK_BYTES = 1 << 20
_TRIES = 4

T = TypeVar("T")


class Download:
    """An object on its way into ``file``; each attempt goes on where the one before broke off."""

    def __init__(self, bucket: str, full: str, name: str, file: BinaryIO) -> None:
        self._bucket, self._full, self._name, self._file = bucket, full, name, file
        self._etag, self._done, self._total = "", 0, -1

    def go_on(self, client: "S3Client") -> None:
        """Asks for what is missing."""
        if self._done == self._total:
            return
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._full}
        if self._done:
            request["Range"] = f"bytes={self._done}-"
        reply = client.get_object(**request)
        with closing(reply["Body"]) as body:
            if self._done and reply["ETag"] != self._etag:
                self._start_again()
            self._etag, self._total = reply["ETag"], self._done + reply["ContentLength"]
            for chunk in body.iter_chunks(_CHUNK_BYTES):
                self._file.write(chunk)
                self._done += len(chunk)
        if self._done != self._total:
            raise StorageBusy(f"{self._name}: got {self._done} of {self._total} bytes")

    def _start_again(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._done, self._total = 0, -1
        raise StorageBusy(f"{self._name} changed while it was downloaded")


def whole_body(reply: "GetObjectOutputTypeDef", name: str) -> bytes:
    """The whole body; StorageBusy, so that it is fetched afresh, if it is not whole."""
    with closing(reply["Body"]) as body:
        data = body.read()
    if len(data) != reply["ContentLength"]:
        raise StorageBusy(f"{name}: got {len(data)} of {reply['ContentLength']} bytes")
    return data


def whole_object(reply: "GetObjectOutputTypeDef", name: str) -> bytes:
    """The body of an answer that holds a whole object, compared with its ETag where that is an MD5."""
    data = whole_body(reply, name)
    if has_md5(reply):
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != reply["ETag"].strip('"'):
            raise BodyDamagedError(f"{name}: the bytes that came are not those of its ETag")
    return data


def undamaged(ask: Callable[[], T]) -> T:
    """What ``ask`` gets, asked again if it came damaged.

    Raises:
        DataCorrupt: it came damaged each time.
    """
    tries = 0
    while True:
        try:
            return ask()
        except BodyDamagedError as exc:
            tries += 1
            if tries == _TRIES:
                raise DataCorrupt(
                    f"{exc.message}, {_TRIES} times",
                    fix="write the object again, or look for a proxy or disk that damages bytes",
                ) from exc


def too_short(name: str, start: int, length: int) -> DataCorrupt:
    """The error for an object that ends before a range does."""
    return DataCorrupt(f"{name}: expected {length} bytes from {start}: the object is too short")


def content_md5(data: bytes) -> str:
    """The one checksum that Ceph 16 and AWS both compare on arrival; it guards against accidents only."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
