"""Keeps objects under a prefix of an S3 bucket: on AWS, Ceph and whatever else speaks S3.

The one atomic operation, ``create``, is a single PutObject with ``If-None-Match: *``, which AWS and Ceph
both do right. Nothing else is conditional. What is asked for is said here; how the service is reached, and
what its errors mean, in ``s3_connection``; whether what came is whole, in ``s3_bodies``.
"""

import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ObjectMissing, SourceError, StorageError, UsageError, no_room
from pipeline.storage.s3_bodies import Download, content_md5, too_short, undamaged, whole_body, whole_object
from pipeline.storage.s3_connection import Connection, KeyTakenError
from pipeline.storage.store import ObjectStat
from pipeline.storage.traffic import Traffic

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        ListObjectsV2RequestTypeDef,
    )

_URI = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(.*))?", re.DOTALL)
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_PART_BYTES = 16 << 20
_PART_THREADS = 4
_MOST_PARTS = 10_000


class S3Store:
    """An ``ObjectStore`` under ``s3://bucket/prefix``; keys are relative to the prefix.

    Credentials, region and endpoint come from where the AWS tools look (``AWS_ACCESS_KEY_ID``,
    ``AWS_PROFILE``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, instance roles …), unless given; with ``role_arn``
    they are those of that role, assumed anew before they expire. The store itself never holds a credential.
    An endpoint other than AWS is spoken to with the bucket in the path.
    ``patience_s`` bounds how long one operation is repeated while the service is busy, ``answer_s`` how long
    the service may stay silent before one request counts as lost.
    """

    def __init__(
        self,
        uri: str,
        *,
        profile: str | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        role_arn: str | None = None,
        patience_s: float = 240.0,
        answer_s: float = 60.0,
    ) -> None:
        match = _URI.fullmatch(uri)
        if match is None:  # the URI is not repeated: it may hold a password
            raise UsageError("not an S3 URI", "write s3://bucket/prefix, without credentials")
        self._bucket: str = match[1]
        prefix: str = match[2] or ""
        self._prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        self._uri = uri
        self._connection = Connection(
            profile=profile,
            endpoint_url=endpoint_url,
            region=region,
            role_arn=role_arn,
            patience_s=patience_s,
            answer_s=answer_s,
        )

    def __repr__(self) -> str:
        return f"S3Store({self._uri!r})"

    @property
    def traffic(self) -> Traffic:
        """What this process has sent, repetitions included."""
        return self._connection.traffic

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix`` as it was given."""
        return self._uri

    def get(self, key: str) -> bytes:
        """The object's bytes; a truncated body is fetched afresh."""
        return self.read(key)[1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``; DataCorrupt if the object ends before that."""
        name, full = self._name(key), self._full(key)
        if length == 0:  # HTTP has no empty range
            return self._empty_range(key, start)

        wanted = f"bytes={start}-{start + length - 1}"
        request: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": full, "Range": wanted}
        data = self._connection.get(request, lambda reply: whole_body(reply, name), name)
        if len(data) != length:
            raise too_short(name, start, length)
        return data

    def read(self, key: str, *, most_bytes: int | None = None) -> tuple[ObjectStat, bytes]:
        """The bytes and the stat that came in one answer."""
        name, full = self._name(key), self._full(key)

        def take(reply: "GetObjectOutputTypeDef") -> tuple[ObjectStat, bytes]:
            stat = ObjectStat(
                key=key,
                size_bytes=reply["ContentLength"],
                etag=reply["ETag"].strip('"'),
                modified_s=reply["LastModified"].timestamp(),
            )
            if most_bytes is not None and stat.size_bytes > most_bytes:
                reply["Body"].close()
                return stat, b""
            return stat, whole_object(reply, name)

        request: GetObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": full,
            "ChecksumMode": "ENABLED",
        }
        return undamaged(lambda: self._connection.get(request, take, name))

    def create(self, key: str, data: bytes) -> bool:
        """PutObject with ``If-None-Match: *``; False may echo this very call (``storage.commit``)."""
        full = self._full(key)

        def send(client: "S3Client") -> None:
            client.put_object(
                Bucket=self._bucket, Key=full, Body=data, ContentMD5=content_md5(data), IfNoneMatch="*"
            )

        try:
            self._connection.call(send, self._name(key), once=True)
        except KeyTakenError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        """One PutObject."""
        full = self._full(key)

        def send(client: "S3Client") -> None:
            client.put_object(Bucket=self._bucket, Key=full, Body=data, ContentMD5=content_md5(data))

        self._connection.call(send, self._name(key))

    def put_file(self, key: str, path: Path) -> None:
        """One PutObject for a small file, else a multipart upload that holds a few parts in memory."""
        with _local_errors(path):
            size_bytes = path.stat().st_size
            if size_bytes <= _PART_BYTES:
                self.put(key, path.read_bytes())
            else:
                self._put_parts(key, path, size_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Streams the object to a file beside ``path``, going on where an answer broke off; renames."""
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        with _local_errors(path):
            try:
                undamaged(lambda: self._download(key, aside))
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        """All objects, a page per request, each page asked for by the last key of the one before."""
        within, after = self._prefix + prefix, self._prefix + start_after if start_after else ""
        while True:
            page, is_last = self._page(within, after)
            for full, stat in page:
                if (
                    stat.key and full > after and full.startswith(within)
                ):  # no key: the prefix's "folder" marker
                    yield stat
            if is_last:
                return
            if (
                not page or page[-1][0] <= after
            ):  # an empty page that is not the last, or no way past odd keys
                raise StorageError(f"{self._uri} cannot be listed beyond {after!r}")
            after = page[-1][0]

    def delete(self, key: str) -> None:
        """One DeleteObject."""
        full = self._full(key)
        with suppress(ObjectMissing):
            self._connection.call(
                lambda client: client.delete_object(Bucket=self._bucket, Key=full), self._name(key)
            )

    def stat(self, key: str) -> ObjectStat | None:
        """One HeadObject. A bucket that does not exist looks like an object that does not."""
        full = self._full(key)
        try:
            reply = self._connection.call(
                lambda client: client.head_object(Bucket=self._bucket, Key=full), self._name(key)
            )
        except ObjectMissing:
            return None
        return ObjectStat(
            key=key,
            size_bytes=reply["ContentLength"],
            etag=reply["ETag"].strip('"'),
            modified_s=reply["LastModified"].timestamp(),
        )

    def unfinished(self) -> Iterator[ObjectStat]:
        """Multipart uploads that were neither completed nor aborted; ``etag`` is the upload's id."""
        markers: dict[str, str] = {}
        while True:
            reply = self._connection.call(
                lambda client, markers=markers: client.list_multipart_uploads(  # type: ignore[misc]
                    Bucket=self._bucket, Prefix=self._prefix, **markers
                ),
                f"listing the uploads of {self._uri}",
            )
            for upload in reply.get("Uploads", []):
                yield ObjectStat(
                    key=upload["Key"][len(self._prefix) :],
                    size_bytes=0,
                    etag=upload["UploadId"],
                    modified_s=upload["Initiated"].timestamp(),
                )
            if not reply.get("IsTruncated"):
                return
            markers = {"KeyMarker": reply["NextKeyMarker"], "UploadIdMarker": reply["NextUploadIdMarker"]}

    def delete_unfinished(self, write: ObjectStat) -> None:
        """Aborts the upload; its parts are gone then."""
        full = self._full(write.key)
        with suppress(ObjectMissing):
            self._connection.call(
                lambda client: client.abort_multipart_upload(
                    Bucket=self._bucket, Key=full, UploadId=write.etag
                ),
                self._name(write.key),
            )

    def local_path(self, key: str) -> Path | None:
        """None: nothing here is a local file."""
        del key
        return None

    def _page(self, within: str, after: str) -> tuple[list[tuple[str, ObjectStat]], bool]:
        """Up to 1000 objects by full key, some perhaps outside of what was asked; whether they are the last.

        Ceph repeats prefix and start in its answer without the encoding that it gives to keys, so a control
        character in them would make the answer unreadable as XML: they are cut short before one.
        """
        request: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": _NOT_XML.split(within)[0]}
        if start := _NOT_XML.split(after)[0]:
            request["StartAfter"] = start
        reply = self._connection.call(
            lambda client: client.list_objects_v2(**request),
            f"listing {self._uri}",
        )
        objects = [
            (
                item["Key"],
                ObjectStat(
                    key=item["Key"][len(self._prefix) :],
                    size_bytes=item["Size"],
                    etag=item["ETag"].strip('"'),
                    modified_s=item["LastModified"].timestamp(),
                ),
            )
            for item in reply.get("Contents", [])
        ]
        return objects, not reply["IsTruncated"]

    def _download(self, key: str, path: Path) -> None:
        with open(path, "wb") as file:
            download = Download(self._bucket, self._full(key), self._name(key), file)
            self._connection.call(download.go_on, self._name(key))

    def _empty_range(self, key: str, start: int) -> bytes:
        stat = self.stat(key)
        if stat is None:
            raise ObjectMissing(f"{self._name(key)} does not exist")
        if start > stat.size_bytes:
            raise too_short(self._name(key), start, 0)
        return b""

    def _put_parts(self, key: str, path: Path, size_bytes: int) -> None:
        full, name = self._full(key), self._name(key)
        upload_id = self._connection.call(
            lambda client: client.create_multipart_upload(Bucket=self._bucket, Key=full)["UploadId"], name
        )
        try:
            parts = self._send_parts(full, name, path, upload_id)
            self._complete(key, upload_id, parts, size_bytes)
        except BaseException:
            with suppress(StorageError):  # the bucket's life-cycle rule gets what this cannot
                self._connection.call(
                    lambda client: client.abort_multipart_upload(
                        Bucket=self._bucket, Key=full, UploadId=upload_id
                    ),
                    name,
                )
            raise

    def _send_parts(self, full: str, name: str, path: Path, upload_id: str) -> list["CompletedPartTypeDef"]:
        size_bytes = path.stat().st_size
        part_bytes = max(_PART_BYTES, -(-size_bytes // _MOST_PARTS))

        def send(number: int) -> "CompletedPartTypeDef":
            with open(path, "rb") as file:
                file.seek((number - 1) * part_bytes)
                data = file.read(part_bytes)
            reply = self._connection.call(
                lambda client: client.upload_part(
                    Bucket=self._bucket,
                    Key=full,
                    UploadId=upload_id,
                    PartNumber=number,
                    Body=data,
                    ContentMD5=content_md5(data),
                ),
                name,
            )
            return {"ETag": reply["ETag"], "PartNumber": number}

        with ThreadPoolExecutor(_PART_THREADS) as threads:
            return list(threads.map(send, range(1, -(-size_bytes // part_bytes) + 1)))

    def _complete(
        self, key: str, upload_id: str, parts: list["CompletedPartTypeDef"], size_bytes: int
    ) -> None:
        """Completes the upload; if it is unknown, an earlier attempt may have done it, its reply lost."""
        full = self._full(key)
        try:
            self._connection.call(
                lambda client: client.complete_multipart_upload(
                    Bucket=self._bucket, Key=full, UploadId=upload_id, MultipartUpload={"Parts": parts}
                ),
                self._name(key),
            )
        except ObjectMissing:
            stat = self.stat(key)
            if stat is None or stat.size_bytes != size_bytes or not stat.etag.endswith(f"-{len(parts)}"):
                raise

    def _full(self, key: str) -> str:
        full = self._prefix + key
        try:
            size_bytes = len(full.encode())
        except UnicodeEncodeError as exc:
            raise SourceError(f"{key!r} is not a key of an S3 store: it is not Unicode text") from exc
        if not key or "\0" in key or size_bytes > 1024:
            raise SourceError(
                f"{key!r} is not a key of an S3 store", "a key has 1 to 1024 bytes with its prefix, no NUL"
            )
        return full

    def _name(self, key: str) -> str:
        return f"{key!r} in {self._uri}"


@contextmanager
def _local_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        name = f"the local file {str(path)!r}"
        raise no_room(exc, name) or StorageError(
            f"{name}: {exc.strerror}", "check the disk and its rights"
        ) from exc
