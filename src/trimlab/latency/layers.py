"""The convolutions and linear layers that a model calls."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Layer(NamedTuple):
    """What decides the time of a convolution or a linear layer, in one call of a model with one image."""

    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    """Empty for a linear layer."""
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    """Height and width of the input, or for a linear layer how many vectors it is applied to."""


def layers_of(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Return the layers in the order in which they are called for one image; one that is called twice is there twice.

    Args:
        model: on the CPU.
        image_shape: channels, height, width.
    """
    found: list[Layer] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        found.append(_layer(module, inputs[0].shape))

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _layer(module: nn.Module, shape: torch.Size) -> Layer:
    if isinstance(module, nn.Linear):
        return Layer(module.in_features, module.out_features, 1, (), (), (), (), (shape[:-1].numel(),))
    assert isinstance(module, nn.Conv2d)
    padding = module.padding
    if isinstance(padding, str):
        reach = zip(module.dilation, module.kernel_size, strict=True)
        padding = tuple(step * (size - 1) // 2 if padding == "same" else 0 for step, size in reach)
    return Layer(
        module.in_channels, module.out_channels, module.groups, module.kernel_size, module.stride, padding,
        module.dilation, tuple(shape[-2:]),
    )  # fmt: skip
