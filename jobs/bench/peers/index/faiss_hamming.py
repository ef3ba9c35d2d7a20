"""Flat Hamming search with plain Faiss: bits of IndexLSH, IndexBinaryFlat, C candidates re-ranked exactly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from jobs.bench.peers.index.library import Array, InMemory, Settings

_ENCODER, _CODES, _VECTORS = "encoder.faiss", "codes.faiss", "vectors.faiss"
_TRAIN_ROWS = 65_536


class Index(InMemory):
    """Settings of the build: ``bits``. Settings of a search: ``candidates``."""

    def build(self, settings: Settings) -> Settings:
        """Rotation to ``bits`` dimensions with trained thresholds."""
        faiss.omp_set_num_threads(self.threads)
        d = self.base_ND.shape[1]
        self.encoder = faiss.IndexLSH(d, settings["bits"], True, True)
        self.encoder.train(self.base_ND[:_TRAIN_ROWS])
        self.codes = faiss.IndexBinaryFlat(settings["bits"])
        self.codes.add(self.encoder.sa_encode(self.base_ND))
        self.vectors = faiss.IndexFlatL2(d)
        self.vectors.add(self.base_ND)
        return {}

    def save(self) -> None:
        """Three files."""
        faiss.write_index(self.encoder, str(self.folder / _ENCODER))
        faiss.write_index_binary(self.codes, str(self.folder / _CODES))
        faiss.write_index(self.vectors, str(self.folder / _VECTORS))

    def open(self, _settings: Settings) -> None:
        """Codes into memory, vectors mapped."""
        faiss.omp_set_num_threads(self.threads)
        self.encoder = faiss.read_index(str(self.folder / _ENCODER))
        self.codes = faiss.read_index_binary(str(self.folder / _CODES))
        self.vectors = faiss.read_index(str(self.folder / _VECTORS), faiss.IO_FLAG_MMAP_IFC)

    def search(self, xq_QD: Array, k: int) -> Any:
        """Rows, int64 [Q, K]."""
        _, row_QC = self.codes.search(self.encoder.sa_encode(xq_QD), self.settings["candidates"])
        distance_QC = np.empty(row_QC.shape, dtype=np.float32)
        self.vectors.compute_distance_subset(
            len(xq_QD),
            faiss.swig_ptr(xq_QD),
            row_QC.shape[1],
            faiss.swig_ptr(distance_QC),
            faiss.swig_ptr(row_QC),
        )
        best_QK = np.argpartition(distance_QC, k - 1, axis=1)[:, :k]
        return np.take_along_axis(row_QC, best_QK, axis=1)

    def second_stage(self) -> Sequence[Path]:
        """The vectors."""
        return [self.folder / _VECTORS]
