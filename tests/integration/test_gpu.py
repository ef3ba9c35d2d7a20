"""What runs on a GPU against its CPU twin; skipped, with the reason, where there is no CUDA device."""

import numpy as np
import onnxruntime
import pytest

from pipeline.errors import WorkerError
from pipeline.model.filters import build_filter_model
from pipeline.model.session import EmbeddingSession

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 3, 96, 96), dtype=np.uint8)


@pytest.mark.gpu
@pytest.mark.skipif(
    not HAS_CUDA, reason="onnxruntime here has no CUDAExecutionProvider: needs onnxruntime-gpu"
)
def test_session_on_cuda_agrees_with_the_cpu(pixels):
    with EmbeddingSession(build_filter_model()) as on_cpu:
        cpu_ND, _ = on_cpu.embed(pixels)
    with EmbeddingSession(build_filter_model(), provider="cuda") as on_gpu:
        gpu_ND, ok_N = on_gpu.embed(pixels)
    assert ok_N.all()
    assert np.einsum("nd,nd->n", cpu_ND, gpu_ND).min() >= 0.99999


@pytest.mark.skipif(HAS_CUDA, reason="there is a CUDA provider")
def test_session_cuda_asked_for_and_not_there_is_an_error_not_the_cpu():
    with pytest.raises(WorkerError, match="CUDA"):
        EmbeddingSession(build_filter_model(), provider="cuda")
