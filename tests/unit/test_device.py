"""What scans codes where torch cannot be imported; what a device finds is test_device_scan's."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import pipeline.index
from pipeline.errors import WorkerError
from pipeline.index.calibrate import calibrate
from pipeline.index.device import on_device
from pipeline.index.encoder import fit_encoder
from pipeline.index.search import Searcher
from tests.support.index_shards import open_shard, unit_rows


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('no libcudart.so.13')",
        "OSError('no libcudart.so.13')",
        "ValueError('no libcudart.so.13')",
    ],
)
def test_where_torch_cannot_be_imported_auto_is_the_processor_and_cuda_says_why(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torch", "pipeline.index.cuda"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(pipeline.index, "cuda", raising=False)
    x_ND = unit_rows(50, 8, seed=1)
    encoder = fit_encoder(x_ND, bits=16)
    shard = open_shard(tmp_path / "shard", [f"{i:02d}" for i in range(50)], x_ND, encoder)
    point = replace(calibrate(encoder, [shard]), method="hamming", candidates={10: 20})
    searcher = Searcher(encoder, [shard], point)
    assert on_device(searcher, "auto") is searcher
    with pytest.raises(WorkerError, match=r"cannot be imported: no libcudart\.so\.13"):
        on_device(searcher, "cuda")
