"""hnswlib: the reference HNSW, in memory."""

from typing import Any

import hnswlib
import numpy as np

from jobs.bench.peers.index.library import Array, InMemory, Settings

_FILE = "index.hnswlib"


class Index(InMemory):
    """Settings of the build: ``M``, ``ef_construction``. Of a search: ``ef``."""

    def build(self, settings: Settings) -> Settings:
        """Adds every row under its number."""
        n, d = self.base_ND.shape
        self.index = hnswlib.Index(space="l2", dim=d)
        self.index.init_index(max_elements=n, **settings)
        self.index.add_items(self.base_ND, num_threads=self.threads)
        return {}

    def save(self) -> None:
        """One file."""
        self.index.save_index(str(self.folder / _FILE))

    def open(self, _settings: Settings) -> None:
        """Reads the file; there is no mapped form."""
        d = np.load(self.data / "queries.npy", mmap_mode="r").shape[1]
        self.index = hnswlib.Index(space="l2", dim=d)
        self.index.load_index(str(self.folder / _FILE))
        self.index.set_num_threads(self.threads)

    def choose(self, settings: Settings) -> None:
        """``ef``: the size of the list of candidates."""
        self.index.set_ef(settings["ef"])

    def search(self, xq_QD: Array, k: int) -> Any:
        """Labels, uint64 [Q, K]."""
        return self.index.knn_query(xq_QD, k)[0]
