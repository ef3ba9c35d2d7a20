"""Do the contenders compute the same thing? Compares their vectors image by image.

Shapes: N images that both have, d components.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq


def compare_vectors(folder: Path, ours: str, peers: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
    """For each peer how many images both sides embedded and how alike the vectors are; None without a peer.

    ``folder`` holds a folder of Parquet files for each name, with ``image_id`` and ``embedding``.
    """
    mine = _vectors(folder / ours / "store" / "embeddings")
    return {peer: _compared(mine, _vectors(folder / peer)) for peer in peers}


def _compared(
    mine: Mapping[str, npt.NDArray[np.float32]], theirs: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, Any] | None:
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        return None
    a_ND, b_ND = (np.stack([side[key] for key in shared]).astype(np.float64) for side in (mine, theirs))
    cosine_N = (a_ND * b_ND).sum(axis=1) / np.linalg.norm(a_ND, axis=1) / np.linalg.norm(b_ND, axis=1)
    return {
        "images": len(shared),
        "only_ours": len(mine) - len(shared),
        "only_theirs": len(theirs) - len(shared),
        "cosine_min": float(cosine_N.min()),
        "cosine_mean": float(cosine_N.mean()),
    }


def _vectors(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    found: dict[str, npt.NDArray[np.float32]] = {}
    for path in sorted(folder.rglob("*.parquet")) if folder.is_dir() else ():
        table = pq.read_table(path, columns=["image_id", "embedding"])
        if table.num_rows:
            column = table["embedding"].combine_chunks()
            values = column.storage if isinstance(column, pa.ExtensionArray) else column
            vectors_ND = np.array(values.to_pylist(), dtype=np.float32)
            found.update(zip(table["image_id"].to_pylist(), vectors_ND, strict=True))
    return found
