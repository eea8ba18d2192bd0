"""ResNets for 32×32 images.

ResNet-18 as in huyvnphan/PyTorch_CIFAR10 (3×3 stem, no stem pool: 11,173,962 parameters at 10 classes); ResNet-20 as
in chenyaofo/pytorch-cifar-models (projection shortcuts: 272,474). No width arguments: `checkpoint.rebuild` gives a
pruned model its shapes.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


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


def cifar_resnet(widths: Sequence[int], blocks: int, num_classes: int) -> CifarResNet:
    """Return a ResNet whose convolutions are drawn as in He et al. 2015."""
    model = CifarResNet(widths, blocks, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
