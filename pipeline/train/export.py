"""Writes a trained network as an ONNX file that the pipeline runs as it is, and proves it before it is used.

1. torch writes the graph; the batch axis is free, the input uint8 pixels, normalisation and unit length
   inside.
2. Where the trunk was a frozen ONNX model, both graphs become one.
3. The card is added, and half precision where it is wanted.
4. The parity gate: batches of 1, 2 and 7, optimised and not, against torch.

Legend: N images, D dimensions.
"""

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.errors import ObjectMissing
from pipeline.model.card import ModelCard
from pipeline.model.compose import in_half_precision, trunk_with_head
from pipeline.model.file import read_model, wrap_model
from pipeline.model.parity import BATCHES, Parity, check_parity, noise_pixels
from pipeline.model.session import EmbeddingSession
from pipeline.storage import layout
from pipeline.storage.store import ObjectStore
from pipeline.train.checkpoint import load_weights
from pipeline.train.job import best_weights, starting_network
from pipeline.train.packed import plain_input
from pipeline.train.results import training_result
from pipeline.train.settings import square

_OUTPUT = "embedding"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """A wrapped ONNX file and how near it comes to torch."""

    data: bytes
    parity: Parity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A training's best network, and its frozen trunk if it had one."""

    net: nn.Module
    settings: TrainConfig
    trunk: bytes | None
    result: dict[str, Any]


def load_trained(store: ObjectStore, key: str) -> Trained:
    """The network of a training that has ended.

    Raises:
        ModelError: there is no such training, or its checkpoint is gone or of another architecture.
    """
    weights = best_weights(store, key)
    result = training_result(store, key) or {}
    settings = TrainConfig.model_validate(result["settings"])
    try:
        trunk = store.get(layout.training_trunk(key))
    except ObjectMissing:
        trunk = None
    net = starting_network(settings, store, trunk)
    load_weights(net, weights, f"the checkpoint of training {key[:16]}")
    return Trained(net=net.eval(), settings=settings, trunk=trunk, result=result)


def export_model(trained: Trained, card: ModelCard, *, half: bool = False) -> Exported:
    """The ONNX file of a trained network; ``card`` says what people should know of it.

    Raises:
        ModelError: the graph does not give what the network gives.
    """
    card = card.model_copy(update={"output": _OUTPUT, "dim": trained.settings.dim, "normalised": True})
    if trained.trunk is None:
        spec = plain_input(square(trained.settings))
        graph = traced(trained.net, torch.zeros(2, 3, *spec.size, dtype=torch.uint8), "image")
    else:
        n_features = read_model(trained.trunk, "the trunk").card.dim
        head = traced(trained.net, torch.zeros(2, n_features), "features")
        graph, spec = trunk_with_head(trained.trunk, head)
        card = card.model_copy(update={"output": f"head/{_OUTPUT}"})
    data = wrap_model(in_half_precision(graph) if half else graph, card, spec)
    sides = (3, *spec.size) if spec.layout == "NCHW" else (*spec.size, 3)
    pixels_N = noise_pixels((max(BATCHES), *sides))
    parity = check_parity(data, pixels_N, _promised(trained, pixels_N), "float16" if half else "float32")
    return Exported(data=data, parity=parity)


def _promised(trained: Trained, pixels_N: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What training gives for these pixels: torch, after the trunk's own run where it has one."""
    if trained.trunk is None:
        inputs = torch.from_numpy(pixels_N)
    else:
        with EmbeddingSession(trained.trunk, where="the trunk") as session:
            spec = session.model.preprocess
            sides = (1, 3, 1, 1) if spec.layout == "NCHW" else (1, 1, 1, 3)
            mean, std = (np.array(values) for values in (spec.mean, spec.std))
            if spec.channel_order == "BGR":
                mean, std = mean[::-1], std[::-1]
            scaled_N = (pixels_N * spec.scale - mean.reshape(sides)) / std.reshape(sides)
            inputs = torch.from_numpy(session.run_raw(np.ascontiguousarray(scaled_N.astype(spec.dtype))))
    with torch.no_grad():
        promised: NDArray[np.float32] = trained.net(inputs).numpy()
    return promised


def traced(net: nn.Module, example: Tensor, name: str) -> bytes:
    """The network as an ONNX graph with a free batch axis."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            verify=False,
            verbose=False,
            input_names=[name],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: batch},),
        )
        path = Path(folder) / "graph.onnx"
        program.save(str(path), external_data=False)
        return path.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter speaks of torchvision, which is not needed, and warns about its own parts."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
