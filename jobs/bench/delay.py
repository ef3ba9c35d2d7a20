"""A TCP proxy that makes a server look far away: whatever a client sends arrives ``delay_s`` later.

An HTTP request thus takes ``delay_s`` longer, however many are on their way; bandwidth is not limited.
"""

import asyncio
import threading
import time
from types import TracebackType
from urllib.parse import urlsplit

_BLOCK_BYTES = 1 << 18


class DelayProxy:
    """Listens on this machine in front of ``upstream`` (an ``http://`` URL); a context manager."""

    def __init__(self, upstream: str, delay_s: float) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._delay_s = delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._listening = threading.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def endpoint(self) -> str:
        """The URL to use instead of the upstream's."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "DelayProxy":
        self._thread.start()
        self._listening.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # connections that were closed just now let go
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            from_server, to_server = await asyncio.open_connection(*self._upstream)
            writers.append(to_server)
            await asyncio.gather(
                self._late(reader, to_server), _at_once(from_server, writer), return_exceptions=True
            )
        except (OSError, asyncio.CancelledError):
            pass  # a side that is gone, or the end of the proxy
        finally:
            for one in writers:
                one.close()

    async def _late(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on each block ``delay_s`` after it came, without holding up the reading of the next."""
        blocks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        passing = asyncio.create_task(_pass_on(blocks, writer))
        while block := await reader.read(_BLOCK_BYTES):
            blocks.put_nowait((time.monotonic() + self._delay_s, block))
        blocks.put_nowait((0.0, b""))
        await passing


async def _pass_on(blocks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    while True:
        due_s, block = await blocks.get()
        if not block:
            break
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        writer.write(block)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(_BLOCK_BYTES):
        writer.write(block)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
