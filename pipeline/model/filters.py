"""Builds a model of fixed filters and colour counts, untrained, always equal bytes: ``builtin-filters``.

The trained ``builtin`` is judged beside it, and tests use it. It finds other photos of a product, and is no
more than that. ``image`` uint8 RGB [N,3,96,96] becomes ``embedding`` float32 [N,128], unit length:

1. average to 48 and 24 pixels a side, turn into luma and two opponent colours;
2. edges: magnitudes of Gabor pairs on luma and on colour, averaged on grids, relative to the image's mean;
3. colours: soft counts around 64 prototypes on 1x1, 2x2 and 3x3 grids, counting what differs from the border;
4. square root, a seeded projection on random signs, minus a measured centre, L2.

Everything works on one image at a time, also the projection: one matrix product an image, not one for the
batch. So a vector has the same bytes in a batch of any size.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pipeline.model.card import ModelCard, to_metadata
from pipeline.model.filters_centre import CENTRE
from pipeline.model.graph_builder import GraphBuilder
from pipeline.values import Preprocess

NAME = "bitsieve-filters"
VERSION = "1"
SIZE_PX = 96
DIM = 128

_OPSET = 20
_IR_VERSION = 10
_SEED = 20
_GABOR_PX = 9
_COLOUR_SPREAD = 0.22
_BORDER_SPREAD = 0.35
_LUMA_AND_OPPONENTS = ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (0.5, 0.5, -1.0))
_PROTOTYPE_AXES = ((-0.9, -0.3, 0.3, 0.9), (-0.5, -1 / 6, 1 / 6, 0.5), (-0.6, -0.2, 0.2, 0.6))

_Array = npt.NDArray[np.float64]


def build_filter_model(*, centre: Sequence[float] = CENTRE) -> bytes:
    """The model as ONNX bytes with its metadata; equal bytes on every call with one version of ``onnx``.

    Args:
        centre: 128 numbers subtracted from the projected features. Zeros give the vectors from which the
            committed centre was measured: their mean, before L2 normalisation, over the demo catalog.

    Raises:
        ValueError: if the centre has not 128 numbers.
    """
    if len(centre) != DIM:
        raise ValueError(f"expected a centre of {DIM} numbers, got {len(centre)}")
    graph = GraphBuilder()
    blocks = _features(graph)
    raw = _project(graph, blocks, centre)
    graph.nodes.append(helper.make_node("LpNormalization", [raw], ["embedding"], name="unit", axis=1, p=2))
    return _serialised(graph)


def _features(graph: GraphBuilder) -> list[tuple[str, int, float]]:
    """Adds all feature maps; returns (name, numbers an image, divisor: measured spread over weight)."""
    pixels = graph.add("Cast", "image", to=TensorProto.FLOAT)
    pixels = graph.plus(graph.add("Mul", pixels, graph.constant(1 / 127.5)), -1.0)
    half = graph.pool(pixels, 2)
    quarter = graph.pool(half, 2)
    axes = np.array(_LUMA_AND_OPPONENTS)[:, :, None, None]
    luma, opponents = graph.split(graph.add("Conv", half, graph.constant(axes)), (1, 2))
    luma_quarter, _ = graph.split(graph.add("Conv", quarter, graph.constant(axes)), (1, 2))
    edges = _edges(graph, luma, n_channels=1, n_angles=8)
    coarse = _edges(graph, luma_quarter, n_channels=1, n_angles=8)
    colour_edges = _edges(graph, opponents, n_channels=2, n_angles=4)
    counts, total = _colour_counts(graph, quarter, axes)
    return [
        (_relative_grid(graph, edges, 8, 8), 8 * 36, 8.0),
        (_relative_grid(graph, edges, 8, 12), 8 * 16, 8.0),
        (_relative_grid(graph, coarse, 8, 6), 8 * 16, 8.0),
        (_relative_grid(graph, colour_edges, 8, 12), 8 * 16, 4.5),
        (_count_grid(graph, counts, total, 24), 64, 0.6),
        (_count_grid(graph, counts, total, 12), 64 * 4, 1.2),
        (_count_grid(graph, counts, total, 8), 64 * 9, 2.0),
    ]


def _edges(graph: GraphBuilder, value: str, *, n_channels: int, n_angles: int) -> str:
    """Magnitudes [N, n_channels * n_angles, h, w] of a Gabor pair at each angle on each channel."""
    even, odd = _gabor_pairs(n_angles)
    margin = _GABOR_PX // 2
    pads = graph.constant((0, 0, margin, margin, 0, 0, margin, margin), np.int64)
    padded = graph.add("Pad", value, pads, mode="edge")
    squares = []
    for filters in (even, odd):
        weights = graph.constant(np.concatenate([filters] * n_channels)[:, None])
        response = graph.add("Conv", padded, weights, group=n_channels)
        squares.append(graph.add("Mul", response, response))
    return graph.add("Sqrt", graph.plus(graph.add("Add", *squares), 1e-6))


def _gabor_pairs(n_angles: int) -> tuple[_Array, _Array]:
    """Even and odd filters [n_angles, 9, 9]: wavelength 5 px, sum 0, sum of absolute values 1."""
    margin = _GABOR_PX // 2
    y, x = np.mgrid[-margin : margin + 1, -margin : margin + 1].astype(float)
    window = np.exp(-(x * x + y * y) / 8)
    pair = []
    for phase in (0.0, math.pi / 2):
        filters = []
        for i in range(n_angles):
            along = x * math.cos(math.pi * i / n_angles) + y * math.sin(math.pi * i / n_angles)
            wave = window * np.cos(2 * math.pi * along / 5 + phase)
            wave -= window * wave.sum() / window.sum()
            filters.append(wave / np.abs(wave).sum())
        pair.append(np.stack(filters))
    return pair[0], pair[1]


def _relative_grid(graph: GraphBuilder, maps: str, n_maps: int, cell_px: int) -> str:
    """Means over cells relative to the mean of the image, so that contrast drops out; rooted."""
    mean = graph.add("GlobalAveragePool", maps)
    mean = graph.add("Conv", mean, graph.constant(np.full((1, n_maps, 1, 1), 1 / n_maps)))
    relative = graph.add("Div", graph.pool(maps, cell_px), graph.plus(mean, 1e-3))
    return graph.add("Sqrt", graph.plus(relative, 0.02))


def _colour_counts(graph: GraphBuilder, pixels: str, axes: _Array) -> tuple[str, str]:
    """Soft counts [N,64,24,24] around the prototypes, where the image differs from its border; its mean."""
    prototypes = np.array(list(itertools.product(*_PROTOTYPE_AXES)))
    spread = _COLOUR_SPREAD**2
    # exp(-|o-p|^2 / 2s^2) normalised over p: |o|^2 cancels, the rest is linear in o.
    weights = graph.constant((prototypes / spread @ axes[:, :, 0, 0])[:, :, None, None])
    bias = graph.constant(-(prototypes**2).sum(1) / (2 * spread))
    shares = graph.add("Softmax", graph.add("Conv", pixels, weights, bias), axis=1)
    border = graph.add("Conv", pixels, graph.constant(_border_mean()), group=3)
    difference = graph.add("Sub", pixels, border)
    squared = graph.add("Mul", difference, difference)
    exponent = graph.add("Conv", squared, graph.constant(np.full((1, 3, 1, 1), -0.5 / _BORDER_SPREAD**2)))
    differs = graph.add("Sub", graph.constant(1.0), graph.add("Exp", exponent))
    return graph.add("Mul", shares, differs), graph.plus(graph.add("GlobalAveragePool", differs), 1e-4)


def _border_mean() -> _Array:
    """A filter [3,1,24,24] that averages the upper, left and right edge; the lower one shows the floor."""
    mask = np.zeros((24, 24))
    mask[:2] = mask[:, :2] = mask[:, -2:] = 1
    mask[-2:] = 0
    return np.broadcast_to(mask / mask.sum(), (3, 1, 24, 24))


def _count_grid(graph: GraphBuilder, counts: str, total: str, cell_px: int) -> str:
    """Shares of the counted area a cell and prototype, rooted (Hellinger), so that size drops out."""
    share = graph.add("Div", graph.pool(counts, cell_px), total)
    return graph.add("Sqrt", graph.plus(share, 1e-3))


def _project(graph: GraphBuilder, blocks: Sequence[tuple[str, int, float]], centre: Sequence[float]) -> str:
    """The blocks side by side, each weighted, times random signs [128, K], minus the centre: [N,128]."""
    column = graph.constant((0, -1, 1), np.int64)
    columns = [graph.add("Reshape", name, column) for name, _, _ in blocks]
    features = graph.add("Concat", *columns, axis=1)
    n_features = sum(size for _, size, _ in blocks)
    signs = np.where(np.random.default_rng(_SEED).random((DIM, n_features)) < 0.5, -1, 1)
    weights = np.concatenate([np.full(size, 1 / spread) for _, size, spread in blocks]) / math.sqrt(DIM)
    # Signs as int8 keep the file small; onnxruntime folds cast and product into one matrix when it loads.
    matrix = graph.add("Cast", graph.constant(signs, np.int8), to=TensorProto.FLOAT)
    matrix = graph.add("Mul", matrix, graph.constant(weights))
    product = graph.add("MatMul", matrix, features)
    flat = graph.add("Reshape", product, graph.constant((0, -1), np.int64))
    return graph.add("Sub", flat, graph.constant(centre))


def _serialised(graph: GraphBuilder) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, SIZE_PX, SIZE_PX])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])
    body = helper.make_graph(graph.nodes, NAME, [image], [embedding], graph.constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="bitsieve")
    helper.set_model_props(model, to_metadata(_card(), _preprocess()))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _card() -> ModelCard:
    return ModelCard(
        name=NAME,
        version=VERSION,
        dim=DIM,
        normalised=True,
        license="Apache-2.0",
        output="embedding",
        train_data="none: fixed filters; the centre was measured on the generated demo catalog",
    )


def _preprocess() -> Preprocess:
    return Preprocess(
        size=(SIZE_PX, SIZE_PX),
        resize="squash",
        crop="none",
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        dtype="uint8",
    )
