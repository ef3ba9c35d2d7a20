"""Reads a model file, and tries it on one image, in a process of its own, before anything depends on it.

A graph can ask for 256 GB in one operator or loop for ever, and no reading of it can tell. So the first run
happens in a child with a limit on memory and time; what it says comes back as one JSON object. The picture is
seeded noise, so that a dead or badly normalised model shows. Reading executes nothing, but takes the onnx
package and several times the file's size in memory, which a driver should not hold for the rest of its run.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pipeline.errors import BitsieveError, ModelError
from pipeline.model.described import Model, from_json, to_json

_GIB = 2**30
_NORM_TOLERANCE = 1e-3
_TIMEOUT_S = 120.0
_Asked = Literal["probe", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one image gave; ``norm`` is the vector's length before the pipeline normalises."""

    model_id: str
    dim: int
    norm: float
    run_ms: float
    notes: tuple[str, ...]


def probe(model_bytes: bytes, where: str) -> ProbeResult:
    """Loads the model in this process and runs one seeded picture on the CPU.

    Raises:
        ModelError: if it does not load or run, or gives no usable vector of the card's dim and length.
    """
    from pipeline.model.session import EmbeddingSession  # in the child: the parent does without ONNX Runtime

    with EmbeddingSession(model_bytes, where=where) as session:
        card, spec = session.model.card, session.model.preprocess
        sides = (3, *spec.size) if spec.layout == "NCHW" else (*spec.size, 3)
        pixels_N = np.random.default_rng(0).integers(0, 256, (1, *sides)).astype(spec.dtype)
        if not spec.is_identity:
            pixels_N = ((pixels_N * spec.scale - np.mean(spec.mean)) / np.mean(spec.std)).astype(spec.dtype)
        started_s = time.perf_counter()
        raw_ND = session.run_raw(pixels_N)
        run_ms = (time.perf_counter() - started_s) * 1000
        norm = float(np.linalg.norm(raw_ND[0].astype(np.float64)))
        if not np.isfinite(norm) or norm == 0:
            raise ModelError(f"{where} gives no usable vector for a picture of noise: its length is {norm}")
        if card.normalised and abs(norm - 1) > _NORM_TOLERANCE:
            raise ModelError(
                f"{where}: the card says normalised, but a vector has length {norm:.4g}",
                "wrap it without --normalised; the pipeline then normalises",
            )
        return ProbeResult(
            model_id=session.model.model_id, dim=card.dim, norm=norm, run_ms=run_ms, notes=session.notes
        )


def probe_in_child(
    model_bytes: bytes, where: str, *, memory_bytes: int | None = None, timeout_s: float = _TIMEOUT_S
) -> ProbeResult:
    """As ``probe``, in a child process that may use ``memory_bytes`` of address space and ``timeout_s``.

    Without ``memory_bytes``: 8 GiB and eight times the file.

    Raises:
        ModelError: as ``probe``, and if the child needs more than its limits or dies.
    """
    answer = json.loads(_asked("probe", model_bytes, where, memory_bytes, timeout_s))
    return ProbeResult(**(answer | {"notes": tuple(answer["notes"])}))


def read_in_child(model_bytes: bytes, where: str) -> Model:
    """As ``pipeline.model.file.read_model``, in a child process with limits like those of ``probe_in_child``.

    Raises:
        ModelError: as ``read_model``, and if the child needs more than its limits or dies.
    """
    return from_json(_asked("read", model_bytes, where, None, _TIMEOUT_S))


def _asked(what: _Asked, model_bytes: bytes, where: str, memory_bytes: int | None, timeout_s: float) -> str:
    """What a child says: one JSON object."""
    limit_bytes = memory_bytes or 8 * _GIB + 8 * len(model_bytes)
    command = [sys.executable, "-m", "pipeline.model.probe", what, where, str(limit_bytes)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, module and numbers
            command, input=model_bytes, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise ModelError(f"{where} did not finish one image within {timeout_s:g} s") from exc
    text = done.stdout.decode(errors="replace").rpartition("\n")[2]
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError as exc:
        raise ModelError(
            f"{where} ended its trial process with code {done.returncode} "
            f"(at most {limit_bytes / _GIB:.1f} GiB of memory): it cannot be used"
        ) from exc
    if "message" in answer:
        raise ModelError(answer["message"], answer["fix"])
    return text


def _child(what: str, where: str, limit_bytes: int) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        data = sys.stdin.buffer.read()
        return _read(data, where) if what == "read" else json.dumps(asdict(probe(data, where)))
    except BitsieveError as exc:
        return json.dumps({"message": exc.message, "fix": exc.fix})
    except MemoryError:
        shown = f"{where} needs more than {limit_bytes / _GIB:.1f} GiB of memory for one image"
        return json.dumps({"message": shown, "fix": ""})


def _read(model_bytes: bytes, where: str) -> str:
    from pipeline.model.file import read_model  # in the child: the parent does without the onnx package

    return to_json(read_model(model_bytes, where))


if __name__ == "__main__":
    sys.stdout.write(_child(sys.argv[1], sys.argv[2], int(sys.argv[3])))
