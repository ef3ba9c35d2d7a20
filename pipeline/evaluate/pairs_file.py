"""Reads lists of image pairs in the format of Labeled Faces in the Wild.

The first line holds the number of same pairs of each fold, with the number of folds before it if there are
several (``10<TAB>300``); so many same pairs follow (``name n1 n2``), then as many different ones
(``name1 n1 name2 n2``), fold by fold. The View 1 lists have one block, which is cut into folds here: a
contiguous tenth of its same pairs and of its different pairs each.
"""

import string
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.evaluate.metrics import Ints

DEFAULT_ID_TEMPLATE = "{name}_{n:04d}"
_FOLDS = 10
_FIELDS = {"name", "n"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairList:
    """Pairs of image ids in file order; folds count from 0."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    same_N: NDArray[np.bool_]
    fold_N: Ints


def read_pairs(text: str, where: str, id_template: str = DEFAULT_ID_TEMPLATE) -> PairList:
    """The pairs that ``text`` lists.

    Args:
        text: The file.
        where: Its name, for messages.
        id_template: How a name and a number make an image id; fields ``{name}`` and ``{n}``.

    Raises:
        UsageError: the file has another format, another number of pairs than its first line says, or the
            template has other fields.
    """
    _check_template(id_template)
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    n_blocks, n_each = _header(lines[0] if lines else [], where)
    expected = 2 * n_blocks * n_each
    if len(lines) - 1 != expected:
        raise UsageError(
            f"{where}: its first line promises {expected} pairs, {len(lines) - 1} follow",
            fix="get the file again, or correct the first line",
        )
    same_N = np.tile(np.repeat([True, False], n_each), n_blocks)
    pairs = [
        _pair(line, bool(same), f"{where}, line {number}", id_template)
        for number, (line, same) in enumerate(zip(lines[1:], same_N, strict=True), start=2)
    ]
    return PairList(
        left=tuple(left for left, _ in pairs),
        right=tuple(right for _, right in pairs),
        same_N=same_N,
        fold_N=np.repeat(np.arange(n_blocks), 2 * n_each) if n_blocks > 1 else _tenths(n_each),
    )


def _header(fields: list[str], where: str) -> tuple[int, int]:
    numbers = [int(field) for field in fields if field.strip().isdecimal()]
    if len(numbers) != len(fields) or len(numbers) not in (1, 2) or min(numbers) < 1:
        raise UsageError(
            f"{where}: expected the number of pairs in line 1 (`500`, or `10<TAB>300` for ten folds), "
            f"got {'<TAB>'.join(fields)[:80]!r}",
            fix="pass a list in the format of Labeled Faces in the Wild, fields separated by tabs",
        )
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _pair(fields: list[str], same: bool, where: str, template: str) -> tuple[str, str]:  # noqa: FBT001
    expected = "name, number, number" if same else "name, number, name, number"
    numbers = fields[1:] if same else fields[1::2]
    if len(fields) != (3 if same else 4) or not all(number.strip().isdecimal() for number in numbers):
        raise UsageError(
            f"{where}: expected {expected}, separated by tabs, got {'<TAB>'.join(fields)[:120]!r}",
            fix="same pairs come first in each fold, then as many different ones",
        )
    names = (fields[0], fields[0]) if same else (fields[0], fields[2])
    ids = [template.format(name=name, n=int(n)) for name, n in zip(names, numbers, strict=True)]
    return ids[0], ids[1]


def _tenths(n_each: int) -> Ints:
    folds = np.arange(n_each) * _FOLDS // n_each
    return np.concatenate([folds, folds])


def _check_template(template: str) -> None:
    try:
        found = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        template.format(name="a", n=1)
    except (ValueError, KeyError, IndexError, AttributeError):
        found = set()
    if found != _FIELDS:
        raise UsageError(
            f"the id template {template!r} must have the fields {{name}} and {{n}} and no others",
            fix=f"the default is {DEFAULT_ID_TEMPLATE}",
        )
