"""A model file as bitsieve uses it: the graph, the card and a name for what the two compute together.

1. Read the graph as data (``graph``), the card from its metadata (``card``).
2. Check that they agree: one image input of the card's layout, dtype and size, one output [N, dim].
3. Name it: ``model_id`` is the digest of everything that decides a vector, and of nothing else. Another mean,
   another output or other weights give another id; another name, licence, producer or text does not.
"""

import shlex
from dataclasses import asdict
from pathlib import PurePath

import onnx

from pipeline.errors import ModelError
from pipeline.fingerprint import digest, sha256_hex
from pipeline.model.card import MODEL_KEY, PREPROCESS_KEY, ModelCard, card_from_metadata, to_metadata
from pipeline.model.described import Model, Shape, show_shape
from pipeline.model.graph import (
    GraphFacts,
    TensorFacts,
    describe,
    graph_digest,
    inferred_output_dim,
    parse,
    with_metadata,
)
from pipeline.values import Preprocess


def read_model(data: bytes, where: str) -> Model:
    """The model in ``data``; ``where`` names the file in errors. Executes nothing.

    Raises:
        ModelError: if it is no ONNX model that runs here, or does not say how it wants its input: then
            ``fix`` is the command that adds what is missing.
    """
    proto = parse(data, where)
    facts = describe(proto)
    if not facts.metadata.keys() & {PREPROCESS_KEY, MODEL_KEY}:
        raise ModelError(
            f"the model {where} does not say how it wants its input ({_signature(facts)})",
            wrap_command(facts, where),
        )
    card, preprocess = card_from_metadata(facts.metadata, where)
    return _checked(proto, facts, card, preprocess, where)


def wrap_model(data: bytes, card: ModelCard, preprocess: Preprocess, output: str | None = None) -> bytes:
    """The ONNX file ``data`` with the two metadata keys set; the graph keeps all of its outputs.

    ``output`` replaces the card's; of several outputs one must be named by one of the two. The same arguments
    give the same bytes.

    Raises:
        ModelError: if the graph cannot be run by this card.
    """
    proto = parse(data, card.name)
    facts = describe(proto)
    chosen = choose_output(facts, output or card.output, card.name)
    source_sha256 = card.source_sha256 or sha256_hex(data)
    final = card.model_copy(update={"output": chosen.name, "source_sha256": source_sha256})
    _checked(proto, facts, final, preprocess, card.name)
    return with_metadata(proto, to_metadata(final, preprocess))


def inspect_graph(data: bytes, where: str) -> GraphFacts:
    """What any ONNX file takes and gives, wrapped or not.

    Raises:
        ModelError: if it is no ONNX model that runs here.
    """
    return describe(parse(data, where))


def output_dim(data: bytes, output: str, where: str) -> int | None:
    """The length of the vectors of ``output`` as far as it can be known without running; None if not.

    Raises:
        ModelError: if it is no ONNX model that runs here.
    """
    return inferred_output_dim(parse(data, where), output)


def choose_output(facts: GraphFacts, output: str | None, where: str) -> TensorFacts:
    """The output called ``output``, or the only one.

    Raises:
        ModelError: if there are several and none is named, or none of that name; both name what there is.
    """
    names = ", ".join(tensor.name for tensor in facts.outputs)
    if output is None:
        if len(facts.outputs) == 1:
            return facts.outputs[0]
        raise ModelError(f"{where} has several outputs: {names}", "name the one to use: --output NAME")
    for tensor in facts.outputs:
        if tensor.name == output:
            return tensor
    raise ModelError(f"{where} has no output {output!r}; it has: {names}", "name one of these: --output NAME")


def image_input(facts: GraphFacts, where: str) -> TensorFacts:
    """The one input of the graph, of rank 4.

    Raises:
        ModelError: for no input, several, or another rank.
    """
    if len(facts.inputs) != 1:
        names = ", ".join(tensor.name for tensor in facts.inputs) or "none"
        raise ModelError(
            f"{where} must take one input, an image batch; it takes {len(facts.inputs)}: {names}"
        )
    tensor = facts.inputs[0]
    if tensor.shape is None or len(tensor.shape) != 4:
        raise ModelError(f"{where}: input {tensor.name!r} must have 4 axes, got {show_shape(tensor.shape)}")
    return tensor


def wrap_command(facts: GraphFacts, where: str) -> str:
    """The ``bitsieve model wrap`` line for a bare model, with all that the file shows filled in."""
    stem = PurePath(where).name.removesuffix(".onnx") or "model"
    words = ["bitsieve", "model", "wrap", where, "-o", f"{stem}.wrapped.onnx", "--name", stem]
    size = _stated_size(facts)
    parts = [
        shlex.join(words),
        f"--size {size or 'S'}",
        "--resize shortest --scale X --mean R,G,B --std R,G,B",
    ]
    if len(facts.outputs) > 1:
        parts.append("--output " + "|".join(tensor.name for tensor in facts.outputs))
    return " ".join([*parts, "--license L"])


def _signature(facts: GraphFacts) -> str:
    def listed(tensors: tuple[TensorFacts, ...]) -> str:
        return ", ".join(f"{tensor.name} {tensor.dtype} {show_shape(tensor.shape)}" for tensor in tensors)

    return f"{listed(facts.inputs) or 'nothing'} -> {listed(facts.outputs)}"


def _stated_size(facts: GraphFacts) -> str:
    shape = facts.inputs[0].shape if facts.inputs else None
    if shape is None or len(shape) != 4:
        return ""
    height, width = (shape[1], shape[2]) if shape[3] == 3 else (shape[2], shape[3])
    if height is None or width is None:
        return ""
    return str(height) if height == width else f"{height}x{width}"


def _checked(
    proto: onnx.ModelProto, facts: GraphFacts, card: ModelCard, preprocess: Preprocess, where: str
) -> Model:
    tensor = image_input(facts, where)
    _check_input(tensor, preprocess, where)
    output = choose_output(facts, card.output, where)
    _check_output(output, card, where)
    shape = tensor.shape or ()  # of rank 4, or image_input had refused it
    return Model(
        card=card,
        preprocess=preprocess,
        model_id=_model_id(proto, card, preprocess),
        input_name=tensor.name,
        input_dtype=tensor.dtype,
        input_shape=shape,
        static_batch=shape[0],
        output_name=output.name,
    )


def _model_id(proto: onnx.ModelProto, card: ModelCard, preprocess: Preprocess) -> str:
    return digest(
        {
            "graph": graph_digest(proto),
            "preprocess": asdict(preprocess),
            "output": card.output,
            "normalised": card.normalised,
        }
    )


def _check_input(tensor: TensorFacts, preprocess: Preprocess, where: str) -> None:
    height, width = preprocess.size
    wanted: Shape = (None, 3, height, width) if preprocess.layout == "NCHW" else (None, height, width, 3)
    stated = tensor.shape or ()
    if any(have not in (None, want) for have, want in zip(stated[1:], wanted[1:], strict=True)):
        raise ModelError(
            f"{where}: the card says {preprocess.layout} {show_shape(wanted)}, "
            f"input {tensor.name!r} is {show_shape(stated)}"
        )
    if tensor.dtype != preprocess.dtype:
        raise ModelError(
            f"{where}: the card says {preprocess.dtype}, input {tensor.name!r} is {tensor.dtype}; "
            "float32, float16 and uint8 inputs can be run"
        )


def _check_output(tensor: TensorFacts, card: ModelCard, where: str) -> None:
    if tensor.dtype not in ("float32", "float16"):
        raise ModelError(f"{where}: output {tensor.name!r} must be float32 or float16, it is {tensor.dtype}")
    if tensor.shape is None:
        return  # not stated: the probe at load finds out
    if len(tensor.shape) != 2 or tensor.shape[1] not in (None, card.dim):
        raise ModelError(
            f"{where}: the card says output [N, {card.dim}], {tensor.name!r} is {show_shape(tensor.shape)}"
        )
