"""ONNX files that are timed: of a single layer, and of a whole model, with random weights."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from trimlab import config
from trimlab.latency.layers import Layer
from trimlab.measure import device, weights
from trimlab.quantize import int8, onnx_files
from trimlab.quantize.onnx_graph import INPUT, OPSET, OUTPUT

CHANNELS = 3
"""Of the images of a layer's file."""
CALIBRATION = 4
"""Random images from which INT8's ranges come: the values decide no time."""


class _Graph:
    """A chain of nodes that grows, with random weights."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._random = np.random.default_rng(0)
        self._last = INPUT

    def add(self, kind: str, name: str, others: Sequence[str] = (), **attributes: Any) -> None:
        """Add a node that reads what the last one made."""
        node = helper.make_node(kind, [self._last, *others], [f"{name}_output"], name=name, **attributes)
        self.nodes.append(node)
        self._last = node.output[0]

    def weight(self, name: str, *shape: int) -> str:
        """Add a tensor of random values."""
        values = self._random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        return self.constant(name, values.astype(np.float32))

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a tensor."""
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def model(self, height: int, width: int, dimensions: int) -> ModelProto:
        """Return the model that the chain is."""
        self.nodes[-1].output[0] = OUTPUT
        inputs = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", CHANNELS, height, width])
        outputs = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *[None] * (dimensions - 1)])
        graph = helper.make_graph(self.nodes, "layer", [inputs], [outputs], self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def graph_of(layer: Layer) -> ModelProto:
    """Return a network that ends in one layer and ReLU.

    Before them a narrow convolution makes the layer's input, so that it comes in the layout and precision that the
    runtime chooses between layers.
    """
    graph, given = _Graph(), layer.in_channels
    first = [graph.weight("first.weight", given, CHANNELS, 1, 1), graph.weight("first.bias", given)]
    graph.add("Conv", "first", first, kernel_shape=[1, 1])
    graph.add("Relu", "first_relu")
    bias = graph.weight("layer.bias", layer.out_channels)
    if layer.kernel:
        weight = graph.weight("layer.weight", layer.out_channels, given // layer.groups, *layer.kernel)
        attributes = {"kernel_shape": layer.kernel, "strides": layer.stride, "dilations": layer.dilation}
        graph.add("Conv", "layer", [weight, bias], **attributes, pads=[*layer.padding] * 2, group=layer.groups)
        graph.add("Relu", "layer_relu")
        height, width = layer.size
        return graph.model(height, width, dimensions=4)
    (vectors,) = layer.size
    if vectors == 1:
        graph.add("Flatten", "vectors", axis=1)
        graph.add("Gemm", "layer", [graph.weight("layer.weight", layer.out_channels, given), bias], transB=1)
    else:
        graph.add("Reshape", "rows", [graph.constant("shape", np.array([0, given, vectors]))])
        graph.add("Transpose", "vectors", perm=[0, 2, 1])
        graph.add("MatMul", "layer", [graph.weight("layer.weight", given, layer.out_channels)])
        graph.add("Add", "sum", [bias])
    graph.add("Relu", "layer_relu")
    return graph.model(vectors, 1, dimensions=2 if vectors == 1 else 3)


def structure(proto: ModelProto) -> str:
    """Return the sha256 of a model without its floating-point values: equal for models that take equal times."""
    twin = onnx_files.copy(proto)
    for tensor in twin.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return hashlib.sha256(twin.SerializeToString(deterministic=True)).hexdigest()


def write(proto: ModelProto, precision: str, runtime: str, path: Path) -> None:
    """Write the file that this machine computes in a precision, from an FP32 model."""
    onnx_files.save(proto, path)
    if precision == "int8":
        shape = [size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim][1:]
        images = random_images(CALIBRATION, shape)
        model, calibrated = onnx.load(path), int8.calibrate(path, images, config.Quantization())
        onnx_files.save(int8.rounded(model, calibrated, _flavour(runtime)), path)


def random_images(count: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return normally distributed images (N, C, H, W)."""
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def _flavour(runtime: str) -> str:
    flags = device.onednn_flags() if runtime == "openvino" else device.processor_flags()
    return "u8s8" if weights.weight_bits(flags, device.is_arm()) == 8 else "seven_bit"
