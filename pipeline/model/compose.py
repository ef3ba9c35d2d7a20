"""Puts a model file together from graphs: a trunk and a head as one, normalisation inside, half precision.

The trunk's own normalisation moves into the graph, so that the result takes uint8 pixels as they are and
nobody can get mean and std wrong. Half precision keeps what is delicate (powers, divisions, lengths) in
float32.
"""

from graphlib import TopologicalSorter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.model.file import read_model
from pipeline.model.graph import parse
from pipeline.values import Preprocess

_DELICATE = ("Resize", "ReduceL2", "LpNormalization", "Div", "Pow", "ReduceMean", "Sqrt", "ReduceSum")


def trunk_with_head(trunk: bytes, head: bytes) -> tuple[bytes, Preprocess]:
    """One graph from uint8 pixels to the head's output, and how it wants its images.

    Args:
        trunk: a model with a card whose output is the head's input.
        head: a graph with one input, float32 [N, F], and one output.

    Raises:
        ModelError: they do not fit together.
    """
    model = read_model(trunk, "the trunk")
    spec = model.preprocess
    first, second = parse(trunk, "the trunk"), parse(head, "the head")
    del first.metadata_props[:]
    opset = max(_opset(first), _opset(second))
    first, second = (onnx.version_converter.convert_version(proto, opset) for proto in (first, second))
    first.ir_version = second.ir_version = max(first.ir_version, second.ir_version)
    if model.input_dtype != "uint8":
        first = _taking_pixels(first, model.input_name, spec)
    first, second = onnx.compose.add_prefix(first, "trunk/"), onnx.compose.add_prefix(second, "head/")
    io_map = [(f"trunk/{model.output_name}", second.graph.input[0].name)]
    try:
        merged = onnx.compose.merge_models(first, second, io_map, outputs=[second.graph.output[0].name])
    except (ValueError, onnx.checker.ValidationError) as exc:
        raise ModelError(f"trunk and head do not fit together: {exc}") from exc
    return merged.SerializeToString(deterministic=True), _as_pixels(spec)


def in_half_precision(data: bytes) -> bytes:
    """The graph with its weights and most arithmetic in float16; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = parse(data, "the model")
    half = convert_float_to_float16(proto, keep_io_types=True, op_block_list=list(_DELICATE))
    _put_in_order(half.graph)
    return bytes(half.SerializeToString(deterministic=True))


def _put_in_order(graph: onnx.GraphProto) -> None:
    """Puts every node after those whose outputs it takes: the conversion adds its casts at the end."""
    maker = {output: number for number, node in enumerate(graph.node) for output in node.output}
    sorter = TopologicalSorter(
        {
            number: [maker[name] for name in node.input if name in maker]
            for number, node in enumerate(graph.node)
        }
    )
    ordered = [graph.node[number] for number in sorter.static_order()]
    del graph.node[:]
    graph.node.extend(ordered)


def _taking_pixels(proto: onnx.ModelProto, name: str, spec: Preprocess) -> onnx.ModelProto:
    """The graph with ``(value * scale - mean) / std`` in front, over uint8 pixels 0..255."""
    old = next(value for value in proto.graph.input if value.name == name)
    shape = [dim.dim_param or dim.dim_value for dim in old.type.tensor_type.shape.dim]
    factor_C, offset_C = spec.scale / np.array(spec.std), -np.array(spec.mean) / np.array(spec.std)
    if spec.channel_order == "BGR":
        factor_C, offset_C = factor_C[::-1], offset_C[::-1]
    sides = (1, 3, 1, 1) if spec.layout == "NCHW" else (1, 1, 1, 3)
    kind = old.type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    constants = [
        numpy_helper.from_array(values.reshape(sides).astype(dtype), f"{name}.{what}")
        for what, values in (("factor", factor_C), ("offset", offset_C))
    ]
    nodes = [
        helper.make_node("Cast", [f"{name}.pixels"], [f"{name}.cast"], to=kind),
        helper.make_node("Mul", [f"{name}.cast", f"{name}.factor"], [f"{name}.scaled"]),
        helper.make_node("Add", [f"{name}.scaled", f"{name}.offset"], [name]),
    ]
    proto.graph.input.remove(old)
    proto.graph.input.append(helper.make_tensor_value_info(f"{name}.pixels", TensorProto.UINT8, shape))
    proto.graph.initializer.extend(constants)
    rest = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *rest])
    return proto


def _as_pixels(spec: Preprocess) -> Preprocess:
    """The same pictures, handed over as uint8 values 0..255."""
    return Preprocess(
        size=spec.size,
        resize=spec.resize,
        resize_to=spec.resize_to,
        interpolation=spec.interpolation,
        antialias=spec.antialias,
        crop=spec.crop,
        crop_pct=spec.crop_pct,
        pad_value=spec.pad_value,
        exif_transpose=spec.exif_transpose,
        channel_order=spec.channel_order,
        scale=1.0,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        layout=spec.layout,
        dtype="uint8",
        draft=spec.draft,
        align=spec.align,
    )


def _opset(proto: onnx.ModelProto) -> int:
    return max(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
