"""docs/reliability.md names a test for every row of faults and of hostile input, and the test exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| ([FH]\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
NOT_PROVEN = "not proven"


@cache
def names_in(file: Path) -> set[str]:
    """The functions of a file, with those in classes."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named(cell: str) -> list[tuple[Path, str]]:
    """The files and tests of a cell; a test without a file is in the file before it."""
    found, file = [], Path()
    for code in re.findall(r"`([^`]+)`", cell):
        path, is_test, name = code.rpartition("::")
        if not is_test:
            continue
        file = ROOT / "tests" / path if path else file
        found.append((file, f"test_{name}"))
    return found


@pytest.mark.parametrize(("letter", "last"), [("F", 46), ("H", 39)])
def test_every_row_of_the_matrix_is_there_once_and_in_order(letter: str, last: int) -> None:
    assert [row for row, _, _ in ROWS if row[0] == letter] == [f"{letter}{n}" for n in range(1, last + 1)]


@pytest.mark.parametrize(
    ("row", "cell"), [(row, cell) for row, _, cell in ROWS], ids=[row for row, _, _ in ROWS]
)
def test_row_names_tests_that_exist_or_says_that_it_is_not_proven(row: str, cell: str) -> None:
    tests = named(cell)
    assert tests or cell.startswith(NOT_PROVEN)
    assert [
        (file.name, name) for file, name in tests if not file.is_file() or name not in names_in(file)
    ] == []
