"""Stands between a client and a real HTTP server, and breaks what it is told to break.

Each ``Fault`` applies to the next ``times`` requests that it matches; everything else passes unchanged. The
proxy answers ``Expect: 100-continue`` itself and forwards whole requests, so a fault hits after the server
has done its work, or before.
"""

import http.client
import socket
import threading
from dataclasses import dataclass
from enum import StrEnum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.support.tally import tally


class Kind(StrEnum):
    """What goes wrong."""

    DROP_REPLY = auto()  # the server does its work; the connection closes without an answer
    FAIL_AFTER = auto()  # the server does its work; the answer is ``status``
    FAIL_BEFORE = auto()  # the server never hears of it; the answer is ``status``
    TRUNCATE = auto()  # the answer's body ends half way
    DAMAGE = auto()  # a bit of the answer's body is another


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault for requests of ``method`` whose target contains ``target``."""

    kind: Kind
    method: str
    target: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalError"


class FaultProxy:
    """A proxy in front of the server at ``upstream``; ``endpoint`` is where it listens; a context manager.

    ``hide_headers`` (lower case) never reach the server: a service that ignores a header.
    """

    def __init__(self, upstream: str, *, hide_headers: frozenset[str] = frozenset()) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.hide_headers = hide_headers
        self.seen: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def inject(self, kind: Kind, method: str, target: str = "", **more: Any) -> None:
        """Adds a fault behind those that are waiting."""
        with self._lock:
            self._faults.append(Fault(kind=kind, method=method, target=target, **more))

    def count(self, method: str, target: str = "") -> int:
        """How many such requests came."""
        with self._lock:
            return sum(1 for seen in self.seen if seen[0] == method and target in seen[1])

    def take(self, method: str, target: str) -> Fault | None:
        """Notes a request; the fault it meets, if any."""
        with self._lock:
            self.seen.append((method, target))
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.target in target:
                    fault.times -= 1
                    tally.faults[f"proxy {fault.kind.value}"] += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One connection of the client; every request opens its own connection to the server."""

    protocol_version = "HTTP/1.1"
    owner: FaultProxy

    def log_message(self, *args: object) -> None:
        """Silent: the tests say what they expect."""

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.owner.take(self.command, self.path)
        if fault is not None and fault.kind is Kind.FAIL_BEFORE:
            self._fail(fault)
            return
        status, headers, answer = self._ask(body)
        if fault is None:
            self._answer(status, headers, answer)
        elif fault.kind is Kind.FAIL_AFTER:
            self._fail(fault)
        elif fault.kind is Kind.TRUNCATE:
            self._answer(status, headers, answer[: len(answer) // 2])
            self._hang_up()
        elif fault.kind is Kind.DAMAGE:
            self._answer(status, headers, bytes([answer[0] ^ 1]) + answer[1:])
        else:
            self._hang_up()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.owner.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection"} | self.owner.hide_headers:
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            reply = upstream.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding"}:
                self.send_header(name, value)
        if "content-length" not in names and status not in {204, 304}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Fault) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>injected</Message></Error>"
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        self._answer(fault.status, headers, b"" if self.command == "HEAD" else body.encode())

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
