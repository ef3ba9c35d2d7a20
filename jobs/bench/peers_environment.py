"""Environments of the peers' own: venvs in the cache folder with packages that ours must not have.

Each is made once and used again while what it should hold stays the same. That of ``bench embed`` has torch
and Ray Data; versions of what both sides use are those installed here, so that a ratio compares programs and
not releases.
"""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.output import say

_SHARED = ("onnxruntime", "pillow", "pyarrow", "numpy")
_PEERS_ONLY = ("torch>=2.13,<2.14", "pandas")
_MARKER = "bitsieve-peers.json"
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersEnvironment:
    """Its Python, or why there is none; ``made_s`` is 0 if it was there already."""

    python: str | None
    made_s: float
    versions: dict[str, str]
    failure: str = ""


def find_or_make(cache: Path, *, make: bool = True) -> PeersEnvironment:
    """The environment of the peers of ``bench embed``; see ``environment``."""
    return environment(cache / "bench-peers", _wanted(), make=make)


def environment(folder: Path, wanted: list[str], *, make: bool) -> PeersEnvironment:
    """The environment at ``folder`` with the requirements ``wanted``.

    It is made if it is missing or holds something else, and ``make``. A failure is an answer, not raised.
    """
    python = folder / "bin" / "python"
    marker = folder / _MARKER
    if marker.is_file():
        known = json.loads(marker.read_text())
        if known["wanted"] == wanted:
            return PeersEnvironment(python=str(python), made_s=0.0, versions=known["versions"])
    if not make:
        return PeersEnvironment(
            python=None, made_s=0.0, versions={}, failure="not installed, and not asked for"
        )
    say(f"bench: making an environment for peers in {folder}, once: {', '.join(wanted)}")
    started = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    failure = _make(folder, python, wanted)
    made_s = time.perf_counter() - started
    if failure:
        say(f"bench: the peers cannot be installed, their figures stay empty: {failure}")
        return PeersEnvironment(python=None, made_s=made_s, versions={}, failure=failure)
    versions = _versions(python, wanted)
    marker.write_text(json.dumps({"wanted": wanted, "versions": versions}))
    return PeersEnvironment(python=str(python), made_s=made_s, versions=versions)


def _wanted() -> list[str]:
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in _SHARED]
    return [*_PEERS_ONLY, f"ray[data]=={importlib.metadata.version('ray')}", *pinned]


def _make(folder: Path, python: Path, wanted: list[str]) -> str:
    """Makes the venv and installs; an empty text, or the last line of what went wrong."""
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "pip"],
        [str(python), "-m", "pip", "install", "--quiet", *wanted],
    )
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603 - our own Python
        except (OSError, subprocess.TimeoutExpired) as exc:
            return str(exc)
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return ""


def _versions(python: Path, wanted: list[str]) -> dict[str, str]:
    names = [re.split(r"[^\w.-]", requirement)[0] for requirement in wanted]
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own venv
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
