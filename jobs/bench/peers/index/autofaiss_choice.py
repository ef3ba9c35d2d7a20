"""autofaiss: whatever index and search settings it chooses itself."""

from typing import Any

import faiss
from autofaiss import build_index

from jobs.bench.peers.index.library import Array, InMemory, Settings

_FILE, _FACTS = "index.faiss", "facts.json"


class Index(InMemory):
    """Settings of the build: its own, such as ``max_index_memory_usage``. Searches have none."""

    def build(self, settings: Settings) -> Settings:
        """Chooses, trains, adds, tunes and writes in one."""
        index, facts = build_index(
            embeddings=self.base_ND,
            index_path=str(self.folder / _FILE),
            index_infos_path=str(self.folder / _FACTS),
            metric_type="l2",
            nb_cores=self.threads,
            verbose=30,
            **settings,
        )
        if index is None:
            raise RuntimeError("autofaiss gave up: what it said is above, usually that memory is too small")
        return {"chosen": {name: str(value) for name, value in (facts or {}).items()}}

    def save(self) -> None:
        """It is written already."""

    def open(self, _settings: Settings) -> None:
        """Reads the file as its users do."""
        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.read_index(str(self.folder / _FILE))

    def search(self, xq_QD: Array, k: int) -> Any:
        """Rows, int64 [Q, K]."""
        return self.index.search(xq_QD, k)[1]
