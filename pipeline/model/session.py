"""Runs a model: prepared pixels in, unit vectors out, the same bytes for the same image in any company.

The rule that makes a vector independent of its batch, of the threads and of the worker: **on the CPU every
image goes through the graph alone, on one thread; threads run images side by side.** A product of one row
may take another path than one of many rows (in onnxruntime 1.32 it does for weights that cannot be packed in
advance), so batches of varying length would make a vector depend on its neighbours. Measured on two cores it
is also the fastest way: 1.27 ms an image against 1.58 in batches of 8 on two threads (MobileFaceNet), 2.16
against 2.68 (MobileNetV2). On a GPU images go in batches padded to a few fixed shapes, and vectors agree to
a cosine of .99999.

Shapes: N images, B the images of one run, D the card's dim.
"""

import importlib.metadata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.errors import ModelError, WorkerError
from pipeline.model.file import Model, read_model, show_shape

Provider = Literal["cpu", "cuda", "tensorrt"]
Pixels = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_GPU_BATCHES = (1, 8, 64)
_SILENT = 4  # onnxruntime's log level "fatal": every error arrives as an exception


class EmbeddingSession:
    """One loaded model on one device. Threads may call ``embed`` at once; ``close`` ends its threads.

    ``notes`` are warnings for people, such as a batch axis fixed by the file.
    """

    def __init__(
        self, model_bytes: bytes, *, provider: Provider = "cpu", threads: int = 1, where: str = "model"
    ) -> None:
        """Loads and probes the model.

        Raises:
            ModelError: if the file cannot be run, or its probe contradicts its card.
            WorkerError: if the execution provider asked for is not the one that runs.
        """
        if threads < 1:
            raise ValueError(f"a session needs at least one thread, got {threads}")
        self.model: Model = read_model(model_bytes, where)
        self.provider: Provider = provider
        self.notes: tuple[str, ...] = ()
        self._where = where
        self._session = _load(model_bytes, provider, where)
        self._batches = self._batch_sizes()
        self._pool = ThreadPoolExecutor(threads, "infer") if threads > 1 and provider == "cpu" else None
        self._threads = threads
        self._probe()

    @property
    def preferred_images(self) -> int:
        """Images to hand to ``embed`` at once so that nothing idles; on the CPU it changes no vector."""
        return max(8 * self._threads, self._batches[-1])

    def embed(self, pixels_N: Pixels) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The vectors of prepared images, and which of them can be used.

        Args:
            pixels_N: [N, 3, H, W] or [N, H, W, 3], C-contiguous, of the card's dtype; N may be 0.

        Returns:
            float32 [N, d] of unit length, and bool [N], False where a row holds NaN, infinity or only zeros;
            such a row is returned as the model gave it.

        Raises:
            ValueError: if shape or dtype are not the card's.
            WorkerError: if the device fails.
        """
        return _finish(self.run_raw(pixels_N), already_unit=self.model.card.normalised)

    def run_raw(self, pixels_N: Pixels) -> NDArray[np.float32]:
        """What the graph gives, [N, D], before any normalisation; arguments and errors as in ``embed``."""
        self._check_pixels(pixels_N)
        raw_ND = np.empty((len(pixels_N), self.model.card.dim), dtype=np.float32)
        spans = list(_spans(len(pixels_N), self._batches))
        if self._pool is None:
            for span in spans:
                self._run_span(pixels_N, raw_ND, span)
        else:
            for done in [self._pool.submit(self._run_span, pixels_N, raw_ND, span) for span in spans]:
                done.result()
        return raw_ND

    def close(self) -> None:
        """Ends the threads; the session cannot be used afterwards. May be called twice."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> "EmbeddingSession":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _batch_sizes(self) -> tuple[int, ...]:
        fixed = self.model.static_batch
        if fixed is None:
            return (1,) if self.provider == "cpu" else _GPU_BATCHES
        if fixed > 1:
            self.notes += (f"{self._where}: the batch axis is fixed at {fixed}; short batches are padded",)
        elif self.provider != "cpu":
            self.notes += (f"{self._where}: the batch axis is fixed at 1; a GPU will mostly wait",)
        else:
            self.notes += (f"{self._where}: the batch axis is fixed at 1; images run one by one",)
        return (fixed,)

    def _probe(self) -> None:
        spec, dim = self.model.preprocess, self.model.card.dim
        height, width = spec.size
        sides = (3, height, width) if spec.layout == "NCHW" else (height, width, 3)
        for batch in self._batches:
            try:
                output_BD = self._run(np.zeros((batch, *sides), dtype=spec.dtype))
            except WorkerError as exc:
                raise ModelError(f"{self._where} cannot run a batch of {batch}: {exc.message}") from exc
            if output_BD.shape != (batch, dim):
                got = show_shape(output_BD.shape)
                raise ModelError(f"{self._where}: the card says output [{batch}, {dim}], it gave {got}")
            if not np.isfinite(output_BD).all():
                raise ModelError(f"{self._where} gives NaN or infinity for an image of zeros")

    def _check_pixels(self, pixels_N: Pixels) -> None:
        spec = self.model.preprocess
        sides = (3, *spec.size) if spec.layout == "NCHW" else (*spec.size, 3)
        if pixels_N.shape[1:] != sides or pixels_N.dtype != spec.dtype:
            raise ValueError(
                f"the model takes {spec.dtype} [N, {', '.join(map(str, sides))}], "
                f"got {pixels_N.dtype} {list(pixels_N.shape)}"
            )

    def _run_span(self, pixels_N: Pixels, out_ND: NDArray[np.float32], span: tuple[int, int, int]) -> None:
        start, stop, batch = span
        part = pixels_N[start:stop]
        if len(part) < batch:
            padded = np.zeros((batch, *part.shape[1:]), dtype=part.dtype)
            padded[: len(part)] = part
            part = padded
        out_ND[start:stop] = self._run(part)[: stop - start]

    def _run(self, pixels_B: Pixels) -> NDArray[np.float32]:
        feed = {self.model.input_name: np.ascontiguousarray(pixels_B)}
        try:
            output = self._session.run([self.model.output_name], feed)[0]
        except MemoryError:
            raise
        except Exception as exc:  # onnxruntime's own exception types are not public and share no base
            raise WorkerError(f"inference failed on {self.provider}: {_first_line(exc)}") from exc
        return np.asarray(output, dtype=np.float32)


def _load(model_bytes: bytes, provider: Provider, where: str) -> onnxruntime.InferenceSession:
    wanted = _PROVIDERS[provider]
    if provider != "cpu":
        onnxruntime.preload_dlls()  # the CUDA libraries that pip installed beside it
    if wanted not in onnxruntime.get_available_providers():
        raise _wrong_provider(wanted, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    names = [wanted] if provider == "cpu" else [wanted, "CUDAExecutionProvider", "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(model_bytes, options, providers=list(dict.fromkeys(names)))
    except MemoryError:
        raise
    except Exception as exc:  # see _run
        raise ModelError(f"{where} is an ONNX model that does not load: {_first_line(exc)}") from exc
    if session.get_providers()[0] != wanted:
        raise _wrong_provider(wanted, session.get_providers())
    return session


def _wrong_provider(wanted: str, got: Iterable[str]) -> WorkerError:
    installed = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("onnxruntime", "onnxruntime-gpu")
        if _is_installed(name)
    ]
    return WorkerError(
        f"{wanted} was asked for, but only {', '.join(got)} can run; installed: {', '.join(installed)}",
        "install either the extra 'cpu' or the extra 'gpu' in a clean environment, never both; "
        "or run with --provider cpu",
    )


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _spans(n_images: int, batches: tuple[int, ...]) -> Iterable[tuple[int, int, int]]:
    """Cuts N images into (start, stop, batch shape): the largest shape first, then what fits."""
    start = 0
    while start < n_images:
        left = n_images - start
        batch = next((size for size in batches if size >= left), batches[-1])
        stop = min(n_images, start + batch)
        yield start, stop, batch
        start = stop


def _finish(
    raw_ND: NDArray[np.float32], *, already_unit: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    ok_N: NDArray[np.bool_] = np.logical_and(np.isfinite(raw_ND).all(axis=1), raw_ND.any(axis=1))
    if already_unit:
        return raw_ND, ok_N
    wide_ND = raw_ND[ok_N].astype(np.float64)
    wide_ND /= np.sqrt(np.square(wide_ND).sum(axis=1, keepdims=True))
    raw_ND[ok_N] = wide_ND.astype(np.float32)
    return raw_ND, ok_N


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
