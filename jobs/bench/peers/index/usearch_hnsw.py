"""usearch: its HNSW, mapped from the file it saves."""

from typing import Any

from usearch.index import Index as USearchIndex

from jobs.bench.peers.index.library import Array, InMemory, Settings

_FILE = "index.usearch"


class Index(InMemory):
    """Build: ``dtype``, ``connectivity``, ``expansion_add``. Search: ``expansion_search``."""

    def build(self, settings: Settings) -> Settings:
        """Adds every row under its number."""
        self.index = USearchIndex(ndim=self.base_ND.shape[1], metric="l2sq", **settings)
        self.index.add(None, self.base_ND, threads=self.threads)
        return {}

    def save(self) -> None:
        """One file."""
        self.index.save(str(self.folder / _FILE))

    def open(self, _settings: Settings) -> None:
        """Maps the file."""
        self.index = USearchIndex.restore(str(self.folder / _FILE), view=True)

    def choose(self, settings: Settings) -> None:
        """``expansion_search``: the size of the list of candidates."""
        self.index.expansion_search = settings["expansion_search"]

    def search(self, xq_QD: Array, k: int) -> Any:
        """Matches; of one query they come without the axis of queries."""
        return self.index.search(xq_QD, k, threads=min(self.threads, len(xq_QD)))

    def rows(self, answer: Any, k: int) -> Array:
        """Keys are rows."""
        return super().rows(answer.keys, k)
