"""What tests of exporting, quantizing and measuring share: small models, random images, graphs as text."""

import atexit
import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from trimlab import config
from trimlab.models import registry
from trimlab.quantize import export, onnx_files
from trimlab.quantize.int8 import Files, quantize

SHAPE = (3, 32, 32)

_FOLDER = tempfile.TemporaryDirectory(prefix="trimlab-tests-")
atexit.register(_FOLDER.cleanup)


def model(name: str, seed: int = 0) -> nn.Module:
    """Return a model whose BatchNorms are not the identity, so that folding them wrongly shows."""
    built = registry.build(name, num_classes=10, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return built.eval()


@functools.cache
def exported(name: str) -> Path:
    """Return a model's FP32 file, made once a test run."""
    path = Path(_FOLDER.name) / f"{name.replace('/', '-')}.onnx"
    export.export(model(name), SHAPE, path)
    return path


def brightness(folder: Path) -> Files:
    """Write INT8 files of a convolution whose weights, all equal, take all their bits, as a white image's pixels do.

    Two products of 8 bits exceed 16 bits then: what adds them there is off by half.
    """
    text = """<ir_version: 8, opset_import: ["" : 17]> agraph (float[N,16,8,8] x) => (float[N,16] logits)
        <float[16,16,3,3] weight, float[16] bias> {
            filtered = Conv<pads = [1, 1, 1, 1]>(x, weight, bias)
            positive = Relu(filtered)
            pooled = GlobalAveragePool(positive)
            logits = Flatten(pooled)
        }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 16, 3, 3), np.float32), "weight"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(16, np.float32), "bias"))
    source = folder / "brightness.onnx"
    onnx_files.save(proto, source)
    files = Files(*(folder / f"{kind}.onnx" for kind in Files._fields))
    quantize(source, white(16), config.Quantization(), files)
    return files


def white(count: int) -> np.ndarray:
    """Return images for `brightness`, (count, 16, 8, 8) float32: white, but for black corners."""
    pixels = np.ones((count, 16, 8, 8), np.float32)
    pixels[:, :, :2, :2] = 0
    return pixels


def no_limit_for_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have set one."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return random normalised images, (count, 3, 32, 32) float32."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


def operators(path: Path) -> list[str]:
    """Return a file's operators, in order."""
    return [node.op_type for node in onnx.load(path).graph.node]
