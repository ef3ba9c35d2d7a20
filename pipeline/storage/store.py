"""What an object store is to bitsieve: bytes under keys, and one atomic operation, create-if-absent.

Keys are relative, ``/``-separated and non-empty; no part of a key of ours is empty, ``.`` or ``..`` (a
catalog on S3 may hold such keys, and S3 reads them). Keys are Python strings as the store spells them; a
local file name that is not UTF-8 appears with surrogate escapes, as in ``os.fsdecode``. Stores are picklable
values: an actor opens its own connection.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.storage.traffic import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """What a store knows of an object without reading it.

    ``etag`` changes whenever the bytes do (S3: the ETag; local: size, mtime in ns and inode). ``modified_s``
    is the store's own clock, seconds since 1970.
    """

    key: str
    size_bytes: int
    etag: str
    modified_s: float


class ObjectStore(Protocol):
    """A folder or an S3 prefix. Every method raises only errors of ``pipeline.errors``."""

    @property
    def uri(self) -> str:
        """Where the store is, as the user wrote it, without credentials."""
        ...

    @property
    def traffic(self) -> Traffic:
        """What this process has asked of it, but for lists of a folder and bytes that ``get_file`` got."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes, all of them: a short read is retried. ObjectMissing if absent."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``; DataCorrupt if the object ends before that."""
        ...

    def read(self, key: str, *, most_bytes: int | None = None) -> tuple[ObjectStat, bytes]:
        """The bytes together with the stat of the very object they came from.

        An object of more than ``most_bytes`` is not read: its stat comes with no bytes.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Creates the object if its key is free, atomically: of many racing writers exactly one gets True.

        False means that the key was taken (perhaps by this very call, its reply lost: see
        ``storage.commit``). StorageBusy means that the outcome is unknown.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites the object; readers see the old bytes or the new ones, never a mixture."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Like ``put``, from a local file of any size, in bounded memory."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Downloads the object to ``path`` (written aside and renamed), in bounded memory."""
        ...

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        """All objects whose key begins with ``prefix``, in ascending UTF-8 byte order of keys."""
        ...

    def delete(self, key: str) -> None:
        """Deletes the object; deleting what is not there is not an error."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """The stat of the object, None if absent."""
        ...

    def unfinished(self) -> Iterator[ObjectStat]:
        """Writes that were begun and are no objects yet: under way, or left by writers that were killed.

        ``key`` and ``etag`` together name one; ``modified_s`` is when it was begun or last written to.
        """
        ...

    def delete_unfinished(self, write: ObjectStat) -> None:
        """Gives up a write that ``unfinished`` named; one that ended meanwhile is left alone."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file that holds the object where the store is a local folder (for mapping it), else None."""
        ...
