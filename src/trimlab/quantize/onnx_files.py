"""A variant's ONNX files: their names, checking and writing them, what they were made from. Without torch."""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from trimlab import paths
from trimlab.errors import UserError, one_line

IR_VERSION = 8
"""What TensorRT 8.5 and older runtimes on devices read."""

SYMMETRIC = "symmetric"
"""Flavour of the INT8 file for TensorRT."""
SEVEN_BIT = "7bit"
"""Flavour of the INT8 file for processors that would saturate with 8-bit weights, see `measure.weights`."""


def baseline_file(workload: str, seed: int) -> Path:
    """Return a workload's unpruned FP32 file, with which the files of all its variants are timed in turn."""
    return paths.exported(workload) / f"seed{seed}-baseline.onnx"


def calibration_file(workload: str) -> Path:
    """Return the `.npy` of the calibration images (N, C, H, W) float32, normalised, classes taking turns."""
    return paths.exported(workload) / "calibration.npy"


def read_calibration(workload: str) -> NDArray[np.float32]:
    """Return a workload's calibration images, mapped.

    Raises:
        UserError: the file is missing, or not as it was written.
    """
    path = calibration_file(workload)
    try:
        images: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        why = one_line(error)
        raise UserError(f"{path} holds no calibration images ({why}): run `dvc repro export@{workload}`") from None
    return images


def write_manifest(variant: str, manifest: Mapping[str, Any]) -> None:
    """Write what a variant's files were made from."""
    path = _manifest_file(variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def read_manifest(variant: str) -> dict[str, Any]:
    """Return what `write_manifest` wrote.

    Raises:
        UserError: it is missing, or not as it was written.
    """
    path = _manifest_file(variant)
    try:
        manifest = json.loads(path.read_text())
        manifest["calibration_sha256"], manifest["files_sha256"]  # what others ask of it
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not a manifest ({reason}): run `dvc repro quantize@{variant}`") from None
    found: dict[str, Any] = manifest
    return found


def _manifest_file(variant: str) -> Path:
    return paths.quantized(variant) / "manifest.json"


def save(proto: ModelProto, path: Path) -> None:
    """Check a model and write it at `IR_VERSION`; the file appears whole or not at all."""
    proto.ir_version = IR_VERSION
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    onnx.save(proto, temporary)
    temporary.replace(path)


def copy(proto: ModelProto) -> ModelProto:
    """Return a copy of a model."""
    twin = ModelProto()
    twin.CopyFrom(proto)
    return twin


def layers(proto: ModelProto) -> list[str]:
    """Return the names of the nodes that have weights: those of the model's convolutions and linear layers."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [node.name for node in proto.graph.node if has_weights(node, weights)]


def has_weights(node: NodeProto, constants: Container[str]) -> bool:
    """Return whether a node is a convolution or a linear layer, not a product of two activations."""
    return node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in constants


def weight_bytes(path: Path) -> int:
    """Return the bytes of a file's initializers and constants, which are its weights.

    Raises:
        UserError: the file is missing or truncated.
    """
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf raises whatever the bytes provoke
        raise UserError(
            f"{path} is not a complete ONNX file ({error}): run `dvc repro`, which makes it again"
        ) from None
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in [*graph.initializer, *constants])


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Open a file, or a model's bytes, in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings about graph optimizations are not the user's to fix
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
