"""The first stage on a device: the candidates of the processor, to the last tie; and what is refused.

The twin runs the same kernels in Triton's interpreter, on the processor.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import WorkerError
from pipeline.index.arrays import IntArray
from pipeline.index.calibrate import calibrate
from pipeline.index.device import on_device
from pipeline.index.encoder import fit_encoder
from pipeline.index.search import Searcher
from tests.support.device_answers import CASES, WHOLE, answers_of, ask
from tests.support.index_shards import open_shard, unit_rows

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton", reason="needs the extra 'device'")
pytestmark = pytest.mark.timeout(240)  # where nothing is compiled yet, a second process compiles it too


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, IntArray]:
    return ask(tmp_path_factory.mktemp("here"), None)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, IntArray]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device: the kernels ran in Triton's interpreter only")
    return answers_of(tmp_path_factory.mktemp("there") / "answers", request.param)


@pytest.mark.parametrize("case", [*CASES, *WHOLE, *(f"{name}, distances" for name in WHOLE)])
def test_device_finds_what_the_processor_finds(
    case: str, found: Mapping[str, IntArray], expected: Mapping[str, IntArray]
) -> None:
    assert (expected[case] >= 0).any()
    np.testing.assert_array_equal(expected[case], found[case])


def test_without_a_device_auto_is_the_processor_and_cuda_an_error(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    x_ND = unit_rows(50, 8, seed=1)
    encoder = fit_encoder(x_ND, bits=16)
    shard = open_shard(tmp_path, [f"{i:02d}" for i in range(50)], x_ND, encoder)
    point = replace(calibrate(encoder, [shard]), method="hamming", candidates={10: 20})
    searcher = Searcher(encoder, [shard], point)
    assert on_device(searcher, "auto") is searcher
    with pytest.raises(WorkerError, match="no CUDA device"):
        on_device(searcher, "cuda")


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, ["gcc"]),  # no Python.h
        triton.runtime.errors.PTXASError("ptxas failed"),
        PermissionError(13, "Permission denied", "/.triton"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_whatever_a_device_raises_is_a_worker_error(error: Exception) -> None:
    from pipeline.index.cuda import _device_errors

    with pytest.raises(WorkerError, match="the CUDA device failed"), _device_errors():
        raise error
