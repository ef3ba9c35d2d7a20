"""Runs one contender as a process of its own and reads the JSON line that it prints.

Ours, the peers and the bare loops all run this way, so each starts cold, none shares a heap with another, and
memory is measured alike. A contender that fails or hangs gives an ``Outcome`` that says so, not an exception.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs.bench.peers
from jobs.bench.memory import MemoryWatch, PeakMemory
from pipeline.allocator import ENVIRONMENT

_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to run: a module, the Python that runs it, and its settings."""

    name: str
    module: str
    settings: Mapping[str, Any]
    python: str = sys.executable
    environment: Mapping[str, str] | None = None
    timeout_s: float = _TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave: the timed seconds, the wall time of the process, its own report, or why not."""

    n_images: int
    seconds: float
    wall_s: float
    report: Mapping[str, Any]
    memory: PeakMemory | None = None
    failure: str = ""

    @property
    def images_per_s(self) -> float | None:
        """Images per second of the timed part; None for a failed run."""
        return None if self.failure or self.seconds <= 0 else self.n_images / self.seconds


def run(contender: Contender, work: Path, *, with_memory: bool = False) -> Outcome:
    """Runs the contender once in a new folder under ``work``, which is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"{contender.name}-", dir=work))
    scratch = Path(tempfile.mkdtemp(prefix="bsp-"))  # a short path, as Ray's sockets need it
    try:
        return _run_in(folder, scratch, contender, with_memory=with_memory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _run_in(folder: Path, scratch: Path, contender: Contender, *, with_memory: bool) -> Outcome:
    marks, made = folder / "marks", folder / "output"
    marks.mkdir()
    settings = {**contender.settings, "marks": str(marks), "output": str(made), "scratch": str(scratch)}
    started = time.perf_counter()
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            [contender.python, "-m", contender.module, json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(contender, folder),
            cwd=folder,
            start_new_session=True,
        )
        with MemoryWatch(process.pid) if with_memory else contextlib.nullcontext() as watch:
            out, failure = _wait(process, contender.timeout_s)
    wall_s = time.perf_counter() - started
    line = next((line for line in reversed(out.splitlines()) if line.startswith("{")), "")
    if not failure and (process.returncode or not line):
        failure = _last_line(folder / "stderr") or f"exit code {process.returncode}"
    report = json.loads(line) if line and not failure else {}
    until_s = float(report.get("ended_at_s", math.inf))
    if not failure and "keep" in settings and made.is_dir():
        shutil.copytree(made, settings["keep"], dirs_exist_ok=True)
    return Outcome(
        n_images=report.get("n_images", 0),
        seconds=report.get("seconds", 0.0),
        wall_s=wall_s,
        report=report,
        memory=None if watch is None or failure else watch.peak(marks, until_s),
        failure=failure,
    )


def _environment(contender: Contender, folder: Path) -> dict[str, str]:
    environment = {**os.environ, **(contender.environment or {})}
    if contender.module.startswith("jobs.bench.peers"):
        return {**environment, "PYTHONPATH": str(_peer_code(folder))}
    return {**ENVIRONMENT, **environment}  # as the command line starts itself


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[str, str]:
    try:
        out, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return "", f"exceeded {timeout_s:.0f} s"
    except BaseException:
        _kill(process)
        raise
    return out.decode(errors="replace"), ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _peer_code(folder: Path) -> Path:
    """A copy of the peers' modules alone: their environment must not see what else is installed here."""
    code = folder / "code"
    there = code / "jobs" / "bench"
    source = Path(next(iter(jobs.bench.peers.__path__)))
    shutil.copytree(source, there / "peers", ignore=shutil.ignore_patterns("__pycache__"))
    for package in (code / "jobs", there):
        (package / "__init__.py").touch()
    return code


def _last_line(path: Path) -> str:
    """What went wrong, not the advice that an error of ours ends with."""
    lines = path.read_text(errors="replace").strip().splitlines()
    return next((line[:500] for line in reversed(lines) if not line.startswith("  fix: ")), "")
