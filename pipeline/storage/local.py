"""Keeps objects as files of a local folder: the store on one machine, and the reader of local catalogs.

Three promises carry the rest:

1. **Whole or absent.** Bytes are written to ``.bitsieve-tmp/`` in the root, synced, and only then given their
   name: by ``rename`` (``put``) or by ``link``, which fails if the name is taken (``create``). A killed
   writer leaves a file that nobody lists.
2. **Never outside.** A key, or a symbolic link, that leads out of the root is refused, whoever made it.
3. **Reading writes nothing.** A read-only folder is a good source; the root is made by the first write.
"""

import errno
import logging
import os
import shutil
import stat as stat_module
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import (
    AccessDenied,
    BitsieveError,
    DataCorrupt,
    ObjectMissing,
    SourceError,
    StorageBusy,
    StorageError,
    no_room,
)
from pipeline.storage.store import ObjectStat
from pipeline.storage.traffic import BYTES, GET, PUT, Traffic

TEMPORARY = ".bitsieve-tmp"
_READ_TRIES = 5
_log = logging.getLogger(__name__)

_ERRORS: tuple[tuple[set[int], type[BitsieveError], str, str], ...] = (
    ({errno.ENOENT, errno.EISDIR}, ObjectMissing, "does not exist", ""),
    ({errno.ENOTDIR}, ObjectMissing, "does not exist: a part of its path is a file, not a folder", ""),
    (
        {errno.EACCES, errno.EPERM, errno.EROFS},
        AccessDenied,
        "may not be read or written by this user",
        "give this user the right to read (a store: and write) the folder",
    ),
    ({errno.ENAMETOOLONG}, SourceError, "has a name that is too long for the file system", ""),
    ({errno.ELOOP}, SourceError, "is a link to itself", "remove the link"),
)


class LocalStore:
    """An ``ObjectStore`` in the folder ``root``, which need not exist yet.

    A key is the file's path below the root. Unlike on S3, a key cannot be both an object and the folder of
    others. Two stores are equal if their folders are.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._uri = os.fspath(root)
        self._root = os.path.abspath(root)  # workers run in other folders
        self.traffic = Traffic()

    @cached_property
    def _real_root(self) -> str:
        """Where the root was when it was first used: if it is moved under our feet, every key is refused."""
        return os.path.realpath(self._root)

    def __repr__(self) -> str:
        return f"LocalStore({self._uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalStore) and other._root == self._root

    def __hash__(self) -> int:
        return hash(self._root)

    @property
    def uri(self) -> str:
        """The folder as it was given."""
        return self._uri

    def get(self, key: str) -> bytes:
        """The file's bytes."""
        return self.read(key)[1]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``start``; DataCorrupt if the file ends before that."""
        with self._errors(key), open(self._inside(key), "rb") as file:
            self.traffic.add(GET)
            file.seek(start)
            data = file.read(length)
        self.traffic.add(BYTES, len(data))
        if len(data) != length:
            raise DataCorrupt(
                f"{self._name(key)}: expected {length} bytes from {start}, got {len(data)}: it is too short"
            )
        return data

    def read(self, key: str, *, most_bytes: int | None = None) -> tuple[ObjectStat, bytes]:
        """The bytes and the stat of one state of the file: a file that changes meanwhile is read again."""
        self.traffic.add(GET)
        with self._errors(key):
            for _ in range(_READ_TRIES):
                with open(self._inside(key), "rb") as file:
                    before = _stat(key, os.fstat(file.fileno()))
                    if most_bytes is not None and before.size_bytes > most_bytes:
                        return before, b""
                    data = file.read()
                    after = _stat(key, os.fstat(file.fileno()))
                if before == after and len(data) == after.size_bytes:
                    self.traffic.add(BYTES, len(data))
                    return after, data
        raise StorageBusy(f"{self._name(key)} changed during each of {_READ_TRIES} attempts to read it")

    def create(self, key: str, data: bytes) -> bool:
        """Creates the file by ``link()``, of which the file system lets exactly one succeed."""
        self.traffic.add(PUT)
        with self._errors(key):
            target = self._inside(key)
            with self._temporary(target) as (file, temporary):
                file.write(data)
                _sync(file)
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    return False
                _sync_folder(os.path.dirname(target))
                return True

    def put(self, key: str, data: bytes) -> None:
        """Writes aside and renames."""
        self.traffic.add(PUT)
        with self._errors(key):
            target = self._inside(key)
            with self._temporary(target) as (file, temporary):
                file.write(data)
                _sync(file)
                os.replace(temporary, target)
                _sync_folder(os.path.dirname(target))

    def put_file(self, key: str, path: Path) -> None:
        """Like ``put``, copying from ``path``."""
        self.traffic.add(PUT)
        with self._errors(key):
            target = self._inside(key)
            with open(path, "rb") as source, self._temporary(target) as (file, temporary):
                shutil.copyfileobj(source, file, 1 << 20)
                _sync(file)
                os.replace(temporary, target)
                _sync_folder(os.path.dirname(target))

    def get_file(self, key: str, path: Path) -> None:
        """Copies the file to ``path``, aside first."""
        self.traffic.add(GET)
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        with self._errors(key):
            try:
                with open(self._inside(key), "rb") as source, open(aside, "xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)

    def list_objects(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectStat]:
        """All regular files below the root, streamed; a root that does not exist yet holds none.

        Links to files and folders inside the root are followed. SourceError names a link that leads outside
        or in a circle. Fifos, sockets, devices and dangling links hold no bytes: they are no objects, and
        are logged.
        """
        root = os.fsencode(self._root)
        with self._errors(prefix):
            if os.path.lexists(root) and not os.path.isdir(root):
                raise SourceError(f"{self._uri!r} is not a folder", "give the folder that holds it")
            yield from self._walk(root, b"", (_key_bytes(prefix), _key_bytes(start_after)), frozenset())

    def delete(self, key: str) -> None:
        """Unlinks the file (of a link, the link); emptied folders stay: a writer may be about to use them."""
        with self._errors(key):
            target = self._inside(key)
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(target)
                _sync_folder(os.path.dirname(target))

    def stat(self, key: str) -> ObjectStat | None:
        """The stat of the file; a folder is no object."""
        with self._errors(key):
            try:
                status = os.stat(self._inside(key))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _stat(key, status) if stat_module.S_ISREG(status.st_mode) else None

    def unfinished(self) -> Iterator[ObjectStat]:
        """The files aside that have no name yet."""
        with self._errors(TEMPORARY), suppress(FileNotFoundError), os.scandir(self._aside) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # ended meanwhile
                    yield _stat(entry.name, entry.stat(follow_symlinks=False))

    def delete_unfinished(self, write: ObjectStat) -> None:
        """Unlinks the file aside."""
        if "/" in write.key:
            raise SourceError(f"{write.key!r} is not a write of this store")
        with self._errors(write.key), suppress(FileNotFoundError):
            os.unlink(os.path.join(self._aside, write.key))

    def local_path(self, key: str) -> Path | None:
        """The file itself, which may be mapped, never written."""
        with self._errors(key):
            return Path(self._inside(key))

    def _walk(
        self, folder: bytes, above: bytes, bounds: tuple[bytes, bytes], parents: frozenset[bytes]
    ) -> Iterator[ObjectStat]:
        """Files of ``folder``, whose keys begin with ``above``, in byte order of whole keys.

        A folder sorts as its name with a slash, as its files' keys do: "a-b" comes before "a/b", "a/b"
        before "a0".
        """
        prefix, start_after = bounds
        real = os.path.realpath(folder)
        if real in parents:
            raise SourceError(f"{_shown(folder)} is a link to a folder above it", "remove the link")
        for name, path, status in self._children(folder, above):
            if name.endswith(b"/"):
                if _may_hold(name, prefix, start_after):
                    yield from self._walk(path, name, bounds, parents | {real})
            elif name.startswith(prefix) and name > start_after:
                yield _stat(os.fsdecode(name), status)

    def _children(self, folder: bytes, above: bytes) -> list[tuple[bytes, bytes, os.stat_result]]:
        """Files and folders (keys with a slash) of ``folder``, in key order; none if it is gone by now."""
        found = []
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                name = above + entry.name
                status = None if name == TEMPORARY.encode() else self._followed(entry)
                if status is not None:
                    is_folder = stat_module.S_ISDIR(status.st_mode)
                    found.append((name + b"/" if is_folder else name, entry.path, status))
        return sorted(found, key=lambda child: child[0])

    def _followed(self, entry: os.DirEntry[bytes]) -> os.stat_result | None:
        """The stat of what the entry is or links to; None, logged, if it holds no bytes."""
        if entry.is_symlink():
            self._check_inside(os.fsdecode(entry.path))
        try:
            status = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():
                _log.warning("event=not_an_object reason=dangling_link path=%r", _shown(entry.path))
            return None  # else: deleted since the folder was read
        if stat_module.S_ISREG(status.st_mode) or stat_module.S_ISDIR(status.st_mode):
            return status
        _log.warning("event=not_an_object reason=special_file path=%r", _shown(entry.path))
        return None

    def _inside(self, key: str) -> str:
        """The path of ``key``, proven to lie below the root with all links followed."""
        parts = key.split("/")
        if "\0" in key or any(part in {"", ".", ".."} for part in parts):
            raise SourceError(
                f"{key!r} is not a key of a local store",
                "a key has no empty part, no '.' or '..', no leading '/' and no NUL",
            )
        if parts[0] == TEMPORARY:
            raise SourceError(f"{key!r}: {TEMPORARY}/ is where the store keeps half-written files")
        _key_bytes(key)
        path = os.path.join(self._root, *parts)
        self._check_inside(path)
        return path

    def _check_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if real != self._real_root and not real.startswith(os.path.join(self._real_root, "")):
            raise SourceError(
                f"{path!r} is or lies behind a link that leads outside of {self._uri!r}",
                "replace the link by what it links to, or give the folder that holds both",
            )

    @contextmanager
    def _temporary(self, target: str) -> Iterator[tuple[BinaryIO, str]]:
        """A new file among the half-written ones, gone afterwards; makes the target's folder."""
        _make_folder(os.path.dirname(target))
        os.makedirs(self._aside, exist_ok=True)
        path = os.path.join(self._aside, uuid.uuid4().hex)
        try:
            with open(path, "xb") as file:
                yield file, path
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    @property
    def _aside(self) -> str:
        return os.path.join(self._root, TEMPORARY)

    def _name(self, key: str) -> str:
        return f"{key!r} in {self._uri!r}"

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """The one place where the operating system's errors become ours."""
        try:
            yield
        except OSError as exc:
            raise _error(exc, self._name(key)) from exc


def _error(exc: OSError, name: str) -> BitsieveError:
    for numbers, kind, says, fix in _ERRORS:
        if exc.errno in numbers:
            return kind(f"{name} {says}", fix)
    return no_room(exc, name) or StorageError(
        f"{name}: {exc.strerror or type(exc).__name__}",
        "check the disk and how it is mounted, then run again",
    )


def _stat(key: str, status: os.stat_result) -> ObjectStat:
    etag = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
    return ObjectStat(key=key, size_bytes=status.st_size, etag=etag, modified_s=status.st_mtime)


def _may_hold(folder: bytes, prefix: bytes, start_after: bytes) -> bool:
    """Whether keys below ``folder``, given with its slash, can have the prefix and come after the start."""
    in_prefix = folder.startswith(prefix) or prefix.startswith(folder)
    return in_prefix and (folder > start_after or start_after.startswith(folder))


def _key_bytes(key: str) -> bytes:
    try:
        return os.fsencode(key)
    except UnicodeEncodeError as exc:
        raise SourceError(f"{key!r} is not a key: it cannot be written as UTF-8") from exc


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: str) -> None:
    """Makes a new name in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: str) -> None:
    """Makes ``folder`` and what is missing above it, each name synced."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    with suppress(FileExistsError):
        os.mkdir(folder)
    _sync_folder(above)
