"""What ``measure`` asks of a library; the same for a peer and for ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Settings: TypeAlias = Mapping[str, Any]
Array: TypeAlias = npt.NDArray[Any]


class Library(Protocol):
    """One index of one library in one folder. ``threads`` is what it may use, for build and search."""

    def __init__(self, data: Path, folder: Path, threads: int) -> None:
        """``data`` holds base.npy, queries.npy, bounds.npy; ``folder`` gets the index."""

    def prepare(self) -> None:
        """Whatever comes before the clock of the build starts: the base in memory."""

    def build(self, settings: Settings) -> Settings:
        """Builds the index; facts to report, ``build_s`` among them where the clock should say otherwise."""

    def save(self) -> None:
        """Writes what ``build`` made into the folder, if it has not."""

    def open(self, settings: Settings) -> None:
        """Opens what lies in the folder, mapped where that works; ``settings`` are those of the build."""

    def choose(self, settings: Settings) -> None:
        """Sets what the next searches use; these are the settings that a grid sweeps."""

    def search(self, xq_QD: Array, k: int) -> Any:
        """Searches all queries at once; the answer in the library's own form."""

    def rows(self, answer: Any, k: int) -> Array:
        """The answer as rows of the base, int64 [Q, K], -1 for none; outside the clock."""

    def second_stage(self) -> Sequence[Path]:
        """Files that can be dropped from memory while the first stage stays; none where there are not two."""


class InMemory:
    """What most peers share: the base in memory, one search setting, rows as the library gives them."""

    def __init__(self, data: Path, folder: Path, threads: int) -> None:
        self.data = data
        self.folder = folder
        self.threads = threads
        self.settings: Settings = {}
        self.base_ND: Array = np.empty((0, 0), dtype=np.float32)
        self.index: Any = None

    def prepare(self) -> None:
        """Reads the base."""
        self.base_ND = np.load(self.data / "base.npy")

    def choose(self, settings: Settings) -> None:
        """Keeps the settings for ``search``."""
        self.settings = settings

    def rows(self, answer: Any, _k: int) -> Array:
        """The answer is rows already."""
        return np.asarray(answer, dtype=np.int64)

    def second_stage(self) -> Sequence[Path]:
        """None: the index is one thing."""
        return ()
