"""SIFT and a bag of visual words as an ONNX graph: the classical baseline, by the same door as any model.

``image`` uint8 RGB [N,3,S,S] becomes ``embedding`` float32 [N,D]:

1. Luma, smoothed to the scale of the descriptors (standard deviation 1.6 and 3.2 px); gradients.
2. On a grid, a SIFT descriptor each: 4 x 4 cells of 3 standard deviations, 8 orientations, trilinear
   weights, a Gaussian window of half the descriptor's width, length 1, cut at .2, length 1 again
   (Lowe 2004, section 6). Upright and on a dense grid, not at keypoints (Bosch, Zisserman and Munoz 2006);
   flat places have none. Then the root of the L1-normalised values (Arandjelovic and Zisserman 2012).
3. The nearest visual word of each, and the roots of their counts (Sivic and Zisserman 2003).
4. The leading singular directions of such counts, fitted on a sample (``sift_fit``).

Being a graph it needs no OpenCV to run, goes where every model goes, and its id is known by its weights.
Legend: N images, P places, K words, D dimensions, S side in pixels.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pipeline.model.card import ModelCard, to_metadata
from pipeline.model.graph_builder import GraphBuilder
from pipeline.values import Preprocess

SIGMAS_PX = (1.6, 3.2)
STRIDES_PX = (4, 8)
CELLS = 4
ORIENTATIONS = 8
DESCRIPTOR = CELLS * CELLS * ORIENTATIONS
_CELL_SIGMAS = 3.0
_CAMERA_SIGMA_PX = 0.5  # blur that every picture is taken to have already (Lowe 2004, section 3.3)
_LEAST_GRADIENT = 3.0  # grey levels a pixel; below lies noise of flat places
_CUT = 0.2
_SAMPLED = 65_536 // DESCRIPTOR
_OPSET = 20
_IR_VERSION = 10
_LUMA = (0.299, 0.587, 0.114)

_Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def build_descriptor_model(size_px: int) -> bytes:
    """A model whose vector is the rooted descriptors of ``sampled_places``; zeros where a place is flat."""
    graph = GraphBuilder()
    chosen = graph.constant(sampled_places(size_px), np.int64)
    some = graph.add("Gather", _descriptors(graph, size_px), chosen, axis=1)
    _name_output(graph, graph.add("Reshape", some, graph.constant((0, -1), np.int64)))
    return _serialised(graph, size_px, len(sampled_places(size_px)) * DESCRIPTOR, "descriptors")


def build_count_model(size_px: int, words_KD: Floats) -> bytes:
    """A model whose vector is the root of the counts of the visual words ``words_KD``."""
    graph = GraphBuilder()
    _name_output(graph, _rooted_counts(graph, size_px, words_KD))
    return _serialised(graph, size_px, len(words_KD), "counts")


def build_sift_model(size_px: int, words_KD: Floats, projection_KD: Floats, trained_on: str) -> bytes:
    """The embedding model: counts of ``words_KD`` along the directions ``projection_KD``."""
    graph = GraphBuilder()
    counts = _rooted_counts(graph, size_px, words_KD)
    _name_output(graph, graph.add("MatMul", counts, graph.constant(projection_KD)))
    return _serialised(graph, size_px, projection_KD.shape[1], trained_on)


def places(size_px: int) -> int:
    """Descriptors of one image, over all scales."""
    return sum(
        _steps(size_px, sigma, stride) ** 2 for sigma, stride in zip(SIGMAS_PX, STRIDES_PX, strict=True)
    )


def sampled_places(size_px: int) -> npt.NDArray[np.int64]:
    """Of the places of an image at most 512, evenly spread: a vector is no longer than that allows."""
    n_places = places(size_px)
    return np.arange(n_places)[:: -(-n_places // _SAMPLED)].astype(np.int64)


def least_size_px() -> int:
    """The smallest image with a descriptor of every scale."""
    return max(2 * _radius_px(sigma) + 1 for sigma in SIGMAS_PX)


def _descriptors(graph: GraphBuilder, size_px: int) -> str:
    """Rooted descriptors [N, P, 128]."""
    pixels = graph.add("Cast", "image", to=TensorProto.FLOAT)
    luma = graph.add("Conv", pixels, graph.constant(np.array(_LUMA)[None, :, None, None]))
    parts = []
    for sigma, stride in zip(SIGMAS_PX, STRIDES_PX, strict=True):
        smooth = _smoothed(graph, luma, math.sqrt(sigma**2 - _CAMERA_SIGMA_PX**2))
        oriented = _oriented(graph, smooth)
        weights = graph.constant(_windows(sigma))
        cells = graph.add("Conv", oriented, weights, group=ORIENTATIONS, strides=[stride, stride])
        shape = graph.constant((0, DESCRIPTOR, _steps(size_px, sigma, stride) ** 2), np.int64)
        parts.append(graph.add("Transpose", graph.add("Reshape", cells, shape), perm=[0, 2, 1]))
    cells = graph.add("Concat", *parts, axis=1)
    length = graph.add("ReduceL2", cells, graph.constant((2,), np.int64), keepdims=1)
    is_textured = graph.add(
        "Cast", graph.add("Greater", length, graph.constant(_LEAST_GRADIENT)), to=TensorProto.FLOAT
    )
    unit = graph.add("Div", cells, graph.plus(length, 1e-6))
    cut = graph.add("Min", unit, graph.constant(_CUT))
    total = graph.add("ReduceSum", cut, graph.constant((2,), np.int64), keepdims=1)
    rooted = graph.add("Sqrt", graph.add("Div", cut, graph.plus(total, 1e-6)))
    return graph.add("Mul", rooted, is_textured)


def _smoothed(graph: GraphBuilder, value: str, sigma_px: float) -> str:
    margin = math.ceil(4 * sigma_px)
    offsets = np.arange(-margin, margin + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma_px**2))
    kernel /= kernel.sum()
    padded = _padded(graph, value, margin)
    across = graph.add("Conv", padded, graph.constant(kernel[None, None, None, :]))
    return graph.add("Conv", across, graph.constant(kernel[None, None, :, None]))


def _oriented(graph: GraphBuilder, smooth: str) -> str:
    """Gradient lengths [N, 8, S, S], each shared out between the two nearest of eight directions."""
    padded = _padded(graph, smooth, 1)
    right = graph.constant(np.array([[0, 0, 0], [-1, 0, 1], [0, 0, 0]])[None, None])
    up = graph.constant(np.array([[0, 1, 0], [0, 0, 0], [0, -1, 0]])[None, None])
    dx, dy = graph.add("Conv", padded, right), graph.add("Conv", padded, up)
    length = graph.add("Sqrt", graph.add("Add", graph.add("Mul", dx, dx), graph.add("Mul", dy, dy)))
    zero, turn = graph.constant(0.0), graph.constant(float(ORIENTATIONS))
    is_upright = graph.add("Equal", dx, zero)
    slope = graph.add("Div", dy, graph.add("Where", is_upright, graph.constant(1e-6), dx))
    eighths = graph.add("Mul", graph.add("Atan", slope), graph.constant(ORIENTATIONS / (2 * math.pi)))
    turned = graph.plus(eighths, ORIENTATIONS / 2)
    eighths = graph.add("Where", graph.add("Less", dx, zero), turned, eighths)
    bins = graph.constant(np.arange(ORIENTATIONS)[None, :, None, None])
    apart = graph.add("Abs", graph.add("Sub", eighths, bins))
    apart = graph.add("Min", apart, graph.add("Abs", graph.add("Sub", turn, apart)))
    share = graph.add("Max", graph.add("Sub", graph.constant(1.0), apart), zero)
    return graph.add("Mul", share, length)


def _windows(sigma_px: float) -> _Array:
    """Weights [128, 1, side, side] that gather one direction's gradients into the 16 cells around a place."""
    cell_px, margin = _CELL_SIGMAS * sigma_px, _radius_px(sigma_px)
    offset = np.arange(-margin, margin + 1) / cell_px
    centre = np.arange(CELLS) - (CELLS - 1) / 2
    share_CX = np.maximum(0, 1 - np.abs(offset - centre[:, None]))
    share_CX *= np.exp(-(offset**2) / (2 * (CELLS / 2) ** 2))
    cells_YX = share_CX[:, None, :, None] * share_CX[None, :, None, :]
    cells_YX = cells_YX.reshape(CELLS * CELLS, 1, len(offset), len(offset))
    cells_YX /= cells_YX.sum(axis=(2, 3)).max()
    return np.concatenate([cells_YX] * ORIENTATIONS)


def _rooted_counts(graph: GraphBuilder, size_px: int, words_KD: Floats) -> str:
    """Roots of the counts of words [N, K]; a flat place counts for none."""
    descriptors = _descriptors(graph, size_px)
    # the nearest word has the largest x.w - |w|^2 / 2
    products = graph.add("MatMul", descriptors, graph.constant(words_KD.T))
    nearness = graph.add("Sub", products, graph.constant((words_KD.astype(np.float64) ** 2).sum(axis=1) / 2))
    nearest = graph.add("ArgMax", nearness, axis=2, keepdims=0)
    number, values = graph.constant(len(words_KD), np.int64), graph.constant((0.0, 1.0))
    votes = graph.add("OneHot", nearest, number, values, axis=-1)
    present = graph.add("ReduceMax", descriptors, graph.constant((2,), np.int64), keepdims=1)
    is_there = graph.add("Cast", graph.add("Greater", present, graph.constant(0.0)), to=TensorProto.FLOAT)
    counted = graph.add("Mul", votes, is_there)
    return graph.add("Sqrt", graph.add("ReduceSum", counted, graph.constant((1,), np.int64), keepdims=0))


def _padded(graph: GraphBuilder, value: str, margin: int) -> str:
    pads = graph.constant((0, 0, margin, margin, 0, 0, margin, margin), np.int64)
    return graph.add("Pad", value, pads, mode="edge")


def _radius_px(sigma_px: float) -> int:
    """Half the side of what one descriptor sees."""
    return math.ceil(_CELL_SIGMAS * sigma_px * (CELLS + 1) / 2)


def _steps(size_px: int, sigma_px: float, stride_px: int) -> int:
    return (size_px - 2 * _radius_px(sigma_px) - 1) // stride_px + 1


def _name_output(graph: GraphBuilder, value: str) -> None:
    graph.nodes.append(helper.make_node("Identity", [value], ["embedding"], name="embedding"))


def _serialised(graph: GraphBuilder, size_px: int, dim: int, trained_on: str) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, size_px, size_px])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])
    body = helper.make_graph(graph.nodes, "sift", [image], [embedding], graph.constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="bitsieve")
    card = ModelCard(
        name="sift-words",
        dim=dim,
        normalised=False,
        license="Apache-2.0",
        output="embedding",
        train_data=trained_on,
    )
    preprocess = Preprocess(
        size=(size_px, size_px),
        resize="shortest",
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        dtype="uint8",
    )
    helper.set_model_props(model, to_metadata(card, preprocess))
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
