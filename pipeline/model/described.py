"""What a wrapped model file says and needs, as a value; of a file that was read before it is remembered.

To read a file (``file``) takes the onnx package and several times the file's size in memory. Who only has to
know what it says, a driver for hours, a worker for each start, does without: the value is kept in a folder of
this machine, under the sha256 of the file.
"""

import contextlib
import math
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipeline.fingerprint import sha256_hex
from pipeline.model.card import ModelCard
from pipeline.values import Preprocess

_READER_VERSION = 1  # raised by hand when ``read_model`` says something else of a file, or refuses more

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a wrapped model file says and needs.

    ``input_shape`` is rank 4 with None for a free axis; ``static_batch`` is a fixed batch, or None.
    """

    card: ModelCard
    preprocess: Preprocess
    model_id: str
    input_name: str
    input_dtype: str
    input_shape: Shape
    static_batch: int | None
    output_name: str

    @property
    def pixels_shape(self) -> tuple[int, int, int]:
        """The shape of one prepared image: [3, H, W] or [H, W, 3]."""
        height, width = self.preprocess.size
        return (3, height, width) if self.preprocess.layout == "NCHW" else (height, width, 3)

    @property
    def input_bytes(self) -> int:
        """What one prepared image takes."""
        return math.prod(self.pixels_shape) * np.dtype(self.preprocess.dtype).itemsize


_MODEL: TypeAdapter[Model] = TypeAdapter(Model)


def to_json(model: Model) -> str:
    """The value as JSON; ``from_json`` gives an equal one."""
    return _MODEL.dump_json(model, by_alias=True).decode()


def from_json(text: str) -> Model:
    """A value from its JSON.

    Raises:
        ValueError: it is none.
    """
    return _MODEL.validate_json(text, strict=True)


def remembered(data: bytes, cache: Path, read: Callable[[], Model]) -> Model:
    """What ``read`` says of the model file ``data``; asked once for each file as long as ``cache`` is there.

    A broken entry is as good as none, and a folder that cannot be written to costs the memory only.
    """
    place = cache / f"model-{_READER_VERSION}-{sha256_hex(data)}.json"
    with contextlib.suppress(OSError, ValidationError, UnicodeDecodeError):
        return from_json(place.read_text())
    model = read()
    aside = place.with_suffix(f".{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        aside.write_text(to_json(model))
        os.replace(aside, place)
    return model


def show_shape(shape: Shape | None) -> str:
    """A shape for people: free axes are N.

    >>> show_shape((None, 3, 112, 112))
    '[N, 3, 112, 112]'
    """
    if shape is None:
        return "no stated shape"
    return "[" + ", ".join("N" if side is None else str(side) for side in shape) + "]"
