"""Post-training INT8: three files from one calibration, because runtimes and processors want different ones.

CPUs multiply uint8 by int8; those that would saturate get weights of 7 bits; TensorRT wants symmetric int8.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
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


class Calibrated(NamedTuple):
    """What the INT8 files of an FP32 one are made of."""

    source: Path
    """The FP32 file."""
    ranges: Ranges
    """Of its activations."""
    kept: list[str]
    """Layers that stay float in all of them."""
    shifts: dict[str, bias.Shifts]
    """What is added to the biases of quantized layers, by flavour."""

    def model(self, flavour: str, kept: Sequence[str] = ()) -> ModelProto:
        """Return one of `FLAVOURS`, in which the layers `kept` stay float, too."""
        proto, in_float = onnx.load(self.source), {*self.kept, *kept}
        bias.add(proto, {name: shift for name, shift in self.shifts[flavour].items() if name not in in_float})
        return FLAVOURS[flavour](proto, self.ranges, onnx_files.float_nodes(proto, in_float))


def calibrated(source: Path, images: Floats, section: config.Quantization) -> Calibrated:
    """Calibrate an FP32 file.

    Args:
        source: the ONNX file.
        images: (N, C, H, W) float32, normalised: what activation ranges are taken from.
        section: how ranges are chosen, which layers stay in float, whether biases are corrected.

    Raises:
        UserError: a pattern of layers to keep matches none.
    """
    kept = config.matching("quantization.keep", section.keep, onnx_files.layers(onnx.load(source)))
    found = Calibrated(
        source, calibration.activation_ranges(source, images, section), kept, {name: {} for name in FLAVOURS}
    )
    if not section.bias_correction:
        return found
    return found._replace(shifts={name: bias.shifts(source, found.model(name), images) for name in FLAVOURS})


def quantize(source: Path, images: Floats, section: config.Quantization, files: Files) -> None:
    """Write the INT8 files of an FP32 one; the arguments and errors are those of `calibrated`."""
    write(calibrated(source, images, section), files)


def write(of: Calibrated, files: Files) -> None:
    """Write the INT8 files of a calibrated one."""
    for flavour, path in files._asdict().items():
        onnx_files.save(of.model(flavour), path)
