"""ONNX files of a model: FP32 checked against torch, and FP16 made from it."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from onnxconverter_common import float16
from torch import nn

from trimlab import __version__
from trimlab.data.dataset import Dataset
from trimlab.errors import UserError
from trimlab.quantize import onnx_files
from trimlab.quantize.onnx_graph import INPUT, OUTPUT, graph_of

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
        UserError: torch's exporter does not take the model, or the file's logits are not torch's.
    """
    proto = graph_of(model, image_shape)
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
        UserError: they differ by more than `PARITY_TOLERANCE`.
    """
    images = torch.randn(3, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images).numpy()
    (logits,) = onnx_files.open_session(path).run([OUTPUT], {INPUT: images.numpy()})
    largest = np.abs(expected).max() or 1.0  # an untrained vision transformer's logits are 0
    difference = float(np.abs(logits - expected).max() / largest)
    if not difference <= PARITY_TOLERANCE:  # so that NaN fails
        raise UserError(
            f"{path}: logits differ from torch's by {difference:.1e} of the largest, more than {PARITY_TOLERANCE}: "
            "make the model's forward deterministic, or write it with operators that the exporter knows"
        )
