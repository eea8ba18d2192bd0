"""Layers of a compiled file, as the runtimes tell them: name, kind, precision, channels, milliseconds.

`channels` is None where a layer has no weights. They are the output's as computed: a runtime may pad them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WARMUP = 5
"""Runs that are profiled and left out."""
RUNS = 20
"""Runs whose median counts."""

_SPELLINGS = (
    ("INT8", r"u?int8|[ui]8"),
    ("FP8", r"fp8|f8"),
    ("BF16", r"bfloat16|bf16"),
    ("FP16", r"float16|half|fp16|f16"),
    ("TF32", r"tf32"),
    ("FP32", r"float32|float|fp32|f32"),
    ("INT32", r"u?int32|i32"),
    ("INT64", r"u?int64|i64"),
)


_PROFILE = re.compile(r" \[profile \d+\]$")


def precision_of(text: str) -> str:
    """Return the precision that a runtime's own words name; those words where none is known."""
    for name, spelling in _SPELLINGS:
        if re.search(rf"(?<![a-z0-9])(?:{spelling})(?![a-z0-9])", text.lower()):
            return name
    return text


def layer(name: str, kind: str, precision: str, channels: int | None, ms: Sequence[float]) -> dict[str, Any]:
    """Return one layer with the median of its times, in milliseconds."""
    median = round(float(np.median(ms)), 6)
    return {"name": name, "kind": kind, "precision": precision, "channels": channels, "ms": median}


def from_onnxruntime(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the layers in ONNX Runtime's profile of `WARMUP` + `RUNS` runs, in the order they ran."""
    nodes: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault(event["args"]["node_index"], []).append(event)
    return [_onnxruntime_layer(runs) for runs in nodes.values()]


def _onnxruntime_layer(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = runs[0]
    name, kind = first["name"][: -len("_kernel_time")], first["args"]["op_name"]
    inputs = [(dtype, shape) for tensor in first["args"]["input_type_shape"] for dtype, shape in tensor.items()]
    outputs = [shape for tensor in first["args"]["output_type_shape"] for shape in tensor.values()]
    precision = precision_of(inputs[0][0]) if inputs else ""
    weighted = any(word in kind for word in ("Conv", "Gemm", "MatMul"))
    channels = _channels(outputs[0], [shape for _, shape in inputs]) if weighted else None
    return layer(name, kind, precision, channels, [run["dur"] / 1000 for run in runs[WARMUP:]])


def _channels(output: Sequence[int], inputs: Sequence[Sequence[int]]) -> int:
    """Return an output's channels: last where a per-channel vector says so, as in ONNX Runtime's NHWC kernels."""
    vectors = {shape[0] for shape in inputs if len(shape) == 1}
    return output[-1] if output[1] not in vectors and output[-1] in vectors else output[1]


def from_openvino(runs: Sequence[Sequence[Any]], model: Any) -> list[dict[str, Any]]:
    """Return the layers that ran in OpenVINO.

    Args:
        runs: `profiling_info` of every run.
        model: the compiled model's `get_runtime_model()`.
    """
    shapes = {op.get_friendly_name(): op.get_output_partial_shape(0) for op in model.get_ordered_ops() if op.outputs()}
    found = []
    for infos in zip(*(_executed(run) for run in runs), strict=False):
        first = infos[0]
        # Not by equality: a quantized linear layer is a FullyConnectedQuantizedLegacy.
        weighted = any(word in first.node_type for word in ("Convolution", "FullyConnected", "MatMul"))
        shape = shapes.get(first.node_name)
        channels = shape[1].get_length() if weighted and shape is not None else None
        precision = precision_of(first.exec_type.rsplit("_", 1)[-1])
        ms = [1000 * info.real_time.total_seconds() for info in infos]
        found.append(layer(first.node_name, first.node_type, precision, channels, ms))
    return found


def _executed(run: Sequence[Any]) -> list[Any]:
    return [info for info in run if str(info.status).endswith("EXECUTED")]


def from_tensorrt(information: Mapping[str, Any], times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return an engine's layers.

    Args:
        information: the engine inspector's JSON; layers are bare names unless the engine was built in detail.
        times: milliseconds of every run, by layer.
    """
    described = {known.get("Name", ""): known for known in information["Layers"] if isinstance(known, dict)}
    # The inspector and the profiler need not both say which profile a layer is of.
    plain = {_PROFILE.sub("", name): known for name, known in described.items()}
    return [
        _tensorrt_layer(name, described.get(name) or plain.get(_PROFILE.sub("", name), {}), ms)
        for name, ms in times.items()
    ]


def _tensorrt_layer(name: str, known: Mapping[str, Any], ms: Sequence[float]) -> dict[str, Any]:
    kind = str(known.get("LayerType", "unknown"))
    weights = known.get("Weights")
    stored = str(weights.get("Type", "")) if isinstance(weights, dict) else ""
    inputs = [str(tensor.get("Format/Datatype", "")) for tensor in known.get("Inputs", [])]
    precision = precision_of(stored or next(iter(inputs), ""))
    if precision == "FP32" and "tf32" in str(known.get("TacticName", "")).lower():
        precision = "TF32"
    shapes = [tensor.get("Dimensions", []) for tensor in known.get("Outputs", [])]
    channels = known.get("OutMaps") or (shapes[0][1] if stored and shapes and len(shapes[0]) > 1 else None)
    # Without the profile a layer has one name in both batches.
    return layer(_PROFILE.sub("", name), kind, precision, channels, ms)
