"""Augmentation of training images, a whole batch at a time."""

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from trimlab.config import Recipe


def augment(images: Tensor, recipe: Recipe, scale: Fraction, generator: torch.Generator) -> Tensor:
    """Change a batch at random, as a recipe says.

    Args:
        images: (N, C, H, W) uint8.
        recipe: what is changed.
        scale: the images' size as a share of the dataset's; lengths in pixels shrink with it.
        generator: on the CPU, so that every device draws the same numbers.
    """
    return shift(images, math.ceil(recipe.crop_padding * scale), recipe.flip, generator)


def shift(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Translate and mirror a batch; every image has its own random draw.

    Args:
        images: (N, C, H, W) of any type.
        padding: largest translation in pixels; the border is filled with zeros.
        flip: mirror half of the images.
        generator: on the CPU, so that every device draws the same numbers.
    """
    count, _, height, width = images.shape
    device = images.device
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(device)
    rows = shifts[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).to(device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + shifts[1]
    # Rows of channels: one gather moves whole pixels, and the result is channels_last already.
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    index = torch.arange(count, device=device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resize(images: Tensor, size: int) -> Tensor:
    """Scale images (N, C, H, W) uint8 to size × size, bilinear with antialiasing."""
    small = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8)
