"""Annoy: random projection trees, mapped from the file it saves."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from annoy import AnnoyIndex

from jobs.bench.peers.index.library import Array, InMemory, Settings

_FILE = "index.ann"


class Index(InMemory):
    """Settings of the build: ``trees``. Of a search: ``search_k``. Batches run on a thread pool."""

    def build(self, settings: Settings) -> Settings:
        """Adds every row, one by one as its interface wants it, then grows the trees."""
        self.index = AnnoyIndex(self.base_ND.shape[1], "euclidean")
        self.index.set_seed(0)
        for row, x_D in enumerate(self.base_ND):
            self.index.add_item(row, x_D)
        self.index.build(settings["trees"], n_jobs=self.threads)
        return {}

    def save(self) -> None:
        """One file."""
        self.index.save(str(self.folder / _FILE))

    def open(self, _settings: Settings) -> None:
        """Maps the file."""
        self.index = AnnoyIndex(np.load(self.data / "queries.npy", mmap_mode="r").shape[1], "euclidean")
        self.index.load(str(self.folder / _FILE))
        self.pool = ThreadPoolExecutor(self.threads)

    def search(self, xq_QD: Array, k: int) -> Any:
        """Lists of rows."""
        if len(xq_QD) == 1:
            return [self._one(xq_QD[0], k)]
        return list(self.pool.map(lambda xq_D: self._one(xq_D, k), xq_QD))

    def rows(self, answer: Any, k: int) -> Array:
        """Short lists are filled with -1."""
        return np.array([[*one, *[-1] * (k - len(one))] for one in answer], dtype=np.int64)

    def _one(self, xq_D: Array, k: int) -> Any:
        return self.index.get_nns_by_vector(xq_D, k, search_k=self.settings["search_k"])
