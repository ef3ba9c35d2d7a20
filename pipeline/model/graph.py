"""Reads an ONNX file as data, executing nothing, and refuses what no model we run may contain.

Random bytes, other formats, cut files, tensors kept in other files, operators from custom libraries: each is
a ``ModelError`` in words. What is left is described by ``GraphFacts``; shapes have None where they are free.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from pipeline.errors import ModelError
from pipeline.fingerprint import sha256_hex
from pipeline.model.described import Shape

_KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})  # what onnxruntime itself brings
_MAX_BYTES = 2**31 - 1  # protobuf's own limit on one message
_TEXTS = ("metadata_props", "producer_name", "producer_version", "domain", "model_version", "doc_string")
_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """A graph input or output: ``dtype`` as numpy spells it or as ONNX does; ``shape`` None if not stated."""

    name: str
    dtype: str
    shape: Shape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a graph takes and gives, in its order, and what its metadata say."""

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    metadata: dict[str, str]
    producer: str
    opset: int


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """The model in ``data``, checked to be self-contained and made of known operators.

    Raises:
        ModelError: if it is not ONNX, damaged, or needs anything but itself.
    """
    proto = _decode(data, where)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as exc:
        reason = str(exc).strip().splitlines()[0][:300]
        raise ModelError(f"{where} is not a valid ONNX model: {reason}") from exc
    return proto


def describe(proto: onnx.ModelProto) -> GraphFacts:
    """What the graph takes (initialisers left out) and gives."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return GraphFacts(
        inputs=tuple(_tensor(value) for value in proto.graph.input if value.name not in constants),
        outputs=tuple(_tensor(value) for value in proto.graph.output),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        producer=" ".join(filter(None, (proto.producer_name, proto.producer_version))),
        opset=max(
            (entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0
        ),
    )


def inferred_output_dim(proto: onnx.ModelProto, output: str) -> int | None:
    """The last dimension of ``output`` stated or found by shape inference; None if free."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        inferred = proto
    for value in inferred.graph.output:
        shape = _tensor(value).shape
        if value.name == output and shape:
            return shape[-1]
    return None


def graph_digest(proto: onnx.ModelProto) -> str:
    """The sha256 of what computes: graph, weights, operator versions; no names, texts, metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for field in (
        "metadata_props",
        "producer_name",
        "producer_version",
        "domain",
        "model_version",
        "doc_string",
    ):
        bare.ClearField(field)
    bare.graph.ClearField("name")
    for graph in _graphs(bare.graph):
        _clear_texts(graph)
    for function in bare.functions:
        _clear_texts(function)
    try:
        return sha256_hex(bare.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as exc:
        raise ModelError("the model is larger than 2 GiB, which one ONNX file cannot hold") from exc


def with_metadata(proto: onnx.ModelProto, metadata: dict[str, str]) -> bytes:
    """The model with these metadata set, others kept, as bytes; equal input gives equal bytes."""
    merged = {entry.key: entry.value for entry in proto.metadata_props} | metadata
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    onnx.helper.set_model_props(changed, dict(sorted(merged.items())))
    return bytes(changed.SerializeToString(deterministic=True))


def _decode(data: bytes, where: str) -> onnx.ModelProto:
    if len(data) > _MAX_BYTES:
        raise ModelError(f"{where} has {len(data)} bytes; one ONNX file holds at most {_MAX_BYTES}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError) as exc:
        raise ModelError(f"{where} is not an ONNX model, or is cut off: {len(data)} bytes") from exc
    if not proto.ir_version or not proto.graph.output:
        raise ModelError(f"{where} is not an ONNX model: {len(data)} bytes without a graph")
    _refuse_external_data(proto, where)
    _refuse_custom_operators(proto, where)
    return proto


def _refuse_external_data(proto: onnx.ModelProto, where: str) -> None:
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(
                f"{where} keeps tensor {tensor.name!r} in another file; a model must be one file",
                "save it with its weights inside: onnx.save(onnx.load(SRC), OUT)",
            )


def _refuse_custom_operators(proto: onnx.ModelProto, where: str) -> None:
    local = {function.domain for function in proto.functions}
    for node in _nodes(proto):
        if node.domain not in _KNOWN_DOMAINS and node.domain not in local:
            raise ModelError(
                f"{where} uses {node.op_type!r} of domain {node.domain!r}; custom libraries are never loaded",
                "export the model with standard ONNX operators only",
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _subgraphs(node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from _graphs(attribute.g)
        for graph in attribute.graphs:
            yield from _graphs(graph)


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in _graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        for node in function.node:
            yield node
            for graph in _subgraphs(node):
                yield from graph.node


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [*_graphs(proto.graph)]
    graphs += [graph for function in proto.functions for node in function.node for graph in _subgraphs(node)]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(proto):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _clear_texts(holder: onnx.GraphProto | onnx.FunctionProto) -> None:
    holder.ClearField("doc_string")
    holder.ClearField("metadata_props")
    for node in holder.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
    if isinstance(holder, onnx.GraphProto):
        for value in (*holder.input, *holder.output, *holder.value_info):
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
        for tensor in holder.initializer:
            tensor.ClearField("doc_string")
            tensor.ClearField("metadata_props")


def _tensor(value: onnx.ValueInfoProto) -> TensorFacts:
    kind = value.type.tensor_type
    code = kind.elem_type
    dtype = (
        _DTYPES.get(code) or onnx.TensorProto.DataType.Name(code) if code else value.type.WhichOneof("value")
    )
    shape = None
    if kind.HasField("shape"):
        shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return TensorFacts(name=value.name, dtype=dtype or "unknown", shape=shape)
