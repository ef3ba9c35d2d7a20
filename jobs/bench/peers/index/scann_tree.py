"""ScaNN: a tree of partitions, asymmetric hashing and exact reordering."""

from typing import Any

import numpy as np
import scann

from jobs.bench.peers.index.library import Array, InMemory, Settings


class Index(InMemory):
    """Settings of the build: ``leaves``, ``dimensions_per_block``, ``threshold``, ``train_rows``.

    Settings of a search: ``leaves_to_search``, ``reorder``.
    """

    def build(self, settings: Settings) -> Settings:
        """Trains and adds in one."""
        leaves, sample = settings["leaves"], settings["train_rows"]
        builder = scann.scann_ops_pybind.builder(self.base_ND, 10, "dot_product")
        builder = builder.set_n_training_threads(self.threads)
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=10, training_sample_size=sample)
        builder = builder.score_ah(
            settings["dimensions_per_block"], anisotropic_quantization_threshold=settings["threshold"]
        )
        self.index = builder.reorder(100).build()
        return {}

    def save(self) -> None:
        """A folder of files; ``relative_path`` so that it opens anywhere."""
        self.index.serialize(str(self.folder), relative_path=True)

    def open(self, _settings: Settings) -> None:
        """Reads the folder."""
        self.index = scann.scann_ops_pybind.load_searcher(str(self.folder))
        self.index.set_num_threads(self.threads)

    def search(self, xq_QD: Array, k: int) -> Any:
        """Rows; unit vectors have the same order by inner product."""
        wanted = {
            "final_num_neighbors": k,
            "pre_reorder_num_neighbors": self.settings["reorder"],
            "leaves_to_search": self.settings["leaves_to_search"],
        }
        if len(xq_QD) == 1:
            return self.index.search(xq_QD[0], **wanted)[0][np.newaxis]
        return self.index.search_batched_parallel(xq_QD, **wanted)[0]
