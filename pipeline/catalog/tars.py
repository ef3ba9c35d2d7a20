"""Which files are tars, plain or gzipped, and their bytes as one stream that goes forward.

A gzipped tar is read by decompressing it as it goes: offsets are those of the decompressed stream, nothing
is unpacked to disk, and a bomb is stopped (``storage.gunzip``). To reach an image everything before it has to
be decompressed, so a large catalog is better kept in plain tars.
"""

from typing import BinaryIO, cast

from pipeline.storage.gunzip import GunzipStream

GZIPPED = (".tar.gz", ".tgz")
SUFFIXES = (".tar", *GZIPPED)
OTHER_COMPRESSED = (".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC, _MAGIC_AT = b"ustar", 257


def is_gzipped(key: str) -> bool:
    """Whether the name says that this is a gzipped tar."""
    return key.lower().endswith(GZIPPED)


def is_inner_tar(name: str, head: bytes) -> bool:
    """Whether a member is itself an archive, by its name or its first 512 bytes."""
    by_name = name.lower().endswith((*SUFFIXES, *OTHER_COMPRESSED))
    return by_name or head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def without_suffix(key: str) -> str:
    """The key without ``.tar``, ``.tar.gz`` or ``.tgz``."""
    suffix = next((suffix for suffix in SUFFIXES if key.lower().endswith(suffix)), "")
    return key[: len(key) - len(suffix)]


def tar_stream(file: BinaryIO, size_bytes: int, key: str) -> tuple[BinaryIO, int]:
    """The bytes of the tar in ``file``, decompressed if its name says so, and how many there are at most."""
    if not is_gzipped(key):
        return file, size_bytes
    stream = GunzipStream(file, size_bytes, key)
    return cast(BinaryIO, stream), stream.most_bytes
