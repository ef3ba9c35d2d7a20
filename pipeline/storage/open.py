"""Opens the store or source that a URI names: a local folder or ``s3://bucket/prefix``.

``open_store`` looks at nothing but the URI. ``open_existing_store`` is for readers: it insists on a bitsieve
store.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import StoreMismatch, UsageError
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.probe import read_format
from pipeline.storage.store import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How S3 is reached for whatever lies at or under ``uri``; None is what the AWS environment says.

    ``role_arn`` is assumed with the credentials of the profile, or else of the environment.
    """

    uri: str
    profile: str | None = None
    endpoint_url: str | None = None
    region: str | None = None
    role_arn: str | None = None


class _Known:
    """This process's accesses: what a command's configuration says, in its workers too."""

    accesses: tuple[S3Access, ...] = ()


def use_accesses(accesses: Iterable[S3Access]) -> None:
    """From now on every store that this process opens is reached so; replaces what was said before.

    One place for the whole process, because stores are opened in many and none may forget it.
    """
    _Known.accesses = tuple(sorted(accesses, key=lambda access: -len(access.uri)))


def accesses_in_use() -> tuple[S3Access, ...]:
    """What ``use_accesses`` was told, for another process to be told too."""
    return _Known.accesses


def access_of(uri: str) -> S3Access:
    """The access with the longest URI that ``uri`` is or lies under."""
    for access in _Known.accesses:
        if f"{uri}/".startswith(f"{access.uri.rstrip('/')}/"):
            return access
    return S3Access(uri=uri)


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def open_store(uri: str) -> ObjectStore:
    """The object store at ``uri``, which need not hold anything yet.

    Raises:
        UsageError: ``uri`` is neither a local path nor ``s3://bucket/prefix``.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None and uri:
        return LocalStore(uri)
    if scheme is not None and uri.startswith("s3://"):
        from pipeline.storage.s3 import S3Store  # boto3 takes a third of a second to import

        access = access_of(uri)
        return S3Store(
            uri,
            profile=access.profile,
            endpoint_url=access.endpoint_url,
            region=access.region,
            role_arn=access.role_arn,
        )
    given = f"a {scheme[1]}: URI" if scheme else "an empty URI"
    raise UsageError(f"{given} is not a place bitsieve can use", "give a local path or s3://bucket/prefix")


def open_existing_store(uri: str) -> ObjectStore:
    """Like ``open_store``, for readers: the store must be there and of a layout this version reads.

    Raises:
        StoreMismatch: it is not.
    """
    store = open_store(uri)
    if read_format(store) is None:
        raise StoreMismatch(
            f"no bitsieve store at {uri}: it has no {layout.FORMAT}",
            "check --store; `bitsieve reindex` makes a store",
        )
    return store
