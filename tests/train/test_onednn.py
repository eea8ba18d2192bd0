"""Convolutions train rightly on whatever processor runs this, also where oneDNN's own strided 1×1 ones do not."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from trimlab.models import registry
from trimlab.train import onednn

GRADIENTS = """
import json, sys, warnings

import torch

from trimlab.train import onednn

warnings.simplefilter("ignore")
threads, stride = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)


def gradients(channels, low, mkldnn):
    torch.manual_seed(channels)
    convolution = torch.nn.Conv2d(channels, 2 * channels, 1, stride, bias=False)
    model = torch.nn.Sequential(convolution).to(memory_format=torch.channels_last)
    images = torch.randn(16, channels, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    with onednn.sliced(model), torch.backends.mkldnn.flags(enabled=mkldnn):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = model(images)
        logits.float().square().sum().backward()
    return torch.cat([convolution.weight.grad.ravel(), images.grad.ravel()])


for channels in range(1, 18):
    expected = gradients(channels, False, False)
    for low in (False, True):
        error = (gradients(channels, low, True) - expected).norm() / expected.norm()
        print(json.dumps([channels, low, float(error)]), flush=True)
"""
CAPS = {"native": {}, "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_gradients_are_those_without_onednn(stride, threads, cap):
    """A child process with a time limit: where the kernel is wrong it may crash, or never end."""
    done = subprocess.run(
        [sys.executable, "-c", GRADIENTS, str(threads), str(stride)],
        env={**os.environ, **CAPS[cap]}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2 * 17
    assert [case for case in found if not case[2] < (0.02 if case[1] else 1e-4)] == []


@pytest.mark.parametrize("name", ["resnet20", "torchvision/resnet18", "torchvision/regnet_x_400mf"])
def test_a_sliced_model_computes_the_same_and_keeps_its_weights_names(name):
    model = registry.build(name, 10).eval()
    images, before = torch.randn(2, 3, 64, 64), list(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        with onednn.sliced(model):
            strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
            assert all(convolution.stride == (1, 1) for convolution in strided)
            assert torch.allclose(model(images), expected, rtol=1e-4, atol=1e-5)
            assert list(model.state_dict()) == before
        assert any(convolution.stride == (2, 2) for convolution in strided)
        assert torch.equal(model(images), expected)


def test_strides_come_back_after_a_failure():
    model = nn.Sequential(nn.Conv2d(4, 4, 1, stride=(1, 3)))
    with pytest.raises(RuntimeError), onednn.sliced(model):
        raise RuntimeError
    assert model[0].stride == (1, 3)
    assert model(torch.zeros(1, 4, 6, 6)).shape == (1, 4, 6, 2)
