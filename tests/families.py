"""Small models of torchvision's and timm's families: their blocks, few and narrow."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import convnext, densenet, efficientnet, mobilenetv3, shufflenetv2, vision_transformer
from torchvision.models.googlenet import BasicConv2d, Inception

SHAPE = (3, 32, 32)


def mobilenet() -> nn.Module:
    """Squeeze-excitation, hard swish, depthwise convolutions."""
    blocks = [(16, 3, 16, 16, True, "RE", 2, 1, 1), (16, 5, 48, 24, True, "HS", 2, 1, 1)]
    settings = [mobilenetv3.InvertedResidualConfig(*block) for block in blocks]
    return mobilenetv3.MobileNetV3(settings, last_channel=64, num_classes=10)


def efficient() -> nn.Module:
    """SiLU, squeeze-excitation by sigmoid, stochastic depth."""
    settings = [efficientnet.MBConvConfig(1, 3, 1, 32, 16, 1), efficientnet.MBConvConfig(6, 5, 2, 16, 24, 2)]
    return efficientnet.EfficientNet(settings, dropout=0.2, num_classes=10, last_channel=96)


def conv_next() -> nn.Module:
    """LayerNorm over channels, GELU, layer scale as a bare parameter."""
    settings = [convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 1)]
    return convnext.ConvNeXt(settings, layer_scale=1.0, num_classes=10)


def transformer() -> nn.Module:
    """nn.MultiheadAttention, class token and position embedding as bare parameters."""
    model = vision_transformer.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # untrained, its logits are 0
    return model


def dense() -> nn.Module:
    """Concatenations of all that came before."""
    return densenet.DenseNet(8, (3, 2), 16, num_classes=10)


def inception() -> nn.Module:
    """Concatenations of four branches."""
    blocks = [Inception(16, 8, 8, 16, 4, 8, 8), Inception(40, 8, 8, 16, 4, 8, 8)]
    stem = BasicConv2d(3, 16, kernel_size=3, stride=2)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10))


def shuffle() -> nn.Module:
    """Channels split in two, and shuffled."""
    return shufflenetv2.ShuffleNetV2([2, 2, 2], [24, 32, 64, 128, 128], num_classes=10)


def grouped() -> nn.Module:
    """Grouped convolutions."""
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=4, width_per_group=8)


def universal() -> nn.Module:
    """timm's BatchNormAct2d, universal inverted bottlenecks."""
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model("mobilenetv4_conv_small_035", num_classes=10)
    return model


def conv_next_v2() -> nn.Module:
    """timm's LayerNorm2d and global response normalisation."""
    timm = pytest.importorskip("timm")
    model: nn.Module = timm.create_model("convnextv2_atto", num_classes=10, depths=(1, 1, 1, 1), dims=(8, 16, 16, 32))
    return model


FAMILIES: list[Callable[[], nn.Module]] = [
    mobilenet, efficient, conv_next, transformer, dense, inception, shuffle, grouped, universal, conv_next_v2,
]  # fmt: skip


def built(family: Callable[[], nn.Module]) -> nn.Module:
    """Return a family's model in eval mode, whose normalisations are not the identity."""
    torch.manual_seed(0)
    model = family()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()
