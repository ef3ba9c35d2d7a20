"""A PyTorch DataLoader loop, as clip-retrieval has it: workers decode, the main process runs the model.

An IterableDataset over tars shares them among ``workers``; batches come back as tensors; the vectors are kept
and written as one Parquet file at the end. The clock starts before the model is loaded.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from jobs.bench.peers import plain


class TarImages(IterableDataset):  # type: ignore[misc]  # torch is not installed where types are checked
    """(id, pixels) of the images that decode, of every n-th tar in each of n workers."""

    def __init__(self, asked: plain.Spec) -> None:
        self._asked = asked

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for tar in self._asked["tars"][first::step]:
            for key, data in plain.tar_images(tar):
                pixels = plain.load(data, self._asked["preprocess"])
                if pixels is not None:
                    yield key, torch.from_numpy(pixels)


def main() -> None:
    """Runs the loop and prints the one JSON line."""
    asked = plain.settings()
    torch.set_num_threads(1)
    started = time.perf_counter()
    net = plain.Net(asked, asked["threads"])
    plain.mark(asked, "loaded")
    loader = DataLoader(
        TarImages(asked),
        batch_size=asked["batch"],
        num_workers=asked["workers"],
        prefetch_factor=2 if asked["workers"] else None,
    )
    ids: list[str] = []
    vectors = []
    for keys, pixels in loader:
        ids.extend(keys)
        vectors.append(net(pixels.numpy()))
    vectors_ND = np.concatenate(vectors)
    n_rows, dim = vectors_ND.shape
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), dim)
    Path(asked["output"]).mkdir(parents=True, exist_ok=True)
    table = pa.table({"image_id": pa.array(ids), "embedding": column})
    pq.write_table(table, f"{asked['output']}/part.parquet", compression="zstd")
    plain.report(asked["n_images"], time.perf_counter() - started, n_rows=n_rows)


if __name__ == "__main__":
    main()
