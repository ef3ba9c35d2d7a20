"""Runs images in batches of a few fixed shapes, the largest that the device has memory for.

Each shape has its buffers, on the device, bound once: a run copies pixels in and vectors out and allocates
nothing of its own. A short batch is padded. If the device runs out of memory the batch is halved and the same
images are run again; what fits is remembered for the model and the machine, so that the next session does not
start with a failure.

Shapes: N images, B the images of one run, D the card's dim.
"""

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.errors import WorkerError
from pipeline.model.described import Model
from pipeline.model.runtime import first_line, is_out_of_memory

Pixels = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LargestBatch:
    """The most images at once that have fitted, in a small file of ``folder``; a broken one is ignored."""

    folder: Path
    name: str

    def read(self) -> int | None:
        """What was remembered."""
        try:
            images = json.loads(self._path.read_text())["images"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return images if isinstance(images, int) and images > 0 else None

    def write(self, images: int) -> None:
        """Remembers ``images``; a folder that cannot be written to costs the memory only."""
        aside = self._path.with_suffix(f".{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"images": images}))
            os.replace(aside, self._path)

    @property
    def _path(self) -> Path:
        return self.folder / f"largest-batch-{self.name}.json"


class BatchRunner:
    """A model on one device in batches of ``shapes``, ascending; one thread at a time runs."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        model: Model,
        shapes: Sequence[int],
        device: str,
        largest: LargestBatch | None = None,
    ) -> None:
        self._session = session
        self._model = model
        self._device = device
        self._largest = largest
        self._lock = threading.Lock()
        self._bound: dict[int, _Bound] = {}
        known = largest.read() if largest is not None else None
        self.shapes = tuple(shapes) if known is None else _at_most(tuple(shapes), known)

    def run(self, images: Sequence[Pixels], out_ND: NDArray[np.float32]) -> None:
        """Writes what the graph gives for N images of the card's shape and dtype to ``out_ND``.

        Raises:
            WorkerError: the device fails, or has no memory for a single image.
        """
        start = 0
        with self._lock:
            while start < len(images):
                left = len(images) - start
                shape = next((size for size in self.shapes if size >= left), self.shapes[-1])
                stop = start + min(left, shape)
                got_BD = self._run(shape, images[start:stop])
                if got_BD is not None:
                    out_ND[start:stop] = got_BD[: stop - start]
                    start = stop

    def probe(self) -> list[tuple[int, NDArray[np.float32]]]:
        """What each shape gives for images of zeros, as (B, [B, D]); the largest that fits comes first.

        Raises:
            WorkerError: as ``run``.
        """
        with self._lock:
            while (got_BD := self._run(self.shapes[-1], ())) is None:
                pass
            outputs = [(self.shapes[-1], got_BD)]
            for shape in self.shapes[-2::-1]:
                smaller_BD = self._run(shape, ())
                if smaller_BD is not None:
                    outputs.append((shape, smaller_BD))
            return outputs

    def _run(self, shape: int, images: Sequence[Pixels]) -> NDArray[np.float32] | None:
        """One batch, [B, D]; None if it did not fit and smaller ones are to be tried."""
        try:
            bound = self._bound.get(shape) or _Bound(self._session, self._model, shape, self._device)
            got_BD = bound.run(images)
        except MemoryError:
            raise
        except Exception as exc:  # onnxruntime's own exception types are not public and share no base
            if is_out_of_memory(exc) and self._halve(shape):
                return None
            raise WorkerError(f"inference failed on {self._device}: {first_line(exc)}") from exc
        self._bound[shape] = bound
        return got_BD

    def _halve(self, shape: int) -> bool:
        """Takes shapes of more than half of ``shape`` away; False if there is no smaller one."""
        if self._model.static_batch is not None or shape == 1:
            return False
        self._bound.clear()  # their buffers are of use to nobody until one fits
        self.shapes = _at_most(self.shapes, shape // 2)
        if self._largest is not None:
            self._largest.write(self.shapes[-1])
        return True


class _Bound:
    """The buffers of one batch shape, on the host and on the device."""

    def __init__(self, session: onnxruntime.InferenceSession, model: Model, shape: int, device: str) -> None:
        self._session = session
        self._host_B = np.zeros((shape, *model.pixels_shape), dtype=model.preprocess.dtype)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(self._host_B, device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(model.input_name, self._input)
        self._binding.bind_output(model.output_name, device)

    def run(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """What the graph gives for the whole shape, [B, D]; rows beyond ``images`` mean nothing."""
        for number, pixels in enumerate(images):
            self._host_B[number] = pixels
        self._input.update_inplace(self._host_B)
        self._session.run_with_iobinding(self._binding)
        return np.asarray(self._binding.copy_outputs_to_cpu()[0], dtype=np.float32)


def _at_most(shapes: tuple[int, ...], most: int) -> tuple[int, ...]:
    return (*(shape for shape in shapes if shape < most), min(most, shapes[-1]))
