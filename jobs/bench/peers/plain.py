"""What every peer has to do, in the plainest way: walk tars, decode with Pillow, run onnxruntime, read PSS.

Shapes: N images, H, W the model's sides.
"""

import io
import json
import os
import queue
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_ATTRIBUTES = ("json", "cls", "txt")

Spec = dict[str, Any]


def settings() -> Spec:
    """What this script was asked to do: the JSON object in its only argument."""
    asked: Spec = json.loads(sys.argv[1])
    return asked


def report(n_images: int, seconds: float, **more: Any) -> None:
    """Prints the one JSON line: images, seconds of the timed part, and whatever else was measured."""
    sys.stdout.write(json.dumps({"n_images": n_images, "seconds": seconds, **more}) + "\n")
    sys.stdout.flush()


def tar_images(path: str) -> Iterator[tuple[str, bytes]]:
    """(id, bytes) of every image of a tar; the id is the member's name up to its first dot."""
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            file = tar.extractfile(info) if is_image(info) else None
            if file is not None:
                yield info.name.rpartition("/")[2].partition(".")[0], file.read()
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header


def is_image(info: tarfile.TarInfo) -> bool:
    """Whether a member of a WebDataset tar is an image."""
    extension = info.name.rpartition("/")[2].partition(".")[2]
    return info.isreg() and extension.lower() not in _ATTRIBUTES


def load(data: bytes, spec: Spec) -> Any:
    """An image as the model's input, [3, H, W] or [H, W, 3]; None if it does not decode.

    ``spec`` is ``bitsieve.preprocess`` of the model; resize ``shortest`` and ``squash`` with a centre crop.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    height, width = spec["size"]
    if spec["resize"] == "squash":
        wanted = (width, height)
    else:
        short, to = min(image.size), spec["resize_to"]
        wanted = (image.width * to // short, image.height * to // short)
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling[spec["interpolation"].upper()])
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image)[top : top + height, left : left + width]
    if spec["layout"] == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    if spec["dtype"] == "uint8":
        return np.ascontiguousarray(pixels)
    values = pixels.astype(np.float32)
    if (spec["scale"], *spec["mean"], *spec["std"]) != (1, 0, 0, 0, 1, 1, 1):
        shape = (3, 1, 1) if spec["layout"] == "NCHW" else (1, 1, 3)
        mean, std = (np.array(spec[name], dtype=np.float32).reshape(shape) for name in ("mean", "std"))
        values = (values * np.float32(spec["scale"]) - mean) / std
    return np.ascontiguousarray(values, dtype=spec["dtype"])


class Net:
    """The ONNX model on the CPU with ``threads`` inference threads."""

    def __init__(self, asked: Spec, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            asked["model"], options, providers=["CPUExecutionProvider"]
        )
        self._input, self._output = asked["input_name"], asked["output_name"]

    def __call__(self, pixels: Sequence[Any]) -> Any:
        """Unit vectors float32 [N, d] of N prepared images."""
        vectors = self._session.run([self._output], {self._input: np.stack(pixels)})[0]
        vectors = np.asarray(vectors, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def together(workers: Sequence[Any], ready: Any, results: Any) -> tuple[list[Any], float]:
    """What each of the processes puts into ``results``, and the seconds since all of them were ``ready``.

    Exits with an error if one of them dies: the others would be waited for in vain.
    """
    for worker in workers:
        worker.start()
    while ready.n_waiting < len(workers):
        _check_alive(workers)
        time.sleep(0.01)
    ready.wait()
    started = time.perf_counter()
    found: list[Any] = []
    while len(found) < len(workers):
        try:
            found.append(results.get(timeout=1))
        except queue.Empty:
            _check_alive(workers)
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return found, seconds


def _check_alive(workers: Sequence[Any]) -> None:
    if any(worker.exitcode for worker in workers):
        for worker in workers:
            worker.terminate()
        sys.exit("one of the processes died")


def mark(asked: Spec, what: str) -> None:
    """Notes that this process has come to ``what``: when, and its PSS; a file of its own in ``marks``."""
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    pss_bytes = int(fields[fields.index("Pss:") + 1]) * 1024
    place = Path(asked["marks"]) / f"{what}-{os.getpid()}.json"
    place.write_text(json.dumps({"time_s": time.time(), "pid": os.getpid(), "pss_bytes": pss_bytes}))


def first_mark_s(asked: Spec, what: str) -> float:
    """When the first process came to ``what``."""
    marks = [json.loads(path.read_text()) for path in Path(asked["marks"]).glob(f"{what}-*.json")]
    return float(min(one["time_s"] for one in marks))
