"""An object of a store as a file that is read by ranges, several of them under way ahead of the reader.

Nothing is written to disk. At most ``budget_bytes`` of the object are in memory, however large it is: blocks
that were read last, and up to half of the budget of blocks that will probably be read next. A reader that
goes forward (a tar, a gzip stream, the columns of a Parquet file) finds them there; after a jump nothing is
read ahead until reading goes forward again. ``expect`` says what alone is worth reading ahead.
"""

import bisect
import io
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from pipeline.errors import ObjectMissing
from pipeline.storage.store import ObjectStore

_LARGEST_BLOCK_BYTES = 4 << 20
_SMALLEST_BLOCK_BYTES = 64 << 10
_BLOCKS = 8  # that a budget has room for, at least
_THREADS = 8


def open_ranged(store: ObjectStore, key: str, budget_bytes: int) -> "RangedFile":
    """The object as it is now.

    Raises:
        ObjectMissing: it is gone.
    """
    stat = store.stat(key)
    if stat is None:
        raise ObjectMissing(f"{key!r} in {store.uri} does not exist")
    return RangedFile(store, key, stat.size_bytes, budget_bytes)


class RangedFile(io.RawIOBase):
    """The bytes of the object at ``key``, which has ``size_bytes``; read only, seekable, for one thread.

    Reading raises what the store raises: ObjectMissing if the object has gone, DataCorrupt if it is shorter
    now, StorageError if the store failed.
    """

    def __init__(self, store: ObjectStore, key: str, size_bytes: int, budget_bytes: int) -> None:
        self._store, self._key = store, key
        self.size_bytes = size_bytes
        self._block_bytes = min(max(budget_bytes // _BLOCKS, _SMALLEST_BLOCK_BYTES), _LARGEST_BLOCK_BYTES)
        self._most_blocks = max(4, budget_bytes // self._block_bytes)
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()  # the one used last is at the end
        self._threads = ThreadPoolExecutor(min(_THREADS, self._most_blocks // 2), "range")
        self._expected: list[tuple[int, int]] = [(0, -(-size_bytes // self._block_bytes))]
        self._ahead = 1  # how many blocks are asked for ahead; doubles while reading goes forward
        self._current = -1
        self._position = 0

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Only blocks with bytes of these ranges [start, end) are read ahead, others when asked for."""
        self._expected = []
        for start, end in sorted(ranges):
            first, behind = start // self._block_bytes, -(-end // self._block_bytes)
            if self._expected and first <= self._expected[-1][1]:
                first, known = self._expected.pop()
                behind = max(known, behind)
            self._expected.append((first, behind))

    def close(self) -> None:
        """Forgets what was read; ranges that are under way are left to end by themselves."""
        if not self.closed:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._blocks.clear()
        super().close()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Anywhere."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Costs nothing; what is skipped is not read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end; all that are left if it is negative."""
        left = max(0, self.size_bytes - self._position)
        size = left if size < 0 else min(size, left)
        within = self._position % self._block_bytes
        if within + size <= self._block_bytes:
            data = self._block(self._position // self._block_bytes)[within : within + size] if size else b""
            self._position += len(data)
            return data
        pieces = io.BytesIO()  # its value is handed out without a copy
        end = self._position + size
        while self._position < end:
            number, within = divmod(self._position, self._block_bytes)
            take = min(end - self._position, self._block_bytes - within)
            pieces.write(memoryview(self._block(number))[within : within + take])
            self._position += take
        return pieces.getvalue()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As ``read``, into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _block(self, number: int) -> bytes:
        if number != self._current:
            goes_on = number == 0 or number in self._blocks or number - 1 in self._blocks
            self._ask(number)
            if goes_on:
                for later in islice(self._expected_after(number), self._ahead):
                    self._ask(later)
                self._ahead = min(2 * self._ahead, self._most_blocks // 2)
            self._current = number
        return self._blocks[number].result()

    def _ask(self, number: int) -> None:
        if number not in self._blocks:
            start = number * self._block_bytes
            length = min(self._block_bytes, self.size_bytes - start)
            self._blocks[number] = self._threads.submit(self._store.get_range, self._key, start, length)
        self._blocks.move_to_end(number)
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)[1].cancel()

    def _expected_after(self, number: int) -> Iterator[int]:
        where = bisect.bisect_right(self._expected, number, key=lambda blocks: blocks[1])
        for first, end in self._expected[where:]:
            yield from range(max(first, number + 1), end)
