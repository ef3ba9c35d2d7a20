"""Somebody else's Faiss index: what it says about itself is bounded by the size of its file."""

import struct
from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.index.foreign import read_foreign
from tests.support.index_shards import unit_rows


def _limits() -> tuple[int, int]:
    return faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()


def test_a_length_that_the_file_cannot_hold_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantiser = faiss.IndexFlatL2(8)
    index = faiss.IndexIVFFlat(quantiser, 8, 5, faiss.METRIC_L2)
    x_ND = unit_rows(200, 8, seed=0)
    index.train(x_ND)
    index.add(x_ND)
    faiss.write_index(index, str(tmp_path / "sound"))
    plain = (tmp_path / "sound").read_bytes()
    length = struct.pack("<Q", 5 * 8)  # floats of the five centroids, which come first
    (tmp_path / "bomb").write_bytes(plain.replace(length, struct.pack("<Q", 1 << 36), 1))
    before, during = _limits(), []
    read = faiss.read_index

    def watched(path: str, flags: int) -> object:
        during.append(_limits())
        return read(path, flags)

    monkeypatch.setattr(faiss, "read_index", watched)
    with pytest.raises(SourceError, match="Faiss does not open"):
        read_foreign(tmp_path / "bomb")
    d, rows = read_foreign(tmp_path / "sound")
    assert (d, sorted(np.concatenate([part.ids_N for part in rows]).tolist())) == (8, list(range(200)))
    assert during == [(2 * len(plain), 2 * len(plain))] * 2
    assert _limits() == before
