"""Does a file give the vectors it was made to give? Runs batches through it, optimised and not.

Unlike ``session`` this runs whole batches at once, because a graph that was traced with one batch size is
wrong at others, and that must show before the file is used. Legend: N images, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.model.file import read_model
from pipeline.model.runtime import first_line

BATCHES = (1, 2, 7)
LEAST_COSINE = {"float32": 0.99999, "float16": 0.999}
_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The worst of all images and ways to run them."""

    least_cosine: float
    length_error: float


def check_parity(
    data: bytes, pixels_N: NDArray[np.uint8], expected_ND: NDArray[np.float32], precision: str
) -> Parity:
    """Compares the file's vectors with the expected ones, in batches of 1, 2 and 7, optimised and as written.

    Args:
        data: a wrapped model whose vectors have unit length.
        pixels_N: at least 7 inputs of it.
        expected_ND: their vectors.
        precision: ``float32`` or ``float16``: how near they must be.

    Raises:
        ModelError: a vector is too far off, is not of unit length, or the file does not run.
    """
    model = read_model(data, "the exported model")
    worst = Parity(least_cosine=1.0, length_error=0.0)
    for optimised in (True, False):
        session = _session(data, optimised=optimised)
        for batch in BATCHES:
            try:
                found_ND = session.run([model.output_name], {model.input_name: pixels_N[:batch]})[0]
            except Exception as exc:  # onnxruntime's own exception types are not public and share no base
                raise ModelError(
                    f"the exported model does not run a batch of {batch}: {first_line(exc)}"
                ) from exc
            worst = _worse(worst, found_ND, expected_ND[:batch])
    least = LEAST_COSINE[precision]
    if worst.least_cosine < least or worst.length_error > _LENGTH_TOLERANCE:
        raise ModelError(
            f"the exported graph does not give what training promised: cosine {worst.least_cosine:.6f}, "
            f"expected {least} or more; length off by {worst.length_error:.2g}, expected {_LENGTH_TOLERANCE} "
            "or less",
            fix="nothing was written; export without --half, or report this as a bug of bitsieve",
        )
    return worst


def _worse(worst: Parity, found_ND: NDArray[np.float32], expected_ND: NDArray[np.float32]) -> Parity:
    if found_ND.shape != expected_ND.shape or not np.isfinite(found_ND).all():
        return Parity(least_cosine=-1.0, length_error=float("inf"))
    wide_ND = found_ND.astype(np.float64)
    length_N = np.linalg.norm(wide_ND, axis=1)
    cosine_N = (wide_ND * expected_ND).sum(axis=1) / np.maximum(length_N, 1e-12)
    return Parity(
        least_cosine=min(worst.least_cosine, float(cosine_N.min())),
        length_error=max(worst.length_error, float(np.abs(length_N - 1).max())),
    )


def _session(data: bytes, *, optimised: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # as above
        raise ModelError(f"the exported model does not load: {first_line(exc)}") from exc


def noise_pixels(shape: Sequence[int], seed: int = 0) -> NDArray[np.uint8]:
    """Seeded pictures of every brightness and contrast, uint8 of this shape."""
    rng = np.random.default_rng(seed)
    noise_N = rng.integers(0, 256, shape)
    level_N = rng.uniform(0.2, 1, (shape[0], *[1] * (len(shape) - 1)))
    return (noise_N * level_N).astype(np.uint8)
