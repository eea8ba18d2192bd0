"""INT8: three files from one calibration, because runtimes and processors want different ones.

CPUs multiply uint8 by int8; those that would saturate get weights of 7 bits; TensorRT wants symmetric int8.
"""

from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import ModelProto

from trimlab import config
from trimlab.quantize import calibration, onnx_files
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


class Calibration(NamedTuple):
    """What of an FP32 model is rounded, and to what."""

    ranges: Ranges
    """Of activations."""
    kept: list[str]
    """Names of the layers that stay float."""


def calibrate(source: Path, images: Floats, section: config.Quantization) -> Calibration:
    """Return what is rounded of an FP32 file.

    Args:
        source: the ONNX file.
        images: (N, C, H, W) float32, normalised: what activation ranges are taken from.
        section: how ranges are chosen, and which layers stay in float.

    Raises:
        UserError: a pattern of layers to keep matches none.
    """
    kept = config.matching("quantization.keep", section.keep, onnx_files.layers(onnx.load(source)))
    return Calibration(calibration.activation_ranges(source, images, section), kept)


def write(model: ModelProto, calibrated: Calibration, files: Files) -> None:
    """Write the INT8 files of an FP32 model; it is not changed."""
    ranges, kept = calibrated
    onnx_files.save(u8s8_model(onnx_files.copy(model), ranges, kept), files.u8s8)
    onnx_files.save(u8s8_model(onnx_files.copy(model), ranges, kept, weight_bits=7), files.seven_bit)
    onnx_files.save(symmetric_model(onnx_files.copy(model), ranges, kept), files.symmetric)


def quantize(source: Path, images: Floats, section: config.Quantization, files: Files) -> None:
    """Write the INT8 files of an FP32 one, see `calibrate` and `write`."""
    write(onnx.load(source), calibrate(source, images, section), files)
