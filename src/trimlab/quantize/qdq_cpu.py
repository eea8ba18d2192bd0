"""INT8 for CPUs: uint8 activations with zero points, int8 weights per channel, biases int32."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from onnx import ModelProto, helper
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

from trimlab.quantize.calibration import Ranges

WeightBits = Literal[7, 8]

# fmt: off
_CPU_OPERATORS = [
    "Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Sigmoid", "Mul", "Concat",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Split", "Transpose",
]
# fmt: on


def u8s8_model(proto: ModelProto, ranges: Ranges, kept: Sequence[str] = (), weight_bits: WeightBits = 8) -> ModelProto:
    """Return a copy with uint8 activations with zero point and int8 weights per channel, logits float32.

    Products of two activations (attention) stay float, as LayerNorm, GELU, softmax and the like do, and so do sums that
    no convolution ends in: eight bits are too few for what a transformer adds up over all blocks. So do concatenations
    that a BatchNorm reads, which is float itself: a chain of them, as in DenseNet, crashes OpenVINO 2026.4
    (openvinotoolkit/openvino#9534 has repaired some). SiLU and the gates of squeeze-and-excitation are quantized: in
    float ONNX Runtime would compute the sigmoid of every value.

    Args:
        proto: FP32 model.
        ranges: of its activations.
        kept: names of nodes that stay float.
        weight_bits: 7 keeps weights in [-64, 64]: x86 without VNNI adds two products in 16 bits.
    """
    origin = proto.producer_name, proto.producer_version
    about = {entry.key: entry.value for entry in proto.metadata_props}
    low_high = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, low_high),
        nodes_to_quantize=[],
        nodes_to_exclude=[*kept, *_float_nodes(proto)],
        op_types_to_quantize=_CPU_OPERATORS,
        # Logits in 256 steps would tie; a MatMul's bias is added in float.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    # ONNX Runtime's quantizer puts its own name into both.
    quantized.producer_name, quantized.producer_version = origin
    helper.set_model_props(quantized, about)
    return quantized


def _float_nodes(proto: ModelProto) -> list[str]:
    """Return the names of what stays float though its operator is quantized.

    These are products of two activations, sums and sigmoids of no convolution, products with no such sigmoid, and
    concatenations that a BatchNorm reads.
    """
    nodes, weights = proto.graph.node, {tensor.name for tensor in proto.graph.initializer}
    convolved = {node.output[0] for node in nodes if node.op_type == "Conv"}
    gates = {node.output[0] for node in nodes if node.op_type == "Sigmoid" and node.input[0] in convolved}
    needed = {"Add": convolved, "Sigmoid": convolved, "Mul": gates}
    products = [node for node in nodes if node.op_type == "MatMul" and node.input[1] not in weights]
    others = [node for node in nodes if node.op_type in needed and not needed[node.op_type] & set(node.input)]
    normalised = {node.input[0] for node in nodes if node.op_type == "BatchNormalization"}
    joined = [node for node in nodes if node.op_type == "Concat" and node.output[0] in normalised]
    return [node.name for node in [*products, *others, *joined]]
