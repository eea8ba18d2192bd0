"""The precisions in which files are made and computed: the one list of them.

It goes where `trimlab.measure` goes, so it imports nothing but the standard library.
"""

from typing import Literal, NamedTuple

Precision = Literal["fp32", "fp16", "int8", "int8-mixed", "int8-qat"]
"""What a variant is exported and measured in."""
Computed = Literal["fp32", "tf32", "bf16", "fp16", "int8", "int8-mixed", "int8-qat", "int8-entropy"]
"""What a file is computed in. `int8-mixed` is INT8 with the layers in float that lose most, `int8-qat` INT8 after
quantization-aware training, `int8-entropy` INT8 by
TensorRT's own calibrator, from the FP32 file."""


class Format(NamedTuple):
    """How files of one precision come about, and how they are shown."""

    name: Computed
    label: str
    """In tables and figures."""
    colour: str
    """In every figure; of Okabe and Ito's, which colour-blind readers tell apart, but for their yellow: on white it is
    too faint, and a dark one stands in its place."""
    asked_as: Precision
    """The precision of a variant under which it is measured."""
    file: Precision
    """The precision of the file that is computed."""
    runtimes: tuple[str, ...]
    """Those that compute in it."""
    calibrated: bool = False
    """Whether ranges of activations are taken from calibration images."""
    trained: bool = False
    """Whether weights are trained further for it, see `quantization.qat`."""

    @property
    def quantized(self) -> bool:
        """Whether its files hold integers and Q/DQ: there is one a flavour, see `onnx_files`."""
        return self.calibrated and self.name == self.file


EVERYWHERE = ("onnxruntime", "openvino", "tensorrt")

FORMATS = (
    Format("fp32", "FP32", "#0072B2", "fp32", "fp32", EVERYWHERE),
    Format("tf32", "TF32", "#56B4E9", "fp32", "fp32", ("tensorrt",)),
    Format("bf16", "BF16", "#CC79A7", "fp32", "fp32", ("openvino",)),
    Format("fp16", "FP16", "#E69F00", "fp16", "fp16", EVERYWHERE),
    Format("int8", "INT8", "#009E73", "int8", "int8", EVERYWHERE, calibrated=True),
    Format("int8-mixed", "INT8, mixed", "#8A6A00", "int8-mixed", "int8-mixed", EVERYWHERE, calibrated=True),
    Format("int8-qat", "INT8, QAT", "#000000", "int8-qat", "int8-qat", EVERYWHERE, calibrated=True, trained=True),
    Format("int8-entropy", "INT8, entropy", "#D55E00", "int8", "fp32", ("tensorrt",), calibrated=True),
)
"""All of them, in the order of rows."""

COMPUTED = tuple(known.name for known in FORMATS)
BY_NAME: dict[str, Format] = {known.name: known for known in FORMATS}
QUANTIZED = tuple(known.name for known in FORMATS if known.quantized)
"""Those whose files hold integers."""
TRAINED = tuple(known.name for known in FORMATS if known.trained)
"""Those for which weights are trained further."""
MADE = tuple(known.name for known in FORMATS if known.name == known.file)
"""Those in which files are made."""
REDUCED = tuple(name for name in MADE if name != "fp32")
"""Those that may cost accuracy."""


def of_runtime(runtime: str) -> tuple[Format, ...]:
    """Return what a runtime computes in."""
    return tuple(known for known in FORMATS if runtime in known.runtimes)


def derived(precision: str) -> bool:
    """Say whether a runtime makes this precision itself, out of another one's file: not every device has it."""
    return precision not in MADE
