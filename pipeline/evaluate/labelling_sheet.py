"""Which answers do people find better? Changed queries side by side, without saying which side is new.

Metrics know only the labels there are. The sheet shows the answers of both, the sides drawn by a seed for
each row and the rows shuffled by it, so that nobody can favour what is new; the key that tells them apart is
a table of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.comparison import ChangedQuery

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One query with two answers, best image first; ``number`` counts from 1."""

    number: int
    query: str
    left: tuple[str, ...]
    right: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """What a row of the sheet hides: which side is the new one, and what the labels say."""

    number: int
    new_side: str
    old_value: float
    new_value: float


def labelling_sheet(
    changed: Sequence[ChangedQuery], *, seed: int, shown: int = SHOWN
) -> tuple[list[SheetRow], list[KeyRow]]:
    """The sheet and its key; queries whose shown images are the same on both sides are left out."""
    differing = [one for one in changed if one.old_ids[:shown] != one.new_ids[:shown]]
    generator = np.random.default_rng(seed)
    sheet, key = [], []
    for number, place in enumerate(generator.permutation(len(differing)).tolist(), start=1):
        one = differing[place]
        old_ids, new_ids = one.old_ids[:shown], one.new_ids[:shown]
        new_is_left = bool(generator.integers(2))
        left, right = (new_ids, old_ids) if new_is_left else (old_ids, new_ids)
        sheet.append(SheetRow(number=number, query=one.image_id, left=left, right=right))
        side = "left" if new_is_left else "right"
        key.append(KeyRow(number=number, new_side=side, old_value=one.old_value, new_value=one.new_value))
    return sheet, key
