"""GETs as boto3 sends them, without what it does around each: a small object costs a third of the processor.

The first GET of a bucket goes through boto3, and what it sent is the pattern of those that follow: where to,
and signed for which region. They leave through boto3's own connections. Only plain successes end here:
whatever else comes is asked for again through boto3, which knows what to make of it, and so is everything for
a while then, because a service in trouble needs its patience.
"""

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from pipeline.storage.traffic import GET, Traffic

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

_SLOW_S = 30.0
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_MD5 = re.compile("[0-9a-f]{32}")
_OF_THE_OBJECT = {404, 416}  # answers that say nothing of the service
_KEPT = {
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}


def has_md5(reply: Mapping[str, Any]) -> bool:
    """Whether the ETag is the MD5 of the body: one part, no key of the client's or KMS, no other checksum.

    Where there is another checksum, botocore has compared it, or cannot; the ETag need not be one then.
    """
    encrypted = "SSECustomerAlgorithm" in reply or "kms" in reply.get("ServerSideEncryption", "")
    other = any(name.startswith("Checksum") for name in reply)
    return not encrypted and not other and _MD5.fullmatch(reply["ETag"].strip('"')) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What all GETs of a bucket have in common; ``url`` is that of an object without its key."""

    url: str
    host: str
    path: str
    region: str
    user_agent: str

    def headers(self, key: str, byte_range: str | None, credentials: Any, now: datetime) -> dict[str, str]:
        """The headers of the GET for ``key``, signed (AWS Signature Version 4)."""
        moment = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {"host": self.host}
        if byte_range is not None:
            signed["range"] = byte_range
        signed["x-amz-content-sha256"] = _EMPTY_SHA256
        signed["x-amz-date"] = moment
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = ";".join(signed)  # in the order of the alphabet, as they have to be
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        request = f"GET\n{self.path}{quoted(key)}\n\n{lines}\n{names}\n{_EMPTY_SHA256}"
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        signature = _hmac(_signing_key(credentials.secret_key, scope), to_sign).hex()
        del signed["host"]  # the connection sends it
        return {
            **signed,
            "User-Agent": self.user_agent,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}",
        }


def learn(request: AWSPreparedRequest, key: str) -> Pattern | None:
    """The pattern of a GET for ``key`` that boto3 sent; None if it is not one that is understood here."""
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    method, _, credential = headers.get("authorization", "").partition(" Credential=")
    scope = credential.partition(",")[0].rsplit("/", 4)
    url = _text(request.url)
    if method != "AWS4-HMAC-SHA256" or scope[3:] != ["s3", "aws4_request"] or not url.endswith(quoted(key)):
        return None
    base = url.removesuffix(quoted(key))
    parts = urlsplit(base)
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return Pattern(
        url=base, host=host, path=parts.path, region=scope[2], user_agent=headers.get("user-agent", "")
    )


class QuickGets:
    """The GETs of one client, for any thread; ``credentials`` are botocore's, which renew themselves."""

    def __init__(self, client: "S3Client", credentials: Any, traffic: Traffic) -> None:
        self._client = client
        self._traffic = traffic
        self._credentials = credentials
        self._session = client._endpoint.http_session  # type: ignore[attr-defined]
        self._patterns: dict[str, Pattern | None] = {}
        self._slow_until_s = 0.0
        self._sent = threading.local()
        client.meta.events.register("before-send.s3.GetObject", self._note)

    def get(self, request: "GetObjectRequestTypeDef") -> "GetObjectOutputTypeDef":
        """As ``get_object`` of boto3; the only keys are Bucket, Key, Range and ChecksumMode.

        What came quickly is vouched for by nothing but its ETag, so where that is no MD5 ``ChecksumMode`` is
        left to boto3.
        """
        pattern = self._patterns.get(request["Bucket"])
        if pattern is not None and time.monotonic() >= self._slow_until_s:
            reply = self._quick(pattern, request)
            if reply is not None:
                return reply
        reply = self._client.get_object(**request)
        if request["Bucket"] not in self._patterns:
            self._patterns[request["Bucket"]] = learn(self._sent.request, request["Key"])
        return reply

    def leave_to_boto3(self) -> None:
        """Sends nothing quickly for a while."""
        self._slow_until_s = time.monotonic() + _SLOW_S

    def _note(self, request: AWSPreparedRequest, **_: Any) -> None:
        self._sent.request = request

    def _quick(self, pattern: Pattern, request: "GetObjectRequestTypeDef") -> "GetObjectOutputTypeDef | None":
        key, byte_range = request["Key"], request.get("Range")
        try:
            credentials = self._credentials.get_frozen_credentials()
            headers: Any = pattern.headers(key, byte_range, credentials, datetime.now(UTC))
            self._traffic.add(GET)
            answer = self._session.send(
                AWSPreparedRequest("GET", pattern.url + quoted(key), headers, b"", True)  # noqa: FBT003
            )
            if answer.status_code == (200 if byte_range is None else 206):
                reply = _reply(answer)
                if "ChecksumMode" not in request or has_md5(reply):
                    return cast("GetObjectOutputTypeDef", reply)
                answer.raw.close()
            elif answer.status_code in _OF_THE_OBJECT:
                said = StreamingBody(answer.raw, answer.headers.get("Content-Length")).read()  # or chunked
                if b"<Code>NoSuchKey</Code>" in said:
                    raise _no_such_key()
                return None
            else:
                answer.raw.close()
        except (BotoCoreError, KeyError, ValueError):
            pass  # no whole answer, or a strange one
        self.leave_to_boto3()
        return None


def quoted(key: str) -> str:
    """A key as it stands in a URL and is signed."""
    return quote(key, safe="/~")


def _reply(answer: Any) -> dict[str, Any]:
    headers = answer.headers
    n_bytes = int(headers["Content-Length"])
    return {
        "Body": StreamingBody(answer.raw, n_bytes),
        "ContentLength": n_bytes,
        "ETag": headers["ETag"],
        "LastModified": parsedate_to_datetime(headers["Last-Modified"]),
        **{name: headers[header] for header, name in _KEPT.items() if header in headers},
    }


def _no_such_key() -> ClientError:
    said: Any = {"Error": {"Code": "NoSuchKey"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
    return ClientError(said, "GetObject")


@lru_cache(maxsize=8)
def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
