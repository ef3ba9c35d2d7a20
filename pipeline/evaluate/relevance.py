"""Who is right for whom: by a label that images share, or by a list of judgements.

A query's own image, and junk, are neither right nor wrong: they are taken out of its ranking, which closes
up. Another picture under the query's id, its namesake, is an image like any other: queries of another
collection may have the ids of the base. Legend: N base rows, P of them; a position is a row's place in the
order of ids (UTF-8 byte order).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.metrics import Floats, Ints

_NOBODY: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """What people said of pairs of a query and an image.

    Attributes:
        grades: By query id and image id: above 0 right, the higher the better; 0 wrong; below 0 junk.
    """

    grades: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Right:
    """What one query should find, ascending, how good each is, and what is taken out of its ranking."""

    positions_P: Ints
    gains_P: Floats
    left_out: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IdOrder:
    """Where the ids of a base stand: ``rows_N`` is the base row at each position."""

    rows_N: Ints
    position_of: Mapping[str, int]

    @classmethod
    def of(cls, ids: Sequence[str]) -> "IdOrder":
        """The order of ids as UTF-8 sorts, which is that of Python's strings."""
        rows = sorted(range(len(ids)), key=ids.__getitem__)
        positions = {ids[row]: position for position, row in enumerate(rows)}
        return cls(rows_N=np.array(rows, dtype=np.int64), position_of=positions)

    def ordered(self, x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the base in the order of positions; not copied where they are in it already."""
        return x_ND if (self.rows_N[1:] > self.rows_N[:-1]).all() else x_ND[self.rows_N]

    def places(self, ids: Collection[str]) -> Ints:
        """Positions of those ids that are in the base, ascending."""
        found = sorted(self.position_of[image_id] for image_id in ids if image_id in self.position_of)
        return np.array(found, dtype=np.int64)


class Relevance(Protocol):
    """Says what each query should find."""

    def of(self, row: int) -> Right | None:
        """What query ``row`` should find; None if it was not judged."""
        ...


class ByLabel:
    """Right is whatever carries the query's label; a query without one is not judged."""

    def __init__(
        self,
        query_ids: Sequence[str],
        query_labels: Sequence[str | None],
        base_labels: Sequence[str | None],
        order: IdOrder,
        junk: Collection[str] = (),
        namesakes: Collection[str] = (),
    ) -> None:
        """``junk``: images that are taken out of every ranking, and do not ask."""
        self._namesakes = frozenset(namesakes)
        self._ids, self._labels, self._order = query_ids, query_labels, order
        self._junk_ids, self._junk = frozenset(junk), order.places(junk)
        dropped = set(self._junk.tolist())
        members: dict[str, list[int]] = {}
        for position, row in enumerate(order.rows_N.tolist()):
            label = base_labels[row]
            if label is not None and position not in dropped:
                members.setdefault(label, []).append(position)
        self._members = {label: np.array(found, dtype=np.int64) for label, found in members.items()}

    def of(self, row: int) -> Right | None:
        """All others with the label of query ``row``, each with gain 1."""
        label, own_ids = self._labels[row], {self._ids[row]} - self._namesakes
        if label is None or own_ids & self._junk_ids:
            return None
        own = self._order.places(own_ids)
        group = self._members.get(label, _NOBODY)
        others: Ints = group[group != own[0]] if len(own) else group
        left_out = np.union1d(own, self._junk) if len(self._junk) else own
        return Right(positions_P=others, gains_P=np.ones(len(others)), left_out=left_out)


class ByJudgements:
    """Right is what somebody graded above 0; a query that nobody judged is not judged here either.

    Judged images that the base does not hold cannot be found: they do not count, ``missing`` names them.
    """

    def __init__(
        self,
        query_ids: Sequence[str],
        judgements: Judgements,
        order: IdOrder,
        namesakes: Collection[str] = (),
    ) -> None:
        """``order`` is the base's."""
        self._ids, self._grades, self._order = query_ids, judgements.grades, order
        self._namesakes = frozenset(namesakes)

    def of(self, row: int) -> Right | None:
        """The images that are graded above 0 for query ``row``, with their grades as gains."""
        query_id = self._ids[row]
        grades = self._grades.get(query_id)
        if grades is None:
            return None
        own_ids = {query_id} - self._namesakes
        here = sorted(
            (position, grade)
            for name, grade in grades.items()
            if name not in own_ids and (position := self._order.position_of.get(name)) is not None
        )
        junk = [position for position, grade in here if grade < 0]
        return Right(
            positions_P=np.array([position for position, grade in here if grade > 0], dtype=np.int64),
            gains_P=np.array([grade for _, grade in here if grade > 0], dtype=np.float64),
            left_out=np.union1d(self._order.places(own_ids), np.array(junk, dtype=np.int64)),
        )

    def missing(self) -> tuple[list[str], list[str]]:
        """Query ids and image ids that were judged and are not there."""
        known = set(self._ids)
        queries = sorted(query_id for query_id in self._grades if query_id not in known)
        images = {name for grades in self._grades.values() for name in grades}
        return queries, sorted(name for name in images if name not in self._order.position_of)


class OtherGroups:
    """What is right in other groups than the query's own, which is taken out of its ranking."""

    def __init__(
        self,
        relevance: Relevance,
        query_groups: Sequence[str | None],
        base_groups: Sequence[str | None],
        order: IdOrder,
    ) -> None:
        """``relevance`` says what is right in all groups."""
        self._relevance, self._groups = relevance, query_groups
        members: dict[str, list[int]] = {}
        for position, row in enumerate(order.rows_N.tolist()):
            group = base_groups[row]
            if group is not None:
                members.setdefault(group, []).append(position)
        self._members = {group: np.array(found, dtype=np.int64) for group, found in members.items()}

    def of(self, row: int) -> Right | None:
        """What query ``row`` should find elsewhere."""
        right, group = self._relevance.of(row), self._groups[row]
        if right is None or group is None:
            return right
        own = self._members.get(group, _NOBODY)
        elsewhere = ~np.isin(right.positions_P, own)
        return Right(
            positions_P=right.positions_P[elsewhere],
            gains_P=right.gains_P[elsewhere],
            left_out=np.union1d(right.left_out, own),
        )
