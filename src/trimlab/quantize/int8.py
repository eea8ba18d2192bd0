"""INT8: three files from one calibration, because runtimes and processors want different ones.

CPUs multiply uint8 by int8; those that would saturate get weights of 7 bits; TensorRT wants symmetric int8.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import onnx
from onnx import ModelProto

from trimlab import config
from trimlab.quantize import bias, calibration, onnx_files
from trimlab.quantize.calibration import Floats, Ranges
from trimlab.quantize.qdq_cpu import u8s8_model
from trimlab.quantize.qdq_tensorrt import symmetric_model


class Files(NamedTuple):
    """The INT8 files of an FP32 one."""

    u8s8: Path
    """For CPUs."""
    seven_bit: Path
    """For CPUs that saturate with 8-bit weights."""
    symmetric: Path
    """For TensorRT."""


_Model = Callable[[ModelProto, Ranges, Sequence[str]], ModelProto]
FLAVOURS: dict[str, _Model] = {
    "u8s8": u8s8_model,
    "seven_bit": partial(u8s8_model, weight_bits=7),
    "symmetric": symmetric_model,
}
"""What makes each of `Files`, by its name."""


class Calibration(NamedTuple):
    """What of an FP32 model is rounded, and to what."""

    ranges: Ranges
    """Of activations."""
    kept: list[str]
    """Names of the layers that stay float."""
    shifts: Mapping[str, bias.Shifts] = MappingProxyType({})
    """What is added to the biases of rounded layers, by flavour; it belongs to one model's weights."""


def calibrate(source: Path, images: Floats, section: config.Quantization) -> Calibration:
    """Return what is rounded of an FP32 file; biases are left as they are.

    Args:
        source: the ONNX file.
        images: (N, C, H, W) float32, normalised: what activation ranges are taken from.
        section: how ranges are chosen, and which layers stay in float.

    Raises:
        UserError: a pattern of layers to keep matches none.
    """
    kept = config.matching("quantization.keep", section.keep, onnx_files.layers(onnx.load(source)))
    return Calibration(calibration.activation_ranges(source, images, section), kept)


def with_bias_correction(model: ModelProto, calibrated: Calibration, images: Floats) -> Calibration:
    """Add to the calibration of an FP32 model what corrects its biases.

    Args:
        model: the model; it is not changed.
        calibrated: what is rounded of it.
        images: (N, C, H, W) float32, normalised.
    """
    shifts = {name: bias.shifts(model, rounded(model, calibrated, name), images) for name in FLAVOURS}
    return calibrated._replace(shifts=shifts)


def rounded(model: ModelProto, calibrated: Calibration, flavour: str, kept: Sequence[str] = ()) -> ModelProto:
    """Return an FP32 model in one of `FLAVOURS`; the layers `kept` stay float, too. The model is not changed."""
    proto, in_float = onnx_files.copy(model), {*calibrated.kept, *kept}
    shifts = calibrated.shifts.get(flavour, {})
    bias.add(proto, {name: shift for name, shift in shifts.items() if name not in in_float})
    return FLAVOURS[flavour](proto, calibrated.ranges, onnx_files.float_nodes(proto, in_float))


def write(model: ModelProto, calibrated: Calibration, files: Files) -> None:
    """Write the INT8 files of an FP32 model; it is not changed."""
    for flavour, path in files._asdict().items():
        onnx_files.save(rounded(model, calibrated, flavour), path)


def quantize(source: Path, images: Floats, section: config.Quantization, files: Files) -> None:
    """Write the INT8 files of an FP32 one, see `calibrate`."""
    model, calibrated = onnx.load(source), calibrate(source, images, section)
    if section.bias_correction:
        calibrated = with_bias_correction(model, calibrated, images)
    write(model, calibrated, files)
