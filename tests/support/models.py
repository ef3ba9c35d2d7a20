"""Tiny ONNX models whose answers can be worked out by hand.

The plain one pools each colour over the picture: RGB [N, 3, 4, 4] of 0..255 -> [N, 3] means.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.model.card import ModelCard
from pipeline.model.file import wrap_model
from pipeline.values import Preprocess

SIDE = 4
PLAIN = Preprocess(size=(SIDE, SIDE), resize="squash", scale=1, mean=(0, 0, 0), std=(1, 1, 1))

Dim = int | str | None


def card(
    *, dim: int = 3, normalised: bool = False, output: str = "embedding", name: str = "pool"
) -> ModelCard:
    return ModelCard(name=name, dim=dim, normalised=normalised, license="CC0-1.0", output=output)


def graph_bytes(
    nodes: list[onnx.NodeProto],
    *,
    input_shape: tuple[Dim, ...] = ("N", 3, SIDE, SIDE),
    output_shape: tuple[Dim, ...] | None = ("N", 3),
    outputs: tuple[str, ...] = ("embedding",),
    input_type: int = TensorProto.FLOAT,
    weights: dict[str, np.ndarray] | None = None,
    overridable: bool = False,
) -> bytes:
    """A model of these nodes from ``image``; ``overridable`` weights are inputs too, so never packed."""
    inputs = [helper.make_tensor_value_info("image", input_type, input_shape)]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    if overridable:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape) for name in outputs]
    graph = helper.make_graph(nodes, "tiny", inputs, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def pool_nodes(source: str = "image", target: str = "embedding") -> list[onnx.NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], [target], axis=1),
    ]


def bare_pool(**options: object) -> bytes:
    """The plain model without metadata."""
    return graph_bytes(pool_nodes(), **options)  # type: ignore[arg-type]


def pool_model(*, normalised: bool = False) -> bytes:
    """The plain model, wrapped; it does not normalise, whatever its card claims."""
    return wrap_model(bare_pool(), card(normalised=normalised), PLAIN)


def fixed_batch_model(batch: int) -> bytes:
    bare = bare_pool(input_shape=(batch, 3, SIDE, SIDE), output_shape=(batch, 3))
    return wrap_model(bare, card(), PLAIN)


def hungry_model() -> bytes:
    """The plain model by way of 12.6 MB for each image."""
    nodes = [
        helper.make_node("Tile", ["image", "repeats"], ["large"]),
        helper.make_node("ReduceMean", ["large", "axes"], ["embedding"], keepdims=0),
    ]
    weights = {"repeats": np.array([1, 1, 256, 256]), "axes": np.array([2, 3])}
    return wrap_model(graph_bytes(nodes, weights=weights), card(), PLAIN)


def byte_input_model() -> bytes:
    """Takes uint8 [N, 4, 4, 3] and pools it."""
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        *pool_nodes("planes"),
    ]
    bare = graph_bytes(nodes, input_shape=("N", SIDE, SIDE, 3), input_type=TensorProto.UINT8)
    spec = Preprocess(
        size=(SIDE, SIDE),
        resize="squash",
        scale=1,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        layout="NHWC",
        dtype="uint8",
    )
    return wrap_model(bare, card(), spec)


def two_output_bare() -> bytes:
    nodes = [*pool_nodes(), helper.make_node("Neg", ["embedding"], ["logits"])]
    return graph_bytes(nodes, outputs=("embedding", "logits"))


def inverse_model() -> bytes:
    """1 / (mean - 7): infinity for a picture of all sevens."""
    nodes = [
        *pool_nodes(target="means"),
        helper.make_node("Sub", ["means", "seven"], ["shifted"]),
        helper.make_node("Reciprocal", ["shifted"], ["embedding"]),
    ]
    bare = graph_bytes(nodes, weights={"seven": np.array([7], dtype=np.float32)})
    return wrap_model(bare, card(), PLAIN)


def nan_model() -> bytes:
    """0 / 0 for a picture of zeros: cannot be used at all."""
    nodes = [*pool_nodes(target="means"), helper.make_node("Div", ["means", "means"], ["embedding"])]
    return wrap_model(graph_bytes(nodes), card(), PLAIN)


def projection_model(
    kind: str, *, side: int = 12, dim: int = 37, overridable: bool = False, batch: int | None = None
) -> bytes:
    """A product over the whole picture: ``Gemm``, ``GemmT`` (transposed weights), ``MatMul``, ``MLP``."""
    rng = np.random.default_rng(3)
    width = 3 * side * side
    first = rng.normal(size=(width, dim)).astype(np.float32)
    weights = {"w": first, "b": rng.normal(size=dim).astype(np.float32)}
    nodes = [helper.make_node("Flatten", ["image"], ["flat"], axis=1)]
    if kind == "Gemm":
        nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["embedding"]))
    elif kind == "GemmT":
        weights["w"] = np.ascontiguousarray(first.T)
        nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["embedding"], transB=1))
    else:
        nodes.append(helper.make_node("MatMul", ["flat", "w"], ["product"]))
        nodes.append(helper.make_node("Add", ["product", "b"], ["sum" if kind == "MLP" else "embedding"]))
    if kind == "MLP":
        weights["w2"] = rng.normal(size=(dim, dim)).astype(np.float32)
        nodes.append(helper.make_node("Gelu", ["sum"], ["bent"]))
        nodes.append(helper.make_node("MatMul", ["bent", "w2"], ["embedding"]))
    bare = graph_bytes(
        nodes,
        input_shape=(batch or "N", 3, side, side),
        output_shape=(batch or "N", dim),
        weights=weights,
        overridable=overridable,
    )
    spec = Preprocess(size=(side, side), resize="squash", scale=1, mean=(0, 0, 0), std=(1, 1, 1))
    return wrap_model(bare, card(dim=dim), spec)
