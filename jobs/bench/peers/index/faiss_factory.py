"""Any float index of Faiss by its factory string, alone or with a refining second stage in its own file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from jobs.bench.peers.index.library import Array, InMemory, Settings

_FIRST, _SECOND = "first.faiss", "second.faiss"


class Index(InMemory):
    """Settings of the build: ``factory``, ``train_rows``, ``refine`` (flat or fp16), ``efConstruction``."""

    def build(self, settings: Settings) -> Settings:
        """Trains on a random share of the base and adds all of it."""
        faiss.omp_set_num_threads(self.threads)
        n, d = self.base_ND.shape
        self.first = faiss.index_factory(d, settings["factory"])
        if "efConstruction" in settings:
            faiss.ParameterSpace().set_index_parameter(
                self.first, "efConstruction", settings["efConstruction"]
            )
        if not self.first.is_trained:
            chosen = np.random.default_rng(0).permutation(n)[: settings["train_rows"]]
            self.first.train(self.base_ND[np.sort(chosen)])
        self.first.add(self.base_ND)
        self.second = _refiner(d, settings.get("refine"))
        if self.second is not None:
            self.second.train(self.base_ND[:1])
            self.second.add(self.base_ND)
        return {}

    def save(self) -> None:
        """Writes one file for each stage."""
        faiss.write_index(self.first, str(self.folder / _FIRST))
        if self.second is not None:
            faiss.write_index(self.second, str(self.folder / _SECOND))

    def open(self, settings: Settings) -> None:
        """Reads the first stage into memory and maps the second."""
        faiss.omp_set_num_threads(self.threads)
        self.first = faiss.read_index(str(self.folder / _FIRST))
        self.index = self.first
        if settings.get("refine"):
            self.second = faiss.read_index(str(self.folder / _SECOND), faiss.IO_FLAG_MMAP_IFC)
            self.index = _joined(self.first, self.second, settings["refine"])

    def choose(self, settings: Settings) -> None:
        """``parameters`` as Faiss's own ParameterSpace spells them."""
        if settings.get("parameters"):
            faiss.ParameterSpace().set_index_parameters(self.index, settings["parameters"])

    def search(self, xq_QD: Array, k: int) -> Any:
        """Rows, int64 [Q, K]."""
        return self.index.search(xq_QD, k)[1]

    def second_stage(self) -> Sequence[Path]:
        """The refining vectors, if there are any."""
        return [path for path in [self.folder / _SECOND] if path.exists()]


def _refiner(d: int, kind: str | None) -> Any:
    if kind is None:
        return None
    return (
        faiss.IndexFlatL2(d)
        if kind == "flat"
        else faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_fp16)
    )


def _joined(first: Any, second: Any, kind: str) -> Any:
    """Both stages as Faiss's refining index; its constructors insist on empty ones."""
    empty = faiss.IndexFlatL2(first.d)
    joined = faiss.IndexRefineFlat(empty) if kind == "flat" else faiss.IndexRefine(empty, empty)
    joined.base_index, joined.refine_index = first, second
    joined.own_fields = joined.own_refine_index = False
    joined.ntotal = first.ntotal
    return joined
