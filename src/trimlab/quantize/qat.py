"""Quantization-aware training: an INT8 file's rounding, simulated in torch while the weights are learned.

What is learned are the weights of the FP32 file, BatchNorm folded. The graph that computes is the INT8 file's own: it
rounds where the file has Q/DQ, in the file's ranges, which stay as calibration found them. A weight's scale follows its
largest value, as in the file that is written of the learned weights in the end, in the same way as any other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from trimlab.quantize import onnx_files
from trimlab.quantize.calibration import Ranges
from trimlab.quantize.onnx_torch import FakeQuantize, Graph
from trimlab.quantize.qdq_cpu import WeightBits, u8s8_model

_LEARNED = {
    "Conv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "BatchNormalization": (1, 2),
    "LayerNormalization": (1, 2),
}
"""Which inputs of a node are learned, where they are constants."""
_STORED = "_quantized"
"""What ONNX Runtime's quantizer adds to the name of a constant that it stores as integers."""
_HIGHEST = {8: 127, 7: 64}
"""Largest magnitude of an INT8 file's weights, by their bits."""


class Simulation(nn.Module):
    """An INT8 file of the CPU's flavour as torch trains it: parameters are the weights of its FP32 file."""

    def __init__(self, source: ModelProto, ranges: Ranges, kept: Sequence[str], weight_bits: WeightBits) -> None:
        """Read what the file rounds.

        Args:
            source: FP32 model; it is not changed.
            ranges: of its activations.
            kept: names of layers that stay float.
            weight_bits: of the file that is simulated.

        Raises:
            UserError: an operator is not known here.
        """
        super().__init__()
        self._source, self._highest = source, _HIGHEST[weight_bits]
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
        learned = _learned_by(source)
        self._names = [name for name in arrays if name in learned]
        self.learned = nn.ParameterList(torch.from_numpy(arrays[name].copy()) for name in self._names)
        quantized = u8s8_model(onnx_files.copy(source), ranges, onnx_files.float_nodes(source, kept), weight_bits)
        self._weights, self._biases = _rounded(quantized, self._names)
        rounded = {weight.output for weight in self._weights} | {bias.output for bias in self._biases}
        self._graph = Graph(quantized, rounded | {*self._names})

    def forward(self, images: Tensor) -> Tensor:
        """Return the file's logits (N, classes) of normalised images (N, C, H, W), both float32."""
        values: dict[str, Tensor] = dict(zip(self._names, self.learned, strict=True))
        scales = {each.name: self._scale(values[each.name], each.axis) for each in self._weights}
        bounds = (0, -self._highest, self._highest)
        for weight in self._weights:
            values[weight.output] = FakeQuantize.apply(values[weight.name], scales[weight.name], *bounds)
        for bias in self._biases:
            values[bias.output] = _round_bias(values[bias.name], bias.step * scales[bias.weight])
        logits: Tensor = self._graph(images, values)
        return logits

    def model(self) -> ModelProto:
        """Return the FP32 model with the learned weights."""
        values = dict(zip(self._names, self.learned, strict=True))
        model = onnx_files.copy(self._source)
        for tensor in model.graph.initializer:
            if tensor.name in values:
                array = values[tensor.name].detach().cpu().contiguous().numpy()
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return model

    def _scale(self, weight: Tensor, axis: int) -> Tensor:
        """Return the step of each output channel, of a shape that broadcasts."""
        others = [each for each in range(weight.ndim) if each != axis]
        scale = weight.detach().abs().amax(others, keepdim=True) / self._highest
        return torch.where(scale < torch.finfo(scale.dtype).tiny, 1.0, scale)


def _round_bias(bias: Tensor, step: Tensor) -> Tensor:
    """Return a bias in whole steps; they are of 32 bits, so that nothing is clipped."""
    step = step.flatten()
    return bias + ((bias / step).round() * step - bias).detach()


class _Weight(NamedTuple):
    name: str
    """In the FP32 file."""
    output: str
    """Its rounded values in the INT8 file."""
    axis: int
    """Of its output channels, each of which has a scale."""


class _Bias(NamedTuple):
    name: str
    output: str
    step: float
    """The scale of its layer's input: that of the bias is this one times the weight's."""
    weight: str
    """Of its layer, in the FP32 file."""


def _learned_by(source: ModelProto) -> set[str]:
    """Return the names of weights and biases; a bias that is added by a node of its own has one dimension."""
    found = {
        name
        for node in source.graph.node
        for index, name in enumerate(node.input)
        if index in _LEARNED.get(node.op_type, ())
    }
    flat = {tensor.name for tensor in source.graph.initializer if len(tensor.dims) == 1}
    return found | {name for node in source.graph.node if node.op_type == "Add" for name in node.input if name in flat}


def _rounded(quantized: ModelProto, names: list[str]) -> tuple[list[_Weight], list[_Bias]]:
    """Return what an INT8 file rounds of the learned weights."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    stored = {f"{name}{_STORED}": name for name in names}
    made_by = {node.output[0]: node for node in quantized.graph.node}
    pairs = {output: node for output, node in made_by.items() if node.input and node.input[0] in stored}
    weights = {
        output: _Weight(stored[node.input[0]], output, _axis(node))
        for output, node in pairs.items()
        if arrays[node.input[0]].dtype == "int8"
    }
    biases = []
    for node in quantized.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3:
            source, weight, bias = node.input
            if weight in weights and bias in pairs:
                step = arrays[made_by[source].input[1]].item()
                biases.append(_Bias(stored[pairs[bias].input[0]], bias, step, weights[weight].name))
    return list(weights.values()), biases


def _axis(node: NodeProto) -> int:
    (axis,) = (int(attribute.i) for attribute in node.attribute if attribute.name == "axis")
    return axis
