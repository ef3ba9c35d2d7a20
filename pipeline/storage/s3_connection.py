"""Talks to an S3 service: one client per process, patience with a busy service, errors turned into ours.

This file is the door of boto3; ``s3.py`` says what to ask. A call goes through two layers of patience.
botocore (adaptive mode) repeats a request a few times within about a second. Around it, ``Connection.call``
repeats with growing, jittered pauses until ``patience_s`` has passed, because botocore's retries stop early
in a long outage and do not cover the reading of bodies.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from botocore.session import Session as BotocoreSession

from pipeline.errors import (
    AccessDenied,
    BitsieveError,
    DataCorrupt,
    ObjectMissing,
    SourceError,
    StorageBusy,
    StorageError,
    UsageError,
)
from pipeline.storage.s3_quick import QuickGets
from pipeline.storage.traffic import BYTES, GET, LIST, PUT, Traffic

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 20.0
_CHECK_CREDENTIALS = "check AWS_PROFILE, the AWS_* keys, or the role of this machine"
_GRANT = (
    "these credentials need s3:GetObject, s3:PutObject and s3:ListBucket there "
    "(without the last, a missing object looks forbidden)"
)
_BUSY = {
    "ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestLimitExceeded",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "SlowDown", "Throttling",
    "ThrottlingException",
}  # fmt: skip
_BAD_CREDENTIALS = {
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
_READS = {"GetObject", "HeadObject"}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_BAD_SETTINGS = {
    "ConfigParseError", "InvalidConfigError", "InvalidEndpointConfigurationError", "InvalidRegionError",
}  # fmt: skip


class KeyTakenError(StorageError):
    """A create found the key taken; never leaves ``pipeline.storage``."""


class BodyDamagedError(StorageError):
    """An answer's body is not what its checksum says; never leaves ``pipeline.storage``."""


class Connection:
    """How to reach a service, and the client once somebody asks; picklable, for any thread or process."""

    def __init__(
        self,
        *,
        profile: str | None,
        endpoint_url: str | None,
        region: str | None,
        role_arn: str | None,
        patience_s: float,
        answer_s: float,
    ) -> None:
        self._profile = profile
        self._endpoint_url = endpoint_url
        self._region = region
        self._role_arn = role_arn
        self._patience_s = patience_s
        self._answer_s = answer_s
        self.traffic = Traffic()
        self._connect_anew()

    def __getstate__(self) -> dict[str, Any]:
        settings = (
            "_profile",
            "_endpoint_url",
            "_region",
            "_role_arn",
            "_patience_s",
            "_answer_s",
            "traffic",
        )
        return {name: self.__dict__[name] for name in settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect_anew()

    def call(self, operation: Callable[["S3Client"], T], name: str, *, once: bool = False) -> T:
        """``operation`` done with a client, repeated while the service is busy.

        ``name`` says in messages what it works on. With ``once`` (a create) an error after an attempt whose
        effect is unknown says nothing about the effect, so it becomes StorageBusy; but KeyTakenError stays
        KeyTakenError.

        Raises:
            StorageBusy: after ``patience_s``.
        """
        give_up_s = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        in_doubt = False
        while True:
            try:
                return operation(self._client())
            except (BotoCoreError, ClientError, ResponseParserError) as exc:
                error = _translated(exc, name)
                in_doubt = in_doubt or (once and _was_repeated(exc))
                if in_doubt and not isinstance(error, StorageBusy | KeyTakenError):
                    raise StorageBusy(
                        f"{name}: an attempt may have taken effect; then: {error.message}"
                    ) from exc
                if not isinstance(error, StorageBusy) or time.monotonic() + pause_s > give_up_s:
                    raise error from exc
            except StorageBusy:  # the operation itself saw that an answer was not whole
                if time.monotonic() + pause_s > give_up_s:
                    raise
            in_doubt = once
            time.sleep(random.SystemRandom().uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def get(
        self, request: "GetObjectRequestTypeDef", take: "Callable[[GetObjectOutputTypeDef], T]", name: str
    ) -> T:
        """What ``take`` makes of the answer to a GET, asked for as ``call`` does."""

        def fetch(_client: "S3Client") -> T:
            gets = self._reach()[1]
            reply = gets.get(request)
            self.traffic.add(BYTES, reply["ContentLength"])
            try:
                return take(reply)
            except BodyDamagedError:
                gets.leave_to_boto3()
                raise

        return self.call(fetch, name)

    def _connect_anew(self) -> None:
        self._lock = threading.Lock()
        self._reached: tuple[int, S3Client, QuickGets] | None = None

    def _client(self) -> "S3Client":
        return self._reach()[0]

    def _reach(self) -> "tuple[S3Client, QuickGets]":
        """This process's client; a client must not be shared with a forked child."""
        with self._lock:
            if self._reached is None or self._reached[0] != os.getpid():
                session = _session(self._profile, self._region, self._role_arn)
                client = self._connect(session)
                client.meta.events.register("before-send.s3", self._count)
                gets = QuickGets(client, session.get_credentials(), self.traffic)
                self._reached = (os.getpid(), client, gets)
            return self._reached[1:]

    def _count(self, event_name: str, **_: Any) -> None:
        operation = event_name.rpartition(".")[2]
        if operation in _READS:
            self.traffic.add(GET)
        elif not operation.startswith(("Delete", "Abort")):  # those are free
            self.traffic.add(LIST if operation.startswith("List") else PUT)

    def _connect(self, session: Session) -> "S3Client":
        region = session.region_name or "us-east-1"
        try:
            client = session.client(
                "s3", region_name=region, endpoint_url=self._endpoint_url, config=self._config()
            )
            if _is_aws(client.meta.endpoint_url):
                return client
            config = self._config(
                s3={"addressing_style": "path"},  # other services rarely have a host name per bucket
                request_checksum_calculation="when_required",  # or understand trailing checksums
                response_checksum_validation="when_required",
            )
            return session.client("s3", region_name=region, endpoint_url=self._endpoint_url, config=config)
        except ValueError as exc:
            raise UsageError("the S3 endpoint is not a URL", "correct AWS_ENDPOINT_URL") from exc

    def _config(self, **more: Any) -> Config:
        return Config(
            retries={"mode": "adaptive", "total_max_attempts": 4},
            connect_timeout=10,
            read_timeout=self._answer_s,
            max_pool_connections=64,
            tcp_keepalive=True,
            user_agent_extra="bitsieve",
            **more,
        )


def _session(profile: str | None, region: str | None, role_arn: str | None) -> Session:
    """A session with the profile's or environment's credentials, or with those of a role that they assume."""
    base = BotocoreSession(profile=profile)
    source = base.get_credentials() if role_arn is not None else None
    if role_arn is not None and source is not None:
        region = region or base.get_config_variable("region") or "us-east-1"
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=partial(base.create_client, region_name=region),
            source_credentials=source,
            role_arn=role_arn,
            extra_args={"RoleSessionName": "bitsieve"},
        )
        assumed = BotocoreSession()
        assumed._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]
            refresh_using=fetcher.fetch_credentials, method="assume-role"
        )
        return Session(botocore_session=assumed, region_name=region)
    return Session(botocore_session=base, region_name=region)


def _is_aws(endpoint_url: str) -> bool:
    host = urlsplit(endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _was_repeated(exc: Exception) -> bool:
    """Whether botocore itself sent the request more than once before this answer."""
    return isinstance(exc, ClientError) and exc.response["ResponseMetadata"].get("RetryAttempts", 0) > 0


def _translated(exc: Exception, name: str) -> BitsieveError:
    """The one place where boto3's errors become ours. No URL in messages: an endpoint may hold a password."""
    if isinstance(exc, ClientError):
        return _refusal(exc, name)
    kind = type(exc).__name__
    if isinstance(exc, HTTPClientError | BotoConnectionError | IncompleteReadError | ResponseParserError):
        return StorageBusy(
            f"{name}: no whole answer from the S3 service ({kind})",
            "check the network and the endpoint, then run again",
        )
    if isinstance(exc, FlexibleChecksumError):
        return BodyDamagedError(f"{name}: the bytes that came are not those of its checksum")
    if "Credential" in kind or "Token" in kind or "SSO" in kind or kind == "ProfileNotFound":
        return AccessDenied(f"{name}: no usable AWS credentials ({kind})", _CHECK_CREDENTIALS)
    if kind in _BAD_SETTINGS:
        return UsageError(f"the AWS settings are not usable ({kind})", "correct the AWS_* variables or files")
    return StorageError(f"{name}: the S3 client failed ({kind})")


def _refusal(exc: ClientError, name: str) -> BitsieveError:
    """What the service's answer means for the caller."""
    status = int(exc.response["ResponseMetadata"].get("HTTPStatusCode", 0))
    code = exc.response.get("Error", {}).get("Code", "")
    says = f"{name}: {code or status}"
    if code in _BUSY or status in {409, 429} or status >= 500:
        return StorageBusy(f"{says}: the S3 service is busy or failing", "run again later")
    if code == "NoSuchBucket":
        return SourceError(
            f"{name}: the bucket does not exist", "create it, or correct the URI or the endpoint"
        )
    if code in _WRONG_REGION or status == 301:
        return SourceError(f"{says}: the bucket is in another region", "set AWS_REGION to the bucket's")
    if code == "RequestTimeTooSkewed":
        return AccessDenied(f"{says}: this machine's clock is wrong", "set the clock")
    if code in _BAD_CREDENTIALS or status == 401:
        return AccessDenied(f"{says}: the credentials are not accepted", _CHECK_CREDENTIALS)
    return _refusal_by_status(status, says, name)


def _refusal_by_status(status: int, says: str, name: str) -> BitsieveError:
    if status == 412:
        return KeyTakenError(f"{name} exists already")
    if status == 404:
        return ObjectMissing(f"{name} does not exist")
    if status == 403:
        return AccessDenied(f"{says}: not permitted", _GRANT)
    if status == 416:
        return DataCorrupt(f"{name}: the object ends before the range that was asked for")
    return StorageError(f"{says}: the S3 service refused the request (status {status})")
