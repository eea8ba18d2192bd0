"""INT8 for TensorRT: symmetric int8, float biases, and of each residual Add only the skip input
quantized: with both it cannot fuse convolution and Add.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from trimlab.quantize import onnx_files
from trimlab.quantize.calibration import Ranges


def symmetric_model(proto: ModelProto, ranges: Ranges, kept: Sequence[str] = ()) -> ModelProto:
    """Return `proto` with symmetric int8 inputs of weighted layers and of Adds' skips; biases stay float.

    So does the classifier: it is a thousandth of the work, and not every host has an INT8 matrix product of its shape
    (TensorRT 8 takes some from cuBLAS). So do the nodes named `kept`.
    """
    editor = _Editor(proto, ranges)
    logits = {output.name for output in proto.graph.output}
    for node in list(proto.graph.node):
        rounded = node.name not in kept
        if rounded and onnx_files.has_weights(node, editor.weights) and not logits & set(node.output):
            node.input[0] = editor.quantized(node.input[0])
            node.input[1] = editor.quantized_weight(node)
        elif rounded and node.op_type == "Add" and ranges.keys() >= set(node.input):
            skip = editor.skip_input(node)
            node.input[skip] = editor.quantized(node.input[skip])
        editor.keep(node)
    return editor.finish()


class _Editor:
    """Rebuilds a graph's nodes in order, with Q/DQ pairs before their first user."""

    def __init__(self, proto: ModelProto, ranges: Ranges) -> None:
        self.weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._proto = proto
        self._ranges = ranges
        self._nodes: list[NodeProto] = []
        self._done: dict[str, str] = {}
        self._depth = _depths(proto)

    def keep(self, node: NodeProto) -> None:
        self._nodes.append(node)

    def skip_input(self, node: NodeProto) -> int:
        """Return which input took the shorter way."""
        first, second = (self._depth.get(name, 0) for name in node.input)
        return 0 if first < second else 1

    def quantized(self, name: str) -> str:
        """Return the name of a tensor's Q/DQ copy."""
        if name not in self._done:
            scale = _scale(np.float32(max(map(abs, self._ranges[name]))))
            self._done[name] = self._pair(name, scale, np.int8(0))
        return self._done[name]

    def quantized_weight(self, node: NodeProto) -> str:
        """Return the name of a weight's Q/DQ copy, one scale an output channel.

        The file keeps the weight in float32: TensorRT 8 takes no int8 constants, and stores int8 in the engine.
        """
        name = node.input[1]
        if name not in self._done:
            axis = onnx_files.output_axis(node)
            weight = numpy_helper.to_array(self.weights[name])
            others = tuple(index for index in range(weight.ndim) if index != axis)
            peak = np.abs(weight).max(axis=others, keepdims=True)
            scale = _scale(peak).ravel()
            self._done[name] = self._pair(name, scale, np.zeros(scale.size, np.int8), axis=axis)
        return self._done[name]

    def finish(self) -> ModelProto:
        del self._proto.graph.node[:]
        self._proto.graph.node.extend(self._nodes)
        return self._proto

    def _pair(self, name: str, scale: Any, zero_point: Any, **attributes: Any) -> str:
        constants = [self._add(f"{name}_scale", scale), self._add(f"{name}_zero_point", zero_point)]
        quantized, output = f"{name}_q", f"{name}_dq"
        for operator, source, target in (
            ("QuantizeLinear", name, quantized),
            ("DequantizeLinear", quantized, output),
        ):
            node = helper.make_node(operator, [source, *constants], [target], name=target, **attributes)
            self._nodes.append(node)
        return output

    def _add(self, name: str, value: Any) -> str:
        self._proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _depths(proto: ModelProto) -> dict[str, int]:
    """Return how many nodes lie on the longest way to each tensor."""
    depths: dict[str, int] = {}
    for node in proto.graph.node:
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths.update(dict.fromkeys(node.output, depth))
    return depths


def _scale(peak: Any) -> NDArray[np.float32]:
    """Return int8's step for a largest magnitude; 1 where all is zero."""
    return np.asarray(np.where(peak > 0, peak / 127, 1), np.float32)
