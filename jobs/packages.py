"""Checks that the installed packages fit together: CPU and GPU builds of a library overwrite each other."""

import importlib.metadata
from collections.abc import Callable, Sequence

from pipeline.errors import UsageError

_EXCLUSIVE = (
    ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
    ("onnxruntime", "onnxruntime-gpu"),
)


def is_installed(name: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_packages(installed: Callable[[str], bool] = is_installed) -> None:
    """Refuses an environment with no build, or with two builds, of a library that bitsieve needs.

    Raises:
        UsageError: says which packages clash or are missing, and the command that mends it.
    """
    for builds in _EXCLUSIVE:
        found = [name for name in builds if installed(name)]
        if len(found) > 1:
            raise UsageError(
                f"{' and '.join(found)} are both installed; they overwrite each other's files",
                fix=f"pip uninstall -y {' '.join(found)}, then install one extra again: {_extras(builds)}",
            )
        if not found:
            raise UsageError(f"none of {', '.join(builds)} is installed", fix=f"install {_extras(builds)}")


def _extras(builds: Sequence[str]) -> str:
    extras = ("bitsieve[cpu]", "bitsieve[gpu]", "bitsieve[gpu-cu13]")
    return " or ".join(extras if len(builds) == len(extras) else extras[:2])
