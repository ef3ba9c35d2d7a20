"""The trial run in a child process: graphs that eat memory or never end are refused, not suffered."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from pipeline.errors import ModelError
from pipeline.model.file import read_model, wrap_model
from pipeline.model.probe import probe_in_child
from tests.support import models


def endless_model() -> bytes:
    """Adds one to the pooled colours 2^62 times."""
    row = ("N", 3)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["x", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, row),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, row),
        ],
    )
    nodes = [
        *models.pool_nodes(target="means"),
        helper.make_node("Loop", ["times", "yes", "means"], ["embedding"], body=body),
    ]
    weights = {"times": np.array(2**62), "yes": np.array(True), "one": np.ones(1, np.float32)}
    return wrap_model(models.graph_bytes(nodes, weights=weights), models.card(), models.PLAIN)


def greedy_model() -> bytes:
    """Asks for 256 GiB of zeros."""
    nodes = [
        *models.pool_nodes(target="means"),
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["means", "zero"], ["embedding"]),
    ]
    weights = {"many": np.array([2**36])}
    return wrap_model(models.graph_bytes(nodes, weights=weights), models.card(), models.PLAIN)


def test_probe_in_child_good_model_reports_what_it_gave() -> None:
    result = probe_in_child(models.pool_model(), "good")
    assert result.model_id == read_model(models.pool_model(), "good").model_id
    assert result.dim == 3
    assert result.norm > 1


def test_probe_in_child_false_claim_of_unit_length_is_refused() -> None:
    with pytest.raises(ModelError, match="length") as caught:
        probe_in_child(models.pool_model(normalised=True), "boastful")
    assert "--normalised" in caught.value.fix


def test_probe_in_child_endless_model_is_stopped() -> None:
    with pytest.raises(ModelError, match="did not finish"):
        probe_in_child(endless_model(), "endless", timeout_s=4)


def test_probe_in_child_greedy_model_is_refused() -> None:
    with pytest.raises(ModelError):
        probe_in_child(greedy_model(), "greedy")
