"""Puts an ONNX graph together, node by node: what the models that bitsieve builds itself are made with."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper


class GraphBuilder:
    """Collects nodes and constants; each method returns the name of what it adds."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """One node with one output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Parts of a value along its second axis."""
        names = [f"split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        node = helper.make_node(
            "Split", [value, self.constant(sizes, np.int64)], names, name=names[0], axis=1
        )
        self.nodes.append(node)
        return names

    def constant(self, values: object, dtype: npt.DTypeLike = np.float32) -> str:
        """A constant; numbers are rounded to seven decimals."""
        name = f"constant_{len(self.constants)}"
        # Rounded, because cosines differ in the last bit from machine to machine and the model's id must not.
        array: npt.NDArray[np.generic] = np.round(np.asarray(values, np.float64), 7).astype(dtype)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def pool(self, value: str, side: int) -> str:
        """Means over squares of ``side``."""
        return self.add("AveragePool", value, kernel_shape=[side, side], strides=[side, side])

    def plus(self, value: str, number: float) -> str:
        """A value plus a number."""
        return self.add("Add", value, self.constant(number))
