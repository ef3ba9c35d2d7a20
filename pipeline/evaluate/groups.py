"""Products instead of images: each group of images stands where its nearest image does.

Legend: N base rows in id order (positions), G groups, P relevant positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Ints
from pipeline.evaluate.relevance import Right


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Which positions belong together; a position without a group is a group of its own.

    Attributes:
        code_N: The group of each position.
        by_group_N: Positions in the order of their groups, ascending within a group.
        starts_G: Where each group begins in ``by_group_N``.
    """

    code_N: Ints
    by_group_N: Ints
    starts_G: Ints

    @classmethod
    def of(cls, names: Sequence[str | None]) -> "Groups":
        """The groups of names by position."""
        table: dict[tuple[str] | int, int] = {}
        keys = (position if name is None else (name,) for position, name in enumerate(names))
        code_N = np.fromiter((table.setdefault(key, len(table)) for key in keys), np.int64, count=len(names))
        by_group_N = np.argsort(code_N, kind="stable")
        starts_G = np.searchsorted(code_N[by_group_N], np.arange(len(table)))
        return cls(code_N=code_N, by_group_N=by_group_N, starts_G=starts_G)

    def collapse(self, d2_N: NDArray[np.float32], right: Right) -> Right:
        """Moves all but the nearest position of each group to infinity; ties go to the smallest id.

        A group is relevant if one of its relevant positions is ranked, and as good as the best of them; it
        stands at the position that is left.
        """
        ordered_N = d2_N[self.by_group_N]
        best_G = np.minimum.reduceat(ordered_N, self.starts_G)
        at_best = np.flatnonzero(ordered_N == np.repeat(best_G, np.diff(self.starts_G, append=len(d2_N))))
        first_G = at_best[np.searchsorted(at_best, self.starts_G)]
        position_G = self.by_group_N[first_G]
        d2_N.fill(np.inf)
        d2_N[position_G] = best_G
        groups, which_P = np.unique(self.code_N[right.positions_P], return_inverse=True)
        gains = np.zeros(len(groups))
        np.maximum.at(gains, which_P, right.gains_P)
        positions = position_G[groups]
        ascending = np.argsort(positions)
        return Right(positions_P=positions[ascending], gains_P=gains[ascending], left_out=right.left_out)
