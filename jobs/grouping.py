"""Images put into groups: what ``cluster-photos`` prints, writes and shows, whichever way they were found."""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.evaluate.metrics import Ints
from pipeline.evaluate.report.document import Document


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grouping:
    """A group for every live image, largest groups first, and what is said of them."""

    ids: pa.Array
    group_N: Ints
    column: str
    """What a group is called in the Parquet file."""
    result: Mapping[str, Any]
    words: str
    document: Document

    def write(self, path: Path) -> None:
        """A Parquet file of image ids (in UTF-8 byte order) and groups; it has its name when it is whole.

        Raises:
            UsageError: it cannot be written.
        """
        table = pa.table({"image_id": self.ids.cast(pa.string()), self.column: pa.array(self.group_N)})
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.sort_by("image_id"), aside, compression="zstd")
            os.replace(aside, path)
        except OSError as exc:
            raise UsageError(f"{path} cannot be written: {exc.strerror}", fix="check -o") from exc
        finally:
            aside.unlink(missing_ok=True)


def largest_groups(ids: pa.Array, group_N: Ints, n_groups: int, n_each: int) -> list[list[str]]:
    """The first ids of each of the first groups that have at least two images."""
    size_G = np.bincount(group_N)
    groups = np.flatnonzero(size_G > 1)[:n_groups]
    return [
        ids.take(pa.array(np.flatnonzero(group_N == group)[:n_each])).to_pylist() for group in groups.tolist()
    ]


def sizes(group_N: Ints) -> Mapping[str, Any]:
    """How many images and groups there are, of one image, the size of the largest, and groups by size."""
    size_G = np.bincount(group_N)
    doubled_G = np.ceil(np.log2(np.maximum(size_G, 1))).astype(
        np.int64
    )  # 0: 1, 1: 2, 2: 3 to 4, 3: 5 to 8, …
    return {
        "n_images": len(group_N),
        "n_groups": len(size_G),
        "n_singletons": int((size_G == 1).sum()),
        "largest": int(size_G.max(initial=0)),
        "sizes": [
            {"from": 2**step // 2 + 1, "to": 2**step, "groups": n}
            for step, n in enumerate(np.bincount(doubled_G).tolist())
        ],
    }
