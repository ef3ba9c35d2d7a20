"""The first stage on a device: the candidates of the processor, to the last tie; and what is refused.

The twin runs the same kernels in Triton's interpreter, on the processor.
"""

from collections.abc import Mapping

import numpy as np
import pytest

from pipeline.index.arrays import IntArray
from tests.support.device_answers import CASES, answers_of, ask

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="needs the extra 'device'")
pytestmark = pytest.mark.timeout(240)  # where nothing is compiled yet, a second process compiles it too


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, IntArray]:
    return ask(tmp_path_factory.mktemp("here"), None)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, IntArray]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device: the kernels ran in Triton's interpreter only")
    return answers_of(tmp_path_factory.mktemp("there") / "answers", request.param)


@pytest.mark.parametrize("case", [*CASES, "results"])
def test_device_finds_what_the_processor_finds(
    case: str, found: Mapping[str, IntArray], expected: Mapping[str, IntArray]
) -> None:
    assert (expected[case] >= 0).any()
    np.testing.assert_array_equal(expected[case], found[case])
