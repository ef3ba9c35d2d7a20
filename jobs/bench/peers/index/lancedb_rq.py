"""LanceDB: IVF_RQ with a refining read of the vectors from its own files."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfRq

from jobs.bench.peers.index.library import Array, InMemory, Settings

_TABLE = "base"


class Index(InMemory):
    """Settings of the build: ``partitions``, ``num_bits``. Of a search: ``nprobes``, ``refine_factor``.

    Rows are written under their number. Batches run on a thread pool.
    """

    def prepare(self) -> None:
        """The base as its own table, which is where its users' vectors are already."""
        super().prepare()
        n, d = self.base_ND.shape
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.base_ND.reshape(-1)), d)
        table = pa.table({"row": np.arange(n, dtype=np.int64), "vector": vectors})
        lancedb.connect(str(self.folder)).create_table(_TABLE, table, mode="overwrite")

    def build(self, settings: Settings) -> Settings:
        """Its index of the table."""
        self.open(settings)
        config = IvfRq(
            distance_type="l2", num_partitions=settings["partitions"], num_bits=settings["num_bits"]
        )
        self.index.create_index("vector", config=config)
        return {}

    def save(self) -> None:
        """It lies in its files already."""

    def open(self, _settings: Settings) -> None:
        """Opens the table."""
        self.index = lancedb.connect(str(self.folder)).open_table(_TABLE)
        self.pool = ThreadPoolExecutor(self.threads)

    def search(self, xq_QD: Array, k: int) -> Any:
        """A list of Arrow tables."""
        if len(xq_QD) == 1:
            return [self._one(xq_QD[0], k)]
        return list(self.pool.map(lambda xq_D: self._one(xq_D, k), xq_QD))

    def rows(self, answer: Any, k: int) -> Array:
        """Short answers are filled with -1."""
        found = [one["row"].to_pylist() for one in answer]
        return np.array([[*one, *[-1] * (k - len(one))] for one in found], dtype=np.int64)

    def second_stage(self) -> Sequence[Path]:
        """The vectors of the table."""
        return sorted((self.folder / f"{_TABLE}.lance" / "data").iterdir())

    def _one(self, xq_D: Array, k: int) -> Any:
        query = self.index.search(xq_D).select(["row"]).limit(k)
        query = query.nprobes(self.settings["nprobes"]).refine_factor(self.settings["refine_factor"])
        return query.to_arrow()
