"""Model files made to harm: missing operators, absurd shapes, loops in the graph: refused in words."""

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.model.card import to_metadata
from pipeline.model.file import read_model
from pipeline.model.session import EmbeddingSession
from tests.support import models

KERNEL = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
SIZES = numpy_helper.from_array(np.array([1 << 20] * 3), "w")
SELF = helper.make_function(
    "loc",
    "F",
    ["x"],
    ["y"],
    [helper.make_node("F", ["x"], ["y"], domain="loc")],
    [helper.make_opsetid("", 20), helper.make_opsetid("loc", 1)],
)


def wrapped(
    nodes: list[NodeProto],
    weight: TensorProto | None = None,
    *,
    opset: int = 20,
    function: onnx.FunctionProto | None = None,
) -> bytes:
    """A model with a card, whatever its graph: ``nodes`` make ``x`` of ``image`` and the weight ``w``."""
    graph = helper.make_graph(
        [*nodes, *models.pool_nodes("x")],
        "hostile",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, models.SIDE, models.SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
        [weight] if weight is not None else [],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("loc", 1)]
    model = helper.make_model(
        graph, opset_imports=imports, ir_version=9, functions=[function] if function is not None else []
    )
    helper.set_model_props(model, to_metadata(models.card(), models.PLAIN))
    return bytes(model.SerializeToString())


def add_weight(dims: list[int]) -> bytes:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
    return wrapped([helper.make_node("Add", ["image", "w"], ["x"])], weight)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wrapped([helper.make_node("NoSuchOp", ["image"], ["x"])]), "NoSuchOp"),
        (add_weight([1 << 40]), "4398046511104 bytes required"),
        (add_weight([1 << 62, 4]), "overflow"),
        (add_weight([-5]), "Negative dimension"),
        (wrapped([helper.make_node("Add", ["image", "ghost"], ["x"])]), "ghost"),
        (
            wrapped([helper.make_node("Add", ["image", "x"], ["a"]), helper.make_node("Neg", ["a"], ["x"])]),
            "sorted",
        ),
        (wrapped([helper.make_node("F", ["image"], ["x"], domain="loc")], function=SELF), "Cycle"),
    ],
)
def test_read_model_hostile_graph_is_refused_before_anything_runs(data: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_model(data, "evil")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wrapped([helper.make_node("Identity", ["image"], ["x"])], opset=999), "does not load"),
        (wrapped([helper.make_node("Conv", ["image", "w"], ["x"], strides=[0, 0])], KERNEL), "does not load"),
        (wrapped([helper.make_node("Conv", ["image", "w"], ["x"], group=0)], KERNEL), "cannot run"),
        (
            wrapped([helper.make_node("Conv", ["image", "w"], ["x"], pads=[1 << 40] * 4)], KERNEL),
            "cannot run",
        ),
        (
            wrapped(
                [
                    helper.make_node("ConstantOfShape", ["w"], ["c"]),
                    helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0),
                    helper.make_node("Add", ["image", "m"], ["x"]),
                ],
                SIZES,
            ),
            "cannot run",
        ),
    ],
)
def test_session_hostile_graph_ends_as_an_error_of_the_model(data: bytes, words: str) -> None:
    read_model(data, "evil")
    with pytest.raises(ModelError, match=words):
        EmbeddingSession(data, where="evil")
