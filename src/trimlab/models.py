"""CIFAR ResNets and torchvision's models, by name.

ResNet-18 as in huyvnphan/PyTorch_CIFAR10 (3×3 stem, no stem pool: 11,173,962 parameters at 10 classes); ResNet-20 as
in chenyaofo/pytorch-cifar-models (projection shortcuts: 272,474). No width arguments: `checkpoint.rebuild` gives a
pruned model its shapes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimlab.errors import UserError
from trimlab.params import OWN_MODELS


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x), inplace=True)


class CifarResNet(nn.Module):
    """A ResNet for 32×32 images: 3×3 stem, one stage a width, the first without stride."""

    def __init__(self, widths: Sequence[int], blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for index, width in enumerate(widths):
            first = BasicBlock(inputs, width, stride=2 if index else 1)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1))))
            inputs = width
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W), normalised, to logits (N, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        logits: Tensor = self.fc(self.avgpool(self.layers(x)).flatten(1))
        return logits


_OWN = {"resnet18": ((64, 128, 256, 512), 2), "resnet20": ((16, 32, 64), 3)}
assert tuple(_OWN) == OWN_MODELS


def build(name: str, num_classes: int, seed: int = 0) -> nn.Module:
    """Return a freshly initialised model in training mode.

    Args:
        name: `resnet18`, `resnet20` or `torchvision/NAME`.
        num_classes: outputs of the classifier.
        seed: decides the initial weights.

    Raises:
        UserError: torchvision has no such classification model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in _OWN:
            widths, blocks = _OWN[name]
            model: nn.Module = CifarResNet(widths, blocks, num_classes)
            _initialise(model)
            return model
        return _torchvision(name.removeprefix("torchvision/"), num_classes)


def classifier(model: nn.Module) -> nn.Linear:
    """Return the layer whose outputs are the classes: the last linear one."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"model 'torchvision/{name}' is unknown: torchvision offers {', '.join(known)}")
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return model


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
