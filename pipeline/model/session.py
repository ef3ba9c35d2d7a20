"""Runs a model: prepared pixels in, unit vectors out, the same bytes for the same image in any company.

The rule that makes a vector independent of its batch, of the threads and of the worker: **on the CPU every
image goes through the graph alone, on one thread; threads run images side by side.** A product of one row
may take another path than one of many rows (in onnxruntime 1.32 it does for weights that cannot be packed in
advance), so batches of varying length would make a vector depend on its neighbours. Measured on two cores it
is also the fastest way: 1.27 ms an image against 1.58 in batches of 8 on two threads (MobileFaceNet), 2.16
against 2.68 (MobileNetV2). On a GPU images go in batches padded to a few fixed shapes (``batches``), and
vectors agree to a cosine of .99999.

Shapes: N images, D the card's dim.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError, WorkerError
from pipeline.model.batches import BatchRunner, LargestBatch, Pixels
from pipeline.model.described import Model, remembered, show_shape
from pipeline.model.runtime import first_line, load
from pipeline.values import Precision, Provider

_GPU_BATCHES = (1, 8, 64)


class EmbeddingSession:
    """One loaded model on one device. Threads may call ``embed`` at once; ``close`` ends its threads.

    ``notes`` are warnings for people, such as a batch axis fixed by the file.
    """

    def __init__(
        self,
        model_bytes: bytes,
        *,
        provider: Provider = "cpu",
        precision: Precision = "float32",
        threads: int = 1,
        batch_size: int = 1,
        cache: Path | None = None,
        where: str = "model",
    ) -> None:
        """Loads and probes the model.

        ``batch_size`` above 64 lets a GPU take so many images at once; ``cache`` is a folder of this machine
        for what was found out about the file and about its device.

        Raises:
            ModelError: if the file cannot be run, or its probe contradicts its card.
            WorkerError: if the execution provider asked for is not the one that runs.
        """
        if threads < 1:
            raise ValueError(f"a session needs at least one thread, got {threads}")
        self.model: Model = _described(model_bytes, where, cache)
        self.notes: tuple[str, ...] = _notes(self.model, provider, where)
        self._where = where
        self._threads = threads
        self._session = load(model_bytes, where, provider, precision, cache)
        self._pool = ThreadPoolExecutor(threads, "infer") if threads > 1 and provider == "cpu" else None
        self._runner: BatchRunner | None = None
        if provider != "cpu":
            shapes = tuple(sorted({*_GPU_BATCHES, max(batch_size, _GPU_BATCHES[-1])}))
            name = f"{provider}-{precision}-{self.model.model_id}"
            largest = LargestBatch(cache, name) if cache is not None else None
            fixed = self.model.static_batch
            self._runner = BatchRunner(
                self._session, self.model, (fixed,) if fixed else shapes, "cuda", largest
            )
        elif self.model.static_batch not in (None, 1):
            self._runner = BatchRunner(self._session, self.model, (self.model.static_batch,), "cpu")
        self._probe()

    @property
    def preferred_images(self) -> int:
        """Images to hand to ``embed`` at once so that nothing idles; on the CPU it changes no vector."""
        return max(8 * self._threads, self._runner.shapes[-1] if self._runner else 1)

    def embed(self, images: Sequence[Pixels] | Pixels) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The vectors of prepared images, and which of them can be used.

        Args:
            images: N arrays (or one with a first axis of N) of the card's layout and dtype, each [3, H, W] or
                [H, W, 3] and C-contiguous; N may be 0.

        Returns:
            float32 [N, d] of unit length, and bool [N], False where a row holds NaN, infinity or only zeros;
            such a row is returned as the model gave it.

        Raises:
            ValueError: if shape or dtype are not the card's.
            WorkerError: if the device fails.
        """
        return _finish(self.run_raw(images), already_unit=self.model.card.normalised)

    def run_raw(self, images: Sequence[Pixels] | Pixels) -> NDArray[np.float32]:
        """What the graph gives, [N, D], before any normalisation; arguments and errors as in ``embed``."""
        self._check_pixels(images)
        raw_ND = np.empty((len(images), self.model.card.dim), dtype=np.float32)
        if self._runner is not None:
            self._runner.run(list(images), raw_ND)
        elif self._pool is None:
            for pixels, out_D in zip(images, raw_ND, strict=True):
                out_D[:] = self._alone(pixels)[0]
        else:
            for out_D, got_1D in zip(raw_ND, self._pool.map(self._alone, images), strict=True):
                out_D[:] = got_1D[0]
        return raw_ND

    def close(self) -> None:
        """Ends the threads; the session cannot be used afterwards. May be called twice."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> "EmbeddingSession":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _probe(self) -> None:
        dim = self.model.card.dim
        zeros = np.zeros(self.model.pixels_shape, dtype=self.model.preprocess.dtype)
        try:
            outputs = self._runner.probe() if self._runner is not None else [(1, self._alone(zeros))]
            for batch, output_BD in outputs:
                if output_BD.shape != (batch, dim):
                    got = show_shape(output_BD.shape)
                    raise ModelError(f"{self._where}: the card says output [{batch}, {dim}], it gave {got}")
                if not np.isfinite(output_BD).all():
                    raise ModelError(f"{self._where} gives NaN or infinity for an image of zeros")
        except WorkerError as exc:
            raise ModelError(f"{self._where} cannot run: {exc.message}") from exc

    def _check_pixels(self, images: Sequence[Pixels] | Pixels) -> None:
        shape, dtype = self.model.pixels_shape, self.model.preprocess.dtype
        for pixels in images:
            if pixels.shape != shape or pixels.dtype != dtype:
                raise ValueError(
                    f"the model takes {dtype} [N, {', '.join(map(str, shape))}], "
                    f"got {pixels.dtype} {['N', *pixels.shape]}"
                )

    def _alone(self, pixels: Pixels) -> NDArray[np.float32]:
        """One image through the graph on the CPU, [1, D]."""
        try:
            feed = {self.model.input_name: np.ascontiguousarray(pixels[np.newaxis])}
            output = self._session.run([self.model.output_name], feed)[0]
        except MemoryError:
            raise
        except Exception as exc:  # onnxruntime's own exception types are not public and share no base
            raise WorkerError(f"inference failed on cpu: {first_line(exc)}") from exc
        return np.asarray(output, dtype=np.float32)


def _described(model_bytes: bytes, where: str, cache: Path | None) -> Model:
    def read() -> Model:
        from pipeline.model.file import read_model  # the onnx package; of a known file nobody needs it

        return read_model(model_bytes, where)

    return read() if cache is None else remembered(model_bytes, cache, read)


def _notes(model: Model, provider: Provider, where: str) -> tuple[str, ...]:
    fixed = model.static_batch
    if fixed is None:
        return ()
    if fixed > 1:
        return (f"{where}: the batch axis is fixed at {fixed}; short batches are padded",)
    if provider != "cpu":
        return (f"{where}: the batch axis is fixed at 1; a GPU will mostly wait",)
    return (f"{where}: the batch axis is fixed at 1; images run one by one",)


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
