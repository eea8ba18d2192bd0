"""ONNX files of a model: FP32 checked against torch, and FP16 made from it.

Opset 17 and IR 8 are what TensorRT 8.5 and older runtimes on devices read.
"""

import contextlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper, version_converter
from onnxconverter_common import float16
from torch import nn

from trimlab import __version__
from trimlab.data.dataset import Dataset
from trimlab.quantize import onnx_files
from trimlab.quantize.onnx_files import INPUT, OUTPUT

PARITY_TOLERANCE = 1e-3
"""Largest difference from torch's logits, as a share of the largest; another order of sums costs 1e-6."""


def metadata(dataset: Dataset) -> dict[str, str]:
    """Return what has to be known to run a file: `mean`, `std` and `classes` as JSON, `input` and `output` in words."""
    channels, height, width = dataset.image_shape
    return {
        "mean": json.dumps([round(value, 6) for value in dataset.mean.tolist()]),
        "std": json.dumps([round(value, 6) for value in dataset.std.tolist()]),
        "classes": json.dumps(dataset.classes),
        "input": f"{INPUT}: float32 (N, {channels}, {height}, {width}), RGB, (value / 255 - mean) / std",
        "output": f"{OUTPUT}: float32 (N, {dataset.num_classes}), one a class",
    }


def export(
    model: nn.Module, image_shape: tuple[int, int, int], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write an FP32 ONNX file: any batch size, BatchNorm folded, the same bytes wherever it is made.

    Args:
        model: maps (N, C, H, W) float32, normalised, to logits (N, classes); on the CPU, in eval mode.
        image_shape: (C, H, W).
        path: where to; its folder is made.
        metadata: stored in the file, and in those made from it.

    Raises:
        RuntimeError: the file's logits are not torch's.
    """
    proto = _traced(model, image_shape)
    for node in list(proto.graph.node):
        if _is_spatial_mean(proto, node):
            _use_global_pool(proto, node)
    proto = version_converter.convert_version(proto, onnx_files.OPSET)
    _forget_origin(proto)
    proto.producer_name, proto.producer_version = "trimlab", __version__
    helper.set_model_props(proto, dict(metadata or {}))
    onnx_files.save(proto, path)
    check_parity(model, image_shape, path)


def to_fp16(source: Path, path: Path) -> None:
    """Write a copy of an FP32 file with float16 weights and activations; input and logits stay float32."""
    with warnings.catch_warnings():
        # Weights below float16's smallest number are as good as 0, and the user cannot change them.
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated to")
        proto = float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx_files.save(proto, path)


def check_parity(model: nn.Module, image_shape: tuple[int, int, int], path: Path) -> None:
    """Compare a file's logits with torch's on three random images.

    Raises:
        RuntimeError: they differ by more than `PARITY_TOLERANCE`.
    """
    images = torch.randn(3, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images).numpy()
    (logits,) = onnx_files.open_session(path).run([OUTPUT], {INPUT: images.numpy()})
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    if not difference <= PARITY_TOLERANCE:  # so that NaN fails
        raise RuntimeError(f"{path}: logits differ from torch's by {difference:.1e}, more than {PARITY_TOLERANCE}")


def _traced(model: nn.Module, image_shape: tuple[int, int, int]) -> ModelProto:
    example = torch.zeros(2, *image_shape)  # torch.export takes a batch of 1 for a constant
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _is_spatial_mean(proto: ModelProto, node: NodeProto) -> bool:
    if node.op_type != "ReduceMean" or len(node.input) < 2:
        return False
    axes = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.name == node.input[1]]
    return bool(axes) and sorted(int(axis) % 4 for axis in axes[0].ravel()) == [2, 3]


def _use_global_pool(proto: ModelProto, node: NodeProto) -> None:
    """Replace a mean over height and width: ReduceMean's axes don't convert down to opset 17."""
    source, target = node.input[0], node.output[0]
    keeps = {attribute.name: attribute.i for attribute in node.attribute}.get("keepdims", 1)
    pooled = target if keeps else f"{target}_pooled"
    nodes = [helper.make_node("GlobalAveragePool", [source], [pooled], name=f"{node.name}_pool")]
    if not keeps:
        nodes.append(helper.make_node("Flatten", [pooled], [target], name=f"{node.name}_flatten", axis=1))
    position = list(proto.graph.node).index(node)
    proto.graph.node.remove(node)
    for offset, new in enumerate(nodes):
        proto.graph.node.insert(position + offset, new)


def _forget_origin(proto: ModelProto) -> None:
    """Drop unused tensors and what names source files."""
    graph = proto.graph
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    for part in [
        proto,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
