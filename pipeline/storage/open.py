"""Opens the store or source that a URI names: a local folder or ``s3://bucket/prefix``.

``open_store`` looks at nothing but the URI. ``open_existing_store`` is for readers: it insists on a bitsieve
store.
"""

import re

from pipeline.errors import StoreMismatch, UsageError
from pipeline.storage import layout
from pipeline.storage.local import LocalStore
from pipeline.storage.probe import read_format
from pipeline.storage.store import ObjectStore

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def open_store(
    uri: str, *, profile: str | None = None, endpoint_url: str | None = None, region: str | None = None
) -> ObjectStore:
    """The object store at ``uri``, which need not hold anything yet.

    ``profile``, ``endpoint_url`` and ``region`` are for S3 and override what the AWS environment says.

    Raises:
        UsageError: ``uri`` is neither a local path nor ``s3://bucket/prefix``.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None and uri:
        return LocalStore(uri)
    if scheme is not None and uri.startswith("s3://"):
        from pipeline.storage.s3 import S3Store  # boto3 takes a third of a second to import

        return S3Store(uri, profile=profile, endpoint_url=endpoint_url, region=region)
    given = f"a {scheme[1]}: URI" if scheme else "an empty URI"
    raise UsageError(f"{given} is not a place bitsieve can use", "give a local path or s3://bucket/prefix")


def open_existing_store(
    uri: str, *, profile: str | None = None, endpoint_url: str | None = None, region: str | None = None
) -> ObjectStore:
    """Like ``open_store``, for readers: the store must be there and of a layout this version reads.

    Raises:
        StoreMismatch: it is not.
    """
    store = open_store(uri, profile=profile, endpoint_url=endpoint_url, region=region)
    if read_format(store) is None:
        raise StoreMismatch(
            f"no bitsieve store at {uri}: it has no {layout.FORMAT}",
            "check --store; `bitsieve reindex` makes a store",
        )
    return store
