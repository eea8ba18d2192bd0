"""Bias correction: rounded weights shift the mean of a layer's outputs, and its bias can take that back.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), their empirical
variant with the inputs of the FP32 model.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from trimlab.quantize import calibration, onnx_files
from trimlab.quantize.calibration import Floats

Shifts = dict[str, NDArray[np.float32]]
"""What each output channel's mean lacks, (channels,), by layer."""


def shifts(model: ModelProto, quantized: ModelProto, images: Floats) -> Shifts:
    """Return what rounding takes from the means of the layers' outputs.

    Args:
        model: the FP32 model; it is not changed.
        quantized: the same with Q/DQ pairs, whose layers have the same names.
        images: (N, C, H, W) float32, normalised.
    """
    proto = onnx_files.copy(model)
    lost = _lost_weights(proto, quantized)
    probes = [_probe(node, f"{node.name}_lost") for node in proto.graph.node if node.name in lost]
    proto.graph.initializer.extend(numpy_helper.from_array(value, f"{name}_lost") for name, value in lost.items())
    proto.graph.node.extend(probes)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for node in probes for name in node.output)
    session = onnx_files.open_session(proto.SerializeToString())
    (name,) = (each.name for each in session.get_inputs())
    sums: dict[str, NDArray[Any]] = {}
    for batch in calibration.batches(images):
        values = session.run([node.output[0] for node in probes], {name: batch})
        for layer, value in zip(lost, values, strict=True):
            others = tuple(axis for axis in range(value.ndim) if axis != 1)
            share = value.mean(axis=others, dtype=np.float64) * len(batch) / len(images)
            sums[layer] = sums.get(layer, 0) + share
    return {layer: shift.astype(np.float32) for layer, shift in sums.items()}


def add(proto: ModelProto, shifts: Mapping[str, NDArray[np.float32]]) -> None:
    """Add to the biases of layers; one without a bias gets one."""
    constants, replaced = {tensor.name: tensor for tensor in proto.graph.initializer}, set[str]()
    for node in proto.graph.node:
        if node.name in shifts:
            before = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.float32(0)
            name = f"{node.name}_corrected_bias"
            proto.graph.initializer.append(numpy_helper.from_array(before + shifts[node.name], name))
            replaced.update(node.input[2:])
            node.input[2:] = [name]
    for name in replaced - {name for node in proto.graph.node for name in node.input}:
        proto.graph.initializer.remove(constants[name])


def _lost_weights(proto: ModelProto, quantized: ModelProto) -> Shifts:
    """Return the weights less what the Q/DQ pairs make of them, by layer, in the order of nodes.

    A layer that `MatMul` computes has no bias of its own and is left out.
    """
    weights, scales = ({tensor.name: tensor for tensor in each.graph.initializer} for each in (proto, quantized))
    pairs = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    rounded = {node.name: pairs[node.input[1]] for node in quantized.graph.node if _is_rounded(node, pairs)}
    lost = {}
    for node in proto.graph.node:
        if node.name in rounded:
            weight = numpy_helper.to_array(weights[node.input[1]])
            scale = numpy_helper.to_array(scales[rounded[node.name].input[1]])
            axis = onnx_files.output_axis(node)
            step = scale.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
            lost[node.name] = weight - np.round(weight / step) * step
    return lost


def _is_rounded(node: NodeProto, pairs: Mapping[str, NodeProto]) -> bool:
    return node.op_type in ("Conv", "Gemm") and node.input[1] in pairs


def _probe(node: NodeProto, weight: str) -> NodeProto:
    """Return a layer that has other weights and no bias."""
    probe = helper.make_node(node.op_type, [node.input[0], weight], [f"{weight}_output"], name=f"{weight}_probe")
    probe.attribute.extend(node.attribute)
    return probe
