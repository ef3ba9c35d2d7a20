"""A sample of labelled images that keeps what makes a benchmark: images of one label stay together.

Labels are sorted into strata by how many images they have (1, 2 and 3, 4 to 7, …), and each stratum gives
its share of the sample in whole labels, in a seeded order of their names: rare and frequent labels are
represented as they are. A label with very many images gives some of them only, else it would be the sample.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.evaluate.metrics import Ints
from pipeline.index.sample import seeded_order

MOST_PER_LABEL = 20


def sample_by_label(
    ids: Sequence[str],
    labels: Sequence[str | None],
    n: int,
    *,
    seed: int,
    least_per_label: int = 1,
    most_per_label: int = MOST_PER_LABEL,
) -> Ints:
    """Rows of about ``n`` images, ascending: of each stratum whole labels until its share is reached.

    Args:
        ids: Image ids.
        labels: Their labels; an image without one is a label of its own.
        n: About how many images; all if there are no more.
        seed: Another number draws other labels.
        least_per_label: Labels with fewer images are left out, and images without a label if it is over 1.
        most_per_label: Of a label with more images so many are drawn.
    """
    members: dict[tuple[bool, str], list[int]] = {}
    for row, (image_id, label) in enumerate(zip(ids, labels, strict=True)):
        members.setdefault((label is None, image_id if label is None else label), []).append(row)
    key_N = seeded_order(ids, seed)
    drawn = {
        name: sorted(rows, key=lambda row: (key_N[row], ids[row]))[:most_per_label]
        for name, rows in members.items()
        if len(rows) >= least_per_label
    }
    n_all = sum(map(len, drawn.values()))
    strata: dict[int, list[tuple[bool, str]]] = {}
    for name, rows in drawn.items():
        strata.setdefault(len(rows).bit_length(), []).append(name)
    chosen: list[int] = []
    for names in strata.values():
        wanted = n * sum(len(drawn[name]) for name in names) / max(n_all, 1)
        order = np.argsort(seeded_order([name for _, name in names], seed), kind="stable")
        taken = 0
        for place in order.tolist():
            if taken >= wanted:
                break
            chosen += drawn[names[place]]
            taken += len(drawn[names[place]])
    return np.array(sorted(chosen), dtype=np.int64)
