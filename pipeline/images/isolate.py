"""Loads images in a child process that may die: for shards that have killed their worker before.

An image that crashes the decoder, never ends, or eats all memory costs the child, not the worker; the worker
learns which image it was and why. The child lives on from image to image, and a new one is started only after
a death. It costs about twice a load in the same process, so it is not used before it is needed.

Requests and answers are a length (4 bytes, little-endian), a JSON header of that length, and the payload. No
pickles.
"""

import contextlib
import json
import os
import resource
import select
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import IO, Any

import numpy as np
from pydantic import TypeAdapter

from pipeline.images.decode import ImageRejected, quiet_decoder_warnings
from pipeline.images.preprocess import LoadedImage, load_pixels
from pipeline.values import DecodeLimits, Preprocess, RejectReason

_LENGTH = struct.Struct("<I")
_START_S = 30.0
_Child = tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]


class IsolatedLoader:
    """A child process that runs ``load_pixels``; a context manager, because the child must not outlive it."""

    def __init__(self, spec: Preprocess, limits: DecodeLimits) -> None:
        self._settings = json.dumps({"spec": asdict(spec), "limits": asdict(limits)})
        self._limits = limits
        self._child: _Child | None = None

    def __enter__(self) -> "IsolatedLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The child's process id, 0 while there is none."""
        return 0 if self._child is None else self._child[0].pid

    def load(self, data: bytes) -> LoadedImage:
        """As ``load_pixels``, with three more ways to be rejected.

        Raises:
            ImageRejected: DECODE_TIMEOUT, DECODE_MEMORY or DECODER_CRASH if this image ended the child.
        """
        child, stdin, stdout = self._child or self._begin()
        try:
            _send(stdin, {"size": len(data)}, data)
            header, payload = _receive(stdout, time.monotonic() + self._limits.max_seconds)
        except TimeoutError as exc:
            self._end()
            detail = f"not decoded within {self._limits.max_seconds:g} s"
            raise ImageRejected(RejectReason.DECODE_TIMEOUT, detail) from exc
        except (EOFError, BrokenPipeError) as exc:
            code = child.wait()
            self._end()
            raise ImageRejected(RejectReason.DECODER_CRASH, f"the decoder ended with code {code}") from exc
        if "reason" in header:
            raise ImageRejected(RejectReason(header["reason"]), header["detail"])
        pixels = np.frombuffer(payload, dtype=header["dtype"]).reshape(header["shape"])
        return LoadedImage(pixels=pixels, width_px=header["width_px"], height_px=header["height_px"])

    def _begin(self) -> _Child:
        process = subprocess.Popen(  # noqa: S603 our own interpreter, module and settings
            [sys.executable, "-m", "pipeline.images.isolate", self._settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each thread would claim address space
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a child without pipes")
        self._child = (process, process.stdin, process.stdout)
        _receive(process.stdout, time.monotonic() + _START_S)  # it says when it is ready
        return self._child

    def _end(self) -> None:
        if self._child is None:
            return
        process, stdin, stdout = self._child
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # a request may still be in the buffer
            stdin.close()
        stdout.close()
        self._child = None


def _send(stream: IO[bytes], header: dict[str, Any], payload: bytes) -> None:
    encoded = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(encoded)) + encoded)
    stream.write(payload)
    stream.flush()


def _receive(stream: IO[bytes], deadline_s: float) -> tuple[dict[str, Any], bytes]:
    """One message. TimeoutError after ``deadline_s`` (monotonic), EOFError if the other side is gone."""
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size, deadline_s))
    header: dict[str, Any] = json.loads(_read(stream, length, deadline_s))
    return header, _read(stream, header["size"], deadline_s)


def _read(stream: IO[bytes], size: int, deadline_s: float) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
            raise TimeoutError
        part = stream.raw.read(min(size - len(parts), 1 << 20))  # type: ignore[attr-defined]
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _serve(settings: dict[str, Any]) -> None:
    """The child: answers one request after the other until its input ends."""
    quiet_decoder_warnings()
    spec = TypeAdapter(Preprocess).validate_python(settings["spec"])
    limits = DecodeLimits(**settings["limits"])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limits.max_memory_bytes if hard == resource.RLIM_INFINITY else min(limits.max_memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    _send(stdout, {"size": 0}, b"")
    while length := stdin.read(_LENGTH.size):
        header = json.loads(stdin.read(_LENGTH.unpack(length)[0]))
        answer, payload = _answer(stdin.read(header["size"]), spec, limits)
        _send(stdout, answer, payload)


def _answer(data: bytes, spec: Preprocess, limits: DecodeLimits) -> tuple[dict[str, Any], bytes]:
    try:
        loaded = load_pixels(data, spec, limits)
    except ImageRejected as exc:
        return {"reason": exc.reason.value, "detail": exc.detail, "size": 0}, b""
    except MemoryError:
        detail = f"decoding needs more than {limits.max_memory_bytes} bytes of memory"
        return {"reason": RejectReason.DECODE_MEMORY.value, "detail": detail, "size": 0}, b""
    payload = loaded.pixels.tobytes()
    header = {
        "dtype": str(loaded.pixels.dtype),
        "shape": loaded.pixels.shape,
        "width_px": loaded.width_px,
        "height_px": loaded.height_px,
        "size": len(payload),
    }
    return header, payload


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
