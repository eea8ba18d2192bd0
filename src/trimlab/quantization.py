"""Post-training INT8: three files from one calibration, because runtimes and processors want different ones.

CPUs multiply uint8 by int8 (U8S8: Q/DQ around operators, biases int32); those that would saturate get weights of 7
bits. TensorRT wants symmetric int8, float biases, and of each residual Add only the skip input quantized: with both it
cannot fuse convolution and Add.
"""

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from trimlab import calibration, onnx_files, params, paths, progress, records
from trimlab.calibration import Floats, Ranges

if TYPE_CHECKING:  # torch: not for a variant without precisions
    from trimlab import data

# fmt: off
_CPU_OPERATORS = [
    "Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "Concat",
    "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten",
]
# fmt: on
_WEIGHTED = ("Conv", "Gemm", "MatMul")


class Files(NamedTuple):
    """The INT8 files of an FP32 one."""

    u8s8: Path
    """For CPUs."""
    seven_bit: Path
    """For CPUs that saturate with 8-bit weights."""
    symmetric: Path
    """For TensorRT."""


def quantize(source: Path, images: Floats, section: params.Quantization, files: Files) -> None:
    """Write the INT8 files of an FP32 one.

    Args:
        source: FP32 ONNX file.
        images: (N, C, H, W) float32, normalised: what activation ranges are taken from.
        section: how ranges are chosen.
        files: where to.
    """
    ranges = calibration.activation_ranges(source, images, section)
    onnx_files.save(u8s8_model(onnx.load(source), ranges), files.u8s8)
    onnx_files.save(u8s8_model(onnx.load(source), ranges, weight_bits=7), files.seven_bit)
    onnx_files.save(symmetric_model(onnx.load(source), ranges), files.symmetric)


def u8s8_model(proto: ModelProto, ranges: Ranges, weight_bits: Literal[7, 8] = 8) -> ModelProto:
    """Return a copy with uint8 activations with zero point and int8 weights per channel, logits float32.

    Args:
        proto: FP32 model.
        ranges: of its activations.
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
        nodes_to_exclude=[],
        op_types_to_quantize=_CPU_OPERATORS,
        # Logits in 256 steps would tie.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    # ONNX Runtime's quantizer puts its own name into both.
    quantized.producer_name, quantized.producer_version = origin
    helper.set_model_props(quantized, about)
    return quantized


def symmetric_model(proto: ModelProto, ranges: Ranges) -> ModelProto:
    """Return `proto` with symmetric int8 inputs of weighted layers and of Adds' skips; biases stay float.

    So does the classifier: it is a thousandth of the work, and not every host has an INT8 matrix product of its shape
    (TensorRT 8 takes some from cuBLAS).
    """
    editor = _Editor(proto, ranges)
    logits = {output.name for output in proto.graph.output}
    for node in list(proto.graph.node):
        if node.op_type in _WEIGHTED and node.input[1] in editor.weights and not logits & set(node.output):
            node.input[0] = editor.quantized(node.input[0])
            node.input[1] = editor.quantized_weight(node)
        elif node.op_type == "Add" and not editor.weights.keys() & set(node.input):
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
            axis = _output_axis(node)
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


def _output_axis(node: NodeProto) -> int:
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _scale(peak: Any) -> NDArray[np.float32]:
    """Return int8's step for a largest magnitude; 1 where all is zero."""
    return np.asarray(np.where(peak > 0, peak / 127, 1), np.float32)


def quantize_variant(study: params.Params, variant: str) -> None:
    """Write a variant's ONNX files for each seed and precision, its baseline file and the manifest."""
    manifest: dict[str, Any] = {
        "variant": variant,
        "quantization": study.quantization.model_dump(),
        "calibration_sha256": None,
        "weights_sha256": {},
        "files_sha256": {},
    }
    if study.variants[variant].precisions:
        _write_files(study, variant, manifest)
    onnx_files.write_manifest(variant, manifest)


def _write_files(study: params.Params, variant: str, manifest: dict[str, Any]) -> None:
    from trimlab import data

    dataset = data.load_for(study.workload_of(variant))
    chosen = data.calibration(dataset, study.quantization.calibration_images)
    images = dataset.normalise(dataset.train_images[chosen]).numpy()
    paths.quantized(variant).mkdir(parents=True, exist_ok=True)
    np.save(onnx_files.calibration_file(variant), images)
    for seed in study.seeds:
        progress.say(f"quantize {variant}: seed {seed}")
        files = _write_seed(study, variant, seed, dataset, images)
        weights = paths.weights_file(paths.pruned(variant), seed)
        manifest["weights_sha256"][str(seed)] = records.sha256_of(weights)
        manifest["files_sha256"].update({file.name: records.sha256_of(file) for file in files})
    if "int8" in study.variants[variant].precisions:
        manifest["calibration_sha256"] = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()


def _write_seed(study: params.Params, variant: str, seed: int, dataset: "data.Dataset", images: Floats) -> list[Path]:
    precisions = study.variants[variant].precisions
    fp32, fp16 = (paths.onnx_file(variant, seed, precision) for precision in ("fp32", "fp16"))
    flavours = ("", onnx_files.SEVEN_BIT, onnx_files.SYMMETRIC)
    int8 = Files(*(paths.onnx_file(variant, seed, "int8", flavour) for flavour in flavours))
    yardstick = onnx_files.yardstick_file(variant, seed)
    unpruned = paths.weights_file(paths.trained(study.variants[variant].workload), seed)
    weights = paths.weights_file(paths.pruned(variant), seed)
    _export(weights, dataset, fp32)
    if records.sha256_of(unpruned) == records.sha256_of(weights):
        shutil.copyfile(fp32, yardstick)
    else:
        _export(unpruned, dataset, yardstick)
    if "fp16" in precisions:
        from trimlab import export

        export.to_fp16(fp32, fp16)
    if "int8" in precisions:
        quantize(fp32, images, study.quantization, int8)
    return [file for file in (yardstick, fp32, fp16, *int8) if file.exists()]


def _export(weights: Path, dataset: "data.Dataset", path: Path) -> None:
    from trimlab import checkpoint, export

    export.export(checkpoint.load(weights), dataset.image_shape, path, export.metadata(dataset))
