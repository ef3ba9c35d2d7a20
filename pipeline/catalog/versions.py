"""The version of a single object: what the store says of it, or what a listing file says in its stead.

A store's version is ETag and size, and what is read later must have the very same. A listing file may carry
versions of its own (a revision, a hash of somebody else's making): they tell one night from the next but
cannot be compared with the store, so only the size is.
"""

from pipeline.fingerprint import sha256_hex
from pipeline.storage.store import ObjectStat

_OWN = "listed:"
GONE = "gone"
"""The version of what was listed but was not there; reading it tells why."""


def object_version(stat: ObjectStat) -> str:
    """The version of an object as its store has it."""
    return f"{stat.etag}:{stat.size_bytes}"


def own_version(text: str, root: str) -> str:
    """A version that the listing made up: it means something below its own root only."""
    return f"{_OWN}{sha256_hex(root.encode())[:16]}:{text}"


def is_listed_object(version: str, size_bytes: int, stat: ObjectStat) -> bool:
    """Whether the object that was read is the one that was listed; ``size_bytes`` 0 means not known."""
    if version.startswith(_OWN):
        return size_bytes in (0, stat.size_bytes)
    return version == object_version(stat)
