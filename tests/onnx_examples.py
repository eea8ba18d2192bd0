"""What tests of exporting, quantizing and measuring share: small models, random images, graphs as text."""

import atexit
import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from trimlab import export, models

SHAPE = (3, 32, 32)

_FOLDER = tempfile.TemporaryDirectory(prefix="trimlab-tests-")
atexit.register(_FOLDER.cleanup)


def model(name: str, seed: int = 0) -> nn.Module:
    """Return a model whose BatchNorms are not the identity, so that folding them wrongly shows."""
    built = models.build(name, num_classes=10, seed=seed)
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


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return random normalised images, (count, 3, 32, 32) float32."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


def operators(path: Path) -> list[str]:
    """Return a file's operators, in order."""
    return [node.op_type for node in onnx.load(path).graph.node]
