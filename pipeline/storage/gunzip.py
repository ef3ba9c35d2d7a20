"""Decompresses gzip as a stream that only goes forward, and stops at a bomb.

A tar or CSV of images hardly shrinks, a bomb shrinks a thousandfold. So the output may be at most 200 times
the input, and 256 MiB beyond that; nothing is decompressed that is not asked for.
"""

import io
import zlib
from typing import BinaryIO

from pipeline.errors import SourceError

MOST_RATIO = 200
FREE_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_BEHIND_BYTES = 4096
_GZIP = 31  # zlib's name for: gzip, largest window


class GunzipStream(io.RawIOBase):
    """The decompressed bytes of a gzip file of ``packed_bytes``, all of its members joined.

    It can be sought forward, by reading, and backward over the last few blocks only. Wrap it in
    ``io.BufferedReader`` only where nobody seeks.

    Raises:
        SourceError: on reading, if the data are not gzip, end too early, or grow beyond the limit.
    """

    def __init__(self, file: BinaryIO, packed_bytes: int, name: str) -> None:
        self._file = file
        self._name = name
        self.most_bytes = FREE_BYTES + MOST_RATIO * packed_bytes
        self._inflate = zlib.decompressobj(_GZIP)
        self._packed = b""
        self._position = 0
        self._behind = b""  # the last bytes before the position
        self._ahead = b""  # bytes that were sought back over
        self._begun = False  # whether a member has begun that has not ended

    def close(self) -> None:
        """Closes the compressed file too."""
        self._file.close()
        super().close()

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """How many bytes were read or passed over."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Passes over bytes up to ``offset``, at most up to the end; or goes back a few blocks."""
        back = self._position - offset
        if whence != io.SEEK_SET or back > len(self._behind):
            raise io.UnsupportedOperation("a compressed stream only goes forward")
        if back > 0:
            self._ahead = self._behind[-back:] + self._ahead
            self._behind = self._behind[:-back]
            self._position = offset
        while self._position < offset and self.read(min(_BLOCK_BYTES, offset - self._position)):
            pass
        return self._position

    def seekable(self) -> bool:
        """Forward only."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end."""
        if size < 0:
            raise io.UnsupportedOperation("a compressed stream is read in pieces")
        pieces = []
        while size > 0 and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
        data = b"".join(pieces)
        self._behind = (self._behind + data[-_BEHIND_BYTES:])[-_BEHIND_BYTES:]
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As ``read``, into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data = data or self._some(size)
        self._position += len(data)
        if self._position > self.most_bytes:
            raise self._refused(f"grows to more than {self.most_bytes} bytes, {MOST_RATIO} times its size")
        return data

    def _some(self, size: int) -> bytes:
        """Between 1 and ``size`` new bytes, none at the end."""
        while True:
            if not self._packed:
                self._packed = self._file.read(_BLOCK_BYTES)
            if not self._packed:
                if self._begun:
                    raise self._refused("ends in the middle")
                return b""
            self._begun = True
            try:
                data = self._inflate.decompress(self._packed, size)
            except zlib.error as exc:
                raise self._refused(f"is not whole gzip ({exc})") from exc
            self._packed = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._next_member()
            if data:
                return data

    def _next_member(self) -> None:
        """Members may be joined, and padded with zeros."""
        self._packed = self._inflate.unused_data.lstrip(b"\0")
        self._inflate = zlib.decompressobj(_GZIP)
        self._begun = False

    def _refused(self, what: str) -> SourceError:
        return SourceError(f"{self._name} {what}", fix="write the file again, or leave it out with --exclude")
