"""Vectors in a file without a name: right in any order, and nothing for a killed process to leave."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.index.mapped import MappedArray
from pipeline.snapshot.mapped_vectors import mapped_vectors
from tests.support.nights import Collection
from tests.support.tiny_catalogs import jpeg, write_folder


def test_vectors_come_in_the_order_asked_for_and_their_file_has_no_name_while_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Collection(tmp_path)
    write_folder(made.source, {f"{i}.jpg": jpeg(i) for i in range(5)})
    snapshot = made.open(made.night())
    expected_ND = snapshot.vectors
    before = _files(made.cache)
    filled: list[set[Path]] = []
    release = MappedArray.release

    def look(mapped: MappedArray) -> None:
        filled.append(_files(made.cache) - before)
        release(mapped)

    monkeypatch.setattr(MappedArray, "release", look)
    order_N = np.array([3, 1, 4, 0, 2])
    x_ND = mapped_vectors(snapshot, order_N)
    assert filled == [set()] * len(snapshot.content.parts)
    assert filled
    np.testing.assert_array_equal(x_ND, expected_ND[order_N])


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
